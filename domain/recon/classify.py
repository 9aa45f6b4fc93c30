"""Broker truth against the ledger: every difference has one class with one owned outcome.

Pure: two looks go in, discrepancies come out. A difference counts only if it stands in two looks
some seconds apart, so that orders in flight and late pages never become findings (R7). Missing is
not flat (R6): an empty position list is believed only beside a second proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from enum import StrEnum

from domain.base import Frozen
from domain.ids import Purpose, parse_client_order_id
from domain.money import ZERO, Quantity, SignedQuantity, total
from domain.order import OrderSnapshot, Position

EXTERNAL_OWNER = "EXTERNAL"


class DiscrepancyKind(StrEnum):
    """Class of a difference; the comment says who does what about it."""

    # Live at the broker with our id, unknown to the ledger: cancelled, it may add risk (R1).
    ORPHAN_ENTRY = "orphan_entry"
    # The same for an exit: its open trade looks at it; without an open trade it is cancelled.
    ORPHAN_EXIT = "orphan_exit"
    # Not ours: told to a person, never touched (R1).
    FOREIGN_ORDER = "foreign_order"
    # Unanswered for long: the trade or a person resolves it with evidence (I10).
    INTENT_STUCK = "intent_stuck"
    # More, less or the other way round than we can explain: EXTERNAL, symbol frozen (R2, I20).
    POSITION_MISMATCH = "position_mismatch"
    # The broker took away what a trade holds: booked to the trade, its exits go (R3).
    POSITION_VANISHED = "position_vanished"
    # An empty or failing answer that nothing else supports: alert only (R6).
    POSITIONS_UNTRUSTED = "positions_untrusted"


class Discrepancy(Frozen):
    """One difference. `key` is equal in two looks only if nothing about it moved.

    `quantity` is signed: broker minus ledger for positions, the order's rest for orders.
    """

    kind: DiscrepancyKind
    key: str
    symbol: str = ""
    trade_id: str = ""
    broker_order_id: str = ""
    client_id: str = ""
    quantity: SignedQuantity = ZERO
    owners: tuple[str, ...] = ()
    text: str = ""


class LedgerIntent(Frozen):
    """An intent of the ledger that is not known dead."""

    client_id: str
    trade_id: str
    symbols: tuple[str, ...]
    is_unresolved: bool
    age_s: float


class OwnedQuantity(Frozen):
    """What one owner holds of a symbol by fills and adjustments."""

    owner: str
    symbol: str
    quantity: SignedQuantity


class Look(Frozen):
    """One reading of both sides.

    `known_broker_ids` are all orders and children that the ledger has; `open_trades` maps the
    16-character prefix of each open trade to its id. `account_is_flat` is the second proof of an
    empty position list: the account's equity is its cash.
    """

    installation: str
    orders: tuple[OrderSnapshot, ...]
    known_client_ids: frozenset[str]
    known_broker_ids: frozenset[str]
    intents: tuple[LedgerIntent, ...]
    open_trades: dict[str, str]
    owned: tuple[OwnedQuantity, ...]
    positions: tuple[Position, ...]
    account_is_flat: bool = False
    stuck_after_s: float = 30.0


def classify(look: Look) -> tuple[Discrepancy, ...]:
    """Every difference in this look."""
    return (*_orders(look), *_stuck(look), *_positions(look))


def confirmed(first: Look, second: Look) -> tuple[Discrepancy, ...]:
    """Differences that stand unchanged in both looks; foreign orders need only be there."""
    before = {found.key for found in classify(first)}
    return tuple(found for found in classify(second) if found.key in before)


def _orders(look: Look) -> Iterator[Discrepancy]:
    for order in look.orders:
        client_id = order.client_id or ""
        if client_id in look.known_client_ids or order.broker_order_id in look.known_broker_ids:
            continue
        if order.parent_broker_id in look.known_broker_ids:
            continue
        rest: Quantity = max(order.quantity - order.filled_quantity, ZERO)
        parts = parse_client_order_id(client_id) if client_id else None
        if parts is None or parts.installation != look.installation:
            kind, trade_id = DiscrepancyKind.FOREIGN_ORDER, ""
        else:
            is_entry = parts.purpose is Purpose.ENTRY
            kind = DiscrepancyKind.ORPHAN_ENTRY if is_entry else DiscrepancyKind.ORPHAN_EXIT
            trade_id = look.open_trades.get(client_id[:16], "")
        yield Discrepancy(
            kind=kind,
            key=f"{kind}/{order.broker_order_id}",
            symbol=order.symbol,
            trade_id=trade_id,
            broker_order_id=order.broker_order_id,
            client_id=client_id,
            quantity=rest,
            text=f"{order.side} {rest} {order.symbol} id {client_id or order.broker_order_id}",
        )


def _stuck(look: Look) -> Iterator[Discrepancy]:
    for intent in look.intents:
        if intent.is_unresolved and intent.age_s >= look.stuck_after_s:
            yield Discrepancy(
                kind=DiscrepancyKind.INTENT_STUCK,
                key=f"{DiscrepancyKind.INTENT_STUCK}/{intent.client_id}",
                symbol=intent.symbols[0] if intent.symbols else "",
                trade_id=intent.trade_id,
                client_id=intent.client_id,
                text=f"no answer known for {intent.client_id}",
            )


def _positions(look: Look) -> Iterator[Discrepancy]:
    """I20: per symbol, trades plus EXTERNAL equal the broker."""
    held = {position.symbol: position.quantity for position in look.positions}
    owned: dict[str, list[OwnedQuantity]] = {}
    for row in look.owned:
        owned.setdefault(row.symbol, []).append(row)
    wants_any = any(total(row.quantity for row in rows) != 0 for rows in owned.values())
    if not any(held.values()) and wants_any and not look.account_is_flat:
        yield Discrepancy(
            kind=DiscrepancyKind.POSITIONS_UNTRUSTED,
            key=str(DiscrepancyKind.POSITIONS_UNTRUSTED),
            text="the position list was empty while we hold something; nothing is concluded",
        )
        return
    in_doubt = {
        symbol for intent in look.intents if intent.is_unresolved for symbol in intent.symbols
    }
    for symbol in sorted({*held, *owned}):
        rows = owned.get(symbol, [])
        difference = held.get(symbol, ZERO) - total(row.quantity for row in rows)
        if difference != 0 and symbol not in in_doubt:
            yield _position(symbol, held.get(symbol, ZERO), difference, rows)


def _position(
    symbol: str, held: Decimal, difference: Decimal, rows: Sequence[OwnedQuantity]
) -> Discrepancy:
    trades = [row for row in rows if row.owner != EXTERNAL_OWNER and row.quantity != 0]
    external = total(row.quantity for row in rows if row.owner == EXTERNAL_OWNER)
    ours = total(row.quantity for row in trades)
    shrank = held * ours >= 0 and abs(held) < abs(ours)
    is_clear = external == 0 and (len(trades) == 1 or (held == 0 and len(trades) > 1))
    vanished = shrank and is_clear
    kind = DiscrepancyKind.POSITION_VANISHED if vanished else DiscrepancyKind.POSITION_MISMATCH
    return Discrepancy(
        kind=kind,
        key=f"{kind}/{symbol}/{held}/{difference}",
        symbol=symbol,
        quantity=difference,
        owners=tuple(row.owner for row in trades),
        text=f"{symbol}: broker {held}, trades {ours}, external {external}",
    )
