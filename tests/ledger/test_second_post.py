"""An order without an answer is posted again: what the refusal of that post says (C5, C11, I2)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from temporalio.testing import ActivityEnvironment

from activities.doorbell import Doorbell
from activities.order_sending import REPOST_REFUSED
from activities.orders import OrderActivities
from activities.services import LAG_MAX_S, ResolveInput, TradeRef
from activities.stream_events import StreamBooker
from domain.clock import ClockMap
from domain.commands import ResolveOrder, Urgency
from domain.facts import Fact, FactEnvelope, OrderReported, OrderResolved, OrderUnknown
from domain.ids import Purpose
from domain.order import OrderIntent, OrderType, Side
from ledger.errors import LedgerDown
from ledger.records import DUPLICATE, IntentState
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import INSTALLATION, owner, plan

SENT = datetime.now(UTC)
HIDDEN_FOR_S = 2.0
HIDDEN_LONG_S = 30.0
SETTLED_S = 6.0
"""Settle window and request timeout, and a moment: when an exit may be called absent."""
HOUR_S = 3600.0
EXIT = order(purpose=Purpose.EXIT, side=Side.SELL, price="101")
ENTRY = order(sequence=7, price="99.50")
LOST_REPLY = {"kind": "drop_reply", "match": {"method": "POST"}}
LOST_REQUEST = {"kind": "error_before", "match": {"method": "POST"}}
LAG = {"kind": "lookup_lag", "match": {"count": None}, "params": {"lag_s": HIDDEN_FOR_S}}
LONG_LAG = {**LAG, "params": {"lag_s": HIDDEN_LONG_S, "lists": True}}
RATE_LIMITED = {"kind": "rate_limited", "match": {"method": "POST", "count": None}}
# The venue looks at what is free to sell before it looks at the id.
REFUSED = {"kind": "reject", "params": {"text": "insufficient qty"}}


async def hide(lane: Lane, intent: OrderIntent) -> None:
    """The venue takes the order, its answer is lost, and no read shows it for long."""
    for fault in (LOST_REPLY, LONG_LAG):
        lane.exchange.state.faults.add(fault)
    await place(lane, intent)


async def place(lane: Lane, intent: OrderIntent) -> None:
    """Sends at `SENT`, whatever the clock of this machine says by then."""
    services = replace(lane.services, now=lambda: SENT)
    await replace(lane, services=services).place(intent)


async def look(
    lane: Lane,
    intent: OrderIntent,
    later_s: float,
    *,
    may_repost: bool = True,
    is_bare: bool = False,
) -> tuple[Fact, ...]:
    """One look of the trade's resolver, so long after the sending."""
    services = replace(lane.services, now=lambda: SENT + timedelta(seconds=later_s))
    command = ResolveOrder(
        intent=intent,
        sent_at=SENT,
        may_repost=may_repost,
        is_bare=is_bare,
        urgency=Urgency.PROTECT,
    )
    trade = TradeRef.of(plan(), ClockMap(wall0=SENT, market0=MARKET_NOW))
    given = ResolveInput(trade=trade, command=command)
    batch = await ActivityEnvironment().run(OrderActivities(services).resolve_order, given)
    return tuple(batch.facts)


async def no_gate(*_: object, **__: object) -> None:
    raise LedgerDown("the gate took too long")


async def state_of(lane: Lane, intent: OrderIntent) -> tuple[IntentState, str]:
    row = await lane.ledger.intent(intent.client_id)
    assert row is not None
    return row.state, row.code.partition(" ")[0]


@pytest.mark.covers("C5", "C11")
async def test_refusal_of_a_second_post_does_not_hide_the_exit_that_the_first_one_made(
    armed: Ledger,
) -> None:
    """Found by the soak: the stop of a hidden OCO filled, and the next exit flipped the account."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        for fault in (LOST_REPLY, LAG):
            lane.exchange.state.faults.add(fault)
        await place(lane, EXIT)
        lane.exchange.state.faults.add(REFUSED)
        (told,) = await look(lane, EXIT, 1)
        assert isinstance(told, OrderUnknown)
        assert await state_of(lane, EXIT) == (IntentState.UNKNOWN, REPOST_REFUSED)
        lane.quote("101.00", "101.10")
        lane.exchange.advance_to(lane.exchange.now + timedelta(seconds=HIDDEN_FOR_S + 1))
        found, *fills = await look(lane, EXIT, HIDDEN_FOR_S + 1)
        assert isinstance(found, OrderResolved)
        assert found.order is not None
        assert found.order.filled_quantity == 100
        assert fills
    assert await state_of(lane, EXIT) == (IntentState.ACCEPTED, "")
    book = await armed.trade_book("trade-1")
    assert book is not None
    assert book.position("AAPL") == Decimal(0)


@pytest.mark.covers("C5")
async def test_exit_that_never_arrived_is_absent_although_every_second_post_is_refused(
    armed: Ledger,
) -> None:
    """I4: refusals move nothing. The settle window counts from the first post (ADR 0020)."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        lane.exchange.state.faults.add(LOST_REQUEST)
        await place(lane, EXIT)
        lane.exchange.state.faults.add({**REFUSED, "match": {"count": None}})
        for later_s in (1.0, 2.0, 3.0):
            (told,) = await look(lane, EXIT, later_s)
            assert isinstance(told, OrderUnknown)
        (absent,) = await look(lane, EXIT, SETTLED_S)
        assert isinstance(absent, OrderResolved)
        assert absent.order is None
        assert await state_of(lane, EXIT) == (IntentState.NOT_SENT, "PROVEN_ABSENT")


@pytest.mark.covers("C4", "C5")
async def test_posts_that_do_not_go_out_do_not_move_the_settle_window(armed: Ledger) -> None:
    """I4: rate limited at each look, a stop that never arrived stayed unknown for ever."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        lane.exchange.state.faults.add(LOST_REQUEST)
        await place(lane, EXIT)
        lane.exchange.state.faults.add(RATE_LIMITED)
        for later_s in (1.0, 2.0, 3.0):
            assert isinstance((await look(lane, EXIT, later_s))[0], OrderUnknown)
        (absent,) = await look(lane, EXIT, SETTLED_S)
    assert isinstance(absent, OrderResolved)
    assert absent.order is None


@pytest.mark.covers("C5", "C8")
@pytest.mark.parametrize("gate", ["answers", "is away"])
async def test_refusal_counts_from_when_an_attempt_that_may_have_sent_was_barred(
    armed: Ledger, monkeypatch: pytest.MonkeyPatch, gate: str
) -> None:
    """Its sender had the permit and never answered: until the second post it could still send."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        await armed.open_gate(EXIT, owner(), "run-1/1/1", SENT)
        lane.exchange.state.faults.add({**REFUSED, "match": {"count": None}})
        if gate == "is away":
            monkeypatch.setattr(armed, "open_gate", no_gate)
        for later_s in (60.0, 60.0 + SETTLED_S - 2):
            assert isinstance((await look(lane, EXIT, later_s))[0], OrderUnknown)
        (absent,) = await look(lane, EXIT, 60.0 + SETTLED_S)
    assert isinstance(absent, OrderResolved)


@pytest.mark.covers("C5", "C11")
@pytest.mark.parametrize("intent", [EXIT, ENTRY], ids=["exit", "entry"])
async def test_order_hidden_for_long_is_not_absent_because_one_post_was_refused(
    armed: Ledger, intent: OrderIntent
) -> None:
    """I1, I2: the next post is told "duplicate". A passing refusal gave that proof away, and a
    second order went out beside the one that worked."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        await hide(lane, intent)
        lane.exchange.state.faults.add(REFUSED)
        for later_s in (1.0, 3.0, SETTLED_S, SETTLED_S + 1):
            assert isinstance((await look(lane, intent, later_s))[0], OrderUnknown)
        assert await state_of(lane, intent) == (IntentState.UNKNOWN, DUPLICATE)
        lane.exchange.advance_to(lane.exchange.now + timedelta(seconds=HIDDEN_LONG_S + 1))
        found, *_ = await look(lane, intent, HIDDEN_LONG_S + 1)
    assert isinstance(found, OrderResolved)
    assert found.order is not None


@pytest.mark.covers("C5", "C11")
@pytest.mark.parametrize("second", [REFUSED, LOST_REPLY], ids=["refused", "lost"])
async def test_duplicate_is_never_forgotten(armed: Ledger, second: dict[str, object]) -> None:
    """I1: what comes of a later post is news of that post, not of the order."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        await hide(lane, EXIT)
        await look(lane, EXIT, 1.0)
        assert await state_of(lane, EXIT) == (IntentState.UNKNOWN, DUPLICATE)
        lane.exchange.state.faults.add(second)
        asked = lane.requests()
        for later_s in (2.0, SETTLED_S, SETTLED_S + 1, HOUR_S):
            assert isinstance((await look(lane, EXIT, later_s))[0], OrderUnknown)
        assert await state_of(lane, EXIT) == (IntentState.UNKNOWN, DUPLICATE)
        assert lane.requests() == asked, "a further post could not tell more"


@pytest.mark.covers("C5")
async def test_exit_is_not_absent_while_something_has_executed_whose_order_is_hidden(
    armed: Ledger,
) -> None:
    """I2: refused at every look, hidden and filled; the next exit would turn the position round."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        await hide(lane, EXIT)
        lane.exchange.state.faults.add({**REFUSED, "match": {"count": None}})
        lane.quote("101.00", "101.10")
        assert await lane.services.broker.positions() == ()
        for later_s in (1.0, SETTLED_S, SETTLED_S + 1):
            assert isinstance((await look(lane, EXIT, later_s))[0], OrderUnknown)
        assert await state_of(lane, EXIT) == (IntentState.UNKNOWN, REPOST_REFUSED)


@pytest.mark.covers("C5")
async def test_exit_that_shows_up_after_it_was_called_absent_is_told_to_its_trade(
    armed: Ledger,
) -> None:
    """I2, ADR 0020: what every post was refused for was the order itself, and it rests."""
    rung: list[Fact] = []

    async def heard(_trade_id: str, _signal: str, envelope: FactEnvelope) -> bool:
        rung.extend(envelope.as_facts(SENT))
        return True

    async with order_lane(armed) as lane:
        await lane.open_trade()
        await hide(lane, EXIT)
        lane.exchange.state.faults.add({**REFUSED, "match": {"count": None}})
        for later_s in (1.0, SETTLED_S):
            await look(lane, EXIT, later_s)
        assert await state_of(lane, EXIT) == (IntentState.NOT_SENT, "PROVEN_ABSENT")
        services = replace(lane.services, now=lambda: SENT + timedelta(seconds=HIDDEN_LONG_S))
        doorbell = Doorbell(heard, sender="test", now=services.now)
        booker = StreamBooker(services, doorbell)
        assert await booker.compare() == 0
        lane.exchange.advance_to(lane.exchange.now + timedelta(seconds=HIDDEN_LONG_S + 1))
        assert await booker.compare() == 1
        await doorbell.drain()
        await doorbell.aclose()
    (told,) = rung
    assert isinstance(told, OrderReported)
    assert told.order.client_id == EXIT.client_id


@pytest.mark.covers("C5")
@pytest.mark.parametrize("may_repost", [True, False], ids=["every post is refused", "given up"])
async def test_entry_without_a_second_posts_proof_waits_for_all_that_lists_may_lag(
    armed: Ledger, may_repost: bool
) -> None:
    """I1, I3, I10: a venue may look at what money is free before it looks at the id, and what its
    trade wants no more is not posted at all; nothing is bare."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        await hide(lane, ENTRY)
        lane.exchange.state.faults.add({**REFUSED, "match": {"count": None}})
        for later_s in (1.0, SETTLED_S, LAG_MAX_S - 1):
            (told,) = await look(lane, ENTRY, later_s, may_repost=may_repost)
            assert isinstance(told, OrderUnknown)
        lane.exchange.advance_to(lane.exchange.now + timedelta(seconds=LAG_MAX_S))
        found, *_ = await look(lane, ENTRY, LAG_MAX_S + 1, may_repost=may_repost)
        assert isinstance(found, OrderResolved)
        assert found.order is not None


@pytest.mark.covers("C5")
@pytest.mark.parametrize("is_bare", [False, True], ids=["nothing held", "bare"])
async def test_given_up_entry_that_never_arrived_ends_sooner_if_something_is_bare(
    armed: Ledger, is_bare: bool
) -> None:
    """I4: the stop of what was bought goes when the fate of the entry is known."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        lane.exchange.state.faults.add(LOST_REQUEST)
        await place(lane, ENTRY)
        (soon,) = await look(lane, ENTRY, SETTLED_S, may_repost=False, is_bare=is_bare)
        assert isinstance(soon, OrderResolved if is_bare else OrderUnknown)
        (late,) = await look(lane, ENTRY, LAG_MAX_S + SETTLED_S, may_repost=False, is_bare=is_bare)
        assert isinstance(late, OrderResolved)
        assert late.order is None


async def test_market_order_that_is_banned_by_now_is_not_called_refused_when_posted_again(
    armed: Ledger,
) -> None:
    """I1: the ban came with a restart; what was posted before it may work at the venue."""
    body = ENTRY.body.model_copy(update={"order_type": OrderType.MARKET, "limit_price": None})
    key = ENTRY.key
    entry = OrderIntent.derive(INSTALLATION, key, body, increasing=True, reason="test")
    async with order_lane(armed) as lane:
        await lane.open_trade()
        lane.services = replace(lane.services, disallow_market_orders=False)
        await hide(lane, entry)
        lane.services = replace(lane.services, disallow_market_orders=True)
        (told,) = await look(lane, entry, 1.0)
        assert isinstance(told, OrderUnknown)


@pytest.mark.covers("C5", "C8")
async def test_duplicate_that_a_barred_attempt_was_told_is_not_forgotten(armed: Ledger) -> None:
    """I1: its step had run out, the next one had the row, and the proof was thrown away."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        await hide(lane, EXIT)
        late = "run-1/1/1"
        await armed.open_gate(EXIT, owner(), late, SENT, resend=True)
        lane.exchange.state.faults.add({**REFUSED, "match": {"count": None}})
        assert isinstance((await look(lane, EXIT, 1.0))[0], OrderUnknown)
        await armed.record_answer(EXIT.client_id, late, IntentState.UNKNOWN, code=DUPLICATE)
        for later_s in (SETTLED_S + 1, HOUR_S):
            assert isinstance((await look(lane, EXIT, later_s))[0], OrderUnknown)
    assert await state_of(lane, EXIT) == (IntentState.UNKNOWN, DUPLICATE)


@pytest.mark.covers("C5")
async def test_duplicate_that_comes_while_absence_is_being_proven_wins(
    armed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1: the row was read before the look, and its end was written behind it."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        await hide(lane, EXIT)
        lane.exchange.state.faults.add({**REFUSED, "match": {"count": None}})
        await look(lane, EXIT, 1.0)
        row = await armed.intent(EXIT.client_id)
        assert row is not None
        listed = lane.services.broker.orders_since

        async def meanwhile(since: datetime) -> object:
            await armed.record_answer(EXIT.client_id, None, IntentState.UNKNOWN, code=DUPLICATE)
            return await listed(since)

        monkeypatch.setattr(lane.services.broker, "orders_since", meanwhile)
        assert isinstance((await look(lane, EXIT, SETTLED_S))[0], OrderUnknown)
    assert await state_of(lane, EXIT) == (IntentState.UNKNOWN, DUPLICATE)


@pytest.mark.covers("C5", "H5")
@pytest.mark.parametrize("intent", [EXIT, ENTRY], ids=["exit", "entry"])
async def test_gate_that_does_not_answer_does_not_move_the_settle_window(
    armed: Ledger, monkeypatch: pytest.MonkeyPatch, intent: OrderIntent
) -> None:
    """I4: the ledger was slow at its gate only; each look began the window of the stop anew."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        lane.exchange.state.faults.add(LOST_REQUEST)
        await place(lane, intent)
        lane.exchange.state.faults.add({**REFUSED, "match": {"count": None}})

        monkeypatch.setattr(armed, "open_gate", no_gate)
        for later_s in (1.0, 2.0, 3.0):
            assert isinstance((await look(lane, intent, later_s))[0], OrderUnknown)
        wanted = intent is EXIT
        (absent,) = await look(lane, intent, SETTLED_S, may_repost=wanted, is_bare=True)
    assert isinstance(absent, OrderResolved)
    assert absent.order is None
