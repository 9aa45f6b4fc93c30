"""Combos on the `mleg` wire, whole: the exchange's journal and its cash are the oracle.

Two legs for a debit and four for a credit: filled, filled in part, not filled, flattened, closed
by time, and a leg that fills alone (GT7, peers.md §4 row 21).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from activities.day_reading import trade_protection
from activities.executions import book_executions
from domain.facts import ExitTriggered, FactEnvelope
from domain.ids import trade_prefix
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.messages import OperatorSignal, TradeResult
from domain.order import Side
from domain.plan import ExitRule, FixedSize, PlanLeg, RuleKind, TradePlan, WalkPlan
from ledger.records import TradeRecord
from ledger.repository import Ledger
from simulator.config import ExchangeConfig, FeeSchedule, Listing
from simulator.orders import SimOrder
from tests.rig import Rig, running_rig
from workflows.trade import TradeWorkflow

D = Decimal
CASH = D(100_000)
FEE = D("0.65")


def option(strike: int, right: OptionRight) -> Instrument:
    letter = "C" if right is OptionRight.CALL else "P"
    return Instrument(
        symbol=f"SPY261218{letter}{strike * 1000:08d}",
        kind=InstrumentKind.OPTION,
        multiplier=D(100),
        underlying="SPY",
        expiry=date(2026, 12, 18),
        strike=D(strike),
        right=right,
    )


CALL_600, CALL_610 = option(600, OptionRight.CALL), option(610, OptionRight.CALL)
PUT_500, PUT_490 = option(500, OptionRight.PUT), option(490, OptionRight.PUT)
CONTRACTS = (CALL_600, CALL_610, PUT_500, PUT_490)
MARKET = {
    CALL_600: ("12.00", "12.20"),
    CALL_610: ("8.00", "8.10"),
    PUT_500: ("4.00", "4.10"),
    PUT_490: ("2.50", "2.60"),
}
VERTICAL = (
    PlanLeg(instrument=CALL_600, side=Side.BUY),
    PlanLeg(instrument=CALL_610, side=Side.SELL),
)
CONDOR = (
    PlanLeg(instrument=CALL_600, side=Side.SELL),
    PlanLeg(instrument=CALL_610, side=Side.BUY),
    PlanLeg(instrument=PUT_500, side=Side.SELL),
    PlanLeg(instrument=PUT_490, side=Side.BUY),
)


@pytest.fixture
async def rig(
    temporal_client: Client, ledger: Ledger, unique: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rig]:
    # Fees are looked for with every read, so that the books can be compared at the end.
    monkeypatch.setattr("brokers.alpaca.client.FEE_SWEEP_INTERVAL_S", 0.0)
    listings = tuple(Listing(each, fees=FeeSchedule(per_unit=FEE)) for each in CONTRACTS)
    config = ExchangeConfig(
        listings=(Listing(Instrument(symbol="SPY")), *listings),
        cash=CASH,
        requests_per_minute=None,
    )
    async with running_rig(temporal_client, ledger, f"acct-{unique}", config=config) as made:
        made.quote("SPY", "601.00", "601.02")
        for contract, (bid, ask) in MARKET.items():
            made.quote(contract.symbol, bid, ask)
        yield made


def plan_of(rig: Rig, legs: tuple[PlanLeg, ...], **changes: Any) -> TradePlan:
    values: dict[str, Any] = {
        "trade_id": f"{rig.services.account}-1",
        "session": "s",
        "account": rig.services.account,
        "strategy": "test",
        "symbol": "SPY" if len(legs) > 1 else legs[0].instrument.symbol,
        "legs": legs,
        "side": Side.BUY if len(legs) > 1 else legs[0].side,
        "size": FixedSize(quantity=D(2)),
        "walk": WalkPlan(
            step=D("0.05"),
            interval_s=D("0.4"),
            steps_max=6,
            worst_offset=D("0.30"),
            max_time_s=D(30),
        ),
        "max_loss": D(2000),
        "signal_id": "sig",
        "signal_time": rig.clock.market0,
        "signal_max_age_s": D(600),
        "flat_by": rig.clock.market0 + timedelta(hours=5),
    }
    return TradePlan.model_validate(values | changes)


def combos(rig: Rig) -> list[SimOrder]:
    """Every combo that the exchange has ever accepted, oldest first."""
    return [order for order in rig.exchange.state.orders.values() if order.legs]


def position(rig: Rig, contract: Instrument) -> Decimal:
    return rig.exchange.state.account.quantity(contract.symbol)


def is_open(rig: Rig, legs: tuple[PlanLeg, ...], units: int) -> bool:
    return all(position(rig, leg.instrument) == units * leg.side.sign * leg.ratio for leg in legs)


async def all_fills_known(rig: Rig, handle: WorkflowHandle[Any, Any], units: int) -> None:
    """Until the trade itself holds the units."""
    for _ in range(500):
        if (await handle.query(TradeWorkflow.status)).held == units:
            return
        await rig.breathe()
    raise AssertionError(f"the trade never held {units}: {await handle.query(TradeWorkflow.story)}")


async def row_of(rig: Rig, trade_id: str) -> TradeRecord:
    row = await rig.ledger.trade(trade_id)
    assert row is not None
    return row


async def alerts(rig: Rig) -> list[str]:
    """Everything that the trade told a person, oldest first."""
    rows = await rig.ledger.list_audit()
    mine = f"{rig.services.account}-1"
    return [r.action for r in rows if r.subject == mine and r.action.startswith("alert.")]


def before_fees(result: TradeResult) -> Decimal:
    """What the trade made; which fees were told by its end is a race with the broker's rows."""
    assert result.realised is not None
    return result.realised + (result.fees or D(0))


async def check_books(rig: Rig, result: TradeResult) -> None:
    """Nothing is left at the exchange, and its cash is the ledger's to the cent (I3, I5)."""
    assert rig.exchange.open_orders == []
    assert rig.exchange.holdings() == []
    trade_id = result.trade_id
    fills = await rig.ledger.fills_of_trade(trade_id)
    journal = rig.journal("fill")
    told = {f"{row['order_id']}:{row['cumulative']}" for row in journal}
    assert {record.fill.fill_key for record in fills} == told
    await book_executions(rig.services)
    booked = await rig.ledger.fees(rig.services.account)
    fees = sum((row.amount for row in booked), D(0))
    assert fees == FEE * sum((D(row["quantity"]) for row in journal), D(0))
    assert CASH + before_fees(result) - fees == rig.exchange.state.account.cash
    row = await rig.ledger.trade(trade_id)
    assert row is not None
    # More may come next morning: the trade knows that its own are a guess.
    assert row.fees_estimated is bool(fills)
    assert await rig.ledger.unattributed_fills(rig.services.account) == ()
    assert await rig.ledger.positions_by_trade(rig.services.account) == ()
    prefix = trade_prefix(rig.services.installation, trade_id)
    assert all(order.client_id.startswith(prefix) for order in combos(rig))


async def test_debit_vertical_walks_fills_and_leaves_at_its_time_stop(rig: Rig) -> None:
    handle = await rig.start_trade(plan_of(rig, VERTICAL, time_stop_s=D(4)))
    await rig.until(lambda: is_open(rig, VERTICAL, 2), "both legs are filled")
    limits = [order.limit_price for order in combos(rig)]
    assert limits == [D("4.05"), D("4.10"), D("4.15"), D("4.20")]
    result = await handle.result()
    assert (result.outcome, result.exit_reason, result.quantity) == ("closed", "time_stop", D(2))
    assert (result.average_entry, result.average_exit) == (D("4.20"), D("3.90"))
    assert combos(rig)[-1].limit_price == D("-3.49")
    # (3.90 - 4.20) x 2 x 100
    assert before_fees(result) == D("-60.00")
    await check_books(rig, result)


async def test_credit_condor_fills_for_its_credit_and_flatten_buys_it_back(rig: Rig) -> None:
    handle = await rig.start_trade(plan_of(rig, CONDOR))
    await rig.until(lambda: is_open(rig, CONDOR, 2), "all four legs are filled")
    await all_fills_known(rig, handle, 2)
    entry = combos(rig)[-1]
    assert entry.limit_price == D("-5.30")
    status = await handle.query(TradeWorkflow.status)
    assert status.protection == "defined"
    # Nothing steps with the broker while it is held: its row may be older than its entry's fill.
    owned = await rig.ledger.positions_by_trade(rig.services.account)
    assert trade_protection(await row_of(rig, status.trade_id), owned, ()) == "defined"
    await handle.signal(TradeWorkflow.flatten, OperatorSignal(command_id="f", by="ann"))
    result = await handle.result()
    assert (result.outcome, result.exit_reason) == ("closed", "flatten")
    assert (result.average_entry, result.average_exit) == (D("-5.30"), D("-5.80"))
    # Sold for 5.30, bought back for 5.80: -0.50 x 2 x 100
    assert before_fees(result) == D("-100.00")
    await check_books(rig, result)


async def test_partial_units_are_kept_and_the_rest_is_cancelled(rig: Rig) -> None:
    rig.quote(CALL_610.symbol, "8.00", "8.10", size="1")
    rule = ExitRule(rule_id="take", kind=RuleKind.PROFIT_PERCENT, threshold=D(50))
    handle = await rig.start_trade(plan_of(rig, VERTICAL, rules=(rule,)))
    await rig.until(lambda: is_open(rig, VERTICAL, 1), "one unit is filled")
    await rig.until(lambda: rig.exchange.open_orders == [], "the rest is cancelled")
    await all_fills_known(rig, handle, 1)
    trade_id = (await handle.query(TradeWorkflow.status)).trade_id
    while (await row_of(rig, trade_id)).protection != "defined":
        await rig.breathe()
    rig.quote(CALL_610.symbol, "8.00", "8.10")
    fired = ExitTriggered(at=rig.services.now(), rule_id="take", position_epoch=1)
    await handle.signal(TradeWorkflow.exit_triggered, FactEnvelope.of(fired, fired))
    result = await handle.result()
    assert (result.outcome, result.exit_reason, result.quantity) == ("closed", "take", D(1))
    closing = [order for order in combos(rig) if "close" in (order.legs[0].intent or "")]
    assert [order.quantity for order in closing] == [D(1)]
    await check_books(rig, result)


@pytest.mark.parametrize(("legs", "worst"), [(VERTICAL, "4.15"), (CONDOR, "-5.35")])
async def test_combo_that_is_not_filled_within_its_worst_price_leaves_nothing(
    rig: Rig, legs: tuple[PlanLeg, ...], worst: str
) -> None:
    walk = WalkPlan(
        step=D("0.10"),
        interval_s=D("0.4"),
        steps_max=4,
        worst_price=D(worst),
        max_time_s=D(6),
    )
    handle = await rig.start_trade(plan_of(rig, legs, walk=walk))
    result = await handle.result()
    assert result.outcome == "not_filled"
    limits = [order.limit_price for order in combos(rig) if order.limit_price is not None]
    assert limits[-1] == D(worst)
    assert limits == sorted(set(limits))
    assert rig.journal("fill") == []
    assert rig.exchange.state.account.cash == CASH
    assert result.realised == 0
    await check_books(rig, result)


@pytest.mark.covers("K2")
async def test_flatten_while_a_combo_walks_leaves_nothing(rig: Rig) -> None:
    """K2, GT11."""
    rig.quote(CALL_600.symbol, "12.00", "13.00")
    handle = await rig.start_trade(plan_of(rig, VERTICAL))
    await rig.until(lambda: bool(rig.exchange.open_orders), "the combo works")
    await handle.signal(TradeWorkflow.flatten, OperatorSignal(command_id="f", by="ann"))
    result = await handle.result()
    assert result.outcome == "not_filled"
    await check_books(rig, result)


async def test_short_leg_that_fills_alone_is_bought_back_after_five_seconds(rig: Rig) -> None:
    """GT7: the entry is cancelled first; the leg never waits for a second one for ever."""
    rig.quote(CALL_610.symbol, "7.00", "8.10")
    handle = await rig.start_trade(plan_of(rig, VERTICAL))
    await rig.until(lambda: bool(rig.exchange.open_orders), "the combo works")
    [entry] = rig.exchange.open_orders
    rig.exchange.lifecycle.fill(entry.legs[1], D(1), D("8.05"))
    result = await handle.result()
    assert (result.outcome, result.exit_reason) == ("closed", "leg_imbalance")
    bought = rig.journal("fill")[-1]
    assert (bought["symbol"], bought["side"]) == (CALL_610.symbol, "buy")
    assert len(rig.journal("fill")) == 2
    assert "alert.NAKED_LEG" in await alerts(rig)
    await check_books(rig, result)


async def test_odd_legs_of_a_condor_are_unwound_shorts_first(rig: Rig) -> None:
    """Peers row 21: the exchange refuses a long sold under its short; no order is refused."""
    for contract in (CALL_610, PUT_490):
        rig.quote(contract.symbol, MARKET[contract][0], "11.00")
    handle = await rig.start_trade(plan_of(rig, CONDOR))
    await rig.until(lambda: bool(rig.exchange.open_orders), "the combo works")
    [entry] = rig.exchange.open_orders
    rig.exchange.lifecycle.fill(entry.legs[1], D(2), D("8.05"))
    rig.exchange.lifecycle.fill(entry.legs[0], D(1), D("12.10"))
    result = await handle.result()
    assert (result.outcome, result.exit_reason) == ("closed", "leg_imbalance")
    unwound = [(row["side"], row["quantity"]) for row in rig.journal("fill")[2:]]
    assert unwound == [("buy", "1"), ("sell", "2")]
    assert rig.journal("refused") == []
    await check_books(rig, result)
