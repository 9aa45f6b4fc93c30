"""The driver's own parts: cells and what is left of them, the proxy, how downtime counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from temporalio.api.history.v1 import HistoryEvent

from tests.chaos.director import hangs_alone
from tests.chaos.driver import Driver, main, told
from tests.chaos.exposure import orphaned_windows, seconds_outside, windows_of
from tests.chaos.faults import SHARES, Fault, cells_of
from tests.chaos.play import CellRow
from tests.chaos.proxy import running_proxy
from tests.chaos.results import COVERAGE_KEY, Results, coverage_table, exposure_table
from tests.golden.catalogue import CATALOGUE

INDEX = ["activation:1", "send.POST:1", "reply.POST:1", "place_order.exit:1"]


def row_of(key: str, outcome: str = "ok") -> CellRow:
    trade, broker, fault, failpoint = key.split("/")
    return CellRow(
        cell=key,
        trade=trade,
        broker=broker,
        fault=fault,
        failpoint=failpoint,
        index=0,
        outcome=outcome,
        ended="closed",
        violations=(),
        naked_max_s={},
        naked_s={},
        unconfirmed_s=0.0,
        downtime_s=0.0,
        orphaned_s=0.0,
        took_s=1.0,
    )


def driver_of(folder: Path, trade: str) -> Driver:
    driver = Driver({trade: CATALOGUE[trade]}, (Fault.KILL,), Results.open(folder))
    for broker in ("alpaca", "tradier"):
        driver.results.keep_index(f"{trade}/{broker}/warm", INDEX)
    return driver


def test_reply_is_lost_only_where_there_is_one() -> None:
    cells = list(cells_of("gt01", "alpaca", INDEX, (Fault.KILL, Fault.LOSE)))
    assert [c.failpoint for c in cells if c.fault is Fault.KILL] == INDEX
    assert [c.failpoint for c in cells if c.fault is Fault.LOSE] == ["reply.POST:1"]


def test_next_run_goes_on_with_what_is_left(tmp_path: Path) -> None:
    first = driver_of(tmp_path, "gt01")
    everything = first.left()
    assert len(everything) == 2 * len(INDEX)
    first.results.keep(row_of(everything[0].key), {})
    first.results.keep(row_of(everything[1].key, "never_fired"), {})
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write('{"cell": "cut off by a ki')
    again = driver_of(tmp_path, "gt01")
    assert again.left() == everything[1:]


def test_shared_trade_is_complete_after_as_many_runs_as_there_are_shares(tmp_path: Path) -> None:
    driver = driver_of(tmp_path, "gt02")
    played = 0
    for _ in range(SHARES):
        due = driver.left()
        assert 0 < len(due) < len(driver.cells())
        for cell in due:
            driver.results.keep(row_of(cell.key), {})
        played += len(due)
    assert driver.left() == []
    assert played == len(driver.cells())


def test_coverage_shows_what_was_violated_and_what_never_fired(tmp_path: Path) -> None:
    driver = driver_of(tmp_path, "gt01")
    for cell, outcome in zip(driver.cells(), ("ok", "violated", "never_fired"), strict=False):
        driver.results.keep(row_of(cell.key, outcome), {})
    table = coverage_table(driver.cells(), driver.results).splitlines()
    assert table[1].split() == ["gt01/alpaca", "2/4", "!1", "?1"]
    assert table[-1] == COVERAGE_KEY


def test_end_of_a_run_tells_apart_what_was_played_and_what_the_next_run_plays(
    tmp_path: Path,
) -> None:
    played = Counter({"ok": 3, "violated": 1, "never_fired": 2, "not_played": 1})
    assert told(played) == (
        "4 cells played, 1 of them violated; 2 not played, their failpoint was never passed; "
        "1 not played, the driver's own parts failed"
    )
    driver = driver_of(tmp_path, "gt01")
    first, second, *others = driver.cells()
    driver.results.keep(row_of(first.key, "never_fired"), {})
    driver.results.keep(row_of(second.key), {})
    total = len(driver.cells())
    wanted = f"all runs so far: 1 of {total} cells played; the same command again plays the next"
    assert driver.progress() == f"{wanted} {total - 1}"
    for cell in (first, *others):
        driver.results.keep(row_of(cell.key), {})
    assert driver.progress() == f"all runs so far: {total} of {total} cells played"
    shared = driver_of(tmp_path / "shared", "gt02")
    assert f"is spread over {SHARES} runs" in shared.progress()


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--faults", "CHAOS_FAULT faults: value was ['foo'], allowed ['kill', "),
        ("--brokers", "CHAOS_BROKER brokers: value was ['foo'], allowed ['alpaca', 'tradier']"),
        ("--trades", "CHAOS_TRADE trades: value was ['foo'], allowed ['gt01', "),
    ],
)
def test_name_of_nothing_is_refused_in_one_form(tmp_path: Path, flag: str, text: str) -> None:
    with pytest.raises(SystemExit) as refused:
        main([flag, "foo", "--folder", str(tmp_path)])
    assert str(refused.value).startswith(text)


def test_only_violated_cells_are_played_again_behind_a_mend(tmp_path: Path) -> None:
    driver = driver_of(tmp_path, "gt01")
    first, second, *_ = driver.cells()
    driver.results.keep(row_of(first.key, "violated"), {})
    driver.results.keep(row_of(second.key), {})
    driver.again = True
    assert driver.left() == [first]
    driver.results.keep(row_of(first.key), {})
    assert driver.left() == []


def test_downtime_counts_once_and_only_where_it_overlaps() -> None:
    zero = datetime(2026, 3, 2, tzinfo=UTC)
    away = windows_of([(zero.timestamp() + a, zero.timestamp() + b) for a, b in ((1, 3), (2, 4))])
    assert seconds_outside(zero, zero + timedelta(seconds=10), away) == pytest.approx(7)
    assert seconds_outside(zero + timedelta(seconds=2), zero + timedelta(seconds=3), away) == 0


def test_seconds_are_orphaned_until_the_server_gives_up_what_the_dead_had_in_its_hands() -> None:
    """A timeout of what began after the process was back is no matter of its death."""
    zero = datetime(2026, 3, 2, tzinfo=UTC)

    def at(second: float, number: int) -> HistoryEvent:
        event = HistoryEvent(event_id=number)
        event.event_time.FromDatetime(zero + timedelta(seconds=second))
        return event

    def started(event: HistoryEvent) -> HistoryEvent:
        event.activity_task_started_event_attributes.attempt = 1
        return event

    def timed_out(event: HistoryEvent, began_with: int) -> HistoryEvent:
        event.activity_task_timed_out_event_attributes.started_event_id = began_with
        return event

    events = [
        *(started(at(1, 1)), timed_out(at(6, 2), 1)),
        *(started(at(9, 3)), timed_out(at(14, 4), 3)),
    ]
    died, back = zero + timedelta(seconds=2), zero + timedelta(seconds=4)
    assert orphaned_windows(events, [(died, back)]) == [(died, zero + timedelta(seconds=6))]


def test_exposure_is_told_by_protection_class_and_fault(tmp_path: Path) -> None:
    driver = driver_of(tmp_path, "gt01")
    for seconds, cell in enumerate(driver.cells()):
        row = replace(row_of(cell.key), naked_max_s={"resting": float(seconds)}, orphaned_s=2.0)
        driver.results.keep(row, {})
    told = exposure_table(driver.cells(), driver.results).splitlines()
    assert told[1] == "resting/kill: 8, 4.00 7.00 7.00; 0.00, 2.00, 0.00"


def test_hang_of_one_request_or_activity_is_no_downtime_of_the_process() -> None:
    alone = ("send.POST", "reply.DELETE", "place_order.enter", "place_order.exit")
    assert [place for place in alone if not hangs_alone(place)] == []
    everything = ("activation", "activation.exit", "after_ledger", "before_intent_row")
    assert [place for place in everything if hangs_alone(place)] == []


async def test_proxy_carries_cuts_and_doubles() -> None:
    heard: list[bytes] = []
    doubled = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(100):
                heard.append(data)
                if heard.count(b"three") == 2:
                    doubled.set()
                writer.write(data)
        writer.close()

    async def asked(port: int, text: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(text)
            return await asyncio.wait_for(reader.read(100), 30)
        except OSError:
            return b""
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, running_proxy(server.sockets[0].getsockname()[1]) as proxy:
        assert await asked(proxy.port, b"one") == b"one"
        proxy.cut()
        assert await asked(proxy.port, b"two") == b""
        proxy.heal()
        proxy.is_duplicating = True
        assert await asked(proxy.port, b"three") == b"three"
        await asyncio.wait_for(doubled.wait(), 30)
    assert heard == [b"one", b"three", b"three"]
