"""The contract where Tradier is the opposite of Alpaca: labels, sums, changes in place.

Numbers are those of the cases in test_broker_contract.py that they answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from brokers.port import (
    Accepted,
    AuthNeeded,
    CancelOutcome,
    CancelRequested,
    NotCancelable,
    NotExecuted,
    OrderNotFound,
    OrderUpdate,
    Rejected,
    StreamReady,
    UnknownOutcome,
)
from brokers.tradier.client import TradierBroker
from brokers.tradier.config import TradierConfig
from brokers.tradier.executions import OLDER_READS_MAX
from domain.errors import Refused, Transient, Uncertain
from domain.ids import Purpose
from domain.order import BrokerOrderStatus, OrderClass, OrderLeg, Side, TimeInForce
from simulator.config import WireFace
from tests.contract.broker_faces import (
    MARKET_NOW,
    OPTIONS,
    SimulatedFace,
    bracket,
    combo,
    intent,
    simulated_face,
)

D = Decimal
ACCOUNT = "VA1"
ORDERS = f"/v1/accounts/{ACCOUNT}/orders"


@pytest.fixture
async def face() -> AsyncIterator[SimulatedFace]:
    async with simulated_face(venue=WireFace.TRADIER) as made:
        yield made


async def placed(face: SimulatedFace, sequence: int, **options: Any) -> str:
    outcome = await face.broker.place(intent(sequence, **options))
    assert isinstance(outcome, Accepted)
    return outcome.order.broker_order_id


@pytest.mark.covers("C11")
async def test_tc07_the_venue_takes_one_tag_twice_so_nobody_may_post_again(
    face: SimulatedFace,
) -> None:
    """C11 turned round: this is what the lookup before any second send protects from."""
    assert not face.broker.capabilities.client_id_unique_for_ever
    wish = intent(1)
    await face.fault("drop_reply", method="POST", path="*/orders")
    assert isinstance(await face.broker.place(wish), UnknownOutcome)
    assert await face.accepted(wish.client_id) == 1
    assert isinstance(await face.broker.place(wish), Accepted)
    assert await face.accepted(wish.client_id) == 2
    first, second = await face.broker.open_orders()
    found = await face.broker.order_by_client_id(wish.client_id)
    assert found is not None
    assert found.broker_order_id == min(first.broker_order_id, second.broker_order_id)


@pytest.mark.covers("C10")
async def test_tc10_what_the_desk_refuses_is_ok_first_and_rejected_when_read(
    face: SimulatedFace,
) -> None:
    """C10: usual here."""
    name = await placed(face, 1, side=Side.SELL, limit="104.00", purpose=Purpose.EXIT)
    order = await face.broker.order(name)
    assert order is not None
    assert order.status is BrokerOrderStatus.REJECTED
    assert "LongPositionCrossZero" in order.reject_text


async def test_tc17_replace_keeps_id_tag_and_quantity(face: SimulatedFace) -> None:
    name = await placed(face, 1, limit="100.00")
    before = await face.broker.order(name)
    outcome = await face.broker.replace(name, intent(2, limit="100.25", quantity="99"))
    assert isinstance(outcome, Accepted)
    assert outcome.order.broker_order_id == name
    after = await face.broker.order(name)
    assert before is not None
    assert after is not None
    assert (after.limit_price, after.quantity) == (D("100.25"), D(10))
    assert (after.client_id, after.status) == (before.client_id, BrokerOrderStatus.WORKING)
    assert len(await face.broker.open_orders()) == 1


@pytest.mark.covers("D1")
async def test_tc18_replace_without_an_answer_shows_in_the_order_itself(
    face: SimulatedFace,
) -> None:
    """D1."""
    name = await placed(face, 1)
    await face.fault("drop_reply", method="PUT")
    wish = intent(2, limit="101.00")
    assert isinstance(await face.broker.replace(name, wish), UnknownOutcome)
    assert await face.broker.order_by_client_id(wish.client_id) is None
    after = await face.broker.order(name)
    assert after is not None
    assert after.limit_price == D(101)


async def test_tc19_replace_of_a_done_or_missing_order_is_rejected(face: SimulatedFace) -> None:
    name = await placed(face, 1)
    await face.fill(name, "10", "100.00")
    for target in (name, "77"):
        outcome = await face.broker.replace(target, intent(2, limit="101.00"))
        assert isinstance(outcome, Rejected)


async def test_tc20_bracket_is_an_otoco_whose_exits_wait(face: SimulatedFace) -> None:
    outcome = await face.broker.place(bracket(1))
    assert isinstance(outcome, Accepted)
    (order,) = await face.broker.open_orders()
    assert order.broker_order_id == outcome.order.broker_order_id
    assert (order.order_class, order.side) == (OrderClass.BRACKET, Side.BUY)
    assert {leg.parent_broker_id for leg in order.legs} == {order.broker_order_id}
    assert {leg.status for leg in order.legs} == {BrokerOrderStatus.HELD}


async def test_tc21_oco_rests_both_exits_and_its_stop_can_be_moved(face: SimulatedFace) -> None:
    name = await placed(face, 2)
    await face.fill(name, "10", "100.00")
    gtc: dict[str, Any] = {"time_in_force": TimeInForce.GTC}
    wish = intent(
        1,
        side=Side.SELL,
        limit="110.00",
        purpose=Purpose.OCO,
        order_class=OrderClass.OCO,
        stop_loss_price=D("95.00"),
        **gtc,
    )
    outcome = await face.broker.place(wish)
    assert isinstance(outcome, Accepted)
    (oco,) = await face.broker.open_orders()
    (stop,) = oco.legs
    assert (oco.limit_price, stop.stop_price) == (D(110), D(95))
    assert (oco.status, stop.status) == (BrokerOrderStatus.WORKING, BrokerOrderStatus.WORKING)
    higher = intent(
        3,
        side=Side.SELL,
        limit=None,
        order_type="stop",
        stop_price=D("97.00"),
        purpose=Purpose.STOP,
        **gtc,
    )
    assert isinstance(await face.broker.replace(stop.broker_order_id, higher), Accepted)
    (oco,) = await face.broker.open_orders()
    assert [leg.stop_price for leg in oco.legs] == [D(97)]
    assert oco.legs[0].broker_order_id == stop.broker_order_id


async def test_tc22_combo_has_a_net_price_and_legs_with_ids(face: SimulatedFace) -> None:
    low, high = OPTIONS
    legs = (OrderLeg(symbol=low, side=Side.BUY), OrderLeg(symbol=high, side=Side.SELL))
    assert isinstance(await face.broker.place(combo(1, "1.25", legs)), Accepted)
    (order,) = await face.broker.open_orders()
    assert (order.order_class, order.limit_price, order.symbol, order.quantity) == (
        OrderClass.COMBO,
        D("1.25"),
        "",
        D(10),
    )
    assert [(leg.symbol, leg.quantity) for leg in order.legs] == [(low, D(10)), (high, D(10))]
    before = [leg.broker_order_id for leg in order.legs]
    changed = await face.broker.replace(order.broker_order_id, combo(2, "1.30", legs))
    assert isinstance(changed, Accepted)
    (order,) = await face.broker.open_orders()
    assert order.limit_price == D("1.30")
    # A leg with a new id and the old one's fills would be booked twice (T0, seed 60586).
    assert [leg.broker_order_id for leg in order.legs] == before
    for name in before:
        assert (await face.broker.order(name)) is not None


async def test_tc24_fills_are_sums_and_every_read_tells_them_again(face: SimulatedFace) -> None:
    """I7, ADR 0017."""
    name = await placed(face, 1)
    await face.fill(name, "3", "100.00")
    page = await face.broker.executions_since(None)
    assert [(f.fill_key, f.quantity, f.is_sum) for f in page.fills] == [(f"{name}:3", D(3), True)]
    await face.fill(name, "7", "100.00")
    for _ in range(2):
        page = await face.broker.executions_since(page.cursor)
        assert [(f.fill_key, f.quantity) for f in page.fills] == [(f"{name}:10", D(10))]


@pytest.mark.covers("C6")
async def test_tc25_order_of_yesterday_is_not_listed_but_its_fill_is_found(
    face: SimulatedFace,
) -> None:
    """The list covers the New York day only (tradier.md §6)."""
    name = await placed(face, 1, time_in_force=TimeInForce.GTC)
    cursor = (await face.broker.executions_since(None)).cursor
    face.server.step_s(24 * 3600)
    assert await face.broker.open_orders() == ()
    assert await face.broker.order_by_client_id(intent(1).client_id) is None
    await face.fill(name, "10", "100.00")
    page = await face.broker.executions_since(cursor)
    assert [fill.fill_key for fill in page.fills] == [f"{name}:10"]


async def test_tc25_many_orders_of_yesterday_are_read_in_turn(face: SimulatedFace) -> None:
    """F8: each costs a request, and the budget is small."""
    count = OLDER_READS_MAX + 2
    names = [await placed(face, n + 1, time_in_force=TimeInForce.GTC) for n in range(count)]
    cursor = (await face.broker.executions_since(None)).cursor
    face.server.step_s(24 * 3600)
    await face.fill(names[0], str(10 * count), "100.00")
    seen: list[str] = []
    for expected in (OLDER_READS_MAX, 2):
        page = await face.broker.executions_since(cursor)
        cursor = page.cursor
        assert len(page.fills) == expected
        seen += [fill.fill_key for fill in page.fills]
    assert sorted(seen) == sorted(f"{name}:10" for name in names)


async def test_tc30_stream_tells_orders_with_their_sums(face: SimulatedFace) -> None:
    events = face.broker.stream()
    async with asyncio.timeout(10):
        assert isinstance(await anext(events), StreamReady)
        name = await placed(face, 1)
        while not isinstance(update := await anext(events), OrderUpdate):
            pass
        assert update.order.symbol == "ESX"
        await face.fill(name, "10", "100.00")
        while not (isinstance(update, OrderUpdate) and update.fill is not None):
            update = await anext(events)
    assert (update.fill.fill_key, update.fill.is_sum) == (f"{name}:10", True)


async def test_tc31_second_session_ends_the_first(face: SimulatedFace) -> None:
    first, second = face.broker.stream(), face.broker.stream()
    async with asyncio.timeout(10):
        assert isinstance(await anext(first), StreamReady)
        assert isinstance(await anext(second), StreamReady)
        with pytest.raises(Transient):
            await anext(first)


# --- the venue's own words, answered by hand ------------------------------------------------------


class Canned:
    """A venue that gives one answer for each method."""

    def __init__(self, **answers: httpx.Response) -> None:
        self.answers = answers
        config = TradierConfig(
            key_id=ACCOUNT, secret="token", trading_url="http://venue.test", request_timeout_s=0.5
        )
        transport = httpx.MockTransport(self._handle)
        self.broker = TradierBroker(config, http_transport=transport, now=lambda: MARKET_NOW)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["accept"] == "application/json"
        if request.url.path == "/v1/user/profile":
            account = {"account_number": ACCOUNT, "status": "active"}
            profile = {"profile": {"account": account}}
            return self.answers.get("profile", httpx.Response(200, json=profile))
        return self.answers[request.method]


FOREIGN = f"Unauthorized Account: {ACCOUNT}"
FAULT = {"fault": {"faultstring": "Access Token expired", "detail": {"errorcode": "x.expired"}}}
QUOTA = {"fault": {"faultstring": "Quota", "detail": {"errorcode": "policies.ratelimit.Quota"}}}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.Response(200, json={"order": {"id": 5, "status": "ok"}}), Accepted),
        (httpx.Response(200, json={"order": {"id": 5, "status": "what"}}), UnknownOutcome),
        (httpx.Response(200, json={"order": {"status": "ok"}}), UnknownOutcome),
        (httpx.Response(200, json={}), UnknownOutcome),
        (httpx.Response(200, text="<html>maintenance</html>"), UnknownOutcome),
        (httpx.Response(200, text=""), UnknownOutcome),
        (httpx.Response(200, json={"errors": {"error": "InitialMargin: no"}}), Rejected),
        (httpx.Response(200, json={"errors": {"error": ["a", "b"]}}), Rejected),
        (httpx.Response(200, json={"errors": {"error": "OmsUnavailable"}}), UnknownOutcome),
        (httpx.Response(200, json={"errors": {"error": "OmsInternalError: x"}}), UnknownOutcome),
        (httpx.Response(400, text="Invalid parameter, tag: contains …"), Rejected),
        (httpx.Response(400, text="<html>bad</html>"), UnknownOutcome),
        (httpx.Response(400, text=""), UnknownOutcome),
        (httpx.Response(401, json=FAULT), AuthNeeded),
        (httpx.Response(401, text=FOREIGN), AuthNeeded),
        (httpx.Response(403, text="no"), AuthNeeded),
        (httpx.Response(429, text="slow"), NotExecuted),
        (httpx.Response(500, json=QUOTA), NotExecuted),
        (httpx.Response(500, text="x"), UnknownOutcome),
        (httpx.Response(502, text="<html>"), UnknownOutcome),
        (httpx.Response(302, text="x"), UnknownOutcome),
    ],
)
async def test_tc03_only_the_venues_own_words_are_definite(
    answer: httpx.Response, expected: type
) -> None:
    """§3 row 60, tradier.md §10."""
    assert isinstance(await Canned(POST=answer).broker.place(intent(1)), expected)


@pytest.mark.parametrize(
    ("expiry", "wait_s"),
    [
        (str(int(MARKET_NOW.timestamp() + 7) * 1000), 7.0),
        (str(int(MARKET_NOW.timestamp() - 7) * 1000), 0.0),
        (str(int(MARKET_NOW.timestamp() + 900) * 1000), 60.0),
        ("soon", None),
    ],
)
async def test_tc09_end_of_the_window_is_the_wait(expiry: str, wait_s: float | None) -> None:
    """C4."""
    answer = httpx.Response(429, headers={"X-Ratelimit-Expiry": expiry})
    outcome = await Canned(POST=answer).broker.place(intent(1))
    assert isinstance(outcome, NotExecuted)
    assert (outcome.code, outcome.retry_after_s) == ("RATE_LIMITED", wait_s)


@pytest.mark.covers("D4", "D5")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.Response(200, json={"order": {"id": 5, "status": "ok"}}), CancelRequested),
        (httpx.Response(400, text="order already in finalized state: filled"), NotCancelable),
        (httpx.Response(401, text=FOREIGN), OrderNotFound),
        (httpx.Response(401, json=FAULT), AuthNeeded),
        (httpx.Response(400, text="what is this"), UnknownOutcome),
        (httpx.Response(503, text="x"), UnknownOutcome),
        (httpx.Response(200, text="<html>"), UnknownOutcome),
    ],
)
async def test_tc14_cancel_is_asked_for_never_confirmed(
    answer: httpx.Response, expected: type[CancelOutcome]
) -> None:
    """D4, D5."""
    assert isinstance(await Canned(DELETE=answer).broker.cancel("5"), expected)


async def test_tc15_unknown_id_and_wrong_account_have_one_answer_the_profile_tells() -> None:
    """tradier.md §5: 401 is overloaded."""
    reply = httpx.Response(401, text=FOREIGN)
    assert await Canned(GET=reply).broker.order("5") is None
    other = httpx.Response(200, json={"profile": {"account": {"account_number": "VA9"}}})
    with pytest.raises(Refused) as refused:
        await Canned(GET=reply, profile=other).broker.order("5")
    assert refused.value.code == "AUTH_NEEDED"


async def test_tc33_one_unreadable_order_makes_the_list_an_error() -> None:
    """R6: missing is not flat."""
    reply = httpx.Response(200, json={"orders": {"order": [{"id": "x"}]}})
    with pytest.raises(Uncertain):
        await Canned(GET=reply).broker.open_orders()
    assert await Canned(GET=httpx.Response(200, json={"orders": "null"})).broker.open_orders() == ()


@pytest.mark.parametrize("url", ["ws://evil.test/x", "", 7])
async def test_tc32_session_that_points_elsewhere_is_refused(url: Any) -> None:
    reply = httpx.Response(200, json={"stream": {"url": url, "sessionid": "s"}})
    with pytest.raises((Refused, Uncertain)):
        await anext(Canned(POST=reply).broker.stream())
