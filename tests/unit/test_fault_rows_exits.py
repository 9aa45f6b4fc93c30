"""Rows E and K of the fault matrix on the fold: protection, exits, and a flatten in the way."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import permutations

import pytest

from domain import trade_state as ts
from domain.commands import Alert, CancelOrder, Command, PlaceOrder, ReplaceOrder
from domain.control import KillMode
from domain.facts import (
    CancelAsked,
    Fact,
    FillReported,
    FlattenRequested,
    KillEngaged,
    OrderReported,
    OrderUnknown,
    TradingHalted,
    TradingResumed,
)
from domain.instrument import Instrument
from domain.order import BrokerOrderStatus, Side
from domain.plan import PlanLeg, PlanPrice, TargetPlan
from domain.trade_state import Role, Stage, TradeState
from tests.unit.paced import Paced, twin
from tests.unit.test_fault_rows_orders import bought, merged
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan, start
from tests.unit.toy_broker import ALPACA_LIKE, ToyBroker, ToyOrder, Trade, live_exit_quantity

D = Decimal
TWO = tuple(TargetPlan(price=PlanPrice(offset=D(n)), fraction=D("0.5")) for n in (2, 5))


def sold(broker: ToyBroker) -> Decimal:
    return sum((f.quantity for f in broker.fills if f.side is Side.SELL), D(0))


def flatten(trade: Trade) -> None:
    trade.tell(FlattenRequested(at=trade.now, command_id="f1", by="ann", reason="test"))


def alert_codes(trade: Trade) -> list[str]:
    return [c.code for c in trade.commands if isinstance(c, Alert)]


def stops(broker: ToyBroker) -> list[ToyOrder]:
    return [o for o in broker.orders if o.live and o.stop_price is not None]


def protected(**plan: object) -> tuple[Trade, ToyBroker]:
    """A trade that holds 10 behind its exits."""
    trade, broker = start(make_plan(**plan))  # type: ignore[arg-type]
    broker.move(D("99.90"), D("100.00"))
    trade.pass_time(5)
    assert live_exit_quantity(broker, Side.SELL) == 10
    return trade, broker


# --- E ------------------------------------------------------------------------------------------


@pytest.mark.covers("E3")
@pytest.mark.parametrize("allows_opposite", [False, True])
def test_five_hundred_fills_of_one_share_are_protected_in_time_without_a_storm(
    allows_opposite: bool,
) -> None:
    capabilities = ALPACA_LIKE.model_copy(
        update={"opposite_side_while_entry_works": allows_opposite}
    )
    trade, broker = start(make_plan(steps_max=0), quantity=D(500), capabilities=capabilities)
    broker.allows_opposite = allows_opposite
    trade.pass_time(1)
    entry = broker.orders[0]
    for number in range(500):
        if entry.live:
            broker._fill(entry, D(1))
        if number % 10 == 0:
            trade.pass_time(0.2)
        assert live_exit_quantity(broker, Side.SELL) <= broker.position, "I4"
    trade.pass_time(10)
    assert broker.position > 0
    assert live_exit_quantity(broker, Side.SELL) == broker.position
    assert trade.state.naked.longest_s <= 5, "I4"
    asked = [c for c in trade.commands if isinstance(c, PlaceOrder | CancelOrder | ReplaceOrder)]
    assert len(asked) <= 6, "I14"


@pytest.mark.covers("E4")
@pytest.mark.parametrize("part", [1, 5, 10])
def test_what_both_sides_of_a_pair_sell_too_much_is_bought_back_once(part: int) -> None:
    """Same-tick fills: one reversal, then flat; never a second one."""
    trade, broker = protected()
    stop = stops(broker)[0]
    broker.move(D("105.40"), D("105.60"))
    broker._fill(stop, D(part))
    trade.pass_time(20)
    back = [o for o in broker.orders if o.side is Side.BUY and o is not broker.orders[0]]
    assert len(back) == 1
    assert bought(broker) == sold(broker) == 10 + part
    assert broker.position == 0
    assert not [o for o in broker.orders if o.live]
    assert ts.stage(trade.state) is Stage.CLOSED
    assert "POSITION_FLIPPED" in alert_codes(trade)


@pytest.mark.covers("E5")
@pytest.mark.parametrize("delay_s", [0, 1, 4, 6, 30, 600])
def test_sibling_that_works_on_holds_the_close_until_it_is_proven_dead(delay_s: int) -> None:
    """freqtrade #12681: the venue takes the other side away late, or we do."""
    trade, broker = protected()
    target = next(o for o in broker.orders if o.live and o.group == o.broker_id)
    stop = stops(broker)[0]
    group, stop.group = stop.group, None
    broker.bid, broker.ask = D("105.40"), D("105.60")
    broker._fill(target, D(10))
    dies_at = trade.now + timedelta(seconds=delay_s)
    for _ in range(2 * delay_s + 40):
        if trade.now >= dies_at and stop.live:
            stop.status = BrokerOrderStatus.CANCELED
            trade.tell(told(trade, stop))
        trade.pass_time(0.5)
        assert not (stop.live and ts.is_final(trade.state)), "I3"
        if ts.is_final(trade.state):
            break
    assert group is not None
    assert ts.stage(trade.state) is Stage.CLOSED
    assert not [o for o in broker.orders if o.live]
    cancels = [c for c in trade.commands if isinstance(c, CancelOrder)]
    assert bool(cancels) == (delay_s > 5), "the venue gets its time, then we ask"


@pytest.mark.covers("E6")
@pytest.mark.parametrize("fault", ["", "lost", "not_sent", "reject"])
@pytest.mark.parametrize("crash_after", range(8))
def test_stop_that_is_moved_stands_at_every_step_and_never_moves_back(
    fault: str, crash_after: int
) -> None:
    """The ratchet is one replace; the worker forgets what runs after any number of answers."""
    faults = iter([fault] * 2)
    trade, broker = start(
        make_plan(targets=THREE, ratchet=RATCHET),
        mischief=lambda c: next(faults, "") if isinstance(c, ReplaceOrder) else "",
    )
    broker.move(D("99.90"), D("100.00"))
    trade.pass_time(5)
    highest = D(0)
    broker.move(D("102.40"), D("102.60"))
    for number in range(120):
        if number == crash_after:
            for command in trade.waiting:
                trade.tell(*_forgotten(trade, command))
            trade.waiting.clear()
        trade.deliver()
        if not trade.look():
            broker.now += timedelta(seconds=0.5)
        assert live_exit_quantity(broker, Side.SELL) == broker.position, "I4"
        if number % 20 == 0:
            prices = [o.stop_price for o in stops(broker) if o.stop_price is not None]
            assert min(prices) >= highest, "I8"
            highest = min(prices)
    assert {o.stop_price for o in stops(broker)} == {D("100.00")}


def _forgotten(trade: Trade, command: Command) -> list[Fact]:
    """What a worker that died during this command leaves behind: done, and nobody heard."""
    if isinstance(command, PlaceOrder | ReplaceOrder):
        trade.answer(command)
        return [OrderUnknown(at=trade.now, client_id=command.intent.client_id, reason="crash")]
    if isinstance(command, CancelOrder):
        trade.answer(command)
        return [CancelAsked(at=trade.now, client_id=command.client_id)]
    return []


class TwoStops(Trade):
    """A replace of a stop that leaves the old one alive beside the new one, its answer lost."""

    doubled = False

    def _replaced(self, command: Command, fault: str) -> list[Fact]:
        facts = super()._replaced(command, fault)  # type: ignore[arg-type]
        if isinstance(command, ReplaceOrder) and not self.doubled:
            self.doubled = True
            old = self.broker.by_id(command.old_broker_id)
            assert old is not None
            old.status = BrokerOrderStatus.WORKING
            old.group = None
            lost = command.intent.client_id
            return [OrderUnknown(at=self.now, client_id=lost, reason="timeout")]
        return facts


@pytest.mark.covers("E7", "E4")
@pytest.mark.parametrize("triggers_after_s", [0, 1, 3, 60])
def test_two_stops_after_a_lost_replace_never_leave_a_short_position(
    triggers_after_s: int,
) -> None:
    """One is taken back as soon as both are seen; if both fill before, the excess goes once."""
    ratchet = (RATCHET[0],)
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    trade = TwoStops(make_plan(targets=TWO, ratchet=ratchet), broker)
    trade.pass_time(5)
    broker.move(D("102.40"), D("102.60"))
    while not any(isinstance(c, ReplaceOrder) for c in trade.commands):
        trade.deliver()
        trade.look()
    assert sum(o.rest for o in stops(broker)) == 10, "two stops over five shares"
    trade.pass_time(triggers_after_s)
    if triggers_after_s >= 3:
        assert sum(o.rest for o in stops(broker)) == 5
        assert "REPLACE_DOUBLED" in alert_codes(trade)
    broker.move(D("95.00"), D("95.10"))
    trade.pass_time(40)
    assert broker.position == 0
    assert not [o for o in broker.orders if o.live]
    assert ts.stage(trade.state) is Stage.CLOSED
    assert bought(broker) - 10 <= 5, "the excess, once"


@pytest.mark.covers("E8")
@pytest.mark.parametrize("part", [4, 10])
@pytest.mark.parametrize("news_ms", [1, 45])
def test_stop_that_fills_at_any_millisecond_of_a_flatten_is_not_sold_again(
    part: int, news_ms: int
) -> None:
    """The flatten is told at 20 ms; cancel and exit need 20 ms there and 20 back each."""
    holding, _ = protected()
    for at_ms in range(1, 130, 1 if news_ms == 1 else 4):
        trade = twin(holding)
        broker = trade.broker
        paced = Paced(trade, news_ms=news_ms, watch=partial(_assert_not_flipped, broker))

        def trigger(broker: ToyBroker = broker) -> None:
            stop = next(iter(stops(broker)), None)
            if stop is not None and stop.live:
                broker._fill(stop, min(D(part), stop.rest))

        paced.run(130, merged({at_ms: trigger}, {20: partial(flatten, trade)}))
        trade.pass_time(30)
        assert broker.position == 0, at_ms
        assert sold(broker) == 10, at_ms
        assert ts.stage(trade.state) is Stage.CLOSED


def _assert_not_flipped(broker: ToyBroker) -> None:
    assert broker.position >= 0


@pytest.mark.covers("E9")
def test_tranches_of_every_quantity_and_number_sum_to_the_position() -> None:
    """1..1000 shares in 1..7 tranches, exhaustively: no share without an exit, none twice."""
    for tranches in range(1, 8):
        fraction = round(D(1) / D(tranches), 4)
        targets = tuple(
            TargetPlan(price=PlanPrice(offset=D(n + 1)), fraction=fraction) for n in range(tranches)
        )
        trade, broker = start(make_plan(targets=targets), quantity=D(1000))
        broker.move(D("99.80"), D("100.00"))
        trade.settle_down()
        (fill,) = [f for f in trade.state.fills if f.side is Side.BUY]
        for quantity in range(1, 1001):
            filled = fill.model_copy(update={"quantity": D(quantity)})
            state = trade.state.model_copy(update={"fills": (filled,)})
            sizes = ts.tranche_quantities(state)
            assert sum(sizes) == quantity, (quantity, tranches)
            assert all(size >= 0 and size == int(size) for size in sizes)
            assert len(sizes) == tranches


@pytest.mark.covers("E9")
@pytest.mark.parametrize("lot", ["0.001", "0.25"])
def test_tranches_of_fractions_of_a_share_sum_to_the_position(lot: str) -> None:
    plan = make_plan(targets=THREE)
    instrument = Instrument(symbol="AAPL", lot_size=D(lot))
    plan = plan.model_copy(update={"legs": (PlanLeg(instrument=instrument, side=Side.BUY),)})
    trade, broker = start(plan, quantity=D(10))
    broker.move(D("99.80"), D("100.00"))
    trade.settle_down()
    (fill,) = [f for f in trade.state.fills if f.side is Side.BUY]
    for number in range(1, 400):
        held = D(lot) * number
        filled = fill.model_copy(update={"quantity": held})
        sizes = ts.tranche_quantities(trade.state.model_copy(update={"fills": (filled,)}))
        assert sum(sizes) == held
        assert all(instrument.lot_down(size) == size for size in sizes[:-1])


FOUR = ("time_stop", "flat_by", "stop", "target")


@pytest.mark.covers("E10")
@pytest.mark.parametrize("order", list(permutations(FOUR)), ids="-".join)
def test_four_reasons_to_leave_in_one_instant_close_once(order: tuple[str, ...]) -> None:
    """Time stop, end of the day, stop and target, told in each of the 24 orders."""
    plan = make_plan(targets=TWO, time_stop_s=D(120))
    trade, broker = start(plan)
    broker.move(D("99.90"), D("100.00"))
    trade.pass_time(5)
    at = trade.state.first_fill_at
    assert at is not None
    ends = trade.state.clock.wall(at + timedelta(seconds=120))
    trade.pass_time((ends - trade.now).total_seconds() - 0.001)
    broker.now = ends
    for event in order:
        _strike(trade, broker, event, ends)
    trade.pass_time(30)
    assert broker.position == 0
    assert sold(broker) == bought(broker) == 10
    assert ts.stage(trade.state) is Stage.CLOSED
    assert not [o for o in broker.orders if o.live]


def _strike(trade: Trade, broker: ToyBroker, event: str, ends: object) -> None:
    """One of the four, as the trade comes to know it, and one look at what to do."""
    if event == "flat_by":
        plan = trade.state.plan.model_copy(update={"flat_by": trade.state.clock.market(trade.now)})
        trade.state = trade.state.model_copy(update={"plan": plan})
    if event == "stop":
        broker.move(D("95.00"), D("95.10"))
        trade.deliver()
    if event == "target":
        broker.move(D("105.40"), D("105.60"))
        trade.deliver()
    trade.look()


# --- K ------------------------------------------------------------------------------------------


class LosingCancels(Trade):
    """The first cancels are taken and forgotten; nothing is told of them."""

    lost = 0

    def _cancelled(self, command: CancelOrder, fault: str) -> list[Fact]:
        if self.lost > 0:
            self.lost -= 1
            return [CancelAsked(at=self.now, client_id=command.client_id)]
        return super()._cancelled(command, fault)


@pytest.mark.covers("K2", "D4")
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("how", ["before the cancel", "after it"])
def test_flatten_of_a_walking_entry_is_done_only_when_the_entry_is_dead(
    lost: int, how: str
) -> None:
    """Every millisecond of a fill around a flatten at 50 ms; also one told after the cancel."""
    market = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    entering = LosingCancels(make_plan(steps_max=0), market)
    entering.pass_time(1)
    entering.lost = lost
    for at_ms in range(0, 111, 1 if not lost else 7):
        trade = twin(entering)
        broker = trade.broker
        paced = Paced(trade, watch=partial(_assert_not_done_too_early, trade, broker))

        def fill(broker: ToyBroker = broker) -> None:
            entry = broker.orders[0]
            if entry.live or (how == "after it" and not entry.filled):
                broker._fill(entry, min(D(3), entry.rest))

        paced.run(111, merged({at_ms: fill}, {50: partial(flatten, trade)}))
        trade.pass_time(40)
        _assert_not_done_too_early(trade, broker)
        assert broker.position == 0, at_ms
        assert not [o for o in broker.orders if o.live], at_ms
        assert ts.is_final(trade.state), at_ms


def _assert_not_done_too_early(trade: Trade, broker: ToyBroker) -> None:
    """No end is told while an entry of ours can still fill at the broker."""
    alive = [o for o in broker.orders if o.live and o.side is Side.BUY]
    assert not (alive and ts.is_final(trade.state))


@pytest.mark.covers("K3", "G3")
@pytest.mark.parametrize("trouble", ["halt", "closed", "no quote"])
def test_flatten_that_cannot_trade_is_pending_and_the_stop_rests_all_the_while(
    trouble: str,
) -> None:
    class Troubled(Trade):
        trouble = ""

        def answer(self, command: Command) -> list[Fact]:
            facts = super().answer(command)
            if command.kind != "read_quote":
                return facts
            if self.trouble == "no quote":
                return facts[1:]
            change = TradingHalted if self.trouble == "halt" else TradingResumed
            return [*facts, change(at=self.now, symbol="AAPL")]

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    trade = Troubled(make_plan(), broker)
    trade.pass_time(5)
    trade.trouble = trouble
    broker.open_session = trouble != "closed"
    flatten(trade)
    for _ in range(120):
        trade.pass_time(5)
        assert live_exit_quantity(broker, Side.SELL) == 10
        assert ts.stage(trade.state) is Stage.EXITING, "never done"
    assert trade.state.exit.pending
    trade.trouble, broker.open_session = "", True
    trade.pass_time(20)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED


@pytest.mark.covers("K1")
@pytest.mark.parametrize("mode", [KillMode.CANCEL_ENTRIES, KillMode.FLATTEN])
def test_kill_at_every_step_of_every_fault_leaves_no_entry_and_no_bare_position(
    mode: KillMode,
) -> None:
    """Each look of a whole trade × each fault of its sends; entries die, exits go on (I3, I9)."""
    for number, fault in enumerate(["", "lost", "not_sent", "reject", "race"] * 26):
        at = number // 5
        if fault and at % 3 != number % 3:
            continue
        trade, broker = start(
            make_plan(targets=THREE, ratchet=RATCHET),
            mischief=lambda c, fault=fault: (
                fault if isinstance(c, PlaceOrder | ReplaceOrder) else ""
            ),
        )
        for look in range(40):
            if look == at:
                kill = KillEngaged(at=trade.now, command_id="k", mode=mode, by="a", reason="r")
                trade.tell(kill)
                trade.mischief = lambda command: ""
                sent = len(_entries(trade))
            if look == 12:
                broker.move(D("99.80"), D("99.90"))
            if look == 24:
                broker.move(D("102.40"), D("102.60"))
            trade.deliver()
            trade.look()
            broker.now += timedelta(seconds=0.7)
        trade.pass_time(40)
        assert len(_entries(trade)) == sent, (fault, at, "no entry is asked for after the kill")
        assert not [o for o in broker.orders if o.live and o.side is Side.BUY], (fault, at)
        if mode is KillMode.FLATTEN:
            assert broker.position == 0, (fault, at)
            assert ts.is_final(trade.state), (fault, at)
        else:
            assert live_exit_quantity(broker, Side.SELL) == broker.position, (fault, at)


def _entries(trade: Trade) -> list[Command]:
    return [
        c
        for c in trade.commands
        if getattr(getattr(c, "intent", None), "increasing", False) and c.kind != "resolve_order"
    ]


@pytest.mark.covers("K6")
@pytest.mark.parametrize("first", ["kill", "flatten"])
def test_two_people_who_get_out_at_once_sell_once(first: str) -> None:
    """Kill and flatten in one look, each said twice."""
    trade, broker = protected()
    kill = KillEngaged(at=trade.now, command_id="k", mode=KillMode.FLATTEN, by="b", reason="r")
    wish = FlattenRequested(at=trade.now, command_id="f1", by="ann", reason="test")
    words: list[Fact] = [kill, wish, kill, wish]
    trade.tell(*(words if first == "kill" else reversed(words)))
    trade.pass_time(20)
    assert sold(broker) == 10
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    exits = [c for c in trade.commands if isinstance(c, PlaceOrder) and c.urgency == "exit"]
    assert len(exits) == 1


def assert_state_knows(state: TradeState, role: Role, count: int) -> None:
    assert len(state.live(role)) == count


@pytest.mark.covers("E1")
@pytest.mark.parametrize("away_s", [0, 3, 600, 10800])
def test_worker_away_between_fill_and_stop_protects_as_soon_as_it_is_back(away_s: int) -> None:
    """The outage itself is bare; what is ours is one look after it, and exactly one stop."""
    trade, broker = start(make_plan(steps_max=0))
    trade.pass_time(1)
    broker._fill(broker.orders[0], D(10))
    broker.now += timedelta(seconds=away_s)
    back_at = trade.now
    trade.deliver()
    while not stops(broker):
        assert trade.look()
    assert (trade.now - back_at).total_seconds() <= 1
    trade.pass_time(5)
    assert live_exit_quantity(broker, Side.SELL) == 10
    assert_state_knows(trade.state, Role.STOP, 1)


@pytest.mark.covers("R7")
def test_reading_the_broker_at_every_step_of_a_trade_raises_no_false_alarm() -> None:
    """Orders in flight are no strangers: a read between any two answers changes nothing wrong."""
    for at in range(30):
        trade, broker = start(make_plan(targets=TWO))
        for number in range(40):
            if number == at:
                trade.tell(trade._snapshot())
            if number == 12:
                broker.move(D("99.80"), D("99.90"))
            trade.deliver()
            trade.look()
            broker.now += timedelta(seconds=0.7)
        broker.move(D("95.00"), D("95.10"))
        trade.pass_time(30)
        assert not [c for c in alert_codes(trade) if "UNATTRIBUTED" in c or "FLIPPED" in c], at
        assert broker.position == 0
        assert bought(broker) == sold(broker) == 10


def told(trade: Trade, order: ToyOrder) -> OrderReported:
    return OrderReported(at=trade.now, order=trade._flat(order))


@pytest.mark.covers("E2")
@pytest.mark.parametrize("side", ["target", "stop"])
def test_exit_that_the_venue_rejects_later_is_placed_again_or_becomes_an_exit(side: str) -> None:
    """Accepted, then rejected on its own (tick, margin, pattern day trader)."""
    trade, broker = protected()
    for _ in range(6):
        pair = [o for o in broker.orders if o.live]
        if not pair:
            break
        for order in pair:
            order.status = BrokerOrderStatus.REJECTED
        named = [o for o in pair if (o.stop_price is not None) == (side == "stop")]
        trade.tell(*(told(trade, order) for order in (*named, *pair)))
        trade.pass_time(3)
        held = broker.position
        assert held == 0 or live_exit_quantity(broker, Side.SELL) == held
    assert broker.position == 0
    assert trade.state.exit.reason == "protection_rejected"


@pytest.mark.covers("F2")
def test_fill_of_an_exit_told_five_times_is_sold_once() -> None:
    trade, broker = protected()
    broker.move(D("105.40"), D("105.60"))
    (fill,) = broker.undelivered
    trade.tell(*[FillReported(at=trade.now, fill=fill)] * 5)
    assert ts.held_units(trade.state) == 0
    trade.pass_time(20)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
