"""Numbered contract cases that every broker adapter passes on every face (style.md rule 21)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.port import (
    Accepted,
    AuthNeeded,
    Broker,
    CancelRequested,
    Duplicate,
    NotCancelable,
    NotExecuted,
    OrderNotFound,
    Rejected,
    UnknownOutcome,
)
from brokers.shadow import DryRunBroker
from domain.errors import BadInput, Refused, Transient, Uncertain
from domain.ids import Purpose
from domain.order import (
    BrokerOrderStatus,
    OpenClose,
    OrderClass,
    OrderLeg,
    OrderType,
    Side,
    TimeInForce,
)
from simulator.config import WireFace
from tests.contract.broker_faces import (
    MARKET_NOW,
    Face,
    ScriptedFace,
    bracket,
    combo,
    intent,
    simulated_face,
)

CALL_A, CALL_B = "SPY261218C00600000", "SPY261218C00610000"
MISSING = "00000000-0000-4000-8000-00000000dead"


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedFace]:
    venue = ScriptedFace()
    yield venue
    await venue.aclose()


@asynccontextmanager
async def running_face(name: str) -> AsyncIterator[Face]:
    if name == "scripted":
        venue = ScriptedFace()
        yield venue
        await venue.aclose()
        return
    async with simulated_face(venue=WireFace(name)) as simulated:
        yield simulated


@pytest.fixture(params=["scripted", "alpaca", "tradier"])
async def face(request: pytest.FixtureRequest) -> AsyncIterator[Face]:
    """Every broker: what holds whatever it can or cannot do."""
    async with running_face(request.param) as made:
        yield made


@pytest.fixture(params=["scripted", "alpaca"])
async def strict_face(request: pytest.FixtureRequest) -> AsyncIterator[Face]:
    """Brokers with ids that are unique for ever, named executions and a new id for a replace.

    Their opposites have the same cases in test_tradier_contract.py.
    """
    async with running_face(request.param) as made:
        yield made


async def placed(face: Face, sequence: int, **options: Any) -> Accepted:
    outcome = await face.broker.place(intent(sequence, **options))
    assert isinstance(outcome, Accepted)
    return outcome


async def test_bc01_limit_order_is_accepted_under_our_id(face: Face) -> None:
    wish = intent(1, quantity="10", limit="100.25")
    outcome = await face.broker.place(wish)
    assert isinstance(outcome, Accepted)
    assert outcome.order.client_id == wish.client_id
    assert outcome.order.quantity == 10
    assert outcome.order.limit_price == Decimal("100.25")
    assert not outcome.order.is_terminal
    assert await face.accepted(wish.client_id) == 1


async def test_bc02_numbers_travel_as_plain_text(scripted: ScriptedFace) -> None:
    await placed(scripted, 1, quantity="1E+2", limit="1650.50")
    sent = scripted.requests[-1].content
    assert b'"qty":"100"' in sent
    assert b'"limit_price":"1650.50"' in sent


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, 40310000, "insufficient buying power"),
        (403, 40310000, "potential wash trade detected. use complex orders"),
        (422, 42210000, "potential wash trade detected. use complex orders"),
        (422, 42210000, "sub-penny increment does not fulfill minimum pricing criteria"),
        (422, 40010001, "order_id is missing"),
        (404, 40410000, "asset not found"),
        (400, 40010000, "request body format is invalid"),
    ],
)
async def test_bc03_refusal_with_a_code_is_rejected(
    scripted: ScriptedFace, status: int, code: int, message: str
) -> None:
    await scripted.fault(
        "refuse", method="POST", status=status, body={"code": code, "message": message}
    )
    wish = intent(1)
    outcome = await scripted.broker.place(wish)
    assert outcome == Rejected(code=str(code), text=message)
    assert await scripted.accepted(wish.client_id) == 0


async def test_bc04_held_quantity_is_told_with_its_numbers(scripted: ScriptedFace) -> None:
    body = {
        "code": 40310000,
        "message": "insufficient qty available for order",
        "existing_qty": "10",
        "held_for_orders": "10",
        "available": "0",
    }
    await scripted.fault("refuse", method="POST", status=403, body=body)
    outcome = await scripted.broker.place(intent(1, side=Side.SELL))
    assert isinstance(outcome, Rejected)
    assert "held_for_orders=10 available=0" in outcome.text


@pytest.mark.covers("C2", "C3")
@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("drop_reply", {}),
        ("late_reply", {"delay_s": 1.0}),
        ("error_after", {"status": 500}),
        ("error_after", {"status": 502}),
        ("error_after", {"status": 503}),
        ("error_after", {"status": 504}),
        ("truncated", {}),
        ("html", {}),
    ],
)
async def test_bc05_accepted_without_an_answer_is_unknown_then_found(
    face: Face, kind: str, params: dict[str, Any]
) -> None:
    """C2, C3: never rejected, never sent twice; the lookup by client id resolves it."""
    wish = intent(1)
    await face.fault(kind, method="POST", **params)
    assert isinstance(await face.broker.place(wish), UnknownOutcome)
    found = await face.broker.order_by_client_id(wish.client_id)
    assert found is not None
    assert found.client_id == wish.client_id
    assert await face.accepted(wish.client_id) == 1


async def test_bc06_error_before_the_commit_is_unknown_and_not_found(face: Face) -> None:
    wish = intent(1)
    await face.fault("error_before", method="POST", status=503)
    assert isinstance(await face.broker.place(wish), UnknownOutcome)
    assert await face.broker.order_by_client_id(wish.client_id) is None
    assert await face.accepted(wish.client_id) == 0


@pytest.mark.covers("C11")
@pytest.mark.parametrize("kind", ["drop_reply", "error_before"])
async def test_bc07_posting_the_same_id_again_leaves_exactly_one_order(
    strict_face: Face, kind: str
) -> None:
    """C11: accepted or duplicate, both are one order."""
    wish = intent(1)
    await strict_face.fault(kind, method="POST")
    assert isinstance(await strict_face.broker.place(wish), UnknownOutcome)
    again = await strict_face.broker.place(wish)
    assert isinstance(again, Duplicate if kind == "drop_reply" else Accepted)
    assert isinstance(await strict_face.broker.place(wish), Duplicate)
    assert await strict_face.accepted(wish.client_id) == 1


async def test_bc08_id_stays_taken_after_the_cancel(strict_face: Face) -> None:
    outcome = await placed(strict_face, 1)
    assert await strict_face.broker.cancel(outcome.order.broker_order_id) == CancelRequested()
    assert isinstance(await strict_face.broker.place(intent(1)), Duplicate)


@pytest.mark.covers("C4")
@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("2", 2.0),
        ("0", 0.0),
        ("-1", None),
        ("1e9", 60.0),
        ("nan", None),
        ("soon", None),
        ("Wed, 04 Mar 2026 15:00:30 GMT", 30.0),
        ("Wed, 04 Mar 2020 15:00:30 GMT", 0.0),
    ],
)
async def test_bc09_rate_limit_is_not_executed_with_a_bounded_wait(
    face: Face, header: str | None, wait_s: float | None
) -> None:
    """C4."""
    wish = intent(1)
    await face.fault("rate_limited", method="POST", retry_after=header)
    outcome = await face.broker.place(wish)
    assert isinstance(outcome, NotExecuted)
    assert (outcome.code, outcome.retry_after_s) == ("RATE_LIMITED", wait_s)
    assert await face.accepted(wish.client_id) == 0


@pytest.mark.covers("F6")
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, None),
        (401, {"code": 40110000, "message": "unauthorized"}),
        (403, {"message": "forbidden."}),
    ],
)
async def test_bc10_refused_keys_are_auth_needed(
    scripted: ScriptedFace, status: int, body: Any
) -> None:
    """F6."""
    scripted.answer("POST", "/v2/orders", status, body)
    scripted.answer("GET", "/v2/orders", status, body)
    assert isinstance(await scripted.broker.place(intent(1)), AuthNeeded)
    with pytest.raises(Refused) as refused:
        await scripted.broker.open_orders()
    assert refused.value.code == "AUTH_NEEDED"


@pytest.mark.covers("C3")
@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b""),
        (204, b""),
        (200, b"[]"),
        (200, b"null"),
        (200, b"\xff\xfe\x00"),
        (200, b"[" * 100_000),
        (403, b"<html>blocked</html>"),
        (404, b"<html>no route</html>"),
        (422, b""),
        (302, b""),
        (408, b"{}"),
        (418, b"{}"),
    ],
)
async def test_bc11_answer_that_the_venue_did_not_write_is_unknown(
    scripted: ScriptedFace, status: int, content: bytes
) -> None:
    """§3 row 60: after a send only the venue's own words are definite."""
    scripted.answer("POST", "/v2/orders", status, content=content)
    assert isinstance(await scripted.broker.place(intent(1)), UnknownOutcome)


@pytest.mark.parametrize("bad_id", [None, 17, "", 1.5, "a b", "x" * 129])
async def test_bc12_order_without_a_proper_id_is_unknown(
    scripted: ScriptedFace, bad_id: Any
) -> None:
    """§3 row 59."""
    wish = intent(1)
    body = {"id": bad_id, "client_order_id": wish.client_id, "status": "new", "qty": "10"}
    scripted.answer("POST", "/v2/orders", 200, body)
    outcome = await scripted.broker.place(wish)
    assert isinstance(outcome, UnknownOutcome)
    assert "BROKER_ID_TYPE" in outcome.reason


async def test_bc13_answer_about_another_order_is_unknown(scripted: ScriptedFace) -> None:
    scripted.answer("POST", "/v2/orders", 200, {"id": "x", "client_order_id": "y", "status": "new"})
    assert isinstance(await scripted.broker.place(intent(1)), UnknownOutcome)


@pytest.mark.covers("D5")
async def test_bc14_cancel_of_a_filled_order_is_not_cancelable(face: Face) -> None:
    """D5."""
    order = (await placed(face, 1)).order
    await face.fill(order.broker_order_id, "10", "100.00")
    assert isinstance(await face.broker.cancel(order.broker_order_id), NotCancelable)
    after = await face.broker.order(order.broker_order_id)
    assert after is not None
    assert (after.status, after.filled_quantity) == (BrokerOrderStatus.FILLED, Decimal(10))


async def test_bc15_cancel_of_a_missing_order_is_not_found(face: Face) -> None:
    assert isinstance(await face.broker.cancel(MISSING), OrderNotFound)
    assert await face.broker.order(MISSING) is None


@pytest.mark.covers("D4")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("drop_reply", UnknownOutcome),
        ("error_after", UnknownOutcome),
        ("rate_limited", NotExecuted),
    ],
)
async def test_bc16_cancel_without_an_answer_is_never_a_confirmation(
    face: Face, kind: str, expected: type
) -> None:
    """D4."""
    order = (await placed(face, 1)).order
    await face.fault(kind, method="DELETE")
    assert isinstance(await face.broker.cancel(order.broker_order_id), expected)


async def test_bc17_replace_makes_a_new_order_linked_to_the_old(strict_face: Face) -> None:
    old = (await placed(strict_face, 1, limit="100.00")).order
    wish = intent(2, limit="100.25")
    outcome = await strict_face.broker.replace(old.broker_order_id, wish)
    assert isinstance(outcome, Accepted)
    assert outcome.order.broker_order_id != old.broker_order_id
    assert outcome.order.replaces_broker_id == old.broker_order_id
    assert outcome.order.client_id == wish.client_id
    before = await strict_face.broker.order(old.broker_order_id)
    assert before is not None
    assert before.status is BrokerOrderStatus.REPLACED
    assert before.replaced_by_broker_id == outcome.order.broker_order_id


@pytest.mark.covers("D1")
async def test_bc18_replace_without_an_answer_is_found_by_its_own_id(strict_face: Face) -> None:
    """D1."""
    old = (await placed(strict_face, 1)).order
    wish = intent(2, limit="101.00")
    await strict_face.fault("drop_reply", method="PATCH")
    assert isinstance(await strict_face.broker.replace(old.broker_order_id, wish), UnknownOutcome)
    assert await strict_face.broker.order_by_client_id(wish.client_id) is not None


async def test_bc19_replace_of_a_done_order_is_rejected(strict_face: Face) -> None:
    old = (await placed(strict_face, 1)).order
    await strict_face.fill(old.broker_order_id, "10", "100.00")
    outcome = await strict_face.broker.replace(old.broker_order_id, intent(2, limit="101.00"))
    assert isinstance(outcome, Rejected)
    assert outcome.code == "42210000"


async def test_bc20_bracket_children_name_their_parent(strict_face: Face) -> None:
    outcome = await strict_face.broker.place(bracket(1))
    assert isinstance(outcome, Accepted)
    order = outcome.order
    assert order.order_class is OrderClass.BRACKET
    assert {leg.parent_broker_id for leg in order.legs} == {order.broker_order_id}
    assert {leg.side for leg in order.legs} == {Side.SELL}
    assert {leg.status for leg in order.legs} == {BrokerOrderStatus.HELD}
    assert {leg.limit_price or leg.stop_price for leg in order.legs} == {
        Decimal("110.00"),
        Decimal("95.00"),
    }
    (listed,) = await strict_face.broker.open_orders()
    assert len(listed.legs) == 2


async def test_bc21_oco_target_is_the_parent_of_its_stop(strict_face: Face) -> None:
    held = (await placed(strict_face, 2)).order
    await strict_face.fill(held.broker_order_id, "10", "100.00")
    wish = intent(
        1,
        side=Side.SELL,
        limit="110.00",
        purpose=Purpose.OCO,
        order_class=OrderClass.OCO,
        time_in_force=TimeInForce.GTC,
        stop_loss_price=Decimal("95.00"),
    )
    outcome = await strict_face.broker.place(wish)
    assert isinstance(outcome, Accepted)
    assert outcome.order.limit_price == 110
    (stop,) = outcome.order.legs
    assert stop.parent_broker_id == outcome.order.broker_order_id
    assert (stop.side, stop.stop_price) == (Side.SELL, Decimal(95))


async def test_bc22_combo_has_a_net_price_and_legs_with_ids(strict_face: Face) -> None:
    legs = (
        OrderLeg(symbol=CALL_A, side=Side.BUY),
        OrderLeg(symbol=CALL_B, side=Side.SELL),
    )
    outcome = await strict_face.broker.place(combo(1, "1.25", legs))
    assert isinstance(outcome, Accepted)
    order = outcome.order
    assert (order.order_class, order.limit_price, order.symbol) == (
        OrderClass.COMBO,
        Decimal("1.25"),
        "",
    )
    assert [(leg.symbol, leg.quantity) for leg in order.legs] == [
        (CALL_A, Decimal(10)),
        (CALL_B, Decimal(10)),
    ]


@pytest.mark.parametrize(
    "wish",
    [
        intent(1, limit=None, order_type=OrderType.LIMIT),
        intent(1, limit=None, order_type=OrderType.STOP),
        intent(1, order_class=OrderClass.BRACKET, take_profit_price=Decimal(110)),
        intent(1, order_class=OrderClass.OTO),
        intent(1, limit=None, order_class=OrderClass.OCO, stop_loss_price=Decimal(95)),
        combo(1, "1.00", (OrderLeg(symbol=CALL_A, side=Side.BUY),)),
        combo(1, "1.00", (OrderLeg(symbol=CALL_A, side=Side.BUY),) * 2),
        combo(1, "1.00", tuple(OrderLeg(symbol=f"L{n}", side=Side.BUY) for n in range(5))),
    ],
)
async def test_bc23_body_that_the_wire_cannot_say_is_rejected_unsent(
    scripted: ScriptedFace, wish: Any
) -> None:
    outcome = await scripted.broker.place(wish)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "ORDER_BODY_INVALID"
    assert scripted.requests == []


async def test_bc24_partial_fills_come_once_each_in_order(strict_face: Face) -> None:
    """I7: the fill key names order and cumulative quantity."""
    order = (await placed(strict_face, 1)).order
    await strict_face.fill(order.broker_order_id, "3", "100.00")
    await strict_face.fill(order.broker_order_id, "7", "100.00")
    page = await strict_face.broker.executions_since(None)
    name = order.broker_order_id
    assert [fill.fill_key for fill in page.fills] == [f"{name}:3", f"{name}:10"]
    assert [fill.quantity for fill in page.fills] == [3, 7]
    assert [fill.price for fill in page.fills] == [Decimal("100.00")] * 2
    assert not page.has_more


@pytest.mark.covers("F1")
async def test_bc25_paging_loses_and_doubles_no_execution(strict_face: Face) -> None:
    """F1: 350 fills, three to the millisecond, read page by page while more arrive."""
    order = (await placed(strict_face, 1, quantity="400")).order
    for _ in range(350):
        await strict_face.fill(order.broker_order_id, "1", "100.00")
    keys: list[str] = []
    cursor, has_more = None, True
    while has_more:
        page = await strict_face.broker.executions_since(cursor)
        keys += [fill.fill_key for fill in page.fills]
        assert page.cursor is not None
        cursor, has_more = page.cursor, page.has_more
    assert len(keys) == len(set(keys)) == 350
    for _ in range(50):
        await strict_face.fill(order.broker_order_id, "1", "100.00")
    while True:
        page = await strict_face.broker.executions_since(cursor)
        keys += [fill.fill_key for fill in page.fills]
        cursor = page.cursor
        if not page.has_more:
            break
    assert set(keys) == {f"{order.broker_order_id}:{n}" for n in range(1, 401)}


async def test_bc26_late_row_that_sorts_before_the_cursor_is_still_read(
    scripted: ScriptedFace,
) -> None:
    order = (await placed(scripted, 1)).order
    await scripted.fill(order.broker_order_id, "4", "100.00")
    cursor = (await scripted.broker.executions_since(None)).cursor
    await scripted.fill(order.broker_order_id, "6", "100.00")
    # The same millisecond, but a random part below the one that was read already.
    scripted.activities[-1]["id"] = scripted.activities[0]["id"].split("::")[0] + "::!"
    page = await scripted.broker.executions_since(cursor)
    assert f"{order.broker_order_id}:10" in {fill.fill_key for fill in page.fills}


async def test_bc27_bad_rows_are_told_and_hide_no_others(scripted: ScriptedFace) -> None:
    """§3 rows 59 and 62."""
    order = (await placed(scripted, 1)).order
    for _ in range(3):
        await scripted.fill(order.broker_order_id, "1", "100.00")
    scripted.activities[0]["order_id"] = None
    scripted.activities[1]["price"] = "0"
    at = scripted.activities[0]["transaction_time"]
    for number, amount in (("1", "NaN"), ("2", "-0.03")):
        scripted.activities.append(
            {
                "activity_type": "FEE",
                "id": f"20260304000000000::fee{number}",
                "net_amount": amount,
                "transaction_time": at,
            }
        )
    page = await scripted.broker.executions_since(None)
    assert [fill.cumulative_quantity for fill in page.fills] == [3]
    assert sorted(problem.code for problem in page.problems) == [
        "BROKER_ID_TYPE",
        "FEE_INVALID",
        "FILL_INCONSISTENT",
    ]
    assert [fee.amount for fee in page.fees] == [Decimal("0.03")]


@pytest.mark.parametrize(
    "cursor", ["", "garbage", "p|x|y|z", "t|2026-03-04", "p|2026-03-04T00:00Z|"]
)
async def test_bc28_foreign_cursor_is_refused(scripted: ScriptedFace, cursor: str) -> None:
    with pytest.raises(BadInput, match="PAGE_INVALID"):
        await scripted.broker.executions_since(cursor)
    assert scripted.requests == []


async def test_bc29_more_than_one_page_of_open_orders_is_complete(scripted: ScriptedFace) -> None:
    for sequence in range(1, 1203):
        await placed(scripted, sequence)
    orders = await scripted.broker.open_orders()
    assert len(orders) == len({order.broker_order_id for order in orders}) == 1202
    pages = [r for r in scripted.requests if r.method == "GET"]
    assert len(pages) == 3


async def test_bc30_order_list_that_does_not_end_is_an_error_not_a_part(
    scripted: ScriptedFace,
) -> None:
    order = (await placed(scripted, 1)).order
    row = scripted.orders[order.broker_order_id]
    scripted.answer("GET", "/v2/orders", 200, [{**row, "id": f"o{n}"} for n in range(500)])
    with pytest.raises(Uncertain) as stuck:
        await scripted.broker.open_orders()
    assert stuck.value.code == "PAGE_STUCK"


@pytest.mark.covers("R6")
async def test_bc31_one_unreadable_order_makes_the_list_an_error(scripted: ScriptedFace) -> None:
    """R6: missing is not flat."""
    order = (await placed(scripted, 1)).order
    row = scripted.orders[order.broker_order_id]
    scripted.answer("GET", "/v2/orders", 200, [row, {**row, "id": None}])
    with pytest.raises(Uncertain) as odd:
        await scripted.broker.open_orders()
    assert odd.value.code == "BROKER_ID_TYPE"


@pytest.mark.parametrize("word", ["pending_review_two", "", None, 7])
async def test_bc32_unknown_status_is_unknown_beside_the_word(
    scripted: ScriptedFace, word: Any
) -> None:
    """§3 row 57."""
    order = (await placed(scripted, 1)).order
    scripted.orders[order.broker_order_id]["status"] = word
    seen = await scripted.broker.order(order.broker_order_id)
    assert seen is not None
    assert seen.status is BrokerOrderStatus.UNKNOWN
    assert seen.raw_status == (word if isinstance(word, str) else "")
    assert not seen.is_terminal


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("rate_limited", "RATE_LIMITED"),
        ("error_before", "BROKER_ERROR"),
        ("drop_reply", "NO_ANSWER"),
        ("html", "BROKER_BAD_BODY"),
        ("truncated", "BROKER_BAD_BODY"),
    ],
)
async def test_bc33_failed_read_may_be_repeated(face: Face, kind: str, code: str) -> None:
    order = (await placed(face, 1)).order
    await face.fault(kind, method="GET")
    with pytest.raises(Transient) as failed:
        await face.broker.order(order.broker_order_id)
    assert failed.value.code == code
    assert await face.broker.order(order.broker_order_id) is not None


@pytest.mark.covers("C5")
async def test_bc34_page_of_a_proxy_is_not_a_missing_order(scripted: ScriptedFace) -> None:
    """C5: a 404 that the venue did not write proves even less."""
    scripted.answer("GET", f"/v2/orders/{MISSING}", 404, content=b"<html>no route</html>")
    with pytest.raises(Transient):
        await scripted.broker.order(MISSING)


async def test_bc35_bulk_cancel_names_what_was_taken(face: Face) -> None:
    first, second = [(await placed(face, n)).order for n in (1, 2)]
    assert set(await face.broker.cancel_all()) == {first.broker_order_id, second.broker_order_id}


async def test_bc40_bulk_cancel_leaves_out_what_was_refused(scripted: ScriptedFace) -> None:
    body = [
        {"id": "a", "status": 200},
        {"id": "b", "status": 500, "body": {"code": 50010000, "message": "failed"}},
    ]
    scripted.answer("DELETE", "/v2/orders", 207, body)
    assert await scripted.broker.cancel_all() == ("a",)
    scripted.answer("DELETE", "/v2/orders", 500, {"message": "no"})
    with pytest.raises(Uncertain):
        await scripted.broker.cancel_all()


async def test_bc36_dry_run_reads_and_never_writes(face: Face) -> None:
    order = (await placed(face, 1)).order
    dry = DryRunBroker(face.broker)
    port: Broker = dry
    assert port.account_id == face.broker.account_id
    wish = intent(2)
    writes = face.write_count()
    assert await dry.place(wish) == Rejected(code="DRY_RUN", text="dry run: nothing was sent")
    replaced = await dry.replace(order.broker_order_id, intent(3))
    assert isinstance(replaced, Rejected)
    cancelled = await dry.cancel(order.broker_order_id)
    assert isinstance(cancelled, NotExecuted)
    assert await dry.cancel_all() == ()
    assert face.write_count() == writes
    assert [write.verb for write in dry.recorded] == ["place", "replace", "cancel", "cancel_all"]
    assert dry.recorded[0].intent == wish
    seen = await face.broker.order(order.broker_order_id)
    assert seen is not None
    assert await dry.order(order.broker_order_id) == seen
    assert await dry.open_orders() == (seen,)


async def test_bc37_orders_since_finds_done_orders_too(face: Face) -> None:
    order = (await placed(face, 1)).order
    await face.fill(order.broker_order_id, "10", "100.00")
    since = MARKET_NOW - timedelta(hours=1)
    assert [o.status for o in await face.broker.orders_since(since)] == [BrokerOrderStatus.FILLED]
    assert await face.broker.open_orders() == ()
    assert await face.broker.orders_since(MARKET_NOW + timedelta(hours=1)) == ()


async def test_bc38_foreign_id_cannot_leave_its_folder(scripted: ScriptedFace) -> None:
    assert await scripted.broker.order("../account") is None
    assert await scripted.broker.order("..") is None
    assert all(r.url.raw_path.startswith(b"/v2/orders/") for r in scripted.requests)
    with pytest.raises(Refused) as unknown:
        await scripted.broker.asset("../x")
    assert unknown.value.code == "SYMBOL_UNKNOWN"


async def test_bc39_first_cursor_is_the_start_of_the_venues_day(scripted: ScriptedFace) -> None:
    page = await scripted.broker.executions_since(None)
    query = next(r for r in scripted.requests if r.url.path.endswith("activities")).url.params
    midnight = MARKET_NOW.replace(hour=0)
    assert timedelta(0) < midnight - datetime.fromisoformat(query["after"]) <= timedelta(minutes=1)
    assert page.cursor == f"t|{midnight:%Y-%m-%dT%H:%M:%S}Z"


async def test_bc41_combo_legs_say_open_or_close_and_the_top_has_no_symbol(
    scripted: ScriptedFace,
) -> None:
    legs = (
        OrderLeg(symbol=CALL_A, side=Side.BUY),
        OrderLeg(symbol=CALL_B, side=Side.SELL, ratio=2, effect=OpenClose.CLOSE),
    )
    outcome = await scripted.broker.place(combo(1, "-1.25", legs))
    assert isinstance(outcome, Accepted)
    assert [leg.quantity for leg in outcome.order.legs] == [Decimal(10), Decimal(20)]
    sent = scripted.requests[-1].content
    assert b'"limit_price":"-1.25"' in sent
    assert b'"position_intent":"sell_to_close"' in sent
    assert b'"symbol":"SPY",' not in sent


async def test_bc42_reset_instant_serves_where_no_wait_was_given(scripted: ScriptedFace) -> None:
    reset = str(int(MARKET_NOW.timestamp()) + 7)
    for header, wait_s in ((reset, 7.0), ("99999999999", 60.0), ("1", 0.0), ("soon", None)):
        headers = {"X-RateLimit-Reset": header}
        scripted.answer("POST", "/v2/orders", 429, {"message": "slow down"}, headers=headers)
        outcome = await scripted.broker.place(intent(1))
        assert isinstance(outcome, NotExecuted)
        assert outcome.retry_after_s == wait_s
