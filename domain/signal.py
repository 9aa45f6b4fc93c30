"""What a strategy says about one completed bar: a signal with a draft of the trade, or why not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from domain.bar import Bar
from domain.base import FreeText, Frozen
from domain.ids import check_id
from domain.instrument import Instrument
from domain.money import ONE, ZERO, Number, exact
from domain.order import OrderType, Side
from domain.plan import (
    EntryStyle,
    ExitRule,
    PlanLeg,
    RatchetStep,
    SizeRule,
    SlicePlan,
    StopPlan,
    TargetPlan,
    TradePlan,
    WalkPlan,
)


def _fraction(number: Number) -> Number:
    if not ZERO <= number <= ONE:
        raise PydanticCustomError("NUMBER_OUT_OF_RANGE", "0 <= confidence <= 1")
    return number


Confidence = Annotated[Number, BeforeValidator(exact), AfterValidator(_fraction)]
"""How sure the strategy is, 0 to 1."""


class SignalKind(StrEnum):
    """S1 entry; O1 and Z1 are only watched; ZE1 partial exit (50 %); E1 full exit (req. 58)."""

    ENTRY = "S1"
    WATCH_OPEN = "O1"
    WATCH_CLOSE = "Z1"
    EXIT_PARTIAL = "ZE1"
    EXIT_FULL = "E1"


class PlanDraft(Frozen):
    """The part of a trade plan that the strategy decides; the session fills in the rest."""

    size: SizeRule
    walk: WalkPlan
    entry_style: EntryStyle = EntryStyle.WALK
    slices: SlicePlan | None = None
    stop: StopPlan | None = None
    targets: tuple[TargetPlan, ...] = ()
    ratchet: tuple[RatchetStep, ...] = ()
    rules: tuple[ExitRule, ...] = ()
    time_stop_s: Number | None = None
    flat_by: AwareDatetime | None = None
    exit_order_type: OrderType = OrderType.LIMIT
    signal_max_age_s: Number = Decimal(60)
    note: FreeText = ""


class StrategyContext(Frozen):
    """What a strategy may know besides its bars. `now` is the end of the newest bar."""

    session: str
    strategy: str
    instrument: Instrument
    now: AwareDatetime
    session_open: AwareDatetime
    session_close: AwareDatetime | None = None
    parameters: dict[str, str] = Field(default_factory=dict)


class Signal(Frozen):
    """One wish to trade. `signal_id` follows from what it is about, never drawn.

    `bar_time` is the end of the bar that made it; the same bar after a restart makes the same
    id, so a signal is taken once.
    """

    signal_id: str
    session: str
    strategy: str
    symbol: str
    side: Side
    kind: SignalKind = SignalKind.ENTRY
    confidence: Confidence = ONE
    bar_time: AwareDatetime
    reason: FreeText = ""
    draft: PlanDraft | None = None

    @classmethod
    def derive(
        cls,
        context: StrategyContext,
        side: Side,
        *,
        draft: PlanDraft | None,
        confidence: Number = ONE,
        kind: SignalKind = SignalKind.ENTRY,
        reason: str = "",
    ) -> Signal:
        """Builds the signal with its derived id."""
        symbol = context.instrument.symbol
        return cls(
            signal_id=signal_id_of(context.session, context.strategy, symbol, kind, context.now),
            session=context.session,
            strategy=context.strategy,
            symbol=symbol,
            side=side,
            kind=kind,
            confidence=confidence,
            bar_time=context.now,
            reason=reason,
            draft=draft,
        )


class Decision(Frozen):
    """Outcome of one evaluation: a signal, or none with the reason (requirement 19).

    `code` is machine text: SIGNAL, NO_SIGNAL or one of the refusals of `strategies.registry`.
    """

    strategy: str
    symbol: str
    bar_time: AwareDatetime
    signal: Signal | None = None
    code: str = "NO_SIGNAL"
    reason: FreeText = ""

    @classmethod
    def take(cls, signal: Signal) -> Decision:
        return cls(
            strategy=signal.strategy,
            symbol=signal.symbol,
            bar_time=signal.bar_time,
            signal=signal,
            code="SIGNAL",
            reason=signal.reason,
        )

    @classmethod
    def none(cls, context: StrategyContext, reason: str, code: str = "NO_SIGNAL") -> Decision:
        return cls(
            strategy=context.strategy,
            symbol=context.instrument.symbol,
            bar_time=context.now,
            code=code,
            reason=reason,
        )


class Strategy(Protocol):
    """The whole interface of a strategy file; no base class, no registration."""

    def generate_signal(self, bars: Sequence[Bar], context: StrategyContext) -> Decision: ...


def signal_id_of(
    session: str, strategy: str, symbol: str, kind: SignalKind, bar_time: datetime
) -> str:
    """`<session>-<hhmm>-<8 hex>`: readable, and the same for the same bar after a restart.

    Raises:
        BadInput: ID_FORMAT if the session name is longer than 34 characters.
    """
    text = "|".join((session, strategy, symbol, kind.value, bar_time.isoformat()))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return check_id(f"{session}-{bar_time:%H%M}-{digest}", "signal_id")


def plan_of(
    signal: Signal, instrument: Instrument, account: str, *, config_version: str = ""
) -> TradePlan:
    """The trade plan of an entry signal; the trade takes the signal's id.

    Raises:
        ValueError: the signal has no draft (only S1 signals with one become trades).
    """
    draft = signal.draft
    if draft is None or signal.kind is not SignalKind.ENTRY:
        raise ValueError(f"signal {signal.signal_id} was {signal.kind} without a plan")
    return TradePlan(
        trade_id=signal.signal_id,
        session=signal.session,
        account=account,
        strategy=signal.strategy,
        symbol=signal.symbol,
        legs=(PlanLeg(instrument=instrument, side=signal.side),),
        side=signal.side,
        size=draft.size,
        entry_style=draft.entry_style,
        walk=draft.walk,
        slices=draft.slices,
        stop=draft.stop,
        targets=draft.targets,
        ratchet=draft.ratchet,
        rules=draft.rules,
        time_stop_s=draft.time_stop_s,
        flat_by=draft.flat_by,
        exit_order_type=draft.exit_order_type,
        signal_id=signal.signal_id,
        signal_time=signal.bar_time,
        signal_max_age_s=draft.signal_max_age_s,
        config_version=config_version,
        note=draft.note,
    )
