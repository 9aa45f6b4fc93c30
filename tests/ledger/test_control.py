"""Arm, kill, reset: races, versions, latching (K5, K6, K9, I9, I17, control 15)."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from activities.kill import engage
from domain.control import KillScope, KillScopeKind
from domain.errors import Refused
from domain.ids import Purpose
from domain.order import BrokerOrderStatus
from ledger.errors import VersionConflict
from ledger.records import GatePermit, IntentState, KillAnswer
from ledger.repository import Ledger
from ledger.reset_store import LONE_RESET_WAIT, RESET_LIFETIME
from starter import app
from tests.fixtures_postgres import run_as_superuser
from tests.ledger.samples import ACCOUNT, NOW, intent, kill, owner, plan, snapshot

PHRASE = f"RESET {ACCOUNT}"
SECRET = "correct horse"


async def test_account_starts_disarmed_and_arming_raises_the_version(ledger: Ledger) -> None:
    assert await ledger.ensure_account(ACCOUNT, "alpaca")
    assert not await ledger.ensure_account(ACCOUNT, "alpaca")
    before = await ledger.read_control(ACCOUNT)
    assert not before.armed
    after = await ledger.arm(ACCOUNT, "alice", "open")
    assert after.armed
    assert after.version == before.version + 1
    assert after.updated_by == "alice"
    assert not (await ledger.disarm(ACCOUNT, "alice", "close")).armed


async def test_account_at_another_broker_is_refused(ledger: Ledger) -> None:
    await ledger.ensure_account(ACCOUNT, "alpaca")
    with pytest.raises(Refused, match="alpaca") as raised:
        await ledger.ensure_account(ACCOUNT, "tradier")
    assert raised.value.code == "ACCOUNT_DIFFERS"


async def test_installation_is_chosen_while_no_order_carries_another(
    ledger: Ledger, ledger_dsn: str
) -> None:
    drawn = await ledger.installation_id()
    try:
        await ledger.ensure_installation("beef")
        assert await ledger.installation_id() == "beef"
        again = await Ledger.connect(ledger_dsn)
        assert await again.installation_id() == "beef"
        await again.aclose()
    finally:
        await ledger.ensure_installation(drawn)


async def test_installation_of_orders_at_the_broker_is_kept(armed: Ledger) -> None:
    """Under another one nobody would know them for ours (I2)."""
    drawn = await armed.installation_id()
    await armed.open_gate(intent(), owner(), "t1", NOW)
    await armed.open_gate(intent("trade-2"), owner("trade-2"), "t1", NOW)
    with pytest.raises(Refused, match=f"was beef, the ledger's orders have {drawn}") as raised:
        await armed.ensure_installation("beef")
    assert raised.value.code == "INSTALLATION_DIFFERS"
    await armed.ensure_installation(drawn)
    assert await armed.installation_id() == drawn


async def test_accounts_are_listed_with_their_armed_flag(armed: Ledger, ledger_dsn: str) -> None:
    await armed.ensure_account("live", "tradier", "EUR")
    await armed.ensure_account("lost", "alpaca")
    await run_as_superuser(ledger_dsn, "DELETE FROM control WHERE account = 'lost'")
    shown = [(a.account, a.broker, a.currency, a.armed) for a in await armed.accounts()]
    assert shown == [
        ("live", "tradier", "EUR", False),
        ("lost", "alpaca", "USD", False),
        (ACCOUNT, "alpaca", "USD", True),
    ]


async def test_unknown_account_reads_as_disarmed_and_cannot_be_armed(ledger: Ledger) -> None:
    assert not (await ledger.read_control("nobody")).armed
    with pytest.raises(Refused) as raised:
        await ledger.arm("nobody", "alice", "test")
    assert raised.value.code == "ACCOUNT_UNKNOWN"


async def test_kill_answer_names_open_sends_and_working_entries(signalled: Ledger) -> None:
    states = {1: IntentState.UNKNOWN, 2: IntentState.ACCEPTED, 3: IntentState.REJECTED}
    for sequence in range(5):
        await signalled.open_gate(intent(sequence=sequence), owner(), "t1", NOW)
    for sequence, state in states.items():
        await signalled.record_answer(intent(sequence=sequence).client_id, "t1", state)
    done = intent(sequence=4).client_id
    dead = snapshot(client_id=done, status=BrokerOrderStatus.CANCELED)
    await signalled.record_answer(done, "t1", IntentState.ACCEPTED, snapshot=dead)
    stop = intent(purpose=Purpose.STOP, increasing=False)
    await signalled.open_gate(stop, owner(), "t1", NOW)
    await signalled.record_answer(stop.client_id, "t1", IntentState.ACCEPTED)
    answer = await signalled.engage_kill(ACCOUNT, kill())
    assert {one.intent.client_id for one in answer.in_flight} == {
        intent(sequence=0).client_id,
        intent(sequence=1).client_id,
    }
    assert [one.intent.client_id for one in answer.working] == [intent(sequence=2).client_id]
    assert answer.controls[0].kills == (kill(),)


@pytest.mark.covers("K5")
@pytest.mark.parametrize(
    ("kind", "value", "covered"),
    [
        (KillScopeKind.ALL, "", ["one", "two", "three"]),
        (KillScopeKind.ACCOUNT, ACCOUNT, ["one", "two"]),
        (KillScopeKind.STRATEGY, "rsi", ["two"]),
        (KillScopeKind.SYMBOL, "MSFT", ["two"]),
        (KillScopeKind.TRADE, "one", ["one"]),
        (KillScopeKind.ORDER, intent("two").client_id, ["two"]),
    ],
)
async def test_kill_answers_with_the_orders_of_its_scope_alone(
    armed: Ledger, kind: KillScopeKind, value: str, covered: list[str]
) -> None:
    await armed.ensure_account("second", "alpaca")
    await armed.arm("second", "alice", "test")
    first = owner("one")
    other = first.model_copy(
        update={"trade_id": "two", "strategy": "rsi", "symbols": ("AAPL", "MSFT")}
    )
    owners = {"one": first, "two": other, "three": owner("three", account="second")}
    for seconds, (name, whose) in enumerate(owners.items()):
        wished = plan(name).model_copy(update={"account": whose.account})
        await armed.create_trade(wished)
        at = NOW + timedelta(seconds=seconds)
        assert isinstance(await armed.open_gate(intent(name), whose, "t1", at), GatePermit)
    account = None if kind is KillScopeKind.ALL else ACCOUNT
    answer = await armed.engage_kill(account, kill(kind=kind, value=value))
    assert [one.owner.trade_id for one in answer.in_flight] == covered
    asked = ["paper", "second"] if account is None else ["paper"]
    assert [one.account for one in answer.controls] == asked
    assert all(len(one.kills) == 1 and one.armed for one in answer.controls)


async def test_kill_twice_by_the_same_command_is_one_kill(armed: Ledger) -> None:
    first = await armed.engage_kill(ACCOUNT, kill(), expected_version=3)
    again = await armed.engage_kill(ACCOUNT, kill(), expected_version=3)
    assert (first.was_engaged, again.was_engaged) == (False, True)
    assert again.controls == first.controls
    other = kill(kind=KillScopeKind.SYMBOL, value="AAPL")
    with pytest.raises(Refused) as raised:
        await armed.engage_kill(ACCOUNT, other)
    assert raised.value.code == "COMMAND_ID_USED"


@pytest.mark.covers("K6")
async def test_two_kills_on_one_version_have_one_winner(armed: Ledger) -> None:
    """K6, I17: the other one gets 409."""
    version = (await armed.read_control(ACCOUNT)).version
    answers = await asyncio.gather(
        armed.engage_kill(ACCOUNT, kill("k-1"), version),
        armed.engage_kill(ACCOUNT, kill("k-2"), version),
        return_exceptions=True,
    )
    lost = [answer for answer in answers if isinstance(answer, VersionConflict)]
    assert sum(isinstance(answer, KillAnswer) for answer in answers) == 1
    assert [error.http_status for error in lost] == [409]
    assert len((await armed.read_control(ACCOUNT)).kills) == 1


async def test_scope_and_account_must_fit(armed: Ledger) -> None:
    for account, switch in (
        (None, kill()),
        (ACCOUNT, kill(kind=KillScopeKind.ALL, value="")),
        (ACCOUNT, kill(value="other")),
    ):
        with pytest.raises(Refused) as raised:
            await armed.engage_kill(account, switch)
        assert raised.value.code == "KILL_SCOPE"


@pytest.mark.covers("K5")
async def test_gate_racing_a_kill_is_refused_or_named_and_never_leaks(armed: Ledger) -> None:
    """K5: start gate in the same millisecond as the kill; leaks = permits nobody knows of."""
    leaks: list[str] = []
    for race in range(60):
        switch = kill(f"k-{race}", kind=KillScopeKind.TRADE, value=f"trade-{race}")
        wishes = [intent(f"trade-{race}", sequence=number) for number in range(4)]
        knocks = [armed.open_gate(wish, owner(f"trade-{race}"), "t1", NOW) for wish in wishes]
        half = len(knocks) // 2
        results = await asyncio.gather(
            *knocks[:half], armed.engage_kill(ACCOUNT, switch), *knocks[half:]
        )
        answer = results[half]
        assert isinstance(answer, KillAnswer)
        named = {one.intent.client_id for one in answer.in_flight}
        permits = {one.record.intent.client_id for one in results if isinstance(one, GatePermit)}
        leaks += sorted(permits - named)
    assert leaks == []


@pytest.mark.covers("K4")
async def test_kill_gets_through_an_unbroken_stream_of_gates(armed: Ledger) -> None:
    """Row locks alone let sharers starve the kill; the advisory lock queues them (M9)."""
    stop, running = asyncio.Event(), asyncio.Event()

    async def knock(lane: int) -> int:
        sequence = 0
        while not stop.is_set():
            wish = intent(f"lane-{lane}", sequence=sequence)
            await armed.open_gate(wish, owner(f"lane-{lane}"), "t1", NOW)
            sequence += 1
            running.set()
        return sequence

    lanes = [asyncio.create_task(knock(lane)) for lane in range(8)]
    async with asyncio.timeout(5):
        await running.wait()
    async with asyncio.timeout(2):
        await armed.engage_kill(ACCOUNT, kill())
    stop.set()
    assert sum(await asyncio.gather(*lanes)) > 8


@pytest.mark.covers("K9")
async def test_kill_is_latched_over_reconnect(armed: Ledger, ledger_dsn: str) -> None:
    """K9: everything restarts; still killed."""
    await armed.engage_kill(ACCOUNT, kill())
    await armed.aclose()
    again = await Ledger.connect(ledger_dsn)
    assert (await again.read_control(ACCOUNT)).kills == (kill(),)
    assert not isinstance(await again.open_gate(intent(), owner(), "t1", NOW), GatePermit)
    await again.arm(ACCOUNT, "alice", "arming lifts no kill")
    assert not isinstance(await again.open_gate(intent(), owner(), "t1", NOW), GatePermit)
    await again.aclose()


async def test_kill_and_arm_ring_the_control_bell(armed: Ledger) -> None:
    bells = armed.listen("holdfast_control")
    async with asyncio.timeout(5):
        assert await anext(bells) == ("ready", "")
        await armed.engage_kill(ACCOUNT, kill())
        assert await anext(bells) == ("holdfast_control", ACCOUNT)
        await armed.engage_kill(None, kill("k-2", kind=KillScopeKind.ALL, value=""))
        assert await anext(bells) == ("holdfast_control", "*")
    await bells.aclose()


async def _refused_code(confirming: object) -> str:
    assert asyncio.iscoroutine(confirming)
    with pytest.raises(Refused) as raised:
        await confirming
    return raised.value.code


@pytest.mark.covers("K9")
async def test_two_operators_registered_need_two_people(signalled: Ledger) -> None:
    for name in ("alice", "bob"):
        await signalled.add_operator(name, SECRET)
    await signalled.engage_kill(ACCOUNT, kill())
    asked = await signalled.request_reset(ACCOUNT, "alice", "false alarm", PHRASE, NOW)
    assert asked.approvals_needed == 2
    late = NOW + LONE_RESET_WAIT
    assert await _refused_code(signalled.confirm_reset(asked.request_id, "alice", late)) == (
        "SAME_PERSON"
    )
    assert await _refused_code(signalled.confirm_reset(asked.request_id, "eve", NOW)) == (
        "OPERATOR_UNKNOWN"
    )
    assert (await signalled.read_control(ACCOUNT)).kills != ()
    assert (await signalled.confirm_reset(asked.request_id, "bob", NOW)).kills == ()
    assert isinstance(await signalled.open_gate(intent(), owner(), "t1", NOW), GatePermit)
    assert (
        await _refused_code(signalled.confirm_reset(asked.request_id, "bob", NOW)) == "RESET_DONE"
    )
    actions = [(row.actor, row.action) for row in await signalled.list_audit()]
    assert ("alice", "reset_refused") in actions
    assert ("bob", "reset_confirmed") in actions


async def test_reset_of_one_scope_lifts_its_kills_and_no_other(armed: Ledger) -> None:
    """The kill of a trade that is over could only be lifted with all of the account's."""
    await armed.add_operator("alice", SECRET)
    one = KillScope(kind=KillScopeKind.TRADE, value="trade-1")
    await armed.engage_kill(ACCOUNT, kill())
    await armed.engage_kill(ACCOUNT, kill("k-2", kind=one.kind, value=one.value))
    phrase = "RESET trade:trade-1"
    ask = armed.request_reset
    assert await _refused_code(ask(ACCOUNT, "alice", "over", PHRASE, NOW, scope=one)) == (
        "RESET_PHRASE"
    )
    other = one.model_copy(update={"value": "trade-2"})
    assert await _refused_code(
        ask(ACCOUNT, "alice", "over", "RESET trade:trade-2", NOW, scope=other)
    ) == ("NOT_KILLED")
    asked = await ask(ACCOUNT, "alice", "over", phrase, NOW, scope=one)
    left = await armed.confirm_reset(asked.request_id, "alice", NOW + LONE_RESET_WAIT)
    assert [each.scope.text for each in left.kills] == [kill().scope.text]


async def test_reset_of_all_names_the_kills_that_stay_on_the_accounts(
    armed: Ledger, ledger_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered `kills -` while `status` listed one."""
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    monkeypatch.setenv("HOLDFAST_OPERATOR_SECRET", SECRET)
    for name in ("alice", "bob"):
        await armed.add_operator(name, SECRET)
    await armed.engage_kill(None, kill("k-1", kind=KillScopeKind.ALL, value=""))
    await armed.engage_kill(ACCOUNT, kill("k-2", kind=KillScopeKind.TRADE, value="trade-1"))

    async def say(*words: str) -> tuple[int, Any]:
        asked = ["--data", str(tmp_path), "reset", *words, "--json"]
        result = await asyncio.to_thread(CliRunner().invoke, app, asked)
        return result.exit_code, json.loads(result.stdout)

    wanted = ("--scope", "all", "--phrase", "RESET ALL", "--reason", "over", "--by", "alice")
    code, asked = await say("request", *wanted)
    assert (code, asked["command_ids"]) == (0, ["k-1"])
    code, answer = await say("confirm", asked["request_id"], "--by", "bob")
    assert (code, [each["command_id"] for each in answer["kills"]]) == (0, ["k-2"])
    kills = (await armed.read_control(ACCOUNT)).kills
    assert [each.command_id for each in kills] == ["k-2"]


async def test_lone_operator_waits_five_minutes(armed: Ledger) -> None:
    await armed.add_operator("alice", SECRET)
    await armed.engage_kill(ACCOUNT, kill())
    asked = await armed.request_reset(ACCOUNT, "alice", "false alarm", PHRASE, NOW)
    early = NOW + LONE_RESET_WAIT - timedelta(microseconds=1)
    assert await _refused_code(armed.confirm_reset(asked.request_id, "alice", early)) == (
        "RESET_TOO_EARLY"
    )
    done = await armed.confirm_reset(asked.request_id, "alice", NOW + LONE_RESET_WAIT)
    assert done.kills == ()


async def test_operator_registered_after_the_request_makes_it_a_matter_of_two(
    armed: Ledger,
) -> None:
    await armed.add_operator("alice", SECRET)
    await armed.engage_kill(ACCOUNT, kill())
    asked = await armed.request_reset(ACCOUNT, "alice", "false alarm", PHRASE, NOW)
    await armed.add_operator("bob", SECRET)
    late = NOW + LONE_RESET_WAIT
    assert await _refused_code(armed.confirm_reset(asked.request_id, "alice", late)) == (
        "SAME_PERSON"
    )


@pytest.mark.covers("K6")
async def test_kill_of_all_goes_by_the_version_of_all(armed: Ledger) -> None:
    """I17: who saw an older state is told so; another account's change is none of it."""
    seen = (await armed.read_control("*")).version
    await armed.disarm(ACCOUNT, "alice", "lunch")
    common = kill("k-1", kind=KillScopeKind.ALL, value="")
    assert not (await armed.engage_kill(None, common, seen)).was_engaged
    with pytest.raises(VersionConflict):
        await armed.engage_kill(None, common.model_copy(update={"command_id": "k-2"}), seen)
    assert (await armed.read_control("*")).version == seen + 1


async def test_kill_engaged_after_the_request_stays(armed: Ledger) -> None:
    await armed.add_operator("alice", SECRET)
    await armed.engage_kill(ACCOUNT, kill("k-1"))
    asked = await armed.request_reset(ACCOUNT, "alice", "false alarm", PHRASE, NOW)
    await armed.engage_kill(ACCOUNT, kill("k-2"))
    left = await armed.confirm_reset(asked.request_id, "alice", NOW + LONE_RESET_WAIT)
    assert [one.command_id for one in left.kills] == ["k-2"]


async def test_reset_wants_phrase_reason_and_a_kill_and_expires(armed: Ledger) -> None:
    await armed.add_operator("alice", SECRET)
    ask = armed.request_reset
    assert await _refused_code(ask(ACCOUNT, "alice", "why", PHRASE, NOW)) == "NOT_KILLED"
    await armed.engage_kill(ACCOUNT, kill())
    assert await _refused_code(ask(ACCOUNT, "alice", "why", "reset", NOW)) == "RESET_PHRASE"
    assert await _refused_code(ask(ACCOUNT, "alice", " ", PHRASE, NOW)) == "RESET_REASON"
    asked = await ask(ACCOUNT, "alice", "why", PHRASE, NOW)
    too_late = NOW + RESET_LIFETIME + timedelta(seconds=1)
    assert await _refused_code(armed.confirm_reset(asked.request_id, "alice", too_late)) == (
        "RESET_EXPIRED"
    )
    assert await _refused_code(armed.confirm_reset("nothing", "alice", NOW)) == "RESET_UNKNOWN"


async def test_reset_of_all_leaves_the_accounts_own_kill(armed: Ledger) -> None:
    await armed.add_operator("alice", SECRET)
    await armed.engage_kill(ACCOUNT, kill("own"))
    await armed.engage_kill(None, kill("all", kind=KillScopeKind.ALL, value=""))
    asked = await armed.request_reset(None, "alice", "why", "RESET ALL", NOW)
    await armed.confirm_reset(asked.request_id, "alice", NOW + LONE_RESET_WAIT)
    left = (await armed.read_control(ACCOUNT)).kills
    assert [one.command_id for one in left] == ["own"]


async def test_operator_secret_is_checked_and_never_audited(armed: Ledger) -> None:
    assert await armed.add_operator("alice", SECRET)
    assert not await armed.add_operator("alice", "another secret")
    assert await armed.check_operator("alice", SECRET)
    assert not await armed.check_operator("alice", "another secret")
    assert not await armed.check_operator("eve", SECRET)
    assert await armed.operators() == ("alice",)
    assert all(SECRET not in row.model_dump_json() for row in await armed.list_audit())
    with pytest.raises(Refused) as raised:
        await armed.add_operator("bob", "short")
    assert raised.value.code == "SECRET_TOO_SHORT"


async def test_audit_tells_every_step_of_a_reset(armed: Ledger) -> None:
    """Control 24: who asked, who refused and who lifted, with nothing of a secret."""
    for name in ("bob", "alice"):
        await armed.add_operator(name, SECRET)
    await armed.check_operator("eve", SECRET)
    await armed.engage_kill(ACCOUNT, kill())
    before = (await armed.list_audit())[-1].sequence
    asked = await armed.request_reset(ACCOUNT, "alice", "over", PHRASE, NOW)
    assert await _refused_code(armed.confirm_reset(asked.request_id, "alice", NOW)) == (
        "SAME_PERSON"
    )
    after = await armed.confirm_reset(asked.request_id, "bob", NOW)
    assert await _refused_code(armed.confirm_reset(asked.request_id, "bob", NOW)) == "RESET_DONE"
    assert (after.updated_by, after.kills) == ("bob", ())
    rows = await armed.list_audit()
    added = [row for row in rows if row.action.startswith("operator_")]
    assert [(row.actor, row.action, row.subject, row.details) for row in added] == [
        ("bob", "operator_added", "bob", "{}"),
        ("alice", "operator_added", "alice", "{}"),
        ("eve", "operator_refused", "eve", "{}"),
    ]
    steps = [row for row in rows if row.sequence > before]
    assert {row.subject for row in steps} == {ACCOUNT}
    assert [(row.actor, row.action) for row in steps] == [
        ("alice", "reset_requested"),
        ("alice", "reset_refused"),
        ("bob", "reset_confirmed"),
        ("bob", "reset_refused"),
    ]
    wished = {"request_id": asked.request_id, "requested_by": "alice"}
    assert [json.loads(row.details) for row in steps] == [
        {"request_id": asked.request_id, "reason": "over"},
        wished | {"code": "SAME_PERSON"},
        wished | {"code": ""},
        wished | {"code": "RESET_DONE"},
    ]
    assert await armed.operators() == ("alice", "bob")


@pytest.mark.parametrize(("by", "names"), [("alice", ["alice"]), ("bob", ["alice", "bob"])])
async def test_reset_request_says_how_many_are_needed_and_until_when(
    armed: Ledger, by: str, names: list[str]
) -> None:
    for name in names:
        await armed.add_operator(name, SECRET)
    await armed.engage_kill(ACCOUNT, kill("k-1"))
    await armed.engage_kill(ACCOUNT, kill("k-2"))
    asked = await armed.request_reset(ACCOUNT, by, "over", PHRASE, NOW)
    alone = len(names) == 1
    assert (asked.account, asked.requested_by, asked.reason) == (ACCOUNT, by, "over")
    assert asked.command_ids == ("k-1", "k-2")
    assert asked.approvals_needed == len(names)
    assert asked.confirmable_at == NOW + timedelta(minutes=5 if alone else 0)
    assert asked.expires_at == NOW + timedelta(minutes=30)
    assert await armed.request_reset(ACCOUNT, by, "over", PHRASE, NOW) == asked
    other = await armed.request_reset(ACCOUNT, by, "over", PHRASE, NOW + timedelta(seconds=1))
    assert other.request_id != asked.request_id


async def test_lone_reset_waits_to_the_second_and_goes_until_the_last(armed: Ledger) -> None:
    await armed.add_operator("alice", SECRET)
    tick = timedelta(microseconds=1)
    for number, (after, code) in enumerate(
        (
            (LONE_RESET_WAIT - tick, "RESET_TOO_EARLY"),
            (LONE_RESET_WAIT, None),
            (RESET_LIFETIME, None),
            (RESET_LIFETIME + tick, "RESET_EXPIRED"),
        )
    ):
        await armed.engage_kill(ACCOUNT, kill(f"k-{number}"))
        at = NOW + timedelta(hours=number)
        asked = await armed.request_reset(ACCOUNT, "alice", "over", PHRASE, at)
        confirm = armed.confirm_reset(asked.request_id, "alice", at + after)
        if code is None:
            assert (await confirm).kills == ()
        else:
            assert await _refused_code(confirm) == code


async def test_id_of_a_kill_that_was_lifted_stops_nothing_and_says_so(armed: Ledger) -> None:
    """I17: one id, one effect. Nobody may believe that a second kill is in force."""
    await engage(armed, ACCOUNT, kill("k-1"))
    for name in ("alice", "bob"):
        await armed.add_operator(name, f"{name}-secret")
    asked = await armed.request_reset(ACCOUNT, "alice", "over", f"RESET {ACCOUNT}", NOW)
    await armed.confirm_reset(asked.request_id, "bob", NOW)
    with pytest.raises(Refused) as raised:
        await engage(armed, ACCOUNT, kill("k-1"))
    assert raised.value.code == "KILL_LIFTED"
    assert not (await armed.read_control(ACCOUNT)).kills
    assert (await engage(armed, ACCOUNT, kill("k-2"))).answer is not None
