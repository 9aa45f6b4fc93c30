"""The market-data worker on real parts: exchange over sockets, PostgreSQL, Parquet on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import worker
from activities.market_parts import MarketHeard, MarketParts, market_cursor
from activities.market_stream import MarketStreamer
from activities.services import Services
from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig
from domain.risk.limits import RestrictedList
from domain.session import SessionSpec
from ledger.records import RecordingRecord, RecordingState
from ledger.repository import Ledger
from marketdata.recording import recording_terms, tape_files
from marketdata.session_tape import SIMULATED_LABEL, prepare_files
from marketdata.tapes import load_tape
from settings import Settings
from settings_file import load_settings
from simulator.exchange import Exchange
from simulator.server import SimulatorServer
from simulator.tape import TapeEvent, TapeKind
from tests.rig import roomy_limits
from tests.unit.simulator_rig import ALWAYS, START, equity, exchange, quote
from wiring import market_parts

ACCOUNT = "paper"
DEADLINE_S = 15.0


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wanted is read ten times a second: nothing here is about how long that takes."""
    monkeypatch.setattr("activities.market_stream.LOOK_EVERY_S", 0.1)


@dataclass
class Rig:
    """A worker's market-data part without its process."""

    venue: Exchange
    server: SimulatorServer
    ledger: Ledger
    services: Services
    streamer: MarketStreamer
    halts_told: list[int]

    async def heard(self) -> MarketHeard | None:
        text = await self.ledger.get_cursor(market_cursor(ACCOUNT))
        return None if text is None else MarketHeard.model_validate_json(text)

    async def until(self, condition: Callable[[], Awaitable[object]], what: str) -> Any:
        end_s = asyncio.get_running_loop().time() + DEADLINE_S
        while not (found := await condition()):
            assert asyncio.get_running_loop().time() < end_s, what
            await asyncio.sleep(0.05)
        return found

    async def streaming(self, *symbols: str) -> None:
        async def subscribed() -> bool:
            sessions = self.server.alpaca.market.sessions
            return bool(sessions) and all(sessions[0].wants("quotes", each) for each in symbols)

        await self.until(subscribed, f"{symbols} are subscribed")

    async def record(self, name: str, *symbols: str) -> None:
        row = RecordingRecord(
            name=name,
            account=ACCOUNT,
            symbols=symbols,
            started_by="ann",
            started_at=datetime.now(UTC),
        )
        assert await self.ledger.start_recording(row)
        await self.streaming(*symbols)

    async def stopped(self, name: str) -> RecordingRecord:
        async def ended() -> RecordingRecord | None:
            rows = await self.ledger.recordings(ACCOUNT)
            return next((row for row in rows if row.state is RecordingState.ENDED), None)

        await self.ledger.stop_recording(name, "enough")
        found: RecordingRecord = await self.until(ended, "the recording ends")
        return found


def settings_of(server: SimulatorServer, tmp_path: Path) -> Settings:
    text = (Path(__file__).parents[2] / "config" / "demo.toml").read_text()
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return load_settings(
        path,
        {
            "HOLDFAST_BROKER_TRADING_URL": server.url,
            "HOLDFAST_BROKER_KEY_ID": "SIM-PAPER-KEY",
            "HOLDFAST_BROKER_SECRET": "sim-paper-secret",
        },
    )


@asynccontextmanager
async def running(
    ledger: Ledger, tmp_path: Path, venue: Exchange, **changes: Any
) -> AsyncIterator[Rig]:
    await ledger.ensure_account(ACCOUNT, "alpaca")
    async with SimulatorServer(venue) as server:
        settings = settings_of(server, tmp_path)
        built = market_parts(settings, tmp_path)
        assert built is not None
        parts: MarketParts = replace(built, **changes)
        keys = {"key_id": "SIM-PAPER-KEY", "secret": "sim-paper-secret"}
        broker = AlpacaBroker(AlpacaConfig.model_validate({**keys, "trading_url": server.url}))
        services = Services(
            ledger=ledger,
            broker=broker,
            account=ACCOUNT,
            broker_name="alpaca",
            installation=await ledger.installation_id(),
            limits=roomy_limits(),
            restricted=RestrictedList(as_of=datetime.now(UTC)),
            market=parts,
        )
        told: list[int] = []

        async def on_halt() -> None:
            told.append(1)

        streamer = MarketStreamer(services, parts, on_halt)
        streamer.see_clock(await broker.market_clock())
        jobs = [asyncio.create_task(job) for job in streamer.jobs()]
        try:
            yield Rig(venue, server, ledger, services, streamer, told)
        finally:
            for job in jobs:
                job.cancel()
            ends = await asyncio.gather(*jobs, return_exceptions=True)
            await broker.aclose()
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


def tape(seconds: int, symbols: Sequence[str]) -> list[TapeEvent]:
    """A quote every second and a trade every other one, in two symbols at the same instants."""
    events = []
    for second in range(1, seconds):
        time = START + timedelta(seconds=second, microseconds=second)
        for symbol in symbols:
            bid = Decimal(100) + Decimal(second % 7) / 4
            events.append(
                TapeEvent(
                    time=time,
                    symbol=symbol,
                    kind=TapeKind.QUOTE,
                    bid=bid if second % 11 else None,
                    ask=bid + Decimal("0.25"),
                    bid_size=Decimal(second) if second % 11 else None,
                    ask_size=Decimal(3),
                )
            )
            if second % 2:
                size = Decimal(second)
                trade = TapeEvent(time, symbol, TapeKind.TRADE, price=bid, size=size)
                events.append(trade)
    return events


def plain(event: Any) -> tuple[Any, ...]:
    """The fields of a tick, from either tape type (the simulator shares no code with us)."""
    numbers = ("bid", "ask", "bid_size", "ask_size", "price", "size")
    return (
        event.time,
        event.symbol,
        str(event.kind),
        *(getattr(event, name) for name in numbers),
    )


async def test_a_recorded_session_plays_as_the_tape_that_the_exchange_played(
    ledger: Ledger, tmp_path: Path
) -> None:
    symbols = ("AAA", "BBB")
    events = tape(120, symbols)
    listings = tuple(equity(name) for name in symbols)
    venue = exchange(listings=listings, quoted=False, calendar=ALWAYS)
    venue = Exchange(venue.config, events)
    async with running(ledger, tmp_path, venue) as rig:
        await rig.record("day", *symbols)
        rig.server.step_s(60)
        rig.server.step_s(60)

        async def arrived() -> bool:
            open_now = rig.streamer._recordings._open.get("day")
            return open_now is not None and open_now.recorder.waiting == len(events)

        await rig.until(arrived, "all ticks arrived")
        ended = await rig.stopped("day")
    counts = ended.counts
    kinds = [event.kind for event in events]
    assert (counts.trades, counts.quotes) == (
        kinds.count(TapeKind.TRADE),
        kinds.count(TapeKind.QUOTE),
    )
    assert (counts.parts, counts.gaps, counts.gaps_left_out) == (2, (), 0)
    folder = tmp_path / "recordings" / "day"
    assert counts.folder == str(folder)
    assert counts.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert [plain(each) for each in load_tape(tape_files(folder))] == [
        plain(each) for each in events
    ]
    terms = recording_terms(tape_files(folder)[0])
    assert terms is not None
    assert (terms.source, terms.quotes_are_real) == ("alpaca simulator iex", False)
    played = prepare_files([folder], tmp_path / "tape.csv")
    assert played.label == SIMULATED_LABEL
    assert [item.tick_size for item in played.instruments] == [Decimal("0.25")] * 2


async def test_a_lost_connection_is_a_gap_and_the_same_symbols_stream_again(
    ledger: Ledger, tmp_path: Path
) -> None:
    venue = exchange(listings=(equity("AAA"),), quoted=False)
    async with running(ledger, tmp_path, venue) as rig:
        await rig.record("day", "AAA")
        rig.server.alpaca.market.close_all()

        async def connected_again() -> bool:
            heard = await rig.heard()
            return heard is not None and heard.connections >= 2 and heard.symbols == ("AAA",)

        await rig.until(connected_again, "connected again")
        quote(venue, "1.00", "1.25", symbol="AAA")

        async def arrived() -> bool:
            return rig.streamer._recordings._open["day"].recorder.waiting == 1

        await rig.until(arrived, "a quote after the gap")
        heard = await rig.heard()
        ended = await rig.stopped("day")
    assert heard is not None
    assert heard.problems == {"STREAM_LOST": 1}
    assert heard.sources == {"AAA": ("recording:day",)}
    ((begin, end),) = ended.counts.gaps
    assert begin < end


async def test_a_recording_goes_on_in_the_next_worker_after_a_crash(
    ledger: Ledger, tmp_path: Path
) -> None:
    venue = exchange(listings=(equity("AAA"),), quoted=False)
    async with running(ledger, tmp_path, venue) as rig:
        await rig.record("day", "AAA")
        quote(venue, "1.00", "1.25", symbol="AAA")

        async def arrived() -> bool:
            return rig.streamer._recordings._open["day"].recorder.waiting == 1

        await rig.until(arrived, "the first quote")
    venue = exchange(listings=(equity("AAA"),), quoted=False)
    async with running(ledger, tmp_path, venue) as rig:
        await rig.streaming("AAA")
        quote(venue, "1.25", "1.50", symbol="AAA")
        await rig.until(arrived, "the second quote")
        ended = await rig.stopped("day")
    assert (ended.counts.quotes, ended.counts.parts, len(ended.counts.gaps)) == (2, 2, 1)
    bids = [event.bid for event in load_tape(tape_files(tmp_path / "recordings" / "day"))]
    assert bids == [Decimal("1.00"), Decimal("1.25")]


async def test_a_worker_killed_before_its_first_part_leaves_a_gap(
    ledger: Ledger, tmp_path: Path
) -> None:
    venue = exchange(listings=(equity("AAA"),), quoted=False)
    async with running(ledger, tmp_path, venue) as rig:
        await rig.record("day", "AAA")
        # What a SIGKILL leaves: nothing is written on the way out.
        rig.streamer._recordings._open.clear()
    venue = exchange(listings=(equity("AAA"),), quoted=False)
    async with running(ledger, tmp_path, venue) as rig:
        await rig.streaming("AAA")
        ended = await rig.stopped("day")
    assert (ended.counts.parts, len(ended.counts.gaps)) == (0, 1)


async def test_without_a_data_directory_a_recording_ends_with_its_reason(
    ledger: Ledger, tmp_path: Path
) -> None:
    venue = exchange(listings=(equity("AAA"),), quoted=False)
    async with SimulatorServer(venue) as server:
        parts = market_parts(settings_of(server, tmp_path), None)
        assert parts is not None
    async with running(ledger, tmp_path, venue, recorder=parts.recorder) as rig:
        row = RecordingRecord(
            name="day",
            account=ACCOUNT,
            symbols=("AAA",),
            started_by="ann",
            started_at=datetime.now(UTC),
        )
        assert await ledger.start_recording(row)

        async def ended() -> RecordingRecord | None:
            (row,) = await ledger.recordings(ACCOUNT)
            return row if row.state is RecordingState.ENDED else None

        found = await rig.until(ended, "the recording ends")
    assert found.reason.startswith("NO_DATA_DIR")


async def test_halts_reach_the_ledger_and_a_print_ends_one_whose_end_was_missed(
    ledger: Ledger, tmp_path: Path
) -> None:
    venue = exchange(listings=(equity("AAA"), equity("BBB")), quoted=False)

    async def halted() -> tuple[str, ...]:
        return tuple(halt.symbol for halt in await ledger.halts(ACCOUNT))

    async with running(ledger, tmp_path, venue) as rig:
        await rig.record("day", "AAA")
        venue.halt("AAA")
        venue.halt("BBB")

        async def both() -> bool:
            return await halted() == ("AAA", "BBB")

        await rig.until(both, "two halts")
        assert await worker.halts_of(ledger, ACCOUNT)() == ("AAA", "BBB")
        assert rig.halts_told
        venue.resume("BBB")

        async def one() -> bool:
            return await halted() == ("AAA",)

        await rig.until(one, "one halt")
        venue.trade("AAA", Decimal(1))
        rig.server.alpaca.market.is_mute = True
        venue.resume("AAA")
        rig.server.alpaca.market.close_all()
        await asyncio.sleep(0)

        async def connected_again() -> bool:
            heard = await rig.heard()
            return heard is not None and heard.connections >= 2 and heard.symbols == ("AAA",)

        await rig.until(connected_again, "connected again")
        assert await halted() == ("AAA",)
        rig.server.alpaca.market.is_mute = False
        rig.server.step_s(5)
        venue.trade("AAA", Decimal(1))

        async def none() -> bool:
            return await halted() == ()

        await rig.until(none, "the halt is over")


async def test_a_mute_stream_in_an_open_market_is_told_and_replaced(
    ledger: Ledger, tmp_path: Path
) -> None:
    venue = exchange(listings=(equity("AAA"),), quoted=False)
    async with running(ledger, tmp_path, venue, silence_s=0.5) as rig:
        await rig.record("day", "AAA")
        rig.server.alpaca.market.is_mute = True

        async def replaced() -> bool:
            heard = await rig.heard()
            return heard is not None and heard.connections >= 2 and heard.is_silent

        await rig.until(replaced, "a new connection that is still mute")
        heard = await rig.heard()
        assert heard is not None
        assert heard.problems["MARKET_STREAM_SILENT"] >= 1


async def test_a_session_reads_whole_bars_of_the_stream_through_the_ledger(
    ledger: Ledger, tmp_path: Path
) -> None:
    events = tape(400, ("AAA",))
    venue = exchange(listings=(equity("AAA"),), quoted=False, calendar=ALWAYS)
    venue = Exchange(venue.config, events)
    async with running(ledger, tmp_path, venue, follows_positions=True) as rig:
        instrument = (await rig.services.broker.asset("AAA")).instrument
        spec = SessionSpec(
            name="live",
            account=ACCOUNT,
            strategies=("opening_breakout",),
            universe=(instrument,),
            opens_at=START,
            installation="0000",
        )
        feed = worker.feed_opener(replace(rig.services, peers={}))(spec)
        now = START + timedelta(seconds=1)
        assert (await feed.bars(["AAA"], None, now)).bars == ()
        await rig.streaming("AAA")
        for _ in range(40):
            rig.server.step_s(10)
        page = await feed.bars(["AAA"], START, START + timedelta(seconds=360))
        heard = await rig.heard()
    # The first minute had begun when the first tick came: it is not told.
    starts = [(bar.start - START).total_seconds() for bar in page.bars]
    assert starts == [60.0, 120.0, 180.0, 240.0, 300.0]
    assert page.cursor == START + timedelta(seconds=360)
    minute = [each for each in events if 120 <= (each.time - START).total_seconds() < 180]
    prices = [each.price for each in minute if each.price is not None]
    bar = page.bars[1]
    assert (bar.open, bar.close, bar.high, bar.low) == (
        prices[0],
        prices[-1],
        max(prices),
        min(prices),
    )
    assert heard is None or heard.sources == {"AAA": ("session:live",)}
