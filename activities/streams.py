"""The fill stream of one account: one long activity that books news and rings trades.

It holds no cursor of its own: whatever it missed, the compare pass reads again from the broker
(architecture §8). Two streamers at once are harmless and a lease keeps that rare.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from datetime import timedelta
from typing import Any, cast

from pydantic import AwareDatetime
from temporalio import activity
from temporalio.client import Client

from activities.doorbell import Doorbell, temporal_sender
from activities.exit_watch import ExitWatch
from activities.hosting import BACKOFF_S_MAX, backoff_s, run_until_shutdown
from activities.lease import lead_for_ever
from activities.market_stream import MarketStreamer
from activities.market_watch import MarketWatch
from activities.reporting import report
from activities.restore import Restorer
from activities.services import Services, StreamInput, attempt_token
from activities.stream_events import StreamBooker, told_keys
from brokers.port import FrameProblem, OrderUpdate, StreamEvent, StreamReady
from domain.account import MarketClock
from domain.base import Frozen
from domain.commands import AlertSeverity
from domain.errors import HoldfastError, Transient
from domain.facts import Fact

SILENT_S = 5.0
OUTBOX_INTERVAL_S = 1.0
# A fresh connection that fails at once so often in a row, within about two seconds.
DOWN_AFTER_FAILURES = 4
RESTART_LATE_S = 10.0


def lease_name(account: str) -> str:
    """Ledger lease of the account's fill stream."""
    return f"stream/{account}"


def heard_cursor(account: str) -> str:
    """Ledger cursor that holds what the fill stream heard last, a `StreamHeard` as JSON."""
    return f"stream-heard/{account}"


class StreamHeard(Frozen):
    """How the order stream is: told once per compare pass, read by `preflight`.

    `frame_at` is the last frame of any kind; a quiet account has none for hours. `compared_at`
    is the last time that REST and ledger were compared; both are wall time.
    """

    connected: bool
    frame_at: AwareDatetime
    compared_at: AwareDatetime


class StreamActivities:
    """Long activities of the stream workers."""

    def __init__(self, services: Services, client: Client) -> None:
        self._services = services
        self._client = client

    @activity.defn(name="run_fill_stream")
    async def run_fill_stream(self, input: StreamInput) -> None:
        """Streams until its worker shuts down; passive while another streamer has the lease."""
        stream = FillStream(self._services, self._client, input)
        await run_until_shutdown(stream.run(attempt_token()))

    @activity.defn(name="run_exit_watch")
    async def run_exit_watch(self, input: StreamInput) -> None:
        """Evaluates exit rules until its worker shuts down; passive without the lease."""
        watch = ExitWatch(self._services, temporal_sender(self._client), input)
        await run_until_shutdown(watch.run(attempt_token()))


class FillStream:
    """One streamer: lease, connection, compare pass, market clock, market data beside it."""

    def __init__(self, services: Services, client: Client, input: StreamInput) -> None:
        self._services = services
        self._input = input
        self._doorbell = Doorbell(
            temporal_sender(client),
            sender=f"stream/{services.account}",
            now=services.now,
            on_delivered=self._delivered,
            on_closed=self._closed,
        )
        self._booker = StreamBooker(services, self._doorbell)
        self._restorer = Restorer(services, client, input.trade_queue)
        self._hours = MarketWatch(services, self._doorbell, self._see_clock)
        self._market = (
            None
            if services.market is None
            else MarketStreamer(services, services.market, self._hours.look)
        )
        self._last_frame_s = services.monotonic()
        self._is_connected = False
        self._reconnect = asyncio.Event()
        self._failing_since_s: dict[str, float] = {}
        self._failing_told: set[str] = set()

    async def run(self, holder: str) -> None:
        """Streams whenever the lease is free, for ever."""
        try:
            await lead_for_ever(
                self._services, lease_name(self._services.account), holder, self._jobs
            )
        finally:
            await self._booker.aclose()
            await self._doorbell.aclose()

    def _jobs(self) -> list[Coroutine[Any, Any, None]]:
        return [
            self._stay_connected(),
            self._compare_always(),
            self._ring_always(),
            self._hours.run(self._input.clock_interval_s),
            *(() if self._market is None else self._market.jobs()),
        ]

    def _see_clock(self, clock: MarketClock) -> None:
        if self._market is not None:
            self._market.see_clock(clock)

    async def _delivered(self, trade_id: str, facts: tuple[Fact, ...]) -> None:
        await self._booker.delivered(trade_id, facts)

    async def _closed(self, trade_id: str, facts: tuple[Fact, ...]) -> None:
        """A trade without an open workflow: a late fill reopens it (D9), and so does an order of
        it that works: it cancels its entry (C5). Other news is nobody's.

        The rebuilt state holds both; a reopening that fails is tried again by the outbox or by a
        later compare pass.
        """
        keys = told_keys(facts)
        try:
            if keys:
                reason = f"fill {keys[0]} came after the end"
            elif late := await self._booker.works_after_the_end(trade_id, facts):
                reason = f"order {late} works after the end"
            else:
                return
            await self._reopen(trade_id, reason)
            await self._booker.delivered(trade_id, facts)
        finally:
            self._booker.forget(keys)

    async def _reopen(self, trade_id: str, reason: str) -> None:
        """Restarts an ended trade; a person is told if that keeps failing.

        What a late fill has bought stands bare meanwhile, and nobody looks after it (I4).
        """
        now_s = self._services.monotonic()
        try:
            await self._restorer.reopen(trade_id, reason)
        except Exception as error:
            # Whatever ails it: an error that nobody knows would only end the bell that rang.
            since_s = self._failing_since_s.setdefault(trade_id, now_s)
            if now_s - since_s >= RESTART_LATE_S and trade_id not in self._failing_told:
                self._failing_told.add(trade_id)
                text = f"{reason}, and it is not started again: {error!r}"
                await report(self._services, "RESTORE_FAILED", text, trade_id)
            raise Transient(f"{trade_id} was not started again: {error!r}") from error
        self._failing_since_s.pop(trade_id, None)
        self._failing_told.discard(trade_id)

    async def _ring_always(self) -> None:
        """The outbox, once a second: one small query."""
        while True:
            await asyncio.sleep(OUTBOX_INTERVAL_S)
            meter = self._services.meter
            silence_s = self._services.monotonic() - self._last_frame_s
            meter.set("fill_stream_silence_seconds", silence_s)
            meter.set("fill_stream_connected", float(self._is_connected))
            try:
                await self._booker.ring_untold()
            except HoldfastError as error:
                activity.logger.warning("outbox of %s: %s", self._services.account, error)

    # --- the connection -------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        """Connects again and again; each connection begins with a backfill."""
        failures = 0
        while True:
            self._reconnect.clear()
            started_s = self._services.monotonic()
            listening = asyncio.create_task(self._listen())
            asked = asyncio.create_task(self._reconnect.wait())
            try:
                await asyncio.wait({listening, asked}, return_when=asyncio.FIRST_COMPLETED)
                if listening.done():
                    listening.result()
            except HoldfastError as error:
                activity.logger.warning("stream of %s: %s", self._services.account, error)
            finally:
                self._is_connected = False
                for task in (listening, asked):
                    task.cancel()
                await asyncio.gather(listening, asked, return_exceptions=True)
            lived_s = self._services.monotonic() - started_s
            failures = 0 if lived_s > BACKOFF_S_MAX else failures + 1
            self._services.meter.count("fill_stream_reconnects")
            await self._tell_down(failures)
            await asyncio.sleep(backoff_s(failures))

    async def _tell_down(self, failures: int) -> None:
        """A line that does not come back is told; trades live on by the compare pass."""
        if failures == DOWN_AFTER_FAILURES:
            text = f"the fill stream of {self._services.account} does not come back"
            await report(self._services, "STREAM_DOWN", text)

    async def _listen(self) -> None:
        events = cast("AsyncGenerator[StreamEvent, None]", self._services.broker.stream())
        async with aclosing(events):
            async for event in events:
                self._last_frame_s = self._services.monotonic()
                self._services.meter.count("fill_stream_frames")
                try:
                    await self._take_event(event)
                except HoldfastError as error:
                    # The compare pass reads it again; the connection itself is sound.
                    activity.logger.warning("frame not booked: %s", error)

    async def _take_event(self, event: StreamEvent) -> None:
        match event:
            case StreamReady():
                self._is_connected = True
                await self._booker.compare()
                await self._tell_heard()
            case OrderUpdate():
                await self._booker.take(event)
            case FrameProblem():
                await self._booker.frame_problem(event)

    async def _compare_always(self) -> None:
        """Fast loop: what REST knows and no frame told is rung; a mute stream is replaced (F4)."""
        while True:
            await asyncio.sleep(self._input.compare_interval_s)
            try:
                news = await self._booker.compare()
                await self._tell_heard()
            except HoldfastError as error:
                activity.logger.warning("compare of %s: %s", self._services.account, error)
                continue
            silent_s = self._services.monotonic() - self._last_frame_s
            if news and silent_s > SILENT_S:
                text = f"the fill stream was mute for {silent_s:.0f} s while things moved"
                await report(self._services, "STREAM_SILENT", text, severity=AlertSeverity.WARNING)
                self._reconnect.set()

    async def _tell_heard(self) -> None:
        now = self._services.now()
        silent_s = self._services.monotonic() - self._last_frame_s
        heard = StreamHeard(
            connected=self._is_connected,
            frame_at=now - timedelta(seconds=silent_s),
            compared_at=now,
        )
        account = self._services.account
        await self._services.ledger.set_cursor(heard_cursor(account), heard.model_dump_json())
