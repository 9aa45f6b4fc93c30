"""Strategies: the registry's refusals and the signal contract (faults.md §3 rows 1-3)."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.context import line_of
from cli.session import check_strategy
from domain.bar import Bar
from domain.errors import BadInput
from domain.instrument import Instrument
from domain.order import Side
from domain.plan import FixedSize, WalkPlan
from domain.signal import Decision, PlanDraft, Signal, SignalKind, StrategyContext, plan_of
from strategies import registry
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
    assert broken.refusal.text == (
        "a_broken.py:1: ModuleNotFoundError: No module named 'no_such_module'"
    )
    assert empty.refusal.text == "c_empty: generate_signal was missing"
    assert good.usable
    assert (empty.usable, empty.text) == (False, "generate_signal was missing")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\ndef generate_signal(b, c)\n", "mine.py:2: SyntaxError: expected ':'"),
        ("def f():\n  x = 1\n y = 2\n", "mine.py:3: IndentationError: unindent"),
        ("import json\njson.loads('{')\n", "mine.py:2: json.decoder.JSONDecodeError: Expecting"),
    ],
)
def test_broken_file_is_told_in_one_line_with_its_place(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        check_strategy(path)
    line = line_of(refused.value)
    assert line.startswith(f"STRATEGY_BROKEN {told}")
    assert "Traceback" not in line


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


def test_strategy_that_hangs_again_and_again_rests_instead_of_holding_everybody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "HANGS_MAX", 2)
    path = tmp_path / "sample.py"
    path.write_text("def generate_signal(b, c):\n    while True:\n        pass\n")
    with StrategyProcess(path, answer_timeout_s=0.3) as strategy:
        hung = [strategy.decide((bar(),), context()) for _ in range(2)]
        began = time.monotonic()
        resting = [strategy.decide((bar(),), context()) for _ in range(20)]
    assert {decision.code for decision in (*hung, *resting)} == {"STRATEGY_HUNG"}
    assert "in a row" in resting[-1].reason
    assert time.monotonic() - began < 0.3 * 20


@pytest.mark.parametrize(
    "body",
    [
        # A line of garbage on the pipe, then a good answer: nobody knows whose it is.
        "import os\ndef generate_signal(b, c):\n    os.write(3, b'hello\\n')\n"
        "    return Decision.none(c, 'ok')\n",
        # An answer of yesterday, well formed.
        "def generate_signal(b, c):\n"
        "    from datetime import timedelta\n"
        "    return Decision.none(c.model_copy(update={'now': c.now - timedelta(days=1)}), 'x')\n",
        "def generate_signal(b, c):\n"
        "    from datetime import timedelta\n"
        "    old = c.model_copy(update={'now': c.now - timedelta(days=1)})\n"
        "    return Signal.derive(old, 'buy', draft=None)\n",
        # A signal for a symbol that it was not asked about.
        "def generate_signal(b, c):\n"
        "    other = c.instrument.model_copy(update={'symbol': 'XXXX'})\n"
        "    return Signal.derive(c.model_copy(update={'instrument': other}), 'buy', draft=None)\n",
    ],
    ids=["garbage", "yesterday", "yesterday's signal", "other symbol"],
)
def test_answer_about_something_else_is_refused_and_the_next_one_is_its_own(
    tmp_path: Path, body: str
) -> None:
    path = tmp_path / "sample.py"
    path.write_text(HEADER + body)
    with StrategyProcess(path, answer_timeout_s=60.0) as strategy:
        first = strategy.decide((bar(),), context())
        again = strategy.decide((bar(),), context())
    assert {first.code, again.code} <= {"STRATEGY_ANSWER", "STRATEGY_GARBAGE"}
    assert (first.signal, first.bar_time) == (None, NOW)


def test_strategy_that_allocates_for_ever_is_refused_by_name_and_started_afresh(
    tmp_path: Path,
) -> None:
    marker = tmp_path / "was_here"
    path = tmp_path / "sample.py"
    path.write_text(
        HEADER + "import pathlib\ndef generate_signal(b, c):\n"
        f"    held, marker = [], pathlib.Path({str(marker)!r})\n"
        "    while not marker.exists():\n        held.append(bytearray(64 << 20))\n"
        "    return Decision.none(c, 'thin')\n"
    )
    with StrategyProcess(path, answer_timeout_s=60.0) as strategy:
        fat = strategy.decide((bar(),), context())
        marker.touch()
        thin = strategy.decide((bar(),), context())
    assert (fat.code, fat.signal) == ("STRATEGY_MEMORY", None)
    assert thin.reason == "thin"


def test_strategy_that_writes_for_ever_does_not_fill_our_memory(tmp_path: Path) -> None:
    body = (
        "import os\ndef generate_signal(b, c):\n    while True:\n        os.write(3, b'x' * 4096)\n"
    )
    decision = ask(tmp_path, body)
    assert decision.code == "STRATEGY_GARBAGE"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def generate_signal(b, c)\n    return None\n", "SyntaxError"),
        ("raise SystemExit(1)\n", "SystemExit"),
        ("\0", "null bytes"),
    ],
)
def test_file_that_does_not_load_is_asked_for_again_once_it_has_changed(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "sample.py"
    path.write_text(text)
    with StrategyProcess(path) as strategy:
        broken = strategy.decide((bar(),), context())
        assert (broken.code, broken.signal) == ("STRATEGY_BROKEN", None)
        assert told in broken.reason
        assert strategy.decide((bar(),), context()) == broken
        path.write_text(GOOD)
        os.utime(path, ns=(1, 1))
        assert strategy.decide((bar(),), context()).reason == "quiet"


def test_file_that_hangs_while_loading_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text("while True:\n    pass\n")
    with StrategyProcess(path, load_timeout_s=1.0) as strategy:
        assert strategy.decide((bar(),), context()).code == "STRATEGY_HUNG"


MODEL = """
from pydantic import BaseModel
class PARAMETERS(BaseModel):
    lookback: int = 20
    share: Decimal = Decimal("0.5")
    long_only: bool = False
"""
DEFAULTS = "PARAMETERS = {'lookback': 20, 'share': Decimal('0.5'), 'long_only': False}\n"
ECHO = (
    "def generate_signal(b, c):\n    return Decision.none(c, str(sorted(c.parameters.items())))\n"
)


@pytest.mark.parametrize("declared", [MODEL, DEFAULTS], ids=["model", "defaults"])
def test_parameters_are_checked_against_what_the_file_declares(
    tmp_path: Path, declared: str
) -> None:
    path = tmp_path / "sample.py"
    path.write_text(HEADER + declared + ECHO)
    with StrategyProcess(path) as strategy:
        good = strategy.check({"lookback": "30", "long_only": "true"})
        unknown = strategy.check({"lockback": "30"})
        wrong = strategy.check({"lookback": "many"})
        nan = strategy.check({"share": "NaN"})
        asked = context().model_copy(update={"parameters": {"lookback": "7", "others": "x"}})
        heard = strategy.decide((bar(),), asked).reason
        refused = strategy.decide(
            (bar(),), context().model_copy(update={"parameters": {"lookback": "x"}})
        )

    assert good.usable
    assert good.parameters == {"lookback": "30", "share": "0.5", "long_only": "True"}
    assert (unknown.usable, unknown.code) == (False, "PARAMETER_UNKNOWN")
    assert "lockback" in unknown.text
    assert "allowed lookback, share, long_only" in unknown.text
    assert (wrong.code, nan.code) == ("PARAMETER_INVALID", "PARAMETER_INVALID")
    assert heard == str(
        sorted({"lookback": "7", "others": "x", "share": "0.5", "long_only": "False"}.items())
    )
    assert (refused.code, refused.signal) == ("PARAMETER_INVALID", None)


def test_file_without_parameters_takes_none_and_a_broken_declaration_is_told(
    tmp_path: Path,
) -> None:
    plain, odd = tmp_path / "plain.py", tmp_path / "odd.py"
    plain.write_text(GOOD)
    odd.write_text("PARAMETERS = 5\n" + GOOD)
    with StrategyProcess(plain) as strategy:
        assert strategy.check({}).usable
        assert strategy.check({"a": "1"}).code == "PARAMETER_UNKNOWN"
    with StrategyProcess(odd) as strategy:
        assert strategy.check({}).code == "STRATEGY_BROKEN"


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
