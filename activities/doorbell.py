"""The doorbell of trades: bounded senders that never flood a workflow (architecture §4).

At about 1,000 signals a second one run went mute for ten seconds and the server refused signals.
So each sender has at most one signal in flight per trade, facts that arrive meanwhile travel
together in the next one, and a trade hears at most 20 signals a second. News for every trade at
once (trading hours, a restart) goes out a few at a time: 230 signals at once all ran into their
time limit, were sent again and again, and starved the workers of what had to act.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from domain.errors import HoldfastError, Transient
from domain.facts import (
    ENVELOPE_FACTS_MAX,
    DiscrepancyFound,
    Fact,
    FactEnvelope,
    SessionChanged,
    TradingHalted,
    TradingResumed,
)
from domain.ids import trade_workflow_id

FACTS_SIGNAL = "facts"
EXIT_SIGNAL = "exit_triggered"
SIGNAL_INTERVAL_S = 0.05
# A fill and the end of its OCO partner are two frames of one moment: told together they cost the
# trade one workflow task instead of two.
GATHER_S = 0.03
SIGNAL_TIMEOUT = timedelta(seconds=3)
SIGNALS_AT_ONCE = 16
NEWS_AT_ONCE = 8
NEWS = (SessionChanged, TradingHalted, TradingResumed)
"""What every trade hears at once; it leaves room for what one trade must act on (I4)."""
WAITING_FACTS_MAX = 1_024
BACKOFF_S_MAX = 2.0
CLOSE_GRACE_S = 1.0

Send = Callable[[str, str, FactEnvelope], Awaitable[bool]]
"""(trade id, signal name, envelope) -> False if the trade has no open workflow."""
AfterSend = Callable[[str, tuple[Fact, ...]], Awaitable[None]]


def temporal_sender(client: Client) -> Send:
    """Sends by signal to the trade's workflow; Transient when the server did not take it."""

    async def send(trade_id: str, signal: str, envelope: FactEnvelope) -> bool:
        handle = client.get_workflow_handle(trade_workflow_id(trade_id))
        try:
            await handle.signal(signal, envelope, rpc_timeout=SIGNAL_TIMEOUT)
        except RPCError as error:
            # A closed workflow and one that was never started answer alike.
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise Transient(f"signal was not taken: {error.status.name}") from error
        return True

    return send


async def _nothing(_trade_id: str, _facts: tuple[Fact, ...]) -> None:
    return None


class Doorbell:
    """One sender of facts to trades.

    Args:
        send: Delivers one envelope.
        sender: Who rings; travels in the envelope.
        now: Wall clock, aware UTC.
        on_delivered: Told after the server has taken the facts.
        on_closed: Told when the trade has no open workflow; the facts go there instead.
    """

    def __init__(
        self,
        send: Send,
        *,
        sender: str,
        now: Callable[[], datetime],
        on_delivered: AfterSend = _nothing,
        on_closed: AfterSend = _nothing,
    ) -> None:
        self._send = send
        self._sender = sender
        self._now = now
        self._on_delivered = on_delivered
        self._on_closed = on_closed
        self._waiting: dict[tuple[str, str], list[Fact]] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._free = asyncio.Semaphore(SIGNALS_AT_ONCE)
        self._places_of_news = _Places(NEWS_AT_ONCE)

    def ring(self, trade_id: str, *facts: Fact, signal: str = FACTS_SIGNAL) -> None:
        """Queues the facts for the trade and returns at once."""
        if not facts:
            return
        key = (trade_id, signal)
        waiting = self._waiting.setdefault(key, [])
        waiting.extend(facts)
        if not _is_news(facts):
            self._places_of_news.let_through(key)
        if len(waiting) > WAITING_FACTS_MAX:
            # A look at the broker brings everything back but what only the watch of hours tells.
            text = f"{len(waiting)} facts waited"
            full = DiscrepancyFound(at=self._now(), code="DOORBELL_FULL", text=text)
            waiting[:] = [*_newest_news(waiting), full]
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._tell(key))

    @property
    def has_news_waiting(self) -> bool:
        """True until the server has taken all news for everybody that was rung so far."""
        return any(isinstance(fact, NEWS) for facts in self._waiting.values() for fact in facts)

    async def drain(self) -> None:
        """Waits until everything queued is delivered."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def aclose(self) -> None:
        """Ends the senders after a short grace; what still waits is found by the next reader."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_GRACE_S):
                await self.drain()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tell(self, key: tuple[str, str]) -> None:
        trade_id, _ = key
        failures = 0
        try:
            await asyncio.sleep(GATHER_S)
            while waiting := self._waiting[key]:
                try:
                    batch, is_open = await self._in_turn(key)
                except HoldfastError as error:
                    failures += 1
                    activity.logger.warning("doorbell of %s: %s", trade_id, error)
                    await asyncio.sleep(min(0.1 * 2**failures, BACKOFF_S_MAX))
                    continue
                failures = 0
                # The overflow rule may have swapped the queue meanwhile.
                waiting[:] = [fact for fact in waiting if not _is_in(fact, batch)]
                await self._after(trade_id, batch, is_open)
                await asyncio.sleep(SIGNAL_INTERVAL_S)
        finally:
            del self._tasks[key]
            if not self._waiting[key]:
                del self._waiting[key]

    async def _in_turn(self, key: tuple[str, str]) -> tuple[tuple[Fact, ...], bool]:
        """Sends what waits by then; answers it and whether the trade has an open workflow."""
        trade_id, signal = key
        has_place = _is_news(self._waiting[key]) and await self._places_of_news.take(key)
        try:
            async with self._free:
                batch = tuple(self._waiting[key][:ENVELOPE_FACTS_MAX])
                envelope = FactEnvelope.of(*batch, sender=self._sender)
                return batch, await self._send(trade_id, signal, envelope)
        finally:
            if has_place:
                self._places_of_news.give_back()

    async def _after(self, trade_id: str, batch: tuple[Fact, ...], is_open: bool) -> None:
        try:
            await (self._on_delivered if is_open else self._on_closed)(trade_id, batch)
        except HoldfastError as error:
            activity.logger.warning("after the doorbell of %s: %s", trade_id, error)


class _Places:
    """Places of news on the wire, in the order of asking. Who must act needs none (I4)."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._asking: dict[tuple[str, str], asyncio.Future[bool]] = {}

    async def take(self, key: tuple[str, str]) -> bool:
        """Waits for a place; False if it was let through without one."""
        if self._free:
            self._free -= 1
            return True
        asked = self._asking[key] = asyncio.get_running_loop().create_future()
        try:
            has_place: bool = await asked
            return has_place
        finally:
            del self._asking[key]

    def give_back(self) -> None:
        """The place goes to who asked first."""
        for asked in self._asking.values():
            if not asked.done():
                asked.set_result(True)
                return
        self._free += 1

    def let_through(self, key: tuple[str, str]) -> None:
        """More than news waits behind this key by now."""
        asked = self._asking.get(key)
        if asked is not None and not asked.done():
            asked.set_result(False)


def _is_news(facts: Sequence[Fact]) -> bool:
    return all(isinstance(fact, NEWS) for fact in facts)


def _newest_news(facts: Sequence[Fact]) -> list[Fact]:
    """The last word on the hours and on each symbol."""
    newest: dict[str, Fact] = {}
    for fact in facts:
        if isinstance(fact, NEWS):
            newest["" if isinstance(fact, SessionChanged) else fact.symbol] = fact
    return list(newest.values())


def _is_in(fact: Fact, batch: tuple[Fact, ...]) -> bool:
    return any(fact is sent for sent in batch)
