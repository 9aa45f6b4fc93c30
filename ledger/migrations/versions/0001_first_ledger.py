"""Every table of the first ledger, the append-only audit and the installation id.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_DROP_ORDER = (
    "watches",
    "trades",
    "risk_breakers",
    "reservations",
    "equity_baselines",
    "signals",
    "reset_requests",
    "orders",
    "order_children",
    "operators",
    "leases",
    "kills",
    "installation",
    "gate_verdicts",
    "fills",
    "fees",
    "cursors",
    "control",
    "conditions",
    "audit_head",
    "audit",
    "api_breakers",
    "adjustments",
    "accounts",
)
_AUDIT_GUARD = """
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit rows are append-only' USING ERRCODE = 'insufficient_privilege';
END
$$
"""
_AUDIT_ROW_TRIGGER = """
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit
FOR EACH ROW EXECUTE FUNCTION audit_is_append_only()
"""
_AUDIT_TABLE_TRIGGER = """
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()
"""
# Drawn by the server, once; every client order id of this installation begins with it.
_INSTALLATION = """
INSERT INTO installation (row, installation)
VALUES (1, substr(md5(gen_random_uuid()::text), 1, 4))
"""
_AUDIT_HEAD = "INSERT INTO audit_head (row, sequence, hash) VALUES (1, 0, repeat('0', 64))"
_CONTROL_OF_ALL = "INSERT INTO control (account, updated_by) VALUES ('*', 'migration')"


def upgrade() -> None:
    _create_accounts()
    _create_adjustments()
    _create_api_breakers()
    _create_audit()
    _create_audit_head()
    _create_conditions()
    _create_control()
    _create_cursors()
    _create_fees()
    _create_fills()
    _create_gate_verdicts()
    _create_installation()
    _create_kills()
    _create_leases()
    _create_operators()
    _create_order_children()
    _create_orders()
    _create_reset_requests()
    _create_signals()
    _create_equity_baselines()
    _create_reservations()
    _create_risk_breakers()
    _create_trades()
    _create_watches()
    for statement in (
        _AUDIT_GUARD,
        _AUDIT_ROW_TRIGGER,
        _AUDIT_TABLE_TRIGGER,
        _INSTALLATION,
        _AUDIT_HEAD,
        _CONTROL_OF_ALL,
    ):
        op.execute(statement)


def downgrade() -> None:
    for table in _DROP_ORDER:
        op.drop_table(table)
    op.execute("DROP FUNCTION audit_is_append_only()")


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("broker", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_accounts")),
    )


def _create_adjustments() -> None:
    op.create_table(
        "adjustments",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("adjustment_id", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=True),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "booked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("account", "adjustment_id", name=op.f("pk_adjustments")),
    )


def _create_api_breakers() -> None:
    op.create_table(
        "api_breakers",
        sa.Column("broker", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("broker", name=op.f("pk_api_breakers")),
    )


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit")),
    )


def _create_audit_head() -> None:
    op.create_table(
        "audit_head",
        sa.Column("row", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.CheckConstraint("row = 1", name=op.f("ck_audit_head_single")),
        sa.PrimaryKeyConstraint("row", name=op.f("pk_audit_head")),
    )


def _create_conditions() -> None:
    op.create_table(
        "conditions",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("text", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("account", "kind", "symbol", name=op.f("pk_conditions")),
    )


def _create_control() -> None:
    op.create_table(
        "control",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("armed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("updated_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_control")),
    )


def _create_cursors() -> None:
    op.create_table(
        "cursors",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cursors")),
    )


def _create_fees() -> None:
    op.create_table(
        "fees",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("activity_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=True),
        sa.Column("symbol", sa.Text(), nullable=True),
        sa.Column("broker_order_id", sa.Text(), nullable=True),
        sa.Column("fill_key", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("venue_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "booked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("account", "activity_id", name=op.f("pk_fees")),
    )
    op.create_index("ix_fees_trade_id", "fees", ["trade_id"], unique=False)


def _create_fills() -> None:
    op.create_table(
        "fills",
        sa.Column("broker", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("fill_key", sa.Text(), nullable=False),
        sa.Column("booking", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=True),
        sa.Column("client_id", sa.Text(), nullable=True),
        sa.Column("broker_order_id", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.Column("fee", sa.Numeric(), nullable=True),
        sa.Column("execution_id", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("cumulative_quantity", sa.Numeric(), nullable=True),
        sa.Column("venue_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reverses", sa.Text(), nullable=True),
        sa.Column(
            "booked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint("side IN ('buy', 'sell')", name=op.f("ck_fills_side")),
        sa.CheckConstraint("quantity >= 0", name=op.f("ck_fills_quantity")),
        sa.PrimaryKeyConstraint("broker", "account", "fill_key", name=op.f("pk_fills")),
        sa.UniqueConstraint(
            "broker", "account", "reverses", name=op.f("uq_fills_broker_account_reverses")
        ),
    )
    op.create_index(
        "ix_fills_account_broker_order_id", "fills", ["account", "broker_order_id"], unique=False
    )
    op.create_index("ix_fills_trade_id", "fills", ["trade_id"], unique=False)


def _create_gate_verdicts() -> None:
    op.create_table(
        "gate_verdicts",
        sa.Column("trade_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("check", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("text", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "facts", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("trade_id", "position", name=op.f("pk_gate_verdicts")),
    )


def _create_installation() -> None:
    op.create_table(
        "installation",
        sa.Column("row", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("installation", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("installation ~ '^[0-9a-f]{4}$'", name=op.f("ck_installation_four_hex")),
        sa.CheckConstraint("row = 1", name=op.f("ck_installation_single")),
        sa.PrimaryKeyConstraint("row", name=op.f("pk_installation")),
    )


def _create_kills() -> None:
    op.create_table(
        "kills",
        sa.Column("command_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("scope_kind", sa.Text(), nullable=False),
        sa.Column("scope_value", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("engaged_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reset_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reset_request_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("command_id", name=op.f("pk_kills")),
    )
    op.create_index(
        "ix_kills_engaged",
        "kills",
        ["account"],
        unique=False,
        postgresql_where=sa.text("reset_at IS NULL"),
    )


def _create_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )


def _create_operators() -> None:
    op.create_table(
        "operators",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_operators")),
    )


def _create_order_children() -> None:
    op.create_table(
        "order_children",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("broker_order_id", sa.Text(), nullable=False),
        sa.Column("parent_client_id", sa.Text(), nullable=False),
        sa.Column("parent_broker_id", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=True),
        sa.Column("terminal", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("snapshot", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("account", "broker_order_id", name=op.f("pk_order_children")),
    )
    op.create_index("ix_order_children_trade_id", "order_children", ["trade_id"], unique=False)


def _create_orders() -> None:
    op.create_table(
        "orders",
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=False),
        sa.Column("leg", sa.SmallInteger(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("symbols", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("increasing", sa.Boolean(), nullable=False),
        sa.Column("body", postgresql.JSONB(), nullable=False),
        sa.Column("intent", postgresql.JSONB(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt_token", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("gate_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("broker_order_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("terminal", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("filled_quantity", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("snapshot", postgresql.JSONB(), nullable=True),
        sa.Column("code", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("text", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("build_id", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("config_hash", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "state IN ('sending', 'accepted', 'rejected', 'unknown', 'not_sent')",
            name=op.f("ck_orders_state"),
        ),
        sa.PrimaryKeyConstraint("client_id", name=op.f("pk_orders")),
        sa.UniqueConstraint(
            "trade_id",
            "leg",
            "purpose",
            "sequence",
            name=op.f("uq_orders_trade_id_leg_purpose_sequence"),
        ),
    )
    op.create_index(
        "ix_orders_account_broker_order_id", "orders", ["account", "broker_order_id"], unique=False
    )
    op.create_index("ix_orders_account_gate_at", "orders", ["account", "gate_at"], unique=False)
    op.create_index(
        "ix_orders_live",
        "orders",
        ["account"],
        unique=False,
        postgresql_where=sa.text("NOT terminal AND state IN ('sending', 'unknown', 'accepted')"),
    )


def _create_reset_requests() -> None:
    op.create_table(
        "reset_requests",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("command_ids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("approvals_needed", sa.Integer(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmable_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed_by", sa.Text(), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_reset_requests")),
    )


def _create_signals() -> None:
    op.create_table(
        "signals",
        sa.Column("signal_id", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=True),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("text", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=True),
        sa.Column("signal_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "document", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.PrimaryKeyConstraint("signal_id", name=op.f("pk_signals")),
    )
    op.create_index("ix_signals_session", "signals", ["session"], unique=False)


def _create_equity_baselines() -> None:
    op.create_table(
        "equity_baselines",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("roll", sa.DateTime(timezone=True), nullable=False),
        sa.Column("equity", sa.Numeric(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["account"], ["accounts.account"], name=op.f("fk_equity_baselines_account")
        ),
        sa.PrimaryKeyConstraint("account", "roll", name=op.f("pk_equity_baselines")),
    )


def _create_reservations() -> None:
    op.create_table(
        "reservations",
        sa.Column("trade_id", sa.Text(), nullable=False),
        sa.Column("reservation_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("decision", postgresql.JSONB(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("notional", sa.Numeric(), nullable=False),
        sa.Column("loss", sa.Numeric(), nullable=False),
        sa.Column("reserved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("release_reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint(
            "quantity >= 0 AND notional >= 0 AND loss >= 0",
            name=op.f("ck_reservations_not_negative"),
        ),
        sa.ForeignKeyConstraint(
            ["account"], ["accounts.account"], name=op.f("fk_reservations_account")
        ),
        sa.PrimaryKeyConstraint("trade_id", name=op.f("pk_reservations")),
        sa.UniqueConstraint("reservation_id", name=op.f("uq_reservations_reservation_id")),
    )
    op.create_index(
        "ix_reservations_held",
        "reservations",
        ["account"],
        unique=False,
        postgresql_where=sa.text("approved AND released_at IS NULL"),
    )


def _create_risk_breakers() -> None:
    op.create_table(
        "risk_breakers",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("text", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("changed_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["account"], ["accounts.account"], name=op.f("fk_risk_breakers_account")
        ),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_risk_breakers")),
    )


def _create_trades() -> None:
    op.create_table(
        "trades",
        sa.Column("trade_id", sa.Text(), nullable=False),
        sa.Column("client_prefix", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("plan", postgresql.JSONB(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("protection", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("result", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("story", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("realised", sa.Numeric(), nullable=True),
        sa.Column("fees", sa.Numeric(), nullable=True),
        sa.Column("fees_estimated", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("build_id", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("config_hash", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "document", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name=op.f("fk_trades_account")),
        sa.PrimaryKeyConstraint("trade_id", name=op.f("pk_trades")),
        sa.UniqueConstraint("client_prefix", name=op.f("uq_trades_client_prefix")),
    )
    op.create_index(
        "ix_trades_open",
        "trades",
        ["account"],
        unique=False,
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_index("ix_trades_session", "trades", ["session"], unique=False)


def _create_watches() -> None:
    op.create_table(
        "watches",
        sa.Column("trade_id", sa.Text(), nullable=False),
        sa.Column("rule_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("position_epoch", sa.Integer(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column(
            "document", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("high_water_mark", sa.Numeric(), nullable=True),
        sa.Column("last_mark", sa.Numeric(), nullable=True),
        sa.Column("confirmations", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("evaluated_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name=op.f("fk_watches_account")),
        sa.PrimaryKeyConstraint("trade_id", "rule_id", name=op.f("pk_watches")),
    )
    op.create_index("ix_watches_account", "watches", ["account"], unique=False)
