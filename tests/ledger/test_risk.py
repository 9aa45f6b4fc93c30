"""Reservations under races, repeats and shrinking (I6, B1-B3)."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from decimal import Decimal

import pytest

from domain.control import ApiBreakerState, BreakerState, ConditionKind, KillScopeKind
from domain.fold_orders import PROVEN_ABSENT
from domain.order import BrokerOrderStatus, Side
from domain.plan import EntryStyle, SlicePlan
from domain.risk.repeats import idea_of
from ledger.errors import LedgerDown
from ledger.records import (
    EXTERNAL,
    GateVerdict,
    IntentState,
    ReserveDecision,
    ReserveResult,
    RiskBook,
    VerdictKind,
)
from ledger.repository import Ledger
from ledger.reset_store import LONE_RESET_WAIT
from tests.ledger.samples import (
    ACCOUNT,
    NOW,
    decide,
    fill,
    intent,
    kill,
    owner,
    plan,
    request,
    snapshot,
)


@pytest.mark.covers("B1")
async def test_two_hundred_reserves_for_ten_places_give_exactly_ten(armed: Ledger) -> None:
    """B1; a caller that found no free connection in time asks again, as an activity does."""

    async def ask(trade_id: str) -> ReserveResult:
        while True:
            with contextlib.suppress(LedgerDown):
                return await armed.reserve(request(trade_id), decide, NOW)

    async with asyncio.timeout(60):
        results = await asyncio.gather(*(ask(f"trade-{number}") for number in range(200)))
    assert sum(result.reservation is not None for result in results) == 10
    assert len(await armed.open_reservations(ACCOUNT)) == 10


@pytest.mark.covers("B2", "B3")
async def test_repeat_answers_the_first_decision_without_judging_again(armed: Ledger) -> None:
    """B2, B3: a lost commit is read back by trade id."""
    first = await armed.reserve(request(), decide, NOW)

    def never(book: RiskBook) -> ReserveDecision:
        raise AssertionError(f"judged twice at {book.read_at}")

    again = await armed.reserve(request(), never, NOW + timedelta(seconds=5))
    assert (first.is_new, again.is_new) == (True, False)
    assert again.reservation == first.reservation
    assert again.reservation_id == first.reservation_id
    assert again.decision == first.decision


@pytest.mark.covers("A1")
async def test_the_same_trade_fifty_times_at_once_is_judged_once(armed: Ledger) -> None:
    judged: list[RiskBook] = []

    def count(book: RiskBook) -> ReserveDecision:
        judged.append(book)
        return decide(book)

    await asyncio.gather(*(armed.reserve(request(), count, NOW) for _ in range(50)))
    assert len(judged) == 1


async def test_refusal_is_stored_with_its_verdicts_and_repeated(armed: Ledger) -> None:
    verdicts = (
        GateVerdict(check="kill", verdict=VerdictKind.PASSED),
        GateVerdict(check="greeks", verdict=VerdictKind.NOT_APPLICABLE, text="no data yet"),
        GateVerdict(
            check="positions",
            verdict=VerdictKind.REFUSED,
            code="POSITIONS_MAX",
            facts={"open": "5"},
        ),
    )

    def refuse(book: RiskBook) -> ReserveDecision:
        return decide(book, capacity=0).model_copy(update={"verdicts": verdicts})

    for _ in range(2):
        result = await armed.reserve(request(), refuse, NOW)
        assert result.reservation is None
        assert result.decision.code == "POSITIONS_MAX"
    assert await armed.verdicts("trade-1") == verdicts
    assert await armed.reservation("trade-1") is None
    assert not await armed.release_reservation("trade-1", "nothing to free")


async def test_failing_judge_leaves_no_trace(armed: Ledger) -> None:
    class Judged(Exception):
        pass

    def fail(book: RiskBook) -> ReserveDecision:
        raise Judged(book.account)

    with pytest.raises(Judged):
        await armed.reserve(request(), fail, NOW)
    assert await armed.reserved_decision("trade-1") is None
    assert (await armed.reserve(request(), decide, NOW)).is_new


async def test_reservation_is_released_exactly_once(armed: Ledger) -> None:
    """I6."""
    await armed.reserve(request(), decide, NOW)
    released = await asyncio.gather(
        *(armed.release_reservation("trade-1", "closed") for _ in range(20))
    )
    assert sum(released) == 1
    assert await armed.open_reservations(ACCOUNT) == ()
    kept = await armed.reservation("trade-1")
    assert kept is not None
    assert kept.released_at is not None
    assert kept.release_reason == "closed"


@pytest.mark.parametrize(
    ("bought", "sold", "entry_works", "quantity", "notional"),
    [
        ("0", "0", False, "100", "10025.50"),
        ("40", "0", True, "100", "10025.50"),
        ("40", "0", False, "40", "4010.20"),
        ("100", "0", False, "100", "10025.50"),
        ("100", "70", False, "30", "3007.65"),
        ("120", "0", False, "100", "10025.50"),
    ],
)
async def test_reservation_counts_what_is_still_at_risk(
    signalled: Ledger, bought: str, sold: str, entry_works: bool, quantity: str, notional: str
) -> None:
    """§7: it shrinks as tranches and parts close, and gives the room to other trades (I6)."""
    await signalled.reserve(request(), decide, NOW)
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    status = BrokerOrderStatus.WORKING if entry_works else BrokerOrderStatus.CANCELED
    await signalled.record_snapshot(ACCOUNT, snapshot(client_id=intent().client_id, status=status))
    if bought != "0":
        await signalled.record_fill(ACCOUNT, fill("in", quantity=bought))
    if sold != "0":
        await signalled.record_fill(ACCOUNT, fill("out", quantity=sold, side=Side.SELL))
    (held,) = (await signalled.risk_book(ACCOUNT, NOW)).reservations
    assert (held.quantity, held.notional) == (Decimal(quantity), Decimal(notional))


async def test_reservation_of_an_entry_in_slices_stays_whole_between_them(armed: Ledger) -> None:
    """ADR 0016: more is bought later; nobody else may take that room."""
    sliced = plan().model_copy(
        update={
            "entry_style": EntryStyle.TWAP,
            "slices": SlicePlan(count=4, window_s=Decimal(600)),
        }
    )
    await armed.create_trade(sliced)
    await armed.reserve(request(), decide, NOW)
    await armed.open_gate(intent(), owner(), "t1", NOW)
    seen = snapshot(client_id=intent().client_id, status=BrokerOrderStatus.FILLED)
    await armed.record_snapshot(ACCOUNT, seen)
    await armed.record_fill(ACCOUNT, fill("in", quantity="25"))
    (held,) = (await armed.risk_book(ACCOUNT, NOW)).reservations
    assert held.quantity == 100


async def test_book_shows_all_that_counts(signalled: Ledger) -> None:
    """Working orders count, as do positions nobody of ours explains (Knight ¶22, I20)."""
    await signalled.reserve(request("trade-0"), decide, NOW)
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    await signalled.open_gate(intent(sequence=1), owner(), "t1", NOW - timedelta(seconds=60))
    seen = snapshot(client_id=intent().client_id, filled_quantity=Decimal(30))
    await signalled.record_snapshot(ACCOUNT, seen)
    await signalled.record_fill(ACCOUNT, fill("ours", quantity="30"))
    await signalled.record_fill(ACCOUNT, fill("foreign", broker_order_id="x", side=Side.SELL))
    await signalled.set_condition(ACCOUNT, ConditionKind.MACRO_WINDOW)
    await signalled.set_equity_baseline(ACCOUNT, NOW, Decimal("100000.10"), NOW)
    book = await signalled.risk_book(ACCOUNT, NOW)
    assert book.control.armed
    assert book.risk_breaker.state is BreakerState.NORMAL
    assert book.api_breaker.state is ApiBreakerState.CLOSED
    assert [one.kind for one in book.conditions] == [ConditionKind.MACRO_WINDOW]
    assert [one.trade_id for one in book.reservations] == ["trade-0"]
    working = {one.client_id: one.remaining for one in book.working_orders}
    assert working == {
        intent().client_id: Decimal(70),
        intent(sequence=1).client_id: Decimal(100),
    }
    assert {(one.trade_id, one.quantity) for one in book.positions} == {
        ("trade-1", Decimal(30)),
        (EXTERNAL, Decimal(-10)),
    }
    assert book.messages_last_60_s == 1
    assert book.baseline is not None
    assert book.baseline.equity == Decimal("100000.10")


@pytest.mark.parametrize(("answered", "counted"), [(True, 0), (False, 1)])
async def test_order_of_a_trade_that_has_ended_blocks_nobody_unless_it_is_unknown(
    armed: Ledger, answered: bool, counted: int
) -> None:
    """Its last frame was lost: it refused the next entry in its symbol for half a minute (soak)."""
    trade = await armed.create_trade(plan())
    await armed.open_gate(intent(), owner(), "t1", NOW)
    seen = snapshot(client_id=intent().client_id)
    if answered:
        await armed.record_answer(
            intent().client_id, "t1", IntentState.ACCEPTED, snapshot=seen, at=NOW
        )
    assert len((await armed.risk_book(ACCOUNT, NOW)).working_orders) == 1
    await armed.update_trade(trade.trade_id, stage="closed", result="target", closed=True)
    assert len((await armed.risk_book(ACCOUNT, NOW)).working_orders) == counted


@pytest.mark.covers("C5")
@pytest.mark.parametrize(
    ("state", "code"),
    [
        (IntentState.NOT_SENT, PROVEN_ABSENT),
        (IntentState.REJECTED, "422"),
        (IntentState.SENDING, ""),
    ],
)
async def test_entry_that_works_after_all_counts_though_its_trade_has_ended(
    armed: Ledger, state: IntentState, code: str
) -> None:
    """C5, I20: the list of open orders shows it after the end; another trade entered across it."""
    trade = await armed.create_trade(plan())
    await armed.open_gate(intent(), owner(), "t1", NOW)
    if state is not IntentState.SENDING:
        await armed.record_answer(intent().client_id, None, state, code=code, at=NOW)
    await armed.update_trade(trade.trade_id, stage="not_filled", result="time", closed=True)
    await armed.record_snapshot(ACCOUNT, snapshot(client_id=intent().client_id))
    (working,) = (await armed.risk_book(ACCOUNT, NOW)).working_orders
    assert working.client_id == intent().client_id


async def test_order_whose_answer_is_booked_behind_its_trades_end_counts(armed: Ledger) -> None:
    """The end cannot have known it."""
    trade = await armed.create_trade(plan())
    await armed.open_gate(intent(), owner(), "t1", NOW)
    ended = await armed.update_trade(trade.trade_id, stage="not_filled", closed=True)
    assert ended.closed_at is not None
    await armed.record_answer(
        intent().client_id,
        "t1",
        IntentState.ACCEPTED,
        snapshot=snapshot(client_id=intent().client_id),
        at=ended.closed_at + timedelta(seconds=1),
    )
    assert len((await armed.risk_book(ACCOUNT, NOW)).working_orders) == 1


async def test_entries_of_the_strategy_that_were_let_through_are_counted_newest_first(
    armed: Ledger,
) -> None:
    """A7, control 6: one that was refused, of another strategy or of long ago does not count."""
    ages = {"old": 60.0, "edge": 59.999, "new": 1.0, "other": 2.0, "refused": 3.0}
    for name, age_s in ages.items():
        await armed.create_trade(plan(name))
        asked = request(name)
        if name == "other":
            asked = asked.model_copy(update={"strategy": "rsi"})
        allowed = 0 if name == "refused" else 10

        def judge(book: RiskBook, capacity: int = allowed) -> ReserveDecision:
            return decide(book, capacity=capacity)

        await armed.reserve(asked, judge, NOW - timedelta(seconds=age_s))
    book = await armed.risk_book(ACCOUNT, NOW, strategy="sma", look_back_s=60)
    assert [one.trade_id for one in book.recent] == ["new", "edge"]
    assert {one.strategy for one in book.recent} == {"sma"}
    assert [one.idea.name for one in book.recent] == [idea_of(plan("new")), idea_of(plan("edge"))]
    assert [one.reserved_at for one in book.recent] == [
        NOW - timedelta(seconds=ages[name]) for name in ("new", "edge")
    ]
    assert (await armed.risk_book(ACCOUNT, NOW, strategy="sma")).recent == ()
    near = await armed.risk_book(ACCOUNT, NOW, strategy="sma", look_back_s=0.5)
    assert near.recent == ()


@pytest.mark.parametrize(
    ("scope", "value", "counts"),
    [("strategy", "sma", 1), ("strategy", "rsi", 2), ("symbol", "AAPL", 2)],
)
async def test_person_who_lifts_the_strategys_kill_begins_a_new_count(
    armed: Ledger, scope: str, value: str, counts: int
) -> None:
    """Control 6: the earlier entries were seen; those of another kill were not."""
    await armed.add_operator("alice", "correct horse")
    await armed.create_trade(plan("before"))
    await armed.reserve(request("before"), decide, NOW)
    await armed.engage_kill(ACCOUNT, kill(kind=KillScopeKind(scope), value=value))
    lifted = NOW + LONE_RESET_WAIT
    asked = await armed.request_reset(ACCOUNT, "alice", "seen", f"RESET {ACCOUNT}", NOW)
    await armed.confirm_reset(asked.request_id, "alice", lifted)
    await armed.create_trade(plan("after"))
    await armed.reserve(request("after"), decide, lifted + timedelta(seconds=1))
    now = lifted + timedelta(seconds=2)
    book = await armed.risk_book(ACCOUNT, now, strategy="sma", look_back_s=3600)
    assert len(book.recent) == counts
    assert book.recent[0].trade_id == "after"


async def test_reservation_is_answered_read_and_listed_alike(armed: Ledger) -> None:
    answers = [await armed.reserve(request(name), decide, NOW) for name in ("b", "a")]
    for answer, name in zip(answers, ("b", "a"), strict=True):
        assert answer.reservation == await armed.reservation(name)
        assert answer.reservation is not None
        assert (answer.reservation.trade_id, answer.reservation.reserved_at) == (name, NOW)
        assert answer.reservation_id == f"reservation/{name}"
    again = await armed.reserve(request("b"), decide, NOW)
    assert (again.is_new, again.reservation) == (False, answers[0].reservation)
    assert {one.trade_id for one in await armed.open_reservations(ACCOUNT)} == {"a", "b"}
    assert await armed.open_reservations("nobody") == ()
    assert not await armed.release_reservation("nothing", "why")
    assert await armed.reservation("nothing") is None
    assert await armed.reserved_decision("nothing") is None


async def test_account_that_nobody_made_has_everything_that_blocks(armed: Ledger) -> None:
    book = await armed.risk_book("nobody", NOW)
    assert (book.risk_breaker.state, book.risk_breaker.reason) == (BreakerState.TRIPPED, "MISSING")
    assert (book.api_breaker.state, book.api_breaker.broker) == (ApiBreakerState.OPEN, "")
    assert (book.baseline, book.transfers, book.recent) == (None, Decimal(0), ())
    assert not book.control.armed


async def test_baseline_of_a_roll_is_stored_once(armed: Ledger) -> None:
    await armed.set_equity_baseline(ACCOUNT, NOW, Decimal("100.01"), NOW)
    stands = await armed.set_equity_baseline(ACCOUNT, NOW, Decimal(99), NOW)
    assert stands.equity == Decimal("100.01")
    next_roll = NOW + timedelta(days=1)
    await armed.set_equity_baseline(ACCOUNT, next_roll, Decimal(98), next_roll)
    newest = await armed.equity_baseline(ACCOUNT)
    assert newest is not None
    assert newest.roll == next_roll
    assert await armed.equity_baseline("nobody") is None
