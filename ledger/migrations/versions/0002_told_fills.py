"""Which fills their trade has been told: an outbox, so that a fill is never booked and kept quiet.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "fills",
        sa.Column("told", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_index(
        "ix_fills_untold",
        "fills",
        ["account"],
        unique=False,
        postgresql_where=sa.text("NOT told"),
    )


def downgrade() -> None:
    op.drop_index("ix_fills_untold", table_name="fills")
    op.drop_column("fills", "told")
