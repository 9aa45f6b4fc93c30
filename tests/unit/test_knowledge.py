"""What a trade lacks of what the ledger knows (faults.md H3)."""

from __future__ import annotations

import pytest

from domain.ids import DIRECT_SEQUENCE_FIRST, Purpose, client_id_of_prefix, trade_prefix
from domain.knowledge import Lack, TradeKnowledge, lack_of

PREFIX = trade_prefix("abcd", "trade-1")


def own(purpose: Purpose, sequence: int, leg: int = 0) -> str:
    return client_id_of_prefix(PREFIX, leg, purpose, sequence, "0" * 8)


ENTRY, STOP, MOVED = own(Purpose.ENTRY, 1), own(Purpose.STOP, 1), own(Purpose.STOP, 2)
DIRECT = own(Purpose.FLATTEN, DIRECT_SEQUENCE_FIRST)
KNOWN = TradeKnowledge(orders=(ENTRY, STOP), fills=("f1", "f2"))


@pytest.mark.parametrize(
    ("sent", "filled", "has_ended", "lack"),
    [
        ([ENTRY, STOP], ["f1", "f2"], False, Lack.NOTHING),
        ([ENTRY], ["f1"], False, Lack.NOTHING),
        ([ENTRY, STOP, MOVED], ["f1", "f2"], False, Lack.ORDERS),
        ([ENTRY, STOP, own(Purpose.STOP, 1, leg=1)], ["f1"], False, Lack.ORDERS),
        ([ENTRY, STOP, DIRECT, "somebody-else"], ["f1"], False, Lack.NOTHING),
        ([ENTRY, STOP], ["f1", "f2", "f3"], False, Lack.FILLS),
        ([ENTRY, STOP, MOVED], ["f3"], False, Lack.ORDERS),
        ([ENTRY, STOP], ["f1", "f2"], True, Lack.END),
    ],
    ids=[
        "the same",
        "an older copy of the ledger",
        "its stop was moved",
        "another leg's order",
        "a flatten past the workflow, a foreign order",
        "a fill",
        "an order outweighs a fill",
        "its end is booked",
    ],
)
def test_a_trade_lacks_what_only_the_ledger_knows(
    sent: list[str], filled: list[str], has_ended: bool, lack: Lack
) -> None:
    assert lack_of(KNOWN, sent=sent, filled=filled, has_ended=has_ended) is lack


def test_a_trade_that_forgot_dead_orders_lacks_nothing_while_it_knows_the_last_of_a_kind() -> None:
    """I16: a long trade carries the newest of each kind only."""
    known = TradeKnowledge(orders=(ENTRY, own(Purpose.STOP, 90)))
    sent = [ENTRY, *(own(Purpose.STOP, number) for number in range(1, 91))]
    assert lack_of(known, sent=sent, filled=[], has_ended=False) is Lack.NOTHING
