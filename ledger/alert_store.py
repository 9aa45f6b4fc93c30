"""The alert outbox: raised in the transaction of the event itself, delivered by a sender.

`add_alert` is called inside the transaction that makes the event true (a kill, a tripped breaker,
a first fill), so that there is no event without its alert and no alert without its event. The
sender plans who hears it, claims what is due, and records what became of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, case, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.alerts import AlertDraft, Receiver
from domain.commands import AlertSeverity
from domain.errors import Refused
from ledger.audit import append_audit_row
from ledger.connection import LedgerConnection, notify
from ledger.records import (
    ALL_ACCOUNTS,
    AlertRecord,
    DeliveryRecord,
    DeliveryState,
    DueDelivery,
)
from ledger.rows import Columns
from ledger.tables import alert_deliveries as deliveries
from ledger.tables import alerts

ALERT_CHANNEL = "holdfast_alerts"
REPEAT_WINDOW_S = 600
PLANNED_AT_ONCE = 100

Plan = Callable[[AlertRecord], Sequence[Receiver]]


async def add_alert(connection: AsyncConnection, draft: AlertDraft) -> bool:
    """Raises an alert inside the caller's transaction; True if it is to be told now.

    An equal key counts up; after the repeat window it is raised anew (unless `once`), which
    takes an old acknowledgement back.
    """
    row = draft.model_dump(exclude={"once"}) | {"severity": draft.severity.value}
    statement = upsert(alerts).values(**row)
    if draft.once:
        done = statement.on_conflict_do_nothing().returning(alerts.c.alert_id)
        is_told = (await connection.execute(done)).one_or_none() is not None
    else:
        now = func.clock_timestamp()
        again = alerts.c.last_at < now - timedelta(seconds=REPEAT_WINDOW_S)
        raised = statement.on_conflict_do_update(
            index_elements=["key"],
            set_={
                "text": draft.text,
                "last_at": now,
                "occurrences": alerts.c.occurrences + 1,
                "round": case((again, alerts.c.round + 1), else_=alerts.c.round),
                "raised_at": case((again, now), else_=alerts.c.raised_at),
                "escalations": case((again, 0), else_=alerts.c.escalations),
                "escalated_at": case((again, None), else_=alerts.c.escalated_at),
                "acknowledged_at": case((again, None), else_=alerts.c.acknowledged_at),
                "acknowledged_by": case((again, ""), else_=alerts.c.acknowledged_by),
            },
        ).returning((alerts.c.planned_round < alerts.c.round).label("is_told"))
        is_told = bool((await connection.execute(raised)).scalar_one())
    if is_told:
        await notify(connection, ALERT_CHANNEL, draft.account)
    return is_told


async def tell_opening(
    connection: AsyncConnection, account: str, trade_id: str, fill: Mapping[str, Any]
) -> None:
    """The first fill of a trade opens it; the key lets no later one tell it again.

    `fill` is a row of `fills`: booked with its trade, or attributed to it afterwards.
    """
    side, quantity, price = fill["side"], fill["quantity"], fill["price"]
    draft = AlertDraft(
        key=f"trade-opened/{trade_id}",
        account=account,
        trade_id=trade_id,
        code="TRADE_OPENED",
        severity=AlertSeverity.INFO,
        text=f"first fill: {side} {quantity:f} {fill['symbol']} @ {price:f}",
        once=True,
    )
    await add_alert(connection, draft)


SHARED_WITHIN = timedelta(minutes=10)
"""So long after its round began a sender still takes up an alert of all accounts."""


class AlertStore(LedgerConnection):
    """Raising, planning, claiming, recording, acknowledging."""

    async def raise_alert(self, draft: AlertDraft, actor: str) -> bool:
        """Raises an alert and audits it, in one transaction; True if it is to be told now.

        A repeat of a `once` alert leaves no trace.
        """
        async with self._work() as connection:
            is_told = await add_alert(connection, draft)
            if draft.once and not is_told:
                return False
            details = {"severity": draft.severity.value, "text": draft.text}
            subject = draft.trade_id or draft.account
            await append_audit_row(connection, actor, f"alert.{draft.code}", subject, details)
        return is_told

    async def plan_alerts(self, account: str, plan: Plan, channels: Sequence[str] = ()) -> int:
        """Writes a delivery for each receiver of each new round; returns how many rounds.

        An alert of all accounts is planned by each account's sender for its own `channels`: the
        first one must not keep the kill of all from the people of the others.
        """
        query = (
            select(alerts)
            .where(alerts.c.account.in_((account, ALL_ACCOUNTS)))
            .where(alerts.c.planned_round < alerts.c.round)
            .order_by(alerts.c.alert_id)
            .limit(PLANNED_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        async with self._work() as connection:
            rows = (await connection.execute(query)).mappings().all()
            for row in rows:
                alert = _alert_of(row)
                await _plan_one(connection, alert, plan(alert))
            shared = await _plan_for_all(connection, plan, channels)
        return len(rows) + shared

    async def escalate_alerts(self, account: str, after_s: float, times_max: int) -> int:
        """Begins a new round of each critical alert that nobody acknowledged in time."""
        now = func.clock_timestamp()
        since = func.coalesce(alerts.c.escalated_at, alerts.c.raised_at)
        statement = (
            update(alerts)
            .where(
                alerts.c.account.in_((account, ALL_ACCOUNTS)),
                alerts.c.severity == AlertSeverity.CRITICAL.value,
                alerts.c.acknowledged_at.is_(None),
                alerts.c.escalations < times_max,
                since < now - timedelta(seconds=after_s),
            )
            .values(
                round=alerts.c.round + 1, escalations=alerts.c.escalations + 1, escalated_at=now
            )
            .returning(alerts.c.alert_id)
        )
        async with self._statement() as connection:
            found = (await connection.execute(statement)).scalars().all()
        return len(found)

    async def claim_deliveries(
        self, account: str, channel: str, *, limit: int, claim_s: float
    ) -> tuple[DueDelivery, ...]:
        """Takes what is due on a channel of the account, most severe first.

        It is due again after `claim_s`: when a sender dies in between, a person is told twice
        rather than not at all.
        """
        now = func.clock_timestamp()
        urgency = case({"critical": 0, "warning": 1}, value=alerts.c.severity, else_=2)
        due = (
            select(deliveries.c.alert_id, deliveries.c.round, deliveries.c.channel)
            .join(alerts, alerts.c.alert_id == deliveries.c.alert_id)
            .where(
                alerts.c.account.in_((account, ALL_ACCOUNTS)),
                deliveries.c.channel == channel,
                deliveries.c.state == DeliveryState.PENDING.value,
                deliveries.c.next_attempt_at <= now,
            )
            .order_by(urgency, deliveries.c.alert_id)
            .limit(limit)
            .with_for_update(of=deliveries, skip_locked=True)
            .cte("due")
        )
        statement = (
            update(deliveries)
            .where(
                and_(*(deliveries.c[name] == due.c[name] for name in due.c.keys()))  # noqa: SIM118
            )
            .values(
                attempts=deliveries.c.attempts + 1,
                next_attempt_at=now + timedelta(seconds=claim_s),
                first_attempt_at=func.coalesce(deliveries.c.first_attempt_at, now),
            )
            .returning(deliveries)
        )
        async with self._work() as connection:
            taken = (await connection.execute(statement)).mappings().all()
            ids = [row["alert_id"] for row in taken]
            rows = (
                (await connection.execute(select(alerts).where(alerts.c.alert_id.in_(ids))))
                .mappings()
                .all()
            )
        told = {row["alert_id"]: _alert_of(row) for row in rows}
        found = [
            DueDelivery(alert=told[row["alert_id"]], delivery=_delivery_of(row)) for row in taken
        ]
        return tuple(sorted(found, key=_order))

    async def record_delivery(
        self, delivery: DeliveryRecord, *, error: str = "", retry_after_s: float | None = None
    ) -> None:
        """Delivered without `error`; with one due again after `retry_after_s`, or given up."""
        now = func.clock_timestamp()
        changes: dict[str, Any] = {"last_error": error}
        if not error:
            changes |= {"state": DeliveryState.DELIVERED.value, "delivered_at": now}
        elif retry_after_s is None:
            changes["state"] = DeliveryState.FAILED.value
        else:
            changes["next_attempt_at"] = now + timedelta(seconds=retry_after_s)
        statement = update(deliveries).where(
            deliveries.c.alert_id == delivery.alert_id,
            deliveries.c.round == delivery.round,
            deliveries.c.channel == delivery.channel,
        )
        async with self._statement() as connection:
            await connection.execute(statement.values(**changes))

    async def acknowledge_alert(self, alert_id: int, by: str, note: str = "") -> AlertRecord:
        """A named person takes the alert over; it is not repeated any more. Audited.

        A second acknowledgement changes nothing: the first name stands.

        Raises:
            Refused: `ALERT_UNKNOWN`, or `ALERT_ACK_BY` without a name.
        """
        if not by.strip():
            raise Refused("name was empty", code="ALERT_ACK_BY")
        statement = (
            update(alerts)
            .where(alerts.c.alert_id == alert_id, alerts.c.acknowledged_at.is_(None))
            .values(acknowledged_at=func.clock_timestamp(), acknowledged_by=by, note=note)
            .returning(alerts)
        )
        async with self._work() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            if row is None:
                query = select(alerts).where(alerts.c.alert_id == alert_id)
                known = (await connection.execute(query)).mappings().one_or_none()
                if known is None:
                    raise Refused(f"alert was {alert_id}", code="ALERT_UNKNOWN")
                return _alert_of(known)
            details = {"code": row["code"], "note": note}
            await append_audit_row(connection, by, "alert_acknowledged", str(alert_id), details)
        return _alert_of(row)

    async def list_alerts(
        self,
        *,
        account: str | None = None,
        trade_id: str | None = None,
        open_only: bool = False,
        limit: int = 100,
    ) -> tuple[AlertRecord, ...]:
        """Alerts, newest first. `open_only` leaves out what is acknowledged."""
        query = select(alerts)
        if account is not None:
            query = query.where(alerts.c.account.in_((account, ALL_ACCOUNTS)))
        if trade_id is not None:
            query = query.where(alerts.c.trade_id == trade_id)
        if open_only:
            query = query.where(alerts.c.acknowledged_at.is_(None))
        newest = query.order_by(alerts.c.raised_at.desc(), alerts.c.alert_id.desc())
        async with self._statement() as connection:
            rows = (await connection.execute(newest.limit(limit))).mappings().all()
        return tuple(_alert_of(row) for row in rows)

    async def deliveries_of(self, alert_ids: Sequence[int]) -> tuple[DeliveryRecord, ...]:
        """Every round of these alerts on every channel."""
        query = select(deliveries).where(deliveries.c.alert_id.in_(alert_ids))
        ordered = query.order_by(deliveries.c.alert_id, deliveries.c.round, deliveries.c.channel)
        async with self._statement() as connection:
            rows = (await connection.execute(ordered)).mappings().all()
        return tuple(_delivery_of(row) for row in rows)


async def _plan_one(
    connection: AsyncConnection, alert: AlertRecord, hearers: Sequence[Receiver]
) -> None:
    rows = [
        {
            "alert_id": alert.alert_id,
            "round": alert.round,
            "channel": each.channel,
            "escalated": each.escalated,
            "state": (DeliveryState.MUTED if each.is_muted else DeliveryState.PENDING).value,
        }
        for each in hearers
    ]
    if rows:
        await connection.execute(upsert(deliveries).values(rows).on_conflict_do_nothing())
    await connection.execute(
        update(alerts)
        .where(alerts.c.alert_id == alert.alert_id)
        .values(planned_round=literal_column("round"))
    )


async def _plan_for_all(connection: AsyncConnection, plan: Plan, channels: Sequence[str]) -> int:
    """Deliveries on these channels of alerts that another account's sender has planned."""
    if not channels:
        return 0
    began = func.coalesce(alerts.c.escalated_at, alerts.c.last_at)
    shared = select(alerts).where(
        alerts.c.account == ALL_ACCOUNTS,
        alerts.c.planned_round == alerts.c.round,
        alerts.c.acknowledged_at.is_(None),
        began > func.clock_timestamp() - SHARED_WITHIN,
    )
    told = select(deliveries.c.channel).where(deliveries.c.channel.in_(channels))
    planned = 0
    for row in (await connection.execute(shared)).mappings().all():
        alert = _alert_of(row)
        here = (deliveries.c.alert_id == alert.alert_id, deliveries.c.round == alert.round)
        known = set((await connection.execute(told.where(*here))).scalars())
        hearers = [r for r in plan(alert) if r.channel in channels and r.channel not in known]
        if hearers:
            await _plan_one(connection, alert, hearers)
            planned += 1
    return planned


def _order(due: DueDelivery) -> tuple[int, int]:
    rank = [AlertSeverity.CRITICAL, AlertSeverity.WARNING, AlertSeverity.INFO]
    return rank.index(due.alert.severity), due.alert.alert_id


def _alert_of(row: Columns) -> AlertRecord:
    return AlertRecord.model_validate({name: row[name] for name in AlertRecord.model_fields})


def _delivery_of(row: Columns) -> DeliveryRecord:
    return DeliveryRecord.model_validate({name: row[name] for name in DeliveryRecord.model_fields})
