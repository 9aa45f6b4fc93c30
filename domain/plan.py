"""The plan of a trade: everything that was decided before the first order.

It travels with the trade over every crash and continue-as-new and never changes; the operator's
moves (stop, target) are facts on top of it. Durations are market time unless the name says
`wall`. Prices are absolute or offsets from the average entry fill (architecture §2).
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from domain.base import FreeText, Frozen
from domain.instrument import Instrument
from domain.money import ONE, Amount, NetPrice, Number, Price, Quantity
from domain.order import OrderType, Side, TimeInForce


class PlanLeg(Frozen):
    """One leg of the structure: `ratio` contracts of the instrument per trade unit."""

    instrument: Instrument
    side: Side
    ratio: int = 1


class PlanPrice(Frozen):
    """Exactly one of: an absolute price, or a signed offset added to the average entry price."""

    absolute: NetPrice | None = None
    offset: Number | None = None

    def at(self, average_entry: Decimal) -> Decimal:
        if self.absolute is not None:
            return self.absolute
        assert self.offset is not None
        return average_entry + self.offset


class FixedSize(Frozen):
    """So many units."""

    kind: Literal["fixed"] = "fixed"
    quantity: Quantity


class RiskSize(Frozen):
    """As many units as |worst - stop| x quantity x multiplier <= `risk_amount` allows."""

    kind: Literal["risk"] = "risk"
    risk_amount: Amount


class ConfidenceSize(Frozen):
    """max(0, (confidence - 0.5) x 2) x max_position / price, rounded down to the lot (req. 60)."""

    kind: Literal["confidence"] = "confidence"
    confidence: Number
    max_position: Amount


class CapitalSize(Frozen):
    """A share of the strategy's capital, so that one file suits 100 and 100,000 of any currency.

    The smaller of: the loss at the stop is `risk_fraction` of the capital (needs a stop; None: not
    bounded this way), the value at the worst price is `position_fraction` of it. Capital is what
    the stored configuration says, without one the account's equity.
    """

    kind: Literal["capital"] = "capital"
    risk_fraction: Number | None = None
    position_fraction: Number


SizeRule = Annotated[
    FixedSize | RiskSize | ConfidenceSize | CapitalSize, Field(discriminator="kind")
]


class WalkStart(StrEnum):
    """Where the ladder begins: `near` = own side of the quote, `mid`, `far` = the other side."""

    NEAR = "near"
    MID = "mid"
    FAR = "far"


class WalkPlan(Frozen):
    """The walking limit: start, step, interval, worst price, time (requirement 159).

    `worst` limits the walk absolutely or as an offset from the arrival mid, signed from the
    trade's point of view: worst = mid + side x `worst_offset`. `step` > 0 is a price distance.
    """

    start: WalkStart = WalkStart.MID
    step: Price
    interval_s: Number
    steps_max: int
    worst_price: NetPrice | None = None
    worst_offset: Number | None = None
    max_time_s: Number
    time_in_force: TimeInForce = TimeInForce.DAY
    partial_wait_s: Number = Decimal(2)


class EntryStyle(StrEnum):
    """`walk`: limit ladder. `once`: sent once with its native bracket or OTO, no walk.

    `twap`: slices over a window of time (`SlicePlan`).
    """

    WALK = "walk"
    ONCE = "once"
    TWAP = "twap"


class SlicePlan(Frozen):
    """An entry in `count` slices of even size, one every `window_s / count` (requirement 177).

    `window_s` is market time. A slice works `work_wall_s` wall seconds at most; what it did not
    fill is carried into the next one, and the rest of the last one is not bought. Of the walk plan
    start, worst price and time in force hold for every slice.
    """

    count: int
    window_s: Number
    work_wall_s: Number = Decimal(2)


class StopPlan(Frozen):
    """The protective stop. Stop-market unless `limit_offset` makes it a stop-limit."""

    price: PlanPrice
    limit_offset: Number | None = None


class TargetPlan(Frozen):
    """Take `fraction` of the filled quantity at `price`. The last tranche takes the remainder."""

    price: PlanPrice | None = None
    fraction: Number


class RatchetKind(StrEnum):
    BREAK_EVEN = "break_even"
    PREVIOUS_TARGET = "previous_target"
    TRAIL = "trail"


class RatchetStep(Frozen):
    """What the stop does when tranche number `after_target` (1-based) has filled.

    `distance` is used by `trail` (stop = best price - side x distance) and, if given, added to
    the break-even price in the trade's favour (to cover fees).
    """

    after_target: int
    kind: RatchetKind
    distance: Number = Decimal(0)


class RuleKind(StrEnum):
    """Rule exits on marks, evaluated by the exit watch (architecture §6).

    `stop_reached` is the trade's own: it tells that a resting stop-limit must have triggered.
    """

    PROFIT_PERCENT = "profit_percent"
    PROFIT_AMOUNT = "profit_amount"
    PROFIT_TRAIL = "profit_trail"
    LOSS_PERCENT = "loss_percent"
    LOSS_AMOUNT = "loss_amount"
    STOP_TRAIL = "stop_trail"
    STOP_REACHED = "stop_reached"
    VOLATILITY_SPIKE = "volatility_spike"


class ExitRule(Frozen):
    """One rule: `threshold` in per cent, account currency or price distance, as the kind says."""

    rule_id: str
    kind: RuleKind
    threshold: Number
    symbol: str | None = None


class TradePlan(Frozen):
    """One trade, decided. Validate with `domain.validation.check_plan` before use.

    `side` is the side of the first leg's entry; combos are bought as a unit at a net price
    (debit > 0, credit < 0), so their side is BUY. `flat_by` ends the trade at a market instant
    whatever happens; `time_stop_s` counts from the first fill. `max_loss` bounds a structure
    whose long legs limit it ("defined" protection); None otherwise.
    """

    trade_id: str
    session: str
    account: str
    strategy: str
    symbol: str
    legs: tuple[PlanLeg, ...]
    side: Side
    size: SizeRule
    entry_style: EntryStyle = EntryStyle.WALK
    walk: WalkPlan
    slices: SlicePlan | None = None
    stop: StopPlan | None = None
    targets: tuple[TargetPlan, ...] = ()
    ratchet: tuple[RatchetStep, ...] = ()
    rules: tuple[ExitRule, ...] = ()
    time_stop_s: Number | None = None
    flat_by: AwareDatetime | None = None
    exit_order_type: OrderType = OrderType.LIMIT
    max_loss: Amount | None = None
    signal_id: str
    signal_time: AwareDatetime
    signal_max_age_s: Number = Decimal(60)
    config_version: FreeText = ""
    note: FreeText = ""

    @property
    def is_combo(self) -> bool:
        return len(self.legs) > 1

    @property
    def instrument(self) -> Instrument:
        """The first leg's instrument; for one-leg trades the instrument."""
        return self.legs[0].instrument

    @property
    def multiplier(self) -> Decimal:
        return self.legs[0].instrument.multiplier if self.legs else ONE
