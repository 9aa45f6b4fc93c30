"""What was ever booked on an account, as plain values: executions, fees, the owner's cash."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import AwareDatetime, Field

from domain.base import Frozen
from domain.facts import OWNER_CHANGES, AdjustmentKind
from domain.instrument import Instrument
from domain.money import ZERO, Amount, NetPrice, SignedQuantity

FILL = "fill"


class Move(Frozen):
    """A change of position: an execution, its reversal, or an adjustment.

    `kind` is "fill" or the adjustment's kind; `quantity` is signed; `price` None: not known.
    `fee` is what the broker charged on the execution itself, cost > 0.
    """

    key: str
    time: AwareDatetime
    kind: str = FILL
    symbol: str
    quantity: SignedQuantity
    price: NetPrice | None = None
    fee: Amount = ZERO
    trade_id: str = ""
    order_id: str = ""
    reverses: str = ""
    text: str = ""

    @property
    def is_fill(self) -> bool:
        return self.kind == FILL

    @property
    def changes_owner(self) -> bool:
        """True if it only moves the position between trades and EXTERNAL."""
        return self.kind in OWNER_CHANGES

    @property
    def moves_cash(self) -> bool:
        """False for a split, a change of owner, and what came without a price."""
        is_split = self.kind == AdjustmentKind.SPLIT
        return not is_split and not self.changes_owner and self.price is not None

    @property
    def words(self) -> str:
        """What is special about it, for a statement's line; empty for a plain execution."""
        words = [] if self.is_fill else [self.kind]
        words += [f"reverses {self.reverses}"] if self.reverses else []
        return " ".join([*words, *([self.text] if self.text else [])])


class Charge(Frozen):
    """A fee on a row of its own, cost > 0. `move_key` or `order_id`: what for."""

    key: str
    time: AwareDatetime
    amount: Amount
    symbol: str = ""
    trade_id: str = ""
    move_key: str = ""
    order_id: str = ""
    text: str = ""


class OwnerCash(Frozen):
    """Money that the owner put in (> 0) or took out (< 0)."""

    key: str
    time: AwareDatetime
    amount: Amount
    text: str = ""


class AccountBook(Frozen):
    """All that was ever booked on an account, in any order."""

    currency: str = "USD"
    instruments: dict[str, Instrument] = Field(default_factory=dict)
    moves: tuple[Move, ...] = ()
    charges: tuple[Charge, ...] = ()
    owner_cash: tuple[OwnerCash, ...] = ()

    def instrument(self, symbol: str) -> Instrument:
        return self.instruments.get(symbol) or Instrument(symbol=symbol)


def in_order(moves: Iterable[Move]) -> list[Move]:
    """Oldest first; of one instant as they were booked."""
    return sorted(moves, key=lambda move: move.time)
