"""`python -m simulator` as its own process: ports, journal file, clean end on SIGTERM."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import httpx

from simulator.tape import TapeEvent, TapeKind, write_tape
from tests.unit.simulator_rig import START, SYMBOL

HEADERS = {"APCA-API-KEY-ID": "SIM-PAPER-KEY", "APCA-API-SECRET-KEY": "sim-paper-secret"}
ROOT = Path(__file__).resolve().parents[2]
EXIT_S = 20


def start(folder: Path, *more: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
    config = {"listings": [{"symbol": SYMBOL, "tick_size": "0.25", "synthetic_quote_ticks": 1}]}
    (folder / "exchange.json").write_text(json.dumps(config), encoding="utf-8")
    write_tape(
        folder / "tape.csv",
        [
            TapeEvent(
                START + timedelta(seconds=n),
                SYMBOL,
                TapeKind.TRADE,
                price=Decimal(100 - n),
                size=Decimal(10),
            )
            for n in range(5)
        ],
    )
    process = subprocess.Popen(
        command(folder, *more),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def command(folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "simulator", "--config", str(folder / "exchange.json")),
        *("--tape", str(folder / "tape.csv"), "--start", START.isoformat()),
        *("--journal", str(folder / "journal.ndjson")),
        *("--port-file", str(folder / "ports.json"), *more),
    ]


def test_stepped_program_plays_its_tape_and_ends_cleanly(tmp_path: Path) -> None:
    process, line = start(tmp_path)
    try:
        assert json.loads((tmp_path / "ports.json").read_text(encoding="utf-8")) == line
        with httpx.Client(base_url=line["url"], headers=HEADERS) as client:
            order = {
                "symbol": SYMBOL,
                "qty": "5",
                "side": "buy",
                "type": "limit",
                "limit_price": "98.25",
                "time_in_force": "day",
            }
            placed = client.post("/v2/orders", json=order).json()
            step = {"advance_s": 4}
            health = client.post(line["control_url"] + "/sim/clock", json=step).json()
            assert health["market_time"] == "2026-03-04T15:00:04.000000Z"
            read = client.get(f"/v2/orders/{placed['id']}").json()
            assert (read["status"], read["filled_avg_price"]) == ("filled", "98.25")
            journal = client.get(line["control_url"] + "/sim/journal").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(EXIT_S) == 0
        assert (tmp_path / "journal.ndjson").read_text(encoding="utf-8") == journal
        assert process.stdout is not None
        assert process.stdout.read() == "", "nothing else is printed"
    finally:
        process.kill()
        process.wait(EXIT_S)
        if process.stdout is not None:
            process.stdout.close()


def test_running_program_refuses_to_be_stepped(tmp_path: Path) -> None:
    process, line = start(tmp_path, "--speed", "20")
    try:
        answer = httpx.post(line["control_url"] + "/sim/clock", json={"advance_s": 1})
        assert answer.status_code == 409
        assert line["speed"] == "20"
        stopped = httpx.post(line["control_url"] + "/sim/clock", json={"speed": None}).json()
        assert stopped["speed"] is None
        again = httpx.get(line["control_url"] + "/sim/clock").json()
        assert again["market_time"] == stopped["market_time"] == again["market0"]
        assert again["market_time"] > START.isoformat()[:19]
        running = httpx.post(line["control_url"] + "/sim/clock", json={"speed": "0.5"}).json()
        assert (running["speed"], running["market0"]) == ("0.5", again["market0"])
    finally:
        process.terminate()
        assert process.wait(EXIT_S) == 0
        if process.stdout is not None:
            process.stdout.close()


def test_bad_tape_row_ends_the_program_with_its_line(tmp_path: Path) -> None:
    process, _ = start(tmp_path, "--speed", "1")
    process.terminate()
    assert process.wait(EXIT_S) == 0
    assert process.stdout is not None
    process.stdout.close()
    with (tmp_path / "tape.csv").open("a", encoding="utf-8") as tape:
        tape.write("2026-03-04T15:00:09Z,ESX,trade,,,,,NaN,1,,,,,\n")
    again = subprocess.run(
        command(tmp_path, "--speed", "1000"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=EXIT_S,
        check=False,
    )
    assert again.returncode == 1
    assert "line 7" in again.stderr
