"""Settings: frozen, read once from a TOML file and the environment by a composition root.

What the file may say stands, key by key, in `config/demo.toml` and `config/paper.toml`. Nothing
below the composition roots reads the environment. Secrets come from the environment or from a
file of mode 0600 or the system's keyring, never from the settings file. Limits have no defaults;
`dry_run` is on and every account starts disarmed.

Every refusal is a `ConfigError` whose code is `CONFIG_*` or `FILE_MODE` (faults.md §3 rows 21 and
48-51) and which names the file and line, or the environment variable.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from brokers.alpaca.config import AlpacaConfig, AlpacaMode, MarketFeed
from brokers.tradier.config import TradierConfig
from domain.commands import AlertSeverity
from domain.errors import NO_DEFAULT, BadInput, allowed_by, file_to, nearest_name
from domain.money import ZERO, Amount
from domain.risk.fees import FeeRates
from domain.risk.limits import Limits, RestrictedList, read_limits
from keyring_store import KEYRING_KEYS, read_keyring
from marketdata.zones import zone

ENVIRONMENT_PREFIX = "HOLDFAST_"
ALERT_URL_PREFIX = "HOLDFAST_ALERT_URL_"
METRICS_PORTS = 3
KEY_FILE_MODE_MAX = 0o600
# Named by other parts; known here so that a misspelt variable is not passed over in silence.
OTHER_VARIABLES = frozenset(
    f"{ENVIRONMENT_PREFIX}{name}"
    for name in (
        *("CONFIG", "DATA_DIR", "FAILPOINT", "FAILPOINT_ONCE", "OPERATOR", "OPERATOR_SECRET"),
        "APPROVER_SECRET",
        *("HYPOTHESIS_PROFILE", "ROLE", "BUILD_ID", "READY_FILE"),
    )
)
_SIMULATOR_KEY_ID, _SIMULATOR_SECRET = "SIM-PAPER-KEY", "sim-paper-secret"


class ConfigError(BadInput):
    """A setting was refused; `location` is `file:line` or the environment variable."""

    def __init__(
        self, code: str, field: str, value: object = "", allowed: str = "", location: str = ""
    ) -> None:
        super().__init__(code, field, value, allowed)
        self.location = location
        if location:
            self.text = f"{location}: {self.text}"
            self.args = (self.text,)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("a number of seconds is needed")
    if not 0 < value < 10**9:
        raise ValueError("allowed: 0 < seconds < 1e9")
    return float(value)


Seconds = Annotated[float, BeforeValidator(_seconds)]
Count = Annotated[int, Field(gt=0, lt=10**9)]


def _zone(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("the name of an IANA zone is needed")
    zone(value, "account.time_zone")
    return value


def _zone_or_none(value: object) -> object:
    if isinstance(value, str) and value:
        zone(value, "alerts.quiet_hours.zone")
    return value


class Section(BaseModel):
    """A table of the file: unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AccountSection(Section):
    """Whose orders these are. `installation` begins every client order id (architecture §5)."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9-]{1,48}$",
            description="our name of the account: queues, ledger, Web UI",
        ),
    ]
    installation: Annotated[
        str,
        Field(
            pattern=r"^[0-9a-f]{4}$",
            description="4 hex digits that begin every client order id; keep it for ever",
        ),
    ]
    currency: Annotated[
        str,
        Field(pattern=r"^[A-Z]{3,5}$", description="the account's currency, as the broker says it"),
    ] = "USD"
    time_zone: Annotated[
        str, BeforeValidator(_zone), Field(description="IANA zone in which people read times")
    ] = "America/New_York"
    calendar: Annotated[
        str, Field(description="trading calendar: ISO 10383 code such as XNYS, or 24/7")
    ] = "XNYS"


class Venue(StrEnum):
    ALPACA = "alpaca"
    TRADIER = "tradier"


class SecretSource(StrEnum):
    """Where the broker's key comes from; HOLDFAST_BROKER_KEY_ID and _SECRET win over all."""

    ENVIRONMENT = "environment"
    KEYRING = "keyring"
    KEY_FILE = "key_file"


class BrokerSection(Section):
    """Which broker and how far it is allowed to go. URLs may stay empty for paper and live."""

    venue: Annotated[Venue, Field(strict=False, description="the broker: alpaca or tradier")]
    mode: Annotated[AlpacaMode, Field(strict=False, description="simulator, paper or live")]
    allow_live: bool = Field(False, description="the second switch that live needs")
    trading_url: str = Field("", description="empty: the venue's own host of this mode")
    data_url: str = Field("", description="empty: the venue's own host for market data")
    stream_url: str = Field("", description="empty: the venue's own host for the order stream")
    secrets: Annotated[
        SecretSource,
        Field(
            strict=False,
            description="where the key comes from: environment, keyring or key_file;"
            " HOLDFAST_BROKER_KEY_ID and HOLDFAST_BROKER_SECRET win over all",
        ),
    ] = SecretSource.ENVIRONMENT
    key_file: str = Field(
        "",
        description="TOML file with key_id and secret (at Tradier account number and access token),"
        " mode 0600, relative to this file",
    )
    requests_per_minute: Annotated[
        Count, Field(description="the broker's limit; the order lane takes 60 % of it")
    ]
    fee_per_share: Annotated[
        Amount, Field(description="worst fee of one share bought, account currency", ge=0)
    ] = ZERO
    fee_per_contract: Annotated[
        Amount, Field(description="the same of one option or future", ge=0)
    ] = ZERO
    request_timeout_s: Annotated[
        Seconds,
        Field(
            description="of one request, wall seconds; at most 4, so that a send ends before the"
            " step that made it is given up",
            le=4.0,
        ),
    ] = 3.0


class PayloadKeySource(StrEnum):
    """Where the keys of the payloads come from; off: payloads stand in Temporal in plain text."""

    OFF = "off"
    ENVIRONMENT = "environment"
    KEYRING = "keyring"
    KEY_FILE = "key_file"


class EncryptionSection(Section):
    """Payloads in Temporal, sealed with keys of ours or not (docs/operator.md, Encryption)."""

    secrets: Annotated[
        PayloadKeySource,
        Field(
            strict=False,
            description="off, or where the keys are: environment (HOLDFAST_PAYLOAD_KEYS), keyring"
            " or key_file",
        ),
    ] = PayloadKeySource.OFF
    key_file: str = Field(
        "",
        description="a line id:base64 a key, the first writes; mode 0600, relative to this file",
    )
    accept_plain: bool = Field(
        False, description="true only while trades begun before encryption are open"
    )


class SafetySection(Section):
    """`dry_run` sends nothing; market orders are refused for entries."""

    dry_run: bool = Field(True, description="true: nothing is ever sent")
    disallow_market_orders: bool = Field(
        True, description="for entries; a protective stop may still be one"
    )


class RestrictedSection(Section):
    """Symbols that may not be entered: in the file itself, or in a file of their own.

    The symbols of this file count as of the start of the process; a list file as of its
    `as_of`, or else as of its last change.
    """

    symbols: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None, description="symbols that may not be entered; [] if there are none"
    )
    file: str = Field(
        "", description="or a file with `symbols` and `as_of`; older than a day blocks entries"
    )


class TemporalSection(Section):
    """Orchestration. Sticky 1 s suits up to about 100 open trades, 10 s more (architecture §11)."""

    address: str = Field("127.0.0.1:7233", description="front end; `up` sets its own port")
    namespace: str = Field("default", description="namespace on that server")
    sticky_timeout_s: Annotated[
        Seconds, Field(description="how long a dead worker keeps its trades")
    ] = 1.0
    drain_timeout_s: Annotated[
        Seconds, Field(description="how long a stopping worker may finish what it began")
    ] = 10.0


class LedgerSection(Section):
    """PostgreSQL. A DSN with a password comes from HOLDFAST_LEDGER_DSN only."""

    dsn: SecretStr = Field(
        SecretStr(""), description="without a password; `up` sets its own (HOLDFAST_LEDGER_DSN)"
    )


class TradeSection(Section):
    """How long the broker's own lists may lag behind, in wall seconds (architecture §5)."""

    settle_window_s: Annotated[
        Seconds, Field(description="how long broker lists may lag behind, wall seconds")
    ] = 2.0


class ObservabilitySection(Section):
    """Port 0 and an empty file mean: none."""

    log_level: Annotated[
        str,
        Field(pattern=r"^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR"),
    ] = "INFO"
    log_json: bool = Field(True, description="false: one readable line per event")
    temporal_metrics_port: Annotated[
        int,
        Field(ge=0, le=65_535, description="Prometheus end point of the Temporal SDK; 0 = none"),
    ] = 0
    metrics_port: Annotated[
        int,
        Field(
            ge=0,
            le=65_000,
            description="Prometheus end point of ours; 0 = none (docs/metrics.md)",
        ),
    ] = 0
    tracing_file: str = Field("", description="spans as JSON lines; empty = none")
    tracing_otlp_url: str = Field(
        "", description="spans to a collector, http://host:4318/v1/traces; empty = none"
    )
    tracing_console: bool = Field(False, description="true: spans as JSON lines on standard output")
    audit_file: str = Field(
        "", description="the audit once more as JSON lines, rotated at 50 MB; empty = none"
    )


class AlertChannelSection(Section):
    """One way to a person. Its Apprise URL holds secrets and never stands in the file.

    It comes from HOLDFAST_ALERT_URL_<NAME> (upper case, `-` as `_`), or else from the keyring
    entry `alert_url/<name>`.
    """

    name: Annotated[
        str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$", description="names its URL's variable")
    ]
    minimum: Annotated[
        AlertSeverity, Field(strict=False, description="hears this severity and worse")
    ] = AlertSeverity.INFO
    escalation: bool = Field(
        False, description="true: hears only critical alerts that nobody acknowledged"
    )

    @property
    def variable(self) -> str:
        return ALERT_URL_PREFIX + self.name.upper().replace("-", "_")


LocalTime = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class BarSource(StrEnum):
    POLLED = "polled"
    STREAM = "stream"


class MarketDataSection(Section):
    """Where bars and halts come from (docs/operator.md). The venue allows one stream per key."""

    source: Annotated[
        BarSource,
        Field(strict=False, description="bars of sessions: polled quotes, or stream ticks"),
    ] = BarSource.POLLED
    feed: Annotated[
        MarketFeed,
        Field(strict=False, description="iex: free, 15 symbols; sip: paid, all exchanges"),
    ] = MarketFeed.IEX
    halts: bool = Field(
        True, description="keep the stream open for halts even where nobody wants ticks"
    )
    silence_s: Annotated[
        Seconds, Field(description="seconds without a tick after which the stream is replaced")
    ] = 30.0
    url: str = Field("", description="market-data stream; empty = the venue's own")


class QuietHoursSection(Section):
    """When info and warning alerts are recorded and not sent; critical ones always are."""

    start: Annotated[LocalTime, Field(description="local time, HH:MM")]
    end: Annotated[LocalTime, Field(description="local time, HH:MM; may be the next day")]
    zone: Annotated[
        str, BeforeValidator(_zone_or_none), Field(description="IANA zone; empty = the account's")
    ] = ""


class AlertsSection(Section):
    """Whom alerts reach (docs/alerts.md). Without channels they are only listed and logged."""

    unacknowledged_after_s: Annotated[
        Seconds, Field(description="critical: repeated when nobody acknowledged for so long")
    ] = 300.0
    repeats_max: Annotated[int, Field(ge=0, le=1000, description="how often it is repeated")] = 12
    quiet_hours: QuietHoursSection | None = Field(
        None, description="table [alerts.quiet_hours] with start, end and zone; none: always loud"
    )
    channels: Annotated[
        tuple[AlertChannelSection, ...],
        Field(strict=False, description="tables [[alerts.channels]], see docs/alerts.md"),
    ] = ()


class Settings(Section):
    """Everything a process is told from outside."""

    account: AccountSection
    broker: BrokerSection
    safety: SafetySection = SafetySection()
    restricted: RestrictedSection
    limits: Limits
    temporal: TemporalSection = TemporalSection()
    ledger: LedgerSection = LedgerSection()
    trade: TradeSection = TradeSection()
    observability: ObservabilitySection = ObservabilitySection()
    market_data: MarketDataSection = MarketDataSection()
    alerts: AlertsSection = AlertsSection()
    encryption: EncryptionSection = EncryptionSection()
    alert_urls: dict[str, SecretStr] = Field(default_factory=dict)
    broker_key_id: SecretStr = SecretStr("")
    broker_secret: SecretStr = SecretStr("")
    payload_keys: SecretStr = SecretStr("")
    source: str = ""
    read_at: datetime

    def alpaca(self) -> AlpacaConfig:
        """Adapter settings with the keys.

        Raises:
            BadInput: CONFIG_ENV_MISMATCH when mode, host, key and switch do not belong together.
        """
        key_id, secret = self.broker_keys()
        return AlpacaConfig(
            account=self.account.name,
            key_id=key_id,
            secret=secret,
            mode=self.broker.mode,
            allow_live=self.broker.allow_live,
            trading_url=self.broker.trading_url,
            data_url=self.broker.data_url,
            stream_url=self.broker.stream_url,
            market_stream_url=self.market_data.url,
            market_feed=self.market_data.feed,
            request_timeout_s=self.broker.request_timeout_s,
        )

    def tradier(self) -> TradierConfig:
        """Adapter settings with account number and access token.

        Raises:
            BadInput: CONFIG_ENV_MISMATCH as `alpaca`; CONFIG_CONTRADICTION for ticks, which this
                venue's adapter does not stream.
        """
        if self.market_data.source is BarSource.STREAM:
            raise BadInput(
                "CONFIG_CONTRADICTION", "market_data.source", BarSource.STREAM, "polled at tradier"
            )
        key_id, secret = self.broker_keys()
        return TradierConfig(
            account=self.account.name,
            key_id=key_id,
            secret=secret,
            mode=self.broker.mode,
            allow_live=self.broker.allow_live,
            trading_url=self.broker.trading_url,
            request_timeout_s=self.broker.request_timeout_s,
        )

    def adapter(self) -> AlpacaConfig | TradierConfig:
        """Adapter settings of the venue; raises as `alpaca` and `tradier`."""
        return self.tradier() if self.broker.venue is Venue.TRADIER else self.alpaca()

    def broker_keys(self) -> tuple[str, SecretStr]:
        """The key's id and secret; the simulated exchange has a pair that everybody knows."""
        simulated = self.broker.mode is AlpacaMode.SIMULATOR
        key_id = self.broker_key_id.get_secret_value()
        secret = self.broker_secret.get_secret_value()
        return (
            key_id or (_SIMULATOR_KEY_ID if simulated else ""),
            SecretStr(secret or (_SIMULATOR_SECRET if simulated else "")),
        )

    def fee_rates(self) -> FeeRates:
        """What an entry costs beside its price, at worst."""
        return FeeRates(
            per_share=self.broker.fee_per_share, per_contract=self.broker.fee_per_contract
        )

    def restricted_list(self) -> RestrictedList:
        """The list as it stands now; a file is read again at every call.

        Raises:
            ConfigError: the file was not there or not readable; entries then fail closed.
        """
        if self.restricted.symbols is not None:
            return RestrictedList(symbols=self.restricted.symbols, as_of=self.read_at)
        path = Path(self.source).parent / self.restricted.file
        values = _read_toml(path)
        as_of = values.get("as_of") or datetime.fromtimestamp(path.stat().st_mtime, UTC)
        try:
            return RestrictedList.model_validate(
                {"symbols": values.get("symbols", ()), "as_of": as_of}
            )
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise ConfigError("CONFIG_TYPE", where, location=str(path)) from None


# Variable to (section, key, kind). Nothing else of the settings can be set from outside.
_VARIABLES: dict[str, tuple[str, str, type]] = {
    "HOLDFAST_BROKER_TRADING_URL": ("broker", "trading_url", str),
    "HOLDFAST_BROKER_DATA_URL": ("broker", "data_url", str),
    "HOLDFAST_BROKER_STREAM_URL": ("broker", "stream_url", str),
    "HOLDFAST_DRY_RUN": ("safety", "dry_run", bool),
    "HOLDFAST_TEMPORAL_ADDRESS": ("temporal", "address", str),
    "HOLDFAST_TEMPORAL_NAMESPACE": ("temporal", "namespace", str),
    "HOLDFAST_STICKY_TIMEOUT_S": ("temporal", "sticky_timeout_s", float),
    "HOLDFAST_LEDGER_DSN": ("ledger", "dsn", SecretStr),
    "HOLDFAST_LOG_LEVEL": ("observability", "log_level", str),
    "HOLDFAST_METRICS_PORT": ("observability", "metrics_port", int),
    "HOLDFAST_TRACING_OTLP_URL": ("observability", "tracing_otlp_url", str),
    "HOLDFAST_TEMPORAL_METRICS_PORT": ("observability", "temporal_metrics_port", int),
    "HOLDFAST_BROKER_KEY_ID": ("", "broker_key_id", SecretStr),
    "HOLDFAST_BROKER_SECRET": ("", "broker_secret", SecretStr),
    "HOLDFAST_PAYLOAD_KEYS": ("", "payload_keys", SecretStr),
}
_SECRET_KEY = re.compile(r"secret|password|passwd|token|(^|_)key(_id)?$|private", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"://[^/@:]*:[^/@]+@")


def load_settings(path: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Reads and checks everything at once; nothing is read again later.

    Raises:
        ConfigError: see the head of this file.
    """
    environment = os.environ if environment is None else environment
    values = _read_toml(path)
    text = path.read_text()
    _refuse_inline_secrets(values, path, text)
    located = _Locator(path, text)
    for key in ("source", "read_at", "alert_urls"):
        if key in values:
            raise ConfigError("CONFIG_UNKNOWN_KEY", key, key, "a known name", located.of(key))
    origins = _apply_environment(values, environment)
    _add_secrets(values, path, located)
    limits = values.pop("limits", None)
    if not isinstance(limits, dict):
        raise ConfigError("CONFIG_MISSING", "limits", "", NO_DEFAULT, str(path))
    try:
        read = read_limits(limits)
        settings = Settings.model_validate(
            {**values, "limits": read, "source": str(path.resolve()), "read_at": datetime.now(UTC)}
        )
        _check_restricted(settings)
        _check_rates(settings)
        _check_channels(settings)
        _check_ports(settings)
        _check_payload_keys(settings)
        settings.adapter()
    except ValidationError as error:
        raise _as_config_error(error, located, origins) from None
    except ConfigError:
        raise
    except BadInput as error:
        field = error.field.replace("alpaca.market_stream_url", "market_data.url", 1)
        field = field.replace("alpaca.", "broker.", 1).replace("tradier.", "broker.", 1)
        raise _relocated(error, field, origins.get(field) or located.of(field)) from None
    return settings


def origins_of(path: Path, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Where each setting that is not a default comes from: `file:line` or the variable."""
    environment = os.environ if environment is None else environment
    values, located = _read_toml(path), _Locator(path, path.read_text())
    found = {
        f"{section}.{key}": located.of(f"{section}.{key}")
        for section, table in values.items()
        if isinstance(table, dict)
        for key in table
    }
    return found | _apply_environment(values, environment)


def _check_restricted(settings: Settings) -> None:
    given = (settings.restricted.symbols is not None, settings.restricted.file != "")
    if given == (False, False):
        raise BadInput("CONFIG_MISSING", "restricted.symbols", "", "symbols or file")
    if given == (True, True):
        raise BadInput("CONFIG_CONTRADICTION", "restricted.file", "", "symbols or file, not both")
    settings.restricted_list()


def _check_rates(settings: Settings) -> None:
    """Our own message limit must fit into the broker's, or it protects nothing (row 49)."""
    ours, theirs = settings.limits.max_messages_per_minute, settings.broker.requests_per_minute
    if ours > theirs:
        field = "limits.max_messages_per_minute"
        raise BadInput("CONFIG_CONTRADICTION", field, ours, f"<= requests_per_minute {theirs}")


def _check_ports(settings: Settings) -> None:
    """Both end points move with the role of the worker, by up to two (docs/metrics.md)."""
    watched = settings.observability
    ours, theirs = watched.metrics_port, watched.temporal_metrics_port
    if ours and theirs and abs(ours - theirs) < METRICS_PORTS:
        allowed = f"at least {METRICS_PORTS} away from temporal_metrics_port {theirs}"
        raise BadInput("CONFIG_CONTRADICTION", "observability.metrics_port", ours, allowed)


def _check_payload_keys(settings: Settings) -> None:
    """Who gives keys means to encrypt: keys that nothing uses would look like encryption."""
    source = settings.encryption.secrets
    if settings.payload_keys.get_secret_value() and source is not PayloadKeySource.ENVIRONMENT:
        allowed = "environment while HOLDFAST_PAYLOAD_KEYS is set"
        raise BadInput("CONFIG_CONTRADICTION", "encryption.secrets", source.value, allowed)


def _check_channels(settings: Settings) -> None:
    """Two channels of one name would share a URL; a URL of no channel is a misspelt one."""
    channels = settings.alerts.channels
    variables = [channel.variable for channel in channels]
    for variable, channel in zip(variables, channels, strict=True):
        if variables.count(variable) > 1:
            raise BadInput("CONFIG_CONTRADICTION", "alerts.channels", channel.name, "each once")
    for variable in settings.alert_urls if channels else ():
        if variable not in variables:
            raise BadInput("CONFIG_UNKNOWN_KEY", variable, "", ", ".join(variables))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        allowed = file_to("read", error)
        raise ConfigError("CONFIG_FILE", "file", str(path), allowed) from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        location = f"{path}:{line.group(1)}" if line else str(path)
        raise ConfigError("CONFIG_SYNTAX", "file", str(error), "TOML", location) from None
    except UnicodeDecodeError as error:
        raise ConfigError("CONFIG_SYNTAX", "file", error.reason, "UTF-8", str(path)) from None


def _refuse_inline_secrets(values: Mapping[str, Any], path: Path, text: str) -> None:
    """A secret in a file that people share and commit is a leak, even if it is also unknown."""
    for section, table in values.items():
        pairs = list(table.items()) if isinstance(table, dict) else [(section, table)]
        if section == "alerts" and isinstance(table, dict):
            channels = table.get("channels")
            for channel in channels if isinstance(channels, list) else ():
                pairs += list(channel.items()) if isinstance(channel, dict) else []
        for key, value in pairs:
            if (section, key) == ("broker", "secrets") and value in tuple(SecretSource):
                continue
            if (section, key) == ("encryption", "secrets") and value in tuple(PayloadKeySource):
                continue
            if section == "alerts" and key == "url":
                # Whatever it looks like: most Apprise URLs are made of tokens.
                where = _Locator(path, text).of("alerts.channels")
                allowed = "HOLDFAST_ALERT_URL_<NAME> in the environment, or the keyring"
                raise ConfigError(
                    "CONFIG_SECRET_INLINE", "alerts.channels.url", "***", allowed, where
                )
            is_secret = _SECRET_KEY.search(key) or _PASSWORD_IN_URL.search(str(value))
            if isinstance(value, str) and value and is_secret:
                field = f"{section}.{key}" if isinstance(table, dict) else section
                allowed = "environment, keyring or a 0600 key_file"
                location = _Locator(path, text).of(field)
                raise ConfigError("CONFIG_SECRET_INLINE", field, "***", allowed, location)


def _apply_environment(values: dict[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Writes the variables over the file's values; returns field to variable name."""
    origins: dict[str, str] = {}
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in OTHER_VARIABLES:
            continue
        if name.startswith(ALERT_URL_PREFIX):
            urls = values.setdefault("alert_urls", {})
            urls[name] = _converted(name, environment[name], SecretStr)
            continue
        if name not in _VARIABLES:
            allowed = nearest_name(name, sorted(_VARIABLES))
            raise ConfigError("CONFIG_UNKNOWN_KEY", name, name, allowed, "environment")
        section, key, kind = _VARIABLES[name]
        value = _converted(name, environment[name], kind)
        if section:
            values.setdefault(section, {})[key] = value
        else:
            values[key] = value
        origins[f"{section}.{key}" if section else key] = f"environment {name}"
    return origins


def _converted(name: str, text: str, kind: type) -> object:
    if text == "":
        raise ConfigError("CONFIG_EMPTY", name, "", "a value, or unset the variable", "environment")
    if kind is SecretStr:
        return SecretStr(text)
    if kind is bool:
        if text not in ("true", "false"):
            raise ConfigError("CONFIG_TYPE", name, text, "true|false", "environment")
        return text == "true"
    if kind is not str and not re.fullmatch(
        r"\d{1,9}(\.\d{1,6})?" if kind is float else r"\d{1,9}", text
    ):
        raise ConfigError("CONFIG_TYPE", name, text, kind.__name__, "environment")
    return kind(text)


def _add_secrets(values: dict[str, Any], path: Path, located: _Locator) -> None:
    """Keys from where `broker.secrets` says; the environment wins over all."""
    broker, account = values.get("broker"), values.get("account")
    if not isinstance(broker, dict) or not isinstance(account, dict):
        return
    name, source = broker.get("key_file", ""), broker.get("secrets", SecretSource.ENVIRONMENT)
    if not isinstance(name, str) or source not in tuple(SecretSource):
        return
    if source == SecretSource.KEYRING:
        if name:
            allowed = "empty with secrets = keyring"
            where = located.of("broker.key_file")
            raise ConfigError("CONFIG_CONTRADICTION", "broker.key_file", name, allowed, where)
        _add_keyring(values, str(account.get("name", "")), located.of("broker.secrets"))
    elif name:
        _add_key_file(values, path, name)
    elif source == SecretSource.KEY_FILE:
        where = located.of("broker.secrets")
        raise ConfigError("CONFIG_MISSING", "broker.key_file", "", "a file of mode 0600", where)


def _add_keyring(values: dict[str, Any], account: str, where: str) -> None:
    for key in KEYRING_KEYS:
        if key not in values:
            try:
                values[key] = SecretStr(read_keyring(account, key))
            except BadInput as error:
                raise ConfigError(error.code, error.field, "", error.allowed, where) from None


def _add_key_file(values: dict[str, Any], path: Path, name: str) -> None:
    """Keys from a file of mode 0600 beside the settings."""
    key_file = path.parent / name
    values_of_file = _read_toml(key_file)
    check_key_file_mode(key_file, "broker.key_file")
    for key in values_of_file:
        if key not in ("key_id", "secret"):
            raise ConfigError("CONFIG_UNKNOWN_KEY", key, key, "key_id, secret", str(key_file))
    for key in ("key_id", "secret"):
        value = values_of_file.get(key)
        if not isinstance(value, str) or not value:
            raise ConfigError("CONFIG_MISSING", key, "", "text", str(key_file))
        values.setdefault(f"broker_{key}", SecretStr(value))


def check_key_file_mode(key_file: Path, field: str) -> None:
    """Nobody but its owner may read a file of keys.

    Raises:
        ConfigError: FILE_MODE.
    """
    mode = stat.S_IMODE(key_file.stat().st_mode)
    if mode & ~KEY_FILE_MODE_MAX:
        raise ConfigError("FILE_MODE", field, oct(mode), "0o600", str(key_file))


class _Locator:
    """Finds the line on which a dotted key of the file stands."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines: dict[str, int] = {}
        section = ""
        for number, line in enumerate(text.splitlines(), start=1):
            header = re.match(r"\s*\[\[?([^\[\]]+)\]", line)
            key = re.match(r"\s*([A-Za-z0-9_-]+)\s*=", line)
            if header:
                section = header.group(1).strip()
                self._lines.setdefault(section, number)
            elif key:
                name = key.group(1)
                self._lines.setdefault(f"{section}.{name}" if section else name, number)

    def of(self, field: str) -> str:
        """`file:line` of the key, else of its table, else the file."""
        for name in (field, field.split(".")[0]):
            if name in self._lines:
                return f"{self._path}:{self._lines[name]}"
        return str(self._path)


_CODE_OF_TYPE = {"missing": "CONFIG_MISSING", "extra_forbidden": "CONFIG_UNKNOWN_KEY"}


def _as_config_error(
    error: ValidationError, located: _Locator, origins: Mapping[str, str]
) -> ConfigError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    field = ".".join(path[:2])
    code = _CODE_OF_TYPE.get(first["type"], "CONFIG_TYPE")
    value, allowed = first["input"], allowed_by(first["type"], first["msg"])
    if code == "CONFIG_MISSING":
        value, allowed = "", NO_DEFAULT
    elif code == "CONFIG_UNKNOWN_KEY":
        # The name is what is wrong; the value may be a secret at the wrong place.
        value, allowed = path[-1], nearest_name(path[-1], _known_keys(path[:-1]))
    return ConfigError(code, field, value, allowed, origins.get(field) or located.of(field))


def _known_keys(path: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        if part.isdecimal():
            continue
        annotation = model.model_fields[part].annotation
        # `tuple[Channel, ...]` and `QuietHours | None` are about their first part.
        inner = get_args(annotation)[:1] or (annotation,)
        assert isinstance(inner[0], type)
        model = inner[0]
    return list(model.model_fields)


def _relocated(error: BadInput, field: str, location: str) -> ConfigError:
    moved = ConfigError(error.code, field, "", error.allowed, location)
    if error.value not in ("", "''"):
        moved.value = error.value
        moved.text = moved.text.replace("value was ''", f"value was {error.value}", 1)
        moved.args = (moved.text,)
    return moved
