"""Flatten on real parts: closes, says PENDING where it cannot, never done too early (K2, K3)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from temporalio.client import WorkflowHandle

from activities.emergency import DirectFlatten, held_by_trades, held_by_us
from activities.flatten import FlattenInput, FlattenReceipt, flatten_id
from deploy.temporal.lanes import limit_queue
from domain.control import KillScope, KillScopeKind
from domain.ids import order_queue
from domain.plan import PlanPrice, TargetPlan
from ledger.records import EXTERNAL
from simulator.orders import Side as SimSide
from simulator.orders import SimOrder
from tests.fixtures_postgres import run_as_superuser
from tests.rig import Rig
from tests.workflow.test_trade_thread import plan_of
from workflows.flatten import FlattenWorkflow

D = Decimal


async def start_flatten(
    rig: Rig, command_id: str = ""
) -> WorkflowHandle[FlattenWorkflow, FlattenReceipt]:
    """Everything of the account; the command id is the account's own."""
    scope = KillScope(kind=KillScopeKind.ACCOUNT, value=rig.services.account)
    command = command_id or f"flat-{rig.services.account}"
    given = FlattenInput(
        command_id=command, account=rig.services.account, scope=scope, by="ada", reason="test"
    )
    return await rig.client.start_workflow(
        FlattenWorkflow.run,
        given,
        id=flatten_id(command, scope, rig.services.account),
        task_queue=rig.queue,
    )


def _stops(rig: Rig) -> list[SimOrder]:
    return [order for order in rig.exchange.open_orders if order.stop_price is not None]


def stop_rests(rig: Rig) -> bool:
    return _stops(rig) != []


def position(rig: Rig) -> Decimal:
    """What the exchange says is held."""
    rows = rig.journal("position")
    return D(str(rows[-1]["quantity"])) if rows else D(0)


async def test_flatten_closes_the_position_and_the_receipt_says_so(rig: Rig) -> None:
    trade = await rig.start_trade(plan_of(rig))
    await rig.until(lambda: stop_rests(rig), "protected")
    receipt = await (await start_flatten(rig)).result()
    result = await trade.result()
    assert result.exit_reason == "flatten"
    assert rig.exchange.open_orders == []
    assert position(rig) == 0
    assert receipt.done
    [line] = receipt.lines
    assert (line.found, line.filled, line.left, line.why) == (D(10), D(10), D(0), "")
    # However often it looked: opened, flattened and closed are told once each (I18).
    told = await rig.ledger.list_alerts(account=rig.services.account)
    assert sorted(alert.code for alert in told) == ["FLATTEN", "TRADE_CLOSED", "TRADE_OPENED"]
    assert all(alert.occurrences == 1 for alert in told)


@pytest.mark.covers("K3")
async def test_flatten_in_a_lane_of_one_step_a_second_puts_nothing_back_up(rig: Rig) -> None:
    """I4: with its burst used up the quote ages while three cancels go out; the exit follows."""
    targets = tuple(
        TargetPlan(price=PlanPrice(offset=D(offset)), fraction=D(fraction))
        for offset, fraction in ((3, "0.3"), (4, "0.3"), (5, "0.4"))
    )
    await rig.start_trade(plan_of(rig).model_copy(update={"targets": targets}))
    await rig.until(lambda: len(_stops(rig)) == 3, "protected")
    rig.quote("ESX", "99.75", "100.25")
    await limit_queue(rig.client, order_queue(rig.services.account), D(1), "a lane at its end")
    before = len(rig.journal("request"))
    receipt = await (await start_flatten(rig)).result()
    assert receipt.done
    sent = [row["action"] for row in rig.journal("request")[before:]]
    assert sent == ["cancel", "cancel", "cancel", "submit"], rig.journal("request")[before:]
    assert position(rig) == 0


@pytest.mark.covers("K3", "G3")
async def test_flatten_names_what_the_account_holds_of_no_trade(rig: Rig) -> None:
    """K2: the broker is not flat; it was told as DONE without a line."""
    rig.exchange.events.trade_by_hand("ESX", SimSide.BUY, D(42), D(100))
    receipt = await (await start_flatten(rig)).result()
    assert receipt.done
    [line] = receipt.lines
    assert (line.symbol, line.trade_id, line.left) == ("ESX", EXTERNAL, D(42))
    assert line.why
    assert position(rig) == 42


@pytest.mark.covers("K2", "H3")
async def test_flatten_names_what_is_held_by_a_trade_that_the_ledger_has_lost(
    rig: Rig, ledger_dsn: str
) -> None:
    """K2: with its row gone (an older copy was put back) the broker was told to be flat."""
    await rig.start_trade(plan_of(rig))
    await rig.until(lambda: stop_rests(rig), "protected")
    await run_as_superuser(
        ledger_dsn, f"DELETE FROM trades WHERE account = '{rig.services.account}'"
    )
    receipt = await (await start_flatten(rig)).result()
    [line] = receipt.lines
    assert (line.symbol, line.trade_id, line.left) == ("ESX", EXTERNAL, D(10))
    assert position(rig) == 10
    assert stop_rests(rig)


@pytest.mark.covers("K3")
async def test_flatten_tells_trades_though_the_ledger_misses_executions(
    rig: Rig, ledger_dsn: str
) -> None:
    """Executions that nobody could read, or that are gone, barred the way out of the account."""
    trade = await rig.start_trade(plan_of(rig))
    await rig.until(lambda: stop_rests(rig), "protected")
    account = rig.services.account
    await run_as_superuser(ledger_dsn, f"UPDATE fills SET quantity = 9 WHERE account = '{account}'")
    handle = await start_flatten(rig)
    assert (await trade.result()).exit_reason == "flatten"
    assert position(rig) == 0
    assert rig.exchange.open_orders == []
    # Its books are not whole: that stays said.
    receipt = await until_pending(rig, handle, "EXECUTIONS_MISSING")
    assert not receipt.done
    await handle.terminate()


async def test_flatten_in_a_halt_is_pending_and_the_stop_stays(rig: Rig) -> None:
    await rig.start_trade(plan_of(rig))
    await rig.until(lambda: stop_rests(rig), "protected")
    rig.exchange.halt("ESX")
    handle = await start_flatten(rig)
    receipt = await until_pending(rig, handle, "HALTED")
    assert not receipt.done
    assert stop_rests(rig)
    assert position(rig) == D(10)
    rig.exchange.resume("ESX")
    rig.quote("ESX", "99.75", "100.25")
    done = await handle.result()
    assert done.done
    assert position(rig) == 0


async def until_pending(
    rig: Rig, handle: WorkflowHandle[FlattenWorkflow, FlattenReceipt], reason: str
) -> FlattenReceipt:
    """The first receipt that gives the reason; the wait has the rig's deadline."""
    seen: list[FlattenReceipt] = []

    async def look() -> None:
        while not seen or reason not in seen[-1].pending:
            seen.append(await handle.query(FlattenWorkflow.receipt))

    async with asyncio.timeout(60):
        await look()
    return seen[-1]


async def test_same_command_is_one_execution(rig: Rig) -> None:
    await rig.start_trade(plan_of(rig))
    await rig.until(lambda: stop_rests(rig), "protected")
    first = await start_flatten(rig)
    receipt = await first.result()
    exits = [row for row in rig.journal("accepted") if row["side"] == "sell"]
    assert receipt.done
    again = await start_flatten(rig)
    assert (await again.result()).done
    assert [row for row in rig.journal("accepted") if row["side"] == "sell"] == exits


async def test_direct_flatten_without_ledger_closes_only_what_is_ours(rig: Rig) -> None:
    """The way out with every server away: broker lists alone, derived ids (K8)."""
    await rig.start_trade(plan_of(rig))
    await rig.until(lambda: stop_rests(rig), "protected")
    held, foreign = await held_by_us(rig.broker, rig.services.installation)
    assert [(leg.symbol, leg.quantity) for leg in held] == [("ESX", D(10))]
    assert foreign == ()
    strangers, unknown = await held_by_us(rig.broker, "0000")
    assert strangers == ()
    assert unknown == ("ESX",)
    direct = DirectFlatten(
        rig.broker,
        rig.services.installation,
        "emergency-1",
        ledger=None,
        collar_fraction=D("0.02"),
        now=lambda: datetime.now(UTC),
    )
    [line] = await direct.run(held)
    assert line.is_flat
    assert (line.found, line.filled, line.left) == (D(10), D(10), D(0))
    assert position(rig) == 0


@pytest.mark.covers("K8")
@pytest.mark.parametrize("ledger_is_there", [True, False])
async def test_trade_that_was_flattened_directly_closes_by_itself(
    rig: Rig, ledger_is_there: bool
) -> None:
    """Its own workflow was not asked; it must neither stay open nor sell a second time (I4)."""
    plan = plan_of(rig)
    trade = await rig.start_trade(plan)
    await rig.until(lambda: stop_rests(rig), "protected")
    account, installation = rig.services.account, rig.services.installation
    if ledger_is_there:
        held = await held_by_trades(rig.ledger, account, installation, [plan.trade_id])
    else:
        held, _ = await held_by_us(rig.broker, installation)
    direct = DirectFlatten(
        rig.broker,
        installation,
        "emergency-3",
        ledger=rig.ledger if ledger_is_there else None,
        collar_fraction=D("0.02"),
        now=lambda: datetime.now(UTC),
    )
    [line] = await direct.run(held)
    assert line.is_flat, line
    result = await trade.result()
    assert result.outcome == "closed"
    assert position(rig) == 0
    assert await rig.ledger.positions_by_trade(account) == ()
    sold = [D(str(row["quantity"])) for row in rig.journal("fill") if row["side"] == "sell"]
    assert sum(sold) == D(10)
    alerts = {alert.code for alert in await rig.ledger.list_alerts(account=account)}
    assert "FILL_UNATTRIBUTED" not in alerts, alerts


@pytest.mark.covers("K3")
async def test_direct_flatten_in_a_halt_releases_nothing(rig: Rig) -> None:
    await rig.start_trade(plan_of(rig))
    await rig.until(lambda: stop_rests(rig), "protected")
    held, _ = await held_by_us(rig.broker, rig.services.installation)
    rig.exchange.halt("ESX")
    direct = DirectFlatten(
        rig.broker,
        rig.services.installation,
        "emergency-2",
        ledger=None,
        collar_fraction=D("0.02"),
        now=lambda: datetime.now(UTC),
    )
    [line] = await direct.run(held)
    assert line.why == "PENDING HALTED"
    assert line.left == D(10)
    assert stop_rests(rig)
