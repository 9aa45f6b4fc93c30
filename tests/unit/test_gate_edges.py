"""What planted mutants of the gate showed to be untested: each test kills some of them (M5)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.account import MarketClock
from domain.control import BreakerState, Control, TripReason
from domain.entry import RiskApproved
from domain.errors import BadInput, PriceUnavailable, Refused
from domain.instrument import OptionRight
from domain.order import Side
from domain.plan import CapitalSize, FixedSize, PlanLeg, RiskSize, WalkStart
from domain.risk.breakers import RiskBreaker
from domain.risk.checks_order import own_opposite, permissions
from domain.risk.checks_portfolio import order_loss_of_structure
from domain.risk.checks_state import kill, quote_fault, session
from domain.risk.daily_loss import DailyLoss, LossState, used_fraction
from domain.risk.gate import approve, approve_held, evaluate, reservation_id
from domain.risk.gate_types import (
    Outcome,
    OwnWorkingOrder,
    Portfolio,
    RecentEntry,
    RiskRefusal,
    StrategyBook,
    SymbolAge,
)
from domain.risk.limits import RestrictedList, read_limits
from domain.risk.reducing import is_reducing
from domain.risk.repeats import idea_of
from domain.risk.sizing import (
    EntryPrices,
    confidence_quantity,
    entry_prices,
    size_entry,
    structure_loss,
)
from tests.unit.risk_world import (
    LIMIT_VALUES,
    NOW,
    SHARE,
    account,
    asset,
    combo,
    gate_input,
    limits,
    option,
    plan,
    quote,
)
from tests.unit.test_reducing import held, legs
from tests.unit.test_sizing import walk

D = Decimal
C100, C105 = option(OptionRight.CALL, 100), option(OptionRight.CALL, 105)
P90, P95 = option(OptionRight.PUT, 90), option(OptionRight.PUT, 95)


# --- reducing ------------------------------------------------------------------------------------


def test_refused_reductions_are_refused_and_say_why() -> None:
    assert not is_reducing((), held((SHARE, 100)), {}).reducing
    up = is_reducing(legs((SHARE, 5)), held((SHARE, 100)), {})
    assert (up.reducing, up.facts) == (False, {"symbol": "AAPL", "position": "100", "order": "5"})
    across = is_reducing(legs((SHARE, -7)), held((SHARE, 10)), {"AAPL": D(-4)})
    assert not across.reducing
    assert across.facts == {
        "symbol": "AAPL",
        "position": "10",
        "order": "-7",
        "pending_exits": "-4",
    }


def test_order_that_frees_a_short_option_of_its_cover_is_not_reducing() -> None:
    spread = held((C100, 1), (C105, -1))
    verdict = is_reducing(legs((C100, -1)), spread, {})
    assert (verdict.reducing, verdict.code) == (False, "MAX_LOSS_RISES")


def test_symbol_that_is_not_held_cannot_be_reduced() -> None:
    verdict = is_reducing(legs((C100, -1)), held((SHARE, 10)), {})
    assert (verdict.code, verdict.facts["position"]) == ("LEG_INCREASES", "0")


@pytest.mark.parametrize(
    ("position", "pending", "code"),
    [(1, -1, "CROSSES_ZERO"), (1, 1, ""), (-1, 1, "CROSSES_ZERO"), (-1, -1, "")],
)
def test_pending_exit_of_one_share_uses_up_a_position_of_one_share(
    position: int, pending: int, code: str
) -> None:
    order = legs((SHARE, -position))
    assert is_reducing(order, held((SHARE, position)), {"AAPL": D(pending)}).code == code


def test_positions_and_legs_of_one_symbol_add_up() -> None:
    twice = held((SHARE, 60), (SHARE, 40))
    assert is_reducing(legs((SHARE, -50), (SHARE, -50)), twice, {}).reducing
    assert not is_reducing(legs((SHARE, -50), (SHARE, -51)), twice, {}).reducing


# --- the decision --------------------------------------------------------------------------------


def test_passed_decision_without_a_worst_price_approves_nothing() -> None:
    given = gate_input()
    decision = evaluate(given)
    assert isinstance(approve(given, decision, NOW, "1"), RiskApproved)
    blind = given.model_copy(update={"worst_price": None})
    refusal = approve(blind, decision, NOW, "1")
    assert isinstance(refusal, RiskRefusal)
    assert (refusal.check, refusal.code) == ("gate", "PRICE_UNAVAILABLE")
    assert refusal.text == "PRICE_UNAVAILABLE"


NOT_THERE = {
    "limits": (
        "session LIMITS_MISSING, freshness LIMITS_MISSING, batch_freshness LIMITS_MISSING, "
        "price_collar LIMITS_MISSING, order_limits LIMITS_MISSING, "
        "message_rate MESSAGE_COUNT_UNREADABLE, repeats RECENT_ENTRIES_UNREADABLE, "
        "duplicate RECENT_ENTRIES_UNREADABLE, account ACCOUNT_INVALID, "
        "can_exit_today SESSION_UNKNOWN, positions LIMITS_MISSING, "
        "symbol_budget LIMITS_MISSING, total_exposure LIMITS_MISSING"
    ),
    "control": "kill CONTROL_UNREADABLE",
    "conditions": "conditions CONDITIONS_UNREADABLE",
    "risk_breaker": "risk_breaker RISK_BREAKER_TRIPPED",
    "api_breaker": "api_breaker API_BREAKER_UNREADABLE",
    "market_clock": "session SESSION_UNKNOWN, can_exit_today SESSION_UNKNOWN",
    "session_opened_at": "session SESSION_UNKNOWN",
    "session_date": "",
    "arrival": "freshness PRICE_UNAVAILABLE, price_collar PRICE_UNAVAILABLE",
    "restricted": "restricted_list RESTRICTED_LIST_MISSING",
    "assets": "permissions ASSET_UNREADABLE",
    "working_orders": "own_opposite WORKING_ORDERS_UNREADABLE",
    "account": (
        "account ACCOUNT_INVALID, buying_power BUYING_POWER_UNKNOWN, symbol_budget ACCOUNT_INVALID"
    ),
    "portfolio": (
        "own_opposite WORKING_ORDERS_UNREADABLE, buying_power BUYING_POWER_UNKNOWN, "
        "positions PORTFOLIO_UNREADABLE, symbol_budget PORTFOLIO_UNREADABLE, "
        "total_exposure PORTFOLIO_UNREADABLE"
    ),
    "daily_loss": "daily_loss DAILY_LOSS_UNREADABLE",
    "messages_last_minute": "message_rate MESSAGE_COUNT_UNREADABLE",
    "recent_entries": ("repeats RECENT_ENTRIES_UNREADABLE, duplicate RECENT_ENTRIES_UNREADABLE"),
    "worst_price": (
        "price_collar PRICE_UNAVAILABLE, order_limits PRICE_UNAVAILABLE, "
        "buying_power LOSS_UNBOUNDED_OR_NO_PRICE, strategy PRICE_UNAVAILABLE, "
        "symbol_budget PRICE_UNAVAILABLE, total_exposure PRICE_UNAVAILABLE"
    ),
}


@pytest.mark.parametrize("field", sorted(NOT_THERE))
def test_what_could_not_be_read_refuses_in_each_check_that_needs_it_and_in_no_other(
    field: str,
) -> None:
    """A refusal under another check's name would send a person to the wrong setting."""
    book = StrategyBook(enabled=True, capital=D(10_000))
    verdicts = evaluate(gate_input(**{"strategy": book, field: None})).verdicts
    refused = [f"{v.name} {v.code}" for v in verdicts if v.outcome is Outcome.REFUSED]
    assert ", ".join(refused) == NOT_THERE[field]


@pytest.mark.parametrize(
    ("field", "value", "refusals"),
    [
        ("leg_quotes", (), ["freshness PRICE_UNAVAILABLE", "price_collar PRICE_UNAVAILABLE"]),
        ("batch", (), ["batch_freshness BATCH_UNKNOWN"]),
        ("assets", (), ["permissions SYMBOL_UNKNOWN"]),
        ("quantity", D(0), ["order_limits SIZE_BELOW_LOT"]),
        ("quantity", D("1.5"), ["order_limits QTY_NOT_WHOLE"]),
    ],
)
def test_empty_or_broken_input_refuses_under_the_name_of_its_check(
    field: str, value: object, refusals: list[str]
) -> None:
    verdicts = evaluate(gate_input(**{field: value})).verdicts
    assert [f"{v.name} {v.code}" for v in verdicts if v.outcome is Outcome.REFUSED] == refusals


def ages(**seconds: int) -> tuple[SymbolAge, ...]:
    return tuple(SymbolAge(symbol=symbol, age_s=D(age)) for symbol, age in seconds.items())


def entered(*ages_s: int) -> tuple[RecentEntry, ...]:
    """Entries of other trades with the idea of the plan, so long ago."""
    idea = idea_of(plan())
    return tuple(
        RecentEntry(trade_id=f"t-{age}", strategy="breakout", idea=idea, age_s=D(age))
        for age in ages_s
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"messages_last_minute": 60}, "message_rate MESSAGE_RATE sent=60 max=60"),
        (
            {"strategy": StrategyBook(enabled=True, capital=D(600), open_notional=D(100))},
            "strategy STRATEGY_CAPITAL used=100 order=500.25 capital=600",
        ),
        (
            {"strategy": StrategyBook(enabled=False, reason="ill")},
            "strategy STRATEGY_DISABLED reason=ill",
        ),
        (
            {"portfolio": Portfolio(open_positions=5, total_notional=D(0))},
            "positions TOO_MANY_POSITIONS open=5 max=5",
        ),
        (
            {"portfolio": Portfolio(open_positions=0, total_notional=D(49_500))},
            "total_exposure TOTAL_ABOVE_MAX used=49500 order=500.25 max=50000",
        ),
        (
            {"quantity": D(10)},
            "order_limits NOTIONAL_ABOVE_MAX quantity=10 notional=1000.50 max=1000",
        ),
        (
            {"account": account(read_at=NOW - timedelta(seconds=31))},
            "account STALE_ACCOUNT age_s=31.0 max=30",
        ),
        (
            {"account": account(buying_power="500.24")},
            "buying_power BUYING_POWER free=500.24 reserved=0 needed=500.25",
        ),
        (
            {"start_price": D("100.06")},
            "price_collar WALK_INVALID start=100.06 reference=100.01 low=98.01 high=102.01",
        ),
        (
            {"batch": ages(AAPL=1, MSFT=1801, TSLA=2000)},
            "batch_freshness BATCH_STALE fresh=1 count=3 latest_s=1 median_s=1801 oldest_s=2000 "
            "stale=MSFT,TSLA",
        ),
        (
            {"recent_entries": entered(2)},
            "duplicate DUPLICATE_SUSPECT trade=t-2 age_s=2 window_s=5",
        ),
        (
            {"recent_entries": entered(100, 101, 102)},
            "repeats REPEATED_ENTRIES strategy=breakout entries=3 max=3 window_s=600",
        ),
        (
            {
                "working_orders": (
                    OwnWorkingOrder(
                        trade_id="t-9",
                        client_id="c-9",
                        symbol="AAPL",
                        side=Side.SELL,
                        remaining_quantity=D(5),
                        limit_price=D("100.02"),
                    ),
                )
            },
            "own_opposite OPPOSITE_POSITION symbol=AAPL order=c-9 trade=t-9",
        ),
        (
            {"restricted": RestrictedList(symbols=("AAPL",), as_of=NOW)},
            "restricted_list SYMBOL_RESTRICTED symbol=AAPL",
        ),
    ],
)
def test_refusal_tells_the_number_that_was_and_the_one_allowed(
    change: dict[str, Any], told: str
) -> None:
    refusal = evaluate(gate_input(**change)).first_refusal
    assert refusal is not None
    facts = [f"{name}={value}" for name, value in refusal.facts.items()]
    assert " ".join([refusal.name, refusal.code, *facts]) == told


@pytest.mark.parametrize(("level", "code"), [(1, "OPTION_LEVEL"), (2, ""), (3, "")])
def test_owners_own_option_level_binds_above_what_the_legs_need(level: int, code: str) -> None:
    """A long call needs level 2 at the broker; the owner may want more and never gets less."""
    call = asset(C100)
    given = combo((C100, Side.BUY))
    found = permissions(
        gate_input(plan=given, assets=(call,), account=account(options_level=level))
    )
    assert found.code == code
    stricter = gate_input(
        plan=given,
        assets=(call,),
        account=account(options_level=level),
        limits=limits(options_level_min=4),
    )
    refused = permissions(stricter)
    assert (refused.code, refused.facts) == ("OPTION_LEVEL", {"level": str(level), "needed": "4"})


@pytest.mark.parametrize(("wish", "units"), [("1", 1), ("1.5", 1), ("1.99", 1), ("2", 2)])
def test_combo_is_sized_in_whole_units_and_never_rounded_up(wish: str, units: int) -> None:
    spread = combo((C100, Side.BUY), (C105, Side.SELL), size=FixedSize(quantity=D(wish)))
    bounds = entry_prices(plan(), quote(), D("0.02")).collar
    prices = EntryPrices(start=D("1.00"), worst=D("1.10"), collar=bounds)
    assert size_entry(spread, prices).quantity == units


def test_held_option_reserves_risk_for_every_share_behind_a_contract() -> None:
    held_call = combo((C100, Side.BUY))
    found = approve_held(held_call, D(2), D(3), D("2.5"), NOW, "7")
    assert (found.reserved_notional, found.reserved_loss) == (D(600), D(100))


def test_decision_without_all_verdicts_approves_nothing() -> None:
    given = gate_input()
    whole = evaluate(given)
    partial = whole.model_copy(update={"verdicts": whole.verdicts[1:]})
    refusal = approve(given, partial, NOW, "1")
    assert isinstance(refusal, RiskRefusal)
    assert (refusal.check, refusal.code) == ("gate", "VERDICTS_MISSING")


def test_refusal_tells_the_facts_of_its_check() -> None:
    lost = RiskBreaker(state=BreakerState.TRIPPED, reason=TripReason.DAILY_LOSS)
    given = gate_input(risk_breaker=lost)
    refusal = approve(given, evaluate(given), NOW, "1")
    assert isinstance(refusal, RiskRefusal)
    first = evaluate(given).first_refusal
    assert first is not None
    assert first.facts
    assert refusal.facts == first.facts
    told = ", ".join(f"{key}={value}" for key, value in first.facts.items())
    assert refusal.text == f"{first.code} {told}"


# --- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "structure", "level", "passes"),
    [
        (Side.BUY, False, 1, False),
        (Side.BUY, False, 2, True),
        (Side.SELL, False, 0, False),
        (Side.SELL, False, 1, True),
        (Side.BUY, True, 2, False),
        (Side.BUY, True, 3, True),
    ],
)
def test_option_level_that_the_legs_need(
    side: Side, structure: bool, level: int, passes: bool
) -> None:
    """1 covered calls, 2 long options, 3 spreads."""
    single = plan(
        side,
        legs=(PlanLeg(instrument=C100, side=side),),
        symbol=C100.symbol,
        stop=None,
        targets=(),
    )
    wished = combo((C100, Side.BUY), (C105, Side.SELL)) if structure else single
    given = gate_input(
        plan=wished,
        assets=(asset(C100), asset(C105)),
        account=account(options_level=level),
        limits=limits(options_level_min=0),
    )
    verdict = permissions(given)
    assert (verdict.code == "") is passes, verdict


def _working(**changes: Any) -> OwnWorkingOrder:
    values: dict[str, Any] = {
        "client_id": "0" * 32,
        "trade_id": "other",
        "symbol": "AAPL",
        "side": Side.SELL,
        "remaining_quantity": D(5),
        "limit_price": D("100.05"),
    }
    return OwnWorkingOrder(**(values | changes))


@pytest.mark.parametrize(
    ("side", "changes", "crosses"),
    [
        (Side.BUY, {}, True),
        (Side.BUY, {"limit_price": D("100.06")}, False),
        (Side.BUY, {"limit_price": None}, True),
        (Side.BUY, {"limit_price": None, "remaining_quantity": D(0)}, False),
        (Side.SELL, {"side": Side.BUY}, True),
        (Side.SELL, {"side": Side.BUY, "limit_price": D("100.04")}, False),
    ],
)
def test_order_of_another_trade_crosses_from_the_worst_price_on(
    side: Side, changes: dict[str, Any], crosses: bool
) -> None:
    given = gate_input(plan=plan(side), working_orders=(_working(**changes),))
    assert (own_opposite(given).code == "OPPOSITE_POSITION") is crosses


def test_order_without_a_worst_price_may_cross_anything() -> None:
    given = gate_input(worst_price=None, working_orders=(_working(limit_price=D(500)),))
    assert own_opposite(given).code == "OPPOSITE_POSITION"


def test_loss_of_a_structure_does_not_count_on_its_stop() -> None:
    """A long share is stopped a point away, but its legs bound the loss only at zero."""
    given = gate_input()
    loss = order_loss_of_structure(given)
    assert loss == 5 * D("100.05")


@pytest.mark.parametrize(
    ("bid", "ask", "fault"),
    [
        ("0", "0", "QUOTE_EMPTY"),
        ("0", "0.01", ""),
        ("1", "0", "QUOTE_CROSSED"),
        ("0.5", "0", "QUOTE_CROSSED"),
        ("0", "1", ""),
        (None, "1", "QUOTE_ONE_SIDED"),
        (None, None, "QUOTE_EMPTY"),
        ("1", "1", "QUOTE_CROSSED"),
    ],
)
def test_quote_fault_at_its_edges(bid: str | None, ask: str | None, fault: str) -> None:
    assert quote_fault(quote(bid=bid, ask=ask)) == fault


def test_unknown_limit_names_the_nearest_one_and_a_bad_value_its_path() -> None:
    with pytest.raises(BadInput) as unknown:
        read_limits(LIMIT_VALUES | {"max_order_notionl": "1"})
    assert "max_order_notional" in str(unknown.value)
    with pytest.raises(BadInput) as bad:
        read_limits(LIMIT_VALUES | {"max_open_positions": "many"}, "risk")
    assert "risk.max_open_positions" in str(bad.value)


# --- sizing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bid", "ask"), [(None, "100"), ("100", None), ("100.02", "100")])
def test_prices_need_both_sides_in_order(bid: str | None, ask: str | None) -> None:
    with pytest.raises(PriceUnavailable, match="quote of AAPL was"):
        entry_prices(plan(), quote(bid=bid, ask=ask), D("0.02"))


def test_locked_quote_has_prices() -> None:
    found = entry_prices(plan(), quote(bid="100", ask="100"), D("0.02"))
    assert found.start == 100


@pytest.mark.parametrize(("side", "start"), [(Side.BUY, "100.00"), (Side.SELL, "100.00")])
def test_start_beyond_the_collar_is_the_bound_on_the_near_side(side: Side, start: str) -> None:
    wide = quote(bid="50.00", ask="150.00")
    near = plan(side, walk=walk(start=WalkStart.NEAR))
    found = entry_prices(near, wide, D("0.02"))
    assert found.start == (D("98.00") if side is Side.BUY else D("102.00"))
    assert D(start) == found.collar.reference


def test_loss_of_a_structure_counts_ratios_and_what_it_costs() -> None:
    legs_of_spread = (
        PlanLeg(instrument=C100, side=Side.BUY, ratio=2),
        PlanLeg(instrument=C105, side=Side.SELL, ratio=2),
    )
    spread = plan(legs=legs_of_spread, stop=None, targets=(), size=FixedSize(quantity=D(1)))
    assert structure_loss(spread, D("1.50"), {}) == D(150)
    long_call = plan(
        legs=(PlanLeg(instrument=C100, side=Side.BUY),),
        symbol=C100.symbol,
        stop=None,
        targets=(),
    )
    assert structure_loss(long_call, D("2.00"), {}) == D(200)


def test_loss_of_a_ratio_spread_counts_each_contract() -> None:
    """Two long puts under one short: at the lower strike five points are lost, nowhere more."""
    legs_of_ratio = (
        PlanLeg(instrument=P90, side=Side.BUY, ratio=2),
        PlanLeg(instrument=P95, side=Side.SELL, ratio=1),
    )
    ratio = plan(legs=legs_of_ratio, stop=None, targets=(), size=FixedSize(quantity=D(1)))
    assert structure_loss(ratio, D(0), {}) == D(500)


def test_loss_of_a_short_put_is_less_by_what_it_brings() -> None:
    short = plan(
        Side.SELL,
        legs=(PlanLeg(instrument=P90, side=Side.SELL),),
        symbol=P90.symbol,
        stop=None,
        targets=(),
    )
    assert structure_loss(short, D("2.00"), {}) == D(8800)


@pytest.mark.parametrize(("unit", "quantity"), [("0.5", "200"), ("1", "100"), ("3", "33.333333")])
def test_confidence_of_a_full_position_divides_by_the_unit_price(unit: str, quantity: str) -> None:
    assert confidence_quantity(D(1), D(100), D(unit)) == D(quantity)


@pytest.mark.parametrize("unit", ["0", "-1"])
def test_confidence_needs_a_unit_price(unit: str) -> None:
    with pytest.raises(PriceUnavailable, match="unit price was"):
        confidence_quantity(D(1), D(100), D(unit))


@pytest.mark.parametrize(
    ("side", "stop", "loss"),
    [(Side.BUY, "99", "5"), (Side.BUY, "101", "0"), (Side.SELL, "101", "5")],
)
def test_approval_of_a_held_position_reserves_its_risk(side: Side, stop: str, loss: str) -> None:
    found = approve_held(plan(side), D(5), D(100), D(stop), NOW, "7")
    assert found.reservation_id == reservation_id(found.trade_id) == "reservation/demo-20261120-1"
    assert (found.quantity, found.worst_price) == (D(5), D(100))
    assert (found.reserved_notional, found.reserved_loss) == (D(500), D(loss))
    assert (found.approved_at, found.config_version) == (NOW, "7")


@pytest.mark.parametrize(
    ("capital", "quantity"), [("1000", "4"), ("1005.10", "5"), ("1005.09", "4")]
)
def test_capital_buys_whole_lots_at_the_dearest_price(capital: str, quantity: str) -> None:
    half = plan(size=CapitalSize(position_fraction=D("0.5")))
    found = entry_prices(half, quote(bid="100.50", ask="100.50"), D("0.0001"))
    sized = size_entry(half, found, D(capital))
    assert sized.quantity == D(quantity)


@pytest.mark.parametrize("capital", [None, D(0), D(-1)])
def test_unknown_capital_sizes_nothing(capital: Decimal | None) -> None:
    half = plan(size=CapitalSize(position_fraction=D("0.5")))
    found = entry_prices(half, quote(), D("0.02"))
    with pytest.raises(Refused) as refused:
        size_entry(half, found, capital)
    assert refused.value.code == "CAPITAL_UNKNOWN"


def test_risk_of_exactly_one_share_buys_one_and_a_cent_less_none() -> None:
    """The stop is a point away from the worst price."""
    given = plan(size=RiskSize(risk_amount=D(1)))
    sized = size_entry(given, entry_prices(given, quote(), D("0.02")))
    assert (sized.quantity, sized.loss_at_worst) == (D(1), D(1))
    less = plan(size=RiskSize(risk_amount=D("0.99")))
    with pytest.raises(Refused) as refused:
        size_entry(less, entry_prices(less, quote(), D("0.02")))
    assert refused.value.code == "SIZE_BELOW_LOT"


def test_risk_buys_whole_structures_only() -> None:
    """A debit of 1.50 for five points binds 150 a unit; eight and a third are paid for."""
    spread = combo(
        (C100, Side.BUY),
        (C105, Side.SELL),
        size=RiskSize(risk_amount=D(1250)),
        walk=walk(worst_price="1.50"),
    )
    sized = size_entry(spread, entry_prices(spread, quote(bid="1.45", ask="1.55"), D("0.10")))
    assert sized.quantity == D(8)
    assert sized.loss_at_worst == D(1200)


def test_capital_of_one_is_known_and_too_little() -> None:
    half = plan(size=CapitalSize(position_fraction=D("0.5")))
    with pytest.raises(Refused) as refused:
        size_entry(half, entry_prices(half, quote(), D("0.02")), D(1))
    assert refused.value.code == "SIZE_BELOW_LOT"


def test_idea_has_the_same_name_in_every_build() -> None:
    """It is stored: another way of writing it would make every doubled idea a new one (A7)."""
    assert idea_of(plan()) == "ef10aaf75c98a0e8"


@pytest.mark.parametrize(
    ("check", "changes", "facts"),
    [
        (
            kill,
            {"control": Control(account="paper-1", armed=False, version=3, updated_at=NOW)},
            {"version": "3"},
        ),
        (
            session,
            {"session_opened_at": NOW - timedelta(seconds=1799, microseconds=500_000)},
            {"since_open_s": "1799.500000", "blocked_first_s": "1800"},
        ),
        (session, {"session_opened_at": None}, {"missing": "session_opened_at"}),
        (
            session,
            {
                "market_clock": MarketClock(
                    market_now=NOW, is_open=True, next_close=NOW + timedelta(seconds=60)
                )
            },
            {"to_close_s": "60.000000", "blocked_last_s": "1800"},
        ),
        (
            session,
            {"market_clock": MarketClock(market_now=NOW, is_open=True, next_close=None)},
            {"missing": "next_close"},
        ),
    ],
)
def test_refusal_states_the_numbers_it_was_made_from(
    check: Any, changes: dict[str, Any], facts: dict[str, str]
) -> None:
    assert check(gate_input(**changes)).facts == facts


@pytest.mark.parametrize(
    ("loss", "limit", "used"),
    [("5", "10", "0.5"), ("-5", "10", "0"), ("0.5", "1", "0.5"), ("5", "0", None)],
)
def test_used_share_of_the_daily_loss(loss: str, limit: str, used: str | None) -> None:
    daily = DailyLoss(state=LossState.WITHIN, loss=D(loss), limit=D(limit))
    assert used_fraction(daily) == (None if used is None else D(used))


def test_used_share_is_unknown_without_loss_or_limit() -> None:
    assert used_fraction(DailyLoss(state=LossState.WITHIN, limit=D(1))) is None
    assert used_fraction(DailyLoss(state=LossState.WITHIN, loss=D(1))) is None
