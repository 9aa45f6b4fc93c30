"""The fold and its decisions on whole trades, one scenario a test."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.commands import (
    Alert,
    CancelOrder,
    Command,
    PlaceOrder,
    ReplaceOrder,
    ResolveOrder,
    Urgency,
    WalkStep,
)
from domain.control import KillMode
from domain.facts import (
    BrokerSnapshot,
    DiscrepancyFound,
    Fact,
    FillReported,
    FlattenRequested,
    KillEngaged,
    OperatorCommand,
    OperatorVerb,
    OrderNotSent,
    OrderReported,
    OrderUnknown,
)
from domain.instrument import Instrument
from domain.order import (
    TERMINAL_STATES,
    BrokerOrderStatus,
    OrderClass,
    OrderIntent,
    OrderSnapshot,
    OrderState,
    Side,
)
from domain.plan import (
    FixedSize,
    PlanLeg,
    PlanPrice,
    RatchetKind,
    RatchetStep,
    StopPlan,
    TargetPlan,
    TradePlan,
    WalkPlan,
)
from domain.steps import decide
from domain.trade_state import Role, Stage
from tests.unit.toy_broker import START, ToyBroker, Trade, live_exit_quantity

D = Decimal


def make_plan(
    *,
    side: Side = Side.BUY,
    targets: tuple[TargetPlan, ...] = (TargetPlan(price=PlanPrice(offset=D(5)), fraction=D(1)),),
    ratchet: tuple[RatchetStep, ...] = (),
    time_stop_s: Decimal | None = None,
    steps_max: int = 3,
) -> TradePlan:
    instrument = Instrument(symbol="AAPL")
    sign = side.sign
    return TradePlan(
        trade_id="t-1",
        session="s",
        account="paper",
        strategy="test",
        symbol="AAPL",
        legs=(PlanLeg(instrument=instrument, side=side),),
        side=side,
        size=FixedSize(quantity=D(10)),
        walk=WalkPlan(
            step=D("0.25"),
            interval_s=D(10),
            steps_max=steps_max,
            worst_offset=D(1),
            max_time_s=D(60),
        ),
        stop=StopPlan(price=PlanPrice(offset=D(-4) * sign)),
        targets=targets,
        ratchet=ratchet,
        time_stop_s=time_stop_s,
        signal_id="sig-1",
        signal_time=START,
    )


THREE = tuple(
    TargetPlan(price=PlanPrice(offset=D(offset)), fraction=D(fraction))
    for offset, fraction in ((2, "0.3"), (4, "0.3"), (6, "0.4"))
)
RATCHET = (
    RatchetStep(after_target=1, kind=RatchetKind.BREAK_EVEN),
    RatchetStep(after_target=2, kind=RatchetKind.PREVIOUS_TARGET),
)


def start(plan: TradePlan | None = None, **kwargs: object) -> tuple[Trade, ToyBroker]:
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    return Trade(plan or make_plan(), broker, **kwargs), broker  # type: ignore[arg-type]


def test_walk_climbs_to_the_ask_then_target_fills_and_trade_settles_flat() -> None:
    trade, broker = start()
    trade.pass_time(25)
    steps = [c.intent.body.limit_price for c in trade.commands if isinstance(c, WalkStep)]
    assert steps == [D("100.25"), D("100.50")]
    assert broker.position == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING
    broker.move(D("105.40"), D("105.60"))
    trade.settle_down()
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    assert ts.exit_reason(trade.state) == "target"


def test_entry_that_never_fills_is_cancelled_and_settles_not_filled() -> None:
    trade, broker = start()
    broker.move(D("109.90"), D("110.30"))
    trade.pass_time(70)
    assert ts.stage(trade.state) is Stage.NOT_FILLED
    assert not [o for o in broker.orders if o.live]


@pytest.mark.covers("D7")
def test_walk_never_passes_the_worst_price() -> None:
    plan = make_plan(steps_max=50)
    trade, broker = start(plan, worst=D("100.60"))
    broker.move(D("101.90"), D("102.00"))
    trade.pass_time(59)
    prices = [o.limit_price for o in broker.orders if o.limit_price is not None]
    assert max(prices) == D("100.60")
    assert len(prices) == len(set(prices)), "a step that changes nothing must not be sent"


def test_three_tranches_ratchet_to_break_even_then_first_target() -> None:
    trade, broker = start(make_plan(targets=THREE, ratchet=RATCHET))
    trade.pass_time(25)
    average = ts.average_price(trade.state, Role.ENTRY)
    assert average == D("100.30")
    assert [o.rest for o in broker.orders if o.live and o.stop_price] == [D(3), D(3), D(4)]
    broker.move(D("102.40"), D("102.60"))
    trade.settle_down()
    stops = [o.stop_price for o in broker.orders if o.live and o.stop_price]
    assert stops == [D("100.30"), D("100.30")]
    broker.move(D("104.40"), D("104.60"))
    trade.settle_down()
    stops = [o.stop_price for o in broker.orders if o.live and o.stop_price]
    assert stops == [D("102.30")]
    broker.move(D("102.20"), D("102.25"))
    trade.settle_down()
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    assert ts.exit_reason(trade.state) == "ratcheted_stop"


def test_short_trade_mirrors_the_ratchet_downwards() -> None:
    targets = tuple(
        TargetPlan(price=PlanPrice(offset=D(-offset)), fraction=D(fraction))
        for offset, fraction in ((2, "0.5"), (4, "0.5"))
    )
    plan = make_plan(side=Side.SELL, targets=targets, ratchet=RATCHET[:1])
    trade, broker = start(plan, start=D(100), worst=D(99))
    broker.move(D("100.10"), D("100.30"))
    trade.pass_time(5)
    assert broker.position == -10
    broker.move(D("97.60"), D("97.90"))
    trade.settle_down()
    assert [o.stop_price for o in broker.orders if o.live and o.stop_price] == [D("100.10")]


@pytest.mark.covers("D6")
def test_partial_fill_ends_walk_and_protects_exactly_what_is_held() -> None:
    trade, broker = start()
    broker.size = D(4)
    broker.move(D("99.80"), D("100.00"))
    trade.settle_down()
    trade.pass_time(1)
    assert broker.position == 4
    assert live_exit_quantity(broker, Side.SELL) == 0
    broker.size = D(100)
    broker.bid, broker.ask = D("100.10"), D("100.40")
    trade.pass_time(3)
    assert trade.state.walk.ended == "partial"
    assert live_exit_quantity(broker, Side.SELL) == 4
    assert 1.9 <= trade.state.naked.total_s <= 2.5


@pytest.mark.covers("C2")
def test_lost_answer_of_the_entry_is_resolved_without_a_second_order() -> None:
    """C2: accepted, answer lost."""
    trade, broker = start(mischief=lambda c: "lost" if isinstance(c, PlaceOrder) else "")
    trade.pass_time(3)
    entries = [o for o in broker.orders if o.intent is not None and o.intent.increasing]
    assert len(entries) == 1
    assert trade.state.orders[0].state is OrderState.WORKING


@pytest.mark.covers("C2", "E1")
def test_lost_answer_of_the_stop_keeps_one_stop_and_leaves_nothing_bare() -> None:
    lost = {"count": 0}

    def mischief(command: object) -> str:
        if isinstance(command, PlaceOrder) and not command.intent.increasing:
            lost["count"] += 1
            return "lost" if lost["count"] == 1 else ""
        return ""

    trade, broker = start(mischief=mischief)
    trade.pass_time(25)
    assert live_exit_quantity(broker, Side.SELL) == 10
    assert len([o for o in broker.orders if o.stop_price]) == 1
    assert trade.state.naked.total_s == 0, "I4: found by its id before any time had passed"


@pytest.mark.covers("E2")
def test_rejected_protection_twice_becomes_a_market_exit() -> None:
    """E2: a stop that cannot be had ends the trade, never leaves it bare."""

    def mischief(command: object) -> str:
        exit_ = isinstance(command, PlaceOrder) and command.intent.reason == "protect"
        return "reject" if exit_ else ""

    trade, broker = start(mischief=mischief)
    trade.pass_time(40)
    assert broker.position == 0
    assert trade.state.exit.reason == "protection_rejected"
    assert ts.stage(trade.state) is Stage.CLOSED


def test_time_stop_releases_the_bracket_then_sells_at_a_marketable_limit() -> None:
    trade, broker = start(make_plan(time_stop_s=D(120)))
    trade.pass_time(25)
    trade.pass_time(125)
    assert broker.position == 0
    assert ts.exit_reason(trade.state) == "time_stop"
    assert ts.stage(trade.state) is Stage.CLOSED


@pytest.mark.covers("K2")
def test_flatten_while_walking_cancels_the_entry_and_closes_without_position() -> None:
    """K2."""
    trade, broker = start()
    trade.pass_time(5)
    trade.tell(FlattenRequested(at=trade.now, command_id="f1", by="ann", reason="test"))
    trade.settle_down()
    assert not [o for o in broker.orders if o.live]
    assert ts.stage(trade.state) is Stage.NOT_FILLED


@pytest.mark.covers("K3")
def test_flatten_in_a_closed_session_keeps_the_stop_and_is_not_done() -> None:
    """K3: pending with its reason until the broker says flat."""
    trade, broker = start()
    trade.pass_time(25)
    broker.open_session = False
    trade.tell(FlattenRequested(at=trade.now, command_id="f1", by="ann", reason="test"))
    trade.pass_time(20)
    assert broker.position == 10
    assert live_exit_quantity(broker, Side.SELL) == 10
    assert trade.state.exit.pending == "session closed"
    assert ts.stage(trade.state) is Stage.EXITING
    broker.open_session = True
    trade.pass_time(10)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED


@pytest.mark.parametrize("away_s", [0, 4, 10, 60])
def test_worker_away_between_two_cancels_of_a_flatten_sends_what_it_would_have_sent(
    away_s: int,
) -> None:
    """C7: however long the outage was, no released exit is put up again for one quote's time."""
    trade, broker = start(make_plan(targets=THREE, ratchet=RATCHET))
    trade.pass_time(25)
    protected = len([c for c in trade.commands if isinstance(c, PlaceOrder)])
    trade.tell(FlattenRequested(at=trade.now, command_id="f1", by="ann", reason="test"))
    while len([c for c in trade.commands if isinstance(c, CancelOrder)]) < 2:
        assert trade.look()
    broker.now += timedelta(seconds=away_s)
    trade.settle_down()
    assert broker.position == 0
    assert len([c for c in trade.commands if isinstance(c, PlaceOrder)]) == protected + 1


def test_kill_block_leaves_the_working_entry_but_stops_its_walk() -> None:
    trade, broker = start()
    trade.pass_time(5)
    trade.tell(KillEngaged(at=trade.now, command_id="k", mode=KillMode.BLOCK, by="a", reason="r"))
    trade.pass_time(20)
    assert [o.limit_price for o in broker.orders if o.live] == [D("100.00")]
    assert not [c for c in trade.commands if isinstance(c, WalkStep)]
    trade.pass_time(60)
    assert not [o for o in broker.orders if o.live]
    assert ts.stage(trade.state) is Stage.NOT_FILLED


def test_kill_cancel_entries_leaves_protection_alone() -> None:
    trade, broker = start()
    trade.pass_time(25)
    trade.tell(
        KillEngaged(at=trade.now, command_id="k", mode=KillMode.CANCEL_ENTRIES, by="a", reason="r")
    )
    trade.settle_down()
    assert live_exit_quantity(broker, Side.SELL) == 10
    assert ts.stage(trade.state) is Stage.OPEN


@pytest.mark.covers("A5")
def test_kill_before_reservation_sends_nothing() -> None:
    """A5: the kill is the first message the trade ever sees."""
    trade, broker = start()
    trade.tell(KillEngaged(at=trade.now, command_id="k", mode=KillMode.FLATTEN, by="a", reason="r"))
    trade.settle_down()
    assert broker.journal == []
    assert ts.stage(trade.state) is Stage.NOT_FILLED


def test_same_command_twice_has_one_effect() -> None:
    """I17."""
    trade, _ = start()
    trade.pass_time(25)
    move = OperatorCommand(
        at=trade.now, command_id="m1", by="ann", verb=OperatorVerb.MOVE_STOP, price=D(98)
    )
    trade.tell(move, move.model_copy(update={"price": D(90)}))
    assert trade.state.stop_price == 98


def test_operator_moves_the_live_stop() -> None:
    trade, broker = start()
    trade.pass_time(25)
    trade.tell(
        OperatorCommand(
            at=trade.now, command_id="m1", by="ann", verb=OperatorVerb.MOVE_STOP, price=D("97.5")
        )
    )
    trade.settle_down()
    assert [o.stop_price for o in broker.orders if o.live and o.stop_price] == [D("97.5")]


@pytest.mark.covers("E6")
def test_refused_ratchet_keeps_the_old_stop_and_alerts() -> None:
    """Peers row 9: old stop live, new stop live or market exit; never none."""

    def mischief(command: object) -> str:
        return "reject" if type(command).__name__ == "ReplaceOrder" else ""

    trade, broker = start(make_plan(targets=THREE, ratchet=RATCHET), mischief=mischief)
    trade.pass_time(25)
    broker.move(D("102.40"), D("102.60"))
    trade.pass_time(30)
    stops = [o.stop_price for o in broker.orders if o.live and o.stop_price]
    assert stops == [D("96.30"), D("96.30")]
    assert any(isinstance(c, Alert) and c.code == "RATCHET_REFUSED" for c in trade.commands)


@pytest.mark.covers("D9")
def test_fill_after_cancel_confirmed_is_protected_not_forgotten() -> None:
    """D9, peers row 8: the cancel lost the race."""
    trade, broker = start()
    trade.pass_time(5)
    trade.tell(
        KillEngaged(at=trade.now, command_id="k", mode=KillMode.CANCEL_ENTRIES, by="a", reason="r")
    )
    trade.look()
    order = broker.orders[0]
    broker._fill(order, D(3))
    trade.settle_down()
    assert broker.position == 3
    assert live_exit_quantity(broker, Side.SELL) == 3
    assert any(isinstance(c, Alert) and c.code == "LATE_FILL" for c in trade.commands)


@pytest.mark.covers("E4")
def test_both_oco_legs_filling_is_bought_back_once() -> None:
    """E4: the excess is closed once, then the trade is flat."""
    trade, broker = start()
    trade.pass_time(25)
    child = next(o for o in broker.orders if o.stop_price)
    broker.move(D("105.40"), D("105.60"))
    broker._fill(child, child.quantity)
    trade.pass_time(20)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    assert any(isinstance(c, Alert) and c.code == "POSITION_FLIPPED" for c in trade.commands)


@pytest.mark.covers("E4", "C2")
def test_both_oco_legs_filling_behind_a_lost_answer_is_bought_back_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """E4: the answer that would have named the stop never came, and the pair is over."""

    def lose_the_pair(command: Command) -> str:
        is_pair = isinstance(command, PlaceOrder) and command.intent.body.order_class == "oco"
        return "lost" if is_pair else ""

    trade, broker = start(mischief=lose_the_pair)
    place = broker.place

    def place_and_fill_both(intent: OrderIntent) -> OrderSnapshot | str:
        is_pair = intent.body.order_class is OrderClass.OCO
        if is_pair:
            broker.bid, broker.ask = D("105.40"), D("105.60")
        told = place(intent)
        if is_pair:
            child = next(o for o in broker.orders if o.stop_price)
            broker._fill(child, child.quantity)
            assert broker.position == -10
        return told

    monkeypatch.setattr(broker, "place", place_and_fill_both)
    trade.pass_time(40)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    codes = [c.code for c in trade.commands if isinstance(c, Alert)]
    assert codes.count("POSITION_FLIPPED") == 1
    assert "FILL_UNATTRIBUTED" not in codes
    exits = [o for o in trade.state.orders if o.role is Role.EXIT]
    assert sum((ts.filled_quantity(trade.state, o) for o in exits), D(0)) == 10


def test_doubled_fill_counts_once() -> None:
    """I7, F2."""
    trade, broker = start()
    trade.pass_time(25)
    fill = broker.fills[0]
    before = ts.held_units(trade.state)
    trade.tell(FillReported(at=trade.now, fill=fill), FillReported(at=trade.now, fill=fill))
    assert ts.held_units(trade.state) == before


def test_foreign_fill_is_quarantined_with_an_alert() -> None:
    trade, broker = start()
    trade.pass_time(25)
    fill = broker.fills[0].model_copy(
        update={"fill_key": "x", "broker_order_id": "zzz", "client_id": "f" * 32}
    )
    trade.tell(FillReported(at=trade.now, fill=fill))
    assert ts.held_units(trade.state) == 10
    assert any(a.code == "FILL_UNATTRIBUTED" for a in trade.state.alerts)


def test_fill_of_a_child_that_is_not_known_yet_is_looked_up_without_an_alert() -> None:
    """GT2 at Tradier: the stop of a new pair fills before the trade has read its number."""
    trade, broker = start()
    trade.pass_time(25)
    unknown = broker.fills[0].model_copy(
        update={"fill_key": "x", "broker_order_id": "zzz", "client_id": None}
    )
    trade.tell(FillReported(at=trade.now, fill=unknown))
    assert trade.state.read_needed
    assert not trade.state.alerts
    look = BrokerSnapshot(
        at=trade.now, started_at=trade.now, orders=(), positions=(), fills=(unknown,)
    )
    trade.tell(look)
    assert any(a.code == "FILL_UNATTRIBUTED" for a in trade.state.alerts)
    assert ts.held_units(trade.state) == 10


def test_discrepancy_makes_the_trade_look_at_the_broker_first() -> None:
    trade, _ = start()
    trade.pass_time(25)
    trade.tell(DiscrepancyFound(at=trade.now, code="GAP", text="stream gap"))
    before = len(trade.commands)
    trade.look()
    assert [c.kind for c in trade.commands[before:]] == ["alert", "read_broker"]


def test_stale_knowledge_is_read_before_the_stop_is_replaced() -> None:
    trade, broker = start(make_plan(targets=THREE, ratchet=RATCHET))
    trade.pass_time(25)
    broker.now += timedelta(hours=3)
    broker.move(D("102.40"), D("102.60"))
    before = len(trade.commands)
    trade.settle_down()
    kinds = [c.kind for c in trade.commands[before:]]
    assert kinds[0] == "read_broker"
    assert kinds.count("replace_order") == 2


@pytest.mark.covers("E9")
@pytest.mark.parametrize("quantity", range(1, 60))
@pytest.mark.parametrize("tranches", range(1, 8))
def test_tranches_always_sum_to_the_filled_quantity(quantity: int, tranches: int) -> None:
    """E9: rounding, dust, last tranche is the remainder."""
    fraction = D(1) / D(tranches)
    targets = tuple(
        TargetPlan(price=PlanPrice(offset=D(i + 1)), fraction=round(fraction, 4))
        for i in range(tranches)
    )
    trade, broker = start(make_plan(targets=targets), quantity=D(quantity))
    broker.move(D("99.80"), D("100.00"))
    trade.settle_down()
    assert sum(ts.tranche_quantities(trade.state)) == quantity
    assert live_exit_quantity(broker, Side.SELL) == quantity


def test_refused_exit_is_tried_again_without_widening_and_then_the_stop_comes_back() -> None:
    """An entry of another trade on the other side refuses our exit for a while."""
    refusing = {"on": True}

    def mischief(command: object) -> str:
        exit_ = isinstance(command, PlaceOrder) and command.intent.reason == "time_stop"
        return "reject" if exit_ and refusing["on"] else ""

    trade, broker = start(make_plan(time_stop_s=D(120)), mischief=mischief)
    trade.pass_time(25)
    trade.pass_time(118)
    exits = [
        c for c in trade.commands if isinstance(c, PlaceOrder) and c.intent.reason == "time_stop"
    ]
    assert 2 <= len(exits) <= 5, "one a second, not a storm"
    assert len({c.intent.body.limit_price for c in exits}) == 1, "a refusal does not widen"
    trade.pass_time(8)
    assert live_exit_quantity(broker, Side.SELL) == 10, "the stop is back meanwhile"
    refusing["on"] = False
    trade.pass_time(40)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED


@pytest.mark.covers("D2")
def test_replace_that_restores_the_full_size_is_cancelled_before_it_can_overfill() -> None:
    """D2, peers row 7: a venue whose replacement works for the whole number again."""

    def mischief(command: object) -> str:
        return "race" if isinstance(command, WalkStep) else ""

    trade, broker = start(mischief=mischief)
    broker.replace_mode = "fresh"
    broker.move(D("101.90"), D("102.00"))
    trade.pass_time(15)
    assert trade.state.walk.ended == "overfill_guard"
    assert broker.position == 1
    assert live_exit_quantity(broker, Side.SELL) == 1
    assert not [o for o in broker.orders if o.live and o.side is Side.BUY]


@pytest.mark.covers("C11")
@pytest.mark.parametrize("code", ["INTENT_BODY_DIFFERS", "NOT_REDUCING"])
def test_parked_trade_sends_no_further_entry_until_a_person_resumes_it(code: str) -> None:
    """C11, ADR 0011: what the last hop found wrong parks the trade; nothing new is tried."""
    trade, broker = start(mischief=lambda c: "not_sent" if isinstance(c, PlaceOrder) else "")
    trade.look()
    trade.look()
    first = trade.state.orders[0].client_id
    trade.tell(OrderNotSent(at=trade.now, client_id=first, code=code, text="differs"))
    assert ts.stage(trade.state) is Stage.NEEDS_OPERATOR
    trade.pass_time(20)
    assert broker.journal == []
    assert len([c for c in trade.commands if isinstance(c, PlaceOrder)]) <= 1


def test_paused_trade_does_not_walk_and_resumes_where_it_was() -> None:
    trade, broker = start()
    trade.pass_time(5)
    pause = OperatorCommand(at=trade.now, command_id="p", by="ann", verb=OperatorVerb.PAUSE)
    trade.tell(pause)
    trade.pass_time(20)
    assert not [c for c in trade.commands if isinstance(c, WalkStep)]
    trade.tell(pause.model_copy(update={"command_id": "r", "verb": OperatorVerb.RESUME}))
    trade.pass_time(25)
    assert broker.position == 10


@pytest.mark.covers("F3")
def test_partner_told_dead_before_the_answer_that_names_it_is_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F3: a target that fills as it arrives ends its stop before our request is answered.

    Met in the recorded week (GOOG, 2015-12-24): the stream names the stop by an id that only the
    answer explains.
    """
    trade, broker = start()
    place = broker.place

    def place_with_news_first(intent: OrderIntent) -> OrderSnapshot | str:
        is_pair = intent.body.order_class is OrderClass.OCO
        if is_pair:
            broker.bid, broker.ask = D("105.40"), D("105.60")
        told = place(intent)
        if not is_pair or isinstance(told, str):
            return told
        (stop,) = told.legs
        assert stop.status is BrokerOrderStatus.CANCELED
        trade.tell(OrderReported(at=trade.now, order=stop))
        legs = (stop.model_copy(update={"status": BrokerOrderStatus.HELD}),)
        as_accepted = {"status": BrokerOrderStatus.WORKING, "filled_quantity": D(0), "legs": legs}
        return told.model_copy(update=as_accepted)

    monkeypatch.setattr(broker, "place", place_with_news_first)
    while not (pairs := [o for o in trade.state.orders if o.role is Role.STOP and not o.intent]):
        trade.pass_time(1)
    assert [stop.state for stop in pairs] == [OrderState.CANCELED]
    assert not [a for a in trade.state.alerts if a.code == "ORDER_UNATTRIBUTED"]
    assert not trade.state.unclaimed_orders
    trade.settle_down()
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED


@pytest.mark.covers("H1")
def test_lost_answer_of_an_order_that_ended_meanwhile_is_made_up_for_by_a_read() -> None:
    """I7, I11: it had told the fill of another order, and the trade held on to what was sold.

    Chaos, gt20 at Tradier: the worker was killed between booking and answering.
    """
    trade, _broker = start()
    trade.pass_time(25)
    entry = next(o for o in trade.state.orders if o.role is Role.ENTRY)
    assert entry.state in TERMINAL_STATES
    trade.tell(OrderUnknown(at=trade.now, client_id=entry.client_id, reason="timeout"))
    _, commands = decide(trade.state, trade.now)
    assert [c.kind for c in commands] == ["read_broker"]
    trade.settle_down()
    assert not trade.state.read_needed


def test_news_of_an_order_that_no_answer_explains_is_told() -> None:
    """F3, R-rows: what still has no owner once nothing is on its way is alerted."""
    trade, broker = start()
    trade.state, commands = decide(trade.state, trade.now)
    while not any(isinstance(command, PlaceOrder) for command in commands):
        for command in commands:
            trade.tell(*trade.answer(command))
        trade.state, commands = decide(trade.state, trade.now)
    stranger = OrderSnapshot(
        broker_order_id="b-stranger", symbol="AAPL", status=BrokerOrderStatus.CANCELED
    )
    trade.tell(OrderReported(at=trade.now, order=stranger))
    assert trade.state.unclaimed_orders == (stranger,)
    assert not trade.state.alerts
    for command in commands:
        trade.tell(*trade.answer(command))
    assert [a.code for a in trade.state.alerts] == ["ORDER_UNATTRIBUTED"]
    assert not trade.state.unclaimed_orders
    assert broker.orders


@pytest.mark.covers("F3")
def test_ratcheted_stop_seen_in_its_group_before_its_own_answer_is_ours() -> None:
    """F3: the parent's snapshot shows the replacement while our replace is still on its way."""
    trade, broker = start(make_plan(targets=THREE, ratchet=RATCHET))
    trade.pass_time(25)
    broker.move(D("102.40"), D("102.60"))
    trade.deliver()
    trade.state, commands = decide(trade.state, trade.now)
    replace = next(c for c in commands if c.kind == "replace_order")
    old = broker.by_id(replace.old_broker_id)
    assert old is not None
    broker.replace(old, replace.intent)
    parent = broker.by_id(old.group)
    assert parent is not None
    trade.tell(OrderReported(at=trade.now, order=broker.snapshot(parent)))
    assert not [a for a in trade.state.alerts if a.code == "ORDER_UNATTRIBUTED"]
    record = trade.state.order(replace.intent.client_id)
    assert record is not None
    assert record.broker_order_id is not None


def test_protection_that_is_refused_in_a_closed_session_is_told_once() -> None:
    """E2, I18: each alert wakes the trade, which may not tell the same again for that."""

    def refuses_protection(command: Command) -> str:
        if not isinstance(command, PlaceOrder) or command.urgency is not Urgency.PROTECT:
            return ""
        broker.open_session = False
        return "reject"

    trade, broker = start(mischief=refuses_protection)
    trade.pass_time(90)
    assert trade.state.exit.reason == "protection_rejected"
    assert ts.held_units(trade.state) == 10
    told = [c for c in trade.commands if isinstance(c, Alert) and c.code == "PROTECTION_REJECTED"]
    assert len(told) == 1
    broker.open_session = True
    trade.pass_time(30)
    assert broker.position == 0


def test_protection_whose_fate_stays_unknown_is_told_once() -> None:
    """E2, I10, I18: GT14 with a late answer told it thirty times within a second."""

    class Doubtful(Trade):
        def _resolved(self, command: ResolveOrder) -> list[Fact]:
            unknown = OrderUnknown(
                at=self.now, client_id=command.intent.client_id, reason="not seen yet"
            )
            return [unknown]

    def loses_protection(command: Command) -> str:
        if not isinstance(command, PlaceOrder) or command.urgency is not Urgency.PROTECT:
            return ""
        return "lost"

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    trade = Doubtful(make_plan(), broker, mischief=loses_protection)
    trade.pass_time(45)
    codes = [c.code for c in trade.commands if isinstance(c, Alert)]
    assert codes.count("PROTECTION_UNKNOWN") == 1
    assert codes.count("ORDER_UNKNOWN_PARKED") <= 1


def test_ratchet_that_keeps_being_refused_is_told_once() -> None:
    """I18: the stop stays where it is, and one alert says so."""

    def refuses_ratchet(command: Command) -> str:
        return "reject" if isinstance(command, ReplaceOrder) else ""

    targets = (
        TargetPlan(price=PlanPrice(offset=D(2)), fraction=D("0.5")),
        TargetPlan(price=PlanPrice(offset=D(5)), fraction=D("0.5")),
    )
    ratchet = (RatchetStep(after_target=1, kind=RatchetKind.BREAK_EVEN),)
    trade, broker = start(make_plan(targets=targets, ratchet=ratchet), mischief=refuses_ratchet)
    trade.pass_time(25)
    broker.move(D("102.60"), D("102.80"))
    trade.pass_time(60)
    told = [c for c in trade.commands if isinstance(c, Alert) and c.code == "RATCHET_REFUSED"]
    assert len(told) == 1
