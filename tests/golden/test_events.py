"""What the golden trades of `happenings.py` leave out: nobody lends, every cent of an assignment,
orders that a split scales or takes away, an execution that is taken back.

On the real stack, at the Alpaca face: the other broker tells no statement rows, there the same
events are parked (`test_discrepancies.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from activities.adoption import adopt, prepare
from activities.doorbell import temporal_sender
from activities.reconcile import ReconcileInput, ReconcilePass, ReconcileReport
from activities.restore import Restorer
from domain.adoption import AdoptionRequest
from domain.ids import trade_workflow_id
from domain.instrument import Instrument
from domain.messages import TradeResult
from domain.money import total
from domain.occ import option_instrument
from domain.order import Side
from domain.plan import FixedSize, PlanLeg, PlanPrice, StopPlan, TargetPlan, TradePlan, WalkPlan
from ledger.records import EXTERNAL, TradePosition
from ledger.repository import Ledger
from simulator.config import ExchangeConfig, FeeSchedule, Listing
from simulator.events import OrdersOnSplit
from tests.rig import Rig, running_rig
from workflows.trade import TradeWorkflow

pytestmark = pytest.mark.timeout(240)
D = Decimal
CASH = D(100_000)
SHARE = Instrument(symbol="ESX")
PUT = option_instrument("ESX130906P00100000")
CALL = option_instrument("ESX130920C00105000")
EXPIRY = date(2013, 9, 6)


@asynccontextmanager
async def stack(client: Client, ledger: Ledger, unique: str, **changes: Any) -> AsyncIterator[Rig]:
    """The whole stack, its exchange with these changes."""
    config = ExchangeConfig(requests_per_minute=None, **changes)
    async with running_rig(client, ledger, f"acct-{unique}", config=config) as rig:
        rig.deadline_s = 60.0
        yield rig


def plan(rig: Rig, instrument: Instrument, side: Side, **changes: Any) -> TradePlan:
    """A walk from the near side to at most one point away."""
    account = rig.services.account
    values: dict[str, Any] = {
        "trade_id": f"{account}-{instrument.symbol.lower()}",
        "session": "golden",
        "account": account,
        "strategy": "scripted",
        "symbol": instrument.symbol,
        "legs": (PlanLeg(instrument=instrument, side=side),),
        "side": side,
        "size": FixedSize(quantity=D(10)),
        "walk": WalkPlan(
            step=D("0.25"), interval_s=D("0.4"), steps_max=3, worst_offset=D(1), max_time_s=D(30)
        ),
        "signal_id": f"signal-{instrument.symbol}"[:48],
        "signal_time": rig.exchange.now,
        "signal_max_age_s": D(600),
    }
    if instrument.expiry is not None:
        # The gate takes no plan without it (G6); the trade's own clock does not get there.
        values["flat_by"] = datetime.combine(instrument.expiry, time(19), UTC)
    return TradePlan.model_validate(values | changes)


async def reconcile(rig: Rig) -> ReconcileReport:
    """One pass, as the schedule makes it."""
    one = ReconcilePass(rig.services, temporal_sender(rig.client))
    try:
        report = await one.run(ReconcileInput(account=rig.services.account, settle_s=0.3))
        await one.told()
        return report
    finally:
        await one.aclose()


def kinds(report: ReconcileReport) -> list[str]:
    return sorted(str(finding.kind) for finding in report.findings)


async def first_findings(rig: Rig) -> list[str]:
    """Passes until one finds something: a symbol with orders on their way waits for the next."""
    found: list[str] = []

    async def has_found() -> bool:
        found.extend(kinds(await reconcile(rig)))
        return found != []

    await rig.until_async(has_found, "reconcile finds something")
    return found


def stops(rig: Rig) -> list[tuple[Decimal, Decimal | None]]:
    """Quantity and price of every stop that rests."""
    return [(o.quantity, o.stop_price) for o in rig.exchange.open_orders if o.stop_price]


def at(rig: Rig, day: int, hour: int, minute: int = 0) -> datetime:
    """An instant of the exchange's September, UTC."""
    return rig.exchange.now.replace(day=day, hour=hour, minute=minute, second=0, microsecond=0)


# --- GT19 ----------------------------------------------------------------------------------------


@pytest.mark.covers("R5")
@pytest.mark.parametrize("orders", [OrdersOnSplit.RESCALE, OrdersOnSplit.CANCEL])
async def test_gt19_gtc_stop_is_right_again_before_the_open_after_a_split(
    temporal_client: Client, ledger: Ledger, unique: str, orders: OrdersOnSplit
) -> None:
    """R5: 10 at 100 become 20 at 50; stop and target follow, the money is the exchange's own."""
    listing = Listing(SHARE, fees=FeeSchedule(per_unit=D("0.01")))
    async with stack(temporal_client, ledger, unique, listings=(listing,), daily_fees=True) as rig:
        rig.quote("ESX", "99.75", "100.25")
        handle = await rig.start_trade(
            plan(
                rig,
                SHARE,
                Side.BUY,
                stop=StopPlan(price=PlanPrice(absolute=D(95))),
                targets=(TargetPlan(price=PlanPrice(absolute=D(110)), fraction=D(1)),),
            )
        )
        await rig.until(lambda: stops(rig) == [(D(10), D(95))], "protected")
        await reconcile(rig)
        rig.exchange.advance_to(at(rig, 4, 8))
        rig.exchange.events.split("ESX", 2, orders=orders)
        assert await first_findings(rig) == ["split"]
        await rig.until(lambda: stops(rig) == [(D(20), D("47.5"))], "protected in new shares")
        assert kinds(await reconcile(rig)) == []

        rig.exchange.advance_to(at(rig, 4, 13, 31))
        rig.quote("ESX", "50.10", "50.20")
        assert stops(rig) == [(D(20), D("47.5"))]
        rig.quote("ESX", "55.10", "55.20")
        result = await handle.result()

        assert (result.outcome, result.exit_reason) == ("closed", "target")
        assert rig.exchange.holdings() == []
        rig.exchange.advance_to(at(rig, 5, 20))
        await reconcile(rig)
        trade = await rig.ledger.trade(result.trade_id)
        assert trade is not None
        assert not trade.fees_estimated
        assert trade.fees == total(D(row["amount"]) for row in rig.journal("fee")) > 0
        assert CASH + (trade.realised or D(0)) == rig.exchange.state.account.cash


# --- GT17 ----------------------------------------------------------------------------------------


@pytest.mark.covers("R4")
async def test_gt17_cash_secured_put_is_assigned_and_its_shares_are_taken_over(
    temporal_client: Client, ledger: Ledger, unique: str
) -> None:
    """R4: shares at strike less premium, nobody's until a person takes them, then protected.

    The exchange allows a call over shares; our gate prices no cover and refuses it: fail closed.
    """
    listings = (Listing(SHARE), Listing(PUT), Listing(CALL))
    async with stack(temporal_client, ledger, unique, listings=listings) as rig:
        rig.quote("ESX", "100.75", "101.25")
        rig.quote(PUT.symbol, "1.99", "2.01")
        await reconcile(rig)
        put = await rig.start_trade(
            plan(rig, PUT, Side.SELL, size=FixedSize(quantity=D(1)), max_loss=D(9_800))
        )
        account = rig.exchange.state.account
        await rig.until(lambda: account.quantity(PUT.symbol) == -1, "the put is sold")
        premium = D(rig.journal("fill")[0]["price"])
        assert kinds(await reconcile(rig)) == []

        rig.exchange.advance_to(at(rig, 6, 19))
        rig.quote("ESX", "95.00", "95.10")
        rig.exchange.advance_to(at(rig, 6, 21))
        assert kinds(await reconcile(rig)) == []
        rig.exchange.advance_to(at(rig, 9, 12))
        assert kinds(await reconcile(rig)) == ["assignment"]
        result = await put.result()

        assert (result.outcome, result.exit_reason) == ("closed", "assignment")
        assert result.realised == 0
        owned = await rig.ledger.positions_by_trade(rig.services.account)
        assert owned == (TradePosition(trade_id=EXTERNAL, symbol="ESX", quantity=D(100)),)
        rows = await rig.ledger.adjustments(rig.services.account)
        assert [row.price for row in rows if row.symbol == "ESX"] == [D(100) - premium]
        assert kinds(await reconcile(rig)) == []

        rig.exchange.advance_to(at(rig, 9, 14))
        rig.quote("ESX", "95.00", "95.10")
        rig.quote(CALL.symbol, "0.99", "1.01")
        adoption = await prepare(
            rig.services,
            AdoptionRequest(
                symbol="ESX",
                account=rig.services.account,
                trade_id=f"{rig.services.account}-shares",
                command_id="a-1",
                stop=D(90),
                targets=(D(104),),
            ),
            rig.clock,
        )
        assert await adopt(
            rig.services, Restorer(rig.services, rig.client, rig.queue), adoption, rig.clock
        )
        await rig.until(lambda: stops(rig) == [(D(100), D(90))], "the shares are protected")
        call = await rig.start_trade(
            plan(rig, CALL, Side.SELL, size=FixedSize(quantity=D(1)), max_loss=D(500))
        )
        refused = await call.result()
        assert refused.outcome == "refused"

        rig.quote("ESX", "104.50", "104.60")
        shares: WorkflowHandle[TradeWorkflow, TradeResult] = rig.client.get_workflow_handle_for(
            TradeWorkflow.run, trade_workflow_id(adoption.plan.trade_id)
        )
        ended = await shares.result()
        assert (ended.outcome, ended.exit_reason) == ("closed", "target")
        assert CASH + (ended.realised or D(0)) == rig.exchange.state.account.cash


# --- GT15 ----------------------------------------------------------------------------------------


def short_plan(rig: Rig) -> TradePlan:
    """Sells ten at the mid and waits there: no step takes the bid."""
    return plan(
        rig,
        SHARE,
        Side.SELL,
        walk=WalkPlan(
            step=D("0.25"), interval_s=D(5), steps_max=0, worst_offset=D(1), max_time_s=D(120)
        ),
        stop=StopPlan(price=PlanPrice(offset=D(2))),
        targets=(TargetPlan(price=PlanPrice(offset=D(-3)), fraction=D(1)),),
    )


async def test_gt15_short_sale_without_shares_to_borrow_ends_unfilled(
    temporal_client: Client, ledger: Ledger, unique: str
) -> None:
    """C10: accepted first, rejected when nobody lends."""
    listing = Listing(SHARE, locate_s=D(45), can_borrow=False)
    async with stack(temporal_client, ledger, unique, listings=(listing,)) as rig:
        rig.quote("ESX", "100.00", "100.50")
        handle = await rig.start_trade(short_plan(rig))
        await rig.until(lambda: bool(rig.journal("locate")), "asked for shares")
        rig.exchange.advance_to(rig.exchange.now + timedelta(seconds=46))
        result = await handle.result()
        assert result.outcome == "not_filled"
        assert rig.journal("fill") == []
        assert rig.exchange.open_orders == []


# --- a trade that the venue takes back -----------------------------------------------------------


async def test_busted_entry_leaves_neither_position_nor_stop(
    temporal_client: Client, ledger: Ledger, unique: str
) -> None:
    """D9: the execution is reversed by a row of its own, the exits go, nothing is earned."""
    async with stack(temporal_client, ledger, unique, listings=(Listing(SHARE),)) as rig:
        rig.quote("ESX", "99.75", "100.25")
        await reconcile(rig)
        handle = await rig.start_trade(
            plan(rig, SHARE, Side.BUY, stop=StopPlan(price=PlanPrice(absolute=D(95))))
        )
        await rig.until(lambda: stops(rig) == [(D(10), D(95))], "protected")
        rig.exchange.bust(str(rig.journal("fill")[0]["execution_id"]))
        result = await handle.result()
        assert result.realised == 0
        assert rig.exchange.open_orders == []
        assert await rig.ledger.positions_by_trade(rig.services.account) == ()
        assert kinds(await reconcile(rig)) == []
        assert rig.exchange.state.account.cash == CASH
