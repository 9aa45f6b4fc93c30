"""Bad settings on the file that `init` writes: faults.md §3 rows 48-51, and row 26 for its zone.

`test_settings.py` has the rows on the sample file; all of them are tried here again.
"""

from __future__ import annotations

import os
import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest

from cli.config_file import rendered
from domain.risk.limits import Limits
from settings_file import load_settings
from tests.unit.test_settings import CONFIG, PAPER_KEYS, REFUSED, load, refusal

WRITTEN = rendered(tomllib.loads((CONFIG / "demo.toml").read_text(), parse_float=Decimal))
LIVE_KEYS = {**PAPER_KEYS, "HOLDFAST_BROKER_KEY_ID": "AKLIVE"}

# name, pattern, replacement, code, field
MORE = (
    ("secret as its source", r'^secrets = "environment"', 'secrets = "PKABC"',
     "CONFIG_SECRET_INLINE", "broker.secrets"),
    ("unknown source", r'^secrets = "environment"', "secrets = 7", "CONFIG_TYPE",
     "broker.secrets"),
    ("two sources", r'^secrets = "environment"(.*\n)+?key_file = ""',
     'secrets = "keyring"\nkey_file = "k"', "CONFIG_CONTRADICTION", "broker.key_file"),
    ("key file without name", r'^secrets = "environment"', 'secrets = "key_file"',
     "CONFIG_MISSING", "broker.key_file"),
    ("unknown zone", r'^time_zone = "America/New_York"', 'time_zone = "Mars/Base"', "TZ_UNKNOWN",
     "account.time_zone"),
    ("zone without rules", r'^time_zone = "America/New_York"', 'time_zone = "EST5"',
     "TZ_UNKNOWN", "account.time_zone"),
    ("no zone", r'^time_zone = "America/New_York"', 'time_zone = ""', "TZ_UNKNOWN",
     "account.time_zone"),
    ("not a number", r"^collar_fraction = 0.02", "collar_fraction = nan", "NOT_FINITE",
     "limits.collar_fraction"),
    ("endless", r"^max_order_notional = \d+", "max_order_notional = inf", "NOT_FINITE",
     "limits.max_order_notional"),
    ("below zero", r"^max_order_notional = \d+", "max_order_notional = -1", "CONFIG_RANGE",
     "limits.max_order_notional"),
    ("yaml on", r"^allow_live = false", "allow_live = on", "CONFIG_SYNTAX", "file"),
    ("twice", r"^allow_live = false", "allow_live = false\nallow_live = true", "CONFIG_SYNTAX",
     "file"),
    ("two lists", r'^file = ""', 'file = "restricted.toml"', "CONFIG_CONTRADICTION",
     "restricted.file"),
)  # fmt: skip
# `dsn` stands in the file as a comment; the sample's row puts it below the table's head.
ROWS = [row for row in REFUSED if row[0] != "misspelt table"] + list(MORE)


@pytest.mark.parametrize(
    ("pattern", "replacement", "code", "field"),
    [each[1:] for each in ROWS],
    ids=[each[0] for each in ROWS],
)
def test_bad_line_is_refused_with_code_field_and_its_place(
    tmp_path: Path, pattern: str, replacement: str, code: str, field: str
) -> None:
    text, count = re.subn(pattern, replacement, WRITTEN, count=1, flags=re.MULTILINE)
    assert count == 1, pattern
    refused = refusal(tmp_path, text, LIVE_KEYS if "key" not in field else {})
    assert (refused.code, refused.field) == (code, field), refused
    assert re.search(r"settings\.toml:\d+: ", refused.text), refused.text
    assert "PKABC" not in refused.text


@pytest.mark.parametrize("name", list(Limits.model_fields))
def test_no_limit_has_a_default(tmp_path: Path, name: str) -> None:
    text, count = re.subn(rf"^{name} = .*\n", "", WRITTEN, flags=re.MULTILINE)
    assert count == 1
    refused = refusal(tmp_path, text)
    assert (refused.code, refused.field) == ("CONFIG_MISSING", f"limits.{name}")
    assert re.search(r"settings\.toml:\d+$", refused.location)


def test_file_as_it_is_written_means_what_the_sample_means(tmp_path: Path) -> None:
    own = {"source", "read_at"}
    written = load(tmp_path, WRITTEN).model_dump(exclude=own)
    assert written == load_settings(CONFIG / "demo.toml", {}).model_dump(exclude=own)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o666, 0o610])
def test_key_file_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('key_id = "PKFILE"\nsecret = "canary-value"\n')
    os.chmod(keys, mode)
    text = WRITTEN.replace('key_file = ""', 'key_file = "keys.toml"')
    refused = refusal(tmp_path, text, LIVE_KEYS)
    assert (refused.code, refused.field) == ("FILE_MODE", "broker.key_file")
    assert "canary-value" not in refused.text


@pytest.mark.parametrize(
    ("mode", "key_id", "allow_live", "url", "field"),
    [
        ("paper", "AKLIVE", "false", "", "broker.key_id"),
        ("paper", "PKTEST", "false", "https://api.alpaca.markets", "broker.trading_url"),
        ("paper", "PKTEST", "true", "http://paper-api.alpaca.markets", "broker.trading_url"),
        ("live", "PKTEST", "true", "", "broker.key_id"),
        ("live", "AKLIVE", "false", "", "broker.allow_live"),
        ("live", "AKLIVE", "true", "https://paper-api.alpaca.markets", "broker.trading_url"),
        ("simulator", "PKTEST", "false", "https://api.alpaca.markets", "broker.trading_url"),
    ],
)
def test_mode_key_switch_and_host_must_belong_together(
    tmp_path: Path, mode: str, key_id: str, allow_live: str, url: str, field: str
) -> None:
    text = re.sub(r'(?m)^mode = ".*?"', f'mode = "{mode}"', WRITTEN)
    text = re.sub(r'(?m)^trading_url = ".*?"', f'trading_url = "{url}"', text)
    text = text.replace("allow_live = false", f"allow_live = {allow_live}")
    keys = {"HOLDFAST_BROKER_KEY_ID": key_id, "HOLDFAST_BROKER_SECRET": "x"}
    refused = refusal(tmp_path, text, keys)
    assert (refused.code, refused.field) == ("CONFIG_ENV_MISMATCH", field)
    right = {"paper": "PKTEST", "live": "AKLIVE"}.get(mode)
    if right is not None:
        good = re.sub(r'(?m)^trading_url = ".*?"', 'trading_url = ""', text)
        good = good.replace("allow_live = false", f"allow_live = {str(mode == 'live').lower()}")
        path = tmp_path / "good.toml"
        path.write_text(good)
        assert load_settings(path, {**keys, "HOLDFAST_BROKER_KEY_ID": right}).alpaca()
