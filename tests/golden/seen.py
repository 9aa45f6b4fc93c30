"""The exchange as its journal tells it: orders, positions, cash and quotes, row by row.

Nothing of the system under test is asked. Scripts wait for what is seen here, and the oracle
judges by it; a row is folded once, so that looking after every event stays cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from domain.ids import ClientIdParts, parse_client_order_id

Row = Mapping[str, Any]
ZERO = Decimal(0)
PREFIX_LENGTH = 16
_ENDS = frozenset({"canceled", "expired", "rejected", "replaced"})
_OF_HOLDERS = frozenset({"SPLIT", "LIQ", "option"})
"""Why a position moved without an order, where that befalls whoever holds the symbol."""


@dataclass(slots=True)
class SeenOrder:
    """One accepted order. `owner` is the prefix of the trade's ids, empty for a foreign order.

    `group` names the orders of which only one can fill whole. `sleeps` is True for the exits of a
    bracket whose entry has not filled.
    """

    order_id: str
    client_id: str
    owner: str
    symbol: str
    side: str
    quantity: Decimal
    kind: str
    group: str
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    role: str = ""
    legs: tuple[Row, ...] = ()
    replaces: str | None = None
    filled: Decimal = ZERO
    is_live: bool = True
    is_triggered: bool = False
    sleeps: bool = False
    seq: int = 0

    @property
    def parts(self) -> ClientIdParts | None:
        """What our own id tells; None for orders that the venue or somebody else named."""
        return parse_client_order_id(self.client_id)

    @property
    def remaining(self) -> Decimal:
        return self.quantity - self.filled

    @property
    def sign(self) -> int:
        return 1 if self.side == "buy" else -1

    @property
    def is_stop(self) -> bool:
        return self.stop_price is not None


@dataclass
class Seen:
    """State after the rows that were fed; `fills`, `quotes` and `requests` keep their rows.

    `moved` is cash that moved without an order (funding, assignment, liquidation), `ratios` how
    many shares of today one share of the start is. `taken` is the row at which the venue took a
    symbol away: exits that rested then are left over for a while.
    """

    orders: dict[str, SeenOrder] = field(default_factory=dict)
    positions: dict[str, Decimal] = field(default_factory=dict)
    owned: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    halted: set[str] = field(default_factory=set)
    fills: list[Row] = field(default_factory=list)
    quotes: list[Row] = field(default_factory=list)
    requests: list[Row] = field(default_factory=list)
    refusals: list[Row] = field(default_factory=list)
    start_cash: Decimal = ZERO
    cash: Decimal = ZERO
    fees: Decimal = ZERO
    moved: Decimal = ZERO
    ratios: dict[str, Decimal] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    _legs: dict[str, str] = field(default_factory=dict)

    def feed(self, rows: Iterable[Row]) -> Seen:
        """Folds further rows, oldest first."""
        for row in rows:
            self.rows += 1
            self._fold(row)
        return self

    def live(self, *, owner: str | None = None, symbol: str | None = None) -> list[SeenOrder]:
        """Orders that are not done, oldest first."""
        return [
            order
            for order in self.orders.values()
            if order.is_live
            and (owner is None or order.owner == owner)
            and (symbol is None or order.symbol == symbol)
        ]

    def order_of_fill(self, row: Row) -> SeenOrder | None:
        """The order behind a fill; for one leg of a combo the combo."""
        order_id = str(row["order_id"])
        return self.orders.get(self._legs.get(order_id, order_id))

    def position(self, symbol: str) -> Decimal:
        return self.positions.get(symbol, ZERO)

    # --- private ----------------------------------------------------------------------------------

    def _fold(self, row: Row) -> None:
        kind = row["kind"]
        match kind:
            case "start":
                self.start_cash = self.cash = Decimal(row["cash"])
            case "accepted":
                self._accepted(row)
            case "fill":
                self._filled(row)
            case "position":
                self._placed(row)
            case "cash" | "fee":
                self._paid(kind, row)
            case "split":
                self._split(row)
            case "taken_over":
                self._taken_over(row)
            case "quote":
                self.quotes.append(row)
            case "request":
                self.requests.append(row)
            case "refused":
                self.refusals.append(row)
            case "halted":
                self.halted.add(row["symbol"])
            case "resumed":
                self.halted.discard(row["symbol"])
            case _:
                self._changed(kind, row)

    def _changed(self, kind: str, row: Row) -> None:
        """Rows that change one order that is known."""
        order = self.orders.get(str(row.get("order_id")))
        if order is None:
            return
        if kind in _ENDS:
            order.is_live = False
        elif kind == "resized":
            order.quantity = Decimal(row["quantity"])
        elif kind == "rescaled":
            order.quantity = Decimal(row["quantity"])
            order.limit_price = _decimal(row.get("limit_price"))
            order.stop_price = _decimal(row.get("stop_price"))
        elif kind == "activated":
            order.sleeps = False
        elif kind == "triggered":
            order.is_triggered = True
        elif kind == "combo_fill":
            order.filled = Decimal(row["cumulative"])
            order.is_live = order.is_live and order.remaining > 0

    def _placed(self, row: Row) -> None:
        """A position; with a reason it moved without an order.

        What befalls everybody who holds it is shared in proportion; of the rest nobody of ours
        owns anything.
        """
        symbol, held = str(row["symbol"]), Decimal(row["quantity"])
        before = self.position(symbol)
        if row.get("reason") in _OF_HOLDERS and before:
            for key in self.owned:
                if key[1] == symbol:
                    self.owned[key] = self.owned[key] * held / before
            if not held:
                self.taken[symbol] = int(row["seq"])
        elif "reason" in row:
            key = ("", symbol)
            self.owned[key] = self.owned.get(key, ZERO) + held - before
        self.positions[symbol] = held

    def _paid(self, kind: str, row: Row) -> None:
        """Cash of a fill, of a fee, or of what the venue did by itself."""
        self.cash = Decimal(row.get("cash", self.cash))
        if kind == "fee":
            self.fees += Decimal(row["amount"])
        elif "reason" in row:
            self.moved += Decimal(row["change"])

    def _split(self, row: Row) -> None:
        """What the stops of before mean in new shares; a venue may leave live orders alone (R5)."""
        symbol, ratio = str(row["symbol"]), Decimal(row["new"]) / Decimal(row["old"])
        self.ratios[symbol] = self.ratios.get(symbol, Decimal(1)) * ratio
        for order in self.orders.values():
            stays = order.is_live and row["orders"] == "keep"
            if order.symbol == symbol and order.stop_price is not None and not stays:
                order.stop_price /= ratio

    def _taken_over(self, row: Row) -> None:
        """A person gave a trade of ours what nobody owned."""
        symbol, quantity = str(row["symbol"]), Decimal(row["quantity"])
        for owner, change in (("", -quantity), (str(row["owner"]), quantity)):
            key = (owner, symbol)
            self.owned[key] = self.owned.get(key, ZERO) + change

    def _accepted(self, row: Row) -> None:
        order_id, old = str(row["order_id"]), self.orders.get(str(row.get("replaces")))
        parent = self.orders.get(str(row.get("parent_id")))
        client_id = str(row["client_id"])
        owner = client_id[:PREFIX_LENGTH] if parse_client_order_id(client_id) else ""
        group = order_id
        for relative in (parent, old):
            if relative is not None:
                owner, group = owner or relative.owner, relative.group
        role = str(row.get("role") or "")
        self.orders[order_id] = SeenOrder(
            order_id=order_id,
            client_id=client_id,
            owner=owner,
            symbol=str(row.get("symbol") or ""),
            side=row["side"],
            quantity=Decimal(row["quantity"]),
            kind=row["type"],
            group=group,
            limit_price=_decimal(row.get("limit_price")),
            stop_price=_decimal(row.get("stop_price")),
            role=role,
            legs=tuple(row.get("legs") or ()),
            replaces=row.get("replaces"),
            filled=old.filled if old is not None else ZERO,
            sleeps=old.sleeps if old is not None else _waits_for_entry(row, role),
            seq=int(row["seq"]),
        )
        self._legs |= {str(leg["order_id"]): order_id for leg in row.get("legs") or ()}

    def _filled(self, row: Row) -> None:
        self.fills.append(row)
        order = self.order_of_fill(row)
        if order is None:
            return
        signed = Decimal(row["quantity"]) * (1 if row["side"] == "buy" else -1)
        key = (order.owner, str(row["symbol"]))
        self.owned[key] = self.owned.get(key, ZERO) + signed
        if not order.legs:
            order.filled = Decimal(row["cumulative"])
            order.is_live = order.is_live and Decimal(row["leaves"]) > 0


def _waits_for_entry(row: Row, role: str) -> bool:
    return row.get("order_class") in ("bracket", "oto") and role != "entry"


def _decimal(text: object) -> Decimal | None:
    return None if text is None else Decimal(str(text))
