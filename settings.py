"""Settings: frozen, read once from a TOML file and the environment by a composition root.

What the file may say stands, key by key, in `config/demo.toml` and `config/paper.toml`. Nothing
below the composition roots reads the environment. Secrets come from the environment or from a
file of mode 0600 or the system's keyring, never from the settings file. Limits have no defaults;
`dry_run` is on and every account starts disarmed.

`settings_file.load_settings` reads them.
"""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from brokers.alpaca.config import AlpacaConfig, AlpacaMode, MarketFeed
from brokers.tradier.config import TradierConfig
from domain.commands import AlertSeverity
from domain.errors import BadInput, file_to
from domain.money import ZERO, Amount
from domain.risk.fees import FeeRates
from domain.risk.limits import Limits, RestrictedList
from marketdata.zones import zone

ALERT_URL_PREFIX = "HOLDFAST_ALERT_URL_"
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
        Count, Field(description="the broker's limit; the order lane takes half of it, two a step")
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


def read_toml(path: Path) -> dict[str, Any]:
    """The file's values; its numbers are exact.

    Raises:
        ConfigError: CONFIG_FILE, CONFIG_SYNTAX.
    """
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
        values = read_toml(path)
        as_of = values.get("as_of") or datetime.fromtimestamp(path.stat().st_mtime, UTC)
        try:
            return RestrictedList.model_validate(
                {"symbols": values.get("symbols", ()), "as_of": as_of}
            )
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise ConfigError("CONFIG_TYPE", where, location=str(path)) from None
