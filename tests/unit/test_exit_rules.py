"""Rule exits and their guards (architecture §6, requirement 102)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import Broken
from domain.exits.rules import (
    DEFAULT_GUARDS,
    Deferred,
    Guards,
    Nothing,
    Outcome,
    Triggered,
    WatchState,
    evaluate,
    trail_level,
)
from domain.order import Side
from domain.plan import ExitRule, RuleKind

OPENED = datetime(2026, 3, 9, 14, 30, tzinfo=UTC)
AFTER_GRACE = OPENED + timedelta(seconds=900)
FRESH = Decimal("0.5")
PRICES = st.decimals(min_value="90", max_value="110", places=2)


def rule(kind: RuleKind, threshold: str) -> ExitRule:
    return ExitRule(rule_id="r1", kind=kind, threshold=threshold)


def watch(side: Side = Side.BUY, entry: str = "100", **values: object) -> WatchState:
    fields: dict[str, object] = {
        "rule_id": "r1",
        "position_epoch": 1,
        "side": side,
        "entry_price": entry,
        "quantity": "10",
        "opened_at": OPENED,
        **values,
    }
    return WatchState.model_validate(fields)


def look_every_minute(
    exit_rule: ExitRule,
    state: WatchState,
    marks: list[str],
    start: datetime = AFTER_GRACE,
    guards: Guards = DEFAULT_GUARDS,
) -> tuple[WatchState, list[Outcome]]:
    outcomes: list[Outcome] = []
    for index, mark in enumerate(marks):
        now = start + timedelta(seconds=60 * index)
        state, outcome = evaluate(exit_rule, state, Decimal(mark), FRESH, now, guards)
        outcomes.append(outcome)
    return state, outcomes


@pytest.mark.parametrize(
    ("kind", "threshold", "side", "mark_below", "mark_at"),
    [
        (RuleKind.PROFIT_PERCENT, "5", Side.BUY, "104.99", "105"),
        (RuleKind.PROFIT_PERCENT, "5", Side.SELL, "95.01", "95"),
        (RuleKind.PROFIT_AMOUNT, "50", Side.BUY, "104.99", "105"),
        (RuleKind.PROFIT_AMOUNT, "50", Side.SELL, "95.01", "95"),
        (RuleKind.LOSS_PERCENT, "5", Side.BUY, "95.01", "95"),
        (RuleKind.LOSS_PERCENT, "5", Side.SELL, "104.99", "105"),
        (RuleKind.LOSS_AMOUNT, "50", Side.BUY, "95.01", "95"),
        (RuleKind.LOSS_AMOUNT, "50", Side.SELL, "104.99", "105"),
    ],
)
def test_threshold_fires_at_its_value_and_not_one_cent_before(
    kind: RuleKind, threshold: str, side: Side, mark_below: str, mark_at: str
) -> None:
    _, quiet = look_every_minute(rule(kind, threshold), watch(side), [mark_below] * 4)
    _, fired = look_every_minute(rule(kind, threshold), watch(side), [mark_at] * 3)

    assert all(isinstance(outcome, Nothing) for outcome in quiet)
    assert [type(outcome) for outcome in fired] == [Nothing, Nothing, Triggered]


def test_percent_of_a_credit_combo_is_taken_of_its_absolute_entry_price() -> None:
    state = watch(Side.BUY, entry="-2.00", quantity="1", multiplier="100")
    _, outcomes = look_every_minute(rule(RuleKind.PROFIT_PERCENT, "50"), state, ["-1.00"] * 3)

    assert isinstance(outcomes[-1], Triggered)


def test_three_confirmations_must_be_a_minute_apart() -> None:
    exit_rule, state = rule(RuleKind.LOSS_PERCENT, "5"), watch()
    for second in range(119):
        now = AFTER_GRACE + timedelta(seconds=second)
        state, outcome = evaluate(exit_rule, state, Decimal(94), FRESH, now)
        assert isinstance(outcome, Nothing)

    assert state.confirmations == 2
    now = AFTER_GRACE + timedelta(seconds=120)
    _, outcome = evaluate(exit_rule, state, Decimal(94), FRESH, now)
    assert isinstance(outcome, Triggered)


def test_one_good_mark_between_bad_ones_starts_the_confirmations_again() -> None:
    marks = ["94", "94", "99", "94", "94", "94"]
    _, outcomes = look_every_minute(rule(RuleKind.LOSS_PERCENT, "5"), watch(), marks)

    assert [isinstance(outcome, Triggered) for outcome in outcomes] == [False] * 5 + [True]


def test_grace_period_holds_back_until_its_last_second() -> None:
    exit_rule, state = rule(RuleKind.LOSS_PERCENT, "5"), watch()
    now = AFTER_GRACE - timedelta(seconds=1)
    state, outcome = evaluate(exit_rule, state, Decimal(94), FRESH, now)
    assert outcome == Nothing(reason="grace period")
    assert state.confirmations == 0

    state, _ = evaluate(exit_rule, state, Decimal(94), FRESH, AFTER_GRACE)
    assert state.confirmations == 1


def test_jump_is_deferred_twice_then_becomes_the_base_with_an_alert() -> None:
    exit_rule = rule(RuleKind.LOSS_PERCENT, "5")
    state, outcomes = look_every_minute(exit_rule, watch(), ["100", "40", "40", "40", "40", "40"])

    assert [type(o) for o in outcomes] == [Nothing, Deferred, Deferred, Nothing, Nothing, Triggered]
    assert isinstance(outcomes[3], Nothing)
    assert "new base" in outcomes[3].alert
    assert state.base_mark == Decimal(40)


def test_jump_that_comes_back_leaves_no_trace() -> None:
    exit_rule = rule(RuleKind.LOSS_PERCENT, "5")
    state, outcomes = look_every_minute(exit_rule, watch(), ["100", "40", "100.5", "100"])

    assert [type(o) for o in outcomes] == [Nothing, Deferred, Nothing, Nothing]
    assert state.deferrals == 0
    assert state.high_water == Decimal("100.5")


def test_jump_of_exactly_half_is_not_a_jump() -> None:
    _, outcomes = look_every_minute(rule(RuleKind.LOSS_PERCENT, "60"), watch(), ["100", "50"])
    assert not any(isinstance(outcome, Deferred) for outcome in outcomes)


def test_many_ticks_within_one_scan_count_as_one_deferral() -> None:
    exit_rule, state = rule(RuleKind.LOSS_PERCENT, "5"), watch()
    state, _ = evaluate(exit_rule, state, Decimal(100), FRESH, AFTER_GRACE)
    for second in range(1, 50):
        now = AFTER_GRACE + timedelta(seconds=second)
        state, outcome = evaluate(exit_rule, state, Decimal(40), FRESH, now)
        assert isinstance(outcome, Deferred)

    assert state.deferrals == 1


def test_volatility_spike_of_ten_percent_in_a_minute_fires_at_once() -> None:
    spike = rule(RuleKind.VOLATILITY_SPIKE, "10")
    state, _ = evaluate(spike, watch(), Decimal("20.0"), FRESH, OPENED)
    now = OPENED + timedelta(seconds=60)
    _, just_below = evaluate(spike, state, Decimal("21.99"), FRESH, now)
    _, reached = evaluate(spike, state, Decimal("22.00"), FRESH, now)
    later = OPENED + timedelta(seconds=61)
    _, too_slow = evaluate(spike, state, Decimal("22.00"), FRESH, later)

    assert isinstance(just_below, Nothing)
    assert isinstance(reached, Triggered)
    assert isinstance(too_slow, Nothing)


def test_volatility_spike_beyond_the_jump_guard_fires_once_it_has_stayed() -> None:
    spike = rule(RuleKind.VOLATILITY_SPIKE, "10")
    _, outcomes = look_every_minute(spike, watch(), ["20", "35", "35", "35"])

    assert [type(o) for o in outcomes] == [Nothing, Deferred, Deferred, Triggered]


def test_spike_window_stays_bounded_under_steadily_rising_marks() -> None:
    spike, state = rule(RuleKind.VOLATILITY_SPIKE, "90"), watch()
    for step in range(500):
        now = OPENED + timedelta(milliseconds=100 * step)
        mark = Decimal(20) + Decimal(step) / 1000
        state, _ = evaluate(spike, state, mark, FRESH, now)

    assert len(state.window) <= 128
    assert state.window[0].mark == Decimal(20)


def test_profit_trail_arms_only_after_its_distance_was_gained() -> None:
    exit_rule = rule(RuleKind.PROFIT_TRAIL, "2")
    state, _ = look_every_minute(exit_rule, watch(), ["101.99"])
    assert trail_level(exit_rule, state) is None

    state, _ = look_every_minute(exit_rule, watch(), ["103"])
    assert trail_level(exit_rule, state) == Decimal(101)


@pytest.mark.parametrize("age", [None, Decimal("-0.1"), Decimal("5.1")])
def test_mark_of_unknown_or_old_age_changes_nothing(age: Decimal | None) -> None:
    state = watch(confirmations=2)
    after, outcome = evaluate(rule(RuleKind.LOSS_PERCENT, "5"), state, Decimal(1), age, AFTER_GRACE)

    assert after == state
    assert outcome == Nothing(reason="quote is stale")


def test_missing_mark_flat_position_and_reversed_time_change_nothing() -> None:
    exit_rule = rule(RuleKind.LOSS_PERCENT, "5")
    state = watch(last_eval_at=AFTER_GRACE)
    earlier = AFTER_GRACE - timedelta(seconds=1)

    assert evaluate(exit_rule, state, None, FRESH, AFTER_GRACE)[0] == state
    assert evaluate(exit_rule, state, Decimal("NaN"), FRESH, AFTER_GRACE)[0] == state
    assert evaluate(exit_rule, state, Decimal(1), FRESH, earlier)[0] == state
    flat = watch(quantity="0")
    assert evaluate(exit_rule, flat, Decimal(1), FRESH, AFTER_GRACE)[0] == flat


def test_state_of_another_rule_is_our_bug() -> None:
    other = ExitRule(rule_id="r2", kind=RuleKind.LOSS_PERCENT, threshold="5")
    with pytest.raises(Broken):
        evaluate(other, watch(), Decimal(100), FRESH, AFTER_GRACE)


@given(
    kind=st.sampled_from(sorted(set(RuleKind) - {RuleKind.VOLATILITY_SPIKE})),
    side=st.sampled_from(sorted(Side)),
    marks=st.lists(PRICES, min_size=1, max_size=30),
)
@settings(max_examples=100)
def test_trail_and_high_water_are_monotone_in_the_trades_favour(
    kind: RuleKind, side: Side, marks: list[Decimal]
) -> None:
    exit_rule, state = rule(kind, "1.5"), watch(side)
    for index, mark in enumerate(marks):
        before = state
        now = AFTER_GRACE + timedelta(seconds=20 * index)
        state, _ = evaluate(exit_rule, state, mark, FRESH, now)
        if before.high_water is not None:
            assert state.high_water is not None
            assert side.sign * (state.high_water - before.high_water) >= 0
        old, new = trail_level(exit_rule, before), trail_level(exit_rule, state)
        if old is not None:
            assert new is not None
            assert side.sign * (new - old) >= 0


@given(
    kind=st.sampled_from(sorted(RuleKind)),
    looks=st.lists(
        st.tuples(
            st.one_of(st.none(), PRICES),
            st.sampled_from([None, Decimal(0), Decimal(5), Decimal("5.01"), Decimal(600)]),
            st.integers(min_value=-30, max_value=400),
        ),
        max_size=40,
    ),
)
@settings(max_examples=100)
def test_no_stale_trigger_and_at_most_one_per_rule_and_epoch(
    kind: RuleKind, looks: list[tuple[Decimal | None, Decimal | None, int]]
) -> None:
    exit_rule, state, now = rule(kind, "1"), watch(), OPENED
    fired: list[tuple[str, int]] = []
    for mark, age, step_s in looks:
        now += timedelta(seconds=step_s)
        state, outcome = evaluate(exit_rule, state, mark, age, now)
        if isinstance(outcome, Triggered):
            assert mark is not None
            assert age is not None
            assert age <= DEFAULT_GUARDS.quote_age_s_max
            if kind is not RuleKind.VOLATILITY_SPIKE:
                assert now >= AFTER_GRACE
            fired.append((outcome.rule_id, outcome.position_epoch))

    assert len(fired) == len(set(fired)) <= 1


@given(marks=st.lists(PRICES, min_size=4, max_size=30), cut=st.integers(0, 29))
@settings(max_examples=50)
def test_watch_that_restarts_from_its_stored_row_decides_the_same(
    marks: list[Decimal], cut: int
) -> None:
    exit_rule = rule(RuleKind.STOP_TRAIL, "1")
    straight = restarted = watch()
    for index, mark in enumerate(marks):
        now = AFTER_GRACE + timedelta(seconds=45 * index)
        if index == cut:
            restarted = WatchState.model_validate_json(restarted.model_dump_json())
        straight, first = evaluate(exit_rule, straight, mark, FRESH, now)
        restarted, second = evaluate(exit_rule, restarted, mark, FRESH, now)
        assert first == second

    assert straight == restarted
