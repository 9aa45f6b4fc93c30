"""Is the name of a kill's scope known to anybody? A kill of a misspelt name stops nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from brokers.port import Broker
from cli.context import Target
from cli.session_calls import started_with
from domain.control import KillScope, KillScopeKind
from domain.ids import trade_prefix, trade_workflow_id
from domain.order import OrderSnapshot
from domain.session import SessionSpec
from ledger.records import TradeRecord
from ledger.repository import Ledger
from strategies.registry import find_strategy

NAMES_SHOWN_MAX = 10
RUNNING_SESSIONS = "WorkflowType = 'Session' AND ExecutionStatus = 'Running'"


async def nothing_known_by(target: Target, ledger: Ledger, broker: Broker, scope: KillScope) -> str:
    """Words if no trade, order, position, session or configuration has the scope's name, or if it
    is of another account.

    Empty if one has it, and where not all could be read: not knowing is no accusation.
    """
    if scope.kind in (KillScopeKind.ALL, KillScopeKind.ACCOUNT):
        return ""
    try:
        if elsewhere := await _account_of(ledger, scope, target.settings().account.name):
            return f"{scope.text} is of account {elsewhere}: kill it there"
        seen = await _Seen.read(target, ledger, broker)
        names = seen.names(scope.kind)
        if scope.value in names or await _is_remembered(target, ledger, broker, scope):
            return ""
    except Exception:
        # The kill is in force and its receipt is due: whatever ails this look, it goes out.
        return ""
    shown = ", ".join(sorted(names)[:NAMES_SHOWN_MAX]) or "none"
    more = ", …" if len(names) > NAMES_SHOWN_MAX else ""
    return f"nothing is known by {scope.text}: open {_PLURAL[scope.kind]} are {shown}{more}"


_PLURAL = {
    KillScopeKind.ORDER: "orders",
    KillScopeKind.TRADE: "trades",
    KillScopeKind.SYMBOL: "symbols",
    KillScopeKind.STRATEGY: "strategies",
}


class _Seen:
    """What is open now: trades by the ledger, orders and positions by the broker."""

    def __init__(
        self,
        trades: Iterable[TradeRecord],
        orders: Iterable[OrderSnapshot],
        positions: Iterable[str],
    ) -> None:
        self._trades = tuple(trades)
        self._orders = tuple(orders)
        self._positions = tuple(positions)

    @staticmethod
    async def read(target: Target, ledger: Ledger, broker: Broker) -> _Seen:
        account = target.settings().account.name
        booked = [p.symbol for p in await ledger.positions_by_trade(account) if p.quantity != 0]
        held = [p.symbol for p in await broker.positions() if p.quantity != 0]
        return _Seen(
            await ledger.list_trades(account=account, open_only=True),
            await broker.open_orders(),
            (*booked, *held),
        )

    def names(self, kind: KillScopeKind) -> set[str]:
        match kind:
            case KillScopeKind.TRADE:
                return {each.trade_id for each in self._trades}
            case KillScopeKind.STRATEGY:
                return {each.strategy for each in self._trades}
            case KillScopeKind.ORDER:
                return {each.client_id for each in self._orders if each.client_id}
        legs = {leg.instrument.symbol for each in self._trades for leg in each.plan.legs}
        worked = {part.symbol for order in self._orders for part in (order, *order.legs)}
        return legs | worked | {each.symbol for each in self._trades} | set(self._positions)


async def _account_of(ledger: Ledger, scope: KillScope, account: str) -> str:
    """The other account that the ledger has this trade or order under; empty if there is none.

    The kill stands in the row of the account that it was given to, and stops nothing there.
    """
    found = ""
    if scope.kind is KillScopeKind.TRADE and (trade := await ledger.trade(scope.value)):
        found = trade.account
    if scope.kind is KillScopeKind.ORDER and (order := await ledger.intent(scope.value)):
        found = order.owner.account
    return "" if found == account else found


async def _is_remembered(target: Target, ledger: Ledger, broker: Broker, scope: KillScope) -> bool:
    """Known although nothing of it is open: the past, the settings, a session that runs."""
    value, settings = scope.value, target.settings()
    account = settings.account.name
    match scope.kind:
        case KillScopeKind.TRADE:
            prefix = trade_prefix(settings.account.installation, value)
            orders = await broker.open_orders()
            return (
                await ledger.trade(value) is not None
                or any((each.client_id or "").startswith(prefix) for each in orders)
                or await _is_workflow(await target.temporal(), value)
            )
        case KillScopeKind.ORDER:
            known = await ledger.intent(value)
            return known is not None or await broker.order_by_client_id(value) is not None
        case KillScopeKind.STRATEGY:
            if await ledger.strategy(value) is not None or find_strategy(value) is not None:
                return True
            if await ledger.list_trades(account=account, strategy=value, limit=1):
                return True
            specs = await _running_sessions(await target.temporal())
            return any(value == Path(name).stem for each in specs for name in each.strategies)
        case _:
            if value in settings.restricted_list().symbols:
                return True
            if await ledger.list_trades(account=account, symbol=value, limit=1):
                return True
            specs = await _running_sessions(await target.temporal())
            return any(value == asset.symbol for each in specs for asset in each.universe)


async def _is_workflow(client: Client, trade_id: str) -> bool:
    """A trade that has only just begun has no row yet."""
    try:
        await client.get_workflow_handle(trade_workflow_id(trade_id)).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


async def _running_sessions(client: Client) -> list[SessionSpec]:
    found = [each.id.partition("/")[2] async for each in client.list_workflows(RUNNING_SESSIONS)]
    begun = [await started_with(client, name) for name in found]
    return [each.spec for each in begun if each is not None]
