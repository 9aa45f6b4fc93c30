"""Stored configurations of strategies: file, parameters, capital, losses in a row, on or off.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "strategy_configurations",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column(
            "parameters",
            postgresql.JSONB(),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("capital", sa.Numeric(), nullable=True),
        sa.Column("losses_max", sa.Integer(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        _stamp("enabled_at"),
        _stamp("updated_at"),
        sa.Column("updated_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_strategy_configurations"),
        sa.CheckConstraint("capital > 0", name="ck_strategy_configurations_capital_positive"),
        sa.CheckConstraint("losses_max > 0", name="ck_strategy_configurations_losses_positive"),
    )
    op.create_index("ix_trades_strategy", "trades", ["strategy", "closed_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_trades_strategy", table_name="trades")
    op.drop_table("strategy_configurations")


def _stamp(name: str) -> sa.Column[object]:
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
    )
