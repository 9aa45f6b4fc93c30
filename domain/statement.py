"""An account's statement: every movement of cash, and what each FIFO lot earned.

A pure fold over what was booked. Cash begins at zero and every change is a row, deposits too, so
that opening cash + rows = closing cash; a deposit is money that came in and never profit. What
is not known (a position that came from outside without a price) is None and never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum

from pydantic import AwareDatetime

from domain.account_book import AccountBook, Charge, Move, in_order
from domain.base import Frozen
from domain.errors import BadInput
from domain.lots import ClosedLot, OpenLot, fold_lots
from domain.money import CTX, ZERO, Calculated, multiply, total


class CashKind(StrEnum):
    """Why cash moved. DEPOSIT and WITHDRAWAL are the owner's money, not P&L."""

    FILL = "fill"
    FEE = "fee"
    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"
    ADJUSTMENT = "adjustment"


class CashRow(Frozen):
    """One line of the cash journal; `running` is the cash right after it."""

    time: AwareDatetime
    kind: CashKind
    key: str
    symbol: str = ""
    trade_id: str = ""
    amount: Calculated
    running: Calculated
    text: str = ""


class Statement(Frozen):
    """One period, begin included, end excluded."""

    begin: AwareDatetime
    end: AwareDatetime
    opening_cash: Calculated
    closing_cash: Calculated
    cash: tuple[CashRow, ...] = ()
    moves: tuple[Move, ...] = ()
    charges: tuple[Charge, ...] = ()
    realised: tuple[ClosedLot, ...] = ()
    open_lots: tuple[OpenLot, ...] = ()

    def cash_of(self, *kinds: CashKind) -> Decimal:
        return total(row.amount for row in self.cash if row.kind in kinds)


def statement_of(book: AccountBook, begin: AwareDatetime, end: AwareDatetime) -> Statement:
    """The account from `begin` until before `end`.

    Raises:
        BadInput: STATEMENT_CURRENCY: an instrument that does not settle in account currency.
    """
    rows = cash_journal(book)
    earlier = [row for row in rows if row.time < begin]
    inside = [row for row in rows if begin <= row.time < end]
    opening = earlier[-1].running if earlier else ZERO
    lots = fold_lots(book, until=end)
    return Statement(
        begin=begin,
        end=end,
        opening_cash=opening,
        closing_cash=inside[-1].running if inside else opening,
        cash=tuple(inside),
        moves=tuple(m for m in in_order(book.moves) if begin <= m.time < end),
        charges=tuple(
            charge
            for charge in sorted(book.charges, key=lambda each: (each.time, each.key))
            if begin <= charge.time < end
        ),
        realised=tuple(lot for lot in lots.closed if begin <= lot.closed_at < end),
        open_lots=lots.open,
    )


# --- cash --------------------------------------------------------------------------------------


def cash_journal(book: AccountBook) -> tuple[CashRow, ...]:
    """Every movement of cash since the account's begin; at one instant the owner's come first."""
    found: list[tuple[int, CashRow]] = []
    for cash in book.owner_cash:
        kind = CashKind.DEPOSIT if cash.amount >= 0 else CashKind.WITHDRAWAL
        found.append((0, _row(cash.time, kind, cash.key, cash.amount, text=cash.text)))
    for move in book.moves:
        found += [(1, row) for row in _cash_of_move(book, move)]
    found += [
        (
            2,
            _row(
                charge.time,
                CashKind.FEE,
                charge.key,
                -charge.amount,
                symbol=charge.symbol,
                trade_id=charge.trade_id,
                text=charge.text,
            ),
        )
        for charge in book.charges
    ]
    rows, running = [], ZERO
    for _, row in sorted(found, key=lambda each: (each[1].time, each[0])):
        running = CTX.add(running, row.amount)
        rows.append(row.model_copy(update={"running": running}))
    return tuple(rows)


def _cash_of_move(book: AccountBook, move: Move) -> Iterable[CashRow]:
    """What the move paid or brought; nothing for a split, a change of owner, an unknown price."""
    ids = {"symbol": move.symbol, "trade_id": move.trade_id}
    if move.moves_cash:
        instrument = book.instrument(move.symbol)
        if instrument.inverse or instrument.currency != book.currency:
            raise BadInput("STATEMENT_CURRENCY", "symbol", move.symbol, book.currency)
        assert move.price is not None
        amount = -multiply(move.quantity, move.price, instrument.multiplier)
        kind = CashKind.FILL if move.is_fill else CashKind.ADJUSTMENT
        yield _row(move.time, kind, move.key, amount, text=move.words, **ids)
    if move.fee != 0:
        text = f"fee of {move.key}"
        yield _row(move.time, CashKind.FEE, f"{move.key}/fee", -move.fee, text=text, **ids)


def _row(
    time: AwareDatetime,
    kind: CashKind,
    key: str,
    amount: Decimal,
    *,
    symbol: str = "",
    trade_id: str = "",
    text: str = "",
) -> CashRow:
    return CashRow(
        time=time,
        kind=kind,
        key=key,
        symbol=symbol,
        trade_id=trade_id,
        amount=amount,
        running=ZERO,
        text=text,
    )
