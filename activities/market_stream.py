"""The market-data stream of one account: halts, bars for sessions, recordings.

Runs beside the fill stream under the same lease, because the venue allows one connection. What it
learns goes to the ledger, where the other processes read it. No price is ever made up: a bar
that was not seen whole is not stored, and a mute stream is told and replaced.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any, cast

from temporalio import activity

from activities.hosting import BACKOFF_S_MAX, backoff_s
from activities.market_parts import MarketHeard, MarketParts, market_cursor
from activities.market_recording import MarketRecordings
from activities.reporting import report
from activities.services import Services
from brokers.errors import AUTH_NEEDED
from brokers.port import FrameProblem, MarketEvent, MarketStream, MarketSubscribed
from domain.account import MarketClock
from domain.bar import Bar
from domain.commands import AlertSeverity
from domain.errors import HoldfastError
from domain.order import Quote
from domain.tick import TradePrint, TradingStatus
from ledger.records import MarketWant
from marketdata.port import GrowingBars, WantedSymbols

LOOK_EVERY_S = 1.0
SEAL_EVERY_S = 0.2
TELL_EVERY_S = 2.0
AUTH_PAUSE_S = 60.0
# Connections in a row that failed, within about two seconds.
DOWN_AFTER_FAILURES = 4
# The venue does not repeat old statuses: an end that was missed must not block exits for ever.
HALT_KEPT = timedelta(hours=24)
# A print this long after a halt began shows that trading goes on, if the end may have been missed.
HALT_OVER_AFTER = timedelta(seconds=1)
REAL_TIME_WITHIN_S = 5.0

OnHalt = Callable[[], Awaitable[None]]


class MarketStreamer:
    """One reader: connection, wants, bars, halts, recordings.

    Args:
        services: ports of the account.
        parts: the stream and what its ticks become.
        on_halt: called after a halt or its end was stored.
    """

    def __init__(self, services: Services, parts: MarketParts, on_halt: OnHalt) -> None:
        self._services = services
        self._parts = parts
        self._on_halt = on_halt
        self._stream: MarketStream = parts.stream()
        self._recordings = MarketRecordings(services, parts)
        self._book: WantedSymbols = parts.book(())
        self._bars: dict[int, GrowingBars] = {}
        self._subscribed: frozenset[str] = frozenset()
        # Subscribed, and no market instant seen since: their first whole bar is not known yet.
        self._beginning: set[str] = set()
        self._unstored: list[tuple[int, tuple[Bar, ...], datetime]] = []
        self._unsaved: list[TradingStatus] = []
        self._maybe_over: dict[str, datetime] = {}
        self._problems: Counter[str] = Counter()
        self._is_connected = False
        self._is_silent = False
        self._connections = 0
        self._last_s = 0.0
        self._told_s = 0.0
        self._newest: datetime | None = None
        self._clock: MarketClock | None = None
        self._is_real_time = False
        self._reconnect = asyncio.Event()

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as this process leads."""
        return [self._stay_connected(), self._look_always(), self._seal_always()]

    def see_clock(self, clock: MarketClock) -> None:
        """The venue's clock was read just now."""
        if clock.is_open and not (self._clock and self._clock.is_open):
            # Before the open nobody speaks: silence is counted from here.
            self._last_s = self._services.monotonic()
        self._clock = clock
        apart_s = abs((clock.market_now - self._services.now()).total_seconds())
        self._is_real_time = apart_s < REAL_TIME_WITHIN_S
        self._see(clock.market_now)

    # --- the connection -------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        failures = 0
        try:
            while True:
                if not (self._parts.stays_connected or self._book.symbols()):
                    await asyncio.sleep(LOOK_EVERY_S)
                    continue
                began_s = self._services.monotonic()
                error = await self._connect_once()
                lived_s = self._services.monotonic() - began_s
                failures = 0 if lived_s > BACKOFF_S_MAX else failures + 1
                pause_s = backoff_s(failures)
                if error is not None and error.code == AUTH_NEEDED:
                    failures, pause_s = DOWN_AFTER_FAILURES, AUTH_PAUSE_S
                if error is not None and failures == DOWN_AFTER_FAILURES:
                    await self._tell_down(error)
                await asyncio.sleep(pause_s)
        finally:
            self._lost()
            await self._recordings.close()

    async def _connect_once(self) -> HoldfastError | None:
        """One connection until its end, and why it ended; None where we wanted another one."""
        self._reconnect.clear()
        listening = asyncio.create_task(self._listen())
        asked = asyncio.create_task(self._reconnect.wait())
        try:
            await asyncio.wait({listening, asked}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                listening.result()
        except HoldfastError as error:
            self._problems[error.code] += 1
            activity.logger.warning("market-data stream: %s", error)
            return error
        finally:
            for task in (listening, asked):
                task.cancel()
            await asyncio.gather(listening, asked, return_exceptions=True)
            self._lost()
        return None

    async def _tell_down(self, error: HoldfastError) -> None:
        """No ticks and no halts: sessions on the stream have no bars meanwhile."""
        text = f"no market data: {error.code} {error.text}"
        await report(self._services, "MARKET_STREAM_DOWN", text, severity=AlertSeverity.WARNING)

    async def _listen(self) -> None:
        events = cast("AsyncGenerator[MarketEvent, None]", self._stream.events())
        async with aclosing(events):
            async for event in events:
                self._last_s = self._services.monotonic()
                await self._take(event)

    async def _take(self, event: MarketEvent) -> None:
        match event:
            case TradePrint() | Quote():
                self._is_silent = False
                self._see(event.venue_time)
                for bars in self._bars.values():
                    bars.take(event)
                self._recordings.take(event)
                if isinstance(event, TradePrint) and event.symbol in self._maybe_over:
                    await self._traded(event)
            case TradingStatus():
                self._maybe_over.pop(event.symbol, None)
                await self._note(event)
            case MarketSubscribed():
                await self._subscribed_to(event)
            case FrameProblem():
                await self._problem(event.code, event.text)

    async def _subscribed_to(self, event: MarketSubscribed) -> None:
        before, self._subscribed = self._subscribed, frozenset(event.symbols)
        for bars in self._bars.values():
            for symbol in before - self._subscribed:
                bars.ended(symbol)
        self._beginning |= self._subscribed - before
        self._beginning &= self._subscribed
        if self._is_real_time:
            self._see(self._services.now())
        if self._is_connected:
            return
        self._is_connected, self._connections = True, self._connections + 1
        self._recordings.found()
        try:
            halts = await self._services.ledger.halts(self._services.account)
        except HoldfastError as error:
            activity.logger.warning("halts of before: %s", error.code)
            return
        self._maybe_over = {halt.symbol: halt.venue_time for halt in halts}

    def _lost(self) -> None:
        """Nothing is known of the time until the next connection."""
        self._is_connected = False
        for bars in self._bars.values():
            for symbol in self._subscribed:
                bars.ended(symbol)
        self._subscribed = frozenset()
        self._beginning.clear()
        self._recordings.lost()

    async def _problem(self, code: str, text: str) -> None:
        """Every one is counted and logged, the first of a code is told to people."""
        self._problems[code] += 1
        activity.logger.info("market-data stream: %s %s", code, text)
        if self._problems[code] == 1:
            severity = AlertSeverity.WARNING
            await report(self._services, "MARKET_DATA_PROBLEM", f"{code} {text}", severity=severity)

    # --- halts ----------------------------------------------------------------------------------

    async def _note(self, status: TradingStatus) -> None:
        """Stores a status; one that the ledger does not take now is kept and tried again."""
        self._unsaved.append(status)
        try:
            await self._save_statuses()
        except HoldfastError as error:
            activity.logger.warning("status of %s not stored yet: %s", status.symbol, error.code)

    async def _save_statuses(self) -> None:
        if not self._unsaved:
            return
        while self._unsaved:
            await self._services.ledger.note_status(self._services.account, self._unsaved[0])
            self._unsaved.pop(0)
        await self._on_halt()

    async def _traded(self, tick: TradePrint) -> None:
        """A print after a reconnect: the end of the halt was missed."""
        if tick.venue_time <= self._maybe_over[tick.symbol] + HALT_OVER_AFTER:
            return
        del self._maybe_over[tick.symbol]
        resumed = TradingStatus(
            symbol=tick.symbol,
            is_halted=False,
            code="TRADED",
            reason="a trade was seen after the stream was away",
            venue_time=tick.venue_time,
        )
        await self._note(resumed)

    # --- the look -------------------------------------------------------------------------------

    async def _look_always(self) -> None:
        while True:
            for step in (self._read_wants, self._recordings.look, self._save_statuses, self._tell):
                try:
                    await step()
                except HoldfastError as error:
                    activity.logger.warning("market data: %s", error)
            await self._watch_silence()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _read_wants(self) -> None:
        """Who wants what, from the ledger; the stream is told what changed."""
        services = self._services
        wants = await services.ledger.market_wants(services.account, services.now())
        held = [(want.symbol, want.source) for want in wants]
        if self._parts.follows_positions:
            trades = await services.ledger.list_trades(account=services.account, open_only=True)
            held += [
                (leg.instrument.symbol, f"position:{each.trade_id}")
                for each in trades
                for leg in each.plan.legs
            ]
        before = self._book.symbols()
        self._book = self._parts.book([*held, *self._recordings.wanted()])
        self._grow_for(wants)
        if self._book.symbols() != before:
            await self._stream.want(self._book.symbols())

    def _grow_for(self, wants: tuple[MarketWant, ...]) -> None:
        """Bars of every length that a session wants; a new length begins with the next tick."""
        for interval_s in {want.interval_s for want in wants} - set(self._bars):
            self._bars[interval_s] = self._parts.bars(interval_s)
            self._beginning |= self._subscribed

    async def _watch_silence(self) -> None:
        """A mute stream looks like a quiet market; where there should be news it is replaced."""
        is_open = self._clock is not None and self._clock.is_open
        silent_s = self._services.monotonic() - self._last_s
        should_speak = is_open and self._is_connected and bool(self._subscribed)
        if should_speak and silent_s > self._parts.silence_s:
            self._is_silent = True
            text = f"no message for {silent_s:.0f} s while the market is open; connecting again"
            severity = AlertSeverity.WARNING
            await report(self._services, "MARKET_STREAM_SILENT", text, severity=severity)
            self._problems["MARKET_STREAM_SILENT"] += 1
            self._last_s = self._services.monotonic()
            self._reconnect.set()

    async def _tell(self) -> None:
        """How the stream is, for people and `preflight`."""
        services, now_s = self._services, self._services.monotonic()
        if now_s - self._told_s < TELL_EVERY_S:
            return
        self._told_s = now_s
        now = services.now()
        silent = timedelta(seconds=now_s - self._last_s)
        heard = MarketHeard(
            connected=self._is_connected,
            is_silent=self._is_silent,
            symbols=tuple(sorted(self._subscribed)),
            sources=self._book.by_symbol(),
            message_at=now - silent if self._last_s else None,
            connections=self._connections,
            late_ticks=sum(bars.late for bars in self._bars.values()),
            problems=dict(self._problems),
            told_at=now,
        )
        await services.ledger.set_cursor(market_cursor(services.account), heard.model_dump_json())

    # --- bars -----------------------------------------------------------------------------------

    def _see(self, market_now: datetime) -> None:
        """A market instant that is certainly not older than the newest subscription."""
        if self._newest is None or market_now > self._newest:
            self._newest = market_now
        for symbol in self._beginning:
            for bars in self._bars.values():
                bars.began(symbol, market_now)
        self._beginning.clear()

    async def _seal_always(self) -> None:
        pruned_at: datetime | None = None
        while True:
            await asyncio.sleep(SEAL_EVERY_S)
            try:
                await self._seal()
                newest = self._newest
                if newest is not None and (pruned_at is None or newest - pruned_at > HALT_KEPT):
                    account, pruned_at = self._services.account, newest
                    await self._services.ledger.drop_old_bars(account, newest)
                    await self._services.ledger.forget_halts(account, newest - HALT_KEPT)
            except HoldfastError as error:
                activity.logger.warning("bars not stored: %s", error.code)

    async def _seal(self) -> None:
        """Stores the bars that are over; without a living stream nobody knows that they are."""
        if self._newest is None or not self._is_connected or self._is_silent:
            return
        now = max(self._newest, self._services.now()) if self._is_real_time else self._newest
        for interval_s, bars in self._bars.items():
            sealed = bars.seal(now)
            if sealed is not None:
                self._unstored.append((interval_s, *sealed))
        while self._unstored:
            await self._services.ledger.seal_bars(self._services.account, *self._unstored[0])
            self._unstored.pop(0)
