"""`starter.py strategy …` on a real ledger: what is stored, what is refused, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ledger.repository import Ledger
from starter import app

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger, ledger_dsn: str) -> Run:
    """Runs `strategy` with JSON out of the ledger of the test."""
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)

    def call(*arguments: str) -> tuple[int, Any]:
        asked = ["--data", str(tmp_path), "strategy", *arguments, "--json"]
        result = CliRunner().invoke(app, asked)
        text = result.output
        return result.exit_code, json.loads(text) if result.exit_code == 0 else text

    return call


def test_configuration_is_added_shown_changed_and_switched(run: Run, unique: str) -> None:
    because = ("--reason", "test", "--by", "ann")
    parameters = '{"periods": 10, "deviations": 2.5, "long_only": true}'
    code, added = run(
        "add", unique, "--strategy", "mean_reversion", "--parameters", parameters,
        "--capital", "100", "--losses-max", "3", *because,
    )  # fmt: skip
    assert code == 0, added
    assert (added["state"], added["capital"], added["losses_max"]) == ("enabled", "100", 3)
    assert added["parameters"] == {"periods": "10", "deviations": "2.5", "long_only": "True"}
    _, shown = run("show", unique)
    assert shown["parameters"]["periods"] == "10"
    assert shown["parameters"]["time_stop_s"] == "900", "what is not given has its default"

    _, changed = run("set", unique, "--capital", "none", "--version", "1", *because)
    assert (changed["capital"], changed["version"]) == (None, 2)
    code, text = run("disable", unique, "--version", "1", *because)
    assert (code, text.split()[0]) == (4, "VERSION_CONFLICT")
    _, disabled = run("disable", unique, "--version", "2", *because)
    assert (disabled["state"], disabled["updated_by"]) == ("disabled", "ann")
    _, enabled = run("enable", unique, *because)
    assert (enabled["state"], enabled["version"]) == ("enabled", 4)
    _, rows = run("list")
    states = {row["name"]: row["state"] for row in rows}
    assert states[unique] == "enabled"
    assert states["pump_detector"] == "file"


def test_one_parameter_is_changed_and_the_others_stay(run: Run, unique: str) -> None:
    """`set --parameters '{"periods": 12}'` put every other one back to its default."""
    because = ("--reason", "test", "--by", "ann")
    held = '{"periods": 10, "deviations": 2.5}'
    run("add", unique, "--strategy", "mean_reversion", "--parameters", held, *because)
    code, changed = run("set", unique, "--parameters", '{"periods": 12}', *because)
    assert code == 0, changed
    assert changed["parameters"] == {"periods": "12", "deviations": "2.5"}
    _, less = run("set", unique, "--parameters", '{"deviations": null}', *because)
    assert less["parameters"] == {"periods": "12"}
    code, text = run("set", unique, "--parameters", '{"perods": 12}', *because)
    assert (code, text.split()[0]) == (2, "PARAMETER_UNKNOWN")
    code, text = run("set", unique, "--parameters", '{"periods": 9}', "--version", "1", *because)
    assert (code, text.split()[0]) == (4, "VERSION_CONFLICT")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("add", "x", "--strategy", "no_such_file"), "STRATEGY_UNKNOWN"),
        (("add", "x y", "--strategy", "mean_reversion"), "ID_FORMAT"),
        (("add", "x", "--strategy", "mean_reversion", "--capital", "-1"), "CAPITAL_INVALID"),
        (("add", "x", "--strategy", "mean_reversion", "--capital", "NaN"), "CAPITAL_INVALID"),
        (("add", "x", "--strategy", "mean_reversion", "--losses-max", "0"), "LOSSES_INVALID"),
        (("add", "x", "--strategy", "mean_reversion", "--parameters", "[1]"), "BAD_JSON"),
        (
            ("add", "x", "--strategy", "mean_reversion", "--parameters", '{"periods": [1]}'),
            "PARAMETER_TYPE",
        ),
        (
            ("add", "x", "--strategy", "mean_reversion", "--parameters", '{"period": 1}'),
            "PARAMETER_UNKNOWN",
        ),
        (
            ("add", "x", "--strategy", "mean_reversion", "--parameters", '{"periods": 1.5}'),
            "PARAMETER_INVALID",
        ),
        (("set", "x"), "NOTHING_TO_CHANGE"),
    ],
)
def test_bad_configuration_is_refused_with_its_code_and_field(
    run: Run, arguments: tuple[str, ...], code: str
) -> None:
    exit_code, text = run(*arguments, "--reason", "test")
    assert exit_code == 2
    assert re.match(rf"{code} \S+: value was ", text), text


def test_unknown_configuration_and_a_missing_reason_are_refused(run: Run, unique: str) -> None:
    exit_code, text = run("enable", unique, "--reason", "test")
    assert (exit_code, text.split()[0]) == (1, "STRATEGY_UNKNOWN")
    exit_code, text = run("enable", unique, "--reason", " ")
    assert (exit_code, text.split()[0]) == (2, "REASON_MISSING")
