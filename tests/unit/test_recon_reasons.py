"""What explains a position: the statement's rows, a pattern where there are none, never a guess."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.account_events import AccountEvent, EventKind
from domain.recon.cash import CashLook, CashRule
from domain.recon.classify import DiscrepancyKind, LedgerIntent, classify, confirmed
from domain.recon.explain import Explanation, Holdings, explain
from tests.unit.test_recon import held, look, owned

D = Decimal
KIND = EventKind
AT = datetime(2026, 9, 21, tzinfo=UTC)
EXPIRY, BEFORE, AFTER = date(2026, 9, 18), date(2026, 9, 17), date(2026, 9, 21)
PUT, CALL, SECOND = "ABC260918P00100000", "ABC260918C00110000", "ABC260918P00090000"


def event(kind: EventKind, symbol: str, quantity: int) -> AccountEvent:
    name = f"{kind}/{symbol}"
    return AccountEvent(event_id=name, kind=kind, symbol=symbol, quantity=D(quantity), at=AT)


def reasons(
    at_broker: dict[str, int],
    ours: dict[str, int],
    *events: AccountEvent,
    tells: bool = False,
    today: date | None = AFTER,
) -> list[Explanation]:
    holdings = Holdings(
        held={symbol: D(q) for symbol, q in at_broker.items()},
        owned={symbol: D(q) for symbol, q in ours.items()},
        external={},
    )
    return list(explain(holdings, events, tells_events=tells, today=today))


def told(found: list[Explanation]) -> list[tuple[str, str, bool]]:
    return [(each.symbol, str(each.kind), each.is_waiting) for each in found]


@pytest.mark.parametrize(
    ("at_broker", "ours", "expected"),
    [
        ({"ABC": 100}, {PUT: -1}, [(PUT, "assignment", False)]),
        ({"ABC": -100}, {CALL: -1}, [(CALL, "assignment", False)]),
        ({"ABC": 200}, {CALL: 2}, [(CALL, "exercise", False)]),
        ({"ABC": 50}, {"ABC": 150, PUT: 1}, [(PUT, "exercise", False)]),
        ({}, {CALL: 1}, [(CALL, "expiry", False)]),
        ({"ABC": 100}, {PUT: -1, CALL: -1}, [(CALL, "expiry", False), (PUT, "assignment", False)]),
        ({PUT: -1, "ABC": 100}, {PUT: -2}, [(PUT, "assignment", False)]),
    ],
)
def test_pair_of_option_and_shares_explains_where_the_venue_tells_no_rows(
    at_broker: dict[str, int], ours: dict[str, int], expected: list[tuple[str, str, bool]]
) -> None:
    """R4 at Tradier."""
    assert told(reasons(at_broker, ours)) == expected


def test_two_patterns_that_fit_are_no_reason() -> None:
    """Either put may have brought the hundred shares: nobody books a guess."""
    found = reasons({"ABC": 100}, {PUT: -1, SECOND: -1})
    assert {each.is_waiting for each in found} == {True}


def test_expiry_is_concluded_the_day_after_at_the_earliest() -> None:
    """The shares come the next morning."""
    assert told(reasons({}, {CALL: 1}, today=EXPIRY)) == [(CALL, "expiry", True)]
    assert told(reasons({}, {CALL: 1}, today=None)) == []
    assert told(reasons({}, {CALL: 1}, today=BEFORE)) == []


def test_rows_explain_only_what_is_exactly_theirs() -> None:
    """A row of one contract is no reason for two; its shares must be there, too."""
    row = event(KIND.ASSIGNMENT, PUT, 1)
    assert told(reasons({"ABC": 100}, {PUT: -1}, row, tells=True)) == [(PUT, "assignment", False)]
    assert told(reasons({}, {PUT: -1}, row, tells=True)) == [(PUT, "expiry", True)]
    assert told(reasons({"ABC": 200}, {PUT: -2}, row, tells=True)) == [(PUT, "expiry", True)]


@pytest.mark.covers("R3")
@pytest.mark.parametrize("today", [BEFORE, EXPIRY, AFTER])
def test_liquidated_option_waits_for_no_expiry_on_its_last_day(today: date) -> None:
    """R3: it waited for ever, its exit refused as uncovered (found by the simulation); an option
    beside it that was assigned still needs its own shares."""
    taken = event(KIND.LIQUIDATION, CALL, -1)
    found = reasons({}, {CALL: 1}, taken, tells=True, today=today)
    assert told(found) == [(CALL, "liquidation", False)]
    rows = (taken, event(KIND.ASSIGNMENT, PUT, 1))
    found = reasons({"ABC": 100}, {CALL: 1, PUT: -1}, *rows, tells=True, today=today)
    assert told(found) == [(CALL, "liquidation", False), (PUT, "assignment", False)]


def test_liquidation_row_of_another_quantity_leaves_an_option_waiting() -> None:
    """The venue took one of two that are gone: what became of the other is still to come."""
    row = event(KIND.LIQUIDATION, CALL, -1)
    found = reasons({}, {CALL: 2}, row, tells=True, today=EXPIRY)
    assert told(found) == [(CALL, "expiry", True)]


def test_split_row_without_its_change_is_no_split() -> None:
    row = event(KIND.SPLIT, "ABC", 10)
    assert told(reasons({"ABC": 20}, {"ABC": 10}, row, tells=True)) == [("ABC", "split", False)]
    assert reasons({"ABC": 19}, {"ABC": 10}, row, tells=True) == []
    assert reasons({"ABC": 10}, {"ABC": 10}, row, tells=True) == []


def test_split_that_leaves_somebody_a_fraction_is_parked() -> None:
    """R5: 1 for 10 of 15 shares; nobody's trade is scaled to one and a half."""
    row = event(KIND.SPLIT, "A", -14)
    seen = look(positions=held("A", 1), owned=owned(("t1", 15)), events=(row,), tells_events=True)
    assert [each.kind for each in classify(seen)] == [DiscrepancyKind.POSITION_MISMATCH]


@pytest.mark.covers("R3")
@pytest.mark.parametrize(
    ("at_broker", "ours", "lost"),
    [
        (-10, [("t1", 0)], -10),
        (-10, [("EXTERNAL", 0)], -10),
        (-4, [("t1", 6)], -10),
        (4, [("t1", 6), ("t2", 4)], -6),
    ],
    ids=["sold meanwhile", "nobody had it", "partly sold", "two owners and a part"],
)
def test_liquidation_of_what_no_owner_can_lose_is_a_persons_matter(
    at_broker: int, ours: list[tuple[str, int]], lost: int
) -> None:
    """R3: the stop filled before the pass came; an outcome that cannot be booked would end every
    pass from here on (found by the simulation)."""
    row = event(KIND.LIQUIDATION, "A", lost)
    seen = look(
        positions=held("A", at_broker), owned=owned(*ours), events=(row,), tells_events=True
    )
    (found,) = classify(seen)
    assert found.kind is DiscrepancyKind.POSITION_MISMATCH
    assert found.quantity == lost


def test_new_symbol_needs_its_rows_where_the_venue_tells_them() -> None:
    both = (event(KIND.SYMBOL_CHANGE, "A", -10), event(KIND.SYMBOL_CHANGE, "B", 10))
    assert told(reasons({"B": 10}, {"A": 10}, *both, tells=True)) == [("A", "symbol_change", False)]
    assert reasons({"B": 10}, {"A": 10}, tells=True) == []
    assert told(reasons({"B": 10}, {"A": 10})) == [("A", "symbol_change", False)]
    assert reasons({"B": 10, "C": 10}, {"A": 10}) == []


@pytest.mark.parametrize(("gap", "count"), [("0.01", 0), ("-0.01", 0), ("0.02", 1), ("-1000", 1)])
def test_cash_is_rounding_up_to_a_cent(gap: str, count: int) -> None:
    """R9."""
    cash = CashLook(broker=D(100) + D(gap), expected=D(100))
    assert len(classify(look(cash=cash))) == count
    coarse = CashRule().coarse
    assert len(classify(look(cash=cash, cash_rule=coarse))) == (abs(D(gap)) >= 1000)


def test_cash_waits_for_positions_and_for_answers() -> None:
    """R7: what moves the one moves the other."""
    cash = CashLook(broker=D(0), expected=D(100))
    intent = LedgerIntent(
        client_id="c", trade_id="t", symbols=("A",), is_unresolved=True, age_s=1.0
    )
    assert classify(look(cash=cash, intents=(intent,))) == ()
    moved = look(cash=cash, positions=held("A", 5))
    assert [each.kind for each in classify(moved)] == [DiscrepancyKind.POSITION_MISMATCH]


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=6),
    st.integers(0, 6),
    st.integers(0, 6),
)
def test_fills_in_flight_are_never_repaired(fills: list[int], first: int, second: int) -> None:
    """R7: the ledger lags behind the broker by some fills in the first look, by none of those in
    the second; whatever the fills are, nothing stands in both looks."""
    done, seen = sorted((min(first, len(fills)), min(second, len(fills))))
    at_broker, booked = sum(fills[:done]), 0
    before = look(positions=held("A", at_broker), owned=owned(("t1", booked)))
    later = sum(fills[:seen])
    after = look(positions=held("A", later), owned=owned(("t1", later)))
    assert confirmed(before, after) == ()
