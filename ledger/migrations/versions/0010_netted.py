"""Rows of positions that are flat are counted no more (faults.md I2).

Revision ID: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("fills", "adjustments"):
        op.add_column(
            table,
            sa.Column("netted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        )
        op.create_index(
            f"ix_{table}_counted", table, ["account"], postgresql_where=sa.text("NOT netted")
        )


def downgrade() -> None:
    for table in ("fills", "adjustments"):
        op.drop_index(f"ix_{table}_counted", table)
        op.drop_column(table, "netted")
