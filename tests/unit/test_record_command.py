"""`record`: bad input is one line with its code, before anything is asked of anybody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.record import _row
from ledger.records import RecordingCounts, RecordingRecord, RecordingState
from starter import app

NOON = datetime(2026, 3, 4, 17, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (("../x", "--symbol", "AAPL"), "ID_FORMAT name"),
        (("day", "--symbol", "aapl"), "SYMBOL_FORMAT symbol"),
        (("day", "--symbol", "BTC/USD"), "SYMBOL_NOT_STREAMED symbol"),
        (("day", "--symbol", "SPY261218C00600000"), "SYMBOL_NOT_STREAMED symbol"),
        (("day", "--symbol", "AAPL", "--minutes", "99999"), "DURATION_TOO_LONG minutes"),
        (("day", "--symbol", "AAPL", "--minutes", "-1"), "DURATION_TOO_LONG minutes"),
    ],
)
def test_bad_recordings_are_refused(
    tmp_path: Path, arguments: tuple[str, ...], begins: str
) -> None:
    result = CliRunner().invoke(app, ["--data", str(tmp_path), "record", "start", *arguments])
    assert result.exit_code == 2
    assert result.output.startswith(begins)
    assert result.output.count("\n") == 1


def test_a_row_counts_gaps_and_says_why_it_ended_or_what_is_wrong() -> None:
    gap = (NOON, NOON + timedelta(seconds=90))
    running = RecordingRecord(
        name="day",
        account="paper",
        symbols=("AAPL",),
        started_by="ann",
        started_at=NOON,
        counts=RecordingCounts(gaps=(gap,), gaps_left_out=1, size_bytes=1_500_000, folder="f"),
    )
    row = _row(running, "")
    assert (row["gaps"], row["size"], row["note"]) == ("2 (90 s)", "1.50 MB", "f")
    assert _row(running, "the market-data stream is silent")["note"].endswith("silent")
    changes = {"state": RecordingState.ENDED, "ended_at": NOON, "reason": "enough"}
    assert _row(running.model_copy(update=changes), "silent")["note"] == "enough"
