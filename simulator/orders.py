"""Orders as the exchange keeps them, and the requests that make them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from domain.money import ZERO, divide


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


class Kind(StrEnum):
    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"


class TimeInForce(StrEnum):
    DAY = "day"
    GTC = "gtc"
    IOC = "ioc"
    FOK = "fok"


class OrderClass(StrEnum):
    SIMPLE = "simple"
    BRACKET = "bracket"
    OCO = "oco"
    OTO = "oto"
    COMBO = "combo"


class Status(StrEnum):
    """ACCEPTED: queued for the next session. HELD: a group member that waits for another one."""

    PENDING_NEW = "pending_new"
    ACCEPTED = "accepted"
    NEW = "new"
    HELD = "held"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REPLACED = "replaced"
    REJECTED = "rejected"


DONE = frozenset({Status.FILLED, Status.CANCELED, Status.EXPIRED, Status.REPLACED, Status.REJECTED})


class Role(StrEnum):
    """Place of an order inside its group."""

    ENTRY = "entry"
    TAKE_PROFIT = "take_profit"
    STOP_LOSS = "stop_loss"


@dataclass(frozen=True, slots=True)
class LegRequest:
    symbol: str
    side: Side
    ratio: int
    intent: str | None = None


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What a client asks for, read but not yet checked. For an OCO `limit_price` is the target.

    A combo has no symbol; its `limit_price` is the net price of one unit (debit > 0), its side
    is BUY by convention.
    """

    symbol: str
    side: Side
    quantity: Decimal | None
    kind: Kind
    time_in_force: TimeInForce = TimeInForce.DAY
    client_id: str | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    order_class: OrderClass = OrderClass.SIMPLE
    take_profit_price: Decimal | None = None
    stop_loss_price: Decimal | None = None
    stop_loss_limit_price: Decimal | None = None
    legs: tuple[LegRequest, ...] = ()
    notional: Decimal | None = None
    extended_hours: bool = False
    intent: str | None = None


@dataclass(frozen=True, slots=True)
class ReplaceRequest:
    """Changes to a working order; None keeps the old value."""

    quantity: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    time_in_force: TimeInForce | None = None
    client_id: str | None = None


@dataclass(slots=True, eq=False)
class Group:
    """Orders that live and die together. `entry` is None for an OCO."""

    order_class: OrderClass
    entry: SimOrder | None = None
    take_profit: SimOrder | None = None
    stop_loss: SimOrder | None = None

    @property
    def is_awake(self) -> bool:
        """The exits work: there is no entry, or it has filled completely."""
        return self.entry is None or self.entry.status is Status.FILLED

    @property
    def members(self) -> tuple[SimOrder, ...]:
        named = (self.entry, self.take_profit, self.stop_loss)
        return tuple(order for order in named if order is not None)

    @property
    def parent(self) -> SimOrder:
        """The order that the others are shown under."""
        parent = self.entry or self.take_profit or self.stop_loss
        assert parent is not None, "a group has at least one member"
        return parent


@dataclass(slots=True, eq=False)
class SimOrder:
    """One order at the exchange. Only `simulator.lifecycle` changes it after creation."""

    id: str
    client_id: str
    symbol: str
    side: Side
    quantity: Decimal
    kind: Kind
    time_in_force: TimeInForce
    order_class: OrderClass
    created_at: datetime
    number: int
    status: Status = Status.PENDING_NEW
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    notional: Decimal | None = None
    extended_hours: bool = False
    intent: str | None = None
    filled: Decimal = ZERO
    average_price: Decimal | None = None
    is_working: bool = False
    is_triggered: bool = False
    has_rested: bool = False
    group: Group | None = None
    role: Role | None = None
    legs: tuple[SimOrder, ...] = ()
    ratio: int = 1
    combo: SimOrder | None = None
    expires_at: datetime | None = None
    updated_at: datetime | None = None
    filled_at: datetime | None = None
    canceled_at: datetime | None = None
    expired_at: datetime | None = None
    failed_at: datetime | None = None
    replaced_at: datetime | None = None
    replaces: str | None = None
    replaced_by: str | None = None
    reject_text: str = ""

    @property
    def remaining(self) -> Decimal:
        return max(ZERO, self.quantity - self.filled)

    @property
    def is_done(self) -> bool:
        return self.status in DONE

    @property
    def is_combo(self) -> bool:
        return bool(self.legs)

    @property
    def waits_for_entry(self) -> bool:
        """An exit whose entry has not filled completely: not in the market, reserves nothing."""
        group = self.group
        return group is not None and self.role is not Role.ENTRY and not group.is_awake

    @property
    def acts_as_market(self) -> bool:
        return self.kind is Kind.MARKET or (self.kind is Kind.STOP and self.is_triggered)

    @property
    def waits_for_trigger(self) -> bool:
        return self.kind in (Kind.STOP, Kind.STOP_LIMIT) and not self.is_triggered

    @property
    def has_leg_ahead(self) -> bool:
        """A leg of this combo has traded alone (`Lifecycle.fill_leg`): the others follow it."""
        return any(leg.filled != self.filled * leg.ratio for leg in self.legs)

    def net_at(self, prices: Mapping[str, Decimal]) -> Decimal:
        """The net price of one unit of a combo whose legs trade at these prices; debit > 0."""
        return sum((prices[leg.symbol] * leg.ratio * leg.side.sign for leg in self.legs), ZERO)

    def book_fill(self, quantity: Decimal, price: Decimal) -> None:
        """Adds a fill to quantity and average price; a negative quantity takes one back."""
        before = (self.average_price or ZERO) * self.filled
        self.filled += quantity
        value = before + price * quantity
        self.average_price = divide(value, self.filled) if self.filled else None
