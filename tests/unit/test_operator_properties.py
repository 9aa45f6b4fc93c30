"""Any person at any moment: commands, part closes, faults, kills and restarts in random order."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from domain import trade_state as ts
from domain.commands import BookByHand, Command, PlaceOrder, ResolveOrder
from domain.control import KillMode
from domain.facts import (
    BookedByHand,
    BrokerSnapshot,
    CloseRequested,
    CommandFailed,
    Fact,
    FillReported,
    FlattenRequested,
    KillEngaged,
    OperatorCommand,
    OrderUnknown,
)
from domain.forgetting import carried
from domain.order import Fill, OrderState, Side
from domain.outcomes import Progress, progress_of
from domain.trade_state import Role, TradeState
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan
from tests.unit.test_trade_properties import PRICES, Checked, mischief_of
from tests.unit.toy_broker import ToyBroker, trade_state_summary

D = Decimal
BY_HAND = "by-hand"
QUIET_PRICES = [price for price in PRICES if D("97.25") <= price <= D("101.5")]
VERBS = (
    "pause",
    "resume",
    "take_over",
    "release",
    "cancel_entry",
    "move_stop",
    "move_target",
    "resolve_order",
    "close",
    "exit_signal",
    "kill",
    "flatten",
)


class Handled(Checked):
    """A trade in a person's hands: its ledger books, its worker dies, its commands repeat."""

    told: list[Fact]
    blindness = 0.0

    def _resolved(self, command: ResolveOrder) -> list[Fact]:
        """An order may stay unseen for long (C5): then a person may answer for it."""
        assert self.rng is not None
        if self.rng.random() >= self.blindness:
            return super()._resolved(command)
        client_id = command.intent.client_id
        return [OrderUnknown(at=self.now, client_id=client_id, reason="not seen")]

    def answer(self, command: Command) -> list[Fact]:
        if isinstance(command, PlaceOrder):
            hands_off = self.state.taken_over and not ts.wants_exit(self.state)
            assert not hands_off or self.was_asked_before(command), "a taken-over trade sends"
        if isinstance(command, BookByHand):
            return [
                BookedByHand(
                    at=self.now,
                    adjustment_ids=tuple(a.adjustment_id for a in command.adjustments),
                    client_ids=tuple(a.client_id for a in command.answers),
                )
            ]
        return super().answer(command)

    def was_asked_before(self, command: PlaceOrder) -> bool:
        record = self.state.order(command.intent.client_id)
        return record is not None and record.state is OrderState.PENDING_NEW

    def command(self, verb: str, rng: random.Random) -> None:
        fact = self.fact_of(verb, f"id-{len(self.told)}", rng)
        self.told.append(fact)
        self.tell(fact)

    def repeat(self, rng: random.Random) -> None:
        """The same command once more has no second effect (I17)."""
        if self.told:
            before = self.state
            self.tell(rng.choice(self.told))
            after = self.state.changed(alerts=before.alerts, naked=before.naked)
            assert after == before.changed(naked=before.naked), "I17"

    def sell_by_hand(self, rng: random.Random) -> None:
        """What a person does at the broker's own screen with a trade that they have in hand."""
        held = abs(self.broker.position)
        if not self.state.taken_over or self.state.giving_back or held == 0:
            return
        if [o for o in self.broker.orders if o.live] or self.waiting:
            return
        self.broker.fills.append(
            Fill(
                fill_key=f"{BY_HAND}{len(self.broker.fills)}",
                broker_order_id=BY_HAND,
                symbol=self.broker.symbol,
                side=self.state.plan.side.opposite,
                quantity=D(rng.randint(1, int(held))),
                price=D(100),
                venue_time=self.now,
            )
        )

    def _snapshot(self) -> BrokerSnapshot:
        """The ledger gives a trade its own executions only."""
        seen = super()._snapshot()
        own = tuple(f for f in seen.fills if f.broker_order_id != BY_HAND)
        return seen.model_copy(update={"fills": own})

    def restart(self, rng: random.Random) -> None:
        """The worker dies: answers of what was running are lost, and the state is read back."""
        for command in self.waiting:
            key = command.key
            if isinstance(command, PlaceOrder):
                if rng.random() < 0.5:
                    self.broker.place(command.intent)
                lost: Fact = OrderUnknown(
                    at=self.now, client_id=command.intent.client_id, reason="worker died"
                )
                self.tell(lost)
            elif hasattr(command, "intent"):
                self.tell(
                    OrderUnknown(
                        at=self.now, client_id=command.intent.client_id, reason="worker died"
                    )
                )
            elif not isinstance(command, BookByHand):
                self.tell(CommandFailed(at=self.now, step=key, code="DIED"))
        self.waiting = []
        # Far less is kept than in life: what is forgotten may never be missed.
        handed = carried(self.state, kept=rng.randint(0, 3))
        self.state = TradeState.model_validate_json(handed.model_dump_json())

    def fact_of(self, verb: str, name: str, rng: random.Random) -> Fact:
        base = {"at": self.now, "command_id": name, "by": "ann", "reason": "property"}
        match verb:
            case "flatten":
                return FlattenRequested.model_validate(base)
            case "kill":
                return KillEngaged.model_validate(base | {"mode": rng.choice(list(KillMode))})
            case "close" | "exit_signal":
                size: dict[str, object] = rng.choice(
                    [{"quantity": D(rng.randint(1, 10))}, {"fraction": D("0.5")}]
                )
                if verb == "exit_signal":
                    size = {"fraction": D(rng.choice(["0.5", "1"])), "exit_name": "exit_signal"}
                return CloseRequested.model_validate(base | size)
        values: dict[str, object] = {}
        if verb == "move_stop":
            values = {"price": D(rng.randint(95, 102)), "widen": rng.random() < 0.5}
        if verb == "move_target":
            values = {"price": D(rng.randint(99, 108)), "target": rng.randint(1, 3)}
        if verb == "take_over":
            values = {"release_orders": rng.random() < 0.5}
        if verb == "resolve_order":
            values = self.true_answer(rng)
        return OperatorCommand.model_validate(base | values | {"verb": verb})

    def true_answer(self, rng: random.Random) -> dict[str, object]:
        """What a careful person reads off the broker's screen about an unknown order."""
        unknown = [o for o in self.state.live() if o.state is OrderState.UNKNOWN]
        if not unknown:
            return {"client_id": "nobody", "resolution": "dead", "evidence": "x"}
        record = rng.choice(unknown)
        order = self.broker.by_client(record.client_id)
        values: dict[str, object] = {"client_id": record.client_id, "evidence": "screen"}
        if order is None or (not order.live and order.filled == 0):
            return values | {"resolution": "dead"}
        if order.live:
            return values  # it works: nothing to answer, and that is refused
        return values | {"resolution": "filled", "quantity": order.filled, "price": D(100)}


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    side=st.sampled_from(list(Side)),
    three=st.booleans(),
    rate=st.sampled_from([0.0, 0.1, 0.3]),
    size=st.sampled_from([1, 3, 100]),
)
def test_any_person_at_any_moment_keeps_the_invariants(
    seed: int, side: Side, three: bool, rate: float, size: int
) -> None:
    """I1, I3, I4, I11, I15, I17, A9: each command has an outcome, none breaks the trade."""
    rng = random.Random(seed)
    sign = side.sign
    targets = tuple(
        t.model_copy(update={"price": t.price.model_copy(update={"offset": sign * t.price.offset})})
        for t in THREE
        if t.price is not None and t.price.offset is not None
    )
    many = {"targets": targets, "ratchet": RATCHET} if three else {"targets": targets[:1]}
    plan = make_plan(side=side, time_stop_s=D(3000), **many)
    ask = D(100) + rng.choice([D(0), D("0.75")])
    broker = ToyBroker(symbol="AAPL", bid=D("99.75"), ask=ask, size=D(size))
    worst = D(101) if side is Side.BUY else D(99)
    trade = Handled(plan, broker, worst=worst, rng=rng, mischief=mischief_of(rng, rate))
    trade.told, trade.blindness = [], rng.choice([0.0, 0.9])
    for turn in range(70):
        if turn > 2 and rng.random() < 0.15:
            trade.command(rng.choices(VERBS, [2, 4, 2, 0.4, 1, 3, 3, 3, 4, 2, 0.1, 0.1])[0], rng)
        if rng.random() < 0.3 and [o for o in trade.state.live() if o.state == "unknown"]:
            trade.command("resolve_order", rng)
        if rng.random() < 0.05:
            trade.repeat(rng)
        if rng.random() < 0.04:
            trade.restart(rng)
        if rng.random() < 0.1:
            trade.sell_by_hand(rng)
        if rng.random() < 0.35:
            bid = rng.choice(PRICES if rng.random() < 0.1 else QUIET_PRICES)
            broker.move(bid, bid + D("0.25"))
            trade.check()
        if rng.random() < 0.5 and broker.undelivered:
            fill = broker.undelivered.pop(rng.randrange(len(broker.undelivered)))
            trade.tell(FillReported(at=trade.now, fill=fill))
        trade.look()
        trade.check()
        broker.now += timedelta(seconds=rng.choice([0, 0.2, 1, 4]))
    heal_and_check(trade, rng)


def heal_and_check(trade: Handled, rng: random.Random) -> None:
    """Faults stop: everything must be covered, answered and able to end."""
    broker, side = trade.broker, trade.state.plan.side
    trade.mischief, trade.blindness = lambda command: "", 0.0
    broker.size = D(10**6)
    trade.pass_time(40)
    trade.check()
    for fact in trade.told:
        if isinstance(fact, OperatorCommand | CloseRequested):
            progress, text = progress_of(trade.state, fact.command_id)
            word = f"{fact} {progress} {text}"
            assert progress in (Progress.DONE, Progress.REFUSED), word
    trade.command("resume", rng)
    trade.pass_time(40)
    trade.check()
    summary = trade_state_summary(trade.state)
    sold_by_hand = any(fill.broker_order_id == BY_HAND for fill in broker.fills)
    if sold_by_hand and not ts.is_final(trade.state):
        for verb in ("flatten", "release"):
            trade.command(verb, rng)
            trade.pass_time(60)
            trade.check()
    if not ts.is_final(trade.state):
        assert not trade.state.taken_over or trade.state.releasing, summary
        held = broker.position * side.sign
        stops = sum((o.rest for o in broker.orders if o.live and o.stop_price is not None), D(0))
        assert stops == held, f"I4: stops {stops} of {held}: {summary}"
        trade.command("flatten", rng)
        trade.pass_time(60)
        trade.check()
    assert ts.is_final(trade.state), trade_state_summary(trade.state)
    released = ts.is_released(trade.state)
    assert released or broker.position == 0
    assert not [o for o in broker.orders if o.live], "I3"
    assert not trade.state.booking
    assert not trade.state.live(Role.ENTRY)
