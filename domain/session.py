"""A trading session as values: what it runs, what it carries over, what it answers."""

from __future__ import annotations

from pydantic import AwareDatetime, Field, JsonValue

from domain.base import Frozen
from domain.clock import ClockMap
from domain.instrument import Instrument
from domain.plan import TradePlan

OPEN_TRADES_MAX = 500


class SessionSpec(Frozen):
    """One strategy set on one account and universe; never changes while the session runs.

    Strategies are names of files in `strategies/` or paths. Bars come from `tape` if it is
    given, else from the broker's quotes, asked for every `poll_s`. All instants and durations
    are market time. `closes_at` None: the session runs until it is stopped.
    """

    name: str
    account: str
    strategies: tuple[str, ...]
    universe: tuple[Instrument, ...]
    opens_at: AwareDatetime
    closes_at: AwareDatetime | None = None
    tape: str = ""
    bar_interval_s: int = 60
    poll_s: int = 60
    installation: str
    mode: str = "paper"
    build_id: str = ""
    config_version: str = ""
    parameters: dict[str, str] = Field(default_factory=dict)


class SessionCounts(Frozen):
    """What came of the bars. `signals` = taken + refused + late + not taken."""

    bars: int = 0
    decisions: int = 0
    signals: int = 0
    taken: int = 0
    refused: int = 0
    late: int = 0
    not_taken: int = 0
    strategy_faults: int = 0

    def plus(self, **more: int) -> SessionCounts:
        """Counts with these added."""
        changed = {name: getattr(self, name) + number for name, number in more.items()}
        return self.model_copy(update=changed)


class SessionState(Frozen):
    """Everything that a continue-as-new carries. `open_trades` are started and not seen ended."""

    cursor: AwareDatetime | None = None
    looked_at: AwareDatetime | None = None
    paused: str = ""
    stopping: str = ""
    counts: SessionCounts = SessionCounts()
    open_trades: tuple[str, ...] = ()
    inbox: tuple[JsonValue, ...] = ()
    commands: int = 0


class SessionInput(Frozen):
    """A session from its start, or from the state that an earlier run handed over."""

    spec: SessionSpec
    clock: ClockMap
    state: SessionState = SessionState()


class SessionStatus(Frozen):
    """What the query `status` tells."""

    name: str
    stage: str
    reason: str = ""
    market_time: AwareDatetime
    cursor: AwareDatetime | None = None
    counts: SessionCounts = SessionCounts()
    open_trades: tuple[str, ...] = ()


class SessionResult(Frozen):
    """How a session ended. Its trades may still be closing: they live on their own."""

    name: str
    reason: str
    counts: SessionCounts
    open_trades: tuple[str, ...] = ()


class SignalEnvelope(Frozen):
    """A signal from outside that always decodes; `body` is a `domain.signal.Signal` as JSON.

    The SDK drops a workflow signal that does not decode, so the body is read by an activity
    (architecture §8, A6).
    """

    kind: str = "signal"
    version: int = 1
    sender: str = ""
    body: JsonValue = None


class Candidate(Frozen):
    """A signal that may become a trade: its plan was made and checked."""

    signal_id: str
    plan: TradePlan


class Evaluation(Frozen):
    """What one look at the market, or one signal from outside, came to; all of it is recorded."""

    cursor: AwareDatetime | None = None
    more: bool = False
    candidates: tuple[Candidate, ...] = ()
    counts: SessionCounts = SessionCounts()
