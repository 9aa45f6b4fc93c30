"""Alerts as an outbox: what was raised, what was delivered where, who knows of it.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _instant(name: str, *, required: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=not required)


def _stamp(name: str) -> sa.Column[object]:
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
    )


def _count(name: str, start: int) -> sa.Column[object]:
    return sa.Column(name, sa.Integer(), server_default=sa.text(str(start)), nullable=False)


def _note(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        _stamp("raised_at"),
        _stamp("last_at"),
        _count("occurrences", 1),
        _count("round", 1),
        _count("planned_round", 0),
        _instant("escalated_at"),
        _count("escalations", 0),
        _instant("acknowledged_at"),
        _note("acknowledged_by"),
        _note("note"),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_alerts")),
        sa.UniqueConstraint("key", name=op.f("uq_alerts_key")),
        sa.CheckConstraint(
            "severity IN ('info', 'warning', 'critical')", name=op.f("ck_alerts_severity")
        ),
    )
    op.create_index(
        "ix_alerts_unplanned",
        "alerts",
        ["account"],
        postgresql_where=sa.text("planned_round < round"),
    )
    op.create_index(
        "ix_alerts_unacknowledged",
        "alerts",
        ["account"],
        postgresql_where=sa.text("severity = 'critical' AND acknowledged_at IS NULL"),
    )
    op.create_index(op.f("ix_alerts_trade_id"), "alerts", ["trade_id"])
    op.create_index(op.f("ix_alerts_raised_at"), "alerts", ["raised_at"])
    op.create_table(
        "alert_deliveries",
        sa.Column("alert_id", sa.BigInteger(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("escalated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        _count("attempts", 0),
        _stamp("next_attempt_at"),
        _instant("first_attempt_at"),
        _instant("delivered_at"),
        _note("last_error"),
        sa.PrimaryKeyConstraint("alert_id", "round", "channel", name=op.f("pk_alert_deliveries")),
        sa.ForeignKeyConstraint(
            ["alert_id"],
            ["alerts.alert_id"],
            name=op.f("fk_alert_deliveries_alert_id_alerts"),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed', 'muted')",
            name=op.f("ck_alert_deliveries_state"),
        ),
    )
    op.create_index(
        "ix_alert_deliveries_due",
        "alert_deliveries",
        ["channel", "next_attempt_at"],
        postgresql_where=sa.text("state = 'pending'"),
    )


def downgrade() -> None:
    op.drop_table("alert_deliveries")
    op.drop_table("alerts")
