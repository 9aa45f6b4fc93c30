"""What a trade knows, told so that it can be compared with the ledger (faults.md H3).

A trade of which the ledger knows more has been set back, or an answer never reached it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.changes import SEEN_COMMANDS_MAX
from domain.ids import Purpose, parse_client_order_id
from domain.order import OrderState
from domain.trade_state import TradeState

_Place = tuple[int, Purpose, int]


class TradeKnowledge(Frozen):
    """The query `known`: ids of own orders that went out as far as it knows, keys of executions.

    `unsent` are own orders that never went out, `busted` executions that were taken back,
    `commands` what people told it; None if it does not say, or not all of them. `ended_at` is the
    end that it was reopened after, `watched` the position epoch that it asked the exit watch for.
    `busy` while a step is on its way: its answer may explain what is lacking.
    """

    orders: tuple[str, ...] = ()
    unsent: tuple[str, ...] = ()
    fills: tuple[str, ...] = ()
    busted: tuple[str, ...] | None = None
    commands: tuple[str, ...] | None = None
    ended_at: AwareDatetime | None = None
    watched: int = 0
    busy: bool = False


class Lack(StrEnum):
    """What a trade does not know."""

    NOTHING = "nothing"
    ORDERS = "an order that it sent"
    WORDS = "what a person told it"
    FILLS = "a fill of it"
    END = "its end"


def knowledge_of(state: TradeState, *, busy: bool) -> TradeKnowledge:
    """What this state knows."""
    own = [record for record in state.orders if record.intent is not None]
    return TradeKnowledge(
        orders=tuple(o.client_id for o in own if o.state is not OrderState.NOT_SENT),
        unsent=tuple(o.client_id for o in own if o.state is OrderState.NOT_SENT),
        fills=tuple(fill.fill_key for fill in (*state.fills, *state.unclaimed)),
        busted=state.busted,
        commands=state.seen_commands if _remembers_all_words(state) else None,
        ended_at=state.closed_at,
        watched=state.watched_epoch,
        busy=busy,
    )


def _remembers_all_words(state: TradeState) -> bool:
    """Oldest ones go first; of a release nothing that was told before it stands (restore_hand)."""
    return len(state.seen_commands) < SEEN_COMMANDS_MAX and not state.releasing


def lack_of(
    known: TradeKnowledge,
    *,
    sent: Iterable[str],
    filled: Iterable[str],
    in_doubt: Iterable[str] = (),
    taken_back: Iterable[str] = (),
    told: Iterable[str] = (),
    ended_at: datetime | None = None,
) -> Lack:
    """The worst that the trade lacks of what the ledger has.

    Args:
        known: the trade's answer.
        sent: client ids of the trade's intents that may have gone out, by the ledger.
        in_doubt: those of them that nobody has proven: who died knew that they never went out, and
            the trade was told so (`ledger_down`); reconcile closes their rows (I10).
        filled: keys of the trade's booked executions, also of those that were taken back.
        taken_back: keys of the executions that the venue took back.
        told: ids of commands that stand and that it took for certain.
        ended_at: when its end was booked, if it is.
    """
    if ended_at is not None and (known.ended_at is None or known.ended_at < ended_at):
        return Lack.END
    if _lacks_orders(known, set(sent) - (set(in_doubt) & set(known.unsent))):
        return Lack.ORDERS
    if known.commands is not None and set(told) - set(known.commands):
        return Lack.WORDS
    gone = set(taken_back)
    is_held = known.busted is not None and gone & set(known.fills) - set(known.busted)
    return Lack.FILLS if is_held or set(filled) - gone - set(known.fills) else Lack.NOTHING


def _lacks_orders(known: TradeKnowledge, sent: Iterable[str]) -> bool:
    """Orders are compared by their places: a long trade forgets dead ones (domain/forgetting.py).

    Behind the last that it knows, sent or not, none may follow. One set back into a step knows
    another order in a place, or one behind its last as never sent.
    """
    out = _by_place(known.orders)
    every = out | _by_place(known.unsent)
    last_out, last = _last(out), _last(every)
    for (leg, purpose, sequence), client_id in _by_place(sent).items():
        mine = every.get((leg, purpose, sequence))
        if mine not in (None, client_id) or sequence > last.get((leg, purpose), 0):
            return True
        if mine is not None and sequence > last_out.get((leg, purpose), 0):
            return True
    return False


def _by_place(client_ids: Iterable[str]) -> dict[_Place, str]:
    """By leg, purpose and sequence; without those that a flatten sent past the workflow (K8)."""
    return {
        (parts.leg, parts.purpose, parts.sequence): client_id
        for client_id in client_ids
        if (parts := parse_client_order_id(client_id)) is not None and not parts.is_direct
    }


def _last(places: Iterable[_Place]) -> dict[tuple[int, Purpose], int]:
    last: dict[tuple[int, Purpose], int] = {}
    for leg, purpose, sequence in places:
        last[leg, purpose] = max(last.get((leg, purpose), 0), sequence)
    return last
