"""The order life cycle, cell by cell: what was reviewed once may not change unseen (M5)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from domain import order
from domain.errors import IllegalTransition
from domain.ids import IntentKey, Purpose
from domain.order import (
    LIVE_STATES,
    TERMINAL_STATES,
    TRANSITIONS,
    Fill,
    OrderBody,
    OrderEvent,
    OrderIntent,
    OrderState,
    OrderType,
    Quote,
    Side,
    TimeInForce,
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


# --- what an order is known by ---------------------------------------------------------------

BODY = OrderBody(
    symbol="AAPL",
    side=Side.SELL,
    quantity=Decimal(5),
    order_type=OrderType.STOP_LIMIT,
    limit_price=Decimal("99.50"),
    stop_price=Decimal(100),
    intent_date=date(2026, 3, 2),
)
KEY = IntentKey(trade_id="t-1", purpose=Purpose.STOP, sequence=2)


def test_checksum_of_a_body_is_the_same_in_every_release() -> None:
    """A restarted worker of a new build must derive the id that the old one sent (I1, I12)."""
    assert BODY.checksum() == "0e865b32"


@pytest.mark.parametrize(
    "change",
    [
        {"symbol": "MSFT"},
        {"side": Side.BUY},
        {"quantity": Decimal(6)},
        {"order_type": OrderType.STOP},
        {"limit_price": Decimal("99.51")},
        {"stop_price": Decimal("100.01")},
        {"time_in_force": TimeInForce.GTC},
        {"intent_date": date(2026, 3, 3)},
    ],
)
def test_another_body_under_the_same_key_is_another_client_id(change: dict[str, object]) -> None:
    """I12: the broker's memory of ids must never take a changed order for the old one."""
    other = BODY.model_copy(update=change)
    mine = OrderIntent.derive("ab12", KEY, BODY, increasing=False)
    theirs = OrderIntent.derive("ab12", KEY, other, increasing=False)
    assert mine.client_id != theirs.client_id


def test_derived_intent_keeps_all_that_was_decided_about_the_order() -> None:
    """A replace that forgot `keeps_quantity` would restore what filled meanwhile (peers 4, 7)."""
    until = datetime(2026, 3, 2, 15, 1, tzinfo=UTC)
    intent = OrderIntent.derive(
        "ab12",
        KEY,
        BODY,
        increasing=True,
        tranche=3,
        replaces="old-id",
        not_after=until,
        keeps_quantity=True,
        reason="ratchet",
    )
    assert (intent.key, intent.body, intent.increasing) == (KEY, BODY, True)
    assert (intent.tranche, intent.replaces, intent.not_after) == (3, "old-id", until)
    assert (intent.keeps_quantity, intent.reason) == (True, "ratchet")


def test_derived_intent_is_an_order_of_its_own_unless_told_otherwise() -> None:
    intent = OrderIntent.derive("ab12", KEY, BODY, increasing=False)
    assert (intent.increasing, intent.keeps_quantity, intent.reason) == (False, False, "")
    assert (intent.tranche, intent.replaces, intent.not_after) == (None, None, None)


# --- what fills and quotes come to -----------------------------------------------------------


@pytest.mark.parametrize(("side", "signed"), [(Side.BUY, 7), (Side.SELL, -7)])
def test_fill_moves_the_position_in_the_direction_of_its_side(side: Side, signed: int) -> None:
    fill = Fill(
        fill_key="f-1",
        broker_order_id="b-1",
        symbol="AAPL",
        side=side,
        quantity=Decimal(7),
        price=Decimal(100),
        venue_time=datetime(2026, 3, 2, 15, tzinfo=UTC),
    )
    assert fill.signed_quantity == signed
    assert (side.sign, side.opposite.sign) == (signed // 7, -signed // 7)


@pytest.mark.parametrize(
    ("bid", "ask", "mid"),
    [("99", "101", "100"), (None, "101", None), ("99", None, None), ("-1", "2", "0.5")],
)
def test_mid_lies_between_both_sides_and_is_unknown_without_one(
    bid: str | None, ask: str | None, mid: str | None
) -> None:
    quote = Quote(
        symbol="AAPL",
        bid=None if bid is None else Decimal(bid),
        ask=None if ask is None else Decimal(ask),
        venue_time=datetime(2026, 3, 2, 15, tzinfo=UTC),
    )
    assert quote.mid == (None if mid is None else Decimal(mid))
