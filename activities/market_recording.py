"""Recordings of the market: rows of the ledger say what runs, parts on disk are what is kept.

Whoever has the stream records. A worker that dies loses what no part held yet; the next one goes
on with a new part, and the time between is told as a gap.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from temporalio import activity

from activities.market_parts import MarketParts
from activities.reporting import report
from activities.services import Services
from domain.errors import HoldfastError, Refused
from domain.instrument import Instrument
from domain.order import Quote
from domain.tick import TradePrint
from ledger.records import RecordingCounts, RecordingRecord, RecordingState
from marketdata.port import TickRecorder

FLUSH_EVERY_S = 10.0
FLUSH_TICKS = 20_000
GAPS_MAX = 100


@dataclass(slots=True)
class _Open:
    """A recording that runs here."""

    record: RecordingRecord
    recorder: TickRecorder
    counts: RecordingCounts
    flushed_s: float
    # No ticks come since then; None while the stream is connected.
    lost_at: datetime | None = None
    trades: int = 0
    quotes: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None

    def found(self, now: datetime) -> None:
        """Ticks come again: what lies between is a gap."""
        if self.lost_at is None:
            return
        gap, self.lost_at = (self.lost_at, now), None
        gaps = self.counts.gaps
        changes = (
            {"gaps": (*gaps, gap)}
            if len(gaps) < GAPS_MAX
            else {"gaps_left_out": self.counts.gaps_left_out + 1}
        )
        self.counts = self.counts.model_copy(update=changes)


class MarketRecordings:
    """All recordings of the account."""

    def __init__(self, services: Services, parts: MarketParts) -> None:
        self._services = services
        self._parts = parts
        self._open: dict[str, _Open] = {}
        self._is_connected = False

    def wanted(self) -> tuple[tuple[str, str], ...]:
        """(symbol, source) of what runs."""
        return tuple(
            (symbol, f"recording:{name}")
            for name, each in self._open.items()
            for symbol in each.record.symbols
        )

    def take(self, tick: TradePrint | Quote) -> None:
        """Keeps the tick wherever its symbol is recorded."""
        for each in self._open.values():
            if tick.symbol not in each.record.symbols:
                continue
            each.recorder.take(tick)
            each.trades += isinstance(tick, TradePrint)
            each.quotes += isinstance(tick, Quote)
            each.first_at = each.first_at or tick.venue_time
            each.last_at = tick.venue_time

    def found(self) -> None:
        """The stream is connected."""
        self._is_connected = True
        for each in self._open.values():
            each.found(self._services.now())

    def lost(self) -> None:
        """The stream is not connected any more."""
        self._is_connected = False
        for each in self._open.values():
            each.lost_at = each.lost_at or self._services.now()

    async def look(self) -> None:
        """Takes up new rows, writes what is due, ends what is over."""
        now, ledger = self._services.now(), self._services.ledger
        try:
            rows = await ledger.recordings(self._services.account, open_only=True)
        except HoldfastError as error:
            # Ticks need the disk, not the ledger: what runs goes on.
            activity.logger.warning("list of recordings: %s", error.code)
            rows = tuple(each.record for each in self._open.values())
        for row in rows:
            each = self._open.get(row.name) or await self._begun(row)
            if each is None:
                continue
            self._open[row.name] = each
            is_over = row.state is RecordingState.STOPPING or (
                row.ends_at is not None and row.ends_at <= now
            )
            due_s = self._services.monotonic() - each.flushed_s
            if is_over or due_s >= FLUSH_EVERY_S or each.recorder.waiting >= FLUSH_TICKS:
                await self._write(each, ends=is_over)

    async def close(self) -> None:
        """Writes what waits; the recordings go on wherever the stream is read next."""
        for each in list(self._open.values()):
            try:
                await self._write(each, ends=False)
            except HoldfastError as error:
                activity.logger.warning("recording %s: %s", each.record.name, error.code)

    async def _begun(self, row: RecordingRecord) -> _Open | None:
        """Takes up a row; None where nothing can be written here, then it is over."""
        instruments: dict[str, Instrument] = {}
        for symbol in row.symbols:
            try:
                instruments[symbol] = (await self._services.broker.asset(symbol)).instrument
            except HoldfastError as error:
                activity.logger.warning("terms of %s not read: %s", symbol, error)
        try:
            opened = self._parts.recorder(row, instruments)
        except Refused as error:
            await self._services.ledger.stop_recording(row.name, f"{error.code} {error.text}")
            await self._services.ledger.save_recording(
                row.name, row.counts, ended_at=self._services.now()
            )
            return None
        now = self._services.now()
        counts = row.counts.model_copy(update={"folder": opened.folder, "saved_at": now})
        each = _Open(row, opened.recorder, counts, self._services.monotonic())
        # Another worker recorded until it last saved: what lies between is missing.
        each.lost_at = row.counts.saved_at or (None if self._is_connected else row.started_at)
        if self._is_connected:
            each.found(now)
        # From here on a worker that dies leaves a gap, even before its first part.
        await self._services.ledger.save_recording(row.name, each.counts)
        return each

    async def _write(self, each: _Open, *, ends: bool) -> None:
        now = self._services.now()
        each.flushed_s = self._services.monotonic()
        if ends:
            each.found(now)
        trades, quotes = each.trades, each.quotes
        try:
            parts, size_bytes = await asyncio.to_thread(each.recorder.flush)
        except OSError as error:
            text = f"recording {each.record.name} ended: {type(error).__name__} {error.strerror}"
            await report(self._services, "RECORDING_FAILED", text)
            await self._services.ledger.stop_recording(each.record.name, text)
            parts, size_bytes, ends = 0, 0, True
        before = each.counts
        each.counts = before.model_copy(
            update={
                "trades": before.trades + trades,
                "quotes": before.quotes + quotes,
                "parts": before.parts + parts,
                "size_bytes": before.size_bytes + size_bytes,
                "first_at": before.first_at or each.first_at,
                "last_at": each.last_at or before.last_at,
                "saved_at": now,
            }
        )
        each.trades, each.quotes = each.trades - trades, each.quotes - quotes
        await self._services.ledger.save_recording(
            each.record.name, each.counts, ended_at=now if ends else None
        )
        if ends:
            self._open.pop(each.record.name, None)
