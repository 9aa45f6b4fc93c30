"""The worked examples of `strategies/`: enough signals on the demo day, and each its own idea."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from domain.bar import Bar
from domain.clock import ClockMap
from domain.order import Quote, Side
from domain.plan import CapitalSize, RatchetKind, RuleKind
from domain.risk.sizing import entry_prices, size_entry
from domain.signal import Decision, Signal, SignalKind, StrategyContext, plan_of
from domain.validation import PlanContext, check_plan
from marketdata.demo_tape import DEMO_BEGIN, DEMO_END, demo_events, demo_instrument
from marketdata.feed import TapeFeed
from marketdata.indicators import sma
from strategies import (
    every_road,
    mean_reversion,
    moving_average_trend,
    opening_breakout,
    pump_detector,
)
from strategies.registry import strategy_files

TICK = Decimal("0.25")
LINES_MAX = 100
SHARED_BY_CAPITAL = (opening_breakout, moving_average_trend, mean_reversion, pump_detector)
EXAMPLES = (*SHARED_BY_CAPITAL, every_road)
NAMES = [module.__name__.rpartition(".")[2] for module in EXAMPLES]


@functools.cache
def demo_bars() -> tuple[Bar, ...]:
    return TapeFeed(demo_events()).completed(("ESX",), None, DEMO_END).bars


def ask(module: ModuleType, bars: Sequence[Bar], **parameters: str) -> Decision:
    answer: Decision = module.generate_signal(
        bars,
        StrategyContext(
            session="demo",
            strategy=module.__name__.rpartition(".")[2],
            instrument=demo_instrument(),
            now=bars[-1].end,
            session_open=DEMO_BEGIN,
            session_close=DEMO_END,
            parameters=parameters,
        ),
    )
    return answer


@functools.cache
def demo_decisions(module: ModuleType) -> tuple[Decision, ...]:
    bars = demo_bars()
    return tuple(ask(module, bars[:count]) for count in range(1, len(bars) + 1))


def demo_signals(module: ModuleType) -> list[Signal]:
    return [d.signal for d in demo_decisions(module) if d.signal is not None]


def entries(module: ModuleType) -> list[Signal]:
    return [signal for signal in demo_signals(module) if signal.kind is SignalKind.ENTRY]


def flat_bar(minute: int, close: str, *, volume: str = "100", high: str = "") -> Bar:
    start = DEMO_BEGIN + timedelta(minutes=minute)
    return Bar(
        symbol="ESX",
        start=start,
        end=start + timedelta(minutes=1),
        open=close,
        high=high or close,
        low=close,
        close=close,
        volume=volume,
    )


def test_every_example_is_one_file_of_at_most_a_hundred_lines() -> None:
    files = strategy_files()
    assert {path.stem for path in files} >= set(NAMES)
    long = {path.name for path in files if len(Path(path).read_text().splitlines()) > LINES_MAX}
    assert long == set()


@pytest.mark.parametrize("module", EXAMPLES, ids=NAMES)
def test_demo_day_gives_five_entries_or_more_each_with_its_own_id(module: ModuleType) -> None:
    signals = demo_signals(module)
    assert len(entries(module)) >= 5
    assert len({signal.signal_id for signal in signals}) == len(signals)
    assert all(d.signal is not None or d.reason for d in demo_decisions(module))


@pytest.mark.parametrize("module", EXAMPLES, ids=NAMES)
def test_plans_pass_the_edge_check_at_demo_speed(module: ModuleType) -> None:
    for signal in entries(module):
        now = signal.bar_time
        clock = ClockMap(wall0=now, market0=now, speed=Decimal(150))
        around = PlanContext(market_now=now, session_date=now.date(), clock_map=clock)
        plan = plan_of(signal, demo_instrument(), "ACC1")
        assert check_plan(plan, around) == plan
        assert plan.stop is not None
        assert plan.stop.price.offset is not None
        assert plan.side.sign * plan.stop.price.offset < 0
        assert plan.stop.price.offset % TICK == 0


@pytest.mark.parametrize("module", EXAMPLES, ids=NAMES)
def test_same_bars_give_the_same_answer_whatever_was_asked_before(module: ModuleType) -> None:
    decisions = demo_decisions(module)
    for index in [i for i, decision in enumerate(decisions) if decision.signal is not None][::4]:
        assert ask(module, demo_bars()[: index + 1]) == decisions[index]


@pytest.mark.parametrize("module", SHARED_BY_CAPITAL, ids=NAMES[:-1])
def test_same_file_suits_a_hundred_and_a_hundred_thousand(module: ModuleType) -> None:
    """At most half of the capital and 1 % of it at risk, in lots of a thousandth."""
    lots = demo_instrument().model_copy(
        update={"lot_size": Decimal("0.001"), "min_quantity": Decimal("0.001")}
    )
    for signal in entries(module):
        plan = plan_of(signal, lots, "ACC1")
        bar = next(bar for bar in demo_bars() if bar.end == signal.bar_time)
        quote = Quote(symbol="ESX", bid=bar.close - TICK, ask=bar.close + TICK, venue_time=bar.end)
        prices = entry_prices(plan, quote, Decimal("0.02"))
        for capital in (Decimal(100), Decimal(100_000)):
            sized = size_entry(plan, prices, capital)
            assert isinstance(plan.size, CapitalSize)
            assert sized.loss_at_worst is not None
            assert 0 < sized.notional <= capital / 2
            assert sized.loss_at_worst <= capital / 100


def test_opening_breakout_takes_three_tranches_and_ratchets() -> None:
    for signal in entries(opening_breakout):
        draft = signal.draft
        assert draft is not None
        assert sum(target.fraction for target in draft.targets) == 1
        gains = [signal.side.sign * (t.price.offset or 0) for t in draft.targets if t.price]
        assert len(gains) == 3
        assert gains == sorted(set(gains))
        assert [step.kind for step in draft.ratchet] == [
            RatchetKind.BREAK_EVEN,
            RatchetKind.PREVIOUS_TARGET,
        ]
    assert {signal.side for signal in entries(opening_breakout)} == set(Side)


def test_opening_breakout_enters_on_the_close_that_leaves_the_range_and_not_again() -> None:
    opening = [flat_bar(minute, "100", high="102") for minute in range(5)]
    bars = [*opening, flat_bar(5, "102"), flat_bar(6, "102.25"), flat_bar(7, "103")]

    answers = [ask(opening_breakout, bars[:count]).signal for count in range(5, 9)]
    assert [answer is not None for answer in answers] == [False, False, True, False]
    assert answers[2] is not None
    assert answers[2].side is Side.BUY
    short = [*bars[:6], flat_bar(6, "99")]
    assert ask(opening_breakout, short).signal is not None
    assert ask(opening_breakout, short, long_only="true").signal is None


def test_trend_leaves_on_the_cross_and_enters_one_bar_later_with_a_trailing_stop() -> None:
    signals = demo_signals(moving_average_trend)
    leaving = [signal for signal in signals if signal.kind is SignalKind.EXIT_FULL]
    before = {signal.bar_time: signal for signal in leaving}
    for entry in entries(moving_average_trend):
        cross = before[entry.bar_time - timedelta(minutes=1)]
        assert cross.side is entry.side
        assert cross.draft is None
        assert entry.draft is not None
        (rule,) = entry.draft.rules
        assert rule.kind is RuleKind.STOP_TRAIL
        assert rule.threshold % TICK == 0


def test_reversion_enters_against_the_move_towards_the_average_with_a_time_stop() -> None:
    for entry in entries(mean_reversion):
        bars = [bar for bar in demo_bars() if bar.end <= entry.bar_time]
        mean = sma(bars, 20).value
        assert mean is not None
        assert entry.side.sign * (mean - bars[-1].close) > 0
        assert entry.draft is not None
        assert entry.draft.time_stop_s == 900
        (target,) = entry.draft.targets
        assert target.price is not None
        assert entry.side.sign * (target.price.offset or 0) > 0


def test_pump_is_told_in_the_five_words_of_the_vocabulary() -> None:
    """Requirement 58: S1 · O1/Z1 monitor only · ZE1 partial exit · E1 full exit."""
    quiet = [flat_bar(minute, "100") for minute in range(21)]
    after = [
        flat_bar(21, "100.25", volume="130"),  # more volume, a little higher: watched
        flat_bar(22, "101", volume="300"),  # the pump: from 100 to 101
        flat_bar(23, "102", volume="300"),  # goes on
        flat_bar(24, "101.50"),  # a quarter of two is given back: fades
        flat_bar(25, "101"),  # half is given back
        flat_bar(26, "100.75"),  # said already
        flat_bar(27, "100"),  # all of it
        flat_bar(28, "100"),
    ]
    bars = [*quiet, *after]
    answers = [ask(pump_detector, bars[: 21 + count]).signal for count in range(1, 9)]

    assert [None if answer is None else answer.kind.value for answer in answers] == [
        "O1",
        "S1",
        None,
        "Z1",
        "ZE1",
        None,
        "E1",
        None,
    ]
    assert [answer.draft is not None for answer in answers if answer is not None] == [
        False,
        True,
        False,
        False,
        False,
    ]


def test_pump_of_the_demo_day_uses_every_word() -> None:
    assert {signal.kind for signal in demo_signals(pump_detector)} == set(SignalKind)


def test_every_road_walks_through_its_whole_mix_and_stops_before_the_close() -> None:
    signals = demo_signals(every_road)
    notes = {signal.draft.note for signal in signals if signal.draft is not None}

    assert len(signals) >= 25
    assert notes == {variation.name for variation in every_road.MIX}
    assert {signal.side for signal in signals} == set(Side)
    last = max(signal.bar_time for signal in signals)
    assert last <= DEMO_END - every_road.QUIET_BEFORE_CLOSE
