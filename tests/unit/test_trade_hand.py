"""What a person types for a trade is checked before anything is asked (faults.md §3)."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from typer.testing import CliRunner

from cli.context import EXIT_BAD_INPUT, EXIT_CONFLICT, EXIT_FAILED, INPUT_CODES, failed, line_of
from cli.hand import _of_rpc, refused_by
from domain.errors import BadInput, Refused
from domain.order import Side
from starter import app


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    for name in ("HOLDFAST_LEDGER_DSN", "HOLDFAST_CONFIG", "HOLDFAST_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["--data", str(tmp_path), *arguments])
        return result.exit_code, result.output

    return call


WHY = ("--reason", "test")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("trade", "close", "t1", *WHY), "CLOSE_SIZE"),
        (("trade", "close", "t1", "--qty", "1", "--fraction", "0.5", *WHY), "CLOSE_SIZE"),
        (("trade", "close", "t1", "--qty", "0", *WHY), "QTY_NOT_POSITIVE"),
        (("trade", "close", "t1", "--qty", "1e400", *WHY), "NUMBER_OUT_OF_RANGE"),
        (("trade", "close", "t1", "--fraction", "half", *WHY), "NUMBER_TYPE"),
        (("trade", "move-stop", "t1", "nan", *WHY), "NOT_FINITE"),
        (("trade", "move-stop", "t1", "0", *WHY), "PRICE_NOT_POSITIVE"),
        (("trade", "move-target", "t1", "1", "0", *WHY), "PRICE_NOT_POSITIVE"),
        (("trade", "pause", "t1", "--reason", " "), "REASON_REQUIRED"),
        (("trade", "pause", "t1", "--reason", "x" * 501), "REASON_TOO_LONG"),
        (("trade", "pause", "../t", *WHY), "ID_FORMAT"),
        (("order", "resolve", "c1", "--as", "lost", "--evidence", "x"), "RESOLUTION_INVALID"),
        (("order", "resolve", "c1", "--as", "dead", "--evidence", ""), "REASON_REQUIRED"),
        (("order", "resolve", "c1", "--as", "filled", "--evidence", "x"), "FIELD_REQUIRED"),
        (("trade", "close", "t1", "--fraction", "1.5", *WHY), "FRACTION_RANGE"),
        (("trade", "move-target", "t1", "0", "5", *WHY), "TARGET_UNKNOWN"),
    ],
)
def test_bad_words_are_named_with_exit_code_2(
    run: Callable[..., tuple[int, str]], arguments: tuple[str, ...], code: str
) -> None:
    exit_code, output = run(*arguments)
    assert (exit_code, output.split(" ")[0]) == (EXIT_BAD_INPUT, code)


def test_release_says_what_it_would_do_until_it_is_told_yes(
    run: Callable[..., tuple[int, str]],
) -> None:
    exit_code, output = run("trade", "release", "t1", *WHY)
    assert exit_code == EXIT_FAILED
    assert output.startswith("CONFIRM all orders of the trade are cancelled")


def test_stale_version_and_another_body_are_conflicts(capsys: pytest.CaptureFixture[str]) -> None:
    """K6, faults.md §3 row 37: exit code 4, as kill does."""
    for code in ("STALE_VERSION", "IDEMPOTENCY_MISMATCH"):
        assert failed(Refused(f"{code} x: y", code=code)).exit_code == EXIT_CONFLICT
    assert failed(Refused("STOP_WIDER price: y", code="STOP_WIDER")).exit_code == EXIT_FAILED
    assert capsys.readouterr().err.splitlines()[0] == "STALE_VERSION x: y"


@pytest.mark.parametrize("code", ["SESSION_UNKNOWN", "TRADE_UNKNOWN", *INPUT_CODES])
def test_bad_input_is_bad_input_whether_ledger_or_trade_has_seen_it(code: str) -> None:
    assert failed(Refused(f"{code} x: y", code=code)).exit_code == EXIT_BAD_INPUT


def test_refusal_names_its_code_once() -> None:
    """The type of a failure is its code too; the line a person reads begins with one of them."""
    told = "STOP_BEYOND_MARKET price: value was 101, allowed < 100"
    cause = ApplicationError(told, type="STOP_BEYOND_MARKET")
    refused = refused_by(WorkflowUpdateFailedError(cause))
    assert (refused.code, line_of(refused)) == ("STOP_BEYOND_MARKET", told)


def test_refused_word_is_shown_without_its_type() -> None:
    refused = BadInput("SIDE_INVALID", "side", Side.SELL, "[buy]")
    assert refused.text == "SIDE_INVALID side: value was 'sell', allowed [buy]"
    assert refused.value == "'sell'"


def test_refused_number_is_shown_as_it_was_typed() -> None:
    assert BadInput("TRANCHES_SUM", "targets", Decimal("0.90")).text == (
        "TRANCHES_SUM targets: value was 0.90"
    )


def test_a_trade_that_cannot_go_on_is_not_called_a_temporal_that_is_down() -> None:
    """At night `TEMPORAL_DOWN` sends one to the server, which is well."""
    said = "Unable to perform workflow execution update due to Workflow Task in failed state."
    error = _of_rpc(RPCError(said, RPCStatusCode.FAILED_PRECONDITION, b""), "t1")
    assert line_of(error).startswith("TRADE_STUCK trade t1: its workflow cannot go on")
    assert "kill and flatten work without it" in line_of(error)
    away = _of_rpc(RPCError("connection refused", RPCStatusCode.UNAVAILABLE, b""), "t1")
    assert away.code == "TEMPORAL_DOWN"
