"""What a trade knows, told so that it can be compared with the ledger (faults.md H3).

A trade of which the ledger knows more has been set back, or an answer never reached it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from domain.base import Frozen
from domain.ids import Purpose, parse_client_order_id
from domain.order import OrderState
from domain.trade_state import TradeState


class TradeKnowledge(Frozen):
    """The query `known`: ids of own orders that went out as far as it knows, keys of executions.

    `busy` while a step is on its way: its answer may explain what is lacking.
    """

    orders: tuple[str, ...] = ()
    fills: tuple[str, ...] = ()
    busy: bool = False


class Lack(StrEnum):
    """What a trade does not know."""

    NOTHING = "nothing"
    ORDERS = "an order that it sent"
    FILLS = "a fill of it"
    END = "its end"


def knowledge_of(state: TradeState, *, busy: bool) -> TradeKnowledge:
    """What this state knows."""
    return TradeKnowledge(
        orders=tuple(
            o.client_id
            for o in state.orders
            if o.intent is not None and o.state is not OrderState.NOT_SENT
        ),
        fills=tuple(fill.fill_key for fill in (*state.fills, *state.unclaimed)),
        busy=busy,
    )


def lack_of(
    known: TradeKnowledge,
    *,
    sent: Iterable[str],
    filled: Iterable[str],
    has_ended: bool,
) -> Lack:
    """The worst that the trade lacks of what the ledger has.

    Orders are counted by their sequence: a long trade forgets dead ones, but hardly the last of a
    kind (domain/forgetting.py). One set back into a step may know the order of it as never sent.

    Args:
        known: the trade's answer.
        sent: client ids of the trade's intents that may have gone out, by the ledger.
        filled: keys of the trade's booked executions.
        has_ended: whether its end is booked.
    """
    if has_ended:
        return Lack.END
    last = _last_of_each_sequence(known.orders)
    for kind, sequence in _last_of_each_sequence(sent).items():
        if sequence > last.get(kind, 0):
            return Lack.ORDERS
    return Lack.NOTHING if set(filled) <= set(known.fills) else Lack.FILLS


def _last_of_each_sequence(client_ids: Iterable[str]) -> dict[tuple[int, Purpose], int]:
    """Without those that a flatten sent past the workflow (K8)."""
    last: dict[tuple[int, Purpose], int] = {}
    for parts in map(parse_client_order_id, client_ids):
        if parts is not None and not parts.is_direct:
            kind = (parts.leg, parts.purpose)
            last[kind] = max(last.get(kind, 0), parts.sequence)
    return last
