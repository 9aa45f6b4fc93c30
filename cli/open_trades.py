"""Open trades as they are now: by their workflows, and by the ledger where those are silent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from temporalio.client import WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.service import RPCError

from activities.protective_orders import protection_by_ledger, protective_orders
from cli.context import Target, TemporalDown
from domain.ids import trade_workflow_id
from domain.messages import TradeStatus
from ledger.records import TradeRecord

STATUS_TIMEOUT = timedelta(seconds=2.5)
"""A worker that has left keeps a question for a second (sticky queue) before another gets it."""
STATUS_QUERIES_MAX = 20


async def open_trades_of(
    target: Target, session: str, account: str, started: Iterable[str] = ()
) -> list[dict[str, object]]:
    """The session's open trades on the account, each as it is now.

    One of `started` that has no row in the ledger yet is only starting.

    Raises:
        HoldfastError: the ledger was not read; what is open is then unknown.
    """
    async with target.ledger() as ledger:
        trades = await ledger.list_trades(account=account, session=session, open_only=True)
        known = {each.trade_id for each in trades}
        unseen = [each for each in started if each not in known]
        starting = [each for each in unseen if await ledger.trade(each) is None]
        resting = await protective_orders(ledger, account)
    now = await live_statuses(target, trades, resting)
    rows = [
        {"trade_id": each.trade_id, "symbol": each.symbol} | now[each.trade_id] for each in trades
    ]
    return rows + [{"trade_id": each, "stage": "starting"} for each in starting]


async def live_statuses(
    target: Target, trades: Sequence[TradeRecord], resting: Mapping[str, int]
) -> dict[str, dict[str, object]]:
    """Stage and protection of open trades from their workflows.

    The ledger's row is as old as the trade's last step at the broker, so where a workflow does
    not answer in time the row's stage is marked as doubtful, and how it is protected the
    orders tell that rest by the ledger.
    """
    installation = target.settings().account.installation
    found: dict[str, dict[str, object]] = {
        each.trade_id: {
            "stage": f"{each.stage}?",
            "protection": protection_by_ledger(resting, installation, each.trade_id),
        }
        for each in trades
    }
    try:
        client = await target.temporal()
    except TemporalDown:
        return found
    gate = asyncio.Semaphore(STATUS_QUERIES_MAX)

    async def ask(trade_id: str) -> None:
        handle = client.get_workflow_handle(trade_workflow_id(trade_id))
        async with gate:
            try:
                status = await handle.query(
                    "status", result_type=TradeStatus, rpc_timeout=STATUS_TIMEOUT
                )
            except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
                return
        found[trade_id] = {
            "stage": status.stage,
            "protection": status.protection,
            "version": status.version,
            "hand": status.hand,
            "naked_s": status.naked_so_far_s(datetime.now(UTC)),
        }

    await asyncio.gather(*(ask(each.trade_id) for each in trades))
    return found
