"""Broker truth against the ledger: every difference has one class with one owned outcome.

Pure: two looks go in, discrepancies come out. A difference counts only if it stands in two looks
some seconds apart, so that orders in flight and late pages never become findings (R7). Missing is
not flat (R6): an empty position list is believed only beside a second proof. What each class means
and who owns it stands in `domain.discrepancies`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from enum import StrEnum

from domain.account_events import AccountEvent, EventKind
from domain.base import Frozen
from domain.ids import Purpose, parse_client_order_id
from domain.money import ZERO, Amount, Calculated, NetPrice, Quantity, SignedQuantity, total
from domain.order import OrderSnapshot, Position, Side
from domain.recon.cash import CashLook, CashRule
from domain.recon.explain import Explanation, Holdings, explain
from domain.split_math import split_quantity

EXTERNAL_OWNER = "EXTERNAL"
STUCK_AFTER_S = 30.0


class DiscrepancyKind(StrEnum):
    """Class of a difference; detection, action, alert and owner are in `domain.discrepancies`."""

    ORPHAN_ENTRY = "orphan_entry"
    ORPHAN_EXIT = "orphan_exit"
    FOREIGN_ORDER = "foreign_order"
    INTENT_STUCK = "intent_stuck"
    POSITION_MISMATCH = "position_mismatch"
    POSITION_VANISHED = "position_vanished"
    POSITIONS_UNTRUSTED = "positions_untrusted"
    EXTERNAL_TRADE = "external_trade"
    LIQUIDATION = "liquidation"
    ASSIGNMENT = "assignment"
    EXERCISE = "exercise"
    EXPIRY = "expiry"
    OPTION_GONE = "option_gone"
    SPLIT = "split"
    SYMBOL_CHANGE = "symbol_change"
    FEE_MISMATCH = "fee_mismatch"
    CASH_DIFFERENCE = "cash_difference"


class Discrepancy(Frozen):
    """One difference. `key` is equal in two looks only if nothing about it moved.

    `quantity` is signed: broker minus ledger for positions and money, the order's rest for orders.
    `delivered`, `price`, `ratio` and `event_ids` come from what explains it (`recon.explain`).
    `guards`: an exit of no open trade that stands against a position of no trade.
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
    price: NetPrice | None = None
    delivered_symbol: str = ""
    delivered: SignedQuantity = ZERO
    ratio: Calculated | None = None
    event_ids: tuple[str, ...] = ()
    is_late: bool = False
    guards: bool = False


class FeeLook(Frozen):
    """A fee row that both sides have."""

    activity_id: str
    told: Amount
    booked: Amount


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
    empty position list: the account's equity is its cash. `events` are statement rows that are not
    booked yet, `today` the market's date, `cash` None where it cannot be compared.
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
    stuck_after_s: float = STUCK_AFTER_S
    events: tuple[AccountEvent, ...] = ()
    tells_events: bool = False
    today: date | None = None
    fees: tuple[FeeLook, ...] = ()
    cash: CashLook | None = None
    cash_rule: CashRule = CashRule()


def classify(look: Look) -> tuple[Discrepancy, ...]:
    """Every difference in this look."""
    positions = tuple(_positions(look))
    found = (*_orders(look), *_stuck(look), *positions, *_fees(look))
    # Cash is asked last: what moved a position moved cash too.
    return found if positions else (*found, *_cash(look))


def confirmed(first: Look, second: Look) -> tuple[Discrepancy, ...]:
    """Differences that stand unchanged in both looks; foreign orders need only be there."""
    before = {found.key for found in classify(first)}
    return tuple(found for found in classify(second) if found.key in before)


def _orders(look: Look) -> Iterator[Discrepancy]:
    orphans: dict[tuple[str, Side | None], list[Discrepancy]] = {}
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
        found = Discrepancy(
            kind=kind,
            key=f"{kind}/{order.broker_order_id}",
            symbol=order.symbol,
            trade_id=trade_id,
            broker_order_id=order.broker_order_id,
            client_id=client_id,
            quantity=rest,
            text=f"{order.side} {rest} {order.symbol} id {client_id or order.broker_order_id}",
        )
        if kind is DiscrepancyKind.ORPHAN_EXIT and not trade_id:
            orphans.setdefault((order.symbol, order.side), []).append(found)
        else:
            yield found
    for (symbol, side), exits in orphans.items():
        guards = _may_guard(look, symbol, side, total(found.quantity for found in exits))
        for found in exits:
            key = f"{found.key}/guards" if guards else found.key
            yield found.model_copy(update={"guards": guards, "key": key})


def _may_guard(look: Look, symbol: str, side: Side | None, rest: Decimal) -> bool:
    """True if exits of no open trade, `rest` together, only reduce what no trade owns (I4).

    The ledger may have forgotten their trade (an older copy of it was put back) and not the trade
    its position. More than that they must not take, or they could flip it. An empty list is no
    proof that nothing is held (R6).
    """
    if side is None or _is_untrusted(look):
        return side is not None
    held = total(each.quantity for each in look.positions if each.symbol == symbol)
    owned = total(
        row.quantity for row in look.owned if row.symbol == symbol and row.owner != EXTERNAL_OWNER
    )
    return -side.sign * (held - owned) >= rest > 0 and -side.sign * held >= rest


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


def _is_untrusted(look: Look) -> bool:
    """True if the list of positions is empty, we hold something, and the account is not flat."""
    owned: dict[str, Decimal] = {}
    for row in look.owned:
        owned[row.symbol] = owned.get(row.symbol, ZERO) + row.quantity
    is_empty = not any(position.quantity for position in look.positions)
    return is_empty and any(owned.values()) and not look.account_is_flat


def _positions(look: Look) -> Iterator[Discrepancy]:
    """I20: per symbol, trades plus EXTERNAL equal the broker."""
    held = {position.symbol: position.quantity for position in look.positions}
    owned: dict[str, list[OwnedQuantity]] = {}
    for row in look.owned:
        owned.setdefault(row.symbol, []).append(row)
    if _is_untrusted(look):
        yield Discrepancy(
            kind=DiscrepancyKind.POSITIONS_UNTRUSTED,
            key=str(DiscrepancyKind.POSITIONS_UNTRUSTED),
            text="the position list was empty while we hold something; nothing is concluded",
        )
        return
    in_doubt = {
        symbol for intent in look.intents if intent.is_unresolved for symbol in intent.symbols
    }
    explained = {
        symbol: each
        for each in _explained(look, held, owned)
        for symbol in (each.symbol, each.delivered_symbol)
        if symbol
    }
    for symbol in sorted({*held, *owned}):
        rows, quantity = owned.get(symbol, []), held.get(symbol, ZERO)
        difference = quantity - total(row.quantity for row in rows)
        explanation = explained.get(symbol)
        if symbol in in_doubt or (explanation is not None and explanation.symbol != symbol):
            continue
        if explanation is not None:
            yield _with_reason(explanation, rows)
        elif difference != 0:
            yield _position(symbol, quantity, difference, rows)
        else:
            yield from _taken_by_others(symbol, rows)


def _explained(
    look: Look, held: dict[str, Decimal], owned: dict[str, list[OwnedQuantity]]
) -> tuple[Explanation, ...]:
    external = {
        symbol: total(row.quantity for row in rows if row.owner == EXTERNAL_OWNER)
        for symbol, rows in owned.items()
    }
    ours = {symbol: total(row.quantity for row in rows) for symbol, rows in owned.items()}
    return explain(
        Holdings(held=held, owned=ours, external=external),
        look.events,
        tells_events=look.tells_events,
        today=look.today,
    )


def _with_reason(reason: Explanation, rows: Sequence[OwnedQuantity]) -> Discrepancy:
    """The class that the reason names. A split that leaves someone a fraction has no owner."""
    kind = DiscrepancyKind(reason.kind.value)
    if reason.is_waiting:
        kind = DiscrepancyKind.OPTION_GONE
    elif not _can_be_booked(reason, rows):
        kind = DiscrepancyKind.POSITION_MISMATCH
    delivered = f", {reason.delivered} {reason.delivered_symbol}" if reason.delivered else ""
    return Discrepancy(
        kind=kind,
        key=f"{kind}/{reason.symbol}/{reason.quantity}/{reason.delivered}",
        symbol=reason.symbol,
        quantity=reason.quantity,
        owners=tuple(r.owner for r in rows if r.owner != EXTERNAL_OWNER and r.quantity != 0),
        text=f"{reason.kind} {reason.quantity} {reason.symbol}{delivered}",
        price=reason.price,
        delivered_symbol=reason.delivered_symbol,
        delivered=reason.delivered,
        ratio=reason.ratio,
        event_ids=reason.event_ids,
        is_late=reason.is_late,
    )


def _can_be_booked(reason: Explanation, rows: Sequence[OwnedQuantity]) -> bool:
    """False where the reason is known and its outcome is not: that is a person's to say."""
    if reason.kind is EventKind.SPLIT:
        return _divides(reason, rows)
    if reason.kind is EventKind.LIQUIDATION:
        return _can_lose(reason.quantity, rows)
    return True


def _can_lose(quantity: Decimal, rows: Sequence[OwnedQuantity]) -> bool:
    """True if trades can lose just this: all of them everything, or the only one a part.

    A stop that filled before the pass came has taken from them what the venue took as well (R3).
    """
    trades = [row for row in rows if row.owner != EXTERNAL_OWNER and row.quantity != 0]
    ours = total(row.quantity for row in trades)
    if ours + quantity == 0:
        return bool(trades)
    return len(trades) == 1 and ours * quantity < 0 and abs(quantity) < abs(ours)


def _divides(reason: Explanation, rows: Sequence[OwnedQuantity]) -> bool:
    assert reason.ratio is not None, "a split has a ratio"
    return not reason.is_doubtful and all(
        split_quantity(row.quantity, reason.ratio) % 1 == 0
        for row in rows
        if row.quantity % 1 == 0 and not (reason.is_late and row.owner == EXTERNAL_OWNER)
    )


def _taken_by_others(symbol: str, rows: Sequence[OwnedQuantity]) -> Iterator[Discrepancy]:
    """Somebody else's executions took what trades hold: their exits cover nothing any more."""
    trades = [row for row in rows if row.owner != EXTERNAL_OWNER and row.quantity != 0]
    external = total(row.quantity for row in rows if row.owner == EXTERNAL_OWNER)
    ours = total(row.quantity for row in trades)
    if ours * external >= 0:
        return
    taken = min(abs(external), abs(ours)) * (1 if external > 0 else -1)
    kind = DiscrepancyKind.EXTERNAL_TRADE
    yield Discrepancy(
        kind=kind,
        key=f"{kind}/{symbol}/{ours}/{external}",
        symbol=symbol,
        quantity=taken,
        owners=tuple(row.owner for row in trades),
        text=f"{symbol}: trades {ours}, executions of others {external}",
    )


def _fees(look: Look) -> Iterator[Discrepancy]:
    for fee in look.fees:
        if fee.told != fee.booked:
            kind = DiscrepancyKind.FEE_MISMATCH
            yield Discrepancy(
                kind=kind,
                key=f"{kind}/{fee.activity_id}/{fee.told}/{fee.booked}",
                quantity=fee.told - fee.booked,
                event_ids=(fee.activity_id,),
                text=f"fee {fee.activity_id}: broker {fee.told}, ledger {fee.booked}",
            )


def _cash(look: Look) -> Iterator[Discrepancy]:
    """R9: rounding is nothing, the rest is told; never while an order's answer is unknown (R7)."""
    if look.cash is None or any(intent.is_unresolved for intent in look.intents):
        return
    gap = look.cash.gap
    if abs(gap) > look.cash_rule.tolerance:
        kind = DiscrepancyKind.CASH_DIFFERENCE
        yield Discrepancy(
            kind=kind,
            key=f"{kind}/{gap}",
            quantity=gap,
            text=f"cash: broker {look.cash.broker}, expected {look.cash.expected}",
        )


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
