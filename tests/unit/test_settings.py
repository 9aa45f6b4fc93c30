"""Bad configuration refuses to start and names its place (faults.md §3 rows 21 and 48-51)."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.alpaca.config import AlpacaMode
from settings import ConfigError, Settings
from settings_file import load_settings
from simulator.config import ApiKey

CONFIG = Path(__file__).resolve().parents[2] / "config"
PAPER_KEYS = {"HOLDFAST_BROKER_KEY_ID": "PKTEST", "HOLDFAST_BROKER_SECRET": "not-a-real-one"}
DEMO = (CONFIG / "demo.toml").read_text()


def load(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> Settings:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return load_settings(path, environment or {})


def refusal(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text, environment)
    return refused.value


def changed(pattern: str, replacement: str) -> str:
    text, count = re.subn(pattern, replacement, DEMO, count=1, flags=re.MULTILINE)
    assert count == 1, pattern
    return text


def line_of(text: str, beginning: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith(beginning))


def test_samples_are_accepted_and_carry_the_limits_of_the_work_order() -> None:
    demo = load_settings(CONFIG / "demo.toml", {})
    assert demo.broker.mode is AlpacaMode.SIMULATOR
    assert demo.restricted_list().symbols == ("HALTX",)

    paper = load_settings(CONFIG / "paper.toml", PAPER_KEYS)
    assert paper.safety.dry_run
    assert paper.temporal.sticky_timeout_s == 1.0
    assert paper.trade.settle_window_s == 2.0
    limits = paper.limits.model_dump()
    expected = {
        "max_order_notional": 1000,
        "max_order_quantity": 20000,
        "collar_fraction": Decimal("0.02"),
        "max_open_positions": 5,
        "max_symbol_fraction": Decimal("0.10"),
        "max_daily_loss_fraction": Decimal("0.05"),
        "max_messages_per_minute": 60,
        "repeat_entries_max": 20,
        "repeat_window_s": 3600,
        "duplicate_window_s": 30,
        "quote_max_age_s": 5,
        "option_quote_max_age_s": 300,
        "batch_max_age_s": 1800,
        "batch_fresh_fraction_min": Decimal("0.9"),
    }
    assert {name: limits[name] for name in expected} == expected


REFUSED = (
    # name, pattern, replacement, code, field
    ("missing limit", r"^collar_fraction.*\n", "", "CONFIG_MISSING", "limits.collar_fraction"),
    ("missing key", r"^mode = .*\n", "", "CONFIG_MISSING", "broker.mode"),
    ("misspelt limit", r"^allow_short", "alow_short", "CONFIG_UNKNOWN_KEY", "limits.alow_short"),
    ("misspelt key", r"^dry_run", "dryrun", "CONFIG_UNKNOWN_KEY", "safety.dryrun"),
    ("misspelt table", r"^\[trade\]", "[trades]", "CONFIG_UNKNOWN_KEY", "trades"),
    ("text for bool", r"^dry_run = false", 'dry_run = "no"', "CONFIG_TYPE", "safety.dry_run"),
    ("number for bool", r"^dry_run = false", "dry_run = 0", "CONFIG_TYPE", "safety.dry_run"),
    ("bool for number", r"^settle_window_s = 2", "settle_window_s = true", "CONFIG_TYPE",
     "trade.settle_window_s"),
    ("request longer than its step", r"^request_timeout_s = 3", "request_timeout_s = 4.5",
     "CONFIG_TYPE", "broker.request_timeout_s"),
    ("text for number", r"^requests_per_minute = \d+", 'requests_per_minute = "200"',
     "CONFIG_TYPE", "broker.requests_per_minute"),
    ("unknown mode", r'^mode = "simulator"', 'mode = "real"', "CONFIG_TYPE", "broker.mode"),
    ("bad installation", r'"d0d0"', '"D0D0"', "CONFIG_TYPE", "account.installation"),
    ("yaml word", r"^dry_run = false", "dry_run = no", "CONFIG_SYNTAX", "file"),
    ("octal", r"^settle_window_s = 2", "settle_window_s = 010", "CONFIG_SYNTAX", "file"),
    ("collar 0", r"^collar_fraction = 0.02", "collar_fraction = 0", "CONFIG_COLLAR_RANGE",
     "limits.collar_fraction"),
    ("collar 500 %", r"^collar_fraction = 0.02", "collar_fraction = 5.0", "CONFIG_COLLAR_RANGE",
     "limits.collar_fraction"),
    ("order of less than nothing", r"^max_order_notional = \d+", "max_order_notional = -5",
     "CONFIG_RANGE", "limits.max_order_notional"),
    ("order above total", r"^max_total_notional = 100000", "max_total_notional = 24999",
     "CONFIG_CONTRADICTION", "limits.max_order_notional"),
    ("more than the broker takes", r"^requests_per_minute = \d+", "requests_per_minute = 59",
     "CONFIG_CONTRADICTION", "limits.max_messages_per_minute"),
    ("venue's host in simulation", r"http://127.0.0.1:8100", "https://api.alpaca.markets",
     "CONFIG_ENV_MISMATCH", "broker.trading_url"),
    ("live without the switch", r'^mode = "simulator"', 'mode = "live"', "CONFIG_ENV_MISMATCH",
     "broker.allow_live"),
    ("inline secret", r'^key_file = ""', 'secret = "abc"', "CONFIG_SECRET_INLINE",
     "broker.secret"),
    ("inline key id", r'^key_file = ""', 'key_id = "PKABC"', "CONFIG_SECRET_INLINE",
     "broker.key_id"),
    ("password in dsn", r"^\[ledger\]", '[ledger]\ndsn = "postgresql://me:pw@h/d"',
     "CONFIG_SECRET_INLINE", "ledger.dsn"),
    ("no list", r"^symbols = .*\n", "", "CONFIG_MISSING", "restricted.symbols"),
)  # fmt: skip


@pytest.mark.covers("C12")
@pytest.mark.parametrize(
    ("pattern", "replacement", "code", "field"),
    [each[1:] for each in REFUSED],
    ids=[each[0] for each in REFUSED],
)
def test_bad_file_is_refused_with_code_field_and_line(
    tmp_path: Path, pattern: str, replacement: str, code: str, field: str
) -> None:
    text = changed(pattern, replacement)
    live_keys = {**PAPER_KEYS, "HOLDFAST_BROKER_KEY_ID": "AKLIVE"}
    refused = refusal(tmp_path, text, live_keys)
    assert (refused.code, refused.field) == (code, field), refused
    assert re.search(r"settings\.toml:\d+$", refused.location), refused.location
    named = replacement.splitlines()[-1].split(" ")[0] if replacement else ""
    if named and field.split(".")[-1] == named:
        assert refused.location.endswith(f":{line_of(text, named)}")


def test_limit_out_of_its_range_is_told_with_what_it_was(tmp_path: Path) -> None:
    """It was `limits: value was ''`, on the line of the table."""
    refused = refusal(tmp_path, changed(r"^max_order_notional = \d+", "max_order_notional = -5"))
    assert "limits.max_order_notional: value was -5, allowed max_order_notional > 0" in refused.text


CHANNELS = """
[alerts.quiet_hours]
start = "22:00"
end = "07:00"
zone = "Europe/Berlin"

[[alerts.channels]]
name = "phone"
minimum = "critical"

[[alerts.channels]]
name = "duty-officer"
escalation = true
"""


def test_alert_channels_take_their_urls_from_the_environment_only(tmp_path: Path) -> None:
    variable = "HOLDFAST_ALERT_URL_DUTY_OFFICER"
    settings = load(tmp_path, DEMO + CHANNELS, {variable: "json://canary-value@host"})
    assert [each.variable for each in settings.alerts.channels][1] == variable
    assert settings.alert_urls[variable].get_secret_value() == "json://canary-value@host"
    assert "canary-value" not in repr(settings) + settings.model_dump_json()
    # A command of another stack may find the variable and has no channels.
    load(tmp_path, DEMO, {variable: "json://host"})


@pytest.mark.parametrize(
    ("pattern", "replacement", "code", "field"),
    [
        ('minimum = "critical"', 'url = "json://x"', "CONFIG_SECRET_INLINE", "alerts.channels.url"),
        ('name = "duty-officer"', 'name = "phone"', "CONFIG_CONTRADICTION", "alerts.channels"),
        ('minimum = "critical"', 'minimum = "bad"', "CONFIG_TYPE", "alerts.channels"),
        ('minimum = "critical"', 'minimun = "info"', "CONFIG_UNKNOWN_KEY", "alerts.channels"),
        ('name = "phone"', 'name = "My Phone"', "CONFIG_TYPE", "alerts.channels"),
        ('start = "22:00"', 'start = "24:00"', "CONFIG_TYPE", "alerts.quiet_hours"),
        ('zone = "Europe/Berlin"', 'zone = "CET-1"', "TZ_UNKNOWN", "alerts.quiet_hours.zone"),
    ],
)
def test_bad_alert_channel_is_refused_with_code_and_line(
    tmp_path: Path, pattern: str, replacement: str, code: str, field: str
) -> None:
    refused = refusal(tmp_path, DEMO + CHANNELS.replace(pattern, replacement))
    assert (refused.code, refused.field) == (code, field), refused
    assert re.search(r"settings\.toml:\d+$", refused.location), refused.location


def test_end_points_that_would_meet_are_refused(tmp_path: Path) -> None:
    ports = {"HOLDFAST_METRICS_PORT": "9102", "HOLDFAST_TEMPORAL_METRICS_PORT": "9100"}
    refused = refusal(tmp_path, DEMO, ports)
    assert refused.code == "CONFIG_CONTRADICTION"
    assert refused.field == "observability.metrics_port"
    load(tmp_path, DEMO, {**ports, "HOLDFAST_METRICS_PORT": "9103"})


def test_url_of_no_channel_is_a_misspelt_variable(tmp_path: Path) -> None:
    refused = refusal(tmp_path, DEMO + CHANNELS, {"HOLDFAST_ALERT_URL_FONE": "json://host"})
    assert (refused.code, refused.field) == ("CONFIG_UNKNOWN_KEY", "HOLDFAST_ALERT_URL_FONE")


def test_secret_is_not_repeated_in_the_refusal(tmp_path: Path) -> None:
    refused = refusal(tmp_path, changed(r'^key_file = ""', 'secret = "canary-value"'))
    assert "canary-value" not in str(refused)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("HOLDFAST_TEMPORAL_ADDRESS", "", "CONFIG_EMPTY"),
        ("HOLDFAST_DRY_RUN", "no", "CONFIG_TYPE"),
        ("HOLDFAST_METRICS_PORT", "0x1f", "CONFIG_TYPE"),
        ("HOLDFAST_STICKY_TIMEOUT_S", "nan", "CONFIG_TYPE"),
        ("HOLDFAST_DRYRUN", "false", "CONFIG_UNKNOWN_KEY"),
    ],
)
def test_bad_variable_is_refused_by_name(tmp_path: Path, name: str, value: str, code: str) -> None:
    refused = refusal(tmp_path, DEMO, {name: value})
    assert (refused.code, refused.field) == (code, name)


def test_environment_overrides_the_file_and_masks_secrets(tmp_path: Path) -> None:
    dsn = "postgresql://holdfast:canary-value@127.0.0.1:1/holdfast"
    settings = load(
        tmp_path, DEMO, {"HOLDFAST_LEDGER_DSN": dsn, "HOLDFAST_DRY_RUN": "true", "HOME": ""}
    )
    assert settings.safety.dry_run
    assert settings.ledger.dsn.get_secret_value() == dsn
    assert "canary-value" not in repr(settings)
    assert "canary-value" not in settings.model_dump_json()


def test_key_file_is_read_only_when_nobody_else_can_read_it(tmp_path: Path) -> None:
    text = changed(r'^key_file = ""', 'key_file = "keys.toml"')
    keys = tmp_path / "keys.toml"
    keys.write_text('key_id = "PKFILE"\nsecret = "s"\n')
    os.chmod(keys, 0o640)
    refused = refusal(tmp_path, text)
    assert (refused.code, refused.location) == ("FILE_MODE", str(keys))

    os.chmod(keys, 0o600)
    assert load(tmp_path, text).alpaca().key_id == "PKFILE"
    overridden = load(tmp_path, text, {"HOLDFAST_BROKER_KEY_ID": "PKENV"})
    assert overridden.alpaca().key_id == "PKENV"


def test_paper_key_on_the_live_url_is_refused() -> None:
    keys = {**PAPER_KEYS, "HOLDFAST_BROKER_KEY_ID": "AKLIVE"}
    with pytest.raises(ConfigError) as refused:
        load_settings(CONFIG / "paper.toml", keys)
    assert refused.value.code == "CONFIG_ENV_MISMATCH"
    live_url = {**PAPER_KEYS, "HOLDFAST_BROKER_TRADING_URL": "https://api.alpaca.markets"}
    with pytest.raises(ConfigError) as refused:
        load_settings(CONFIG / "paper.toml", live_url)
    assert refused.value.code == "CONFIG_ENV_MISMATCH"
    assert refused.value.location == "environment HOLDFAST_BROKER_TRADING_URL"


def test_restricted_list_file_counts_as_of_its_own_date(tmp_path: Path) -> None:
    text = changed(r"^symbols = .*", 'file = "restricted.toml"')
    assert refusal(tmp_path, text).code == "CONFIG_FILE"
    listed = tmp_path / "restricted.toml"
    listed.write_text('as_of = 2026-01-02T03:04:05Z\nsymbols = ["GME", "AMC"]\n')
    assert load(tmp_path, text).restricted_list().as_of == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    listed.write_text('symbols = ["GME"]\n')
    os.utime(listed, (0, 0))
    assert load(tmp_path, text).restricted_list().as_of == datetime(1970, 1, 1, tzinfo=UTC)


def test_market_data_is_polled_by_default_and_a_wrong_source_is_refused(tmp_path: Path) -> None:
    plain = load(tmp_path, DEMO.split("[market_data]")[0] + DEMO[DEMO.index("[observability]") :])
    assert plain.market_data == load(tmp_path, DEMO).market_data
    assert (plain.market_data.source, plain.market_data.halts) == ("polled", True)
    told = load(tmp_path, changed('^source = "polled"', 'source = "stream"'))
    assert told.market_data.source == "stream"
    told = load(tmp_path, changed('^feed = "iex"', 'feed = "sip"'))
    trading = told.alpaca().trading_url.removeprefix("http")
    assert told.alpaca().market_stream_url == f"ws{trading}/v2/sip"
    for pattern, line, code in (
        ("^source =.*", 'source = "streamed"', "CONFIG_TYPE"),
        ("^silence_s =.*", "silence_s = 0", "CONFIG_TYPE"),
        ("^halts =.*", "halt = true", "CONFIG_UNKNOWN_KEY"),
        ("^url =.*", 'url = "wss://stream.data.alpaca.markets/v2/iex"', "CONFIG_ENV_MISMATCH"),
    ):
        error = refusal(tmp_path, changed(pattern, line))
        assert (error.code, ".toml:" in error.location) == (code, True)


def test_simulator_without_keys_is_given_the_exchange_own_pair(tmp_path: Path) -> None:
    """A plain `up` must be able to log in at the exchange that it started."""
    key, config = ApiKey(), load(tmp_path, DEMO).alpaca()
    assert (config.key_id, config.secret.get_secret_value()) == (key.key, key.secret)


TRADIER = {"HOLDFAST_BROKER_KEY_ID": "VA123", "HOLDFAST_BROKER_SECRET": "not-a-real-one"}


def at_tradier(text: str) -> str:
    return re.sub(r'^venue = "alpaca"', 'venue = "tradier"', text, flags=re.MULTILINE)


def test_tradier_is_chosen_by_venue_and_takes_account_number_and_token(tmp_path: Path) -> None:
    demo = load(tmp_path, at_tradier(DEMO)).tradier()
    assert (demo.key_id, demo.mode) == (ApiKey().key, AlpacaMode.SIMULATOR)
    text = at_tradier((CONFIG / "paper.toml").read_text())
    text = re.sub(r"^requests_per_minute.*", "requests_per_minute = 60", text, flags=re.MULTILINE)
    paper = load(tmp_path, text, TRADIER)
    assert paper.adapter().trading_url == "https://sandbox.tradier.com"
    assert "VA123" in paper.tradier().key_id


def test_tradier_refuses_a_live_account_in_the_sandbox_and_ticks(tmp_path: Path) -> None:
    text = at_tradier((CONFIG / "paper.toml").read_text())
    error = refusal(tmp_path, text, TRADIER | {"HOLDFAST_BROKER_KEY_ID": "6YA123"})
    assert (error.code, error.field) == ("CONFIG_ENV_MISMATCH", "broker.key_id")
    ticks = at_tradier(changed(r'^source = "polled"', 'source = "stream"'))
    assert refusal(tmp_path, ticks).field == "market_data.source"
