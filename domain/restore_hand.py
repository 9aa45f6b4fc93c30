"""What people did to a trade, told again to the one that was rebuilt from the ledger.

Commands go through the same fold and the same checks as in life, in their order. What the
ledger's orders and adjustments show already is not done twice: a part that was sold is sold.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from domain.base import Frozen
from domain.facts import CloseRequested, FlattenRequested, OperatorCommand, OperatorVerb
from domain.fold import apply
from domain.money import ONE
from domain.operator_fold import operate
from domain.trade_state import Role, TradeState

_STANDING = frozenset(
    {
        OperatorVerb.PAUSE,
        OperatorVerb.RESUME,
        OperatorVerb.HAND_BACK,
        OperatorVerb.TAKE_OVER,
        OperatorVerb.MOVE_TARGET,
        OperatorVerb.RELEASE,
    }
)
"""Commands whose effect no order shows: they stand until another one takes them back."""
RESTORE = "restore"


class ToldByHand(Frozen):
    """A command that the trade took, or may have taken; `done`: its answer said so.

    `answered`: the trade took it for certain, whether or not it was done by then.
    """

    command: OperatorCommand | CloseRequested | FlattenRequested
    done: bool = False
    answered: bool = False


class Hand(Frozen):
    """All that people told the trade, oldest first.

    `unsure` says in words what is not known of it; then the trade starts taken over: automation
    must not undo what a person may have done.
    """

    told: tuple[ToldByHand, ...] = ()
    unsure: str = ""

    @property
    def has_moved_stop(self) -> bool:
        """True if a person moved the stop, or may have."""
        commands = (each.command for each in self.told)
        return any(
            isinstance(command, OperatorCommand) and command.verb is OperatorVerb.MOVE_STOP
            for command in commands
        )


def tell_again(state: TradeState, hand: Hand, now: datetime) -> TradeState:
    """State with the hand of people on it, as it was before the trade was lost."""
    released = _last_release(hand.told)
    for number, each in enumerate(hand.told):
        if isinstance(each.command, FlattenRequested):
            # A release that was taken has ended what flattened before it.
            state = state if number < released else apply(state, each.command, now)
        elif _still_counts(state, each.command, each.done):
            # The version and the market that they saw then were checked then.
            seen = {"version": None}
            if isinstance(each.command, OperatorCommand):
                seen |= {"reference": None}
            state = operate(state, each.command.model_copy(update=seen), now)
    if hand.unsure and not state.taken_over:
        command = OperatorCommand(
            at=now,
            command_id=f"{RESTORE}-{state.plan.trade_id}"[:48],
            by=RESTORE,
            verb=OperatorVerb.TAKE_OVER,
            reason=hand.unsure,
        )
        state = operate(state, command, now)
    return state


def standing_words(hand: Hand, since: datetime | None = None) -> tuple[str, ...]:
    """Ids of the commands that a trade took for certain, whose effect no order shows.

    Those given after `since`; a rebuilt trade is told each again.
    """
    return tuple(
        each.command.command_id
        for each in hand.told
        if each.answered
        and isinstance(each.command, OperatorCommand)
        and each.command.verb in _STANDING
        and (since is None or each.command.at > since)
    )


def standing_flattens(hand: Hand, since: datetime | None = None) -> tuple[FlattenRequested, ...]:
    """Flattens after which no other command was taken: the trade shall get out, answered or not."""
    taken = [number for number, each in enumerate(hand.told) if each.answered]
    later = hand.told[taken[-1] + 1 if taken else 0 :]
    return tuple(
        each.command
        for each in later
        if isinstance(each.command, FlattenRequested) and (since is None or each.command.at > since)
    )


def _last_release(told: Sequence[ToldByHand]) -> int:
    """Where the last release stands that the trade took for certain; -1 without one."""
    taken = [
        number
        for number, each in enumerate(told)
        if each.answered
        and isinstance(each.command, OperatorCommand)
        and each.command.verb is OperatorVerb.RELEASE
    ]
    return taken[-1] if taken else -1


def _still_counts(state: TradeState, command: OperatorCommand | CloseRequested, done: bool) -> bool:
    if isinstance(command, CloseRequested):
        return command.fraction == ONE and not done
    if command.verb is OperatorVerb.MOVE_STOP:
        # Where a stop rests the order itself shows the price, and what the ratchet made of it.
        return not (done and state.live(Role.STOP))
    return command.verb in _STANDING
