"""Strategies: the registry's refusals and the signal contract (faults.md §3 rows 1-3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from domain.bar import Bar
from domain.errors import BadInput
from domain.instrument import Instrument
from domain.order import Side
from domain.plan import FixedSize, WalkPlan
from domain.signal import Decision, PlanDraft, Signal, SignalKind, StrategyContext, plan_of
from strategies.registry import StrategyProcess, list_strategies, strategy_files

NOW = datetime(2026, 3, 9, 14, 31, tzinfo=UTC)
SPY = Instrument(symbol="SPY")
HEADER = "from decimal import Decimal\nfrom domain.signal import Decision, Signal\n"
GOOD = HEADER + "def generate_signal(bars, context):\n    return Decision.none(context, 'quiet')\n"


def bar(minute: int = 0, price: str = "100") -> Bar:
    start = NOW + timedelta(minutes=minute - 1)
    return Bar(
        symbol="SPY",
        start=start,
        end=start + timedelta(minutes=1),
        open=price,
        high=price,
        low=price,
        close=price,
    )


def context(strategy: str = "sample", session: str = "demo-20260309T143000Z") -> StrategyContext:
    return StrategyContext(
        session=session,
        strategy=strategy,
        instrument=SPY,
        now=NOW,
        session_open=NOW - timedelta(hours=1),
    )


def ask(directory: Path, body: str, *, timeout_s: float = 10.0) -> Decision:
    path = directory / "sample.py"
    path.write_text(HEADER + body)
    with StrategyProcess(path, answer_timeout_s=timeout_s) as strategy:
        return strategy.decide((bar(),), context())


def test_dropped_file_runs_and_a_broken_neighbour_is_refused_with_its_traceback(
    tmp_path: Path,
) -> None:
    (tmp_path / "a_broken.py").write_text("import no_such_module\n")
    (tmp_path / "b_good.py").write_text(GOOD)
    (tmp_path / "c_empty.py").write_text("x = 1\n")
    (tmp_path / "_helper.py").write_text("raise RuntimeError\n")

    broken, good, empty = list_strategies(tmp_path)

    assert (broken.name, broken.usable, broken.code) == ("a_broken", False, "STRATEGY_BROKEN")
    assert "no_such_module" in broken.text
    assert "Traceback" in broken.text
    assert good.usable
    assert (empty.usable, empty.text) == (False, "generate_signal was missing")


def test_project_folder_holds_usable_strategies_only() -> None:
    assert "opening_breakout" in [path.stem for path in strategy_files()]
    assert all(listing.usable for listing in list_strategies())


def test_no_signal_is_a_decision_with_its_reason(tmp_path: Path) -> None:
    decision = ask(tmp_path, "def generate_signal(b, c):\n    return Decision.none(c, 'quiet')\n")
    assert (decision.code, decision.reason, decision.signal) == ("NO_SIGNAL", "quiet", None)


def test_plain_dictionary_is_an_answer_too(tmp_path: Path) -> None:
    body = """
def generate_signal(bars, context):
    return {"strategy": context.strategy, "symbol": context.instrument.symbol,
            "bar_time": context.now, "reason": "duck"}
"""
    assert ask(tmp_path, body).reason == "duck"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("def generate_signal(b, c):\n    raise ValueError('boom')\n", "STRATEGY_RAISED"),
        ("def generate_signal(b, c):\n    raise SystemExit(3)\n", "STRATEGY_RAISED"),
        ("import os\ndef generate_signal(b, c):\n    os._exit(3)\n", "STRATEGY_DIED"),
        ("def generate_signal(b, c):\n    return 42\n", "STRATEGY_ANSWER"),
        (
            "def generate_signal(b, c):\n"
            "    return Signal.derive(c, 'buy', draft=None, confidence=float('nan'))\n",
            "NOT_FINITE",
        ),
        (
            "def generate_signal(b, c):\n"
            "    return Signal.derive(c, 'buy', draft=None, confidence=0.6)\n",
            "PRICE_PRECISION",
        ),
        (
            "def generate_signal(b, c):\n"
            "    return Signal.derive(c, 'buy', draft=None, confidence=Decimal('1.1'))\n",
            "NUMBER_OUT_OF_RANGE",
        ),
        (
            "def generate_signal(b, c):\n"
            "    s = Signal.derive(c, 'buy', draft=None)\n"
            "    return s.model_copy(update={'signal_id': 'drawn-by-hand'})\n",
            "STRATEGY_ANSWER",
        ),
        (
            "def generate_signal(b, c):\n"
            "    return Signal.derive(c, 'buy', draft=None).model_copy("
            "update={'confidence': Decimal('NaN')})\n",
            "NOT_FINITE",
        ),
    ],
)
def test_bad_strategy_becomes_a_named_refusal(tmp_path: Path, body: str, code: str) -> None:
    decision = ask(tmp_path, body)
    assert decision.signal is None
    assert decision.code == code


def test_hung_strategy_is_refused_by_name_and_asked_afresh_next_time(tmp_path: Path) -> None:
    marker = tmp_path / "was_here"
    path = tmp_path / "sample.py"
    path.write_text(
        HEADER + "import pathlib\ndef generate_signal(b, c):\n"
        f"    marker = pathlib.Path({str(marker)!r})\n"
        "    while not marker.exists():\n        pass\n"
        "    return Decision.none(c, 'awake')\n"
    )
    with StrategyProcess(path, answer_timeout_s=0.5) as strategy:
        hung = strategy.decide((bar(),), context())
        marker.touch()
        awake = strategy.decide((bar(),), context())

    assert (hung.code, hung.signal) == ("STRATEGY_HUNG", None)
    assert awake.reason == "awake"


def test_printing_strategy_does_not_garble_its_answers(tmp_path: Path) -> None:
    body = "def generate_signal(b, c):\n    print('hello')\n    return Decision.none(c, 'ok')\n"
    assert ask(tmp_path, body).reason == "ok"


def test_strategy_does_not_see_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_SECRET", "hunter2")
    body = (
        "import os\ndef generate_signal(b, c):\n"
        "    return Decision.none(c, os.environ.get('BROKER_SECRET', 'hidden'))\n"
    )
    assert ask(tmp_path, body).reason == "hidden"


def test_signal_id_is_derived_from_the_bar_and_fits_the_id_rule() -> None:
    first = Signal.derive(context(), Side.BUY, draft=None)
    again = Signal.derive(context(), Side.BUY, draft=None)
    exit_signal = Signal.derive(context(), Side.BUY, draft=None, kind=SignalKind.EXIT_FULL)

    assert first.signal_id == again.signal_id
    assert first.signal_id.startswith("demo-20260309T143000Z-1431-")
    assert exit_signal.signal_id != first.signal_id
    with pytest.raises(BadInput, match="ID_FORMAT"):
        Signal.derive(context(session="x" * 35), Side.BUY, draft=None)


def test_plan_of_a_signal_keeps_the_draft_and_takes_the_signals_id() -> None:
    walk = WalkPlan(step="0.01", interval_s="60", steps_max=3, max_time_s="240")
    draft = PlanDraft(size=FixedSize(quantity="5"), walk=walk, note="test")
    signal = Signal.derive(context(), Side.SELL, draft=draft)
    plan = plan_of(signal, SPY, "ACC1")

    assert (plan.trade_id, plan.side, plan.size) == (signal.signal_id, Side.SELL, draft.size)
    assert plan.legs[0].side is Side.SELL
    assert plan.walk == walk
    with pytest.raises(ValueError, match="without a plan"):
        plan_of(Signal.derive(context(), Side.BUY, draft=None), SPY, "ACC1")
