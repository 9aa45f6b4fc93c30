"""Which builds and settings may open positions on an account (faults.md H13).

Revision ID: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deployments",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("build_ids", ARRAY(sa.Text()), nullable=False),
        sa.Column("config_hashes", ARRAY(sa.Text()), nullable=False),
        sa.Column("deployed_by", sa.Text(), nullable=False),
        sa.Column(
            "deployed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("account", name="pk_deployments"),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name="fk_deployments_account"),
    )


def downgrade() -> None:
    op.drop_table("deployments")
