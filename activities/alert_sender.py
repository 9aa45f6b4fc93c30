"""Delivers the alert outbox: plans who hears what, sends, repeats, escalates, records.

A loop of its own beside the fill stream, not an activity: a kill must be told while Temporal is
away. Each channel has its own task and its own thread, so that a dead channel delays nobody; the
ledger remembers everything, so that a restart delivers what a dead process did not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

from activities.reporting import report
from activities.services import Services
from domain.alerts import (
    AlertPolicy,
    AlertText,
    Receiver,
    in_words,
    receivers,
)
from domain.commands import AlertSeverity
from domain.errors import HoldfastError
from ledger.records import AlertRecord, DueDelivery

ALERTS_BELL = "holdfast_alerts"
POLL_S = 1.0
ESCALATION_POLL_S = 5.0
CLAIMED_AT_ONCE = 20
CLAIM_S = 120.0
DIGEST_FROM = 4
"""So many info and warning alerts that are due together go out as one message."""
SEND_TIMEOUT_S = 15.0
ATTEMPTS_MAX = 8
BACKOFF_S_MAX = 300.0
LEDGER_AWAY_S = 10.0

_log = logging.getLogger(__name__)

Send = Callable[[AlertText], str]
"""Sends on one channel and answers why it failed, empty if it did not. Blocks; own thread."""


def backoff_s(attempts: int) -> float:
    """Wait after the n-th failed attempt: 2, 4, 8 … 300 s, about ten minutes in all."""
    return float(min(2.0 ** min(attempts, 20), BACKOFF_S_MAX))


class AlertSender:
    """One process's sender for one account; several may run, rows are claimed."""

    def __init__(self, services: Services, policy: AlertPolicy, sends: Mapping[str, Send]) -> None:
        self._services = services
        self._policy = policy
        self._sends = dict(sends)
        self._rung = asyncio.Event()
        self._due = {name: asyncio.Event() for name in self._sends}
        self._threads = {
            name: ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"alert-{name}")
            for name in self._sends
        }
        self._away_since_s: float | None = None
        self._away_told = False

    async def run(self) -> None:
        """Serves until cancelled; no error of ledger or channel ends it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                group.create_task(self._plan_always())
                group.create_task(self._escalate_always())
                for name in self._sends:
                    group.create_task(self._deliver_always(name))
        finally:
            for thread in self._threads.values():
                thread.shutdown(wait=False, cancel_futures=True)

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(self._services.ledger.listen(ALERTS_BELL)) as bells:
                    async for _channel, _payload in bells:
                        self._rung.set()
            except HoldfastError:
                # The poll goes on; `_plan_always` tells that the ledger is away.
                await asyncio.sleep(POLL_S)

    # --- who hears it -----------------------------------------------------------------------------

    async def _plan_always(self) -> None:
        while True:
            self._rung.clear()
            try:
                planned = await self._services.ledger.plan_alerts(
                    self._services.account, self._receivers, tuple(self._sends)
                )
                self._away_since_s, self._away_told = None, False
            except HoldfastError as error:
                planned = 0
                await self._tell_ledger_away(error)
            if planned:
                for due in self._due.values():
                    due.set()
                continue
            await _wait(self._rung, POLL_S)

    def _receivers(self, alert: AlertRecord) -> Sequence[Receiver]:
        return receivers(
            alert.severity,
            self._policy.channels,
            is_escalation=alert.escalations > 0,
            is_quiet=self._policy.is_quiet(self._services.now()),
        )

    async def _escalate_always(self) -> None:
        """An alert of the ledger's own clock: a restart forgets no deadline."""
        after_s = self._policy.unacknowledged_after_s
        while True:
            await asyncio.sleep(min(ESCALATION_POLL_S, after_s / 4))
            try:
                again = await self._services.ledger.escalate_alerts(
                    self._services.account, after_s, self._policy.repeats_max
                )
            except HoldfastError:
                continue
            if again:
                _log.warning("%d critical alerts were not acknowledged", again)
                self._rung.set()

    async def _tell_ledger_away(self, error: HoldfastError) -> None:
        """Without the ledger there is no outbox: this one alert goes out directly, once."""
        now_s = self._services.monotonic()
        if self._away_since_s is None:
            self._away_since_s = now_s
        if self._away_told or now_s - self._away_since_s < LEDGER_AWAY_S:
            return
        self._away_told = True
        text = AlertText(
            title=f"[CRITICAL] LEDGER_DOWN {self._services.account}",
            body=f"the ledger does not answer ({error.code}); entries are refused, exits go on",
            severity=AlertSeverity.CRITICAL,
        )
        _log.error("%s", text.body)
        names = [each.name for each in self._policy.channels if not each.escalation]
        await asyncio.gather(*(self._send(name, text) for name in names if name in self._sends))

    # --- delivery ---------------------------------------------------------------------------------

    async def _deliver_always(self, name: str) -> None:
        due = self._due[name]
        while True:
            due.clear()
            try:
                claimed = await self._services.ledger.claim_deliveries(
                    self._services.account, name, limit=CLAIMED_AT_ONCE, claim_s=CLAIM_S
                )
                for group in _messages(claimed):
                    await self._deliver(name, group)
            except HoldfastError as error:
                _log.warning("alerts of channel %s: %s", name, error.code)
                claimed = ()
            if not claimed:
                await _wait(due, POLL_S)

    async def _deliver(self, name: str, group: Sequence[DueDelivery]) -> None:
        error = await self._send(name, _text_of(group))
        outcome = "failed" if error else "delivered"
        self._services.meter.count("alerts_sent", channel=name, outcome=outcome)
        for each in group:
            attempts = each.delivery.attempts
            is_last = attempts >= ATTEMPTS_MAX
            await self._services.ledger.record_delivery(
                each.delivery, error=error, retry_after_s=None if is_last else backoff_s(attempts)
            )
        if error:
            _log.warning("channel %s: %s", name, error)
        if error and any(each.delivery.attempts == ATTEMPTS_MAX // 2 for each in group):
            await self._tell_dead(name, group, error)

    async def _tell_dead(self, name: str, group: Sequence[DueDelivery], error: str) -> None:
        """The other channels hear of it; not about an alert that is itself about a channel."""
        if all(each.alert.code != "ALERT_CHANNEL_DEAD" for each in group):
            text = f"channel {name} does not deliver: {error}"
            await report(self._services, "ALERT_CHANNEL_DEAD", text, severity=AlertSeverity.WARNING)

    async def _send(self, name: str, text: AlertText) -> str:
        """Why it failed, or empty. A thread that hangs delays its own channel only."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                return await loop.run_in_executor(self._threads[name], self._sends[name], text)
        except TimeoutError:
            return f"no answer within {SEND_TIMEOUT_S:g} s"
        except Exception as error:
            # A library of a hundred services raises what it likes; trading does not care.
            return type(error).__name__


def _messages(claimed: Sequence[DueDelivery]) -> list[list[DueDelivery]]:
    """Critical alerts one by one; many lesser ones together (control 17: no noise)."""
    critical = [[each] for each in claimed if each.alert.severity is AlertSeverity.CRITICAL]
    lesser = [each for each in claimed if each.alert.severity is not AlertSeverity.CRITICAL]
    if len(lesser) >= DIGEST_FROM:
        return [*critical, lesser]
    return [*critical, *([each] for each in lesser)]


def _text_of(group: Sequence[DueDelivery]) -> AlertText:
    texts = [
        in_words(
            alert_id=each.alert.alert_id,
            severity=each.alert.severity,
            code=each.alert.code,
            account=each.alert.account,
            text=each.alert.text,
            trade_id=each.alert.trade_id,
            raised_at=each.alert.raised_at,
            escalations=each.alert.escalations if each.delivery.escalated else 0,
        )
        for each in group
    ]
    if len(texts) == 1:
        return texts[0]
    lines = [f"{text.title}: {' · '.join(text.body.splitlines())}" for text in texts]
    # Most severe first, so the first one speaks for all.
    severity = texts[0].severity
    title = f"[{severity.value.upper()}] {len(texts)} alerts {group[0].alert.account}"
    return AlertText(title=title, body="\n".join(lines), severity=severity)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
