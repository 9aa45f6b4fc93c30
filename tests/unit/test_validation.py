"""Bad input: one code for each row of faults.md §3, before anything durable has happened."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError

from domain.clock import real_time
from domain.errors import BadInput
from domain.evidence import check_order_progress
from domain.idempotency import body_hash
from domain.order import BrokerOrderStatus, OrderSnapshot
from domain.plan import TradePlan
from domain.plan_context import PlanContext
from domain.symbols import check_symbol
from domain.validation import check_plan, faults_of, plan_faults, read_timestamp
from marketdata.zones import zone
from tests.unit.bad_plans import BAD_PLANS, CONTEXT, Bad, changed, good_plan
from tests.unit.risk_world import NOW


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


@pytest.mark.parametrize("name", ["EST5", "Mars/Base", "", "../../etc/passwd"])
def test_zones_row_26(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        zone(name)
    assert caught.value.code == "TZ_UNKNOWN"


def test_bodies_of_one_command_are_the_same_in_any_order_and_spelling_row_37() -> None:
    body = {"quantity": Decimal("1.50"), "symbol": "AAPL"}
    same = {"symbol": "AAPL", "quantity": Decimal("1.5")}
    assert body_hash(body) == body_hash(same)
    for other in ({**body, "quantity": Decimal(15)}, {**body, "quantity": "1.5"}):
        assert body_hash(body) != body_hash(other)


def _order(filled: str, average: str | None = "10") -> OrderSnapshot:
    return OrderSnapshot(
        broker_order_id="b1", quantity=Decimal(10), filled_quantity=Decimal(filled),
        average_fill_price=None if average is None else Decimal(average),
        status=BrokerOrderStatus.WORKING,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("order", "faulty"),
    [
        (_order("10"), False),
        (_order("11"), True),
        (_order("1", "0"), True),
        (_order("0", "0"), False),
    ],
)
def test_fill_progress_row_58(order: OrderSnapshot, faulty: bool) -> None:
    found = check_order_progress(order)
    assert (found is not None and found.code == "FILL_INCONSISTENT") is faulty


def test_context_without_knowledge_skips_only_what_it_cannot_know() -> None:
    blind = PlanContext(market_now=NOW, session_date=NOW.date())
    assert plan_faults(good_plan("share"), blind) == ()
