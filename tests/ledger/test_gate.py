"""The last-hop gate: permits, refusals, fencing, answers (architecture §5, C8, I1, B3)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal

import asyncpg
import pytest

from domain.control import ApiBreakerState, ConditionKind, KillMode, KillScopeKind, TripReason
from domain.errors import Broken
from domain.ids import Purpose
from domain.order import BrokerOrderStatus
from ledger.records import (
    GateAnswer,
    GateCode,
    GatePermit,
    GateRefused,
    IntentExists,
    IntentState,
)
from ledger.repository import Ledger
from tests.fixtures_postgres import run_as_superuser
from tests.ledger.samples import ACCOUNT, NOW, intent, kill, owner, snapshot


def _code(answer: GateAnswer) -> GateCode | None:
    return answer.code if isinstance(answer, GateRefused) else None


async def test_armed_account_gets_a_permit_and_the_row_is_sending(signalled: Ledger) -> None:
    answer = await signalled.open_gate(
        intent(), owner(), "t1", NOW, build_id="build-7", config_hash="c-1"
    )
    assert isinstance(answer, GatePermit)
    stored = await signalled.intent(intent().client_id)
    assert stored is not None
    assert stored.state is IntentState.SENDING
    assert stored.intent == intent()
    assert (stored.build_id, stored.config_hash) == ("build-7", "c-1")
    assert stored.intent.body.limit_price == Decimal("100.25")
    assert await signalled.may_still_send(intent(), owner(), "t1", NOW)


@pytest.mark.covers("B5")
async def test_disarmed_account_refuses_entries_and_passes_exits(ledger: Ledger) -> None:
    await ledger.ensure_account(ACCOUNT, "alpaca")
    assert _code(await ledger.open_gate(intent(), owner(), "t1", NOW)) is GateCode.NOT_ARMED
    refused = await ledger.intent(intent().client_id)
    assert refused is not None
    assert (refused.state, refused.code) == (IntentState.NOT_SENT, "NOT_ARMED")
    leave = intent(purpose=Purpose.EXIT, increasing=False)
    assert isinstance(await ledger.open_gate(leave, owner(), "t1", NOW), GatePermit)


async def test_unknown_account_refuses_entries_and_passes_exits(ledger: Ledger) -> None:
    answer = await ledger.open_gate(intent(), owner(), "t1", NOW)
    assert _code(answer) is GateCode.ACCOUNT_UNKNOWN
    leave = intent(purpose=Purpose.EXIT, increasing=False)
    assert isinstance(await ledger.open_gate(leave, owner(), "t1", NOW), GatePermit)


@pytest.mark.parametrize("mode", list(KillMode))
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (KillScopeKind.ACCOUNT, ACCOUNT),
        (KillScopeKind.STRATEGY, "sma"),
        (KillScopeKind.SYMBOL, "AAPL"),
        (KillScopeKind.TRADE, "trade-1"),
        (KillScopeKind.ORDER, intent().client_id),
    ],
)
async def test_each_kill_scope_and_mode_refuses_entries_only(
    armed: Ledger, kind: KillScopeKind, value: str, mode: KillMode
) -> None:
    await armed.engage_kill(ACCOUNT, kill(kind=kind, value=value, mode=mode))
    assert _code(await armed.open_gate(intent(), owner(), "t1", NOW)) is GateCode.KILLED
    leave = intent(purpose=Purpose.EXIT, increasing=False)
    assert isinstance(await armed.open_gate(leave, owner(), "t1", NOW), GatePermit)


async def test_kill_of_another_symbol_lets_the_entry_pass(signalled: Ledger) -> None:
    await signalled.engage_kill(ACCOUNT, kill(kind=KillScopeKind.SYMBOL, value="MSFT"))
    assert isinstance(await signalled.open_gate(intent(), owner(), "t1", NOW), GatePermit)


async def test_kill_of_all_covers_accounts_made_later(armed: Ledger) -> None:
    await armed.engage_kill(None, kill(kind=KillScopeKind.ALL, value=""))
    await armed.ensure_account("later", "alpaca")
    await armed.arm("later", "alice", "test")
    answer = await armed.open_gate(intent(), owner(account="later"), "t1", NOW)
    assert _code(answer) is GateCode.KILLED


async def test_not_after_passes_at_the_instant_and_refuses_behind_it(signalled: Ledger) -> None:
    on_time, late = intent(not_after=NOW), intent(sequence=1, not_after=NOW)
    assert isinstance(await signalled.open_gate(on_time, owner(), "t1", NOW), GatePermit)
    behind = NOW + timedelta(microseconds=1)
    assert _code(await signalled.open_gate(late, owner(), "t1", behind)) is GateCode.NOT_AFTER


@pytest.mark.covers("B5")
async def test_each_switch_refuses_entries_until_it_is_back(signalled: Ledger) -> None:
    async def code(sequence: int) -> GateCode | None:
        return _code(await signalled.open_gate(intent(sequence=sequence), owner(), "t1", NOW))

    await signalled.trip_breaker(ACCOUNT, TripReason.DAILY_LOSS, "−5.1 %", "risk")
    assert await code(1) is GateCode.BREAKER_TRIPPED
    await signalled.reset_breaker(ACCOUNT, "alice", "reviewed")
    await signalled.set_api_breaker("alpaca", ApiBreakerState.OPEN, 5)
    assert await code(2) is GateCode.API_BREAKER_OPEN
    await signalled.set_api_breaker("alpaca", ApiBreakerState.HALF_OPEN)
    assert await code(3) is None
    await signalled.set_condition(ACCOUNT, ConditionKind.STALE_DATA, "MSFT")
    assert await code(4) is None
    await signalled.set_condition(ACCOUNT, ConditionKind.STALE_DATA, "AAPL")
    assert await code(5) is GateCode.CONDITION_ACTIVE
    await signalled.clear_condition(ACCOUNT, ConditionKind.STALE_DATA, "AAPL")
    assert await code(6) is None


async def test_missing_breaker_row_counts_as_tripped(armed: Ledger, ledger_dsn: str) -> None:
    await run_as_superuser(ledger_dsn, "DELETE FROM risk_breakers")
    assert (await armed.risk_breaker(ACCOUNT)).reason == "MISSING"
    assert _code(await armed.open_gate(intent(), owner(), "t1", NOW)) is GateCode.BREAKER_TRIPPED


async def test_second_attempt_of_an_open_intent_must_resolve_not_send(signalled: Ledger) -> None:
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    again = await signalled.open_gate(intent(), owner(), "t2", NOW)
    assert isinstance(again, IntentExists)
    assert again.record.attempt_token == "t1"
    assert await signalled.may_still_send(intent(), owner(), "t1", NOW)
    assert not await signalled.may_still_send(intent(), owner(), "t2", NOW)


@pytest.mark.covers("B3")
async def test_same_token_may_knock_again_after_a_lost_commit(signalled: Ledger) -> None:
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    assert isinstance(await signalled.open_gate(intent(), owner(), "t1", NOW), GatePermit)


@pytest.mark.covers("C8")
async def test_claim_fences_the_zombie_attempt(signalled: Ledger) -> None:
    """C8: A sleeps behind the gate, B resolves, A wakes: A must not send."""
    client_id = intent().client_id
    await signalled.open_gate(intent(), owner(), "zombie", NOW)
    assert await signalled.claim_intent(client_id, "resolver") is not None
    assert not await signalled.may_still_send(intent(), owner(), "zombie", NOW)
    resent = await signalled.open_gate(intent(), owner(), "resolver", NOW, resend=True)
    assert isinstance(resent, GatePermit)
    assert resent.record.attempts == 2
    ignored = await signalled.record_answer(client_id, "zombie", IntentState.NOT_SENT)
    assert ignored.state is IntentState.SENDING


async def test_resend_of_an_unknown_entry_is_refused_under_kill(signalled: Ledger) -> None:
    client_id = intent().client_id
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    await signalled.record_answer(client_id, "t1", IntentState.UNKNOWN)
    await signalled.engage_kill(ACCOUNT, kill())
    refused = await signalled.open_gate(intent(), owner(), "t2", NOW, resend=True)
    assert _code(refused) is GateCode.KILLED
    stored = await signalled.intent(client_id)
    assert stored is not None
    assert stored.state is IntentState.UNKNOWN


@pytest.mark.parametrize("state", [IntentState.ACCEPTED, IntentState.REJECTED, IntentState.UNKNOWN])
async def test_answered_intent_is_never_sent_again(signalled: Ledger, state: IntentState) -> None:
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    await signalled.record_answer(intent().client_id, "t1", state)
    again = await signalled.open_gate(intent(), owner(), "t2", NOW)
    assert isinstance(again, IntentExists)
    assert again.record.state is state


async def test_not_sent_intent_may_be_tried_again(signalled: Ledger) -> None:
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    await signalled.record_answer(intent().client_id, "t1", IntentState.NOT_SENT, code="429")
    again = await signalled.open_gate(intent(), owner(), "t2", NOW)
    assert isinstance(again, GatePermit)
    assert (again.record.attempts, again.record.code) == (2, "")


@pytest.mark.covers("C11")
async def test_other_body_under_the_same_key_is_refused(armed: Ledger) -> None:
    """C11, I1: same (trade, leg, purpose, sequence), other price: never a second order."""
    await armed.open_gate(intent(price="100.25"), owner(), "t1", NOW)
    other = await armed.open_gate(intent(price="100.26"), owner(), "t1", NOW)
    assert _code(other) is GateCode.INTENT_BODY_DIFFERS
    same_id = intent().model_copy(update={"body": intent(price="100.27").body})
    forged = await armed.open_gate(same_id, owner(), "t1", NOW)
    assert _code(forged) is GateCode.INTENT_BODY_DIFFERS
    assert len(await armed.orders_of_trade("trade-1")) == 1


async def test_entry_cannot_come_back_disguised_as_reducing(ledger: Ledger) -> None:
    await ledger.ensure_account(ACCOUNT, "alpaca")
    await ledger.open_gate(intent(), owner(), "t1", NOW)
    disguised = intent().model_copy(update={"increasing": False})
    answer = await ledger.open_gate(disguised, owner(), "t2", NOW)
    assert _code(answer) is GateCode.INTENT_BODY_DIFFERS


async def test_fifty_attempts_at_once_get_one_permit(signalled: Ledger) -> None:
    """I1: one intent, one send, whoever knocks."""
    answers = await asyncio.gather(
        *(signalled.open_gate(intent(), owner(), f"t{number}", NOW) for number in range(50))
    )
    assert sum(isinstance(answer, GatePermit) for answer in answers) == 1


async def test_accepted_wins_over_unknown_whatever_the_order(armed: Ledger) -> None:
    client_id = intent().client_id
    await armed.open_gate(intent(), owner(), "t1", NOW)
    await armed.record_answer(client_id, "t1", IntentState.UNKNOWN, code="TIMEOUT")
    seen = snapshot(client_id=client_id)
    accepted = await armed.record_answer(
        client_id, None, IntentState.ACCEPTED, snapshot=seen, at=NOW, sent_at=NOW
    )
    assert (accepted.state, accepted.broker_order_id) == (IntentState.ACCEPTED, "b-1")
    assert accepted.status is BrokerOrderStatus.WORKING
    assert accepted.snapshot == seen
    assert accepted.sent_at == NOW
    late = await armed.record_answer(client_id, "t1", IntentState.UNKNOWN)
    assert late.state is IntentState.ACCEPTED


async def test_rejected_is_not_weakened_to_unknown(armed: Ledger) -> None:
    client_id = intent().client_id
    await armed.open_gate(intent(), owner(), "t1", NOW)
    await armed.record_answer(client_id, "t1", IntentState.REJECTED, code="403", text="no")
    late = await armed.record_answer(client_id, "t1", IntentState.UNKNOWN)
    assert (late.state, late.code) == (IntentState.REJECTED, "403")


async def test_answer_for_an_intent_that_never_passed_is_a_bug(armed: Ledger) -> None:
    with pytest.raises(Broken) as raised:
        await armed.record_answer("0" * 32, "t1", IntentState.ACCEPTED)
    assert raised.value.code == "INTENT_MISSING"


@pytest.mark.covers("B5", "H5")
async def test_exit_sent_while_the_ledger_was_down_is_booked_afterwards(ledger: Ledger) -> None:
    """Architecture §5 step 7; a repeat changes nothing."""
    leave = intent(purpose=Purpose.EXIT, increasing=False)
    seen = snapshot(client_id=leave.client_id, legs=(snapshot("b-2"),))
    later = NOW + timedelta(seconds=3)
    for answered_at in (None, later):
        booked = await ledger.book_sent_intent(
            leave,
            owner(),
            "t1",
            IntentState.ACCEPTED,
            NOW,
            snapshot=seen,
            code="C",
            text="told",
            answered_at=answered_at,
        )
        assert (booked.intent, booked.owner) == (leave, owner())
        assert (booked.state, booked.snapshot) == (IntentState.ACCEPTED, seen)
        assert (booked.code, booked.text) == ("C", "told")
        assert (booked.attempts, booked.attempt_token) == (1, "t1")
        assert (booked.gate_at, booked.answered_at) == (NOW, answered_at or NOW)
    assert await ledger.orders_of_trade("trade-1") == (booked,)
    (leg,) = await ledger.children_of_trade("trade-1")
    assert (leg.broker_order_id, leg.parent_broker_id) == ("b-2", "b-1")


async def test_second_attempt_leaves_nothing_of_the_first_behind(signalled: Ledger) -> None:
    first = await signalled.open_gate(
        intent(), owner(), "t1", NOW, build_id="old", config_hash="aa"
    )
    assert isinstance(first, GatePermit)
    assert (first.record.build_id, first.record.config_hash) == ("old", "aa")
    await signalled.record_answer(
        intent().client_id, "t1", IntentState.NOT_SENT, code="RATE_LIMITED", text="later"
    )
    again = await signalled.open_gate(
        intent(), owner(), "t2", NOW + timedelta(seconds=1), build_id="new", config_hash="bb"
    )
    assert isinstance(again, GatePermit)
    record = again.record
    assert (record.state, record.attempt_token, record.attempts) == (IntentState.SENDING, "t2", 2)
    assert (record.gate_at, record.code, record.text) == (NOW + timedelta(seconds=1), "", "")
    assert (record.build_id, record.config_hash) == ("new", "bb")


async def test_held_control_row_refuses_the_entry_within_the_lock_timeout(
    signalled: Ledger, ledger_dsn: str
) -> None:
    """lock_timeout 100 ms: fail closed for entries, exits do not even look."""
    holder = await asyncpg.connect(ledger_dsn)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT * FROM control WHERE account = $1 FOR UPDATE", ACCOUNT)
    async with asyncio.timeout(2):
        entry = await signalled.open_gate(intent(), owner(), "t1", NOW)
        leave = intent(purpose=Purpose.EXIT, increasing=False)
        reducing = await signalled.open_gate(leave, owner(), "t1", NOW)
    assert _code(entry) is GateCode.CONTROL_LOCKED
    assert isinstance(reducing, GatePermit)
    await transaction.rollback()
    await holder.close()
    assert isinstance(await signalled.open_gate(intent(), owner(), "t1", NOW), GatePermit)


async def test_held_intent_row_is_named_as_such(armed: Ledger, ledger_dsn: str) -> None:
    await armed.open_gate(intent(), owner(), "t1", NOW)
    holder = await asyncpg.connect(ledger_dsn)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT * FROM orders FOR UPDATE")
    answer = await armed.open_gate(intent(), owner(), "t2", NOW)
    assert _code(answer) is GateCode.INTENT_LOCKED
    await transaction.rollback()
    await holder.close()


async def test_entry_without_a_signal_behind_it_is_refused(armed: Ledger) -> None:
    """I15, Knight ¶21: no trade row, no order; exits need none."""
    assert _code(await armed.open_gate(intent(), owner(), "t1", NOW)) is GateCode.NO_SIGNAL
    leave = intent(purpose=Purpose.EXIT, increasing=False)
    assert isinstance(await armed.open_gate(leave, owner(), "t1", NOW), GatePermit)


@pytest.mark.parametrize("sends_back", [False, True])
async def test_one_signal_sends_no_more_entries_than_its_plan_has(
    signalled: Ledger, sends_back: bool
) -> None:
    """I15: a walk of three steps is four orders; one that was changed in its place counts."""
    for number in range(4):
        passed = intent(sequence=number)
        answer = await signalled.open_gate(passed, owner(), f"t{number}", NOW)
        assert isinstance(answer, GatePermit)
        if sends_back:
            await signalled.record_answer(
                passed.client_id, None, IntentState.NOT_SENT, code="AMENDED", at=NOW
            )
    answer = await signalled.open_gate(intent(sequence=4), owner(), "t4", NOW)
    assert _code(answer) is GateCode.TOO_MANY_ORDERS


async def test_entry_that_was_not_sent_is_no_order_out(signalled: Ledger) -> None:
    for number in range(9):
        tried = intent(sequence=number)
        answer = await signalled.open_gate(tried, owner(), f"t{number}", NOW)
        assert isinstance(answer, GatePermit)
        await signalled.record_answer(
            tried.client_id, f"t{number}", IntentState.NOT_SENT, code="RATE_LIMITED", at=NOW
        )
