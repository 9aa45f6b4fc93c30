"""Ledger against exchange journal, as sets: the last line of a run, and its exit code.

The journal is the oracle, the ledger is what is being checked (architecture §9). Every
difference is named; equal means equal in every row, not in sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from pydantic import Field

from domain.base import Frozen
from domain.money import CTX, ZERO, round_to_cent
from report.records import Book, FeeRow, FillRow, OrderRow

Row = TypeVar("Row")


class DifferenceKind(StrEnum):
    """What is compared. DUPLICATE: one key stands there twice, which no set may hide."""

    ORDER = "order"
    FILL = "fill"
    FEE = "fee"
    CASH = "cash"
    POSITION = "position"
    EQUITY = "equity"
    DUPLICATE = "duplicate"


class Difference(Frozen):
    """One thing that is not the same on both sides; an empty text means "not there"."""

    kind: DifferenceKind
    key: str
    ledger: str = ""
    journal: str = ""

    def line(self) -> str:
        """The difference in one line."""
        return f"{self.kind} {self.key}: ledger {self.ledger or '-'}, journal {self.journal or '-'}"


class Differences(Frozen):
    """Result of a comparison with the journal's counts. `against` names the other side.

    `untold_fees` have left the cash and are told by the broker later or never: no difference.
    """

    items: tuple[Difference, ...]
    orders: int
    fills: int
    fees: int
    cash: dict[str, Decimal]
    positions: int
    against: str = "exchange journal"
    untold_fees: dict[str, Decimal] = Field(default_factory=dict)

    @property
    def equal(self) -> bool:
        return not self.items

    def line(self) -> str:
        """The last line of `make run` and `starter.py verify`."""
        cash = ", ".join(f"{amount:f} {name}" for name, amount in sorted(self.cash.items()))
        counts = (
            f"{self.orders} accepted orders, {self.fills} fills, {self.fees} fees, "
            f"cash {cash or 'none'}, {self.positions} open positions"
        )
        fees = sorted(self.untold_fees.items())
        untold = ", ".join(f"{round_to_cent(fee):f} {name}" for name, fee in fees)
        if untold:
            untold = f"; fees of {untold} are taken and not (yet) told by the broker"
        if self.equal:
            return f"ledger equals {self.against}: {counts}{untold}"
        return f"ledger DIFFERS from {self.against} in {len(self.items)} places ({counts}){untold}"


def compare(ledger: Book, journal: Book) -> Differences:
    """Compares accepted orders, fills, fees, cash and equity to the cent, and positions."""
    items = [
        *_rows(
            DifferenceKind.ORDER,
            ledger.orders,
            _as_read(journal.orders, ledger.orders),
            _order_key,
            _order_text,
        ),
        *_rows(DifferenceKind.FILL, ledger.fills, journal.fills, _fill_key, _fill_text),
        *_rows(DifferenceKind.FEE, ledger.fees, journal.fees, _fee_key, _fee_text),
        *_amounts(DifferenceKind.CASH, ledger.cash, journal.cash, round_to_cent),
        *_amounts(DifferenceKind.POSITION, ledger.positions, journal.positions, _same),
        *_amounts(DifferenceKind.EQUITY, ledger.equity, journal.equity, round_to_cent),
    ]
    return Differences(
        items=tuple(items),
        orders=len(journal.orders),
        fills=len(journal.fills),
        fees=len(journal.fees),
        cash={name: round_to_cent(amount) for name, amount in journal.cash.items()},
        positions=sum(1 for quantity in journal.positions.values() if quantity != 0),
    )


def _as_read(journal: Iterable[OrderRow], ledger: Iterable[OrderRow]) -> tuple[OrderRow, ...]:
    """The journal's orders at the size that the ledger read, where the exchange resized them."""
    read = {order.client_id: order.quantity for order in ledger}
    rows = []
    for order in journal:
        size = read.get(order.client_id, order.quantity)
        known = size if size in order.other_sizes else order.quantity
        rows.append(order.model_copy(update={"quantity": known, "other_sizes": ()}))
    return tuple(rows)


def _rows(
    kind: DifferenceKind,
    ledger: Iterable[Row],
    journal: Iterable[Row],
    key_of: Callable[[Row], str],
    text_of: Callable[[Row], str],
) -> list[Difference]:
    ours, theirs = list(ledger), list(journal)
    items = [
        *_duplicates(kind, "ledger", [key_of(row) for row in ours]),
        *_duplicates(kind, "journal", [key_of(row) for row in theirs]),
    ]
    left = {key_of(row): text_of(row) for row in ours}
    right = {key_of(row): text_of(row) for row in theirs}
    items.extend(
        Difference(kind=kind, key=key, ledger=left.get(key, ""), journal=right.get(key, ""))
        for key in sorted({*left, *right})
        if left.get(key) != right.get(key)
    )
    return items


def _duplicates(kind: DifferenceKind, side: str, keys: Iterable[str]) -> list[Difference]:
    return [
        Difference(
            kind=DifferenceKind.DUPLICATE,
            key=f"{kind} {key}",
            ledger=f"{count} times" if side == "ledger" else "",
            journal=f"{count} times" if side == "journal" else "",
        )
        for key, count in sorted(Counter(keys).items())
        if count > 1
    ]


def _amounts(
    kind: DifferenceKind,
    ledger: Mapping[str, Decimal],
    journal: Mapping[str, Decimal],
    rounded: Callable[[Decimal], Decimal],
) -> list[Difference]:
    """Amounts by name; a name that one side does not have counts as zero."""
    items: list[Difference] = []
    for name in sorted({*ledger, *journal}):
        left, right = rounded(ledger.get(name, ZERO)), rounded(journal.get(name, ZERO))
        if left != right:
            items.append(Difference(kind=kind, key=name, ledger=f"{left:f}", journal=f"{right:f}"))
    return items


def _same(quantity: Decimal) -> Decimal:
    return quantity


def _plain(number: Decimal | None) -> str:
    """One text for equal numbers: 1.50 and 1.5 are the same price."""
    return "" if number is None else f"{number.normalize(CTX):f}"


def _order_key(row: OrderRow) -> str:
    return row.client_id


def _order_text(row: OrderRow) -> str:
    limit, stop = _plain(row.limit_price), _plain(row.stop_price)
    text = f"{row.side} {_plain(row.quantity)} {row.symbol}"
    return text + (f" limit {limit}" if limit else "") + (f" stop {stop}" if stop else "")


def _fill_key(row: FillRow) -> str:
    return row.fill_key


def _fill_text(row: FillRow) -> str:
    return f"{row.side} {_plain(row.quantity)} {row.symbol} at {_plain(row.price)}"


def _fee_key(row: FeeRow) -> str:
    return row.key


def _fee_text(row: FeeRow) -> str:
    return _plain(row.amount)
