"""Rows G of the fault matrix, and bounds of time and rate: quotes, halts, zones, deadlines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from activities.order_answers import READ_BACK_S
from activities.order_facts import why_not_quoted, why_not_restricted
from activities.order_sending import GATE_AGE_MAX_S
from activities.services import Services
from brokers.errors import retry_after_s
from domain import trade_state as ts
from domain.clock import real_time
from domain.commands import Command, PlaceOrder, WalkStep
from domain.facts import (
    Fact,
    FlattenRequested,
    OrderNotSent,
    QuoteRead,
    TradingHalted,
    TradingResumed,
)
from domain.fold_orders import RETRY_MAX_S
from domain.order import OrderType, Quote, Side
from domain.risk.limits import RestrictedList
from domain.trade_state import Stage
from marketdata.calendars import calendar_for
from tests.rig import roomy_limits
from tests.unit.test_fault_rows_exits import protected, sold
from tests.unit.test_trade_fold import make_plan, start
from tests.unit.toy_broker import ToyBroker, Trade, live_exit_quantity
from workflows import _lifecycle as life

D = Decimal
REQUEST_TIMEOUT_S_MAX = 4.0
"""What `settings.py` allows; a larger value is refused (test_settings)."""
NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
BAD_QUOTES = {
    "crossed": ("101", "100"),
    "locked": ("100", "100"),
    "no ask": ("100", None),
    "no bid": (None, "100"),
    "empty": (None, None),
    "zero": ("0", "0"),
    "negative": ("-2", "-1"),
}


def quote(bid: str | None, ask: str | None, venue_time: datetime = NOW) -> Quote:
    return Quote(
        symbol="AAPL",
        bid=None if bid is None else D(bid),
        ask=None if ask is None else D(ask),
        venue_time=venue_time,
    )


@pytest.mark.covers("G2")
@pytest.mark.parametrize("kind", BAD_QUOTES)
def test_walk_step_is_left_out_on_every_quote_that_the_gate_refuses(kind: str) -> None:
    """The gate looked once; each later price of the entry needs a good quote of its own (I13)."""
    legs, clock = make_plan().legs, real_time(NOW)
    bad = {"AAPL": quote(*BAD_QUOTES[kind])}
    assert why_not_quoted(legs, bad, roomy_limits(), clock, NOW)
    good = {"AAPL": quote("99.99", "100.01")}
    assert why_not_quoted(legs, good, roomy_limits(), clock, NOW) == ""
    assert why_not_quoted(legs, {}, roomy_limits(), clock, NOW).startswith("PRICE_UNAVAILABLE")


@pytest.mark.covers("B5")
@pytest.mark.parametrize(("symbols", "fine"), [((), True), (("MSFT",), True), (("AAPL",), False)])
def test_walk_step_is_left_out_once_its_symbol_is_restricted(
    symbols: tuple[str, ...], fine: bool
) -> None:
    """The gate passed before the list changed; the next price of the entry does not leave."""
    listed = RestrictedList(symbols=symbols, as_of=NOW)
    assert (why_not_restricted(make_plan().legs, listed) == "") == fine


@pytest.mark.covers("G1")
@pytest.mark.parametrize(
    ("age_s", "fine"), [("-61", False), ("-60", True), ("60", True), ("60.001", False)]
)
def test_walk_step_is_left_out_on_a_frozen_feed_however_alive_it_seems(
    age_s: str, fine: bool
) -> None:
    seen = {"AAPL": quote("99", "101", NOW - timedelta(seconds=float(age_s)))}
    why_not = why_not_quoted(make_plan().legs, seen, roomy_limits(), real_time(NOW), NOW)
    assert (why_not == "") == fine


@pytest.mark.covers("G2")
@pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity", "-Infinity", "1e400"])
def test_number_that_is_none_never_becomes_a_quote(text: str) -> None:
    """hummingbot #6980 closed at price NaN for ever."""
    with pytest.raises(ValueError):
        Quote(symbol="AAPL", bid=D(text), ask=D(1), venue_time=NOW)


class Quoting(Trade):
    """Answers each read of a quote with this one."""

    shown: tuple[str | None, str | None] | None = None

    def answer(self, command: Command) -> list[Fact]:
        facts = super().answer(command)
        if command.kind == "read_quote" and self.shown is not None:
            shown = quote(*self.shown, venue_time=self.now)
            facts[0] = QuoteRead(at=self.now, quote=shown)
        return facts


@pytest.mark.covers("G2")
@pytest.mark.parametrize("kind", BAD_QUOTES)
@pytest.mark.parametrize("market_exits", [True, False])
def test_exit_on_a_bad_quote_stays_in_the_collar_or_waits_behind_its_stop(
    kind: str, market_exits: bool
) -> None:
    """Each limit that leaves is of a bid that was there; without one the stop stays (I4, I14)."""
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    trade = Quoting(make_plan(), broker, allow_market_exits=market_exits)
    trade.pass_time(5)
    broker.size = D(0)
    trade.shown, before = BAD_QUOTES[kind], len(trade.commands)
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="a", reason="r"))
    trade.pass_time(60)
    exits = [c for c in trade.commands if isinstance(c, PlaceOrder) and c.urgency == "exit"]
    bid = BAD_QUOTES[kind][0]
    for command in exits:
        body = command.intent.body
        if body.order_type is OrderType.MARKET:
            assert market_exits
            continue
        assert bid is not None
        assert body.limit_price is not None
        assert D(bid) * D("0.8") <= body.limit_price <= D(bid)
    assert ts.stage(trade.state) is Stage.EXITING
    assert len(trade.commands) - before < 80, "I14"
    if bid is None or D(bid) <= 0:
        assert not exits
        assert trade.state.exit.pending == "no price"
        assert live_exit_quantity(broker, Side.SELL) == 10
        assert trade.state.naked.total_s == 0
    trade.shown, broker.size = None, D(1000)
    broker.match()
    trade.pass_time(60)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED


@pytest.mark.covers("G1")
def test_exit_on_a_frozen_price_widens_by_rungs_and_ends_at_the_market() -> None:
    """The feed answers and says the same for ever; the market is elsewhere."""
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    trade = Quoting(make_plan(), broker)
    trade.pass_time(5)
    broker.bid, broker.ask = D("70.00"), D("70.10")
    for order in broker.orders:
        order.stop_price = D("60") if order.live and order.stop_price else order.stop_price
    trade.shown = ("99.90", "100.00")
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="a", reason="r"))
    trade.pass_time(60)
    assert broker.position == 0
    exits = [c for c in trade.commands if isinstance(c, PlaceOrder) and c.urgency == "exit"]
    limits = [c.intent.body.limit_price for c in exits]
    assert limits[-1] is None, "the last rung"
    assert len(set(limits)) == len(limits) == 4


# --- halts --------------------------------------------------------------------------------------


def halt(trade: Trade) -> None:
    trade.tell(TradingHalted(at=trade.now, symbol="AAPL"))


def resume(trade: Trade) -> None:
    trade.tell(TradingResumed(at=trade.now, symbol="AAPL"))


@pytest.mark.covers("G3")
@pytest.mark.parametrize("halted_at_s", [0.1, 5, 9.9, 10.1, 15, 25])
def test_walk_stands_still_in_a_halt_and_goes_on_after_it(halted_at_s: float) -> None:
    trade, broker = start(make_plan(steps_max=3))
    broker.move(D("101.90"), D("102.00"))
    trade.pass_time(halted_at_s)
    halt(trade)
    before = len([c for c in trade.commands if isinstance(c, WalkStep)])
    trade.pass_time(20)
    steps = [c for c in trade.commands if isinstance(c, WalkStep)]
    assert len(steps) == before, "no walk during a halt"
    assert len([o for o in broker.orders if o.live]) == 1, "what works already stays"
    resume(trade)
    trade.pass_time(12)
    assert len([c for c in trade.commands if isinstance(c, WalkStep)]) > before or before == 2
    trade.pass_time(60)
    assert ts.stage(trade.state) is Stage.NOT_FILLED


@pytest.mark.covers("G3")
@pytest.mark.parametrize("state", ["protected", "at the stop", "exiting"])
def test_halt_leaves_protection_where_it_is_and_the_exit_waits_for_a_fresh_quote(
    state: str,
) -> None:
    trade, broker = protected(time_stop_s=D(60))
    broker.open_session = state != "at the stop"
    halt(trade)
    if state == "at the stop":
        broker.move(D("95.00"), D("95.10"))
    if state == "exiting":
        trade.tell(FlattenRequested(at=trade.now, command_id="f", by="a", reason="r"))
    for _ in range(20):
        trade.look()
        halt(trade)
        broker.now += timedelta(seconds=1)
        assert live_exit_quantity(broker, Side.SELL) == 10
    assert not [c for c in trade.commands if isinstance(c, PlaceOrder) and c.urgency == "exit"]
    resume(trade)
    broker.open_session = True
    broker.match()
    before = len(trade.commands)
    trade.pass_time(120)
    kinds = [c.kind for c in trade.commands[before:]]
    if "place_order" in kinds:
        assert "read_quote" in kinds[: kinds.index("place_order")]
    assert broker.position == 0
    assert sold(broker) == 10
    assert ts.stage(trade.state) is Stage.CLOSED


# --- zones and calendars ------------------------------------------------------------------------


@pytest.fixture
def host_zone(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland")
CHANGES = (date(2026, 3, 8), date(2026, 11, 1))
_STORIES: dict[str, set[str]] = {}


@pytest.mark.covers("G5")
@pytest.mark.parametrize("host_zone", ZONES, indirect=True)
@pytest.mark.parametrize("change", CHANGES)
def test_host_zone_and_clock_change_move_neither_hours_nor_deadlines(
    host_zone: str, change: date
) -> None:
    """01:30 twice, 02:30 never: a trade over the change ends after its seconds, in every zone."""
    begin = datetime(change.year, change.month, change.day, 5, 59, tzinfo=UTC)
    calendar = calendar_for("XNYS", begin)
    days = [change + timedelta(days=number) for number in range(-4, 5)]
    hours = [(day, calendar.session_hours(day)) for day in days]
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"), now=begin)
    plan = make_plan(time_stop_s=D(3600)).model_copy(update={"signal_time": begin})
    trade = Trade(plan, broker)
    trade.state = trade.state.model_copy(update={"clock": real_time(begin)})
    trade.pass_time(3500)
    assert broker.position == 10
    trade.pass_time(200)
    assert broker.position == 0
    fills = [(f.side, f.price, f.venue_time.isoformat()) for f in broker.fills]
    stories = _STORIES.setdefault(str(change), set())
    stories.add(repr((hours, fills, trade.state.first_fill_at)))
    assert len(stories) == 1, f"another story in {host_zone}"


@pytest.mark.covers("G4")
@pytest.mark.parametrize("closed_for_s", [1, 64_800, 237_600])
def test_stop_that_ends_with_the_day_is_armed_again_at_the_next_open(closed_for_s: int) -> None:
    """A night, or a weekend: while closed nothing is asked in a storm, then one stop stands."""
    trade, broker = protected()
    broker.open_session = False
    for order in broker.orders:
        order.live and broker.cancel(order)
    trade.tell(trade._snapshot())
    before = len(trade.commands)
    trade.pass_time(closed_for_s if closed_for_s < 60 else 600)
    broker.now += timedelta(seconds=closed_for_s)
    broker.open_session = True
    trade.tell(trade._snapshot())
    trade.pass_time(10)
    assert broker.position == 10
    assert live_exit_quantity(broker, Side.SELL) == 10
    assert len(trade.commands) - before < 60, "I14"


# --- bounds -------------------------------------------------------------------------------------


@pytest.mark.covers("C12")
def test_every_call_to_the_broker_ends_before_its_activity_does() -> None:
    """Client time-out + margin < start-to-close; a step makes its calls one after the other."""
    client_s = REQUEST_TIMEOUT_S_MAX
    assert client_s + 1 <= life.SEND_TIMEOUT.total_seconds()
    default_s = Services.request_timeout_s
    walk_s = READ_BACK_S + GATE_AGE_MAX_S + default_s + READ_BACK_S
    assert walk_s < life.WALK_TIMEOUT.total_seconds()
    assert 2 * client_s + READ_BACK_S < life.RESOLVE_TIMEOUT.total_seconds(), "look-up, repost"
    assert life.ONE_ATTEMPT.maximum_attempts == 1


@pytest.mark.covers("C4")
@pytest.mark.parametrize("header", ["-1", "0", "1000000000", "inf", "NaN", "soon", "", None])
def test_absurd_wait_of_the_broker_is_bounded_and_the_exit_still_goes(header: str | None) -> None:
    wait_s = retry_after_s(header, NOW)
    assert wait_s is None or 0 <= wait_s <= 60
    refused = {"left": 3}

    def mischief(command: Command) -> str:
        is_exit = isinstance(command, PlaceOrder) and command.urgency == "exit"
        return "limited" if is_exit and refused["left"] else ""

    class Limited(Trade):
        def _placed(self, intent: object, fault: str) -> list[Fact]:
            if fault != "limited":
                return super()._placed(intent, fault)  # type: ignore[arg-type]
            refused["left"] -= 1
            client_id = intent.client_id  # type: ignore[attr-defined]
            return [
                OrderNotSent(
                    at=self.now, client_id=client_id, code="RATE_LIMITED", retry_after_s=wait_s
                )
            ]

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    trade = Limited(make_plan(), broker, mischief=mischief)
    trade.pass_time(5)
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="a", reason="r"))
    trade.pass_time(4 * RETRY_MAX_S)
    asked = [c for c in trade.commands if isinstance(c, PlaceOrder) and c.urgency == "exit"]
    assert 4 <= len(asked) <= 6, "I14: no storm"
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
