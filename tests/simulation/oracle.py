"""The invariants, checked against the exchange's journal row by row (faults.md §2.2).

The ledger and the trades are subjects here, never witnesses: what counts is what the venue wrote
down. A violation is a sentence that begins with the invariant's name.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

from domain.ids import Purpose, parse_client_order_id
from domain.money import ZERO
from simulator.journal import Row
from tests.simulation.ledger import MemoryLedger

D = Decimal


class Oracle:
    """Reads every row of one exchange as it is written."""

    def __init__(self, ledger: MemoryLedger, cash: Decimal) -> None:
        self._ledger = ledger
        self.violations: list[str] = []
        self.accepted: dict[str, Row] = {}
        self.keys: dict[str, str] = {}
        self.positions: Counter[str] = Counter()
        self.cash = cash
        self.cash_moved = ZERO
        self.filled: dict[str, Decimal] = {}
        self.doubles_allowed: set[str] = set()

    def violated(self, invariant: str, text: str) -> None:
        self.violations.append(f"{invariant} {text}")

    def on_row(self, row: Row) -> None:
        """One event of the exchange."""
        check = getattr(self, f"_on_{row['kind']}", None)
        if check is not None:
            check(row)

    def _on_accepted(self, row: Row) -> None:
        client_id = str(row.get("client_id", ""))
        parts = parse_client_order_id(client_id)
        if parts is None:
            return
        order_id = str(row["order_id"])
        self.accepted[order_id] = row
        key = client_id[:24]
        known = self.keys.get(key)
        # A venue that changes an order in its place keeps the id of the intent (ADR 0017).
        amended = known is not None and row.get("replaces") == known
        if known is not None and not amended:
            self.violated("I1", f"intent {key} was accepted as {known} and {order_id}")
        self.keys[key] = order_id
        if client_id not in self._ledger.intents:
            self.violated("I12", f"order {client_id} has no intent row")

    def _on_fill(self, row: Row) -> None:
        sign = 1 if row["side"] == "buy" else -1
        quantity = D(row["quantity"])
        self.positions[row["symbol"]] += sign * quantity  # type: ignore[assignment]
        self.cash_moved += D(row["cash_change"])
        order = str(row["order_id"])
        self.filled[order] = self.filled.get(order, ZERO) + quantity

    def _on_bust(self, row: Row) -> None:
        self.cash_moved += D(row["cash_change"])

    def _on_fee(self, row: Row) -> None:
        self.cash_moved -= D(row["amount"])

    def _on_cash(self, row: Row) -> None:
        shown, known = D(row["cash"]), self.cash + self.cash_moved
        if "execution_id" in row and shown != known:
            self.violated("I5", f"cash was {shown}, fills and fees make {known}")

    # --- the end ----------------------------------------------------------------------------------

    def at_close(self, trade_id: str, working: list[str]) -> None:
        """A trade has ended: nothing of it works any more (I3)."""
        for order in working:
            self.violated("I3", f"{trade_id} closed while {order} worked")

    def at_end(self, account: Any, open_orders: list[Any]) -> None:
        """Quiescence: ledger, broker and trades agree, and nothing is left."""
        held = {p.symbol: p.quantity for p in self._ledger.positions()}
        for symbol in sorted({*held, *account.holdings}):
            at_broker = account.quantity(symbol)
            if at_broker != held.get(symbol, ZERO):
                self.violated(
                    "I2", f"{symbol}: broker {at_broker}, ledger {held.get(symbol, ZERO)}"
                )
            if at_broker != 0:
                self.violated("I3", f"{at_broker} {symbol} are left at the end")
        for order in open_orders:
            self.violated("I3", f"order {order.client_id} works at the end")


def purpose_of(client_id: str) -> Purpose | None:
    parts = parse_client_order_id(client_id)
    return None if parts is None else parts.purpose
