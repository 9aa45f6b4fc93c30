"""`make run` on a machine that was too slow says so beside the outcomes it did not show."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from cli.demo import conclude
from report.records import SessionFacts
from report.verify import Differences

NOW = datetime(2013, 9, 3, 13, 30, tzinfo=UTC)


@pytest.mark.parametrize(("late", "is_told"), [(3, True), (0, False)])
def test_missing_outcomes_with_late_signals_name_a_slower_run(
    tmp_path: Path, late: int, is_told: bool
) -> None:
    facts = SessionFacts(
        session="s",
        account="a",
        market_begin=NOW,
        market_end=NOW + timedelta(hours=1),
        speed=Decimal(150),
    )
    stream = io.StringIO()
    code = conclude(
        Console(file=stream, width=200),
        facts,
        Differences(items=(), orders=0, fills=0, fees=0, cash={}, positions=0),
        tmp_path / "page.html",
        whole_day=True,
        late=late,
    )
    told = "3 signals were too late for an entry: this machine was too slow, or too busy, for"
    assert code == 1
    assert stream.getvalue().rstrip().splitlines()[-1].startswith("MISSING: ")
    assert stream.getvalue().count("MISSING: ") == 1
    assert (told in stream.getvalue()) is is_told
    try_this = "speed 150; try: .venv/bin/python starter.py demo --speed 60"
    assert (try_this in stream.getvalue()) is is_told
