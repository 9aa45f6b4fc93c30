"""Logs, metrics, build id and failpoints of `observability/`."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.processes import free_port
from domain.errors import BadInput
from observability.build import build_id
from observability.failpoints import ONCE_VARIABLE, VARIABLE, Failpoints, parse_failpoints
from observability.logs import configure_logging, get_logger
from observability.metrics import LedgerMetrics, ProcessMeter, Reading, serve_metrics

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging("DEBUG", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def only_line(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_extra_fields_of_a_plain_logger_become_keys(log: io.StringIO) -> None:
    logging.getLogger("activities").warning("order sent", extra={"trade_id": "t-1", "leg": 0})
    line = only_line(log)
    assert (line["event"], line["trade_id"], line["leg"]) == ("order sent", "t-1", 0)
    assert (line["level"], line["logger"]) == ("warning", "activities")
    assert line["timestamp"].endswith("Z")


def test_trade_id_is_taken_from_the_workflow_id(log: io.StringIO) -> None:
    context = {"workflow_id": "trade/demo-7", "run_id": "r", "namespace": "default"}
    logging.getLogger("temporalio").info("walk", extra={"temporal_workflow": context})
    line = only_line(log)
    assert line["trade_id"] == "demo-7"
    assert "namespace" not in line


def test_secrets_are_masked_by_name_and_inside_addresses(log: io.StringIO) -> None:
    get_logger("x").error(
        "cannot reach postgresql://holdfast:canary-1@127.0.0.1/x",
        broker_secret="canary-2",
        ledger_dsn="canary-3",
    )
    text = log.getvalue()
    assert "canary" not in text
    assert "postgresql://holdfast:***@127.0.0.1/x" in text


def test_line_breaks_and_escape_codes_cannot_forge_a_line(log: io.StringIO) -> None:
    get_logger("x").info("named", reason='a\r\n{"level": "error"}\x1b[2J')
    assert only_line(log)["reason"] == 'a\r\n{"level": "error"}\x1b[2J'


async def scraped(port: int) -> str:
    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    return await asyncio.to_thread(get)


async def test_ledger_is_read_when_scraped_and_counters_are_the_process() -> None:
    reads = 0

    async def read() -> list[Reading]:
        nonlocal reads
        reads += 1
        return [Reading("trades_open", "entering", 3 + reads), Reading("audit_rows", "", 7)]

    meter, port = ProcessMeter("all"), free_port()
    loop = asyncio.get_running_loop()
    stop = serve_metrics(port, meter, LedgerMetrics({"demo": read}, loop, "all"))
    try:
        assert reads == 0, "nobody has asked yet"
        meter.of("demo").count("orders_rejected", step="place_order", code="LOT")
        first, second = await scraped(port), await scraped(port)
    finally:
        await asyncio.to_thread(stop)
    common = 'account="demo",role="all"'
    assert f'holdfast_trades_open{{{common},stage="entering"}} 4.0' in _sorted_labels(first)
    assert f"holdfast_audit_rows{{{common}}} 7.0" in _sorted_labels(first)
    assert f"holdfast_ledger_up{{{common}}} 1.0" in _sorted_labels(first)
    assert "holdfast_orders_rejected_total{" in first
    assert reads == 1, "a second scrape within two seconds asks nobody"
    assert "4.0" in second


def _sorted_labels(text: str) -> str:
    return re.sub(
        r"\{([^}]*)\}", lambda found: "{" + ",".join(sorted(found[1].split(","))) + "}", text
    )


async def test_ledger_that_does_not_answer_shows_as_down_and_no_old_number() -> None:
    async def read() -> list[Reading]:
        raise OSError("away")

    meter, port = ProcessMeter("all"), free_port()
    stop = serve_metrics(
        port, meter, LedgerMetrics({"demo": read}, asyncio.get_running_loop(), "all")
    )
    try:
        text = await scraped(port)
    finally:
        await asyncio.to_thread(stop)
    assert 'holdfast_ledger_up{account="demo",role="all"} 0.0' in _sorted_labels(text)
    assert "holdfast_trades_open" not in text


def test_undeclared_metric_or_label_is_a_bug_that_is_seen() -> None:
    meter = ProcessMeter("all").of("demo")
    with pytest.raises(KeyError):
        meter.count("orders_guessed")
    with pytest.raises(KeyError):
        meter.count("orders_rejected", step="place_order")


def test_build_id_follows_what_decides_and_nothing_else(tmp_path: Path) -> None:
    for folder in ("domain", "workflows", "brokers"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("1\n")
    (tmp_path / "requirements.lock").write_text("x==1\n")
    first = build_id(tmp_path)
    assert len(first) == 16

    (tmp_path / "brokers" / "a.py").write_text("2\n")
    assert build_id(tmp_path) == first
    for changed in ("domain/a.py", "workflows/a.py", "requirements.lock"):
        before = build_id(tmp_path)
        (tmp_path / changed).write_text("2\n")
        assert build_id(tmp_path) != before


def test_renamed_file_changes_the_build_id(tmp_path: Path) -> None:
    (tmp_path / "domain").mkdir()
    (tmp_path / "domain" / "a.py").write_text("1\n")
    (tmp_path / "requirements.lock").write_text("")
    first = build_id(tmp_path)
    (tmp_path / "domain" / "a.py").rename(tmp_path / "domain" / "b.py")
    assert build_id(tmp_path) != first


def test_failpoints_are_inert_unless_named() -> None:
    points = parse_failpoints({})
    assert not points
    points.hit("place_order.enter")


@pytest.mark.parametrize("text", ["place_order:1:kill", "a.enter:0:kill", "a.enter:1:stop", "x"])
def test_misspelt_failpoint_is_refused(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_failpoints({VARIABLE: text})
    assert refused.value.code == "FAILPOINT_FORMAT"


@pytest.mark.parametrize(("action", "code"), [("kill", -9), ("exit", 70)])
def test_failpoint_ends_the_process_at_the_nth_pass_and_only_once(
    tmp_path: Path, action: str, code: int
) -> None:
    program = (
        "import os\nfrom observability.failpoints import parse_failpoints\n"
        "points = parse_failpoints(os.environ)\n"
        "for n in range(1, 6):\n    print(n, flush=True)\n    points.hit('send.exit')\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        VARIABLE: f"other.enter:1:kill,send.exit:3:{action}",
        ONCE_VARIABLE: str(tmp_path / "fired"),
    }

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    first = run()
    assert (first.returncode, first.stdout.split()) == (code, ["1", "2", "3"])
    assert "failpoint send.exit:3" in first.stderr
    second = run()
    assert (second.returncode, second.stdout.split()) == (0, ["1", "2", "3", "4", "5"])


def test_no_points_is_false() -> None:
    assert not Failpoints(())
