"""Conditions, breakers, baseline: who set them, whom they bind, what is told (control 15)."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from decimal import Decimal

import pytest

from domain.commands import AlertSeverity
from domain.control import (
    ApiBreakerState,
    BreakerState,
    ConditionKind,
    KillMode,
    KillScopeKind,
    TripReason,
)
from domain.errors import Refused
from ledger.records import CashMovement, EquityBaseline
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, NOW, kill

MACRO = ConditionKind.MACRO_WINDOW
CLOSED, OPEN = ApiBreakerState.CLOSED, ApiBreakerState.OPEN
D = Decimal


async def audited(ledger: Ledger, after: int) -> list[tuple[str, str, str, object]]:
    rows = await ledger.list_audit(after=after)
    return [(row.actor, row.action, row.subject, json.loads(row.details)) for row in rows]


async def last_row(ledger: Ledger) -> int:
    return (await ledger.audit_head())[0]


async def test_conditions_are_of_one_account_one_symbol_or_all(armed: Ledger) -> None:
    before = await last_row(armed)
    await armed.set_condition(ACCOUNT, MACRO, "AAPL", "earnings")
    await armed.set_condition(ACCOUNT, MACRO, "AA", "split")
    await armed.set_condition("*", MACRO, text="FOMC")
    await armed.set_condition("second", MACRO)
    shown = [(c.account, c.symbol, c.text) for c in await armed.conditions(ACCOUNT)]
    assert shown == [("*", "", "FOMC"), (ACCOUNT, "AA", "split"), (ACCOUNT, "AAPL", "earnings")]
    assert not await armed.clear_condition(ACCOUNT, MACRO)
    assert await armed.clear_condition(ACCOUNT, MACRO, "AA")
    assert [c.symbol for c in await armed.conditions(ACCOUNT)] == ["", "AAPL"]
    assert [c.account for c in await armed.conditions("second")] == ["*", "second"]
    rows = await audited(armed, before)
    key = {"account": ACCOUNT, "kind": MACRO.value, "symbol": "AA"}
    assert rows[1] == ("system", "condition_set", ACCOUNT, key | {"text": "split"})
    assert rows[-1] == ("system", "condition_cleared", ACCOUNT, key)
    assert len(rows) == 5


async def test_every_switch_rings_the_control_bell_of_its_account(armed: Ledger) -> None:
    bells = armed.listen("holdfast_control")
    async with asyncio.timeout(60):
        await anext(bells)
        for change in (
            armed.set_condition(ACCOUNT, MACRO),
            armed.clear_condition(ACCOUNT, MACRO),
            armed.trip_breaker(ACCOUNT, TripReason.DATA_STALE, "no quotes", "risk"),
            armed.reset_breaker(ACCOUNT, "alice", "back"),
            armed.engage_kill(ACCOUNT, kill()),
        ):
            assert await change
            assert await anext(bells) == ("holdfast_control", ACCOUNT)
    await bells.aclose()


@pytest.mark.parametrize(
    ("reason", "code"),
    [(TripReason.DAILY_LOSS, "DAILY_LOSS"), (TripReason.DATA_STALE, "RISK_BREAKER")],
)
async def test_tripped_breaker_says_why_since_when_and_by_whom(
    armed: Ledger, reason: TripReason, code: str
) -> None:
    before = await last_row(armed)
    assert await armed.trip_breaker(ACCOUNT, reason, "-5.1 %", "gate")
    tripped = await armed.risk_breaker(ACCOUNT)
    assert (tripped.state, tripped.reason, tripped.text) == (
        BreakerState.TRIPPED,
        reason.value,
        "-5.1 %",
    )
    assert tripped.changed_by == "gate"
    (told,) = await armed.list_alerts()
    assert (told.code, told.account, told.severity) == (code, ACCOUNT, AlertSeverity.CRITICAL)
    assert told.text == f"entries are blocked: {reason.value} -5.1 % (gate)"
    assert await armed.reset_breaker(ACCOUNT, "alice", "looked at it")
    assert not await armed.reset_breaker(ACCOUNT, "bob", "me too")
    normal = await armed.risk_breaker(ACCOUNT)
    assert (normal.state, normal.reason, normal.text) == (BreakerState.NORMAL, "", "looked at it")
    assert normal.changed_by == "alice"
    assert normal.changed_at is not None
    assert tripped.changed_at is not None
    assert normal.changed_at > tripped.changed_at
    assert [row[:3] for row in await audited(armed, before)] == [
        ("gate", "breaker_tripped", ACCOUNT),
        ("alice", "breaker_normal", ACCOUNT),
    ]
    assert (await audited(armed, before))[0][3] == {
        "state": "tripped",
        "reason": reason.value,
        "text": "-5.1 %",
        "changed_by": "gate",
    }
    assert len(await armed.list_alerts()) == 1


async def test_breaker_of_nobody_is_refused(armed: Ledger) -> None:
    with pytest.raises(Refused, match="account was nobody") as raised:
        await armed.trip_breaker("nobody", TripReason.DATA_STALE, "", "risk")
    assert raised.value.code == "ACCOUNT_UNKNOWN"


async def test_venue_that_does_not_answer_is_told_to_all_when_it_opens(armed: Ledger) -> None:
    before = await last_row(armed)
    for state, failures in ((CLOSED, 2), (OPEN, 5), (OPEN, 6), (CLOSED, 0)):
        await armed.set_api_breaker("alpaca", state, failures)
        found = await armed.api_breaker("alpaca")
        assert (found.broker, found.state, found.failures) == ("alpaca", state, failures)
    (told,) = await armed.list_alerts()
    assert (told.code, told.account, told.severity) == ("API_BREAKER", "*", AlertSeverity.WARNING)
    assert told.text == "alpaca does not answer (5 failures); entries are blocked"
    assert await audited(armed, before) == [
        ("system", "api_breaker_open", "alpaca", {"from": "closed", "failures": 5}),
        ("system", "api_breaker_closed", "alpaca", {"from": "open", "failures": 0}),
    ]


async def test_transfers_after_the_baseline_was_read_are_summed(armed: Ledger) -> None:
    await armed.ensure_account("second", "alpaca")
    tick = timedelta(microseconds=1)
    for number, (account, at, amount) in enumerate(
        (
            (ACCOUNT, NOW, "1"),
            (ACCOUNT, NOW + tick, "10"),
            (ACCOUNT, NOW + timedelta(days=1), "-3.5"),
            ("second", NOW + tick, "1000"),
        )
    ):
        movement = CashMovement(
            movement_id=f"w-{number}", account=account, amount=D(amount), at=at, booked_by="alice"
        )
        await armed.book_cash(movement)
    baseline = EquityBaseline(account=ACCOUNT, roll=NOW, equity=D(5), read_at=NOW)
    assert await armed.transfers_since(baseline) == D("6.5")
    assert await armed.transfers_since(None) == 0


async def test_baseline_is_found_by_its_roll_or_as_the_newest(armed: Ledger) -> None:
    day = timedelta(days=1)
    rolls = {}
    for number in (1, 0, 2):
        roll = NOW + number * day
        rolls[number] = await armed.set_equity_baseline(ACCOUNT, roll, D(number), roll)
    assert await armed.equity_baseline(ACCOUNT) == rolls[2]
    assert await armed.equity_baseline(ACCOUNT, NOW) == rolls[0]
    assert await armed.equity_baseline(ACCOUNT, NOW + 9 * day) is None


async def test_kill_is_told_and_audited_with_its_scope(armed: Ledger) -> None:
    before = await last_row(armed)
    wanted = kill(kind=KillScopeKind.STRATEGY, value="sma", mode=KillMode.FLATTEN)
    answer = await armed.engage_kill(ACCOUNT, wanted)
    assert (answer.was_engaged, answer.lifted_at) == (False, None)
    assert (answer.in_flight, answer.working) == ((), ())
    (told,) = await armed.list_alerts()
    assert (told.code, told.account, told.severity) == ("KILL", ACCOUNT, AlertSeverity.CRITICAL)
    assert told.text == f"flatten {wanted.scope.text} by alice: test"
    (row,) = await audited(armed, before)
    assert row == (
        "alice",
        "kill",
        ACCOUNT,
        {"mode": "flatten", "scope": wanted.scope.text, "reason": "test", "command_id": "k-1"},
    )
    assert (await armed.read_control(ACCOUNT)).kills == (wanted,)
    assert (await armed.engage_kill(ACCOUNT, wanted)).was_engaged
    assert len(await audited(armed, before)) == 1


async def test_kill_of_all_stands_in_the_control_of_every_account(armed: Ledger) -> None:
    """Of one that nobody made, too: what is missing counts as bad."""
    own, common = kill("own"), kill("common", kind=KillScopeKind.ALL, value="")
    before, of_all = await armed.read_control(ACCOUNT), await armed.read_control("*")
    await armed.engage_kill(ACCOUNT, own)
    await armed.engage_kill(None, common)
    control = await armed.read_control(ACCOUNT)
    assert {one.command_id for one in control.kills} == {"own", "common"}
    assert (control.armed, control.version) == (True, before.version + 2)
    nobody = await armed.read_control("nobody")
    assert (nobody.account, nobody.armed, nobody.version) == ("nobody", False, 0)
    assert nobody.kills == (common,)
    everybody = await armed.read_control("*")
    assert everybody.kills == (common,)
    assert everybody.version == of_all.version + 1


async def test_arming_is_audited_with_who_and_why(armed: Ledger) -> None:
    before = await last_row(armed)
    armed_now = await armed.read_control(ACCOUNT)
    off = await armed.disarm(ACCOUNT, "bob", "lunch")
    assert (off.armed, off.updated_by, off.version) == (False, "bob", armed_now.version + 1)
    assert off == await armed.read_control(ACCOUNT)
    await armed.arm(ACCOUNT, "alice", "back")
    assert await audited(armed, before) == [
        ("bob", "disarm", ACCOUNT, {"reason": "lunch"}),
        ("alice", "arm", ACCOUNT, {"reason": "back"}),
    ]
