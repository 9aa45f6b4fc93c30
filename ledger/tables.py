"""The tables of the ledger, in SQLAlchemy Core. Migrations are in `ledger/migrations`.

Money, prices and quantities are `numeric` without a scale: PostgreSQL keeps every digit that was
given. Instants are `timestamptz`. Orders, fills and signals have no foreign key to `trades`: the
degraded path (database away while a reducing order goes out) writes rows late and in any order,
and a row that cannot be booked is worse than one whose trade is missing.
"""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from domain.money import CTX, ONE


def plain(number: Decimal) -> Decimal:
    """The same number without a positive exponent: the driver reads 10^15 as `1.000E+15`."""
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent > 0 and number.adjusted() < CTX.prec:
        return number.quantize(ONE, context=CTX)
    return number


class Exact(TypeDecorator[Decimal]):
    """`numeric` without a scale, read back digit for digit."""

    impl = Numeric
    cache_ok = True

    def process_result_value(self, value: Decimal | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else plain(value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_EMPTY = text("''")
_NOW = text("now()")
_OBJECT = text("'{}'::jsonb")
_LIVE = text("NOT terminal AND state IN ('sending', 'unknown', 'accepted')")


def _instant(name: str, *, required: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=not required)


def _stamp(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=_NOW)


def _netted() -> Column[object]:
    """True for rows of a position that they made flat: together they count nothing."""
    return Column("netted", Boolean, nullable=False, server_default=text("false"))


def _word(name: str, *, required: bool = True) -> Column[object]:
    return Column(name, Text, nullable=not required)


def _note(name: str) -> Column[object]:
    return Column(name, Text, nullable=False, server_default=_EMPTY)


def _number(name: str, *, required: bool = True) -> Column[object]:
    return Column(name, Exact, nullable=not required)


def _document(name: str) -> Column[object]:
    return Column(name, JSONB, nullable=False, server_default=_OBJECT)


def _account(*, primary_key: bool = False) -> Column[object]:
    return Column(
        "account", Text, ForeignKey("accounts.account"), primary_key=primary_key, nullable=False
    )


installation = Table(
    "installation",
    metadata,
    Column("row", SmallInteger, primary_key=True, autoincrement=False),
    _word("installation"),
    _stamp("created_at"),
    CheckConstraint("row = 1", name="single"),
    CheckConstraint("installation ~ '^[0-9a-f]{4}$'", name="four_hex"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("account", Text, primary_key=True),
    _word("broker"),
    _word("currency"),
    _stamp("created_at"),
)

control = Table(
    "control",
    metadata,
    # Not a foreign key: the row `*` holds the kills of all accounts, those of tomorrow included.
    Column("account", Text, primary_key=True),
    Column("armed", Boolean, nullable=False, server_default=text("false")),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    _stamp("updated_at"),
    _note("updated_by"),
    _note("reason"),
)

# The builds and settings that may open positions; two of each while a deploy goes on (H13).
deployments = Table(
    "deployments",
    metadata,
    Column("account", Text, ForeignKey("accounts.account"), primary_key=True),
    Column("build_ids", ARRAY(Text), nullable=False),
    Column("config_hashes", ARRAY(Text), nullable=False),
    _word("deployed_by"),
    _stamp("deployed_at"),
)

kills = Table(
    "kills",
    metadata,
    Column("command_id", Text, primary_key=True),
    _word("account"),
    _word("scope_kind"),
    _word("scope_value"),
    _word("mode"),
    _word("reason"),
    _word("by"),
    _instant("engaged_at"),
    _instant("reset_at", required=False),
    _word("reset_request_id", required=False),
    Index("ix_kills_engaged", "account", postgresql_where=text("reset_at IS NULL")),
)

reset_requests = Table(
    "reset_requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    _word("account"),
    Column("command_ids", ARRAY(Text), nullable=False),
    _word("requested_by"),
    _word("reason"),
    Column("approvals_needed", Integer, nullable=False),
    _instant("requested_at"),
    _instant("confirmable_at"),
    _instant("expires_at"),
    _word("confirmed_by", required=False),
    _instant("confirmed_at", required=False),
)

operators = Table(
    "operators",
    metadata,
    Column("name", Text, primary_key=True),
    _word("secret_hash"),
    _stamp("created_at"),
)

conditions = Table(
    "conditions",
    metadata,
    _word("account"),
    _word("kind"),
    _note("symbol"),
    _note("text"),
    _stamp("since"),
    PrimaryKeyConstraint("account", "kind", "symbol"),
)

risk_breakers = Table(
    "risk_breakers",
    metadata,
    _account(primary_key=True),
    _word("state"),
    _note("reason"),
    _note("text"),
    _note("changed_by"),
    _stamp("changed_at"),
)

api_breakers = Table(
    "api_breakers",
    metadata,
    Column("broker", Text, primary_key=True),
    _word("state"),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    _stamp("changed_at"),
)

equity_baselines = Table(
    "equity_baselines",
    metadata,
    _account(),
    _instant("roll"),
    _number("equity"),
    _instant("read_at"),
    PrimaryKeyConstraint("account", "roll"),
)

orders = Table(
    "orders",
    metadata,
    Column("client_id", Text, primary_key=True),
    _word("trade_id"),
    Column("leg", SmallInteger, nullable=False),
    _word("purpose"),
    Column("sequence", Integer, nullable=False),
    _word("account"),
    _word("strategy"),
    Column("symbols", ARRAY(Text), nullable=False),
    Column("increasing", Boolean, nullable=False),
    # The frozen body; `intent` is the whole wish with it inside.
    Column("body", JSONB, nullable=False),
    Column("intent", JSONB, nullable=False),
    _word("state"),
    _word("attempt_token"),
    Column("attempts", Integer, nullable=False),
    _instant("gate_at"),
    _instant("sent_at", required=False),
    _instant("answered_at", required=False),
    _instant("by_hand_at", required=False),
    _word("broker_order_id", required=False),
    _word("status", required=False),
    Column("terminal", Boolean, nullable=False, server_default=text("false")),
    Column("filled_quantity", Exact, nullable=False, server_default=text("0")),
    Column("snapshot", JSONB, nullable=True),
    _note("code"),
    _note("text"),
    _note("build_id"),
    _note("config_hash"),
    _stamp("created_at"),
    UniqueConstraint("trade_id", "leg", "purpose", "sequence"),
    Index("ix_orders_account_broker_order_id", "account", "broker_order_id"),
    Index("ix_orders_account_gate_at", "account", "gate_at"),
    Index(
        "ix_orders_live",
        "account",
        postgresql_where=_LIVE,
    ),
    CheckConstraint(
        "state IN ('sending', 'accepted', 'rejected', 'unknown', 'not_sent')", name="state"
    ),
)

# The same words as the index has: orders that are or may come to be at the broker.
LIVE_ORDERS = _LIVE

order_children = Table(
    "order_children",
    metadata,
    _word("account"),
    _word("broker_order_id"),
    _word("parent_client_id"),
    _word("parent_broker_id"),
    _word("trade_id"),
    _word("client_id", required=False),
    Column("terminal", Boolean, nullable=False, server_default=text("false")),
    Column("snapshot", JSONB, nullable=False),
    PrimaryKeyConstraint("account", "broker_order_id"),
    Index("ix_order_children_trade_id", "trade_id"),
)

fills = Table(
    "fills",
    metadata,
    _word("broker"),
    _word("account"),
    _word("fill_key"),
    Column("booking", BigInteger, Identity(), nullable=False),
    _word("trade_id", required=False),
    _word("client_id", required=False),
    _word("broker_order_id"),
    _word("symbol"),
    _word("side"),
    _number("quantity"),
    _number("price"),
    _number("fee", required=False),
    _note("execution_id"),
    _number("cumulative_quantity", required=False),
    _instant("venue_time"),
    _word("reverses", required=False),
    _stamp("booked_at"),
    Column("told", Boolean, nullable=False, server_default=text("false")),
    _netted(),
    PrimaryKeyConstraint("broker", "account", "fill_key"),
    UniqueConstraint("broker", "account", "reverses"),
    Index("ix_fills_trade_id", "trade_id"),
    Index("ix_fills_untold", "account", postgresql_where=text("NOT told")),
    Index("ix_fills_counted", "account", postgresql_where=text("NOT netted")),
    Index("ix_fills_account_broker_order_id", "account", "broker_order_id"),
    CheckConstraint("quantity >= 0", name="quantity"),
    CheckConstraint("side IN ('buy', 'sell')", name="side"),
)

# What the venue took back before the execution itself was booked (D9): the two cross.
early_busts = Table(
    "early_busts",
    metadata,
    _word("broker"),
    _word("account"),
    _word("broker_order_id"),
    _word("execution_id"),
    Column("corrected", JSONB(none_as_null=True), nullable=True),
    _stamp("arrived_at"),
    PrimaryKeyConstraint("broker", "account", "broker_order_id", "execution_id"),
)

fees = Table(
    "fees",
    metadata,
    _word("account"),
    _word("activity_id"),
    _number("amount"),
    _word("trade_id", required=False),
    _word("symbol", required=False),
    _word("broker_order_id", required=False),
    _word("fill_key", required=False),
    _note("text"),
    _instant("venue_time"),
    _stamp("booked_at"),
    PrimaryKeyConstraint("account", "activity_id"),
    Index("ix_fees_trade_id", "trade_id"),
)

adjustments = Table(
    "adjustments",
    metadata,
    _word("account"),
    _word("adjustment_id"),
    _word("trade_id", required=False),
    _word("symbol"),
    _number("quantity"),
    _number("price", required=False),
    _word("kind"),
    _note("text"),
    _instant("at"),
    _stamp("booked_at"),
    _netted(),
    PrimaryKeyConstraint("account", "adjustment_id"),
    Index("ix_adjustments_counted", "account", postgresql_where=text("NOT netted")),
)

cash_movements = Table(
    "cash_movements",
    metadata,
    _account(),
    _word("movement_id"),
    _number("amount"),
    _note("text"),
    _instant("at"),
    _word("booked_by"),
    _stamp("booked_at"),
    PrimaryKeyConstraint("account", "movement_id"),
    CheckConstraint("amount <> 0", name="amount"),
)

reservations = Table(
    "reservations",
    metadata,
    # One per trade; a refusal is a row too, so that a repeat answers the same (B2).
    Column("trade_id", Text, primary_key=True),
    _word("reservation_id"),
    _account(),
    _word("strategy"),
    _word("symbol"),
    Column("approved", Boolean, nullable=False),
    Column("decision", JSONB, nullable=False),
    _number("quantity"),
    _number("notional"),
    _number("loss"),
    _instant("reserved_at"),
    _instant("released_at", required=False),
    _note("release_reason"),
    UniqueConstraint("reservation_id"),
    CheckConstraint("quantity >= 0 AND notional >= 0 AND loss >= 0", name="not_negative"),
    Index(
        "ix_reservations_held", "account", postgresql_where=text("approved AND released_at IS NULL")
    ),
)

gate_verdicts = Table(
    "gate_verdicts",
    metadata,
    _word("trade_id"),
    Column("position", Integer, nullable=False),
    _word("check"),
    _word("verdict"),
    _note("code"),
    _note("text"),
    _document("facts"),
    _instant("at"),
    PrimaryKeyConstraint("trade_id", "position"),
)

trades = Table(
    "trades",
    metadata,
    Column("trade_id", Text, primary_key=True),
    _word("client_prefix"),
    _account(),
    _word("session"),
    _word("strategy"),
    _word("symbol"),
    Column("plan", JSONB, nullable=False),
    _word("stage"),
    _note("protection"),
    _note("result"),
    _note("story"),
    _number("realised", required=False),
    _number("fees", required=False),
    Column("fees_estimated", Boolean, nullable=False, server_default=text("true")),
    _note("build_id"),
    _note("config_hash"),
    _document("document"),
    _stamp("created_at"),
    _stamp("updated_at"),
    _instant("closed_at", required=False),
    _instant("settled_at", required=False),
    UniqueConstraint("client_prefix"),
    Index("ix_trades_session", "session"),
    Index("ix_trades_strategy", "strategy", "closed_at"),
    Index("ix_trades_open", "account", postgresql_where=text("closed_at IS NULL")),
)

signals = Table(
    "signals",
    metadata,
    Column("signal_id", Text, primary_key=True),
    _word("session"),
    _word("account"),
    _word("strategy"),
    _word("symbol"),
    _word("side", required=False),
    _word("decision"),
    _note("code"),
    _note("text"),
    _word("trade_id", required=False),
    _instant("signal_time"),
    _instant("recorded_at"),
    _document("document"),
    Index("ix_signals_session", "session"),
)

strategy_configurations = Table(
    "strategy_configurations",
    metadata,
    Column("name", Text, primary_key=True),
    _word("strategy"),
    _document("parameters"),
    Column("enabled", Boolean, nullable=False),
    _number("capital", required=False),
    Column("losses_max", Integer),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    _note("reason"),
    _stamp("enabled_at"),
    _stamp("updated_at"),
    _note("updated_by"),
    CheckConstraint("capital > 0", name="capital_positive"),
    CheckConstraint("losses_max > 0", name="losses_positive"),
)

watches = Table(
    "watches",
    metadata,
    _word("trade_id"),
    _word("rule_id"),
    _account(),
    Column("position_epoch", Integer, nullable=False),
    _word("symbol"),
    _document("document"),
    _number("high_water_mark", required=False),
    _number("last_mark", required=False),
    Column("confirmations", Integer, nullable=False, server_default=text("0")),
    _instant("confirmed_at", required=False),
    _instant("evaluated_at", required=False),
    PrimaryKeyConstraint("trade_id", "rule_id"),
    Index("ix_watches_account", "account"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    _word("holder"),
    Column("epoch", BigInteger, nullable=False),
    _instant("expires_at"),
)

cursors = Table(
    "cursors",
    metadata,
    Column("name", Text, primary_key=True),
    _word("value"),
    _stamp("updated_at"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("alert_id", BigInteger, Identity(), primary_key=True),
    _word("key"),
    # Not a foreign key: the kill of all accounts is told under `*`.
    _word("account"),
    _word("trade_id", required=False),
    _word("code"),
    _word("severity"),
    _word("text"),
    _stamp("raised_at"),
    _stamp("last_at"),
    Column("occurrences", Integer, nullable=False, server_default=text("1")),
    Column("round", Integer, nullable=False, server_default=text("1")),
    Column("planned_round", Integer, nullable=False, server_default=text("0")),
    _instant("escalated_at", required=False),
    Column("escalations", Integer, nullable=False, server_default=text("0")),
    _instant("acknowledged_at", required=False),
    _note("acknowledged_by"),
    _note("note"),
    UniqueConstraint("key"),
    CheckConstraint("severity IN ('info', 'warning', 'critical')", name="severity"),
    Index("ix_alerts_unplanned", "account", postgresql_where=text("planned_round < round")),
    Index(
        "ix_alerts_unacknowledged",
        "account",
        postgresql_where=text("severity = 'critical' AND acknowledged_at IS NULL"),
    ),
    Index("ix_alerts_trade_id", "trade_id"),
    Index("ix_alerts_raised_at", "raised_at"),
)

alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("alert_id", BigInteger, ForeignKey("alerts.alert_id"), nullable=False),
    Column("round", Integer, nullable=False),
    _word("channel"),
    Column("escalated", Boolean, nullable=False, server_default=text("false")),
    _word("state"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    _stamp("next_attempt_at"),
    _instant("first_attempt_at", required=False),
    _instant("delivered_at", required=False),
    _note("last_error"),
    PrimaryKeyConstraint("alert_id", "round", "channel"),
    CheckConstraint("state IN ('pending', 'delivered', 'failed', 'muted')", name="state"),
    Index(
        "ix_alert_deliveries_due",
        "channel",
        "next_attempt_at",
        postgresql_where=text("state = 'pending'"),
    ),
)

trading_halts = Table(
    "trading_halts",
    metadata,
    _word("account"),
    _word("symbol"),
    _note("code"),
    _note("reason"),
    _instant("since"),
    PrimaryKeyConstraint("account", "symbol"),
)

market_wants = Table(
    "market_wants",
    metadata,
    _word("account"),
    _word("source"),
    _word("symbol"),
    Column("interval_s", Integer, nullable=False),
    _instant("until"),
    PrimaryKeyConstraint("account", "source", "symbol"),
)

market_bars = Table(
    "market_bars",
    metadata,
    _word("account"),
    _word("symbol"),
    Column("interval_s", Integer, nullable=False),
    _instant("start"),
    _instant("end"),
    *(_number(name) for name in ("open", "high", "low", "close", "volume")),
    _number("bid", required=False),
    _number("ask", required=False),
    PrimaryKeyConstraint("account", "interval_s", "end", "symbol"),
)

recordings = Table(
    "recordings",
    metadata,
    Column("name", Text, primary_key=True),
    _word("account"),
    Column("symbols", ARRAY(Text), nullable=False),
    _word("state"),
    _word("started_by"),
    _stamp("started_at"),
    _instant("ends_at", required=False),
    _instant("ended_at", required=False),
    _note("reason"),
    _document("document"),
    CheckConstraint("state IN ('recording', 'stopping', 'ended')", name="state"),
    Index("ix_recordings_open", "account", postgresql_where=text("state <> 'ended'")),
)

audit = Table(
    "audit",
    metadata,
    # Gapless by hand under a lock, not a sequence: a gap must prove a deletion.
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    _instant("at"),
    _word("actor"),
    _word("action"),
    _word("subject"),
    # Text, not jsonb: the hash covers these very characters.
    _word("details"),
    _word("previous_hash"),
    _word("hash"),
    Index("ix_audit_at", "at"),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("row", SmallInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    _word("hash"),
    CheckConstraint("row = 1", name="single"),
)
