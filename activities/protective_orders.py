"""How a trade is protected by the ledger's live orders, while its workflow does not answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from domain.ids import Purpose, parse_client_order_id, trade_prefix
from ledger.records import IntentState
from ledger.repository import Ledger

PROTECTIVE = frozenset({Purpose.STOP, Purpose.TARGET, Purpose.OCO})


async def protective_orders(ledger: Ledger, account: str) -> Mapping[str, int]:
    """Stops, targets and their legs that the broker is known to hold, by their trade's prefix.

    What was sent without an answer does not count: nothing is claimed of it (I10).
    """
    found: Counter[str] = Counter()
    for row in await ledger.open_orders(account):
        if row.intent.key.purpose in PROTECTIVE and row.state is IntentState.ACCEPTED:
            found[row.intent.client_id[:16]] += 1
    for child in await ledger.open_children(account):
        parent = parse_client_order_id(child.parent_client_id)
        is_exit = parent is not None and parent.purpose in PROTECTIVE
        # The legs of a combo that enters protect nothing; the stop of a bracket does.
        if is_exit or child.snapshot.stop_price is not None:
            found[child.parent_client_id[:16]] += 1
    return found


def protection_by_ledger(found: Mapping[str, int], installation: str, trade_id: str) -> str:
    """In words; the protection class is the workflow's to say, and it says nothing (I6)."""
    count = found.get(trade_prefix(installation, trade_id), 0)
    orders = {0: "no protective order rests", 1: "1 protective order rests"}
    told = orders.get(count, f"{count} protective orders rest")
    return f"unknown: the workflow does not answer; {told} by the ledger"
