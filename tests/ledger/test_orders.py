"""Snapshots, children and the order lists (I7, D9, late and doubled news)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from domain.ids import Purpose
from domain.order import BrokerOrderStatus
from ledger.records import IntentState
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, NOW, fill, intent, owner, plan, snapshot


async def _accepted(ledger: Ledger, **changes: int) -> str:
    wish = intent(**changes)  # type: ignore[arg-type]
    await ledger.open_gate(wish, owner(), "t1", NOW)
    seen = snapshot(f"b-{wish.key.sequence}", client_id=wish.client_id, updated_at=NOW)
    await ledger.record_answer(wish.client_id, "t1", IntentState.ACCEPTED, snapshot=seen)
    return wish.client_id


async def test_snapshot_of_an_unknown_send_proves_acceptance(signalled: Ledger) -> None:
    client_id = intent().client_id
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    await signalled.record_answer(client_id, "t1", IntentState.UNKNOWN)
    assert [one.intent.client_id for one in await signalled.unresolved_intents(ACCOUNT)] == [
        client_id
    ]
    booked = await signalled.record_snapshot(ACCOUNT, snapshot(client_id=client_id))
    assert (booked.known, booked.trade_id) == (True, "trade-1")
    assert await signalled.unresolved_intents(ACCOUNT) == ()


async def test_rejected_snapshot_before_any_answer_is_a_rejection(armed: Ledger) -> None:
    await armed.open_gate(intent(), owner(), "t1", NOW)
    seen = snapshot(
        client_id=intent().client_id, status=BrokerOrderStatus.REJECTED, reject_code="42210000"
    )
    await armed.record_snapshot(ACCOUNT, seen)
    stored = await armed.intent(intent().client_id)
    assert stored is not None
    assert (stored.state, stored.code, stored.is_live) == (IntentState.REJECTED, "42210000", False)


async def test_late_news_never_revives_a_dead_order(armed: Ledger) -> None:
    client_id = await _accepted(armed)
    dead = snapshot(
        "b-0",
        client_id=client_id,
        status=BrokerOrderStatus.CANCELED,
        filled_quantity=Decimal("33.5"),
        updated_at=NOW + timedelta(seconds=2),
    )
    late = snapshot("b-0", client_id=client_id, updated_at=NOW + timedelta(seconds=3))
    await armed.record_snapshot(ACCOUNT, dead)
    await armed.record_snapshot(ACCOUNT, late)
    stored = await armed.intent(client_id)
    assert stored is not None
    assert stored.status is BrokerOrderStatus.CANCELED
    assert stored.filled_quantity == Decimal("33.5")
    assert await armed.open_orders(ACCOUNT) == ()


@pytest.mark.covers("F4")
async def test_older_snapshot_changes_nothing(armed: Ledger) -> None:
    client_id = await _accepted(armed)
    newer = snapshot(
        "b-0",
        client_id=client_id,
        status=BrokerOrderStatus.PENDING_CANCEL,
        updated_at=NOW + timedelta(seconds=1),
    )
    await armed.record_snapshot(ACCOUNT, newer)
    await armed.record_snapshot(ACCOUNT, snapshot("b-0", client_id=client_id, updated_at=NOW))
    stored = await armed.intent(client_id)
    assert stored is not None
    assert stored.status is BrokerOrderStatus.PENDING_CANCEL


async def test_same_snapshot_again_is_known_and_changes_nothing(armed: Ledger) -> None:
    client_id = await _accepted(armed)
    leg = snapshot("b-1", client_id=None, parent_broker_id="b-0")
    seen = snapshot("b-0", client_id=client_id, legs=(leg,), updated_at=NOW)
    first = await armed.record_snapshot(ACCOUNT, seen)
    stored = await armed.intent(client_id)
    again = await armed.record_snapshot(ACCOUNT, seen)
    assert (again.known, again.client_id, again.trade_id) == (True, client_id, first.trade_id)
    assert again.before == seen
    assert await armed.intent(client_id) == stored
    assert [child.broker_order_id for child in await armed.open_children(ACCOUNT)] == ["b-1"]


async def test_foreign_order_is_reported_and_not_booked(armed: Ledger) -> None:
    booked = await armed.record_snapshot(ACCOUNT, snapshot("x-1", client_id="someone"))
    assert not booked.known
    assert await armed.open_orders(ACCOUNT) == ()


async def test_our_id_without_a_row_still_names_its_trade(armed: Ledger) -> None:
    """peers §4 row 4: the prefix maps an order back with an empty order table."""
    await armed.create_trade(plan())
    ours = intent(installation=await armed.installation_id())
    booked = await armed.record_snapshot(ACCOUNT, snapshot("x-1", client_id=ours.client_id))
    assert (booked.known, booked.trade_id) == (False, "trade-1")
    found = await armed.trade_of_prefix(ours.client_id[:16])
    assert found is not None
    assert found.trade_id == "trade-1"


async def test_fills_of_our_id_without_a_row_get_its_name_but_keep_another(
    armed: Ledger,
) -> None:
    """K8: sent while the ledger was away; by the name its trade knows them."""
    await armed.create_trade(plan())
    ours = intent(installation=await armed.installation_id())
    await armed.record_fill(ACCOUNT, fill("nameless", broker_order_id="x-1"))
    named = fill("named", broker_order_id="x-1", client_id="somebody")
    await armed.record_fill(ACCOUNT, named)
    await armed.record_fill(ACCOUNT, fill("another", broker_order_id="x-2"))
    booked = await armed.record_snapshot(ACCOUNT, snapshot("x-1", client_id=ours.client_id))
    assert (booked.client_id, booked.fills_attributed) == (None, 2)
    rows = await armed.fills_of_trade("trade-1")
    assert [(row.fill.fill_key, row.fill.client_id) for row in rows] == [
        ("nameless", ours.client_id),
        ("named", "somebody"),
    ]
    (left,) = await armed.unattributed_fills(ACCOUNT)
    assert (left.fill.fill_key, left.fill.client_id) == ("another", None)


async def test_children_are_linked_and_their_early_fill_finds_its_trade(armed: Ledger) -> None:
    """A fill of a broker-made child comes before its link."""
    early = await armed.record_fill(ACCOUNT, fill("f-1", broker_order_id="child-1"))
    assert (early.is_new, early.trade_id) == (True, None)
    client_id = await _accepted(armed)
    child = snapshot("child-1", parent_broker_id="b-0")
    booked = await armed.record_snapshot(
        ACCOUNT, snapshot("b-0", client_id=client_id, legs=(child,), updated_at=NOW)
    )
    assert booked.fills_attributed == 1
    assert await armed.unattributed_fills(ACCOUNT) == ()
    assert [one.fill.fill_key for one in await armed.fills_of_trade("trade-1")] == ["f-1"]
    (linked,) = await armed.children_of_trade("trade-1")
    assert (linked.parent_client_id, linked.parent_broker_id) == (client_id, "b-0")


@pytest.mark.parametrize("field", ["broker_order_id", "replaces_broker_id", "parent_broker_id"])
async def test_nameless_news_is_the_orders_own_by_its_own_broker_id_alone(
    armed: Ledger, field: str
) -> None:
    """What replaces it or lies under it is its child; the order itself is as it was."""
    client_id = await _accepted(armed)
    before = await armed.intent(client_id)
    assert before is not None
    ids = {"broker_order_id": "b-7"} | {field: "b-0"}
    told = snapshot(client_id=None, status=BrokerOrderStatus.CANCELED, **ids)
    booked = await armed.record_snapshot(ACCOUNT, told)
    assert (booked.known, booked.client_id, booked.trade_id) == (True, client_id, "trade-1")
    after = await armed.intent(client_id)
    assert after is not None
    children = [child.broker_order_id for child in await armed.children_of_trade("trade-1")]
    if field == "broker_order_id":
        assert (after.snapshot, after.is_live, children) == (told, False, [])
    else:
        assert (after, children) == (before, ["b-7"])


async def test_replaced_child_and_its_fill_belong_to_the_same_trade(armed: Ledger) -> None:
    client_id = await _accepted(armed)
    child = snapshot("child-1", parent_broker_id="b-0")
    await armed.record_snapshot(ACCOUNT, snapshot("b-0", client_id=client_id, legs=(child,)))
    moved = snapshot("child-2", client_id="broker-made", replaces_broker_id="child-1")
    booked = await armed.record_snapshot(ACCOUNT, moved)
    assert (booked.known, booked.client_id) == (True, client_id)
    filled = await armed.record_fill(ACCOUNT, fill("f-2", broker_order_id="child-2"))
    assert filled.trade_id == "trade-1"
    gone = snapshot("child-1", status=BrokerOrderStatus.REPLACED)
    await armed.record_snapshot(ACCOUNT, gone)
    assert [one.broker_order_id for one in await armed.open_children(ACCOUNT)] == ["child-2"]


async def test_leg_that_was_moved_by_us_is_not_asked_for_when_it_is_dead(armed: Ledger) -> None:
    """F8: its parent lists it as a leg for ever; every pass would ask for it by its id."""
    parent_id = await _accepted(armed)
    moved_id = await _accepted(armed, sequence=1)
    leg = snapshot("b-1", client_id=moved_id, parent_broker_id="b-0")
    await armed.record_snapshot(ACCOUNT, snapshot("b-0", client_id=parent_id, legs=(leg,)))
    dead = leg.model_copy(update={"status": BrokerOrderStatus.CANCELED})
    booked = await armed.record_snapshot(ACCOUNT, dead)
    assert booked.client_id == moved_id
    assert await armed.open_children(ACCOUNT) == ()
    assert [one.broker_order_id for one in await armed.open_orders(ACCOUNT)] == ["b-0"]


async def test_orders_of_an_account_are_all_of_its_intents_oldest_first(armed: Ledger) -> None:
    await armed.ensure_account("second", "alpaca")
    for name in ("trade-2", "trade-1"):
        await armed.open_gate(intent(name), owner(name), "t1", NOW)
    found = await armed.orders_of_account(ACCOUNT)
    assert [record.intent.key.trade_id for record in found] == ["trade-2", "trade-1"]
    assert await armed.orders_of_account("second") == ()


async def test_open_orders_answer_by_scope(armed: Ledger) -> None:
    await _accepted(armed)
    exit_wish = intent("trade-2", purpose=Purpose.EXIT, increasing=False)
    await armed.open_gate(exit_wish, owner("trade-2"), "t1", NOW)

    async def trades(**scope: str) -> set[str]:
        return {one.owner.trade_id for one in await armed.open_orders(ACCOUNT, **scope)}

    assert await trades() == {"trade-1", "trade-2"}
    assert await trades(trade_id="trade-2") == {"trade-2"}
    assert await trades(strategy="sma", symbol="AAPL") == {"trade-1", "trade-2"}
    assert await trades(symbol="MSFT") == set()


async def test_accepted_order_that_a_person_calls_dead_is_live_no_more(signalled: Ledger) -> None:
    """I10: the broker has forgotten it; what it filled stays, its children are dead too."""
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    child = snapshot("b-2", parent_broker_id="b-1")
    seen = snapshot(client_id=intent().client_id, filled_quantity=Decimal(30), legs=(child,))
    await signalled.record_answer(intent().client_id, "t1", IntentState.ACCEPTED, snapshot=seen)
    record = await signalled.record_answer(
        intent().client_id, None, IntentState.NOT_SENT, code="by-hand", text="dead: screen"
    )
    assert (record.state, record.code) == (IntentState.ACCEPTED, "by-hand")
    assert record.filled_quantity == 30
    assert record.snapshot is not None
    assert record.snapshot.is_terminal
    assert await signalled.open_orders(ACCOUNT) == ()
    assert await signalled.open_children(ACCOUNT) == ()
    await signalled.record_snapshot(ACCOUNT, seen)
    assert [order.broker_order_id for order in await signalled.open_orders(ACCOUNT)] == ["b-1"]


async def test_news_from_before_a_persons_word_revives_nothing(signalled: Ledger) -> None:
    """I10: a frame that waited while a person called the order dead is no newer evidence."""
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    child = snapshot("b-2", parent_broker_id="b-1")
    seen = snapshot(client_id=intent().client_id, legs=(child,))
    before, after = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
    await signalled.record_answer(intent().client_id, "t1", IntentState.ACCEPTED, snapshot=seen)
    await signalled.record_answer(
        intent().client_id, None, IntentState.NOT_SENT, code="by-hand", at=NOW
    )
    for told in (seen, child):
        booked = await signalled.record_snapshot(ACCOUNT, told, seen_at=before)
        assert (booked.known, booked.before) == (True, told)
    assert await signalled.open_orders(ACCOUNT) == ()
    assert await signalled.open_children(ACCOUNT) == ()
    await signalled.record_snapshot(ACCOUNT, seen, seen_at=after)
    assert [order.broker_order_id for order in await signalled.open_orders(ACCOUNT)] == ["b-1"]
    assert [order.broker_order_id for order in await signalled.open_children(ACCOUNT)] == ["b-2"]


@pytest.mark.parametrize("minutes", [-1, 1])
async def test_unknown_send_that_a_person_answered_is_revived_by_younger_news_only(
    signalled: Ledger, minutes: int
) -> None:
    client_id = intent().client_id
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    await signalled.record_answer(client_id, "t1", IntentState.UNKNOWN)
    await signalled.record_answer(client_id, None, IntentState.NOT_SENT, code="by-hand", at=NOW)
    seen_at = NOW + timedelta(minutes=minutes)
    await signalled.record_snapshot(ACCOUNT, snapshot(client_id=client_id), seen_at=seen_at)
    record = await signalled.intent(client_id)
    assert record is not None
    assert record.state is (IntentState.ACCEPTED if minutes > 0 else IntentState.NOT_SENT)


async def test_end_from_before_a_persons_word_is_still_booked(signalled: Ledger) -> None:
    client_id = intent().client_id
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    await signalled.record_answer(client_id, "t1", IntentState.UNKNOWN)
    await signalled.record_answer(client_id, None, IntentState.NOT_SENT, code="by-hand", at=NOW)
    ended = snapshot(
        client_id=client_id,
        status=BrokerOrderStatus.CANCELED,
        filled_quantity=Decimal(30),
    )
    await signalled.record_snapshot(ACCOUNT, ended, seen_at=NOW - timedelta(seconds=1))
    record = await signalled.intent(client_id)
    assert record is not None
    assert record.state is IntentState.ACCEPTED
    assert record.filled_quantity == 30
