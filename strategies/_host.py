"""Child process that runs one strategy file: `python -m strategies._host FILE`.

A strategy is somebody's code: it may raise, return nonsense, exit or never come back. In a
process of its own none of that reaches the worker. It talks in lines of JSON over its standard
streams; what the strategy prints goes to standard error. Not imported by anything.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import sys
import traceback
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, create_model

from domain.bar import Bar
from domain.base import Frozen
from domain.errors import BadInput
from domain.money import Number
from domain.signal import Decision, Signal, StrategyContext
from strategies.registry import Answer, Question

TRACEBACK_MAX = 4000
MEMORY_BYTES_MAX = 1 << 30


def main(path: Path) -> None:
    """Loads the file, says whether that worked, then answers questions until the pipe closes."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # a print inside the strategy must not land between our lines
    module, problem = _load(path)
    answers.write((problem or Answer(code="READY")).model_dump_json() + "\n")
    if module is None:
        return
    for line in sys.stdin:
        question = Question.model_validate_json(line)
        # Should the parent die while the strategy hangs, the alarm ends this process.
        signal.setitimer(signal.ITIMER_REAL, question.timeout_s * 2)
        try:
            answer = _answer(module, question)
        except MemoryError:
            answer = Answer(code="STRATEGY_MEMORY", text=f"allowed bytes: {MEMORY_BYTES_MAX}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(answer.model_dump_json() + "\n")


def _load(path: Path) -> tuple[Any, Answer | None]:
    spec = importlib.util.spec_from_file_location(f"strategy_{path.stem}", path)
    if spec is None or spec.loader is None:
        return None, Answer(code="STRATEGY_BROKEN", text="not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pydantic look their own module up by name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit, KeyboardInterrupt):
        return None, Answer(code="STRATEGY_BROKEN", text=_told(path))
    if not callable(getattr(module, "generate_signal", None)):
        return None, Answer(code="STRATEGY_BROKEN", text="generate_signal was missing")
    return module, None


def _answer(module: Any, question: Question) -> Answer:
    given = question.parameters if question.context is None else question.context.parameters
    try:
        declared = _declared(module)
        unknown = sorted(set(given) - set(declared.model_fields))
        if unknown and question.context is None:
            allowed = ", ".join(declared.model_fields) or "none"
            return _refused("PARAMETER_UNKNOWN", unknown[0], given[unknown[0]], allowed)
        known = {name: text for name, text in given.items() if name in declared.model_fields}
        held = declared.model_validate(known).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return _refused("PARAMETER_INVALID", where, first["input"], first["msg"])
    except Exception:
        return Answer(code="STRATEGY_BROKEN", text=_traceback())
    parameters = {name: str(value) for name, value in held.items()}
    if question.context is None:
        return Answer(code="PARAMETERS", parameters=parameters)
    # What is meant for other strategies of the session is left as it is.
    context = question.context.model_copy(update={"parameters": {**given, **parameters}})
    return _ask(module, question.bars, context)


def _refused(code: str, name: str, value: object, allowed: str) -> Answer:
    return Answer(code=code, text=BadInput(code, f"parameters.{name}", value, allowed).text)


def _declared(module: Any) -> type[BaseModel]:
    """`PARAMETERS` of the file: a model, or a mapping of names to default values."""
    declared: Any = getattr(module, "PARAMETERS", {})
    if isinstance(declared, type) and issubclass(declared, BaseModel):
        return declared
    fields: dict[str, Any] = {
        name: (Number if isinstance(value, Decimal) else type(value), value)
        for name, value in dict(declared).items()
    }
    return create_model("Parameters", __base__=Frozen, **fields)


def _ask(module: Any, bars: tuple[Bar, ...], context: StrategyContext) -> Answer:
    try:
        said = module.generate_signal(bars, context)
    except ValidationError as error:
        return _invalid(error)
    except MemoryError:
        raise
    except (Exception, SystemExit, KeyboardInterrupt):
        return Answer(code="STRATEGY_RAISED", text=_traceback())
    try:
        if said is None:
            decision = Decision.none(context, "the strategy returned None")
        elif isinstance(said, Signal):
            # Values made with model_construct skip validation; the wire does not.
            decision = Decision.take(Signal.model_validate(said.model_dump()))
        else:
            shown = said.model_dump() if isinstance(said, Decision) else said
            decision = Decision.model_validate(shown)
    except ValidationError as error:
        return _invalid(error)
    return _checked(decision, context)


def _checked(decision: Decision, context: StrategyContext) -> Answer:
    """A strategy speaks for itself, its instrument and its newest bar only."""
    signal_ = decision.signal
    mine = (context.strategy, context.instrument.symbol, context.now)
    if (decision.strategy, decision.symbol, decision.bar_time) != mine:
        return Answer(code="STRATEGY_ANSWER", text="the decision was about something else")
    if signal_ is None:
        return Answer(code="DECISION", decision=decision)
    if (signal_.strategy, signal_.symbol, signal_.bar_time) != mine:
        return Answer(code="STRATEGY_ANSWER", text="the signal was about something else")
    try:
        expected = Signal.derive(context, signal_.side, draft=None, kind=signal_.kind)
    except BadInput as error:
        return Answer(code=error.code, text=error.text)
    if signal_.signal_id != expected.signal_id:
        return Answer(code="STRATEGY_ANSWER", text="signal_id was not derived from its bar")
    return Answer(code="DECISION", decision=decision)


def _invalid(error: ValidationError) -> Answer:
    """NaN, floats and wrong types, named by the code of the money types (faults.md §3)."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    code = first["type"] if first["type"].isupper() else "STRATEGY_ANSWER"
    return Answer(code=code, text=f"field={where} {first['msg']}")


def _told(path: Path) -> str:
    """Why the file did not load: `file:line: Error: text` for people, then the traceback."""
    error = sys.exc_info()[1]
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{path.name}:{lines[-1]}" if lines else path.name
    if isinstance(error, SyntaxError):
        where, error = f"{Path(error.filename or path).name}:{error.lineno}", _without_place(error)
    said = " ".join("".join(traceback.format_exception_only(error)).split())
    return f"{where}: {said}\n{_traceback()}"


def _without_place(error: SyntaxError) -> SyntaxError:
    """The same fault without file, line and the line's text: those are told already."""
    return type(error)(error.msg)


def _traceback() -> str:
    return traceback.format_exc()[-TRACEBACK_MAX:]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
