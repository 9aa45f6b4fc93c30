"""FIFO lots of an account: which piece of which lot was closed by what, and what it earned."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from itertools import groupby

from pydantic import AwareDatetime

from domain.account_book import AccountBook, Charge, Move, in_order
from domain.base import Frozen
from domain.facts import AdjustmentKind
from domain.instrument import Instrument
from domain.money import CTX, ZERO, Calculated, divide, multiply, total
from domain.money_law import Lot, close_lots, realised_pnl
from domain.order import Side

# Shares of a fee; the last piece takes the rest, so that the sum is the fee.
FEE_STEP = Decimal("1e-8")


class ClosedLot(Frozen):
    """A piece of a lot with both its ends. `gross` is None where a price was never known.

    Fees are the shares of both executions that this piece carries; `net` = gross - fees.
    """

    symbol: str
    side: Side
    quantity: Calculated
    opened_by: str
    opened_at: AwareDatetime
    open_price: Calculated | None
    closed_by: str
    closed_at: AwareDatetime
    close_price: Calculated | None
    gross: Calculated | None
    fees: Calculated
    net: Calculated | None
    trade_id: str = ""
    text: str = ""


class OpenLot(Frozen):
    """What is left of a lot. `cost` = quantity x price x multiplier, signed as the position is.

    `fees` is the share of the opening fee that has not gone into a closed piece.
    """

    symbol: str
    quantity: Calculated
    opened_by: str
    opened_at: AwareDatetime
    price: Calculated | None
    cost: Calculated | None
    fees: Calculated
    trade_id: str = ""
    text: str = ""


class Lots(Frozen):
    """FIFO over all symbols of an account."""

    closed: tuple[ClosedLot, ...] = ()
    open: tuple[OpenLot, ...] = ()


def fold_lots(book: AccountBook, until: AwareDatetime | None = None) -> Lots:
    """First in, first out, by symbol and over all trades of the account.

    Reversed executions and their reversals are left out. A split changes quantity and price of
    the open lots and not their cost. Positions that only change their owner change nothing here.
    """
    closed: list[ClosedLot] = []
    still_open: list[OpenLot] = []
    moves = [move for move in book.moves if until is None or move.time < until]
    undone = {move.reverses for move in moves if move.reverses}
    counted = [m for m in moves if not m.reverses and m.key not in undone]
    fees = _fees_by_move(counted, [c for c in book.charges if until is None or c.time < until])
    by_symbol = sorted(in_order(counted), key=lambda move: move.symbol)
    for symbol, group in groupby(by_symbol, key=lambda move: move.symbol):
        fold = _SymbolFold(book.instrument(symbol), dict(fees))
        for move in group:
            fold.take(move)
        closed += fold.closed
        still_open += fold.open_lots()
    closed.sort(key=lambda lot: (lot.closed_at, lot.closed_by))
    return Lots(closed=tuple(closed), open=tuple(still_open))


@dataclass(frozen=True)
class _SymbolFold:
    """The lots of one symbol while its moves go by.

    `fee_left` and `left` are fee and quantity of each move that no piece carries yet.
    """

    instrument: Instrument
    fee_left: dict[str, Decimal]
    lots: deque[Lot] = field(default_factory=deque)
    by_key: dict[str, Move] = field(default_factory=dict)
    left: dict[str, Decimal] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    closed: list[ClosedLot] = field(default_factory=list)

    def take(self, move: Move) -> None:
        if move.changes_owner or move.quantity == 0:
            return
        held = total(lot.quantity for lot in self.lots)
        if move.kind == AdjustmentKind.SPLIT and held + move.quantity != 0 and held != 0:
            self._split(held, move)
            return
        self.by_key[move.key] = move
        self.left[move.key] = abs(move.quantity)
        pieces, rest = close_lots(self.lots, move.quantity)
        for lot, quantity in pieces:
            self.closed.append(self._closed(lot, move, quantity))
        if rest != 0:
            price = ZERO if move.price is None else move.price
            self.lots.append(Lot(fill_key=move.key, quantity=rest, price=price))

    def _split(self, held: Decimal, move: Move) -> None:
        """Every open lot is scaled; the cost of each stays to the 34th digit."""
        after = held + move.quantity
        for index, lot in enumerate(self.lots):
            scaled = divide(multiply(lot.quantity, after), held)
            price = divide(multiply(lot.price, lot.quantity), scaled)
            self.lots[index] = lot.model_copy(update={"quantity": scaled, "price": price})
            told = f"split {held:f} to {after:f} ({move.key})"
            self.notes[lot.fill_key] = " ".join((self.notes.get(lot.fill_key, ""), told)).strip()
            self.left[lot.fill_key] = abs(scaled)

    def _closed(self, lot: Lot, move: Move, quantity: Decimal) -> ClosedLot:
        opening = self.by_key[lot.fill_key]
        side = Side.BUY if lot.quantity > 0 else Side.SELL
        gross = None
        if opening.price is not None and move.price is not None:
            gross = realised_pnl(self.instrument, side, quantity, lot.price, move.price)
        fees = self._share(lot.fill_key, quantity) + self._share(move.key, quantity)
        words = (self.notes.get(lot.fill_key), opening.words, move.words)
        return ClosedLot(
            symbol=move.symbol,
            side=side,
            quantity=quantity,
            opened_by=opening.key,
            opened_at=opening.time,
            open_price=None if opening.price is None else lot.price,
            closed_by=move.key,
            closed_at=move.time,
            close_price=move.price,
            gross=gross,
            fees=fees,
            net=None if gross is None else gross - fees,
            trade_id=move.trade_id or opening.trade_id,
            text="; ".join(word for word in words if word),
        )

    def _share(self, key: str, quantity: Decimal) -> Decimal:
        """The piece's part of the fee; the last piece takes what is left, so that sums agree."""
        fee, left = self.fee_left[key], self.left[key]
        if fee == 0 or quantity >= left:
            share = fee
        else:
            part = divide(multiply(fee, quantity), left)
            share = part.quantize(FEE_STEP, rounding=ROUND_DOWN, context=CTX)
        self.fee_left[key] = fee - share
        self.left[key] = left - quantity
        return share

    def open_lots(self) -> list[OpenLot]:
        return [self._open(lot) for lot in self.lots]

    def _open(self, lot: Lot) -> OpenLot:
        opening = self.by_key[lot.fill_key]
        is_known = opening.price is not None
        cost = multiply(lot.quantity, lot.price, self.instrument.multiplier)
        words = (self.notes.get(lot.fill_key), opening.words)
        return OpenLot(
            symbol=opening.symbol,
            quantity=lot.quantity,
            opened_by=opening.key,
            opened_at=opening.time,
            price=lot.price if is_known else None,
            cost=cost if is_known else None,
            fees=self.fee_left[lot.fill_key],
            trade_id=opening.trade_id,
            text="; ".join(word for word in words if word),
        )


def _fees_by_move(moves: Sequence[Move], charges: Iterable[Charge]) -> dict[str, Decimal]:
    """Fee of each move: its own, and its share of the rows charged for it or for its order."""
    fees = {move.key: move.fee for move in moves}
    of_order: dict[str, list[Move]] = {}
    for move in moves:
        if move.order_id:
            of_order.setdefault(move.order_id, []).append(move)
    for charge in charges:
        meant = of_order.get(charge.order_id, [])
        if charge.move_key in fees:
            fees[charge.move_key] += charge.amount
            continue
        weight, left = total(abs(move.quantity) for move in meant), charge.amount
        for number, move in enumerate(meant, start=1):
            part = divide(multiply(charge.amount, abs(move.quantity)), weight)
            share = part.quantize(FEE_STEP, rounding=ROUND_DOWN, context=CTX)
            share = left if number == len(meant) else share
            fees[move.key] += share
            left -= share
    return fees
