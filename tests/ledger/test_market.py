"""Halts, bars, wants and recordings of the market-data stream on a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from domain.bar import Bar
from domain.tick import TradingStatus
from ledger.records import MarketWant, RecordingCounts, RecordingRecord, RecordingState
from ledger.repository import Ledger

ACCOUNT = "paper"
NOON = datetime(2026, 3, 4, 17, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def status(is_halted: bool, minutes: int = 0, **more: Any) -> TradingStatus:
    at = NOON + minutes * MINUTE
    return TradingStatus(symbol="AAA", is_halted=is_halted, venue_time=at, **more)


def bar(symbol: str, minutes: int) -> Bar:
    start = NOON + minutes * MINUTE
    prices = {name: Decimal("1.50") for name in ("open", "high", "low", "close")}
    return Bar(symbol=symbol, start=start, end=start + MINUTE, bid=Decimal("1.49"), **prices)


async def test_a_halt_stands_until_its_end_and_late_messages_change_nothing(
    ledger: Ledger,
) -> None:
    await ledger.note_status(ACCOUNT, status(True, 5, code="H", reason="T1 News"))
    await ledger.note_status(ACCOUNT, status(True, 1, code="P"))
    await ledger.note_status(ACCOUNT, status(False, 4))
    (halt,) = await ledger.halts(ACCOUNT)
    assert halt == status(True, 5, code="H", reason="T1 News")
    assert await ledger.halts("other") == ()
    await ledger.note_status(ACCOUNT, status(False, 6))
    assert await ledger.halts(ACCOUNT) == ()
    await ledger.note_status(ACCOUNT, status(True, 7))
    assert await ledger.forget_halts(ACCOUNT, NOON) == ()
    assert await ledger.forget_halts(ACCOUNT, NOON + 8 * MINUTE) == ("AAA",)


async def test_wants_of_all_sources_stand_until_they_run_out(ledger: Ledger) -> None:
    await ledger.want_market(ACCOUNT, "session:a", ["AAA", "BBB"], 60, NOON + MINUTE)
    await ledger.want_market(ACCOUNT, "session:b", ["AAA"], 300, NOON + 2 * MINUTE)
    await ledger.want_market(ACCOUNT, "session:c", [], 60, NOON + 2 * MINUTE)
    assert len(await ledger.market_wants(ACCOUNT, NOON)) == 3
    left = await ledger.market_wants(ACCOUNT, NOON + MINUTE + timedelta(seconds=1))
    assert left == (MarketWant(source="session:b", symbol="AAA", interval_s=300),)


async def test_want_is_prolonged_by_its_source_and_is_nobody_elses(ledger: Ledger) -> None:
    await ledger.want_market(ACCOUNT, "s", ["BBB", "AAA", "AAA"], 60, NOON)
    await ledger.want_market("other", "s", ["AAA"], 60, NOON)
    await ledger.want_market(ACCOUNT, "s", ["AAA"], 300, NOON + MINUTE)
    late = NOON + timedelta(microseconds=1)
    wanted = [(w.symbol, w.interval_s) for w in await ledger.market_wants(ACCOUNT, NOON)]
    assert wanted == [("AAA", 300), ("BBB", 60)]
    wanted = [(w.symbol, w.interval_s) for w in await ledger.market_wants(ACCOUNT, late)]
    assert wanted == [("AAA", 300)]
    # What ran out is gone, whatever the clock says afterwards.
    assert len(await ledger.market_wants(ACCOUNT, NOON)) == 1
    assert len(await ledger.market_wants("other", NOON)) == 1


async def test_halts_are_told_oldest_first_and_forgotten_by_account(ledger: Ledger) -> None:
    for account, symbol, minutes in (
        (ACCOUNT, "NEW", 3),
        (ACCOUNT, "OLD", 1),
        (ACCOUNT, "MID", 2),
        ("other", "AAA", 0),
    ):
        told = status(True, minutes).model_copy(update={"symbol": symbol})
        await ledger.note_status(account, told)
    assert [halt.symbol for halt in await ledger.halts(ACCOUNT)] == ["OLD", "MID", "NEW"]
    assert await ledger.forget_halts(ACCOUNT, NOON + 2 * MINUTE) == ("OLD",)
    over = status(False, 2).model_copy(update={"symbol": "MID"})
    await ledger.note_status(ACCOUNT, over)
    assert [halt.symbol for halt in await ledger.halts(ACCOUNT)] == ["NEW"]
    assert [halt.symbol for halt in await ledger.halts("other")] == ["AAA"]
    same = status(True, 3, code="H", reason="again").model_copy(update={"symbol": "NEW"})
    await ledger.note_status(ACCOUNT, same)
    assert await ledger.halts(ACCOUNT) == (same,)


async def test_bars_of_long_ago_go_and_only_those_of_the_account(ledger: Ledger) -> None:
    for account in (ACCOUNT, "other"):
        await ledger.seal_bars(account, 60, [bar("AAA", 0), bar("AAA", 1)], NOON)
    week = timedelta(days=7)
    assert await ledger.drop_old_bars(ACCOUNT, NOON + MINUTE + week) == 0
    assert await ledger.drop_old_bars(ACCOUNT, NOON + 2 * MINUTE + week) == 1
    left = await ledger.market_bars(ACCOUNT, 60, ["AAA"], None, NOON + MINUTE * 9)
    assert left == (bar("AAA", 1),)
    assert len(await ledger.market_bars("other", 60, ["AAA"], None, NOON + MINUTE * 9)) == 2
    assert await ledger.market_bars(ACCOUNT, 60, ["BBB"], None, NOON + MINUTE * 9) == ()
    assert await ledger.market_bars(ACCOUNT, 60, ["AAA"], None, NOON + MINUTE) == ()
    await ledger.seal_bars(ACCOUNT, 60, [], NOON + MINUTE)
    assert await ledger.bars_sealed_to(ACCOUNT, 60) == NOON + MINUTE


async def test_recordings_are_listed_newest_first_by_account(ledger: Ledger) -> None:
    for name, account, minutes in (
        ("a", ACCOUNT, 1),
        ("b", ACCOUNT, 2),
        ("c", "other", 3),
    ):
        record = RecordingRecord(
            name=name,
            account=account,
            symbols=("AAA", "BBB"),
            started_by="ann",
            started_at=NOON + minutes * MINUTE,
        )
        assert await ledger.start_recording(record)
    assert [each.name for each in await ledger.recordings(ACCOUNT)] == ["b", "a"]
    await ledger.save_recording("a", RecordingCounts(trades=1), ended_at=NOON + 9 * MINUTE)
    (ended,) = [each for each in await ledger.recordings(ACCOUNT) if each.name == "a"]
    assert (ended.ended_at, ended.counts) == (NOON + 9 * MINUTE, RecordingCounts(trades=1))
    assert [each.name for each in await ledger.recordings(ACCOUNT, open_only=True)] == ["b"]
    assert not await ledger.stop_recording("a", "late")
    assert not await ledger.stop_recording("nothing", "late")


async def test_bars_come_back_as_they_were_and_once(ledger: Ledger) -> None:
    bars = [bar("BBB", 0), bar("AAA", 0), bar("AAA", 1)]
    await ledger.seal_bars(ACCOUNT, 60, bars, NOON + 2 * MINUTE)
    await ledger.seal_bars(ACCOUNT, 60, bars[:1], NOON + 2 * MINUTE)
    end = NOON + 2 * MINUTE
    found = await ledger.market_bars(ACCOUNT, 60, ["AAA", "BBB"], None, end)
    assert found == (bar("AAA", 0), bar("BBB", 0), bar("AAA", 1))
    assert await ledger.market_bars(ACCOUNT, 60, ["AAA"], NOON + MINUTE, end) == (bar("AAA", 1),)
    assert await ledger.market_bars(ACCOUNT, 300, ["AAA"], None, end) == ()
    assert await ledger.bars_sealed_to(ACCOUNT, 60) == end
    assert await ledger.bars_sealed_to(ACCOUNT, 300) is None
    assert await ledger.drop_old_bars(ACCOUNT, NOON + timedelta(days=8)) == 3


async def test_a_recording_runs_is_asked_to_stop_and_ends_with_its_counts(ledger: Ledger) -> None:
    record = RecordingRecord(
        name="day", account=ACCOUNT, symbols=("AAA",), started_by="ann", started_at=NOON
    )
    assert await ledger.start_recording(record)
    assert not await ledger.start_recording(record)
    counts = RecordingCounts(trades=3, parts=1, gaps=((NOON, NOON + MINUTE),), folder="rec")
    await ledger.save_recording("day", counts)
    (running,) = await ledger.recordings(ACCOUNT, open_only=True)
    assert running == record.model_copy(update={"counts": counts})
    assert await ledger.stop_recording("day", "enough")
    assert not await ledger.stop_recording("day", "again")
    await ledger.save_recording("day", counts, ended_at=NOON + MINUTE)
    (ended,) = await ledger.recordings(ACCOUNT)
    assert (ended.state, ended.reason) == (RecordingState.ENDED, "enough")
    assert await ledger.recordings(ACCOUNT, open_only=True) == ()
