"""The risk gate: order of checks, each boundary at -1/0/+1, and failing closed.

Architecture §7; faults.md controls 1-5, 9, 12; I6, I9, I13, I20; B5, B6.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from domain.control import (
    ApiBreakerState,
    BreakerState,
    ConditionKind,
    Control,
    KillMode,
    KillScope,
    KillScopeKind,
    KillSwitch,
    TripReason,
)
from domain.entry import RiskApproved
from domain.errors import BadInput
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.order import Side
from domain.plan import FixedSize, PlanLeg, WalkPlan
from domain.risk.breakers import ApiBreaker, RiskBreaker
from domain.risk.daily_loss import DailyBaseline, judge
from domain.risk.gate import CHECKS, approve, evaluate, reservation_id
from domain.risk.gate_types import (
    ActiveCondition,
    GateInput,
    OpenLeg,
    Outcome,
    OwnWorkingOrder,
    Portfolio,
    RecentEntry,
    RiskRefusal,
    StrategyBook,
    SymbolAge,
    SymbolExposure,
)
from domain.risk.limits import (
    Limits,
    RestrictedList,
    read_limits,
)
from domain.risk.repeats import idea_of
from tests.unit.risk_world import (
    CLOSE,
    LIMIT_VALUES,
    NOW,
    OPEN,
    account,
    aged,
    asset,
    combo,
    gate_input,
    limits,
    option,
    plan,
    quote,
)

ORDER = [
    "kill", "conditions", "risk_breaker", "api_breaker", "session", "freshness",
    "batch_freshness", "restricted_list", "permissions", "borrow", "own_opposite", "price_collar",
    "order_limits", "message_rate", "repeats", "duplicate", "account", "buying_power",
    "margin_preview", "liquidation_distance", "can_exit_today", "expiry", "strategy", "positions",
    "symbol_budget", "total_exposure", "daily_loss", "greeks", "value_at_risk",
]  # fmt: skip


def code_of(given: GateInput, name: str) -> str:
    """Code of the check's refusal; empty if it did not refuse."""
    found = next(verdict for verdict in evaluate(given).verdicts if verdict.name == name)
    return found.code if found.outcome is Outcome.REFUSED else ""


def test_checks_run_in_the_order_of_the_architecture() -> None:
    assert [verdict.name for verdict in evaluate(gate_input()).verdicts] == ORDER
    assert [name for name, _ in CHECKS] == ORDER


def test_healthy_entry_is_approved_with_what_it_reserves() -> None:
    given = gate_input()
    decision = evaluate(given)
    assert decision.first_refusal is None
    approved = approve(given, decision, NOW, "v7")
    assert approved == RiskApproved(
        reservation_id=reservation_id("demo-20261120-1"),
        trade_id="demo-20261120-1",
        quantity=Decimal(5),
        worst_price=Decimal("100.05"),
        reserved_notional=Decimal("500.25"),
        reserved_loss=Decimal("5.00"),
        approved_at=NOW,
        config_version="v7",
    )


def test_data_that_does_not_exist_yet_is_named_and_not_passed() -> None:
    verdicts = {verdict.name: verdict for verdict in evaluate(gate_input()).verdicts}
    for name in ("greeks", "value_at_risk", "margin_preview", "liquidation_distance"):
        assert verdicts[name].outcome is Outcome.NOT_APPLICABLE
        assert verdicts[name].code


def test_a_refusal_still_computes_every_verdict_and_names_the_first() -> None:
    given = gate_input(control=None, account=None, daily_loss=None)
    decision = evaluate(given)
    assert len(decision.verdicts) == len(ORDER)
    refusal = approve(given, decision, NOW, "v7")
    assert isinstance(refusal, RiskRefusal)
    assert (refusal.check, refusal.code) == ("kill", "CONTROL_UNREADABLE")


def test_a_decision_that_lacks_a_verdict_approves_nothing() -> None:
    given = gate_input()
    decision = evaluate(given)
    shorter = decision.model_copy(update={"verdicts": decision.verdicts[:-1]})
    refusal = approve(given, shorter, NOW, "v7")
    assert isinstance(refusal, RiskRefusal)
    assert refusal.code == "VERDICTS_MISSING"


def test_a_decision_of_another_trade_is_an_error() -> None:
    decision = evaluate(gate_input())
    other = gate_input(plan=plan(trade_id="other-1"))
    with pytest.raises(ValueError, match="decision was for"):
        approve(other, decision, NOW, "v7")


@pytest.mark.parametrize(
    ("field", "check", "code"),
    [
        ("control", "kill", "CONTROL_UNREADABLE"),
        ("conditions", "conditions", "CONDITIONS_UNREADABLE"),
        ("risk_breaker", "risk_breaker", "RISK_BREAKER_TRIPPED"),
        ("api_breaker", "api_breaker", "API_BREAKER_UNREADABLE"),
        ("market_clock", "session", "SESSION_UNKNOWN"),
        ("arrival", "freshness", "PRICE_UNAVAILABLE"),
        ("restricted", "restricted_list", "RESTRICTED_LIST_MISSING"),
        ("assets", "permissions", "ASSET_UNREADABLE"),
        ("working_orders", "own_opposite", "WORKING_ORDERS_UNREADABLE"),
        ("limits", "order_limits", "LIMITS_MISSING"),
        ("worst_price", "price_collar", "PRICE_UNAVAILABLE"),
        ("account", "account", "ACCOUNT_INVALID"),
        ("portfolio", "positions", "PORTFOLIO_UNREADABLE"),
        ("daily_loss", "daily_loss", "DAILY_LOSS_UNREADABLE"),
        ("messages_last_minute", "message_rate", "MESSAGE_COUNT_UNREADABLE"),
        ("recent_entries", "repeats", "RECENT_ENTRIES_UNREADABLE"),
        ("recent_entries", "duplicate", "RECENT_ENTRIES_UNREADABLE"),
    ],
)
def test_state_that_could_not_be_read_refuses(field: str, check: str, code: str) -> None:
    given = gate_input(**{field: None})
    assert code_of(given, check) == code
    assert isinstance(approve(given, evaluate(given), NOW, ""), RiskRefusal)


@pytest.mark.parametrize(
    ("kind", "value", "covered"),
    [
        (KillScopeKind.ALL, "", True),
        (KillScopeKind.ACCOUNT, "paper-1", True),
        (KillScopeKind.ACCOUNT, "paper-2", False),
        (KillScopeKind.STRATEGY, "breakout", True),
        (KillScopeKind.STRATEGY, "other", False),
        (KillScopeKind.SYMBOL, "AAPL", True),
        (KillScopeKind.SYMBOL, "MSFT", False),
        (KillScopeKind.TRADE, "demo-20261120-1", True),
        (KillScopeKind.TRADE, "demo-20261120-2", False),
    ],
)
@pytest.mark.parametrize("mode", list(KillMode))
def test_kill_of_any_mode_refuses_exactly_its_scope(
    kind: KillScopeKind, value: str, covered: bool, mode: KillMode
) -> None:
    switch = KillSwitch(
        scope=KillScope(kind=kind, value=value),
        mode=mode, reason="test", by="ann", command_id="k1", engaged_at=NOW,
    )  # fmt: skip
    control = Control(account="paper-1", armed=True, kills=(switch,), version=4, updated_at=NOW)
    assert (code_of(gate_input(control=control), "kill") == "KILLED") is covered


def test_a_kill_on_the_underlying_covers_its_options() -> None:
    call = option(OptionRight.CALL, 100)
    given = gate_input(plan=combo((call, Side.BUY), symbol=call.symbol))
    switch = KillSwitch(
        scope=KillScope(kind=KillScopeKind.SYMBOL, value="AAPL"),
        mode=KillMode.BLOCK, reason="test", by="ann", command_id="k1", engaged_at=NOW,
    )  # fmt: skip
    control = Control(account="paper-1", armed=True, kills=(switch,), version=4, updated_at=NOW)
    assert code_of(given.model_copy(update={"control": control}), "kill") == "KILLED"


def test_disarmed_or_foreign_control_refuses() -> None:
    disarmed = Control(account="paper-1", armed=False, version=1, updated_at=NOW)
    foreign = Control(account="paper-2", armed=True, version=1, updated_at=NOW)
    assert code_of(gate_input(control=disarmed), "kill") == "NOT_ARMED"
    assert code_of(gate_input(control=foreign), "kill") == "CONTROL_UNREADABLE"


def test_conditions_and_breakers_refuse_with_their_reason() -> None:
    active = ActiveCondition(kind=ConditionKind.MACRO_WINDOW, text="FOMC")
    tripped = RiskBreaker(state=BreakerState.TRIPPED, reason=TripReason.DATA_STALE)
    opened = ApiBreaker(state=ApiBreakerState.OPEN, opened_at=NOW)
    assert code_of(gate_input(conditions=(active,)), "conditions") == "CONDITION_ACTIVE"
    assert code_of(gate_input(risk_breaker=tripped), "risk_breaker") == "RISK_BREAKER_TRIPPED"
    assert code_of(gate_input(api_breaker=opened), "api_breaker") == "API_BREAKER_OPEN"


def _at_close(seconds: int, **changes: Any) -> GateInput:
    """The entry `seconds` before the close."""
    return gate_input(market_now=CLOSE - timedelta(seconds=seconds), **changes)


@pytest.mark.parametrize(("seconds", "code"), [(1801, ""), (1800, ""), (1799, "ENTRY_TOO_LATE")])
def test_last_half_hour_blocks_entries(seconds: int, code: str) -> None:
    assert code_of(_at_close(seconds), "session") == code


@pytest.mark.parametrize(("seconds", "code"), [(1799, "ENTRY_TOO_EARLY"), (1800, ""), (1801, "")])
def test_first_half_hour_blocks_entries(seconds: int, code: str) -> None:
    given = gate_input(market_now=OPEN + timedelta(seconds=seconds))
    assert code_of(given, "session") == code


def test_blocked_minutes_of_zero_allow_all_of_an_open_session() -> None:
    free = limits(entry_blocked_first_s="0", entry_blocked_last_s="0")
    assert (
        code_of(gate_input(limits=free, market_now=OPEN, session_opened_at=None), "session") == ""
    )
    assert code_of(_at_close(1, limits=free), "session") == ""
    assert code_of(_at_close(0, limits=free), "session") == "ENTRY_TOO_LATE"


def test_closed_halted_or_unknown_session_refuses() -> None:
    clock = gate_input().market_clock
    assert clock is not None
    closed = clock.model_copy(update={"is_open": False, "next_open": CLOSE})
    halted = clock.model_copy(update={"halted_symbols": ("AAPL",)})
    endless = clock.model_copy(update={"next_close": None})
    assert code_of(gate_input(market_clock=closed), "session") == "SESSION_CLOSED"
    assert code_of(gate_input(market_clock=halted), "session") == "HALTED"
    assert code_of(gate_input(market_clock=endless), "session") == "SESSION_UNKNOWN"
    assert code_of(gate_input(session_opened_at=None), "session") == "SESSION_UNKNOWN"
    assert code_of(gate_input(market_clock=endless, round_the_clock=True), "session") == ""


@pytest.mark.parametrize(("seconds", "code"), [(361, ""), (360, ""), (359, "NO_TIME_TO_EXIT")])
def test_walk_and_exit_must_fit_before_close_and_flat_by(seconds: int, code: str) -> None:
    assert code_of(_at_close(seconds), "can_exit_today") == code
    flat = plan(flat_by=NOW + timedelta(seconds=seconds))
    assert code_of(gate_input(plan=flat), "can_exit_today") == code


@pytest.mark.covers("G1")
@pytest.mark.parametrize(
    ("age_s", "code"), [("4", ""), ("5", ""), ("5.001", "QUOTE_STALE"), ("-6", "QUOTE_STALE")]
)
def test_quote_age_limit(age_s: str, code: str) -> None:
    stale_leg = gate_input(leg_quotes=(aged(quote(), age_s),))
    stale_net = gate_input(arrival=aged(quote(), age_s))
    assert code_of(stale_leg, "freshness") == code
    assert code_of(stale_net, "freshness") == code


def test_entry_waits_for_a_second_quote_behind_a_jump() -> None:
    """faults.md §3 row 34; a jump of another symbol is none of this plan's."""
    assert code_of(gate_input(jumped=(plan().symbol,)), "freshness") == "QUOTE_JUMP"
    assert code_of(gate_input(jumped=("OTHER",)), "freshness") == ""


@pytest.mark.parametrize(("age_s", "code"), [("299", ""), ("300", ""), ("301", "QUOTE_STALE")])
def test_option_quotes_may_be_older(age_s: str, code: str) -> None:
    call = option(OptionRight.CALL, 100)
    given = gate_input(
        plan=plan(legs=(PlanLeg(instrument=call, side=Side.BUY),)),
        leg_quotes=(aged(quote(call.symbol), age_s),),
    )
    assert code_of(given, "freshness") == code


@pytest.mark.covers("G2")
@pytest.mark.parametrize(
    ("bid", "ask", "code"),
    [
        (None, None, "QUOTE_EMPTY"),
        ("0", "0", "QUOTE_EMPTY"),
        ("100", None, "QUOTE_ONE_SIDED"),
        ("100.02", "100.01", "QUOTE_CROSSED"),
        ("100.01", "100.01", "QUOTE_CROSSED"),
    ],
)
def test_entries_never_leave_on_an_invalid_quote(
    bid: str | None, ask: str | None, code: str
) -> None:
    given = gate_input(leg_quotes=(aged(quote(bid=bid, ask=ask)),))
    assert code_of(given, "freshness") == code


@pytest.mark.parametrize(("stale", "code"), [(1, ""), (2, "BATCH_STALE")])
def test_nine_of_ten_symbols_must_be_fresh_and_stale_ones_are_named(stale: int, code: str) -> None:
    """Requirement 181: 30 minutes, 90 %, stale symbols by name."""
    batch = tuple(
        SymbolAge(symbol=f"S{index}", age_s=Decimal(1801 if index < stale else 1800))
        for index in range(10)
    )
    verdicts = {row.name: row for row in evaluate(gate_input(batch=batch)).verdicts}
    assert (verdicts["batch_freshness"].code or "") == code
    assert "S0" in verdicts["batch_freshness"].facts["stale"]
    assert verdicts["batch_freshness"].facts["oldest_s"] == "1801"


def test_a_single_plan_has_no_universe_and_says_so() -> None:
    verdicts = {row.name: row for row in evaluate(gate_input(batch=None)).verdicts}
    assert verdicts["batch_freshness"].outcome is Outcome.NOT_APPLICABLE
    assert verdicts["batch_freshness"].code == "NO_UNIVERSE"


def test_an_empty_batch_or_a_symbol_without_data_is_not_fresh() -> None:
    missing = (SymbolAge(symbol="AAPL", age_s=None),)
    assert code_of(gate_input(batch=()), "batch_freshness") == "BATCH_UNKNOWN"
    assert code_of(gate_input(batch=missing), "batch_freshness") == "BATCH_STALE"


@pytest.mark.parametrize(
    ("age_s", "symbols", "code"),
    [
        (86_400, (), ""),
        (86_401, (), "RESTRICTED_LIST_STALE"),
        (-61, (), "RESTRICTED_LIST_STALE"),
        (10, ("AAPL",), "SYMBOL_RESTRICTED"),
    ],
)
def test_restricted_list(age_s: int, symbols: tuple[str, ...], code: str) -> None:
    listed = RestrictedList(symbols=symbols, as_of=NOW - timedelta(seconds=age_s))
    assert code_of(gate_input(restricted=listed), "restricted_list") == code


@pytest.mark.parametrize(("level", "code"), [(1, "OPTION_LEVEL"), (2, ""), (None, "OPTION_LEVEL")])
def test_option_level_of_a_bought_option(level: int | None, code: str) -> None:
    call = option(OptionRight.CALL, 100)
    given = gate_input(
        plan=plan(legs=(PlanLeg(instrument=call, side=Side.BUY),)),
        assets=(asset(call),),
        account=account(options_level=level),
    )
    assert code_of(given, "permissions") == code


def test_untradable_or_unknown_symbol_refuses() -> None:
    off = gate_input(assets=(asset(tradable=False),))
    assert code_of(off, "permissions") == "NOT_TRADABLE"
    assert code_of(gate_input(assets=()), "permissions") == "SYMBOL_UNKNOWN"


def _short(**changes: Any) -> GateInput:
    values = {"plan": plan(Side.SELL), "worst_price": Decimal("99.97")} | changes
    return gate_input(**values)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, ""),
        ({"limits": limits(allow_short=False)}, "SHORT_NOT_ALLOWED"),
        ({"account": account(shorting_enabled=None)}, "SHORT_NOT_ENABLED"),
        ({"assets": (asset(easy_to_borrow=None),)}, "NOT_EASY_TO_BORROW"),
        ({"assets": (asset(shortable=False),)}, "NOT_EASY_TO_BORROW"),
        ({"short_sale_restricted_symbols": ("AAPL",)}, "SHORT_SALE_RESTRICTED"),
    ],
)
def test_short_sale_needs_every_permission(changes: dict[str, Any], code: str) -> None:
    assert code_of(_short(**changes), "borrow") == code


@pytest.mark.parametrize(
    ("side", "limit", "code"),
    [
        (Side.SELL, "100.06", ""),
        (Side.SELL, "100.05", "OPPOSITE_POSITION"),
        (Side.SELL, "100.04", "OPPOSITE_POSITION"),
        (Side.SELL, None, "OPPOSITE_POSITION"),
        (Side.BUY, "100.04", ""),
    ],
)
def test_an_entry_may_not_cross_our_own_working_order(
    side: Side, limit: str | None, code: str
) -> None:
    """I20: no two trades of ours cross each other."""
    order = OwnWorkingOrder(
        trade_id="other", symbol="AAPL", side=side, remaining_quantity=Decimal(1),
        limit_price=None if limit is None else Decimal(limit),
    )  # fmt: skip
    assert code_of(gate_input(working_orders=(order,)), "own_opposite") == code
    own = order.model_copy(update={"trade_id": "demo-20261120-1"})
    assert code_of(gate_input(working_orders=(own,)), "own_opposite") == ""


@pytest.mark.parametrize(("held", "code"), [("-1", "OPPOSITE_POSITION"), ("0", ""), ("1", "")])
def test_an_entry_may_not_oppose_an_open_trade(held: str, code: str) -> None:
    exposure = SymbolExposure(symbol="AAPL", quantity=Decimal(held), notional=Decimal(1))
    portfolio = Portfolio(open_positions=1, total_notional=Decimal(1), exposures=(exposure,))
    assert code_of(gate_input(portfolio=portfolio), "own_opposite") == code


@pytest.mark.parametrize(
    ("symbol", "side", "code"),
    [
        ("AAPL", Side.SELL, "OPPOSITE_POSITION"),
        ("AAPL", Side.BUY, ""),
        ("MSFT", Side.SELL, ""),
    ],
)
def test_an_entry_may_not_oppose_a_trade_that_has_yet_to_enter(
    symbol: str, side: Side, code: str
) -> None:
    """I20: it has been let through, but holds nothing and its order is not out yet."""
    open_leg = OpenLeg(trade_id="other", symbol=symbol, side=side)
    portfolio = Portfolio(open_positions=1, total_notional=Decimal(1), open_legs=(open_leg,))
    assert code_of(gate_input(portfolio=portfolio), "own_opposite") == code


def test_an_unexplained_quantity_freezes_its_symbol() -> None:
    portfolio = Portfolio(open_positions=0, total_notional=Decimal(0), frozen_symbols=("AAPL",))
    assert code_of(gate_input(portfolio=portfolio), "own_opposite") == "SYMBOL_FROZEN"


@pytest.mark.parametrize(
    ("price", "code"),
    [("102.00", ""), ("102.01", ""), ("102.02", "PRICE_OUTSIDE_COLLAR")],
)
def test_worst_price_inside_at_and_outside_the_collar(price: str, code: str) -> None:
    """Reference 100.01, 2 %: 98.0098 to 102.0102, on the tick 98.01 to 102.01."""
    assert code_of(gate_input(worst_price=Decimal(price)), "price_collar") == code


@pytest.mark.parametrize(
    ("start", "worst", "code"),
    [
        ("98.01", "100.05", ""),
        ("98.00", "100.05", "PRICE_OUTSIDE_COLLAR"),
        ("100.05", "100.04", "WALK_INVALID"),
    ],
)
def test_start_price_lies_in_the_collar_and_before_the_worst(
    start: str, worst: str, code: str
) -> None:
    given = gate_input(start_price=Decimal(start), worst_price=Decimal(worst))
    assert code_of(given, "price_collar") == code


@pytest.mark.parametrize(
    ("quantity", "price", "code"),
    [
        ("10", "99.90", ""),
        ("10", "100.00", ""),
        ("10", "100.01", "NOTIONAL_ABOVE_MAX"),
        ("0", "100.00", "SIZE_BELOW_LOT"),
        ("1.5", "100.00", "QTY_NOT_WHOLE"),
    ],
)
def test_order_value_limit_at_the_worst_price(quantity: str, price: str, code: str) -> None:
    given = gate_input(
        quantity=Decimal(quantity), start_price=Decimal("99.90"), worst_price=Decimal(price)
    )
    assert code_of(given, "order_limits") == code


@pytest.mark.parametrize(
    ("quantity", "code"), [(19_999, ""), (20_000, ""), (20_001, "QTY_ABOVE_MAX")]
)
def test_order_quantity_limit(quantity: int, code: str) -> None:
    wide = limits(max_order_notional="40000", max_total_notional="90000")
    cheap = {"start_price": Decimal("0.01"), "worst_price": Decimal("0.02"), "limits": wide}
    assert code_of(gate_input(quantity=Decimal(quantity), **cheap), "order_limits") == code


def test_a_credit_spread_counts_with_what_it_can_lose() -> None:
    """One unit: width 5 x 100 less the credit of 1.20 = 380; three units pass 1,000."""
    short, long = option(OptionRight.PUT, 95), option(OptionRight.PUT, 90)
    spread = combo((short, Side.SELL), (long, Side.BUY))
    prices = {"start_price": Decimal("-1.25"), "worst_price": Decimal("-1.20"), "plan": spread}
    two = evaluate(gate_input(quantity=Decimal(2), **prices))
    assert (two.order_notional, two.order_loss) == (Decimal("760.00"), Decimal("760.00"))
    assert two.cash_needed == Decimal("760.00")
    assert (
        code_of(gate_input(quantity=Decimal(3), **prices), "order_limits") == "NOTIONAL_ABOVE_MAX"
    )


def test_a_naked_short_option_has_no_bound_and_is_refused() -> None:
    call = option(OptionRight.CALL, 100)
    naked = plan(Side.SELL, legs=(PlanLeg(instrument=call, side=Side.SELL),), stop=None)
    given = gate_input(plan=naked, worst_price=Decimal("99.99"))
    assert code_of(given, "buying_power") == "LOSS_UNBOUNDED_OR_NO_PRICE"


@pytest.mark.parametrize(("sent", "code"), [(58, ""), (59, ""), (60, "MESSAGE_RATE")])
def test_message_rate_leaves_room_for_this_order(sent: int, code: str) -> None:
    assert code_of(gate_input(messages_last_minute=sent), "message_rate") == code


def entered(age_s: str, number: int = 0, **changes: Any) -> RecentEntry:
    """An entry of the plan's strategy, `age_s` ago, that wanted something else by default."""
    values = {"trade_id": f"old-{number}", "strategy": plan().strategy, "idea": "another"}
    return RecentEntry.model_validate({**values, "age_s": age_s, **changes})


@pytest.mark.parametrize(
    ("count", "age_s", "code"),
    [
        (2, "1", ""),
        (3, "1", "REPEATED_ENTRIES"),
        (4, "1", "REPEATED_ENTRIES"),
        (3, "599.9", "REPEATED_ENTRIES"),
        (3, "600", ""),
    ],
)
def test_strategy_that_enters_too_often_is_stopped(count: int, age_s: str, code: str) -> None:
    """Control 6: three entries in ten minutes are allowed, the fourth is refused."""
    recent = tuple(entered(age_s, number) for number in range(count))
    assert code_of(gate_input(recent_entries=recent), "repeats") == code


def test_entries_of_another_strategy_do_not_count_as_repeats() -> None:
    recent = tuple(entered("1", number, strategy="other") for number in range(9))
    assert code_of(gate_input(recent_entries=recent), "repeats") == ""


@pytest.mark.covers("A7")
@pytest.mark.parametrize(
    ("earlier", "changes", "code"),
    [
        ({}, {}, "DUPLICATE_SUSPECT"),
        ({"signal_id": "x", "trade_id": "y", "note": "from elsewhere"}, {}, "DUPLICATE_SUSPECT"),
        ({"size": FixedSize(quantity=Decimal(1))}, {}, ""),
        ({"side": Side.SELL}, {}, ""),
        ({}, {"strategy": "other"}, ""),
        ({}, {"age_s": "4.999"}, "DUPLICATE_SUSPECT"),
        ({}, {"age_s": "5"}, ""),
    ],
)
def test_same_idea_under_another_id_is_a_suspected_duplicate(
    earlier: dict[str, Any], changes: dict[str, Any], code: str
) -> None:
    """A7: legs, side and size make the idea; ids, times and notes do not."""
    idea = idea_of(plan().model_copy(update=earlier))
    recent = (entered(**{"age_s": "1", "idea": idea} | changes),)
    assert code_of(gate_input(recent_entries=recent), "duplicate") == code


@pytest.mark.parametrize("age_s", ["0", "-0.004"])
def test_no_duplicate_is_suspected_where_the_window_is_zero(age_s: str) -> None:
    """Two entries of one instant: the other one may have been stamped after our now."""
    recent = (entered(age_s, idea=idea_of(plan())),)
    given = gate_input(recent_entries=recent, limits=limits(duplicate_window_s="0"))
    assert code_of(given, "duplicate") == ""


@pytest.mark.covers("B6")
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"equity": None}, "ACCOUNT_INVALID"),
        ({"equity": "0"}, "ACCOUNT_INVALID"),
        ({"equity": "-1"}, "ACCOUNT_INVALID"),
        ({"account_id": ""}, "ACCOUNT_INVALID"),
        ({"currency": "EUR"}, "CURRENCY_MISMATCH"),
        ({"trading_blocked": True}, "ACCOUNT_BLOCKED"),
        ({"read_at": NOW - timedelta(seconds=30)}, ""),
        ({"read_at": NOW - timedelta(seconds=31)}, "STALE_ACCOUNT"),
    ],
)
def test_account_must_be_believable_and_fresh(changes: dict[str, Any], code: str) -> None:
    assert code_of(gate_input(account=account(**changes)), "account") == code


@pytest.mark.parametrize(
    ("free", "code"), [("501.26", ""), ("501.25", ""), ("501.24", "BUYING_POWER")]
)
def test_buying_power_at_the_worst_price_with_fees_and_reservations(free: str, code: str) -> None:
    """5 x 100.05 + 0.50 fee + 0.50 reserved elsewhere = 501.25."""
    given = gate_input(
        account=account(buying_power=free),
        fee_estimate=Decimal("0.50"),
        portfolio=Portfolio(
            open_positions=0, total_notional=Decimal(0), reserved_cash=Decimal("0.50")
        ),
    )
    assert code_of(given, "buying_power") == code


def test_buying_power_that_is_not_told_refuses() -> None:
    given = gate_input(account=account(buying_power=None))
    assert code_of(given, "buying_power") == "BUYING_POWER_UNKNOWN"


@pytest.mark.parametrize(
    ("day", "code"),
    [(19, "OPTION_EXPIRED"), (20, "OPTION_TOO_CLOSE"), (21, ""), (22, "")],
)
def test_days_to_expiry(day: int, code: str) -> None:
    call = option(OptionRight.CALL, 100, expiry=date(2026, 11, day))
    given = gate_input(plan=plan(legs=(PlanLeg(instrument=call, side=Side.BUY),)))
    assert code_of(given, "expiry") == code


@pytest.mark.covers("G6")
@pytest.mark.parametrize(("seconds", "code"), [(3601, ""), (3600, ""), (3599, "OPTION_TOO_CLOSE")])
def test_cut_off_on_the_last_day(seconds: int, code: str) -> None:
    call = option(OptionRight.CALL, 100, expiry=date(2026, 11, 20))
    last_day = plan(legs=(PlanLeg(instrument=call, side=Side.BUY),))
    given = _at_close(seconds, plan=last_day, limits=limits(expiry_days_min=0))
    assert code_of(given, "expiry") == code


@pytest.mark.covers("G6")
@pytest.mark.parametrize(
    ("flat_by", "code"),
    [
        (None, "HELD_INTO_EXPIRY"),
        (CLOSE + timedelta(days=1), "HELD_INTO_EXPIRY"),
        (CLOSE, "HELD_INTO_EXPIRY"),
        (CLOSE - timedelta(seconds=1), ""),
    ],
)
def test_plan_that_may_hold_an_option_into_its_expiry_is_refused(
    flat_by: datetime | None, code: str
) -> None:
    """G6: assigned or worthless, that is no exit; the plan says by when it is flat."""
    today = option(OptionRight.CALL, 100, expiry=CLOSE.date())
    given = gate_input(
        plan=plan(legs=(PlanLeg(instrument=today, side=Side.BUY),), flat_by=flat_by),
        limits=limits(expiry_days_min=0),
    )
    assert code_of(given, "expiry") == code


@pytest.mark.covers("G6")
def test_flat_by_of_a_later_expiry_may_be_any_instant_up_to_its_last_day() -> None:
    last = CLOSE + timedelta(days=28)
    later = option(OptionRight.CALL, 100, expiry=last.date())
    legs = (PlanLeg(instrument=later, side=Side.BUY),)
    for flat_by, code in (
        (last - timedelta(hours=1), ""),
        (last + timedelta(days=1), "HELD_INTO_EXPIRY"),
    ):
        assert code_of(gate_input(plan=plan(legs=legs, flat_by=flat_by)), "expiry") == code


def test_an_option_without_expiry_is_refused_and_a_share_has_none() -> None:
    call = option(OptionRight.CALL, 100).model_copy(update={"expiry": None})
    undated = gate_input(plan=plan(legs=(PlanLeg(instrument=call, side=Side.BUY),)))
    assert code_of(undated, "expiry") == "EXPIRY_UNKNOWN"
    verdicts = {row.name: row for row in evaluate(gate_input()).verdicts}
    assert verdicts["expiry"].outcome is Outcome.NOT_APPLICABLE


def test_option_is_refused_while_nobody_knows_what_day_it_is() -> None:
    legs = (PlanLeg(instrument=option(OptionRight.CALL, 100), side=Side.BUY),)
    given = gate_input(plan=plan(legs=legs), session_date=None)
    assert code_of(given, "expiry") == "SESSION_UNKNOWN"


@pytest.mark.parametrize(("count", "code"), [(3, ""), (4, ""), (5, "TOO_MANY_POSITIONS")])
def test_position_count_includes_this_trade(count: int, code: str) -> None:
    portfolio = Portfolio(open_positions=count, total_notional=Decimal(0))
    assert code_of(gate_input(portfolio=portfolio), "positions") == code


@pytest.mark.parametrize(
    ("used", "code"), [("9499.74", ""), ("9499.75", ""), ("9499.76", "SYMBOL_BUDGET")]
)
def test_symbol_budget_counts_reservations_and_working_orders(used: str, code: str) -> None:
    """10 % of 100,000 less this order's 500.25."""
    exposure = SymbolExposure(symbol="AAPL", notional=Decimal(used))
    portfolio = Portfolio(open_positions=1, total_notional=Decimal(used), exposures=(exposure,))
    assert code_of(gate_input(portfolio=portfolio), "symbol_budget") == code


@pytest.mark.parametrize(
    ("used", "code"), [("49499.74", ""), ("49499.75", ""), ("49499.76", "TOTAL_ABOVE_MAX")]
)
def test_total_of_many_small_orders(used: str, code: str) -> None:
    portfolio = Portfolio(open_positions=1, total_notional=Decimal(used))
    assert code_of(gate_input(portfolio=portfolio), "total_exposure") == code


@pytest.mark.parametrize(
    ("used", "code"), [("499.74", ""), ("499.75", ""), ("499.76", "STRATEGY_CAPITAL")]
)
def test_open_trades_of_a_strategy_stay_within_its_capital(used: str, code: str) -> None:
    """Five shares at 100.05 are worth 500.25; the configuration has 1,000."""
    book = StrategyBook(enabled=True, capital=Decimal(1000), open_notional=Decimal(used))
    assert code_of(gate_input(strategy=book), "strategy") == code


def test_disabled_strategy_enters_nothing_and_one_without_rules_is_said_to_have_none() -> None:
    disabled = StrategyBook(enabled=False, reason="LOSSES_IN_A_ROW")
    assert code_of(gate_input(strategy=disabled), "strategy") == "STRATEGY_DISABLED"
    assert code_of(gate_input(strategy=StrategyBook(enabled=True)), "strategy") == ""
    verdicts = {verdict.name: verdict for verdict in evaluate(gate_input()).verdicts}
    assert verdicts["strategy"].outcome is Outcome.NOT_APPLICABLE
    assert verdicts["strategy"].code == "NO_CONFIGURATION"


@pytest.mark.parametrize(
    ("equity", "code"), [("95000.01", ""), ("95000.00", "DAILY_LOSS"), ("94999.99", "DAILY_LOSS")]
)
def test_daily_loss_limit_is_reached_at_equality(equity: str, code: str) -> None:
    baseline = DailyBaseline(
        account_id="paper-1", roll_at=NOW, equity=Decimal(100_000), read_at=NOW
    )
    daily = judge(baseline, Decimal(equity), Decimal(0), Decimal("0.05"))
    assert code_of(gate_input(daily_loss=daily), "daily_loss") == code


def test_transfers_neither_cause_nor_hide_a_loss() -> None:
    baseline = DailyBaseline(account_id="a", roll_at=NOW, equity=Decimal(1000), read_at=NOW)
    withdrawn = judge(baseline, Decimal(500), Decimal(-500), Decimal("0.05"))
    deposited = judge(baseline, Decimal(1400), Decimal(500), Decimal("0.05"))
    assert (withdrawn.code, withdrawn.loss) == ("", Decimal(0))
    assert (deposited.code, deposited.loss) == ("DAILY_LOSS", Decimal(100))


@pytest.mark.parametrize(
    ("equity", "code"),
    [(None, "EQUITY_MISSING"), (Decimal(0), "DAILY_LOSS"), (Decimal(-5), "DAILY_LOSS")],
)
def test_missing_or_worthless_equity_trips(equity: Decimal | None, code: str) -> None:
    baseline = DailyBaseline(account_id="a", roll_at=NOW, equity=Decimal(1000), read_at=NOW)
    assert judge(baseline, equity, Decimal(-5000), Decimal("0.05")).code == code
    assert judge(None, Decimal(1000), Decimal(0), Decimal("0.05")).code == "BASELINE_MISSING"


def test_a_check_that_fails_refuses_instead_of_passing() -> None:
    """S12: a stop on the wrong side of the worst price is found while measuring the loss."""
    inverse = Instrument(symbol="INV", kind=InstrumentKind.PERPETUAL, inverse=True)
    odd = plan(legs=(PlanLeg(instrument=inverse, side=Side.BUY),))
    given = gate_input(plan=odd, worst_price=Decimal(0), start_price=Decimal(0))
    decision = evaluate(given)
    assert not decision.allowed
    assert isinstance(approve(given, decision, NOW, ""), RiskRefusal)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"collar_fraction": "0"}, "CONFIG_COLLAR_RANGE"),
        ({"collar_fraction": "5"}, "CONFIG_COLLAR_RANGE"),
        ({"collar_fraction": "0.5"}, ""),
        ({"max_open_positions": 0}, "CONFIG_RANGE"),
        ({"entry_blocked_last_s": "-1"}, "CONFIG_RANGE"),
        ({"max_symbol_fraction": "1.01"}, "CONFIG_RANGE"),
        ({"max_order_notional": "50000.01"}, "CONFIG_CONTRADICTION"),
        ({"max_order_notional": "50000"}, ""),
        ({"quote_max_age_s": "1801"}, "CONFIG_CONTRADICTION"),
        ({"max_order_notional": 0.1}, "PRICE_PRECISION"),
        ({"max_open_positions": "five"}, "CONFIG_TYPE"),
        ({"max_open_positons": 5}, "CONFIG_UNKNOWN_KEY"),
        ({"collar_fraction": ""}, "CONFIG_MISSING"),
        ({"collar_fraction": None}, "CONFIG_MISSING"),
    ],
)
def test_limits_refuse_what_cannot_be_meant(changes: dict[str, Any], code: str) -> None:
    """faults.md §3 rows 21, 48, 49."""
    if code == "":
        assert isinstance(read_limits(LIMIT_VALUES | changes), Limits)
        return
    with pytest.raises(BadInput) as caught:
        read_limits(LIMIT_VALUES | changes)
    assert caught.value.code == code


@pytest.mark.parametrize("name", sorted(Limits.model_fields))
def test_no_limit_has_a_default(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_limits({key: value for key, value in LIMIT_VALUES.items() if key != name})
    assert (caught.value.code, caught.value.field) == ("CONFIG_MISSING", f"limits.{name}")


def test_a_decision_survives_its_json() -> None:
    decision = evaluate(gate_input())
    again = type(decision).model_validate_json(decision.model_dump_json())
    assert again == decision
    wide = plan(walk=WalkPlan(step="1", interval_s="5", steps_max=1, max_time_s="60"))
    given = gate_input(plan=wide.model_copy(update={"size": FixedSize(quantity=Decimal(1))}))
    assert GateInput.model_validate_json(given.model_dump_json()) == given


def test_an_absurd_size_is_refused_and_never_an_exception() -> None:
    given = gate_input(quantity=Decimal("1e15"))
    decision = evaluate(given)
    assert code_of(given, "order_limits") == "QTY_ABOVE_MAX"
    assert code_of(given, "symbol_budget") == "SYMBOL_BUDGET"
    assert isinstance(approve(given, decision, NOW, ""), RiskRefusal)
    legless = gate_input(plan=plan(legs=()))
    assert code_of(legless, "order_limits") == "CHECK_FAILED"
    assert not evaluate(legless).allowed


def test_approval_is_minted_in_one_place_only() -> None:
    """style.md rule 17: nothing but the gate builds a RiskApproved."""
    root = Path(__file__).resolve().parents[2]
    folders = ("activities", "brokers", "domain", "ledger", "marketdata", "simulator", "workflows")
    minting = [
        path.relative_to(root).as_posix()
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
        if "RiskApproved(" in path.read_text(encoding="utf-8").replace("class RiskApproved(", "")
    ]
    assert minting == ["domain/risk/gate.py"]
