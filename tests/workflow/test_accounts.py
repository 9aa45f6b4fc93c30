"""Two accounts on one market, one process and one queue: nothing of one reaches the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import Client

from activities.kill import engage
from activities.services import Services
from activities.session import AcceptInput, SessionActivities
from activities.session_days import DrainInput, SessionDayActivities
from cli.contest_books import read_book
from cli.contest_files import Portfolio
from cli.feed_report import journal_book, read_ledger_book
from domain.clock import ClockMap
from domain.control import KillMode
from domain.errors import Transient
from domain.instrument import Instrument
from domain.order import Side
from domain.plan import PlanPrice, StopPlan, TargetPlan, TradePlan
from domain.session import SessionSpec
from domain.signal import Signal, SignalKind
from ledger.repository import Ledger
from report.portfolio import Mark, Standing
from report.records import Book
from report.verify import compare
from simulator.config import AccountConfig, ApiKey, ExchangeConfig, FeeSchedule, Listing
from tests.rig import Rig, running_rig, second_account
from tests.workflow.test_kill import kill_of, patient, sweeping
from tests.workflow.test_trade_thread import plan_of

D = Decimal
ESX = Instrument(symbol="ESX", tick_size=D("0.01"))
FEES = FeeSchedule(per_unit=D("0.01"), rate=D("0.0001"))


@pytest.fixture
async def both(
    temporal_client: Client, ledger: Ledger, unique: str
) -> AsyncIterator[tuple[Rig, Rig]]:
    """`one` has the first account of the exchange, `two` the second, with 5,000 of its own."""
    name, peers = f"two-{unique}", dict[str, Services]()
    config = ExchangeConfig(
        listings=(Listing(ESX, fees=FEES),),
        requests_per_minute=None,
        accounts=(AccountConfig(name, ApiKey("TWO", "secret-two"), D(5000)),),
    )
    async with (
        running_rig(temporal_client, ledger, f"one-{unique}", config=config, peers=peers) as one,
        second_account(one, name, peers) as two,
    ):
        for exchange in one.server.venue.exchanges:
            exchange.set_quote("ESX", D("99.75"), D("100.25"), D(1000), D(1000))
        yield one, two


def short_of(rig: Rig) -> TradePlan:
    """The same trade as `plan_of` on the other side."""
    plan = plan_of(rig)
    (leg,) = plan.legs
    return plan.model_copy(
        update={
            "side": Side.SELL,
            "legs": (leg.model_copy(update={"side": Side.SELL}),),
            "stop": StopPlan(price=PlanPrice(offset=D(2))),
            "targets": (TargetPlan(price=PlanPrice(offset=D(-3)), fraction=D(1)),),
        }
    )


def move(rig: Rig, bid: str, ask: str, last: str) -> None:
    for exchange in rig.server.venue.exchanges:
        exchange.set_quote("ESX", D(bid), D(ask), D(1000), D(1000), last=D(last))


async def standing_of(rig: Rig) -> Standing:
    """The account's line of a leaderboard, from the ledger alone and the last price."""
    exchange, last = rig.exchange, rig.exchange.book("ESX").last
    assert last is not None
    portfolio = Portfolio(
        account=rig.services.account, strategy="test", session="s", cash=exchange.config.cash
    )
    book = await read_book(rig.ledger, portfolio, (ESX,))
    return book.standing([Mark(time=exchange.now, symbol="ESX", price=last)])


async def book_of(rig: Rig) -> tuple[Book, Book]:
    """Both sides of the comparison for one account, with the equity that each comes to."""
    account, exchange = rig.services.account, rig.exchange
    cash = exchange.config.cash
    ours = await read_ledger_book(rig.ledger, account, cash)
    worth = (await standing_of(rig)).equity
    return (
        ours.model_copy(update={"equity": {account: worth}}),
        journal_book(exchange.journal.rows).model_copy(
            update={"equity": {account: exchange.margin.equity()}}
        ),
    )


async def assert_books_equal(*rigs: Rig) -> None:
    """Ledger = journal and equity to the cent, account by account; late fees get their time."""

    async def equal() -> bool:
        return all([compare(*await book_of(rig)).equal for rig in rigs])

    try:
        await rigs[0].until_async(equal, "the books are equal")
    except AssertionError:
        found = [item.line() for rig in rigs for item in compare(*await book_of(rig)).items]
        raise AssertionError("\n".join(found)) from None


def is_protected(rig: Rig) -> bool:
    return any(order.stop_price is not None for order in rig.exchange.open_orders)


async def test_opposite_trades_in_one_symbol_end_alone_with_their_own_books(
    both: tuple[Rig, Rig],
) -> None:
    """Long and short at once: each account has its fills, its stop, its P&L (peers.md §4 17)."""
    one, two = both
    long, short = await one.start_trade(plan_of(one)), await two.start_trade(short_of(two))
    await one.until(lambda: is_protected(one) and is_protected(two), "both are protected")
    assert one.exchange.state.account.quantity("ESX") == D(10)
    assert two.exchange.state.account.quantity("ESX") == D(-10)
    move(one, "100.50", "101.00", "100.75")
    await assert_books_equal(one, two)
    move(one, "103.50", "103.75", "103.60")
    results = await asyncio.gather(long.result(), short.result())
    assert [result.exit_reason for result in results] == ["target", "stop"]
    await assert_books_equal(one, two)
    assert [(await standing_of(rig)).win_rate for rig in both] == [D(1), D(0)]
    assert one.exchange.margin.equity() > one.exchange.config.cash
    assert two.exchange.margin.equity() < two.exchange.config.cash


async def test_kill_of_one_account_leaves_the_others_entry_working(
    both: tuple[Rig, Rig],
) -> None:
    one, two = both
    async with sweeping(one) as sweeper:
        mine = await one.start_trade(patient(one, "mine"))
        await two.start_trade(patient(two, "theirs"))
        await one.until(
            lambda: bool(one.exchange.open_orders and two.exchange.open_orders), "both walk"
        )
        await engage(one.ledger, one.services.account, kill_of(one, KillMode.CANCEL_ENTRIES))
        assert (await mine.result()).outcome == "not_filled"
        await one.until(lambda: "kill-1" in sweeper.receipts, "the receipt is final")
        assert not one.exchange.open_orders
        assert two.exchange.open_orders, "the other account's entry still works"
        assert (await two.ledger.read_control(two.services.account)).kills == ()


async def test_exit_signal_and_drain_mean_no_trade_of_another_account(
    both: tuple[Rig, Rig],
) -> None:
    """I20: yesterday a session of the same name ran on the other account and holds its trade."""
    now, plans = datetime.now(UTC), []
    for rig in both:
        plan = plan_of(rig).model_copy(update={"session": "morning", "signal_time": now})
        plans.append(plan.model_copy(update={"trade_id": f"m-{rig.services.account}"}))
        await rig.ledger.create_trade(plans[-1])
    services, mine = both[1].services, plans[1]

    def never(*_asked: object) -> Any:
        raise AssertionError("a signal from outside needs no feed and no strategy")

    spec = SessionSpec(
        name="morning",
        account=services.account,
        strategies=(mine.strategy,),
        universe=(ESX,),
        opens_at=now,
        tape="none",
        installation=services.installation,
    )
    signal = Signal(
        signal_id=f"e-{services.account}",
        session="morning",
        strategy=mine.strategy,
        symbol="ESX",
        side=Side.SELL,
        kind=SignalKind.EXIT_FULL,
        bar_time=now + timedelta(seconds=1),
    )
    found = await SessionActivities(services, never, never).accept_signal(
        AcceptInput(
            spec=spec,
            clock=ClockMap(wall0=now, market0=now),
            market_now=now + timedelta(seconds=1),
            body=signal.model_dump(mode="json"),
        )
    )
    assert [wish.trade_ids for wish in found.exits] == [(mine.trade_id,)]
    days = SessionDayActivities(services, SessionActivities(services, never, never), never)
    asked = DrainInput(session="morning", account=services.account, wait_s=0)
    drained = await days.drain_session(asked)
    assert [trade.trade_id for trade in drained.trades] == [mine.trade_id]


def test_account_that_is_not_served_here_is_given_back_to_be_tried_elsewhere() -> None:
    served: dict[str, Services] = {}
    only = Services.of.__get__(_Named("one", served))
    assert only("one").account == "one"
    with pytest.raises(Transient, match="account was three"):
        only("three")
    served["two"] = _Named("two", served)  # type: ignore[assignment]
    assert only("two").account == "two"


class _Named:
    """What `Services.of` looks at."""

    def __init__(self, account: str, peers: dict[str, Services]) -> None:
        self.account = account
        self.peers = peers
