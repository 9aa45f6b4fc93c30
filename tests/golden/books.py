"""Our own ledger against the exchange's journal: the ledger is judged here, never believed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from domain.ids import parse_client_order_id
from domain.messages import TradeResult
from ledger.repository import Ledger
from tests.golden.oracle import Rules
from tests.golden.seen import ZERO, Row, Seen


async def differences(
    ledger: Ledger,
    account: str,
    rows: Sequence[Row],
    rules: Rules,
    results: Sequence[TradeResult],
    *,
    is_ledger_disturbed: bool = False,
) -> list[str]:
    """Violations of I2, I5, I6, I7 and I12 after all trades have ended."""
    seen = Seen().feed(rows)
    found = await _fills_differ(ledger, seen, rules)
    found += await _intents_are_missing(ledger, account, rows, is_ledger_disturbed)
    found += [
        f"I6 reservation of {each.trade_id} is still open"
        for each in await ledger.open_reservations(account)
    ]
    left = await ledger.positions_by_trade(account)
    found += [f"I2 the ledger holds {each}" for each in left]
    return found + _money_differs(seen, results)


async def _fills_differ(ledger: Ledger, seen: Seen, rules: Rules) -> list[str]:
    """I2, I7: by trade, symbol and side the ledger has bought and sold what the venue filled.

    Sums, because some venues tell no single executions (ADR 0017).
    """
    there: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    for row in seen.fills:
        order = seen.order_of_fill(row)
        owner = order.owner if order is not None else ""
        there[owner, row["symbol"], row["side"]] += Decimal(row["quantity"])
    here: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    for owner, plan in rules.owners().items():
        for booked in await ledger.fills_of_trade(plan.trade_id):
            fill = booked.fill
            sign = -1 if booked.reverses else 1
            here[owner, fill.symbol, fill.side.value] += sign * fill.quantity
    return [
        f"I7 {key}: {here.get(key, ZERO)} booked, {there.get(key, ZERO)} filled at the venue"
        for key in sorted({*there, *here})
        if here.get(key, ZERO) != there.get(key, ZERO)
    ]


async def _intents_are_missing(
    ledger: Ledger, account: str, rows: Sequence[Row], is_ledger_disturbed: bool
) -> list[str]:
    """I12: every order of ours that the venue was asked for has an earlier row of intent.

    Exits go out beside a ledger that is away: their scheduled step in the history is the intent,
    and the row is written by whoever finds them (H5).
    """
    intents = {r.intent.client_id: r for r in await ledger.orders_of_account(account)}
    found = []
    for row in rows:
        client_id = str(row.get("client_id", ""))
        if row["kind"] != "request" or parse_client_order_id(client_id) is None:
            continue
        intent = intents.get(client_id)
        if intent is None:
            found.append(f"I12 {row['action']} {client_id} has no intent")
        elif (
            # Each attempt writes its own time over the row: a second one may be barred or cut.
            intent.attempts == 1
            and "wall" in row
            and (intent.intent.increasing or not is_ledger_disturbed)
            and intent.gate_at > datetime.fromisoformat(row["wall"])
        ):
            found.append(f"I12 {row['action']} {client_id} went before its intent")
    return found


def _money_differs(seen: Seen, results: Sequence[TradeResult]) -> list[str]:
    """I5: when all is closed the cash of the exchange moved by what the trades say they made."""
    made = sum((result.realised or ZERO for result in results), ZERO)
    moved = seen.cash + seen.fees - seen.start_cash
    return [] if made == moved else [f"I5 trades realised {made}, the cash moved by {moved}"]
