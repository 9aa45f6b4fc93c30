"""Tradier's words: recorded payloads read whole, the marks of XML, sums instead of executions."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.port import FrameProblem, OrderUpdate
from brokers.tradier import facts, mapping, outcomes
from brokers.tradier.config import TradierConfig
from brokers.tradier.executions import execution_page, remembered_ids
from brokers.tradier.requests import order_request, replace_request
from brokers.tradier.stream import order_updates, stream_event
from brokers.tradier.wire import WireEvent, rows
from brokers.transport import Reply, parse_json
from domain.errors import BadInput, Refused, Uncertain
from domain.ids import IntentKey, Purpose
from domain.order import (
    BrokerOrderStatus,
    Fill,
    OpenClose,
    OrderBody,
    OrderClass,
    OrderIntent,
    OrderLeg,
    OrderType,
    Side,
    TimeInForce,
)

D = Decimal
CALL, CALL_ABOVE = "SPY261218C00600000", "SPY261218C00610000"
# The shape of QuantConnect/Lean.Brokerages.Tradier, TradierBrokerageSerializationTests L33.
ROW: dict[str, Any] = {
    "id": 69183,
    "type": "limit",
    "symbol": "AAPL",
    "side": "buy",
    "quantity": D("128.0"),
    "status": "filled",
    "duration": "gtc",
    "price": D("115.83"),
    "avg_fill_price": D("115.83"),
    "exec_quantity": D("128.0"),
    "last_fill_price": D("115.83"),
    "last_fill_quantity": D("128.0"),
    "remaining_quantity": D("0.0"),
    "create_date": "2015-09-14T13:52:00.450Z",
    "transaction_date": "2015-09-14T13:52:05.000Z",
    "class": "equity",
}


def intent(*, increasing: bool = True, **body: Any) -> OrderIntent:
    values: dict[str, Any] = {
        "symbol": "SPY",
        "side": Side.BUY,
        "quantity": D(2),
        "order_type": OrderType.LIMIT,
        "limit_price": D("3.15"),
        "intent_date": date(2026, 3, 4),
    }
    key = IntentKey(trade_id="t", purpose=Purpose.ENTRY, sequence=1)
    return OrderIntent.derive("beef", key, OrderBody(**values | body), increasing=increasing)


def group(kind: str, *legs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    base = {"id": 700, "class": kind, "status": "open", "duration": "gtc", "tag": "our-tag"}
    return {**base, "leg": list(legs), **fields}


def member(number: int, **fields: Any) -> dict[str, Any]:
    quiet = {"exec_quantity": D(0), "avg_fill_price": D(0), "status": "open", "quantity": D(128)}
    return {**ROW, **quiet, "id": number, **fields}


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"orders": "null"}, 0),
        ({"orders": None}, 0),
        ({"orders": {"order": ROW}}, 1),
        ({"orders": {"order": [ROW, ROW]}}, 2),
        ({"orders": {"order": []}}, 0),
    ],
)
def test_empty_list_is_a_word_and_a_list_of_one_an_object(body: Any, count: int) -> None:
    assert len(rows(body, "orders", "order")) == count


@pytest.mark.parametrize("body", [{"orders": 7}, {"orders": {"order": 7}}, [], "null", {"a": {}}])
def test_body_without_orders_is_not_an_empty_list(body: Any) -> None:
    """R6: missing is not flat."""
    with pytest.raises(Uncertain):
        rows(body, "orders", "order")


def test_recorded_order_is_read_whole() -> None:
    order = mapping.order_snapshot(ROW)
    assert (order.broker_order_id, order.symbol, order.side) == ("69183", "AAPL", Side.BUY)
    assert (order.status, order.quantity, order.filled_quantity) == (
        BrokerOrderStatus.FILLED,
        D(128),
        D(128),
    )
    assert (order.limit_price, order.average_fill_price) == (D("115.83"), D("115.83"))
    assert order.time_in_force is TimeInForce.GTC
    assert order.updated_at == datetime(2015, 9, 14, 13, 52, 5, tzinfo=UTC)


def test_null_words_are_missing_values_not_text() -> None:
    order = mapping.order_snapshot({**ROW, "stop_price": "null", "tag": "null", "price": "null"})
    assert (order.stop_price, order.client_id, order.limit_price) == (None, None, None)


@pytest.mark.parametrize("word", ["done", "", None, 7])
def test_unknown_status_is_unknown_beside_the_word(word: Any) -> None:
    """§3 row 57."""
    assert mapping.order_snapshot({**ROW, "status": word}).status is BrokerOrderStatus.UNKNOWN


@pytest.mark.parametrize("bad", [None, 0, -1, 1.5, "a", "", True])
def test_order_without_a_whole_id_is_refused(bad: Any) -> None:
    """§3 row 59."""
    with pytest.raises(Uncertain) as odd:
        mapping.order_snapshot({**ROW, "id": bad})
    assert odd.value.code == "BROKER_ID_TYPE"


def test_more_filled_than_asked_for_is_doubtful() -> None:
    """§3 row 58."""
    order = mapping.order_snapshot({**ROW, "exec_quantity": D(129)})
    assert (order.status, order.reject_code) == (BrokerOrderStatus.UNKNOWN, "FILL_INCONSISTENT")


def test_oco_is_its_target_under_the_containers_id_with_the_stop_as_child() -> None:
    row = group(
        "oco",
        member(701, type="stop", side="sell", stop_price=D("95"), price=None),
        member(702, type="limit", side="sell", price=D("110")),
    )
    order = mapping.order_snapshot(row)
    assert (order.broker_order_id, order.client_id) == ("700", "our-tag")
    assert (order.order_class, order.limit_price) == (OrderClass.OCO, D(110))
    (stop,) = order.legs
    assert (stop.broker_order_id, stop.parent_broker_id, stop.stop_price) == ("701", "700", D(95))
    assert stop.status is BrokerOrderStatus.WORKING


def test_otoco_is_its_entry_and_the_exits_wait_for_it() -> None:
    row = group(
        "otoco",
        member(701),
        member(702, type="limit", side="sell", status="pending"),
        member(703, type="stop", side="sell", stop_price=D("95"), status="pending"),
    )
    order = mapping.order_snapshot(row)
    assert (order.order_class, order.side) == (OrderClass.BRACKET, Side.BUY)
    assert [leg.status for leg in order.legs] == [BrokerOrderStatus.HELD] * 2


def test_multileg_has_a_signed_net_price_and_no_symbol() -> None:
    legs = [
        member(701, symbol="SPY", option_symbol=CALL, side="buy_to_open", quantity=D(2)),
        member(702, symbol="SPY", option_symbol=CALL_ABOVE, side="sell_to_open", quantity=D(2)),
    ]
    row = group("multileg", *legs, type="credit", price=D("1.25"), quantity=D(2), symbol="SPY")
    order = mapping.order_snapshot(row)
    assert (order.order_class, order.symbol, order.side) == (OrderClass.COMBO, "", None)
    assert order.limit_price == D("-1.25")
    assert [(leg.symbol, leg.side) for leg in order.legs] == [
        (CALL, Side.BUY),
        (CALL_ABOVE, Side.SELL),
    ]


def test_fill_is_a_sum_known_by_order_and_cumulative_quantity() -> None:
    """I7, ADR 0017."""
    (fill,) = mapping.fills_of(mapping.read_order({**ROW, "tag": "our-tag"}))
    assert isinstance(fill, Fill)
    assert fill.is_sum
    assert (fill.fill_key, fill.client_id, fill.quantity) == ("69183:128", "our-tag", D(128))


def test_fill_of_a_groups_first_member_belongs_to_the_container() -> None:
    filled = {"status": "filled", "exec_quantity": D(128), "avg_fill_price": D(110)}
    row = group(
        "oco",
        member(701, type="limit", side="sell", price=D("110"), **filled),
        member(702, type="stop", side="sell", stop_price=D("95"), status="canceled"),
    )
    (fill,) = mapping.fills_of(mapping.read_order(row))
    assert isinstance(fill, Fill)
    assert (fill.broker_order_id, fill.fill_key) == ("700", "700:128")


def test_stop_of_a_group_fills_under_its_own_id() -> None:
    filled = {"status": "filled", "exec_quantity": D(128), "avg_fill_price": D(95)}
    row = group(
        "oco",
        member(701, type="limit", side="sell", price=D("110"), status="canceled"),
        member(702, type="stop", side="sell", stop_price=D("95"), **filled),
    )
    (fill,) = mapping.fills_of(mapping.read_order(row))
    assert isinstance(fill, Fill)
    assert (fill.broker_order_id, fill.client_id) == ("702", None)


def test_fill_without_a_price_is_a_problem_not_a_crash() -> None:
    (told,) = mapping.fills_of(mapping.read_order({**ROW, "avg_fill_price": D(0)}))
    assert isinstance(told, FrameProblem)


def test_page_remembers_what_still_works() -> None:
    """An order of yesterday is not listed today (tradier.md §6)."""
    working = mapping.read_order(member(9))
    page = execution_page((mapping.read_order(ROW), working))
    assert page.cursor == "o|9"
    assert remembered_ids(page.cursor) == ("9",)
    assert remembered_ids(execution_page(()).cursor) == ()


@pytest.mark.parametrize("cursor", ["", "t|2026", "o|1,", "o|x"])
def test_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(BadInput, match="PAGE_INVALID"):
        remembered_ids(cursor)


@pytest.mark.parametrize(
    ("side", "increasing", "word"),
    [
        (Side.BUY, True, "buy"),
        (Side.SELL, False, "sell"),
        (Side.SELL, True, "sell_short"),
        (Side.BUY, False, "buy_to_cover"),
    ],
)
def test_side_says_whether_it_opens(side: Side, increasing: bool, word: str) -> None:
    assert order_request(intent(side=side, increasing=increasing))["side"] == word


def test_single_option_names_underlying_and_contract() -> None:
    wish = intent(symbol=CALL)
    assert order_request(wish) == {
        "class": "option",
        "symbol": "SPY",
        "option_symbol": CALL,
        "side": "buy_to_open",
        "quantity": "2",
        "type": "limit",
        "duration": "day",
        "price": "3.15",
        "tag": wish.client_id,
    }


def test_class_share_has_a_slash_on_the_wire() -> None:
    assert order_request(intent(symbol="BRK.B"))["symbol"] == "BRK/B"


def test_multileg_says_debit_or_credit_and_open_or_close() -> None:
    legs = (
        OrderLeg(symbol=CALL, side=Side.BUY),
        OrderLeg(symbol=CALL_ABOVE, side=Side.SELL, ratio=2, effect=OpenClose.CLOSE),
    )
    form = order_request(intent(order_class=OrderClass.COMBO, legs=legs, limit_price=D("-1.25")))
    assert (form["class"], form["type"], form["price"]) == ("multileg", "credit", "1.25")
    assert (form["side[1]"], form["quantity[1]"]) == ("sell_to_close", "4")


def test_oco_is_target_then_stop_on_the_same_side() -> None:
    wish = intent(
        side=Side.SELL,
        increasing=False,
        limit_price=D(110),
        order_class=OrderClass.OCO,
        stop_loss_price=D(95),
        time_in_force=TimeInForce.GTC,
    )
    form = order_request(wish)
    assert (form["class"], form["duration"]) == ("oco", "gtc")
    assert (form["type[0]"], form["price[0]"], form["side[0]"]) == ("limit", "110", "sell")
    assert (form["type[1]"], form["stop[1]"], form["side[1]"]) == ("stop", "95", "sell")


def test_otoco_opens_with_the_first_and_closes_with_the_others() -> None:
    wish = intent(order_class=OrderClass.BRACKET, take_profit_price=D(110), stop_loss_price=D(95))
    form = order_request(wish)
    assert form["class"] == "otoco"
    assert [form[f"side[{n}]"] for n in range(3)] == ["buy", "sell", "sell"]


@pytest.mark.parametrize(
    "body",
    [
        {"quantity": D("0.5")},
        {"limit_price": None},
        {"order_type": OrderType.STOP},
        {"time_in_force": TimeInForce.IOC},
        {"order_class": OrderClass.BRACKET, "take_profit_price": D(110)},
        {
            "order_class": OrderClass.BRACKET,
            "order_type": OrderType.MARKET,
            "take_profit_price": D(110),
            "stop_loss_price": D(95),
        },
        {"order_class": OrderClass.OCO, "limit_price": D(110)},
    ],
)
def test_body_that_the_wire_cannot_say_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="ORDER_BODY_INVALID"):
        order_request(intent(**body))


def test_replace_names_prices_and_never_a_quantity() -> None:
    assert replace_request(intent()) == {"type": "limit", "duration": "day", "price": "3.15"}
    stop = intent(order_type=OrderType.STOP, limit_price=None, stop_price=D(96))
    assert replace_request(stop) == {"type": "stop", "duration": "day", "stop": "96"}


def test_event_is_read_heartbeat_is_nothing_and_a_refusal_ends_the_stream() -> None:
    frame = '{"event":"order","id":5,"parent_id":4,"status":"filled","account":"VA1"}'
    event = stream_event(frame)
    assert isinstance(event, WireEvent)
    assert (event.id, event.parent_id) == ("5", "4")
    assert stream_event('{"event":"heartbeat","status":"active","timestamp":1}') is None
    assert isinstance(stream_event("garbage"), FrameProblem)
    assert isinstance(stream_event('{"event":"other"}'), FrameProblem)
    with pytest.raises(Refused):
        stream_event("Invalid Access Token")


def test_update_is_told_once_per_sum() -> None:
    (update,) = order_updates("filled", mapping.read_order(ROW))
    assert isinstance(update, OrderUpdate)
    assert update.fill is not None
    (quiet,) = order_updates("open", mapping.read_order(member(9)))
    assert isinstance(quiet, OrderUpdate)
    assert quiet.fill is None


def test_positions_have_a_sign_and_an_average() -> None:
    body = {
        "positions": {
            "position": [
                {"symbol": "BRK/B", "quantity": D(-2), "cost_basis": D(-800), "id": 1},
                {"symbol": CALL, "quantity": D(3), "cost_basis": D(600), "id": 2},
            ]
        }
    }
    short, option = facts.positions(body)
    assert (short.symbol, short.quantity, short.average_price) == ("BRK.B", D(-2), D(400))
    assert option.average_price == D(2)


def test_account_reads_the_part_of_its_kind() -> None:
    body = {
        "balances": {
            "account_type": "margin",
            "total_equity": D("1000.50"),
            "total_cash": D(500),
            "margin": {"stock_buying_power": D(2000), "option_buying_power": D(1000)},
            "cash": "null",
        }
    }
    profile = {"profile": {"account": {"account_number": "VA1", "status": "active"}}}
    seen = facts.profile_account(profile, "VA1")
    account = facts.account_snapshot(body, seen, "tradier", datetime(2026, 3, 4, tzinfo=UTC))
    assert (account.equity, account.buying_power) == (D("1000.50"), D(2000))
    assert account.options_buying_power == D(1000)
    assert not account.trading_blocked
    assert facts.profile_account(profile, "VA2") is None


def test_clock_takes_open_and_close_from_the_calendar() -> None:
    day = {"status": "open", "open": {"start": "09:30", "end": "16:00"}}
    days = [{**day, "date": "2026-03-04"}, {**day, "date": "2026-03-05"}]
    days.append({"date": "2026-03-07", "status": "closed", "description": "Market is closed"})
    known = facts.sessions({"calendar": {"days": {"day": days}}})
    body = {"clock": {"state": "open", "timestamp": 1772636400}}
    now, is_open = facts.clock_of(body)
    clock = facts.market_clock(now, is_open, known)
    assert clock.market_now == datetime(2026, 3, 4, 15, 0, tzinfo=UTC)
    assert clock.opened_at == datetime(2026, 3, 4, 14, 30, tzinfo=UTC)
    assert clock.next_close == datetime(2026, 3, 4, 21, 0, tzinfo=UTC)
    assert clock.next_open == datetime(2026, 3, 5, 14, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "live", "key_id": "6YA1"},
        {"mode": "live", "key_id": "VA1", "allow_live": True},
        {"mode": "paper", "key_id": "6YA1"},
        {"mode": "paper", "key_id": "VA1", "trading_url": "https://api.tradier.com"},
        {"mode": "simulator", "key_id": "VA1"},
        {"mode": "simulator", "key_id": "VA1", "trading_url": "https://sandbox.tradier.com"},
        {"mode": "paper", "key_id": ""},
    ],
)
def test_parts_that_do_not_belong_together_refuse_to_start(values: dict[str, Any]) -> None:
    """§3 row 50."""
    with pytest.raises(BadInput, match="CONFIG_ENV_MISMATCH"):
        TradierConfig(secret="token", **values)


def test_session_id_goes_to_the_venue_only() -> None:
    config = TradierConfig(key_id="VA1", secret="token", mode="paper")
    assert config.allows_stream("wss://sandbox-ws.tradier.com/v1/accounts/events")
    assert not config.allows_stream("ws://sandbox-ws.tradier.com/v1/accounts/events")
    assert not config.allows_stream("wss://tradier.com.example.org/")


def recorded(shared_data: Path, name: str) -> Any:
    body = parse_json((shared_data / "payloads" / name).read_text(encoding="utf-8"))
    assert isinstance(body, dict)
    return body["payload"]


@pytest.mark.shared
def test_recorded_quotes_are_read_one_or_many(shared_data: Path) -> None:
    one = facts.quote_rows(recorded(shared_data, "tradier-openbb/quotes_single_PLTR.json"))
    many = facts.quote_rows(recorded(shared_data, "tradier-openbb/quotes_etf_and_option_SPY.json"))
    assert (set(one), len(many)) == ({"PLTR"}, 2)
    quote = facts.quote_of("PLTR", one["PLTR"])
    assert quote is not None
    assert (quote.bid, quote.ask, quote.venue_time.year) == (D("25.49"), D("25.5"), 2024)
    option = facts.asset_info("SPY251219P00450000", many["SPY251219P00450000"], frozenset())
    assert (option.instrument.kind, option.instrument.multiplier) == ("option", D(100))
    assert facts.asset_info("SPY", many["SPY"], frozenset({"SPY"})).shortable


@pytest.mark.shared
def test_recorded_order_and_fault_are_read(shared_data: Path) -> None:
    folder = shared_data / "payloads" / "tradier-lean"
    (order,) = folder.glob("*NullStringValues*")
    body = recorded(shared_data, f"tradier-lean/{order.name}")
    (row,) = rows(body, "orders", "order")
    assert mapping.order_snapshot(row).filled_quantity == D(128)
    (fault,) = folder.glob("*TransientFault*")
    content = json.dumps(recorded(shared_data, f"tradier-lean/{fault.name}")).encode()
    reply = Reply(401, {}, content)
    error = outcomes.refused_read(reply, datetime(2026, 3, 4, tzinfo=UTC))
    assert (error.code, error.text) == ("AUTH_NEEDED", "Access Token expired")
