"""Delivery: in time, to each channel by itself, muted, repeated, escalated (control 17, M21)."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, cast

import pytest

from activities import alert_sender
from activities.alert_sender import AlertSender, Send
from activities.meter import NoMeter
from activities.services import Services, wall_now
from domain.alerts import AlertChannel, AlertDraft, AlertPolicy, AlertText
from domain.commands import AlertSeverity
from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from ledger.records import DeliveryState
from ledger.repository import Ledger
from observability.apprise_channel import apprise_send
from tests.ledger.samples import ACCOUNT, NOW

# One of Apprise's services imports a module of the standard library that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
DEADLINE_S = 15.0
IN_TIME_S = 5.0


class Inbox:
    """A channel in memory: what was sent, and what it answers."""

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.texts: list[AlertText] = []

    def __call__(self, text: AlertText) -> str:
        self.texts.append(text)
        return self.error


@contextmanager
def webhook(answer: Callable[[], int] = lambda: 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A real HTTP server on this machine, as an Apprise URL, and the bodies it was sent."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body | {"at_s": time.monotonic()})
            self.send_response(answer())
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"json://holdfast:canary-token@127.0.0.1:{server.server_port}/", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@asynccontextmanager
async def sending(
    ledger: Ledger, sends: Mapping[str, Send], policy: AlertPolicy | None = None
) -> AsyncIterator[None]:
    """A running sender; the channels of the policy, or one plain channel per function."""
    services = SimpleNamespace(
        ledger=ledger,
        account=ACCOUNT,
        now=wall_now,
        monotonic=time.monotonic,
        meter=NoMeter(),
        alert_sinks=(),
    )
    plain = AlertPolicy(channels=tuple(AlertChannel(name=name) for name in sends))
    sender = AlertSender(cast("Services", services), policy or plain, sends)
    task = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        found = condition()
        if found is True or (not isinstance(found, bool) and await found):
            return
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.02)


async def raise_one(ledger: Ledger, severity: AlertSeverity, text: str = "what happened") -> None:
    code = f"CODE_{text.upper().replace(' ', '_')}"
    await ledger.raise_alert(AlertDraft.of(ACCOUNT, "trade-1", code, severity, text), "test")


async def states(ledger: Ledger) -> dict[tuple[str, int], DeliveryState]:
    ids = [alert.alert_id for alert in await ledger.list_alerts()]
    return {(row.channel, row.round): row.state for row in await ledger.deliveries_of(ids)}


async def test_kill_reaches_a_webhook_within_five_seconds(armed: Ledger) -> None:
    kill = KillSwitch(
        command_id="k-1",
        scope=KillScope(kind=KillScopeKind.ACCOUNT, value=ACCOUNT),
        mode=KillMode.FLATTEN,
        by="alice",
        reason="drill",
        engaged_at=NOW,
    )
    with webhook() as (url, bodies):
        async with sending(armed, {"hook": apprise_send(lambda: url)}):
            started_s = time.monotonic()
            await armed.engage_kill(ACCOUNT, kill)
            await until(lambda: bool(bodies), "the webhook was not called")
            assert bodies[0]["at_s"] - started_s < IN_TIME_S
            assert bodies[0]["title"] == f"[CRITICAL] KILL {ACCOUNT}"
            assert "by alice: drill" in bodies[0]["message"]
            assert "starter.py alert ack" in bodies[0]["message"]

            async def delivered() -> bool:
                return await states(armed) == {("hook", 1): DeliveryState.DELIVERED}

            await until(delivered, "the delivery was not recorded")
    assert len(bodies) == 1


async def test_dead_channel_delays_no_other_and_is_tried_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_sender, "SEND_TIMEOUT_S", 0.2)
    monkeypatch.setattr(alert_sender, "ATTEMPTS_MAX", 2)
    monkeypatch.setattr(alert_sender, "backoff_s", lambda attempts: 0.1)
    hangs, inbox = threading.Event(), Inbox()

    def dead(text: AlertText) -> str:
        hangs.wait(DEADLINE_S)
        return ""

    async with sending(ledger, {"dead": dead, "phone": inbox}):
        started_s = time.monotonic()
        await raise_one(ledger, AlertSeverity.CRITICAL)
        await until(lambda: bool(inbox.texts), "the living channel was not reached")
        assert time.monotonic() - started_s < IN_TIME_S

        async def given_up() -> bool:
            return (await states(ledger)).get(("dead", 1)) is DeliveryState.FAILED

        await until(given_up, "the dead channel was not given up")
        await until(
            lambda: any("ALERT_CHANNEL_DEAD" in text.title for text in inbox.texts),
            "nobody was told that the channel is dead",
        )
        hangs.set()


async def test_refused_delivery_is_sent_again_by_the_next_process(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_sender, "backoff_s", lambda attempts: 0.1)
    answers = [500, 200]
    with webhook(lambda: answers.pop(0)) as (url, bodies):
        async with sending(ledger, {"hook": apprise_send(lambda: url)}):
            await raise_one(ledger, AlertSeverity.WARNING)

            async def refused() -> bool:
                rows = await ledger.deliveries_of(
                    [1, *(a.alert_id for a in await ledger.list_alerts())]
                )
                return any("500" in row.last_error for row in rows)

            await until(refused, "the refusal was not recorded")
        async with sending(ledger, {"hook": apprise_send(lambda: url)}):
            await until(lambda: len(bodies) == 2, "it was not sent again")


async def test_quiet_hours_mute_info_and_warning_but_never_critical(ledger: Ledger) -> None:
    inbox = Inbox()
    asked: list[datetime] = []

    def quiet(at: datetime) -> bool:
        asked.append(at)
        return True

    policy = AlertPolicy(channels=(AlertChannel(name="phone"),), is_quiet=quiet)
    async with sending(ledger, {"phone": inbox}, policy):
        for severity in AlertSeverity:
            await raise_one(ledger, severity, severity.value)
        await until(lambda: bool(inbox.texts), "the critical alert was muted")

        async def all_planned() -> bool:
            ids = [alert.alert_id for alert in await ledger.list_alerts()]
            rows = await ledger.deliveries_of(ids)
            return [row.state for row in rows].count(DeliveryState.MUTED) == 2

        await until(all_planned, "info and warning were not recorded as muted")
    assert [text.severity for text in inbox.texts] == [AlertSeverity.CRITICAL]
    assert all(at.tzinfo is not None for at in asked)


async def test_unacknowledged_critical_alert_goes_to_the_escalation_channel(
    ledger: Ledger,
) -> None:
    first, duty = Inbox(), Inbox()
    policy = AlertPolicy(
        channels=(AlertChannel(name="phone"), AlertChannel(name="duty", escalation=True)),
        unacknowledged_after_s=0.4,
        repeats_max=2,
    )
    async with sending(ledger, {"phone": first, "duty": duty}, policy):
        await raise_one(ledger, AlertSeverity.CRITICAL, "nobody looks")
        await raise_one(ledger, AlertSeverity.WARNING, "no escalation")
        await until(lambda: len(duty.texts) == 2, "nobody was on duty")
        await until(lambda: len(first.texts) == 4, "it was not repeated on the first channel")
    assert all("not acknowledged" in text.title for text in duty.texts)
    assert "not acknowledged" not in first.texts[0].title

    async with sending(ledger, {"phone": first, "duty": duty}, policy):
        await raise_one(ledger, AlertSeverity.CRITICAL, "somebody looks")
        newest = (await ledger.list_alerts())[0]
        await ledger.acknowledge_alert(newest.alert_id, "alice")
        await until(lambda: len(first.texts) == 5, "the alert was not told")
        await asyncio.sleep(2 * policy.unacknowledged_after_s)
    assert len(duty.texts) == 2


async def test_many_small_alerts_travel_in_one_message(ledger: Ledger) -> None:
    for number in range(6):
        await raise_one(ledger, AlertSeverity.INFO, f"trade {number}")
    await raise_one(ledger, AlertSeverity.CRITICAL, "the big one")
    inbox = Inbox()
    async with sending(ledger, {"phone": inbox}):
        await until(lambda: len(inbox.texts) == 2, "not one message for all")
    assert inbox.texts[0].severity is AlertSeverity.CRITICAL
    assert inbox.texts[1].title == f"[INFO] 6 alerts {ACCOUNT}"
    assert inbox.texts[1].body.count("trade ") >= 6


async def test_ledger_that_is_away_is_told_without_the_ledger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alert_sender, "LEDGER_AWAY_S", 0.0)
    # Nothing listens on port 1.
    away = Ledger("postgresql://nobody@127.0.0.1:1/nothing", pool_size=1)
    inbox = Inbox()
    async with sending(away, {"phone": inbox}):
        await until(lambda: bool(inbox.texts), "nobody heard that the ledger is away")
    assert inbox.texts[0].title == f"[CRITICAL] LEDGER_DOWN {ACCOUNT}"
    assert len(inbox.texts) == 1
    await away.aclose()


def test_failure_of_a_channel_names_no_part_of_its_url() -> None:
    text = AlertText(title="t", body="b", severity=AlertSeverity.INFO)
    with webhook(lambda: 404) as (url, _bodies):
        error = apprise_send(lambda: url)(text)
    assert "404" in error
    assert "canary" not in error
    assert apprise_send(lambda: "nonsense")(text).startswith("ALERT_URL")
