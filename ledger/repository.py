"""The ledger: every method one transaction on PostgreSQL, composed of small stores.

| store | holds |
|---|---|
| `ControlStore`, `ResetStore` | accounts, arm, latched kills, operators, lifting a kill |
| `SwitchStore` | conditions, risk and API breakers, equity baselines |
| `GateStore`, `OrderStore` | the last-hop gate, attempts, answers, snapshots, order lists |
| `FillStore`, `CashStore` | executions, reversals, fees, adjustments, positions, cash |
| `RiskStore` | reservations and verdicts |
| `TradeStore`, `WatchStore` | trades, signals, exit-watch rows |
| `AlertStore`, `MetricStore` | the alert outbox and its deliveries; numbers for a scrape |
| `MarketStore` | halts, bars and recordings of the market-data stream |
| `OperationStore`, `AuditStore` | leases, cursors, the hash-chained audit |
| `DeploymentStore` | the builds and settings that may open positions |

All of them raise `LedgerDown` (code LEDGER_DOWN) within seconds when PostgreSQL is away. Schema:
`ledger.migrate.upgrade(dsn)` and `downgrade(dsn)`.
"""

from __future__ import annotations

from typing import Self

from domain.errors import Broken
from ledger.alert_store import AlertStore
from ledger.audit import AuditStore
from ledger.cash_store import CashStore
from ledger.deployment_store import DeploymentStore
from ledger.fill_store import FillStore
from ledger.gate_store import GateStore
from ledger.market_store import MarketStore
from ledger.metric_store import MetricStore
from ledger.operation_store import OperationStore
from ledger.order_store import OrderStore
from ledger.reset_store import ResetStore
from ledger.risk_store import RiskStore
from ledger.schema import current_revision, head_revision
from ledger.strategy_store import StrategyStore
from ledger.switch_store import SwitchStore
from ledger.trade_store import TradeStore
from ledger.watch_store import WatchStore

SCHEMA_VERSION = "SCHEMA_VERSION"


class Ledger(
    ResetStore,
    SwitchStore,
    GateStore,
    OrderStore,
    FillStore,
    CashStore,
    RiskStore,
    TradeStore,
    StrategyStore,
    WatchStore,
    MarketStore,
    OperationStore,
    DeploymentStore,
    AlertStore,
    MetricStore,
    AuditStore,
):
    """One installation's book of record. Make it with `connect`, end it with `aclose`."""

    @classmethod
    async def connect(
        cls, dsn: str, *, pool_size: int = 10, connect_timeout_s: float = 2.0
    ) -> Self:
        """Opens the pools and checks that the schema is the one this code knows.

        Args:
            dsn: `postgresql://user:secret@host:port/database`.
            pool_size: connections for work; two more are kept for the kill path (F5).

        Raises:
            LedgerDown: PostgreSQL did not answer within `connect_timeout_s`.
            Broken: `SCHEMA_VERSION`, run `ledger.migrate.upgrade` first.
        """
        known = head_revision()
        found = await current_revision(dsn, connect_timeout_s=connect_timeout_s)
        if known != found:
            text = f"schema revision was {found}, this code needs {known}"
            raise Broken(text, code=SCHEMA_VERSION)
        ledger = cls(dsn, pool_size=pool_size, connect_timeout_s=connect_timeout_s)
        await ledger.installation_id()
        return ledger
