"""The account's state as numbers for a scrape: one round trip, indexes only where rows are many."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text

from ledger.connection import LedgerConnection
from ledger.records import ALL_ACCOUNTS


class Measured(NamedTuple):
    """One number: name and label value as in `docs/metrics.md`, empty without a label."""

    name: str
    label: str
    value: float


# Money leaves exactness here: a gauge is for eyes, no booking reads it back.
_READING = text(
    """
WITH live AS (
    SELECT state, intent #>> '{key,purpose}' AS purpose, gate_at FROM orders
    WHERE account = :account AND NOT terminal AND state IN ('sending', 'unknown', 'accepted')
), opened AS (
    SELECT stage, protection FROM trades WHERE account = :account AND closed_at IS NULL
), ended AS (
    SELECT result, realised, fees, (document ->> 'naked_s')::float8 AS naked_s FROM trades
    WHERE account = :account AND closed_at >= :since
), held AS (
    SELECT trade_id IS NULL AS foreign_one, symbol FROM (
        SELECT trade_id, symbol,
            CASE side WHEN 'buy' THEN quantity ELSE -quantity END AS quantity
        FROM fills WHERE account = :account AND NOT netted
        UNION ALL
        SELECT trade_id, symbol, quantity FROM adjustments WHERE account = :account AND NOT netted
    ) AS moves GROUP BY trade_id, symbol HAVING sum(quantity) <> 0
), risk AS (
    SELECT notional, loss FROM reservations
    WHERE account = :account AND approved AND released_at IS NULL
)
SELECT 'trades_open', stage, count(*)::float8 FROM opened GROUP BY stage
UNION ALL SELECT 'trades_protected', coalesce(nullif(protection, ''), 'none'), count(*)
    FROM opened GROUP BY 2
UNION ALL SELECT 'trades_closed_today',
    CASE WHEN realised > 0 THEN 'won' WHEN realised < 0 THEN 'lost' ELSE 'even' END, count(*)
    FROM ended GROUP BY 2
UNION ALL SELECT 'realised_today_amount', '', coalesce(sum(realised), 0) FROM ended
UNION ALL SELECT 'fees_today_amount', '', coalesce(sum(fees), 0) FROM ended
UNION ALL SELECT 'naked_today_seconds', '', coalesce(sum(naked_s), 0) FROM ended
UNION ALL SELECT 'positions_open', owner, count(held.symbol) FROM
    (VALUES ('trade', false), ('external', true)) AS owners (owner, foreign_one)
    LEFT JOIN held USING (foreign_one) GROUP BY owner
UNION ALL SELECT 'orders_working', coalesce(purpose, ''), count(*) FROM live
    WHERE state = 'accepted' GROUP BY 2
UNION ALL SELECT 'orders_unknown', '', count(*) FROM live
    WHERE state = 'unknown'
    OR (state = 'sending' AND gate_at < clock_timestamp() - interval '5 seconds')
UNION ALL SELECT 'orders_today', coalesce(nullif(status, ''), state), count(*) FROM orders
    WHERE account = :account AND gate_at >= :since GROUP BY 2
UNION ALL SELECT 'fills_untold', '', count(*) FROM fills WHERE account = :account AND NOT told
UNION ALL SELECT 'account_armed', '', coalesce((SELECT armed::int FROM control
    WHERE account = :account), 0)
UNION ALL SELECT 'kills_engaged', scope_kind, count(*) FROM kills
    WHERE account IN (:account, :common) AND reset_at IS NULL GROUP BY 2
UNION ALL SELECT 'conditions_active', kind, count(*) FROM conditions
    WHERE account IN (:account, :common) GROUP BY 2
UNION ALL SELECT 'risk_breaker_tripped', '', coalesce((SELECT (state <> 'normal')::int
    FROM risk_breakers WHERE account = :account), 1)
UNION ALL SELECT 'api_breaker_open', '', coalesce((SELECT CASE state WHEN 'closed' THEN 0
    WHEN 'half_open' THEN 0.5 ELSE 1 END FROM api_breakers
    WHERE broker = (SELECT broker FROM accounts WHERE account = :account)), 1)
UNION ALL SELECT 'reconcile_age_seconds', '', extract(epoch FROM clock_timestamp()
    - value::timestamptz) FROM cursors WHERE name = 'reconcile/' || :account
UNION ALL SELECT 'reservations_held', '', count(*) FROM risk
UNION ALL SELECT 'reserved_notional_amount', '', coalesce(sum(notional), 0) FROM risk
UNION ALL SELECT 'reserved_loss_amount', '', coalesce(sum(loss), 0) FROM risk
UNION ALL SELECT 'exit_watches', '', count(*) FROM watches WHERE account = :account
UNION ALL SELECT 'exit_watch_age_seconds', '', coalesce(extract(epoch FROM clock_timestamp()
    - min(evaluated_at)), 0) FROM watches WHERE account = :account
UNION ALL SELECT 'alerts_unacknowledged', '', count(*) FROM alerts
    WHERE account IN (:account, :common) AND severity = 'critical' AND acknowledged_at IS NULL
UNION ALL SELECT 'alerts_today', severity, count(*) FROM alerts
    WHERE raised_at >= :since AND account IN (:account, :common) GROUP BY 2
UNION ALL SELECT 'alert_deliveries_pending', channel, count(*) FROM alert_deliveries
    WHERE state = 'pending' GROUP BY 2
UNION ALL SELECT 'audit_rows', '', sequence FROM audit_head
    """
)


class MetricStore(LedgerConnection):
    """Reading for eyes; nothing decides on it."""

    async def measure(self, account: str, since: datetime) -> tuple[Measured, ...]:
        """Every number of the account; "today" begins at `since`, the account's roll."""
        asked = {"account": account, "since": since, "common": ALL_ACCOUNTS}
        async with self._statement() as connection:
            rows = (await connection.execute(_READING, asked)).all()
        return tuple(Measured(str(row[0]), str(row[1]), float(row[2])) for row in rows)
