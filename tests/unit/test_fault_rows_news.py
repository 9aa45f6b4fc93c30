"""Rows F of the fault matrix on the fold, and clocks that are wrong: news in any order and age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import permutations

import pytest

from domain import trade_state as ts
from domain.commands import Command, PlaceOrder, ReadBroker
from domain.control import KillMode
from domain.dating import dated_within
from domain.facts import (
    BrokerSnapshot,
    CancelAsked,
    CommandFailed,
    Fact,
    FillReported,
    FlattenRequested,
    KillEngaged,
    OrderAccepted,
    OrderReported,
    QuoteRead,
    SessionChanged,
)
from domain.order import BrokerOrderStatus, OrderState, Quote, Side
from domain.steps import decide
from domain.trade_state import Stage
from tests.unit.test_fault_rows_exits import flatten, protected, sold
from tests.unit.test_trade_fold import make_plan, start
from tests.unit.toy_broker import START, ToyBroker, Trade, live_exit_quantity

D = Decimal


def in_flight() -> tuple[Trade, ToyBroker]:
    """A trade whose entry has left and whose answer is not here yet."""
    trade, broker = start(make_plan(steps_max=0))
    trade.look()
    trade.state, trade.commands = _asked(trade)
    place = next(c for c in trade.commands if isinstance(c, PlaceOrder))
    broker.place(place.intent)
    return trade, broker


def _asked(trade: Trade) -> tuple[ts.TradeState, list[Command]]:
    state, commands = decide(trade.state, trade.now)
    return state, list(commands)


def entry_news(trade: Trade, broker: ToyBroker, parts: tuple[int, ...]) -> list[Fact]:
    """Accept, a report and a fill for each part, in the order in which they happened."""
    order, at = broker.orders[0], trade.now
    assert order.client_id is not None
    snapshot = broker.snapshot(order)
    news: list[Fact] = [OrderAccepted(at=at, client_id=order.client_id, order=snapshot)]
    for part in parts:
        broker._fill(order, D(part))
        news.append(FillReported(at=at, fill=broker.undelivered.pop()))
        news.append(OrderReported(at=at, order=broker.snapshot(order)))
    return news


def view(state: ts.TradeState) -> tuple[object, ...]:
    """What the trade knows of its entry, whatever the way it came to know."""
    order = state.orders[0]
    keys = sorted(f.fill_key for f in state.fills)
    return (order.state, order.broker_order_id, order.quantity, keys, ts.held_units(state))


@pytest.mark.covers("F3", "F2")
def test_six_pieces_of_news_in_each_of_720_orders_give_one_view() -> None:
    """Fill before its accept, the older report last, one fill twice: one result (I7)."""
    trade, broker = in_flight()
    news = entry_news(trade, broker, (4, 6))
    news = [*news, news[1]]
    assert len(news) == 6
    before, views = trade.state, set()
    for order in permutations(news):
        trade.state = before
        trade.tell(*order)
        views.add(repr(view(trade.state)))
        assert not trade.state.alerts
    assert len(views) == 1
    assert ts.held_units(trade.state) == 10
    assert trade.state.orders[0].state is OrderState.FILLED


@pytest.mark.covers("F3", "D3")
def test_cancel_told_before_its_part_fill_in_each_order_keeps_the_part() -> None:
    trade, broker = in_flight()
    order = broker.orders[0]
    news = entry_news(trade, broker, (4,))
    order.status = BrokerOrderStatus.CANCELED
    assert order.client_id is not None
    news.append(OrderReported(at=trade.now, order=broker.snapshot(order)))
    news.append(CancelAsked(at=trade.now, client_id=order.client_id))
    before, views = trade.state, set()
    for each in permutations(news):
        trade.state = before
        trade.tell(*each)
        views.add(repr(view(trade.state)))
    assert len(views) == 1
    assert ts.held_units(trade.state) == 4
    assert trade.state.orders[0].state is OrderState.CANCELED


@pytest.mark.covers("F2")
@pytest.mark.parametrize("times", [2, 3, 5])
def test_cumulative_quantity_of_a_report_adds_nothing_to_its_fills(times: int) -> None:
    """A sum in a report and the executions behind it are one quantity, however often told."""
    trade, broker = in_flight()
    news = entry_news(trade, broker, (4,))
    for _ in range(times):
        trade.tell(*news)
    assert ts.held_units(trade.state) == 4
    assert not ts.missing_fills(trade.state)


@pytest.mark.covers("F4")
@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("told_at", range(4))
def test_read_that_is_older_than_a_fill_does_not_undo_it(complete: bool, told_at: int) -> None:
    """A read begun before the fill arrives after it: order working, nothing filled, no position."""
    trade, broker = in_flight()
    stale = trade._snapshot().model_copy(update={"complete": complete})
    broker.now += timedelta(seconds=1)
    news = entry_news(trade, broker, (4, 6))
    news.insert(told_at + 2, stale)
    trade.tell(*news)
    assert ts.held_units(trade.state) == 10
    assert trade.state.orders[0].state is OrderState.FILLED
    trade.pass_time(5)
    assert broker.position == 10
    assert live_exit_quantity(broker, Side.SELL) == 10
    assert len([o for o in broker.orders if o.side is Side.BUY]) == 1


@pytest.mark.covers("F4", "R6")
def test_empty_answer_of_the_broker_does_not_end_a_trade_that_holds() -> None:
    """200 with nothing in it, three times: missing is not flat."""
    trade, broker = protected()
    for number in range(3):
        at = trade.now + timedelta(seconds=number)
        nothing = BrokerSnapshot(at=at, started_at=at, orders=(), positions=(), fills=())
        trade.tell(nothing)
        trade.look()
    trade.pass_time(30)
    assert ts.held_units(trade.state) == broker.position == 10
    assert live_exit_quantity(broker, Side.SELL) == 10
    assert ts.stage(trade.state) is Stage.OPEN


@pytest.mark.covers("F1")
@pytest.mark.parametrize("silent_s", [5, 1800, 10800])
def test_trade_that_hears_nothing_of_its_stop_learns_of_it_before_it_acts(silent_s: int) -> None:
    """Every message was lost; the flatten reads first and sells nothing twice."""
    trade, broker = protected()
    broker.move(D("95.00"), D("95.10"))
    broker.undelivered.clear()
    broker.now += timedelta(seconds=silent_s)
    flatten(trade)
    trade.pass_time(30)
    assert sold(broker) == 10
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED


@pytest.mark.covers("H4", "H2")
@pytest.mark.parametrize("happened", ["nothing", "stop filled", "half filled", "pair expired"])
def test_knowledge_of_three_hours_ago_is_not_acted_on(happened: str) -> None:
    """The worker was away; whatever happened meanwhile, the broker is read before anything."""
    trade, broker = protected()
    broker.now += timedelta(hours=3)
    if happened == "stop filled":
        broker.move(D("95.00"), D("95.10"))
    if happened == "half filled":
        broker.size = D(5)
        broker.bid, broker.ask = D("95.00"), D("95.10")
        broker.match()
        broker.size = D(0)
    if happened == "pair expired":
        for order in broker.orders:
            order.status = BrokerOrderStatus.EXPIRED if order.live else order.status
    broker.undelivered.clear()
    before = len(trade.commands)
    flatten(trade)
    while not any(isinstance(c, ReadBroker) for c in trade.commands[before:]):
        assert trade.look()
    early = [c.kind for c in trade.commands[before:]]
    assert "place_order" not in early[: early.index("read_broker")]
    broker.size = D(100)
    trade.pass_time(40)
    assert broker.position == 0
    assert sold(broker) == 10
    assert ts.stage(trade.state) is Stage.CLOSED


# --- clocks -------------------------------------------------------------------------------------

HOUR = timedelta(hours=1)


def read_facts(at: datetime) -> list[Fact]:
    quote = Quote(symbol="AAPL", bid=D(1), ask=D(2), venue_time=START)
    return [
        QuoteRead(at=at, quote=quote),
        SessionChanged(at=at, is_open=True),
        BrokerSnapshot(
            at=at, started_at=at - timedelta(seconds=1), orders=(), positions=(), fills=()
        ),
    ]


@pytest.mark.covers("H7")
@pytest.mark.parametrize("skew", [-HOUR, -timedelta(seconds=3), timedelta(0), HOUR])
def test_what_a_worker_with_a_wrong_clock_read_is_dated_by_the_workflow(skew: timedelta) -> None:
    asked, heard = START, START + timedelta(seconds=2)
    for fact in read_facts(START + timedelta(seconds=1.5) + skew):
        seen = dated_within(fact, asked, heard)
        assert asked <= seen.at <= heard
        if isinstance(seen, BrokerSnapshot):
            assert asked <= seen.started_at <= seen.at
        assert (seen is fact) == (skew == timedelta(0))


class Skewed(Trade):
    """The worker's clock is wrong by `skew`; the workflow dates what it hears, as in production."""

    skew = timedelta(0)

    def answer(self, command: Command) -> list[Fact]:
        facts = super().answer(command)
        now = self.now
        for index, fact in enumerate(facts):
            moved = {"at": fact.at + self.skew}
            if isinstance(fact, BrokerSnapshot):
                moved["started_at"] = fact.started_at + self.skew
            facts[index] = dated_within(fact.model_copy(update=moved), now, now)
        return facts


@pytest.mark.covers("H7")
@pytest.mark.parametrize("skew", [-HOUR, -timedelta(seconds=3), timedelta(seconds=3), HOUR])
def test_exits_go_out_and_no_sooner_whatever_the_workers_clock_says(skew: timedelta) -> None:
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    trade = Skewed(make_plan(time_stop_s=D(300)), broker)
    trade.skew = skew
    trade.pass_time(5)
    assert live_exit_quantity(broker, Side.SELL) == 10
    trade.pass_time(290)
    assert broker.position == 10, "not before its time"
    trade.pass_time(20)
    assert broker.position == 0, "and not later"
    assert ts.exit_reason(trade.state) == "time_stop"


@pytest.mark.covers("H7")
def test_leap_second_and_zones_of_a_venue_are_one_instant() -> None:
    """A venue that writes 23:59:60 or another offset cannot move an exit: all is UTC inside."""
    at = datetime(2026, 6, 30, 23, 59, 59, tzinfo=UTC)
    (fact, *_) = read_facts(at)
    assert dated_within(fact, at, at).at == at


@pytest.mark.covers("K3")
@pytest.mark.parametrize("word", ["flatten", "kill"])
def test_flatten_while_the_broker_is_away_is_not_done_and_goes_on_when_it_is_back(
    word: str,
) -> None:
    """Reads fail and sends are not sent for ten minutes; the resting stop is left alone."""

    class Away(Trade):
        away = False

        def answer(self, command: Command) -> list[Fact]:
            if not self.away:
                return super().answer(command)
            return [CommandFailed(at=self.now, step=command.key, code="AWAY")]

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    trade = Away(make_plan(), broker)
    trade.pass_time(5)
    trade.away = True
    if word == "flatten":
        trade.tell(FlattenRequested(at=trade.now, command_id="f", by="a", reason="r"))
    else:
        trade.tell(
            KillEngaged(at=trade.now, command_id="k", mode=KillMode.FLATTEN, by="a", reason="r")
        )
    for _ in range(600):
        trade.look()
        broker.now += timedelta(seconds=1)
        assert ts.stage(trade.state) is Stage.EXITING
    assert live_exit_quantity(broker, Side.SELL) == 10
    trade.away = False
    trade.pass_time(60)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
