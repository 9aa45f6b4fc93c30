"""Money that the owner put into an account or took out of it, for statements.

Revision ID: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cash_movements",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("movement_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("text", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("booked_by", sa.Text(), nullable=False),
        sa.Column(
            "booked_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("account", "movement_id", name="pk_cash_movements"),
        sa.ForeignKeyConstraint(
            ["account"], ["accounts.account"], name="fk_cash_movements_account"
        ),
        sa.CheckConstraint("amount <> 0", name="ck_cash_movements_amount"),
    )


def downgrade() -> None:
    op.drop_table("cash_movements")
