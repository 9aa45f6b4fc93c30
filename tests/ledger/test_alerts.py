"""Each event raises its alert once, in its own transaction (faults.md I18, control 17)."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from domain.alerts import AlertDraft, Receiver
from domain.commands import AlertSeverity
from domain.control import (
    ApiBreakerState,
    KillMode,
    KillScope,
    KillScopeKind,
    KillSwitch,
    TripReason,
)
from domain.errors import Refused
from ledger import alert_store
from ledger.records import AlertRecord, DeliveryState, IntentState
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, NOW, fill, intent, owner, plan, snapshot

CRITICAL, WARNING = AlertSeverity.CRITICAL, AlertSeverity.WARNING


async def codes(ledger: Ledger) -> list[str]:
    return sorted(alert.code for alert in await ledger.list_alerts())


def draft(text: str = "text", severity: AlertSeverity = CRITICAL) -> AlertDraft:
    return AlertDraft.of(ACCOUNT, "trade-1", "CODE", severity, text)


async def filled_trade(ledger: Ledger) -> None:
    await ledger.create_trade(plan())
    await ledger.open_gate(intent(), owner(), "t1", NOW)
    await ledger.record_snapshot(ACCOUNT, snapshot(client_id=intent().client_id))
    await ledger.record_fill(ACCOUNT, fill())


async def test_kill_and_tripped_breakers_raise_one_alert_each(armed: Ledger) -> None:
    kill = KillSwitch(
        command_id="k-1",
        scope=KillScope(kind=KillScopeKind.ALL),
        mode=KillMode.BLOCK,
        by="alice",
        reason="drill",
        engaged_at=NOW,
    )
    for _ in range(2):
        await armed.engage_kill(None, kill)
        await armed.trip_breaker(ACCOUNT, TripReason.DAILY_LOSS, "-5.1 %", "gate")
        await armed.set_api_breaker("alpaca", ApiBreakerState.OPEN, 5)
    assert await codes(armed) == ["API_BREAKER", "DAILY_LOSS", "KILL"]
    await armed.reset_breaker(ACCOUNT, "alice", "looked at it")
    await armed.trip_breaker(ACCOUNT, TripReason.DAILY_LOSS, "-5.2 %", "gate")
    assert (await codes(armed)).count("DAILY_LOSS") == 2


async def test_trade_is_told_once_as_opened_and_once_as_closed(armed: Ledger) -> None:
    await filled_trade(armed)
    await armed.record_fill(ACCOUNT, fill("f-2"))
    for _ in range(2):
        await armed.settle_trade(
            "trade-1", Decimal("-12.34"), Decimal(1), fees_estimated=False, result="stop"
        )
    told = await armed.list_alerts(trade_id="trade-1")
    assert [alert.code for alert in told] == ["TRADE_CLOSED", "TRADE_OPENED"]
    assert [alert.severity for alert in told] == [AlertSeverity.INFO] * 2
    assert "-12.34" in told[0].text
    assert "buy 10 AAPL @ 100.25" in told[1].text


async def test_trade_without_a_fill_is_neither_opened_nor_closed(armed: Ledger) -> None:
    await armed.create_trade(plan())
    await armed.settle_trade("trade-1", Decimal(0), Decimal(0), fees_estimated=False)
    assert await codes(armed) == []


async def test_fill_before_its_order_is_known_opens_the_trade_when_it_is_linked(
    armed: Ledger,
) -> None:
    await armed.record_fill(ACCOUNT, fill())
    assert await codes(armed) == []
    await armed.open_gate(intent(), owner(), "t1", NOW)
    await armed.record_snapshot(ACCOUNT, snapshot(client_id=intent().client_id))
    assert await codes(armed) == ["TRADE_OPENED"]


async def test_unknown_order_is_told_once_with_its_name(signalled: Ledger) -> None:
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    client_id = intent().client_id
    for _ in range(2):
        await signalled.record_answer(client_id, "t1", IntentState.UNKNOWN, code="TIMEOUT", at=NOW)
    (told,) = await signalled.list_alerts()
    assert (told.code, told.severity, told.trade_id) == ("ORDER_UNKNOWN", WARNING, "trade-1")
    assert client_id in told.text


async def test_equal_alert_counts_and_returns_after_the_window(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await ledger.raise_alert(draft(), "test")
    await ledger.plan_alerts(ACCOUNT, lambda alert: ())
    assert not await ledger.raise_alert(draft(), "test")
    (told,) = await ledger.list_alerts()
    assert (told.occurrences, told.round) == (2, 1)
    await ledger.acknowledge_alert(told.alert_id, "alice")

    monkeypatch.setattr(alert_store, "REPEAT_WINDOW_S", 0)
    assert await ledger.raise_alert(draft(), "test")
    (told,) = await ledger.list_alerts()
    assert (told.occurrences, told.round, told.acknowledged_at) == (3, 2, None)


async def test_two_critical_events_of_one_code_are_two_alerts(ledger: Ledger) -> None:
    await ledger.raise_alert(draft("order a"), "test")
    await ledger.raise_alert(draft("order b"), "test")
    await ledger.raise_alert(draft("5 s late", WARNING), "test")
    await ledger.raise_alert(draft("6 s late", WARNING), "test")
    assert sorted(alert.text for alert in await ledger.list_alerts()) == [
        "6 s late",
        "order a",
        "order b",
    ]


async def test_two_raisers_at_once_make_one_alert(ledger: Ledger) -> None:
    await asyncio.gather(*(ledger.raise_alert(draft(), "test") for _ in range(8)))
    (told,) = await ledger.list_alerts()
    assert told.occurrences == 8


async def test_claimed_delivery_is_nobody_elses_until_the_claim_ends(ledger: Ledger) -> None:
    await ledger.raise_alert(draft(), "test")

    def plan_both(alert: AlertRecord) -> tuple[Receiver, ...]:
        return (Receiver(channel="a"), Receiver(channel="b", is_muted=True))

    assert await ledger.plan_alerts(ACCOUNT, plan_both) == 1
    assert await ledger.plan_alerts(ACCOUNT, plan_both) == 0
    (due,) = await ledger.claim_deliveries(ACCOUNT, "a", limit=5, claim_s=60)
    assert await ledger.claim_deliveries(ACCOUNT, "a", limit=5, claim_s=60) == ()
    assert await ledger.claim_deliveries(ACCOUNT, "b", limit=5, claim_s=60) == ()
    assert await ledger.claim_deliveries("another", "a", limit=5, claim_s=60) == ()
    await ledger.record_delivery(due.delivery, error="refused", retry_after_s=0)
    (again,) = await ledger.claim_deliveries(ACCOUNT, "a", limit=5, claim_s=60)
    assert (again.delivery.attempts, again.delivery.last_error) == (2, "refused")
    await ledger.record_delivery(again.delivery)
    rows = await ledger.deliveries_of([due.alert.alert_id])
    assert [row.state for row in rows] == [DeliveryState.DELIVERED, DeliveryState.MUTED]


async def test_acknowledgement_needs_a_name_is_audited_and_the_first_stands(
    ledger: Ledger,
) -> None:
    await ledger.raise_alert(draft(), "test")
    (told,) = await ledger.list_alerts(open_only=True)
    with pytest.raises(Refused, match="name was empty"):
        await ledger.acknowledge_alert(told.alert_id, " ")
    with pytest.raises(Refused) as refused:
        await ledger.acknowledge_alert(told.alert_id + 1, "alice")
    assert refused.value.code == "ALERT_UNKNOWN"
    assert (await ledger.acknowledge_alert(told.alert_id, "alice", "on it")).note == "on it"
    assert (await ledger.acknowledge_alert(told.alert_id, "bob")).acknowledged_by == "alice"
    assert await ledger.list_alerts(open_only=True) == ()
    actions = [row.action for row in await ledger.list_audit()]
    assert actions == ["alert.CODE", "alert_acknowledged"]


async def test_alerts_are_listed_newest_first_by_account_trade_and_number(ledger: Ledger) -> None:
    for account, trade_id, code in (
        (ACCOUNT, "trade-1", "A"),
        ("second", "trade-2", "B"),
        ("*", "", "C"),
        (ACCOUNT, "", "D"),
    ):
        await ledger.raise_alert(AlertDraft.of(account, trade_id, code, CRITICAL, "x"), "test")

    async def listed(**wish: Any) -> list[str]:
        return [alert.code for alert in await ledger.list_alerts(**wish)]

    assert await listed() == ["D", "C", "B", "A"]
    assert await listed(account=ACCOUNT) == ["D", "C", "A"]
    assert await listed(account="second") == ["C", "B"]
    assert await listed(trade_id="trade-2") == ["B"]
    assert await listed(limit=2) == ["D", "C"]


async def test_due_deliveries_are_claimed_most_severe_first(ledger: Ledger) -> None:
    for severity in (AlertSeverity.INFO, WARNING, CRITICAL, WARNING):
        raised = await ledger.list_alerts()
        told = AlertDraft.of(ACCOUNT, "", f"CODE{len(raised)}", severity, "x")
        await ledger.raise_alert(told, "test")
    assert await ledger.plan_alerts(ACCOUNT, lambda alert: (Receiver(channel="a"),)) == 4
    first = await ledger.claim_deliveries(ACCOUNT, "a", limit=2, claim_s=60)
    assert [due.alert.code for due in first] == ["CODE2", "CODE1"]
    rest = await ledger.claim_deliveries(ACCOUNT, "a", limit=5, claim_s=60)
    assert [due.alert.code for due in rest] == ["CODE3", "CODE0"]
    assert [due.delivery.attempts for due in (*first, *rest)] == [1] * 4


async def test_delivery_ends_as_it_was_recorded(ledger: Ledger) -> None:
    await ledger.raise_alert(draft(), "test")
    channels = ("done", "given-up", "later")
    hearers = tuple(Receiver(channel=name, escalated=name == "done") for name in channels)
    await ledger.plan_alerts(ACCOUNT, lambda alert: hearers)
    for name in channels:
        (due,) = await ledger.claim_deliveries(ACCOUNT, name, limit=5, claim_s=0)
        assert (due.delivery.channel, due.delivery.escalated) == (name, name == "done")
        error = "" if name == "done" else "refused"
        again_s = 60.0 if name == "later" else None
        await ledger.record_delivery(due.delivery, error=error, retry_after_s=again_s)
    rows = {row.channel: row for row in await ledger.deliveries_of([due.alert.alert_id])}
    states = {name: (row.state, row.last_error) for name, row in rows.items()}
    assert states == {
        "done": (DeliveryState.DELIVERED, ""),
        "given-up": (DeliveryState.FAILED, "refused"),
        "later": (DeliveryState.PENDING, "refused"),
    }
    assert [rows[name].delivered_at is not None for name in channels] == [True, False, False]
    for name in channels:
        assert await ledger.claim_deliveries(ACCOUNT, name, limit=5, claim_s=0) == ()


async def test_critical_alert_that_nobody_takes_is_told_again_so_often(ledger: Ledger) -> None:
    """faults.md M21."""
    for account, code, severity in (
        (ACCOUNT, "MINE", CRITICAL),
        ("*", "ALL", CRITICAL),
        ("second", "OTHERS", CRITICAL),
        (ACCOUNT, "MILD", WARNING),
        (ACCOUNT, "TAKEN", CRITICAL),
    ):
        await ledger.raise_alert(AlertDraft.of(account, "", code, severity, "x"), "test")
    by_code = {alert.code: alert for alert in await ledger.list_alerts()}
    await ledger.acknowledge_alert(by_code["TAKEN"].alert_id, "alice")
    assert await ledger.escalate_alerts(ACCOUNT, 3600, 2) == 0
    assert [await ledger.escalate_alerts(ACCOUNT, 0, 2) for _ in range(3)] == [2, 2, 0]
    rounds = {alert.code: (alert.round, alert.escalations) for alert in await ledger.list_alerts()}
    alone = (1, 0)
    assert rounds == {
        "MINE": (3, 2),
        "ALL": (3, 2),
        "OTHERS": alone,
        "MILD": alone,
        "TAKEN": alone,
    }


async def test_alert_and_its_acknowledgement_are_audited_in_words(ledger: Ledger) -> None:
    await ledger.raise_alert(draft("first"), "worker")
    await ledger.raise_alert(AlertDraft.of(ACCOUNT, "", "ALONE", WARNING, "second"), "worker")
    told = {alert.code: alert for alert in await ledger.list_alerts()}
    await ledger.acknowledge_alert(told["CODE"].alert_id, "alice", "on it")
    rows = [
        (r.actor, r.action, r.subject, json.loads(r.details)) for r in await ledger.list_audit()
    ]
    assert rows == [
        ("worker", "alert.CODE", "trade-1", {"severity": "critical", "text": "first"}),
        ("worker", "alert.ALONE", ACCOUNT, {"severity": "warning", "text": "second"}),
        (
            "alice",
            "alert_acknowledged",
            str(told["CODE"].alert_id),
            {"code": "CODE", "note": "on it"},
        ),
    ]


async def test_kill_of_all_accounts_is_told_on_the_channels_of_each(armed: Ledger) -> None:
    """The first account's sender must not keep it from the people of the second."""
    everybody = KillSwitch(
        command_id="k-all",
        scope=KillScope(kind=KillScopeKind.ALL),
        mode=KillMode.BLOCK,
        by="alice",
        reason="drill",
        engaged_at=NOW,
    )
    await armed.engage_kill(None, everybody)

    def to(*channels: str) -> alert_store.Plan:
        return lambda alert: [Receiver(channel=name) for name in channels]

    assert await armed.plan_alerts(ACCOUNT, to("desk"), ("desk",)) == 1
    assert await armed.plan_alerts("second", to("desk", "phone"), ("desk", "phone")) == 1
    assert await armed.plan_alerts("second", to("desk", "phone"), ("desk", "phone")) == 0
    for account, channel in ((ACCOUNT, "desk"), ("second", "phone")):
        due = await armed.claim_deliveries(account, channel, limit=5, claim_s=60)
        assert [each.alert.code for each in due] == ["KILL"]
