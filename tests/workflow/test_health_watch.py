"""A trade whose workflow task fails again and again is told to a person (style.md rule 7)."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from activities.health_watch import BROKER_AWAY_S, HealthWatch
from domain.commands import AlertSeverity
from domain.facts import AdjustmentKind
from domain.ids import trade_workflow_id
from ledger.records import AdjustmentRecord
from ledger.repository import Ledger
from tests.ledger.samples import plan
from tests.rig import running_rig
from tests.workflow.test_trade_thread import plan_of
from workflows import _lifecycle as life


@workflow.defn(name="Trade")
class WedgedTrade:
    """Stands for a trade with a bug: its task fails, so it is suspended and tried again."""

    @workflow.run
    async def run(self) -> None:
        raise KeyError("a bug")


async def test_wedged_workflow_of_an_open_trade_is_told_once(
    temporal_client: Client, ledger: Ledger, unique: str
) -> None:
    account = f"acct-{unique}"
    async with running_rig(temporal_client, ledger, account, workers=False) as rig:
        mine = plan(f"trade-{unique}").model_copy(update={"account": account})
        await ledger.create_trade(mine)
        watch = HealthWatch(rig.services, temporal_client)
        async with Worker(temporal_client, task_queue=unique, workflows=[WedgedTrade]):
            handle = await temporal_client.start_workflow(
                WedgedTrade.run,
                id=trade_workflow_id(mine.trade_id),
                task_queue=unique,
                task_timeout=life.TASK_TIMEOUT,
            )

            async def told() -> bool:
                await watch.look()
                return bool(await ledger.list_alerts(trade_id=mine.trade_id))

            await rig.until_async(told, "nobody was told of the wedged trade")
            await watch.look()
            await handle.terminate()
        (alert,) = await ledger.list_alerts(trade_id=mine.trade_id)
        assert (alert.code, alert.severity) == ("TRADE_STUCK", AlertSeverity.CRITICAL)
        assert alert.occurrences == 1
        assert "unknown: the workflow does not answer; no protective order rests" in alert.text


async def test_look_nets_flat_positions(
    temporal_client: Client, ledger: Ledger, unique: str
) -> None:
    """I2: what is flat is summed once more by nobody; the gate's reading stays short."""
    account = f"acct-{unique}"
    async with running_rig(temporal_client, ledger, account, workers=False) as rig:
        for quantity in (3, -3):
            moved = AdjustmentRecord(
                adjustment_id=f"a/{quantity}",
                account=account,
                trade_id="trade-1",
                symbol="ESX",
                quantity=Decimal(quantity),
                kind=AdjustmentKind.BY_HAND,
                at=rig.services.now(),
            )
            await ledger.record_adjustment(moved)
        await HealthWatch(rig.services, temporal_client).look()
        assert await ledger.net_positions(account, 10) == 0, "nothing was left to net"


async def test_key_that_is_revoked_while_nothing_is_traded_is_told_once(
    temporal_client: Client, ledger: Ledger, unique: str
) -> None:
    """I18: no order was refused, no stream fell, and nobody knew that no exit would go out."""
    account, time_s = f"acct-{unique}", [0.0]
    async with running_rig(temporal_client, ledger, account, workers=False) as rig:
        services = replace(rig.services, monotonic=lambda: time_s[0])
        watch = HealthWatch(services, temporal_client)

        async def alerts_at(at_s: float) -> list[str]:
            time_s[0] = at_s
            await watch.look()
            told = await ledger.list_alerts()
            return [a.code for a in told if a.account == account for _ in range(a.occurrences)]

        assert await alerts_at(0) == []
        rig.exchange.state.faults.add(
            {"kind": "error_before", "match": {"count": None}, "params": {"status": 401}}
        )
        assert await alerts_at(61) == []
        assert await alerts_at(61 + BROKER_AWAY_S - 1) == []
        assert await alerts_at(61 + BROKER_AWAY_S) == ["BROKER_UNREADABLE"]
        assert await alerts_at(200) == ["BROKER_UNREADABLE"]
        rig.exchange.state.faults.clear()
        assert await alerts_at(205) == ["BROKER_UNREADABLE"]


@pytest.mark.covers("E1")
async def test_position_without_its_stop_is_told_once_it_lasts(
    temporal_client: Client, ledger: Ledger, unique: str
) -> None:
    """I4, I18: a bare position was shown, and nobody was called however long it stood so."""
    account, time_s = f"acct-{unique}", [0.0]
    async with running_rig(temporal_client, ledger, account) as rig:
        rig.quote("ESX", "99.75", "100.25")
        trade = plan_of(rig)
        handle = await rig.start_trade(trade)
        await rig.until(lambda: any(o.stop_price for o in rig.exchange.open_orders), "protected")
        services = replace(rig.services, monotonic=lambda: time_s[0])
        watch = HealthWatch(services, temporal_client)

        async def told_at(at_s: float) -> int:
            time_s[0] = at_s
            await watch.look()
            told = await ledger.list_alerts(trade_id=trade.trade_id)
            return sum(a.occurrences for a in told if a.code == "POSITION_NAKED")

        # The row is older than the stop: what the ledger knows of the order counts.
        await ledger.update_trade(trade.trade_id, protection="naked")
        assert [await told_at(0), await told_at(60)] == [0, 0]

        more = AdjustmentRecord(
            adjustment_id="by_hand/more",
            account=account,
            trade_id=trade.trade_id,
            symbol="ESX",
            quantity=Decimal(5),
            kind=AdjustmentKind.BY_HAND,
            at=rig.services.now(),
        )
        await ledger.record_adjustment(more)
        await ledger.update_trade(trade.trade_id, protection="monitored")
        assert [await told_at(61), await told_at(75)] == [0, 0]
        await ledger.update_trade(trade.trade_id, protection="resting")
        # No step at the broker changes the row while an exit waits for its price.
        assert [await told_at(91), await told_at(96)] == [0, 0]
        assert [await told_at(102), await told_at(107)] == [1, 1]
        alerts = await ledger.list_alerts(trade_id=trade.trade_id)
        (alert,) = [a for a in alerts if a.code == "POSITION_NAKED"]
        assert alert.severity is AlertSeverity.CRITICAL
        assert "ESX without a stop for 11 s" in alert.text
        await handle.terminate()
