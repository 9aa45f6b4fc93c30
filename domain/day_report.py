"""The evening of an account: what is open tonight, what it may cost, what the day was.

What could not be read is None and is told as unknown; nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.instrument import Instrument, InstrumentKind
from domain.money import (
    ZERO,
    Amount,
    Calculated,
    NetPrice,
    Number,
    Quantity,
    SignedQuantity,
    multiply,
    total,
)
from domain.order import Side, TimeInForce
from domain.risk.daily_loss import DailyLoss

GAP_FRACTION = Decimal("0.05")


class NightStop(Frozen):
    """A working stop. A DAY stop ends with the session; outside of it no stop can trigger."""

    client_id: str
    symbol: str
    side: Side
    price: NetPrice
    quantity: Quantity
    time_in_force: TimeInForce
    is_limit: bool = False
    expires_tonight: bool
    is_dormant: bool


class GapRisk(Frozen):
    """What a position is worth and may lose from here, in account currency, cost > 0.

    value = |quantity| x price x multiplier. `at_stop` = sum over its stops of side x (price - stop)
    x their quantity x multiplier; None where stops do not cover the whole position. `at_gap` =
    value x gap fraction: the open lies that far against the position, and a stop then fills at the
    open and not at its price. None for options: the gap of the underlying is not theirs.
    """

    value: Calculated | None = None
    at_stop: Calculated | None = None
    at_gap: Calculated | None = None


class HeldPosition(Frozen):
    """What a trade (or EXTERNAL) holds tonight; `protection` is the trade's class, or unknown.

    `stops` are all of its trade in its symbol; `risk` counts only those that would take it off.
    `max_loss` is the plan's bound of a structure, where it has one.
    """

    trade_id: str
    strategy: str = ""
    symbol: str
    quantity: SignedQuantity
    stage: str = ""
    protection: str = "unknown"
    price: NetPrice | None = None
    stops: tuple[NightStop, ...] = ()
    risk: GapRisk = GapRisk()
    max_loss: Amount | None = None


class WorkingLine(Frozen):
    """An order that works tonight; `purpose` is empty for one that is not ours."""

    order_id: str
    trade_id: str = ""
    purpose: str = ""
    symbol: str
    side: str
    quantity: Quantity
    limit_price: NetPrice | None = None
    stop_price: NetPrice | None = None
    time_in_force: str = ""
    state: str = ""


class DayMoney(Frozen):
    """The day in account currency. `realised` is gross by FIFO; `fees` > 0 is cost.

    `realised_unknown` counts closed lots whose price nobody knows. `unrealised` is None if one
    price is missing: without it there is no sum.
    """

    realised: Calculated
    realised_unknown: int = 0
    fees: Calculated
    unrealised: Calculated | None = None
    fills: int = 0


class Counted(Frozen):
    word: str
    code: str = ""
    count: int


class DayReport(Frozen):
    """Everything of the evening. `unread` names the parts that could not be read, with why.

    `stays_open`: the venue has no close tonight, as its own clock says.
    `differences` come from the day's passes and, if the broker was read, from one look now.
    """

    account: str
    currency: str
    day: date
    begin: AwareDatetime
    end: AwareDatetime
    read_at: AwareDatetime
    gap_fraction: Number = GAP_FRACTION
    held: tuple[HeldPosition, ...] = ()
    working: tuple[WorkingLine, ...] = ()
    money: DayMoney
    daily: DailyLoss
    armed: bool
    kills: tuple[str, ...] = ()
    breakers: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    reconciled_at: AwareDatetime | None = None
    signals: tuple[Counted, ...] = ()
    unread: tuple[str, ...] = ()
    stays_open: bool = False

    @property
    def dormant_stops(self) -> tuple[NightStop, ...]:
        """Stops that expire tonight or cannot trigger before the next open."""
        stops = (stop for held in self.held for stop in held.stops)
        return tuple(stop for stop in stops if stop.expires_tonight or stop.is_dormant)

    @property
    def gap_loss(self) -> Decimal | None:
        """All positions gapping against us at once; None if one of them is unknown."""
        losses = [held.risk.at_gap for held in self.held]
        known = [loss for loss in losses if loss is not None]
        return total(known) if len(known) == len(losses) else None

    @property
    def line(self) -> str:
        """The evening in one line, for an alert."""
        money, gap = self.money, self.gap_loss
        unknown = "unknown" if gap is None else f"{gap:.2f}"
        gap_per_cent = f"{(self.gap_fraction * 100).normalize():f}"
        more = f"; NOT READ: {', '.join(self.unread)}" if self.unread else ""
        return (
            f"{self.day}: {len(self.held)} positions open, realised {money.realised:+.2f}, fees "
            f"{money.fees:.2f} {self.currency}; a gap of {gap_per_cent} % costs "
            f"{unknown}; {len(self.dormant_stops)} stops asleep, {len(self.working)} orders "
            f"working, {len(self.differences)} differences{more}"
        )


def gap_risk(
    instrument: Instrument,
    quantity: Decimal,
    price: Decimal | None,
    stops: Sequence[NightStop],
    gap_fraction: Decimal,
) -> GapRisk:
    """The formulas of `GapRisk` for one position; everything unknown without a price."""
    if price is None or quantity == 0:
        return GapRisk()
    side = Side.BUY if quantity > 0 else Side.SELL
    value = multiply(abs(quantity), price, instrument.multiplier)
    covered = total(stop.quantity for stop in stops)
    at_stop = None
    if stops and covered >= abs(quantity):
        at_stop = total(
            multiply((price - stop.price) * side.sign, stop.quantity, instrument.multiplier)
            for stop in stops
        )
    is_option = instrument.kind is InstrumentKind.OPTION
    at_gap = None if is_option else max(ZERO, multiply(value, gap_fraction))
    return GapRisk(value=value, at_stop=at_stop, at_gap=at_gap)
