"""What a report is made of: plain rows from the ledger and from the exchange's journal.

The caller fills them; nothing here reads a database or a socket. All money is Decimal in account
currency, all times are aware UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from pydantic import AwareDatetime, Field

from domain.base import Frozen
from domain.money import ZERO, Amount, NetPrice, Quantity, SignedQuantity
from report.charts import EquityLine, SymbolChart
from report.portfolio import Standing


class OrderRow(Frozen):
    """One order that the exchange accepted. `client_id` is ours, or the parent's for a child.

    `other_sizes` are sizes that the exchange itself gave the order over its life: the stop of an
    OCO shrinks with its target, and the ledger may have read it before or after.
    """

    client_id: str
    symbol: str
    side: str
    quantity: Quantity
    other_sizes: tuple[Quantity, ...] = ()
    limit_price: NetPrice | None = None
    stop_price: NetPrice | None = None


class FillRow(Frozen):
    """One execution under its stable key (architecture §8)."""

    fill_key: str
    symbol: str
    side: str
    quantity: Quantity
    price: NetPrice


class FeeRow(Frozen):
    """One booked fee, cost > 0, under the broker's key for it."""

    key: str
    amount: Amount


class Book(Frozen):
    """One side of the comparison. `cash` by currency; `positions` by symbol, flat ones left out.

    Where several accounts are compared at once the account's name stands before currency and
    symbol. `equity` by account: what the attribution of the P&L must add up to.
    """

    orders: tuple[OrderRow, ...] = ()
    fills: tuple[FillRow, ...] = ()
    fees: tuple[FeeRow, ...] = ()
    cash: dict[str, Amount] = Field(default_factory=dict)
    positions: dict[str, SignedQuantity] = Field(default_factory=dict)
    equity: dict[str, Amount] = Field(default_factory=dict)

    @classmethod
    def merged(cls, books: Mapping[str, Book]) -> Book:
        """The books of several accounts as one, account by account in every row."""
        return cls(
            orders=tuple(row for book in books.values() for row in book.orders),
            fills=tuple(row for book in books.values() for row in book.fills),
            fees=tuple(row for book in books.values() for row in book.fees),
            cash={f"{a} {name}": x for a, book in books.items() for name, x in book.cash.items()},
            positions={
                f"{a} {symbol}": x
                for a, book in books.items()
                for symbol, x in book.positions.items()
            },
            equity={a: x for book in books.values() for a, x in book.equity.items()},
        )


class TradeRow(Frozen):
    """One signal that became a trade, whatever its end. A refused one too.

    `slippage` is signed money per unit against the arrival mid, cost > 0: what we paid more (or
    received less) than the mid at the moment of sizing. `naked_s` are wall seconds without
    protection while a position was held. `unconfirmed_s` are wall seconds in which stops and
    targets had been sent and the broker had not answered; None if one never was.
    """

    trade_id: str
    strategy: str
    symbol: str
    side: str
    signal_time: AwareDatetime
    stage: str
    quantity: Quantity = ZERO
    entry_average: NetPrice | None = None
    exit_average: NetPrice | None = None
    realised: Amount = ZERO
    fees: Amount = ZERO
    exit_reason: str = ""
    arrival_mid: NetPrice | None = None
    naked_s: Amount = ZERO
    unconfirmed_s: Amount | None = ZERO
    protection: str = ""
    targets_filled: int = 0
    partial: bool = False
    refusal_code: str = ""
    note: str = ""

    @property
    def filled(self) -> bool:
        return self.quantity > 0

    @property
    def slippage(self) -> Decimal | None:
        """Entry average against arrival mid, per unit, cost > 0; None without a fill or mid."""
        if self.entry_average is None or self.arrival_mid is None or not self.filled:
            return None
        sign = 1 if self.side == "buy" else -1
        return sign * (self.entry_average - self.arrival_mid)


class VerdictCount(Frozen):
    """How many decisions of the session came to this word and code; a market minute is one each."""

    word: str
    code: str = ""
    count: int


class SessionFacts(Frozen):
    """Everything a session report shows. `signals` counts signals taken, trades or not.

    `commit` and `config_hash` name the code and the settings that the session ran under. A text
    that is not empty says on the page: where prices come from (`prices_from`), what the equity
    line begins with (`equity_from`), why nothing was compared with the broker (`not_compared`).
    """

    session: str
    account: str
    mode: str = "paper"
    currency: str = "USD"
    tape: str = ""
    quotes_label: str = ""
    market_begin: AwareDatetime
    market_end: AwareDatetime
    speed: Amount = Decimal(1)
    wall_s: Amount = ZERO
    signals: int = 0
    trades: tuple[TradeRow, ...] = ()
    standings: tuple[Standing, ...] = ()
    equity: tuple[EquityLine, ...] = ()
    charts: tuple[SymbolChart, ...] = ()
    verdicts: tuple[VerdictCount, ...] = ()
    prices_from: str = ""
    equity_from: str = ""
    not_compared: str = ""
    notes: tuple[tuple[str, str], ...] = ()
    cash_before: Amount | None = None
    cash_after: Amount | None = None
    web_ui: str = ""
    commit: str = ""
    config_hash: str = ""
