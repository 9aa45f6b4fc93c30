"""Every seeded fault does what its name says, once, and is journalled (architecture §9)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
import pytest_asyncio

from simulator.app import AlpacaFace, TradierFace, build_app
from simulator.clock import SimClock
from simulator.config import ApiKey, MatchingConfig, ReplaceQuantity, WireFace
from simulator.exchange import Exchange
from simulator.faults import FaultBoard, FaultKind
from simulator.orders import ReplaceRequest, SimOrder, Status
from simulator.refusals import Refusal
from simulator.server import SimulatorServer
from tests.unit.simulator_rig import (
    CALL_600,
    CALL_610,
    SYMBOL,
    advance_s,
    combo,
    exchange,
    hold,
    oco,
    order,
    quote,
)

D = Decimal
HEADERS = {"APCA-API-KEY-ID": "SIM-PAPER-KEY", "APCA-API-SECRET-KEY": "sim-paper-secret"}
DEADLINE_S = 10.0


class Rig:
    """One exchange on real sockets with a plain HTTP client."""

    def __init__(self, server: SimulatorServer, client: httpx.AsyncClient) -> None:
        self.server = server
        self.client = client
        self.venue = server.exchange

    async def place(self, client_id: str, **body: Any) -> httpx.Response:
        sent = {
            "symbol": SYMBOL,
            "qty": "10",
            "side": "buy",
            "type": "limit",
            "limit_price": "99.00",
            "time_in_force": "day",
            "client_order_id": client_id,
            **body,
        }
        return await self.client.post("/v2/orders", json=sent)

    async def fault(self, kind: str, match: dict[str, Any] | None = None, **params: Any) -> None:
        body = {"kind": kind, "match": match or {}, "params": params}
        answer = await self.client.post(self.server.control_url + "/sim/faults", json=body)
        assert answer.status_code == 200, answer.text

    async def lookup(self, client_id: str) -> httpx.Response:
        return await self.client.get(
            "/v2/orders:by_client_order_id", params={"client_order_id": client_id}
        )


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    async with (
        SimulatorServer(exchange()) as server,
        httpx.AsyncClient(base_url=server.url, headers=HEADERS, timeout=5) as client,
    ):
        yield Rig(server, client)


async def test_dropped_reply_leaves_an_accepted_order(rig: Rig) -> None:
    """C2: the connection is really cut; the order is really there."""
    await rig.fault("drop_reply", {"method": "POST", "client_id": "lost*"})
    with pytest.raises(httpx.TransportError):
        await rig.place("lost-1")
    assert (await rig.lookup("lost-1")).json()["status"] == "new"
    again = await rig.place("lost-1")
    assert (again.status_code, again.json()["message"]) == (422, "client_order_id must be unique")
    assert len(rig.venue.journal.of("accepted")) == 1


async def test_late_reply_comes_after_the_client_gave_up(rig: Rig) -> None:
    await rig.fault("late_reply", {"method": "POST"}, delay_s=0.5)
    with pytest.raises(httpx.ReadTimeout):
        await asyncio.wait_for(_short(rig, "late"), DEADLINE_S)
    assert rig.venue.order_by_client_id("late") is not None


async def _short(rig: Rig, client_id: str) -> None:
    rig.client.timeout = httpx.Timeout(0.1)
    await rig.place(client_id)


@pytest.mark.parametrize(
    ("kind", "params", "status", "is_accepted"),
    [
        ("error_before", {}, 503, False),
        ("error_before", {"status": 500}, 500, False),
        ("error_after", {"status": 504}, 504, True),
        ("rate_limited", {"retry_after": 7}, 429, False),
        ("rate_limited", {}, 429, False),
        ("truncated", {}, 200, True),
        ("html", {}, 200, True),
        ("reject", {"text": "restricted"}, 403, False),
        ("slow", {"delay_s": 0.01}, 200, True),
    ],
)
async def test_reply_fault_strikes_once_before_or_after_the_order(
    rig: Rig, kind: str, params: dict[str, Any], status: int, is_accepted: bool
) -> None:
    """C3, C4."""
    await rig.fault(kind, {"client_id": "hit"}, **params)
    answer = await rig.place("hit")
    assert answer.status_code == status
    assert (rig.venue.order_by_client_id("hit") is not None) is is_accepted
    assert answer.headers.get("retry-after") == (
        str(params["retry_after"]) if "retry_after" in params else None
    )
    if kind in ("truncated", "html"):
        with pytest.raises(json.JSONDecodeError):
            answer.json()
    assert (await rig.place("miss")).status_code == 200
    state = (await rig.client.get(rig.server.control_url + "/sim/state")).json()
    assert state["faults_fired"] == {kind: 1}
    assert [row["fault"] for row in rig.venue.journal.of("fault")] == [kind]


async def test_lookup_lag_hides_an_order_until_market_time_has_passed(rig: Rig) -> None:
    """C5: 404, then it appears, by client id and by id."""
    await rig.fault("lookup_lag", {"client_id": "shy"}, lag_s=5)
    placed = (await rig.place("shy")).json()
    assert (await rig.lookup("shy")).status_code == 404
    assert (await rig.client.get(f"/v2/orders/{placed['id']}")).status_code == 404
    body = {"advance_s": 5}
    await rig.client.post(rig.server.control_url + "/sim/clock", json=body)
    assert (await rig.lookup("shy")).json()["id"] == placed["id"]


@pytest.mark.parametrize("lists", [False, True], ids=["look-ups", "lists too"])
async def test_lookup_lag_hides_an_order_from_lists_where_it_says_so(rig: Rig, lists: bool) -> None:
    await rig.client.post(
        rig.server.control_url + "/sim/faults",
        json={"kind": "lookup_lag", "params": {"lag_s": 5, "lists": lists}},
    )
    await rig.place("shy")
    listed = (await rig.client.get("/v2/orders")).json()
    assert [order["client_order_id"] for order in listed] == ([] if lists else ["shy"])
    await rig.client.post(rig.server.control_url + "/sim/clock", json={"advance_s": 5})
    listed = (await rig.client.get("/v2/orders")).json()
    assert [order["client_order_id"] for order in listed] == ["shy"]


async def test_nth_and_count_choose_the_occasion(rig: Rig) -> None:
    await rig.fault("error_before", {"method": "POST", "nth": 2, "count": 2})
    statuses = [(await rig.place(f"n-{n}")).status_code for n in range(4)]
    assert statuses == [200, 503, 503, 200]


async def test_unknown_fault_or_body_is_422_with_its_reason(rig: Rig) -> None:
    bodies: list[dict[str, Any]] = [
        {"kind": "gremlin"},
        {"kind": "reject", "matsch": 1},
        {"match": {}},
    ]
    for body in bodies:
        answer = await rig.client.post(rig.server.control_url + "/sim/faults", json=body)
        assert answer.status_code == 422


async def test_control_plane_moves_market_and_gives_the_journal(rig: Rig) -> None:
    control = rig.server.control_url
    await rig.place("resting")
    quoted = {"symbol": SYMBOL, "bid": "98.50", "ask": "98.75"}
    await rig.client.post(control + "/sim/quote", json=quoted)
    rows = (await rig.client.get(control + "/sim/journal")).text.splitlines()
    assert [json.loads(row)["kind"] for row in rows] == [
        "start",
        "quote",
        "request",
        "accepted",
        "quote",
        "fill",
        "position",
        "cash",
    ]
    rest = (await rig.client.get(control + "/sim/journal", params={"after": 6})).text
    assert len(rest.splitlines()) == 2
    await rig.client.post(control + "/sim/halt", json={"symbol": SYMBOL})
    state = (await rig.client.get(control + "/sim/state")).json()
    assert state["quotes"][SYMBOL]["halted"] is True
    assert state["positions"] == {SYMBOL: "10"}
    gone = {"kind": "position", "symbol": SYMBOL, "quantity": "0"}
    await rig.client.post(control + "/sim/event", json=gone)
    assert (await rig.client.get("/v2/positions")).json() == []
    bad = await rig.client.post(control + "/sim/quote", json={"symbol": "NOPE", "bid": 1, "ask": 2})
    assert bad.status_code == 422


async def test_key_of_the_other_mode_is_403_and_an_unknown_key_401() -> None:
    keys = (ApiKey(), ApiKey("LIVE", "live-secret", "live"))
    app = build_app(exchange(keys=keys))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sim") as client:
        live = {"APCA-API-KEY-ID": "LIVE", "APCA-API-SECRET-KEY": "live-secret"}
        assert (await client.get("/v2/account", headers=HEADERS)).status_code == 200
        assert (await client.get("/v2/account", headers=live)).status_code == 403
        assert (await client.get("/v2/account")).status_code == 401


async def test_budget_answers_429_on_a_running_clock_and_scales_with_speed() -> None:
    for speed, allowed in ((D("0.001"), 3), (D(2), 6)):
        venue = exchange(requests_per_minute=3)
        transport = httpx.ASGITransport(app=build_app(venue, SimClock(venue.now, speed)))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://sim", headers=HEADERS
        ) as client:
            answers = [await client.get("/v2/clock") for _ in range(allowed + 1)]
        assert [answer.status_code for answer in answers] == [200] * allowed + [429]
        left = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers]
        assert left == [*range(allowed - 1, -1, -1), 0]
        assert int(answers[-1].headers["retry-after"]) in range(1, 61)


async def test_tradier_counts_orders_market_data_and_the_rest_apart() -> None:
    """tradier.md §8: trading 60, market data 120, everything else 120 a minute."""
    venue = exchange(requests_per_minute=2, face=WireFace.TRADIER)
    face = TradierFace(venue, SimClock(venue.now, D(1)))
    key = venue.config.keys[0]
    transport = httpx.ASGITransport(app=face.app)
    headers = {"Authorization": f"Bearer {key.secret}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://sim", headers=headers
    ) as client:
        home = f"/v1/accounts/{key.key}"
        orders = [await client.post(f"{home}/orders", data={}) for _ in range(3)]
        reads = [await client.get(f"{home}/orders") for _ in range(5)]
        quotes = [await client.get("/v1/markets/clock") for _ in range(5)]
    assert [each.status_code == 429 for each in orders] == [False, False, True]
    for answers in (reads, quotes):
        assert [each.status_code == 429 for each in answers] == [False] * 4 + [True]
    assert orders[-1].headers["x-ratelimit-allowed"] == "2"
    assert reads[-1].headers["x-ratelimit-allowed"] == "4"


async def test_dropped_reply_in_process_raises_the_error_of_the_client() -> None:
    venue = exchange()
    app = build_app(venue, drop_error=lambda: httpx.ReadError("cut"))
    venue.state.faults.add({"kind": "drop_reply"})
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://sim", headers=HEADERS
    ) as client:
        with pytest.raises(httpx.ReadError):
            await client.get("/v2/account")


def test_late_reject_comes_after_the_accept() -> None:
    """C10."""
    venue = exchange()
    venue.state.faults.add({"kind": "late_reject", "params": {"delay_s": 3, "text": "margin"}})
    placed = venue.submit(order("buy", 10, "99.00"))
    advance_s(venue, 2)
    assert not placed.is_done
    advance_s(venue, 2)
    assert (placed.status, placed.reject_text) == (Status.REJECTED, "margin")


def test_late_fill_arrives_after_the_cancel_was_confirmed() -> None:
    """D9."""
    venue = exchange()
    venue.state.faults.add({"kind": "late_fill", "params": {"delay_s": 2, "quantity": "4"}})
    placed = venue.submit(order("buy", 10, "99.00"))
    venue.cancel(placed.id)
    advance_s(venue, 3)
    assert (placed.status, placed.filled) == (Status.CANCELED, D(4))
    assert venue.state.account.quantity(SYMBOL) == 4


def combo_at_rest(venue: Exchange) -> SimOrder:
    """Two units of a debit spread whose net of 4.00 the market does not show."""
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", symbol=CALL_610.symbol)
    legs = ((CALL_600, "buy", 1, "buy_to_open"), (CALL_610, "sell", 1, "sell_to_open"))
    placed = venue.submit(combo(2, "4.00", *legs))
    assert placed.filled == 0
    return placed


@pytest.mark.parametrize(
    ("units", "status", "on_leg"),
    [("2", Status.FILLED, Status.FILLED), ("1", Status.CANCELED, Status.CANCELED)],
)
def test_late_fill_of_a_combo_fills_its_legs_at_the_limit_and_revives_nothing(
    units: str, status: Status, on_leg: Status
) -> None:
    """D9: only legs trade, the combo has no symbol of its own."""
    venue = exchange()
    venue.state.faults.add({"kind": "late_fill", "params": {"delay_s": 2, "quantity": units}})
    placed = combo_at_rest(venue)
    venue.cancel(placed.id)
    advance_s(venue, 3)
    assert (placed.status, placed.filled, placed.average_price) == (status, D(units), D("4.00"))
    assert [(leg.status, leg.filled) for leg in placed.legs] == [(on_leg, D(units))] * 2
    held = [venue.state.account.quantity(leg.symbol) for leg in placed.legs]
    assert held == [D(units), -D(units)]
    assert venue.state.account.cash == D(100_000) - D(units) * 400
    assert venue.open_orders == []


def test_late_fill_leaves_a_combo_alone_whose_leg_is_ahead() -> None:
    """GT7: as in the market, it is whole units or none."""
    venue = exchange()
    venue.state.faults.add({"kind": "late_fill", "params": {"delay_s": 2}})
    placed = combo_at_rest(venue)
    venue.lifecycle.fill_leg(placed.legs[0], D(1), D("12.00"))
    venue.cancel(placed.id)
    advance_s(venue, 3)
    assert [leg.filled for leg in placed.legs] == [D(1), D(0)]


def test_lost_cancel_leaves_the_order_working() -> None:
    """D4."""
    venue = exchange()
    venue.state.faults.add({"kind": "cancel_lost"})
    placed = venue.submit(order("buy", 10, "99.00"))
    venue.cancel(placed.id)
    assert not placed.is_done
    venue.cancel(placed.id)
    assert placed.status is Status.CANCELED


def test_doubling_replace_leaves_both_orders_live() -> None:
    """D1."""
    venue = exchange()
    venue.state.faults.add({"kind": "replace_doubles"})
    old = venue.submit(order("buy", 10, "99.00"))
    new = venue.replace(old.id, ReplaceRequest(limit_price=D("99.25")))
    quote(venue, "98.75", "99.00")
    assert (old.filled, new.filled) == (D(10), D(10))


def test_both_legs_of_a_pair_fill_and_flip_the_position() -> None:
    """E4."""
    venue = exchange()
    hold(venue, 10)
    venue.state.faults.add({"kind": "oco_both"})
    venue.submit(oco(10, "105.00", "95.00"))
    quote(venue, "105.00", "105.25")
    assert venue.state.account.quantity(SYMBOL) == -10


def test_partial_fill_fault_caps_one_event() -> None:
    """D6."""
    venue = exchange()
    venue.state.faults.add({"kind": "partial_fill", "params": {"quantity": 3}})
    placed = venue.submit(order("buy", 10))
    assert placed.filled == 3
    quote(venue, "100.00", "100.25")
    assert placed.status is Status.FILLED


def test_halt_fault_stops_and_resumes_the_symbol() -> None:
    """G3."""
    venue = exchange()
    venue.state.faults.add({"kind": "halt", "params": {"duration_s": 30}})
    placed = venue.submit(order("buy", 10))
    assert placed.filled == 0
    advance_s(venue, 31)
    assert placed.status is Status.FILLED


def test_halt_fault_stops_the_legs_of_a_combo_and_the_order_is_accepted() -> None:
    """G3: it was refused as unknown and worked all the same (found by the simulation)."""
    venue = exchange()
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", symbol=CALL_610.symbol)
    venue.state.faults.add({"kind": "halt", "params": {"duration_s": 30}})
    legs = ((CALL_600, "buy", 1, "buy_to_open"), (CALL_610, "sell", 1, "sell_to_open"))
    placed = venue.submit(combo(2, "4.20", *legs))
    assert placed.filled == 0
    assert venue.state.halted == (CALL_600.symbol, CALL_610.symbol)
    advance_s(venue, 31)
    assert placed.status is Status.FILLED
    assert not venue.state.halted


def test_bust_takes_position_and_cash_back() -> None:
    """D9."""
    venue = exchange()
    placed = venue.submit(order("buy", 10))
    venue.bust(venue.journal.of("fill")[0]["execution_id"])
    assert (placed.filled, venue.state.account.cash, venue.holdings()) == (D(0), D(100_000), [])
    with pytest.raises(Refusal):
        venue.bust("nothing")


def test_average_price_of_an_order_is_that_of_the_executions_that_stand() -> None:
    """D9: a sum booked from the average of before was wrong in cash (found by the simulation)."""
    venue = exchange()
    quote(venue, "99.99", "100", size=4)
    placed = venue.submit(order("buy", 10, limit="101"))
    quote(venue, "100.49", "100.50", size=6)
    first, second = (row["execution_id"] for row in venue.journal.of("fill"))
    assert (placed.filled, placed.average_price) == (D(10), D("100.3"))
    venue.correct(first, D("100.25"))
    assert (placed.filled, placed.average_price) == (D(10), D("100.4"))
    venue.bust(second)
    assert (placed.filled, placed.average_price) == (D(4), D("100.25"))


@pytest.mark.parametrize(
    ("second", "filled", "average", "cash"),
    [
        (None, "6", "100.5", "-603"),
        ("100.50", "10", "100.5", "-1005"),
        ("100.00", "10", "100.3", "-1003"),
    ],
)
def test_execution_that_was_corrected_is_taken_back_or_corrected_at_the_price_it_has(
    second: str | None, filled: str, average: str, cash: str
) -> None:
    """D9: its first price was used: the average was wrong, and cash by the correction."""
    venue = exchange()
    quote(venue, "99.99", "100", size=4)
    placed = venue.submit(order("buy", 10, limit="101"))
    quote(venue, "100.49", "100.50", size=6)
    first = venue.journal.of("fill")[0]["execution_id"]
    venue.correct(first, D("100.25"))
    (standing,) = (row["execution_id"] for row in venue.journal.of("corrected"))
    if second is None:
        venue.bust(first)
        assert venue.journal.of("bust")[0]["execution_id"] == standing
    else:
        venue.correct(first, D(second))
        assert venue.journal.of("corrected")[1]["previous"] == standing
    assert (placed.filled, placed.average_price) == (D(filled), D(average))
    assert venue.state.account.cash - 100_000 == D(cash)


@pytest.mark.parametrize(
    ("meaning", "after"), [(ReplaceQuantity.TOTAL, 2), (ReplaceQuantity.FRESH, 2)]
)
def test_bust_shows_in_every_order_that_took_the_fill_over(
    meaning: ReplaceQuantity, after: int
) -> None:
    """D9: the last order of the chain still showed a fill that nobody had."""
    venue = exchange(matching=MatchingConfig(replace_quantity=meaning))
    quote(venue, "99.99", "100", size=4)
    placed = venue.submit(order("buy", 10, limit="100"))
    quote(venue, "100.24", "100.25", size=2)
    second = venue.replace(placed.id, ReplaceRequest(limit_price=D("99.75")))
    third = venue.replace(second.id, ReplaceRequest(limit_price=D("100.25")))
    execution = venue.journal.of("fill")[0]["execution_id"]
    carried = D(4) if meaning is ReplaceQuantity.TOTAL else D(0)
    assert (second.filled, third.filled) == (carried, carried + after)
    venue.correct(execution, D("99.50"))
    assert placed.average_price == D("99.50")
    venue.bust(execution)
    assert (placed.filled, second.filled, third.filled) == (D(0), D(0), D(after))
    assert third.average_price == D("100.25")


def test_bust_of_an_order_that_should_be_dead_leaves_the_other_one_alone() -> None:
    """D1, D9: what filled after the change is not in the new order."""
    venue = exchange()
    venue.state.faults.add({"kind": "replace_doubles"})
    old = venue.submit(order("buy", 10, "99.00"))
    new = venue.replace(old.id, ReplaceRequest(limit_price=D("99.25")))
    quote(venue, "98.75", "99.00")
    mine = next(row for row in venue.journal.of("fill") if row["order_id"] == old.id)
    venue.bust(mine["execution_id"])
    assert (old.filled, new.filled) == (D(0), D(10))


def test_bust_of_a_leg_shows_in_the_leg_that_took_over() -> None:
    """D9."""
    venue = exchange(matching=MatchingConfig(replace_latency_s=D("0.3")))
    placed = combo_at_rest(venue)
    venue.replace(placed.id, ReplaceRequest(limit_price=D("4.05")))
    quote(venue, "12.00", "12.00", symbol=CALL_600.symbol, size=1)
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    assert placed.filled == 1, "while the change is on its way"
    advance_s(venue, 1)
    assert placed.replaced_by is not None
    new = venue.state.orders[placed.replaced_by]
    assert [new.filled, *(leg.filled for leg in new.legs)] == [1, 1, 1]
    venue.bust(venue.journal.of("fill")[0]["execution_id"])
    assert [leg.filled for leg in placed.legs] == [0, 1]
    assert [leg.filled for leg in new.legs] == [0, 1]


def test_probability_is_seeded() -> None:
    def fired(seed: int) -> list[bool]:
        board = FaultBoard(seed)
        board.add({"kind": "reject", "match": {"probability": 0.5, "count": None}})
        return [board.take(FaultKind.REJECT) is not None for _ in range(50)]

    assert fired(1) == fired(1) != fired(2)
    assert 10 < sum(fired(1)) < 40


class Listener:
    """An in-process stream session that reads what has been pushed."""

    def __init__(self, face: AlpacaFace) -> None:
        self.session = face.hub.open()
        data = {"key_id": "SIM-PAPER-KEY", "secret_key": "sim-paper-secret"}
        self.session.receive(json.dumps({"action": "authenticate", "data": data}))
        streams = {"streams": ["trade_updates", "other"]}
        self.session.receive(json.dumps({"action": "listen", "data": streams}))

    async def frames(self) -> list[Any]:
        found: list[Any] = []
        self.session.push(b'{"stream": "end"}')
        while True:
            frame = await self.session.next_frame()
            assert isinstance(frame, bytes), "frames of the trading stream are binary"
            message = json.loads(frame)
            if message["stream"] == "end":
                return found
            found.append(message)


@pytest.mark.parametrize(
    ("kind", "match", "expected"),
    [
        (None, {}, ["new", "new", "fill", "canceled"]),
        ("stream_drop", {"event": "fill"}, ["new", "new", "canceled"]),
        ("stream_duplicate", {"event": "fill"}, ["new", "new", "fill", "fill", "canceled"]),
        ("stream_reorder", {"event": "fill"}, ["new", "new", "canceled", "fill"]),
        ("stream_silence", {"event": "fill"}, ["new", "new"]),
    ],
)
async def test_stream_fault_drops_doubles_swaps_or_silences(
    kind: str | None, match: dict[str, Any], expected: list[str]
) -> None:
    """F1, F2, F3."""
    venue = exchange()
    listener = Listener(AlpacaFace(venue))
    if kind is not None:
        venue.state.faults.add({"kind": kind, "match": match})
    resting = venue.submit(order("buy", 10, "99.00"))
    venue.submit(order("buy", 10))
    venue.cancel(resting.id)
    greeting, listening, *events = await listener.frames()
    assert greeting["data"] == {"status": "authorized", "action": "authenticate"}
    assert listening["data"] == {"streams": ["trade_updates"]}
    assert [event["data"]["event"] for event in events] == expected


async def test_stream_tells_each_leg_execution_of_a_combo_then_the_combo() -> None:
    venue = exchange()
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", symbol=CALL_610.symbol)
    listener = Listener(AlpacaFace(venue))
    legs = ((CALL_600, "buy", 1, "buy_to_open"), (CALL_610, "sell", 1, "sell_to_open"))
    placed = venue.submit(combo(2, "4.20", *legs))
    events = [frame["data"] for frame in (await listener.frames())[2:]]
    assert [(e["event"], e["order"]["symbol"], e.get("price")) for e in events] == [
        ("new", "", None),
        ("fill", CALL_600.symbol, "12.2"),
        ("fill", CALL_610.symbol, "8"),
        ("fill", "", "4.2"),
    ]
    assert [event["order"]["id"] for event in events[1:3]] == [leg.id for leg in placed.legs]
    executions = [event.get("execution_id") for event in events]
    assert executions[1:3] == [row["execution_id"] for row in venue.journal.of("fill")]
    assert executions[3] is None


async def test_stream_disconnect_closes_every_session() -> None:
    venue = exchange()
    listener = Listener(AlpacaFace(venue))
    venue.state.faults.add({"kind": "stream_disconnect"})
    venue.submit(order("buy", 10))
    frames = [await listener.session.next_frame() for _ in range(3)]
    assert frames[2] is None


async def test_stream_without_a_socket_ends_like_a_lost_connection() -> None:
    venue = exchange()
    face = AlpacaFace(venue)
    async with face.hub.connect() as socket:
        await socket.send('{"action": "listen", "data": {"streams": ["trade_updates"]}}')
        assert b"unauthorized" in await socket.recv()
        face.hub.close_all()
        with pytest.raises(ConnectionResetError):
            await socket.recv()


async def test_stream_with_a_wrong_key_is_unauthorized_and_hears_nothing() -> None:
    venue = exchange()
    session = AlpacaFace(venue).hub.open()
    session.receive('{"action": "authenticate", "data": {"key_id": "x", "secret_key": "y"}}')
    session.receive('{"action": "listen", "data": {"streams": ["trade_updates"]}}')
    session.receive("not json")
    venue.submit(order("buy", 10))
    session.push(b"{}")
    frames = [json.loads(await session.next_frame() or b"") for _ in range(3)]
    assert [frame.get("data", {}).get("status") for frame in frames] == [
        "unauthorized",
        "unauthorized",
        None,
    ]


async def wait_for(condition: Callable[[], bool]) -> None:
    """Polls with a deadline."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < end_s, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def test_running_clock_plays_the_market_by_itself() -> None:
    venue = exchange()
    placed = venue.submit(order("buy", 10, "99.00"))
    venue.state.schedule(60, lambda: quote(venue, "98.75", "99.00"))
    async with SimulatorServer(venue, SimClock(venue.now, D(2000))):
        await wait_for(lambda: placed.status is Status.FILLED)


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b"{}",
        b'{"symbol":"ESX","qty":NaN,"side":"buy","type":"market","time_in_force":"day"}',
        b'{"symbol":"ESX","qty":"1e400","side":"buy","type":"market","time_in_force":"day"}',
        b'{"symbol":"ESX","qty":"1","side":"hold","type":"market","time_in_force":"day"}',
        b'{"symbol":["ESX"],"qty":"1","side":"buy","type":"market","time_in_force":"day"}',
        b'{"symbol":"ESX","qty":"1","notional":"1","side":"buy","type":"market"}',
        b'{"order_class":"mleg","qty":"1","type":"market","time_in_force":"day","legs":[1,2]}',
        b'{"symbol":"ESX","qty":"1","side":"buy","type":"trailing_stop","time_in_force":"day"}',
    ],
)
async def test_unreadable_order_is_422_journalled_and_changes_nothing(
    rig: Rig, body: bytes
) -> None:
    answer = await rig.client.post("/v2/orders", content=body)
    assert answer.status_code == 422
    assert set(answer.json()) == {"code", "message"}
    assert [row["kind"] for row in rig.venue.journal.rows[-2:]] == ["request", "refused"]
    assert rig.venue.state.orders == {}


@pytest.mark.parametrize(
    "path",
    [
        "/v2/orders?status=strange",
        "/v2/orders?limit=-1",
        "/v2/orders?after=yesterday",
        "/v2/account/activities?page_token=nobody",
        "/v2/options/contracts?strike_price_gte=abc",
    ],
)
async def test_unreadable_query_is_422(rig: Rig, path: str) -> None:
    assert (await rig.client.get(path)).status_code == 422


async def test_clock_names_the_halted_symbols(rig: Rig) -> None:
    rig.venue.halt(SYMBOL)
    assert (await rig.client.get("/v2/clock")).json()["halted_symbols"] == [SYMBOL]
    rig.venue.resume(SYMBOL)
    assert (await rig.client.get("/v2/clock")).json()["halted_symbols"] == []
