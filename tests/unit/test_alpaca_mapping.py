"""Alpaca's words: recorded payloads read whole, odd values land where they can be seen."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from brokers.alpaca import mapping
from brokers.alpaca.config import AlpacaConfig, AlpacaMode
from brokers.alpaca.requests import order_request, replace_request
from brokers.port import FeeActivity, FrameProblem, OrderUpdate
from brokers.transport import parse_json
from brokers.wire import decimal_text
from domain.errors import BadInput, Uncertain
from domain.ids import IntentKey, Purpose
from domain.instrument import InstrumentKind
from domain.order import (
    BrokerOrderStatus,
    Fill,
    OrderBody,
    OrderClass,
    OrderIntent,
    OrderSnapshot,
    OrderType,
    Side,
    TimeInForce,
)
from domain.sums import fill_key

NOW = datetime(2026, 3, 4, 15, 0, tzinfo=UTC)
STATUSES = {
    "accepted": BrokerOrderStatus.PENDING,
    "pending_new": BrokerOrderStatus.PENDING,
    "accepted_for_bidding": BrokerOrderStatus.PENDING,
    "pending_review": BrokerOrderStatus.PENDING,
    "new": BrokerOrderStatus.WORKING,
    "partially_filled": BrokerOrderStatus.WORKING,
    "stopped": BrokerOrderStatus.WORKING,
    "done_for_day": BrokerOrderStatus.WORKING,
    "calculated": BrokerOrderStatus.WORKING,
    "held": BrokerOrderStatus.HELD,
    "suspended": BrokerOrderStatus.HELD,
    "pending_cancel": BrokerOrderStatus.PENDING_CANCEL,
    "pending_replace": BrokerOrderStatus.PENDING_REPLACE,
    "filled": BrokerOrderStatus.FILLED,
    "canceled": BrokerOrderStatus.CANCELED,
    "expired": BrokerOrderStatus.EXPIRED,
    "replaced": BrokerOrderStatus.REPLACED,
    "rejected": BrokerOrderStatus.REJECTED,
    "cancelled": BrokerOrderStatus.UNKNOWN,
    "FILLED": BrokerOrderStatus.UNKNOWN,
}


def order_row(**fields: Any) -> dict[str, Any]:
    return {
        "id": "o1",
        "client_order_id": "c1",
        "symbol": "ESX",
        "side": "buy",
        "type": "limit",
        "time_in_force": "day",
        "qty": "10",
        "filled_qty": "0",
        "status": "new",
        **fields,
    }


def intent(**body: Any) -> OrderIntent:
    fields: dict[str, Any] = {
        "symbol": "ESX",
        "side": Side.BUY,
        "quantity": Decimal(10),
        "order_type": OrderType.LIMIT,
        "limit_price": Decimal("100.00"),
        "intent_date": NOW.date(),
    }
    return OrderIntent.derive(
        "beef",
        IntentKey(trade_id="t", purpose=Purpose.ENTRY, sequence=1),
        OrderBody(**(fields | body)),
        increasing=True,
    )


@pytest.mark.parametrize(("word", "status"), STATUSES.items())
def test_each_status_word_has_its_meaning(word: str, status: BrokerOrderStatus) -> None:
    order = mapping.order_snapshot(order_row(status=word))
    assert (order.status, order.raw_status) == (status, word)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"id": None}, "BROKER_ID_TYPE"),
        ({"id": 7}, "BROKER_ID_TYPE"),
        ({"id": "a\nb"}, "BROKER_ID_TYPE"),
        ({"qty": "NaN"}, "BROKER_BAD_BODY"),
        ({"qty": True}, "BROKER_BAD_BODY"),
        ({"filled_qty": "1e400"}, "BROKER_BAD_BODY"),
        ({"legs": [{"id": None}]}, "BROKER_ID_TYPE"),
        ({"legs": "none"}, "BROKER_BAD_BODY"),
    ],
)
def test_order_that_cannot_be_trusted_is_not_read(fields: dict[str, Any], code: str) -> None:
    with pytest.raises(Uncertain) as odd:
        mapping.order_snapshot(order_row(**fields))
    assert odd.value.code == code


@pytest.mark.parametrize("row", [None, [], "order", {}])
def test_what_is_no_order_is_not_read(row: object) -> None:
    with pytest.raises(Uncertain):
        mapping.order_snapshot(row)


@pytest.mark.parametrize(
    "fields",
    [
        {"filled_qty": "11", "filled_avg_price": "100"},
        {"filled_qty": "5", "filled_avg_price": "0"},
        {"filled_qty": "-1"},
        {"qty": "-10"},
    ],
)
def test_contradicting_quantities_are_quarantined_not_believed(fields: dict[str, Any]) -> None:
    """§3 row 58."""
    order = mapping.order_snapshot(order_row(status="filled", **fields))
    assert order.status is BrokerOrderStatus.UNKNOWN
    assert (order.reject_code, order.raw_status) == ("FILL_INCONSISTENT", "filled")


def test_odd_words_times_and_prices_are_absent_not_fatal() -> None:
    order = mapping.order_snapshot(
        order_row(
            side="hold",
            type="trailing_stop",
            time_in_force="opg",
            limit_price="NaN",
            stop_price="0",
            submitted_at="2026-03-04 15:00",
            replaced_by="",
            new_field={"x": 1},
        )
    )
    assert (order.side, order.order_type, order.time_in_force) == (None, None, None)
    assert (order.limit_price, order.stop_price) == (None, None)
    assert (order.submitted_at, order.replaced_by_broker_id) == (None, None)


def test_average_with_more_digits_than_a_price_is_rounded_not_refused() -> None:
    order = mapping.order_snapshot(
        order_row(filled_qty="3", filled_avg_price="100.33333333333333333333")
    )
    assert order.average_fill_price == Decimal("100.333333333333")


def test_order_snapshot_travels_as_json() -> None:
    order = mapping.order_snapshot(order_row(symbol="A\ud800PL", legs=[order_row(id="leg")]))
    text = order.model_dump_json()
    assert OrderSnapshot.model_validate_json(text) == order


@settings(max_examples=100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.decimals(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=6,
    ),
    st.sampled_from(["id", "qty", "filled_qty", "status", "legs", "side", "submitted_at", "price"]),
)
def test_any_value_in_any_field_is_read_or_refused_with_a_code(value: Any, field: str) -> None:
    row = order_row(**{field: value})
    code = ""
    try:
        mapping.order_snapshot(row)
    except Uncertain as odd:
        code = odd.code
    assert code in ("", "BROKER_ID_TYPE", "BROKER_BAD_BODY")
    found = mapping.activity({"activity_type": "FILL", **row})
    assert isinstance(found, FrameProblem | Fill)


@pytest.mark.covers("F2")
def test_fill_key_is_the_same_from_activity_and_stream() -> None:
    row = {
        "activity_type": "FILL",
        "id": "20260304100000000::x",
        "order_id": "o1",
        "symbol": "ESX",
        "side": "sell_short",
        "price": "100.5",
        "qty": "1.50",
        "cum_qty": "4.50",
        "transaction_time": "2026-03-04T15:00:00Z",
    }
    rest = mapping.activity(row)
    event = mapping.trade_update(
        {
            "event": "partial_fill",
            "price": "100.5",
            "qty": "1.5",
            "timestamp": "2026-03-04T15:00:00Z",
            "order": order_row(side="sell_short", filled_qty="4.5", filled_avg_price="100.5"),
        }
    )[0]
    assert isinstance(rest, Fill)
    assert isinstance(event, OrderUpdate)
    assert event.fill is not None
    assert rest.fill_key == event.fill.fill_key == "o1:4.5"
    assert rest.side is Side.SELL


@pytest.mark.covers("D9")
@pytest.mark.parametrize("event", ["trade_bust", "trade_correct"])
def test_taken_back_execution_is_named_by_the_frame_that_takes_it_back(event: str) -> None:
    """D9: a correction carries what counts instead, under a key of its own."""
    frame = {
        "event": event,
        "execution_id": "e2",
        "previous_execution_id": "e1",
        "price": "100.4",
        "qty": "1.5",
        "timestamp": "2026-03-04T15:00:00Z",
        "order": order_row(filled_qty="4.5", filled_avg_price="100.5"),
    }
    (told,) = mapping.trade_update(frame)
    assert isinstance(told, OrderUpdate)
    assert told.busted_execution == "e1"
    if event == "trade_bust":
        assert told.fill is None
        return
    assert told.fill is not None
    assert (told.fill.fill_key, told.fill.price) == ("o1/corrected/e2", Decimal("100.4"))
    nameless = mapping.trade_update({**frame, "previous_execution_id": None})
    assert [type(each) for each in nameless] == [FrameProblem, OrderUpdate]


@settings(max_examples=100)
@given(st.decimals(min_value="0.000000001", max_value=10**9, places=9), st.integers(0, 6))
def test_fill_key_does_not_depend_on_how_the_number_is_written(
    quantity: Decimal, zeros: int
) -> None:
    padded = Decimal(decimal_text(quantity) + "0" * zeros)
    assert fill_key("o", padded) == fill_key("o", quantity) == fill_key("o", quantity.normalize())


def test_fee_without_a_proper_amount_is_a_problem_and_a_rebate_is_negative() -> None:
    """§3 row 62."""
    row = {"activity_type": "FEE", "id": "f1", "date": "2026-03-04", "net_amount": "0.02"}
    rebate = mapping.activity(row)
    assert isinstance(rebate, FeeActivity)
    assert (rebate.amount, rebate.venue_time) == (
        Decimal("-0.02"),
        datetime(2026, 3, 4, tzinfo=UTC),
    )
    for change in ({"net_amount": "NaN"}, {"net_amount": None}, {"currency": "EUR"}, {"date": ""}):
        problem = mapping.activity({**row, **change})
        assert isinstance(problem, FrameProblem)
        assert problem.code == "FEE_INVALID"
    assert mapping.activity({**row, "activity_type": "DIV"}) is None


def test_missing_sums_of_the_account_are_none_not_zero() -> None:
    """§3 row 63."""
    account = mapping.account_snapshot({"equity": "NaN", "cash": ""}, "paper", NOW)
    assert (account.equity, account.cash, account.buying_power) == (None, None, None)
    assert not account.trading_blocked
    blocked = mapping.account_snapshot({"account_blocked": True}, "paper", NOW)
    assert blocked.trading_blocked


def test_quote_without_a_side_has_none_and_without_a_time_is_absent() -> None:
    body = parse_json(
        b'{"quotes": {"A": {"t": "2026-03-04T15:00:00.123456789Z", "ap": 0, "as": 0, "bp": 99.9,'
        b' "bs": 2}, "B": {"ap": 1, "bp": 1}, "C": {"t": "2026-03-04T15:00:00Z", "bp": NaN},'
        b' "X": {"t": "2026-03-04T15:00:00Z"}, "D": null}}'
    )
    quotes = mapping.quotes(body, frozenset("ABCD"))
    assert set(quotes) == {"A", "C"}
    assert (quotes["A"].bid, quotes["A"].ask, quotes["A"].bid_size) == (
        Decimal("99.9"),
        None,
        Decimal(2),
    )
    assert (quotes["C"].bid, quotes["C"].ask) == (None, None)
    with pytest.raises(Uncertain):
        mapping.quotes({"message": "x"}, frozenset("A"))


def test_equity_without_increments_follows_the_penny_rule() -> None:
    info = mapping.asset_info({"symbol": "AAPL", "class": "us_equity", "tradable": True})
    instrument = info.instrument
    assert instrument.tick_at(Decimal("1.00")) == Decimal("0.01")
    assert instrument.tick_at(Decimal("0.99")) == Decimal("0.0001")
    assert info.tradable


def test_stated_increments_win_over_the_rule() -> None:
    info = mapping.asset_info(
        {
            "symbol": "BTC/USD",
            "class": "crypto",
            "status": "active",
            "tradable": True,
            "price_increment": "0.5",
            "min_trade_increment": "0.0001",
            "min_order_size": "0.0002",
        }
    )
    instrument = info.instrument
    assert instrument.kind is InstrumentKind.CRYPTO
    assert (instrument.tick_size, instrument.lot_size, instrument.min_quantity) == (
        Decimal("0.5"),
        Decimal("0.0001"),
        Decimal("0.0002"),
    )
    assert instrument.sub_dollar_tick_size is None


def test_asset_that_does_not_say_it_is_tradable_is_not() -> None:
    assert not mapping.asset_info({"symbol": "AAPL"}).tradable
    assert not mapping.asset_info(
        {"symbol": "AAPL", "tradable": True, "status": "inactive"}
    ).tradable


def test_option_contract_becomes_an_option_instrument() -> None:
    info = mapping.asset_info(
        {"symbol": "AAPL231103C00170000", "tradable": True, "status": "active", "size": "100"}
    )
    assert info.instrument.kind is InstrumentKind.OPTION
    assert (info.instrument.strike, info.instrument.multiplier) == (Decimal(170), Decimal(100))
    with pytest.raises(BadInput) as odd:
        mapping.asset_info({"symbol": "AAPL231103X00170000"})
    assert odd.value.code == "OCC_FORMAT"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"order_type": OrderType.MARKET, "limit_price": None, "time_in_force": TimeInForce.IOC},
            {"type": "market", "time_in_force": "ioc"},
        ),
        (
            {"order_type": OrderType.STOP, "limit_price": None, "stop_price": Decimal("95.5")},
            {"type": "stop", "stop_price": "95.5"},
        ),
        (
            {"order_type": OrderType.STOP_LIMIT, "stop_price": Decimal(95)},
            {"type": "stop_limit", "stop_price": "95", "limit_price": "100.00"},
        ),
        (
            {"order_class": OrderClass.OTO, "stop_loss_price": Decimal(95)},
            {"type": "limit", "order_class": "oto", "stop_loss": {"stop_price": "95"}}
            | {"limit_price": "100.00"},
        ),
        (
            {
                "order_class": OrderClass.BRACKET,
                "take_profit_price": Decimal(110),
                "stop_loss_price": Decimal(95),
                "stop_loss_limit_price": Decimal("94.5"),
                "time_in_force": TimeInForce.GTC,
            },
            {
                "type": "limit",
                "limit_price": "100.00",
                "time_in_force": "gtc",
                "order_class": "bracket",
                "take_profit": {"limit_price": "110"},
                "stop_loss": {"stop_price": "95", "limit_price": "94.5"},
            },
        ),
        (
            {"order_class": OrderClass.OCO, "side": Side.SELL, "stop_loss_price": Decimal(95)},
            {
                "type": "limit",
                "side": "sell",
                "order_class": "oco",
                "take_profit": {"limit_price": "100.00"},
                "stop_loss": {"stop_price": "95"},
            },
        ),
    ],
)
def test_each_order_shape_has_its_wire_form(body: dict[str, Any], expected: dict[str, Any]) -> None:
    wish = intent(**body)
    common = {
        "symbol": "ESX",
        "side": "buy",
        "qty": "10",
        "time_in_force": "day",
        "client_order_id": wish.client_id,
    }
    assert order_request(wish) == common | expected


def test_replace_of_a_group_member_sends_prices_only() -> None:
    stop = intent(
        order_class=OrderClass.OCO,
        order_type=OrderType.STOP,
        limit_price=None,
        stop_price=Decimal("96.25"),
    )
    assert replace_request(stop) == {"client_order_id": stop.client_id, "stop_price": "96.25"}
    simple = intent()
    assert replace_request(simple) == {
        "client_order_id": simple.client_id,
        "qty": "10",
        "limit_price": "100.00",
    }


PAPER = {"mode": AlpacaMode.PAPER, "key_id": "PKTEST", "secret": "s"}
LIVE = {"mode": AlpacaMode.LIVE, "key_id": "AKTEST", "secret": "s", "allow_live": True}
SIMULATOR = {"key_id": "any", "secret": "s", "trading_url": "http://127.0.0.1:1"}


def test_urls_follow_the_mode() -> None:
    live = AlpacaConfig(**LIVE)
    assert live.trading_url == "https://api.alpaca.markets"
    assert live.stream_url == "wss://api.alpaca.markets/stream"
    assert live.data_url == "https://data.alpaca.markets"
    assert AlpacaConfig(**PAPER).stream_url == "wss://paper-api.alpaca.markets/stream"
    simulated = AlpacaConfig(**SIMULATOR)
    assert simulated.stream_url == "ws://127.0.0.1:1/stream"
    assert simulated.data_url == simulated.trading_url


@pytest.mark.parametrize(
    "fields",
    [
        LIVE | {"allow_live": False},
        LIVE | {"key_id": "PKTEST"},
        LIVE | {"trading_url": "https://paper-api.alpaca.markets"},
        LIVE | {"trading_url": "http://api.alpaca.markets"},
        LIVE | {"data_url": "https://data.alpaca.markets.evil.example"},
        PAPER | {"key_id": "AKTEST"},
        PAPER | {"trading_url": "https://api.alpaca.markets"},
        PAPER | {"stream_url": "wss://api.alpaca.markets/stream"},
        PAPER | {"data_url": "http://data.alpaca.markets"},
        PAPER | {"key_id": ""},
        SIMULATOR | {"trading_url": ""},
        SIMULATOR | {"trading_url": "https://api.alpaca.markets"},
        SIMULATOR | {"secret": ""},
    ],
)
def test_settings_that_do_not_belong_together_refuse_to_start(fields: dict[str, Any]) -> None:
    """§3 row 50."""
    with pytest.raises(BadInput) as refused:
        AlpacaConfig(**fields)
    assert refused.value.code == "CONFIG_ENV_MISMATCH"
    assert "secret" not in str(refused.value).replace("a key and a secret", "")


def test_secret_is_never_shown() -> None:
    """S21."""
    config = AlpacaConfig(key_id="any", secret="canary-7f3a", trading_url="http://127.0.0.1:1")
    shown = [repr(config), str(config), config.model_dump_json(), str(config.model_dump())]
    assert not any("canary" in text for text in shown)
    assert config.headers()["APCA-API-SECRET-KEY"] == "canary-7f3a"


def payload(folder: Path, name: str) -> Any:
    text = (folder / "payloads" / name).read_text(encoding="utf-8")
    body = parse_json(text)
    assert isinstance(body, dict)
    return body["payload"]


@pytest.mark.shared
def test_every_recorded_order_is_read(shared_data: Path) -> None:
    read = 0
    for path in sorted((shared_data / "payloads" / "alpaca-py").glob("*order*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))["payload"]
        for row in found if isinstance(found, list) else [found]:
            if "client_order_id" in row:
                order = mapping.order_snapshot(row)
                assert order.status is not BrokerOrderStatus.UNKNOWN
                assert order.side is Side(row["side"])
                read += 1
    assert read >= 5


@pytest.mark.shared
def test_recorded_executions_are_read_with_distinct_keys(shared_data: Path) -> None:
    name = "test_account_activities_routes_test_get_activities_for_account_max_items_and_single"
    rows = payload(shared_data, f"alpaca-py/{name}_request_date_1.json")
    fills = [mapping.activity(row) for row in rows]
    assert all(isinstance(fill, Fill) for fill in fills)
    keys = {fill.fill_key for fill in fills if isinstance(fill, Fill)}
    assert len(keys) == len(rows)
    assert "cddf433b-1a41-497d-ae31-50b1fee56fff:2.792161878" in keys


@pytest.mark.shared
def test_recorded_account_clock_and_positions_are_read(shared_data: Path) -> None:
    row = payload(shared_data, "alpaca-py/test_account_routes_test_get_account_1.json")
    account = mapping.account_snapshot(row, "paper", NOW)
    assert (account.equity, account.cash) == (Decimal("103820.56"), Decimal("-23140.2"))
    assert (account.options_level, account.multiplier) == (1, Decimal(4))
    clock = mapping.market_clock(
        payload(shared_data, "alpaca-py/test_misc_routes_test_get_clock_1.json")
    )
    assert clock.market_now == datetime(2022, 5, 16, 20, 32, 24, 143735, tzinfo=UTC)
    name = "alpaca-py/test_trading_routes_test_get_all_positions_for_account_1.json"
    (position,) = map(mapping.position, payload(shared_data, name))
    assert (position.symbol, position.quantity) == ("AAPL", Decimal(5))


@pytest.mark.shared
def test_recorded_quotes_are_read(shared_data: Path) -> None:
    body = payload(shared_data, "alpaca-go/marketdata_rest_TestLatestQuotes_L767.json")
    quotes = mapping.quotes(body, frozenset({"F", "TSLA"}))
    assert (quotes["F"].bid, quotes["F"].ask) == (Decimal("15.01"), Decimal("15.07"))
    assert set(quotes) == {"F", "TSLA"}
    body = payload(shared_data, "alpaca-go/marketdata_options_TestGetLatestOptionQuote_L105.json")
    symbol = "SPXW240327P04925000"
    assert mapping.quotes(body, frozenset({symbol}))[symbol].ask == Decimal("11.7")
    assert mapping.symbol_kind(symbol) == mapping.SYMBOL_KIND_OPTION


def test_capability_row_is_json() -> None:
    adapter = TypeAdapter(type(mapping.ALPACA_CAPABILITIES))
    text = adapter.dump_json(mapping.ALPACA_CAPABILITIES)
    assert adapter.validate_json(text) == mapping.ALPACA_CAPABILITIES
