"""A trading session as values: what it runs, what it carries over, what it answers."""

from __future__ import annotations

from datetime import date

from pydantic import AwareDatetime, Field, JsonValue

from domain.base import Frozen
from domain.clock import ClockMap
from domain.instrument import Instrument
from domain.money import Amount, Number
from domain.plan import TradePlan
from domain.session_day import SessionDay

DAYS_KEPT_MAX = 260  # a year of trading days
COMMANDS_KEPT_MAX = 100


class SessionSpec(Frozen):
    """One strategy set on one account and universe; never changes while the session runs.

    Strategies are names of stored configurations, of files in `strategies/`, or paths. Bars come
    from `tape` if it is given, else from the broker's quotes, asked for every `poll_s`. All
    instants and durations are market time. `closes_at` None: runs until it is stopped.

    A session over several days has a `calendar` (ISO 10383 code, or 24/7), and runs from
    `first_day` to `last_day`, or has its `days` stated. Entries are not taken in the first and
    last seconds of a day, nor outside `entry_windows` ("09:45-11:30", local time of the
    exchange). `flat_before_close_s` 0: trades may be held overnight.
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
    calendar: str = ""
    first_day: date | None = None
    last_day: date | None = None
    days: tuple[SessionDay, ...] = ()
    entry_blocked_first_s: int = 0
    entry_blocked_last_s: int = 0
    entry_windows: tuple[str, ...] = ()
    flat_before_close_s: int = 0
    events_file: str = ""
    started_by: str = ""


class SessionCounts(Frozen):
    """What came of the bars. `signals` = taken + refused + late + not taken + watched + exits.

    `dropped` are signals from outside that found no room; they are audited, never judged.
    """

    bars: int = 0
    decisions: int = 0
    signals: int = 0
    taken: int = 0
    refused: int = 0
    late: int = 0
    not_taken: int = 0
    strategy_faults: int = 0
    dropped: int = 0
    watched: int = 0
    exits: int = 0

    def plus(self, **more: int) -> SessionCounts:
        """Counts with these added."""
        changed = {name: getattr(self, name) + number for name, number in more.items()}
        return self.model_copy(update=changed)

    def minus(self, earlier: SessionCounts) -> SessionCounts:
        """What came since `earlier`."""
        return self.plus(**{name: -number for name, number in earlier.model_dump().items()})


class OpenTrade(Frozen):
    """A trade of the session that has not settled, as the ledger last heard of it."""

    trade_id: str
    symbol: str = ""
    stage: str = ""
    protection: str = ""
    entry_works: bool = False


class DayResult(Frozen):
    """What one day of a session came to. `baseline` is the account's equity at the day's roll."""

    day: SessionDay
    counts: SessionCounts = SessionCounts()
    baseline: Amount | None = None
    open_trades: tuple[str, ...] = ()


class SessionState(Frozen):
    """Everything that a continue-as-new carries.

    `open_trades` are started and not seen ended. `day` is the day that runs or comes next, with
    `day_began` once its baseline is taken. `version` counts what people changed, `seen` holds
    their command ids. `new_build` asks for a hand-over.
    """

    cursor: AwareDatetime | None = None
    looked_at: AwareDatetime | None = None
    paused: str = ""
    stopping: str = ""
    counts: SessionCounts = SessionCounts()
    open_trades: tuple[str, ...] = ()
    inbox: tuple[JsonValue, ...] = ()
    commands: int = 0
    started_at: AwareDatetime | None = None
    day: SessionDay | None = None
    day_began: bool = False
    baseline: Amount | None = None
    counts_before_day: SessionCounts = SessionCounts()
    days: tuple[DayResult, ...] = ()
    version: int = 0
    seen: tuple[str, ...] = ()
    flatten: bool = False
    new_build: str = ""


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
    version: int = 0
    day: SessionDay | None = None
    today: SessionCounts = SessionCounts()
    baseline: Amount | None = None
    days_done: int = 0


class SessionResult(Frozen):
    """How a session ended. Its trades may still be closing: they live on their own.

    `trades` are the ones that were open when the session looked last, each as it then was.
    """

    name: str
    reason: str
    counts: SessionCounts
    open_trades: tuple[str, ...] = ()
    account: str = ""
    strategies: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    days: tuple[DayResult, ...] = ()
    flatten: bool = False
    trades: tuple[OpenTrade, ...] = ()


class SessionRequest(Frozen):
    """A person's order to a session. With `version` it is refused if somebody was faster."""

    command_id: str
    by: str
    reason: str = ""
    version: int | None = None
    flatten: bool = False


class SessionReceipt(Frozen):
    """What a request changed; a repeat, or a wish that is fulfilled already, changes nothing."""

    command_id: str
    changed: bool
    version: int
    text: str = ""
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


class ExitWish(Frozen):
    """An exit signal for open trades: `fraction` of what each holds when it hears of it.

    `after` is how many candidates of the same evaluation came before it.
    """

    signal_id: str
    trade_ids: tuple[str, ...]
    by: str
    fraction: Number
    reason: str = ""
    after: int = 0


class Evaluation(Frozen):
    """What one look at the market, or one signal from outside, came to; all of it is recorded.

    `ended_trades` are those of the asked ones that have settled meanwhile.
    """

    cursor: AwareDatetime | None = None
    more: bool = False
    candidates: tuple[Candidate, ...] = ()
    counts: SessionCounts = SessionCounts()
    ended_trades: tuple[str, ...] = ()
    exits: tuple[ExitWish, ...] = ()
