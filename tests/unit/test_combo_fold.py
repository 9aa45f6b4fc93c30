"""Combos in the fold: units, legs, imbalance, credit prices; and options that rest no stop."""

from __future__ import annotations

import random
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import trade_state as ts
from domain.commands import (
    Alert,
    CancelOrder,
    Command,
    PlaceOrder,
    ReadBroker,
    ReadQuote,
    ReserveRisk,
    Settle,
    WalkStep,
    WatchExits,
)
from domain.facts import (
    BrokerSnapshot,
    CancelAsked,
    ExitTriggered,
    Fact,
    FillBusted,
    FillReported,
    FlattenRequested,
    OrderAccepted,
    OrderNotSent,
    OrderRejected,
    OrderReported,
    QuoteRead,
    ReplaceConfirmed,
    RiskReserved,
    SessionChanged,
    Settled,
)
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.order import Fill, OpenClose, OrderClass, OrderState, OrderType, Side
from domain.plan import (
    ExitRule,
    FixedSize,
    PlanLeg,
    PlanPrice,
    RuleKind,
    StopPlan,
    TargetPlan,
    TradePlan,
    WalkPlan,
)
from domain.trade_state import Role, Stage
from tests.unit.toy_broker import START, ToyBroker, Trade
from tests.unit.toy_combo_broker import ComboOrder, ToyComboBroker

D = Decimal
EXPIRY = date(2026, 12, 18)


def option(strike: int, right: OptionRight = OptionRight.CALL) -> Instrument:
    letter = "C" if right is OptionRight.CALL else "P"
    return Instrument(
        symbol=f"SPY261218{letter}{strike * 1000:08d}",
        kind=InstrumentKind.OPTION,
        multiplier=D(100),
        underlying="SPY",
        expiry=EXPIRY,
        strike=D(strike),
        right=right,
    )


LONG, SHORT = option(600), option(610)
PUT_SHORT, PUT_LONG = option(500, OptionRight.PUT), option(490, OptionRight.PUT)
VERTICAL = (PlanLeg(instrument=LONG, side=Side.BUY), PlanLeg(instrument=SHORT, side=Side.SELL))
RATIO = (
    PlanLeg(instrument=LONG, side=Side.SELL),
    PlanLeg(instrument=SHORT, side=Side.BUY, ratio=2),
)
CONDOR = (
    PlanLeg(instrument=LONG, side=Side.SELL),
    PlanLeg(instrument=SHORT, side=Side.BUY),
    PlanLeg(instrument=PUT_SHORT, side=Side.SELL),
    PlanLeg(instrument=PUT_LONG, side=Side.BUY),
)
QUOTES = {
    LONG.symbol: (D("12.00"), D("12.20")),
    SHORT.symbol: (D("8.00"), D("8.10")),
    PUT_SHORT.symbol: (D("4.00"), D("4.10")),
    PUT_LONG.symbol: (D("2.50"), D("2.60")),
}


class ComboTrade(Trade):
    """The toy trade on combos. `hidden` are executions that the venue does not list yet."""

    broker: ToyComboBroker  # type: ignore[assignment]
    hidden: tuple[Fill, ...] = ()

    def answer(self, command: Command) -> list[Fact]:
        at, broker = self.now, self.broker
        match command:
            case ReserveRisk():
                return [RiskReserved(at=at, ticket=self._ticket())]
            case PlaceOrder():
                client_id = command.intent.client_id
                placed = broker.place(command.intent)
                if isinstance(placed, str):
                    return [OrderRejected(at=at, client_id=client_id, code=placed)]
                return [OrderAccepted(at=at, client_id=client_id, order=broker.snapshot(placed))]
            case WalkStep():
                return self._stepped(command)
            case CancelOrder():
                order = self._order(command.broker_order_id)
                broker.cancel(order)
                return [
                    CancelAsked(at=at, client_id=command.client_id),
                    OrderReported(at=at, order=broker.snapshot(order)),
                ]
            case ReadBroker():
                return [broker.read(hide=self.hidden)]
            case ReadQuote():
                hours = SessionChanged(at=at, is_open=broker.open_session)
                return [QuoteRead(at=at, quote=broker.quote), hours]
            case Settle():
                return [Settled(at=at, realised=D(0), fees=D(0), fees_estimated=False)]
        raise AssertionError(f"command was {command.kind}")

    def _order(self, broker_id: str | None) -> ComboOrder:
        order = self.broker.by_id(broker_id)
        assert order is not None
        return order

    def _stepped(self, command: WalkStep) -> list[Fact]:
        at, old = self.now, self._order(command.old_broker_id)
        new = self.broker.replace(old, command.intent)
        report = OrderReported(at=at, order=self.broker.snapshot(old))
        if isinstance(new, str):
            skipped = OrderNotSent(at=at, client_id=command.intent.client_id, code="STEP_SKIPPED")
            return [report, skipped]
        confirmed = ReplaceConfirmed(
            at=at,
            old_client_id=command.old_client_id,
            new_client_id=command.intent.client_id,
            order=self.broker.snapshot(new),
        )
        return [confirmed, report]

    def _ticket(self) -> Any:
        ticket = super()._ticket()
        return ticket.model_copy(update={"arrival": self.broker.quote})

    def _quote(self) -> Any:
        return self.broker.quote

    @property
    def entry(self) -> ComboOrder:
        return next(o for o in self.broker.orders if o.intent.increasing and o.live)

    @property
    def told(self) -> list[str]:
        return [c.code for c in self.commands if isinstance(c, Alert)]

    def exits(self) -> list[ComboOrder]:
        return [o for o in self.broker.orders if not o.intent.increasing]


def make_plan(legs: tuple[PlanLeg, ...] = VERTICAL, **changes: Any) -> TradePlan:
    values: dict[str, Any] = {
        "trade_id": "t-1",
        "session": "s",
        "account": "paper",
        "strategy": "test",
        "symbol": "SPY" if len(legs) > 1 else legs[0].instrument.symbol,
        "legs": legs,
        "side": Side.BUY if len(legs) > 1 else legs[0].side,
        "size": FixedSize(quantity=D(3)),
        "walk": WalkPlan(
            step=D("0.05"), interval_s=D(10), steps_max=4, worst_offset=D("0.20"), max_time_s=D(60)
        ),
        "max_loss": D(1000),
        "signal_id": "sig-1",
        "signal_time": START,
    }
    return TradePlan.model_validate(values | changes)


def start(
    legs: tuple[PlanLeg, ...] = VERTICAL,
    *,
    first: str = "4.05",
    worst: str = "4.25",
    **changes: Any,
) -> ComboTrade:
    market = {leg.instrument.symbol: QUOTES[leg.instrument.symbol] for leg in legs}
    broker = ToyComboBroker(legs=legs, quotes=market)
    plan = make_plan(legs, **changes)
    given: dict[str, Any] = {"quantity": D(3), "start": D(first), "worst": D(worst)}
    return ComboTrade(plan, cast(ToyBroker, broker), **given)


# --- entry ----------------------------------------------------------------------------------------


def test_debit_vertical_walks_up_to_the_natural_price_and_holds_whole_units() -> None:
    trade = start()
    trade.pass_time(45)
    limits = [o.limit for o in trade.broker.orders]
    assert limits == [D("4.05"), D("4.10"), D("4.15"), D("4.20")]
    assert ts.held_units(trade.state) == 3
    assert ts.average_price(trade.state, Role.ENTRY) == D("4.20")
    assert ts.protection(trade.state) is ts.Protection.DEFINED
    assert ts.stage(trade.state) is Stage.OPEN
    body = trade.broker.orders[-1].intent.body
    assert (body.symbol, body.side, body.order_class) == ("SPY", Side.BUY, OrderClass.COMBO)
    assert {leg.effect for leg in body.legs} == {OpenClose.OPEN}


def test_credit_condor_walks_up_towards_zero_and_never_past_its_worst_credit() -> None:
    """A credit is a negative net price: less credit is dearer."""
    trade = start(CONDOR, first="-5.40", worst="-5.20")
    trade.broker.move(**{LONG.symbol: ("11.50", "11.70")})
    trade.pass_time(55)
    limits = [o.limit for o in trade.broker.orders]
    assert limits == [D("-5.40"), D("-5.35"), D("-5.30"), D("-5.25"), D("-5.20")]
    trade.pass_time(10)
    assert ts.stage(trade.state) is Stage.NOT_FILLED
    assert trade.broker.is_flat
    assert not [o for o in trade.broker.orders if o.live]


def test_credit_condor_fills_at_its_credit_with_negative_average() -> None:
    trade = start(CONDOR, first="-5.40", worst="-5.20")
    trade.pass_time(45)
    assert ts.held_units(trade.state) == 3
    assert ts.average_price(trade.state, Role.ENTRY) == D("-5.30")


def test_partial_units_end_the_walk_and_are_kept() -> None:
    trade = start(first="4.20")
    trade.broker.size = D(1)
    trade.pass_time(1)
    trade.broker.size = D(0)
    trade.pass_time(5)
    assert trade.state.walk.ended == "partial"
    assert ts.held_units(trade.state) == 1
    assert ts.stage(trade.state) is Stage.OPEN
    assert not [o for o in trade.broker.orders if o.live]
    assert "LATE_FILL" not in trade.told


def test_news_of_a_leg_never_becomes_the_combos_own() -> None:
    """A leg order has its own id, size and state; a ratio makes its size a multiple."""
    trade = start(RATIO, first="3.50", worst="3.55")
    trade.pass_time(1)
    order = trade.entry
    leg = order.legs[1]
    leg.filled = leg.quantity
    trade.tell(OrderReported(at=trade.now, order=trade.broker.leg_snapshot(leg)))
    record = trade.state.orders[0]
    assert record.broker_order_id == order.broker_id
    assert (record.quantity, record.reported_filled) == (D(3), D(0))
    assert record.state is OrderState.WORKING
    assert record in ts.missing_fills(trade.state)


def test_leg_ids_that_come_later_are_joined() -> None:
    trade = start(first="4.20")
    trade.look()
    order = trade.broker.place(_next_entry(trade))
    assert isinstance(order, ComboOrder)
    bare = trade.broker.snapshot(order, with_legs=False).model_copy(
        update={"filled_quantity": D(0)}
    )
    trade.tell(OrderAccepted(at=trade.now, client_id=order.intent.client_id, order=bare))
    assert not trade.state.orders[0].leg_broker_ids
    trade.tell(OrderReported(at=trade.now, order=trade.broker.snapshot(order)))
    assert trade.state.orders[0].leg_broker_ids == ("c1.1", "c1.2")
    trade.deliver()
    assert ts.held_units(trade.state) == 3
    assert ts.missing_fills(trade.state) == ()
    assert "FILL_UNATTRIBUTED" not in [a.code for a in trade.state.alerts]


def _next_entry(trade: ComboTrade) -> Any:
    """The intent that the trade asks for first, taken out of its hands."""
    from domain.steps import decide

    trade.state, commands = decide(trade.state, trade.now, ())
    placed = next(c for c in commands if isinstance(c, PlaceOrder))
    return placed.intent


def test_leg_fill_before_the_answer_waits_for_its_order_without_an_alert() -> None:
    """F3: the stream is faster than the answer of the request."""
    trade = start(first="4.20")
    trade.look()
    order = trade.broker.place(_next_entry(trade))
    assert isinstance(order, ComboOrder)
    trade.deliver()
    trade.deliver()
    assert ts.is_flat(trade.state)
    assert len(trade.state.unclaimed) == 2
    accepted = trade.broker.snapshot(order)
    trade.tell(OrderAccepted(at=trade.now, client_id=order.intent.client_id, order=accepted))
    assert ts.held_units(trade.state) == 3
    assert not trade.state.unclaimed
    assert "FILL_UNATTRIBUTED" not in [a.code for a in trade.state.alerts]


def test_fill_that_neither_answer_nor_look_explains_is_told_after_the_look() -> None:
    trade = start(first="4.00")
    trade.look()
    order = trade.broker.place(_next_entry(trade))
    assert isinstance(order, ComboOrder)
    foreign = trade.broker.fill_leg(order.legs[0], D(1), told=False).model_copy(
        update={"broker_order_id": "zzz"}
    )
    trade.tell(FillReported(at=trade.now, fill=foreign))
    client_id = order.intent.client_id
    trade.tell(OrderRejected(at=trade.now, client_id=client_id, code="TICK"))
    assert trade.state.read_needed
    look = BrokerSnapshot(
        at=trade.now, started_at=trade.now, orders=(), positions=(), fills=(foreign,)
    )
    trade.tell(look)
    assert "FILL_UNATTRIBUTED" in [a.code for a in trade.state.alerts]


@pytest.mark.parametrize("ratio", [1, 2])
def test_legs_told_in_any_order_add_up_to_units(ratio: int) -> None:
    legs = RATIO if ratio == 2 else VERTICAL
    trade = start(legs, first="4.40", worst="4.40")
    trade.look()
    trade.look()
    fills = list(reversed(trade.broker.undelivered))
    trade.broker.undelivered = []
    seen = []
    for fill in fills:
        trade.tell(FillReported(at=trade.now, fill=fill))
        seen.append(ts.filled_quantity(trade.state, trade.state.orders[0]))
    assert seen == [D(0), D(3)]
    assert ts.is_balanced(trade.state)
    assert trade.state.imbalance_since is None
    assert trade.state.orders[0].state is OrderState.FILLED


# --- exits ----------------------------------------------------------------------------------------


def test_time_stop_sells_the_structure_back_as_one_combo() -> None:
    trade = start(first="4.20", time_stop_s=D(120))
    trade.pass_time(130)
    assert trade.broker.is_flat
    [exit_order] = trade.exits()
    body = exit_order.intent.body
    assert {leg.effect for leg in body.legs} == {OpenClose.CLOSE}
    assert [leg.side for leg in body.legs] == [Side.SELL, Side.BUY]
    assert body.side is Side.BUY
    # Our net bid is 3.90: closing costs -3.90, widened by 2 % of the legs' 20.15.
    assert body.limit_price == D("-3.49")
    assert ts.average_price(trade.state, Role.EXIT) == D("3.90")
    assert ts.exit_reason(trade.state) == "time_stop"
    assert ts.stage(trade.state) is Stage.CLOSED


def test_credit_condor_is_bought_back_for_a_debit_under_flatten() -> None:
    trade = start(CONDOR, first="-5.20")
    trade.pass_time(5)
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="test"))
    trade.pass_time(5)
    assert trade.broker.is_flat
    [exit_order] = trade.exits()
    assert exit_order.limit is not None
    assert exit_order.limit > D("5.80")
    assert ts.average_price(trade.state, Role.EXIT) == D("-5.80")
    assert ts.stage(trade.state) is Stage.CLOSED


def test_a_structure_that_still_brings_money_is_never_paid_for() -> None:
    trade = start(first="4.20", time_stop_s=D(60))
    trade.pass_time(30)
    trade.broker.move(**{LONG.symbol: ("8.20", "8.30"), SHORT.symbol: ("8.05", "8.15")})
    trade.pass_time(40)
    [exit_order] = trade.exits()
    assert exit_order.limit == D("-0.01")
    assert trade.broker.is_flat


def test_rule_exit_closes_a_combo_once_for_its_position_epoch() -> None:
    rule = ExitRule(rule_id="take", kind=RuleKind.PROFIT_PERCENT, threshold=D(50))
    trade = start(first="4.20", rules=(rule,), max_loss=None)
    trade.pass_time(5)
    [watch] = [c for c in trade.commands if isinstance(c, WatchExits)]
    assert (watch.units, watch.average_entry) == (D(3), D("4.20"))
    assert ts.protection(trade.state) is ts.Protection.MONITORED
    fired = ExitTriggered(at=trade.now, rule_id="take", position_epoch=watch.position_epoch)
    trade.tell(fired, fired)
    trade.pass_time(5)
    assert trade.broker.is_flat
    assert len(trade.exits()) == 1
    assert ts.exit_reason(trade.state) == "take"


def test_flat_by_cancels_a_walking_combo_and_leaves_nothing() -> None:
    trade = start(flat_by=START + timedelta(seconds=15))
    trade.pass_time(20)
    assert trade.broker.is_flat
    assert not [o for o in trade.broker.orders if o.live]
    assert ts.stage(trade.state) is Stage.NOT_FILLED


def test_exit_without_a_two_sided_market_asks_once_a_second_and_no_faster() -> None:
    trade = start(first="4.20", time_stop_s=D(10))
    trade.pass_time(5)
    blind = trade.broker.quote.model_copy(update={"bid": None, "ask": None, "gross": None})
    trade.broker.quote_shown = blind
    trade.pass_time(15)
    asked = len([c for c in trade.commands if isinstance(c, ReadQuote)])
    assert 3 <= asked <= 12
    assert trade.state.exit.pending == "no price"
    trade.broker.quote_shown = None
    trade.pass_time(5)
    assert trade.broker.is_flat


# --- imbalance ------------------------------------------------------------------------------------


def test_one_leg_alone_is_not_walked_and_is_unwound_after_five_seconds() -> None:
    """GT7, peers row 21: NAKED_LEG names what is held; the entry dies before the leg is sold."""
    trade = start()
    trade.pass_time(1)
    trade.broker.fill_leg(trade.entry.legs[0], D(1))
    trade.pass_time(4)
    assert trade.state.imbalance_since is not None
    assert not trade.exits()
    trade.pass_time(15)
    assert trade.told.count("NAKED_LEG") == 1
    text = next(c.text for c in trade.commands if isinstance(c, Alert) and c.code == "NAKED_LEG")
    assert f"1 {LONG.symbol}" in text
    assert trade.broker.is_flat
    assert ts.exit_reason(trade.state) == "leg_imbalance"
    assert not [c for c in trade.commands if isinstance(c, WalkStep)]
    lines = trade.broker.journal
    assert lines.index("cancel c1") < next(
        n for n, line in enumerate(lines) if line.startswith("accept c2")
    )


def test_legs_that_catch_up_within_five_seconds_are_kept() -> None:
    trade = start()
    trade.pass_time(1)
    order = trade.entry
    trade.broker.fill_leg(order.legs[1], D(3))
    trade.pass_time(3)
    trade.broker.fill_leg(order.legs[0], D(3))
    trade.broker._settle(order)
    trade.pass_time(8)
    assert ts.stage(trade.state) is Stage.OPEN
    assert ts.held_units(trade.state) == 3
    assert "NAKED_LEG" not in trade.told


def test_unwinding_buys_excess_shorts_before_it_sells_longs() -> None:
    """Peers row 21: the venue refuses a sold long under a short, and so do we."""
    trade = start(CONDOR, first="-5.40")
    trade.pass_time(1)
    legs = trade.entry.legs
    trade.broker.fill_leg(legs[0], D(2))
    trade.broker.fill_leg(legs[1], D(2))
    trade.broker.fill_leg(legs[2], D(1))
    trade.pass_time(25)
    assert trade.broker.is_flat
    bought = [o.legs[0].side for o in trade.exits()]
    assert bought == [Side.BUY, Side.BUY, Side.SELL]
    assert "UNCOVERED" not in [o.reject_code for o in trade.state.orders]
    assert ts.stage(trade.state) is Stage.CLOSED


def test_whole_units_beside_an_odd_leg_leave_as_a_combo() -> None:
    trade = start()
    trade.pass_time(1)
    legs = trade.entry.legs
    trade.broker.fill_leg(legs[0], D(3))
    trade.broker.fill_leg(legs[1], D(2))
    trade.pass_time(20)
    odd, structure = trade.exits()
    assert (odd.legs[0].symbol, odd.legs[0].side, odd.quantity) == (LONG.symbol, Side.SELL, D(1))
    assert odd.intent.body.order_type is OrderType.MARKET
    assert (structure.intent.body.order_class, structure.quantity) == (OrderClass.COMBO, D(2))
    assert trade.broker.is_flat


def test_long_leg_is_never_sold_while_the_short_may_have_filled() -> None:
    """The venue reports a unit, its second execution is late: only an alert, no order."""
    trade = start(first="4.20")
    trade.broker.size = D(0)
    trade.pass_time(1)
    order = trade.entry
    trade.broker.fill_leg(order.legs[0], D(3))
    late = trade.broker.fill_leg(order.legs[1], D(3), told=False)
    trade.hidden = (late,)
    trade.broker._settle(order)
    trade.pass_time(20)
    assert not trade.exits()
    assert trade.told.count("NAKED_LEG") == 1
    reads = [c for c in trade.commands if isinstance(c, ReadBroker)]
    assert 10 <= len(reads) <= 30
    trade.hidden, trade.broker.size = (), D(100)
    trade.pass_time(5)
    assert trade.broker.is_flat
    [exit_order] = trade.exits()
    assert exit_order.intent.body.order_class is OrderClass.COMBO


def test_busted_leg_is_an_imbalance_and_the_trade_still_ends() -> None:
    """D9: the broker may count a busted execution for ever; it is not missing here."""
    trade = start(first="4.20")
    trade.pass_time(5)
    bust = next(f for f in trade.broker.fills if f.symbol == SHORT.symbol)
    trade.broker.fills.remove(bust)
    trade.tell(FillBusted(at=trade.now, fill_key=bust.fill_key))
    trade.pass_time(25)
    assert trade.broker.position(LONG.symbol) == 0
    assert ts.stage(trade.state) is Stage.CLOSED


def test_legs_on_both_sides_of_zero_are_no_flipped_structure() -> None:
    trade = start(first="4.20")
    trade.pass_time(5)
    for leg in VERTICAL:
        extra = trade.broker.fills[0].model_copy(
            update={
                "fill_key": f"x-{leg.instrument.symbol}",
                "symbol": leg.instrument.symbol,
                "side": Side.SELL,
                "quantity": D(5),
            }
        )
        trade.tell(FillReported(at=trade.now, fill=extra))
    assert ts.leg_units(trade.state) == (D(-2), D(8))
    assert ts.held_units(trade.state) == 0
    assert not ts.is_flat(trade.state)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), condor=st.booleans(), size=st.sampled_from([0, 1, 100]))
def test_any_order_of_leg_fills_ends_flat_without_an_uncovered_sale(
    seed: int, condor: bool, size: int
) -> None:
    """GT7, I1, I3: legs fill alone, in bursts, at any moment of the walk and of the exit."""
    rng = random.Random(seed)
    trade = start(CONDOR, first="-5.40", worst="-5.20") if condor else start()
    trade.rng = rng
    trade.broker.size = D(size)
    for _ in range(20):
        trade.pass_time(rng.choice([0.5, 1.5, 4.0]))
        live = [o for o in trade.broker.orders if o.live and not o.is_single]
        if live and rng.random() < 0.5:
            order = rng.choice(live)
            leg = rng.choice(order.legs)
            rest = leg.quantity - leg.filled
            if rest > 0:
                trade.broker.fill_leg(leg, D(rng.randint(1, int(rest))))
                trade.broker._settle(order)
    trade.broker.size = D(100)
    trade.broker.match()
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="end"))
    trade.pass_time(240)
    assert trade.broker.is_flat
    assert ts.stage(trade.state) in (Stage.CLOSED, Stage.NOT_FILLED)
    assert "UNCOVERED" not in [o.reject_code for o in trade.state.orders]
    bought = [f for f in trade.broker.fills if f.broker_order_id.split(".")[0] in _entries(trade)]
    for leg_ in trade.state.plan.legs:
        filled = sum(f.quantity for f in bought if f.symbol == leg_.instrument.symbol)
        assert filled <= 3 * leg_.ratio, "I15: more than approved"


def _entries(trade: ComboTrade) -> list[str]:
    return [o.broker_id for o in trade.broker.orders if o.intent.increasing]


# --- single options -------------------------------------------------------------------------------


def test_single_option_rests_no_stop_and_leaves_by_a_plain_order() -> None:
    """GT6: no stop order exists for options at Alpaca; rules watch instead."""
    rule = ExitRule(rule_id="cut", kind=RuleKind.LOSS_PERCENT, threshold=D(40))
    single = (PlanLeg(instrument=LONG, side=Side.BUY),)
    trade = start(single, first="12.20", worst="12.20", rules=(rule,), max_loss=None)
    trade.pass_time(5)
    assert [type(c) for c in trade.commands if isinstance(c, PlaceOrder | WatchExits)] == [
        PlaceOrder,
        WatchExits,
    ]
    trade.tell(ExitTriggered(at=trade.now, rule_id="cut", position_epoch=1))
    trade.pass_time(5)
    [exit_order] = trade.exits()
    body = exit_order.intent.body
    assert (body.order_class, body.side, body.time_in_force) == (
        OrderClass.SIMPLE,
        Side.SELL,
        "day",
    )
    assert body.limit_price == D("11.76")
    assert trade.broker.is_flat
    assert ts.exit_reason(trade.state) == "cut"


def test_stop_and_target_of_an_option_are_watched_where_no_order_may_rest() -> None:
    single = (PlanLeg(instrument=LONG, side=Side.BUY),)
    trade = start(
        single,
        first="12.20",
        worst="12.20",
        max_loss=None,
        stop=StopPlan(price=PlanPrice(offset=D(-4))),
        targets=(TargetPlan(price=PlanPrice(offset=D(6)), fraction=D(1)),),
    )
    trade.pass_time(5)
    [watch] = [c for c in trade.commands if isinstance(c, WatchExits)]
    # 3 contracts x 100: 4.00 below the entry is 1,200 lost, 6.00 above it 1,800 won.
    assert [(r.rule_id, r.kind, r.threshold) for r in watch.rules] == [
        ("stop", RuleKind.LOSS_AMOUNT, D(1200)),
        ("target", RuleKind.PROFIT_AMOUNT, D(1800)),
    ]
    assert ts.protection(trade.state) is ts.Protection.MONITORED
    assert not trade.exits()
    trade.pass_time(3600)
    trade.tell(ExitTriggered(at=trade.now, rule_id="stop", position_epoch=1))
    trade.pass_time(5)
    assert trade.broker.is_flat
    assert ts.exit_reason(trade.state) == "stop"
    assert trade.state.naked.longest_s == 0, "I4: watched from its fill on, though nothing was told"
