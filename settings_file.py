"""How `settings.Settings` come about: the TOML file, then the environment, then the secrets.

Every refusal is a `ConfigError` whose code is `CONFIG_*` or `FILE_MODE` (faults.md §3 rows 21 and
48-51) and which names the file and line, or the environment variable.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError

from domain.errors import NO_DEFAULT, BadInput, allowed_by, nearest_name
from domain.risk.limits import read_limits
from keyring_store import KEYRING_KEYS, read_keyring
from settings import (
    ALERT_URL_PREFIX,
    ConfigError,
    PayloadKeySource,
    SecretSource,
    Settings,
    read_toml,
)

ENVIRONMENT_PREFIX = "HOLDFAST_"
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
        ConfigError: `CONFIG_*`, `FILE_MODE`.
    """
    environment = os.environ if environment is None else environment
    values = read_toml(path)
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
    values, located = read_toml(path), _Locator(path, path.read_text())
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
    values_of_file = read_toml(key_file)
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
