"""Bad input: one code for each row of faults.md §3, before anything durable has happened."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from domain.clock import real_time
from domain.errors import BadInput, Refused
from domain.evidence import (
    attribute_fill,
    check_account,
    check_order_progress,
    check_quote,
    read_broker_id,
    read_fee,
    read_status,
)
from domain.idempotency import (
    CommandState,
    SeenCommand,
    body_hash,
    check_no_collision,
    check_repeat,
)
from domain.order import BrokerOrderStatus, Fill, OrderSnapshot, Quote, Side
from domain.plan import TradePlan
from domain.plan_context import PlanContext
from domain.symbols import check_symbol
from domain.validation import check_plan, faults_of, plan_faults, read_timestamp
from marketdata.zones import local_instant
from tests.unit.bad_plans import BAD_PLANS, CONTEXT, Bad, changed, good_plan
from tests.unit.risk_world import NOW, account


def _name(bad: Bad) -> str:
    return f"row{bad.row}-{bad.code}-{ascii(bad.changes)[:50]}"


@pytest.mark.parametrize("base", ["share", "absolute", "condor"])
def test_good_plan_passes_every_edge(base: str) -> None:
    values = good_plan(base)
    body = json.dumps(values).encode()
    assert plan_faults(values, CONTEXT) == ()
    assert check_plan(body, CONTEXT) == check_plan(values, CONTEXT)
    assert check_plan(TradePlan.model_validate(values), CONTEXT).trade_id == values["trade_id"]


@pytest.mark.parametrize("bad", BAD_PLANS, ids=_name)
def test_bad_plan_is_refused_with_its_code(bad: Bad) -> None:
    values = changed(bad.base, bad.changes)
    with pytest.raises(BadInput) as caught:
        check_plan(values, bad.context)
    assert caught.value.code == bad.code
    assert caught.value.field
    # One form for all, and what is allowed is no word of the parser.
    assert re.fullmatch(rf"{bad.code} \S+: value was .+, allowed .+", caught.value.text)
    assert not re.search(r"Input should|Field required|not permitted|\w=", caught.value.allowed)
    assert len(caught.value.value) <= 60
    assert caught.value.value.isascii()
    assert bad.code in {fault.code for fault in plan_faults(values, bad.context)}


@pytest.mark.parametrize("bad", BAD_PLANS, ids=_name)
def test_bad_plan_file_is_refused_with_the_same_code(bad: Bad) -> None:
    body = json.dumps(changed(bad.base, bad.changes)).encode()
    with pytest.raises(BadInput) as caught:
        check_plan(body, bad.context)
    assert caught.value.code == bad.code


def test_the_table_covers_the_rows_of_a_plan() -> None:
    pure = set(range(1, 21)) | {22, 23, 24, 27, 28, 29, 30, 31, 35, 42}
    assert {bad.row for bad in BAD_PLANS} == pure


def test_a_json_number_of_too_many_digits_is_a_matter_of_precision() -> None:
    """Row 5: 0.1 + 0.2 as a JSON number arrives exact, with 17 decimals."""
    body = json.dumps(changed("share", {"walk.worst_price": 0.1 + 0.2})).encode()
    with pytest.raises(BadInput) as caught:
        check_plan(body, CONTEXT)
    assert (caught.value.code, caught.value.field) == ("PRICE_PRECISION", "walk.worst_price")


def test_an_exact_json_number_is_taken_as_written() -> None:
    body = json.dumps(changed("share", {"walk.worst_price": 100.1})).encode()
    assert check_plan(body, CONTEXT).walk.worst_price == Decimal("100.1")


def test_all_faults_are_listed_at_once() -> None:
    values = changed("share", {"walk.steps_max": -1, "targets.0.fraction": "0.5", "account": "a b"})
    codes = [fault.code for fault in plan_faults(values, CONTEXT)]
    assert codes == ["ID_FORMAT", "TRANCHES_SUM", "WALK_INVALID"]


def test_validation_errors_become_our_own_list() -> None:
    with pytest.raises(ValidationError) as caught:
        TradePlan.model_validate({"trade_id": "t", "side": "b"})
    faults = faults_of(caught.value, "plan")
    assert {fault.field for fault in faults} >= {"plan.side", "plan.walk", "plan.legs"}
    assert {fault.code for fault in faults} == {"SIDE_INVALID", "MISSING_FIELD"}


def test_a_walk_too_fast_for_the_clock_is_refused() -> None:
    clock = real_time(NOW).model_copy(update={"speed": Decimal(60)})
    fast = CONTEXT.model_copy(update={"clock_map": clock})
    codes = {fault.code for fault in plan_faults(good_plan("share"), fast)}
    assert codes == {"WALK_INVALID"}
    slow = changed("share", {"walk.interval_s": "18"})
    assert plan_faults(slow, fast) == ()


def test_symbol_error_shows_the_code_point() -> None:
    with pytest.raises(BadInput) as caught:
        check_symbol("\u0410APL")
    assert "U+0410" in caught.value.value


@pytest.mark.parametrize("symbol", ["AAPL", "BRK.B", "BTC/USD", "ESX", "AAPL261218C00100000"])
def test_usual_symbols_pass(symbol: str) -> None:
    assert check_symbol(symbol) == symbol


SECONDS = int(NOW.timestamp())


@pytest.mark.parametrize(
    ("value", "unit", "code"),
    [
        (SECONDS, "s", ""),
        (SECONDS * 1000, "ms", ""),
        (SECONDS * 1000, "s", "TIME_UNIT_SUSPECT"),
        (SECONDS, "ms", "TIME_UNIT_SUSPECT"),
        (0, "s", "TIME_OUT_OF_WINDOW"),
        (10**30, "s", "TIME_OUT_OF_WINDOW"),
        ("yesterday", "iso", "TIME_FORMAT"),
        (True, "s", "TIME_FORMAT"),
        ((NOW + timedelta(minutes=5)).isoformat(), "iso", ""),
        ((NOW + timedelta(minutes=5, seconds=1)).isoformat(), "iso", "TIME_OUT_OF_WINDOW"),
        ((NOW - timedelta(days=2)).isoformat(), "iso", ""),
        ((NOW - timedelta(days=2, seconds=1)).isoformat(), "iso", "TIME_OUT_OF_WINDOW"),
        ("2026-11-20T16:00:00", "iso", "TIME_NO_ZONE"),
    ],
)
def test_timestamps_rows_22_to_24(value: object, unit: str, code: str) -> None:
    if code == "":
        moment = read_timestamp(value, "at", NOW, unit=unit)
        assert moment.tzinfo is not None
        return
    with pytest.raises(BadInput) as caught:
        read_timestamp(value, "at", NOW, unit=unit)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "zone", "code"),
    [
        ("2026-11-01T01:30", "America/New_York", "TIME_AMBIGUOUS"),
        ("2026-03-08T02:30", "America/New_York", "TIME_NONEXISTENT"),
        ("2026-11-01T02:00", "EST5", "TZ_UNKNOWN"),
        ("2026-11-01T02:00", "Mars/Base", "TZ_UNKNOWN"),
        ("2026-11-01T02:00", "", "TZ_UNKNOWN"),
        ("2026-11-01T02:00", "../../etc/passwd", "TZ_UNKNOWN"),
        ("2026-11-01T02:00Z", "America/New_York", "TIME_FORMAT"),
        ("noon", "America/New_York", "TIME_FORMAT"),
    ],
)
def test_local_times_rows_25_and_26(text: str, zone: str, code: str) -> None:
    with pytest.raises(BadInput) as caught:
        local_instant(text, zone)
    assert caught.value.code == code


def test_a_local_time_that_exists_once_is_an_instant() -> None:
    assert local_instant("2026-11-20T11:00", "America/New_York") == NOW
    assert local_instant("2026-03-08T03:00", "America/New_York") == datetime(
        2026, 3, 8, 7, tzinfo=UTC
    )


def _quote(bid: Any, ask: Any, at_s: float = 0, **sizes: Any) -> Quote:
    return Quote(symbol="AAPL", bid=bid, ask=ask, venue_time=NOW + timedelta(seconds=at_s), **sizes)


BEFORE = _quote("100.00", "100.02")


@pytest.mark.parametrize(
    ("row", "quote", "age_s", "code"),
    [
        (32, _quote("100.03", "100.02"), "1", "QUOTE_CROSSED"),
        (32, _quote("100.02", "100.02"), "1", "QUOTE_CROSSED"),
        (32, _quote("0", "0"), "1", "QUOTE_EMPTY"),
        (32, _quote(None, None), "1", "QUOTE_EMPTY"),
        (32, _quote("100.00", None), "1", "QUOTE_ONE_SIDED"),
        (32, _quote("-1", "100.00"), "1", "QUOTE_ONE_SIDED"),
        (32, _quote("100.00", "100.02", bid_size="0", ask_size="1"), "1", "QUOTE_EMPTY"),
        (33, BEFORE, "5.001", "QUOTE_STALE"),
        (33, BEFORE, "-5.001", "QUOTE_STALE"),
        (33, _quote("100.00", "100.02", -1), "1", "QUOTE_TIME_REVERSED"),
        (34, _quote("10000.00", "10002.00"), "1", "QUOTE_JUMP"),
        (34, _quote("1.00", "1.02"), "1", "QUOTE_JUMP"),
        (0, BEFORE, "5", ""),
        (0, _quote("100.00", "100.02", bid_size="1", ask_size="1"), "-5", ""),
    ],
)
def test_quotes_rows_32_to_34(row: int, quote: Quote, age_s: str, code: str) -> None:
    found = check_quote(quote, age_s=Decimal(age_s), max_age_s=Decimal(5), previous=BEFORE)
    assert (found.code if found is not None else "") == code
    assert (found is not None and found.hold) is (row == 34)


def test_repeats_rows_36_to_38() -> None:
    body = {"quantity": Decimal("1.50"), "symbol": "AAPL"}
    same = {"symbol": "AAPL", "quantity": Decimal("1.5")}
    done = SeenCommand(
        command_id="c1", body_hash=body_hash(body), state=CommandState.DONE, result="first"
    )
    running = done.model_copy(update={"state": CommandState.RUNNING})
    assert check_repeat(None, body_hash(body)) is None
    assert check_repeat(done, body_hash(same)) == done
    for seen, sent, code in (
        (done, {**body, "quantity": Decimal(15)}, "IDEMPOTENCY_MISMATCH"),
        (running, {**body, "quantity": "1.5"}, "IDEMPOTENCY_MISMATCH"),
        (running, same, "IN_PROGRESS"),
    ):
        with pytest.raises(Refused) as caught:
            check_repeat(seen, body_hash(sent))
        assert caught.value.code == code


def test_ids_that_a_broker_would_fold_into_one_row_39() -> None:
    check_no_collision(["abcd1", "abcd2"], length_max=5, folds_case=True)
    check_no_collision(["ABCD", "abcd"], length_max=5, folds_case=False)
    for ids, length, folds in ((["abcd1", "abcd2"], 4, False), (["ABCD", "abcd"], 5, True)):
        with pytest.raises(BadInput) as caught:
            check_no_collision(ids, length_max=length, folds_case=folds)
        assert caught.value.code == "ID_COLLISION"


def test_unknown_status_is_a_state_and_a_finding_row_57() -> None:
    words = {"new": BrokerOrderStatus.WORKING}
    assert read_status("new", words) == (BrokerOrderStatus.WORKING, None)
    for raw in ("pending_review", None, 7, "NEW"):
        status, finding = read_status(raw, words)
        assert status is BrokerOrderStatus.UNKNOWN
        assert finding is not None
        assert finding.code == "STATUS_UNKNOWN"


def _order(filled: str, average: str | None = "10") -> OrderSnapshot:
    return OrderSnapshot(
        broker_order_id="b1", quantity=Decimal(10), filled_quantity=Decimal(filled),
        average_fill_price=None if average is None else Decimal(average),
        status=BrokerOrderStatus.WORKING,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "now", "faulty"),
    [
        (None, _order("10"), False),
        (None, _order("11"), True),
        (_order("5"), _order("5"), False),
        (_order("5"), _order("4"), True),
        (None, _order("1", "0"), True),
        (None, _order("0", "0"), False),
    ],
)
def test_fill_progress_row_58(
    before: OrderSnapshot | None, now: OrderSnapshot, faulty: bool
) -> None:
    found = check_order_progress(before, now)
    assert (found is not None and found.code == "FILL_INCONSISTENT") is faulty


@pytest.mark.parametrize("raw", [None, "", 1.5, True, -1, "a\nb", "x" * 129, []])
def test_broker_ids_of_the_wrong_type_row_59(raw: object) -> None:
    with pytest.raises(BadInput) as caught:
        read_broker_id(raw)
    assert caught.value.code == "BROKER_ID_TYPE"


def test_broker_ids_as_number_or_text_are_one_row_59() -> None:
    big = 9_007_199_254_740_993
    assert read_broker_id(big) == read_broker_id(str(big)) == "9007199254740993"


def _fill(symbol: str = "AAPL", broker_order_id: str = "b1") -> Fill:
    return Fill(
        fill_key="k", broker_order_id=broker_order_id, symbol=symbol, side=Side.BUY,
        quantity=Decimal(1), price=Decimal(10), venue_time=NOW,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fill", "ours"),
    [(_fill(), True), (_fill(symbol="MSFT"), False), (_fill(broker_order_id="b2"), False)],
)
def test_fills_of_others_row_61(fill: Fill, ours: bool) -> None:
    found = attribute_fill(fill, client_ids=(), broker_order_ids=("b1",), symbols=("AAPL",))
    assert (found is None) is ours
    assert ours or (found is not None and found.code == "FILL_UNATTRIBUTED")


@pytest.mark.parametrize(
    ("raw", "currency", "fee", "faulty"),
    [
        ("1.25", "USD", "1.25", False),
        ("-0.01", None, "-0.01", False),
        (None, "USD", None, False),
        ("NaN", "USD", None, True),
        (float("nan"), "USD", None, True),
        ("-5000", "USD", None, True),
        ("1.25", "EUR", None, True),
        ("one", "USD", None, True),
    ],
)
def test_fees_row_62(raw: object, currency: str | None, fee: str | None, faulty: bool) -> None:
    found, finding = read_fee(
        raw, notional=Decimal(1000), currency=currency, account_currency="USD"
    )
    assert found == (None if fee is None else Decimal(fee))
    assert (finding is not None and finding.code == "FEE_INVALID") is faulty


@pytest.mark.parametrize(
    ("changes", "faulty"),
    [
        ({}, False),
        ({"equity": "0"}, True),
        ({"equity": "-1"}, True),
        ({"equity": None}, True),
        ({"buying_power": None}, True),
        ({"currency": "EUR"}, True),
    ],
)
def test_accounts_row_63(changes: dict[str, Any], faulty: bool) -> None:
    found = check_account(account(**changes), "USD")
    assert (found is not None and found.code == "ACCOUNT_INVALID") is faulty


def test_context_without_knowledge_skips_only_what_it_cannot_know() -> None:
    blind = PlanContext(market_now=NOW, session_date=NOW.date())
    assert plan_faults(good_plan("share"), blind) == ()
