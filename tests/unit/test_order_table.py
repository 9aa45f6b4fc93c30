"""The order life cycle, cell by cell: what was reviewed once may not change unseen (M5)."""

from __future__ import annotations

import pytest

from domain import order
from domain.errors import IllegalTransition
from domain.order import (
    LIVE_STATES,
    TERMINAL_STATES,
    TRANSITIONS,
    OrderEvent,
    OrderState,
    next_order_state,
)

CODES = {
    "N": OrderState.PENDING_NEW,
    "?": OrderState.UNKNOWN,
    "H": OrderState.HELD,
    "W": OrderState.WORKING,
    "R": OrderState.PENDING_REPLACE,
    "C": OrderState.PENDING_CANCEL,
    "F": OrderState.FILLED,
    "c": OrderState.CANCELED,
    "r": OrderState.REPLACED,
    "e": OrderState.EXPIRED,
    "x": OrderState.REJECTED,
    "-": OrderState.NOT_SENT,
}
EVENTS = (
    "not_sent unknown accepted held rejected partial_fill fill triggered cancel_requested "
    "cancel_rejected canceled replace_requested replace_rejected replaced expired busted"
)
# A dot is a pair that no broker may tell us: it raises and changes nothing.
TABLE = """
    N - ? W H x W F W C . c . . r e N
    ? - ? W H x W F W C ? c . . r e ?
    H . H W H x W F W C H c R H r e H
    W . W W H x W F W C W c R W r e W
    R . R R R x R F R C R c R W r e R
    C . C C C x C F C C W c C C r e C
    F F F F F F F F F F F F F F F F W
    c c c c c c c F c c c c c c c c c
    r r r r r r r F r r r r r r r r r
    e e e e e e e F e e e e e e e e e
    x x x x x x x F x x x x x x x x x
    - - - W - - W F - - - - - - - - -
"""


def cells() -> dict[tuple[OrderState, OrderEvent], OrderState]:
    events = [OrderEvent(name) for name in EVENTS.split()]
    assert sorted(events) == sorted(OrderEvent)
    found = {}
    for line in TABLE.strip().splitlines():
        state, *codes = line.split()
        for event, code in zip(events, codes, strict=True):
            if code != ".":
                found[CODES[state], event] = CODES[code]
    return found


def test_table_is_the_reviewed_one_in_every_cell() -> None:
    assert order._rows() == cells()
    assert dict(TRANSITIONS) == cells()


def test_terminal_states_are_left_by_late_fill_bust_or_a_venue_that_has_it_after_all_only() -> None:
    """I7, D9."""
    left = {(s, e): n for (s, e), n in TRANSITIONS.items() if s in TERMINAL_STATES and n is not s}
    late = {(state, OrderEvent.FILL) for state in TERMINAL_STATES - {OrderState.FILLED}}
    not_sent = OrderState.NOT_SENT
    assert set(left) == late | {
        (OrderState.FILLED, OrderEvent.BUSTED),
        (not_sent, OrderEvent.ACCEPTED),
        (not_sent, OrderEvent.PARTIAL_FILL),
    }


@pytest.mark.covers("F3")
def test_fill_is_legal_in_every_state() -> None:
    """F3: a fill proves acceptance, whatever we believed."""
    assert {next_order_state(state, OrderEvent.FILL) for state in OrderState} == {OrderState.FILLED}


def test_states_are_live_or_terminal() -> None:
    assert set(OrderState) == LIVE_STATES | TERMINAL_STATES
    assert not LIVE_STATES & TERMINAL_STATES


def test_pair_outside_the_table_raises_and_names_both() -> None:
    with pytest.raises(IllegalTransition) as raised:
        next_order_state(OrderState.WORKING, OrderEvent.NOT_SENT)
    assert str(raised.value) == "order was working, event was not_sent"
