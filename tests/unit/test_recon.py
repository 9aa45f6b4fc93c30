"""Classes of difference between broker and ledger, and what must not become one (R1–R7)."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from domain.ids import IntentKey, Purpose, client_order_id, trade_prefix
from domain.order import BrokerOrderStatus, OrderBody, OrderSnapshot, OrderType, Position, Side
from domain.recon.classify import (
    DiscrepancyKind,
    LedgerIntent,
    Look,
    OwnedQuantity,
    classify,
    confirmed,
)

D = Decimal
HOME = "abcd"
KIND = DiscrepancyKind


def client_id(purpose: Purpose, trade_id: str = "t1", installation: str = HOME) -> str:
    body = OrderBody(
        symbol="A",
        side=Side.BUY,
        quantity=D(1),
        order_type=OrderType.MARKET,
        intent_date=date(2026, 3, 2),
    )
    key = IntentKey(trade_id=trade_id, purpose=purpose, sequence=1)
    return client_order_id(installation, key, body.checksum())


def order(client: str | None, broker_id: str = "b1", parent: str | None = None) -> OrderSnapshot:
    return OrderSnapshot(
        broker_order_id=broker_id,
        client_id=client,
        symbol="A",
        side=Side.BUY,
        quantity=D(3),
        filled_quantity=D(1),
        status=BrokerOrderStatus.WORKING,
        parent_broker_id=parent,
    )


def look(**changes: object) -> Look:
    values: dict[str, object] = {
        "installation": HOME,
        "orders": (),
        "known_client_ids": frozenset(),
        "known_broker_ids": frozenset(),
        "intents": (),
        "open_trades": {},
        "owned": (),
        "positions": (),
    }
    return Look.model_validate(values | changes)


def held(symbol: str, quantity: int) -> tuple[Position, ...]:
    return (Position(symbol=symbol, quantity=D(quantity)),)


def owned(*rows: tuple[str, int]) -> tuple[OwnedQuantity, ...]:
    return tuple(OwnedQuantity(owner=o, symbol="A", quantity=D(q)) for o, q in rows)


@pytest.mark.covers("R1")
@pytest.mark.parametrize(
    ("client", "kind"),
    [
        (client_id(Purpose.ENTRY), KIND.ORPHAN_ENTRY),
        (client_id(Purpose.STOP), KIND.ORPHAN_EXIT),
        (client_id(Purpose.ENTRY, installation="ffff"), KIND.FOREIGN_ORDER),
        ("by-hand", KIND.FOREIGN_ORDER),
        (None, KIND.FOREIGN_ORDER),
    ],
)
def test_unknown_live_order_has_the_class_of_its_id(client: str | None, kind: str) -> None:
    (found,) = classify(look(orders=(order(client),)))
    assert found.kind == kind
    assert found.quantity == 2


def test_orphan_exit_names_its_open_trade() -> None:
    prefix = trade_prefix(HOME, "t1")
    orphan = order(client_id(Purpose.STOP))
    (found,) = classify(look(orders=(orphan,), open_trades={prefix: "t1"}))
    assert found.trade_id == "t1"


@pytest.mark.covers("R1", "R6")
@pytest.mark.parametrize(
    ("held_now", "rows", "guards"),
    [
        (-4, [], True),
        (-4, [("EXTERNAL", -4)], True),
        (-3, [], False),
        (4, [], False),
        (0, [], False),
        (-4, [("t2", -4)], False),
        (-8, [("t2", -4)], True),
        (-3, [("t2", 1)], False),
        (0, [("t2", -4)], True),
    ],
)
def test_orphan_exits_guard_only_what_no_trade_owns(
    held_now: int, rows: list[tuple[str, int]], guards: bool
) -> None:
    """I4: two orders that buy back 4 together; in the last row an empty list proves nothing."""
    orders = tuple(order(client_id(Purpose.STOP, f"t{n}"), broker_id=f"b{n}") for n in (8, 9))
    positions = held("A", held_now) if held_now else ()
    found = classify(look(orders=orders, positions=positions, owned=owned(*rows)))
    orphans = [each for each in found if each.kind is KIND.ORPHAN_EXIT]
    assert [each.guards for each in orphans] == [guards, guards]


@pytest.mark.parametrize(
    "known",
    [
        {"known_client_ids": frozenset({client_id(Purpose.STOP)})},
        {"known_broker_ids": frozenset({"b1"})},
        {"known_broker_ids": frozenset({"parent"})},
    ],
)
def test_known_order_is_no_difference(known: dict[str, object]) -> None:
    shown = order(client_id(Purpose.STOP), parent="parent")
    assert classify(look(orders=(shown,), **known)) == ()


@pytest.mark.parametrize(
    ("quantity", "rows", "kind"),
    [
        (10, [("t1", 10)], None),
        (15, [("t1", 10), ("EXTERNAL", 5)], None),
        (15, [("t1", 10)], KIND.POSITION_MISMATCH),
        (-10, [("t1", 10)], KIND.POSITION_MISMATCH),
        (5, [], KIND.POSITION_MISMATCH),
        (4, [("t1", 10)], KIND.POSITION_VANISHED),
        (4, [("t1", 6), ("t2", 4)], KIND.POSITION_MISMATCH),
        (8, [("t1", 10), ("EXTERNAL", 5)], KIND.POSITION_MISMATCH),
        (-3, [("t1", -10)], KIND.POSITION_VANISHED),
    ],
)
def test_position_per_symbol_is_trades_plus_external(
    quantity: int, rows: list[tuple[str, int]], kind: str | None
) -> None:
    """I20: what cannot be attributed without guessing goes to EXTERNAL."""
    found = classify(look(positions=held("A", quantity), owned=owned(*rows)))
    assert [each.kind for each in found] == ([] if kind is None else [kind])
    if kind is not None:
        assert found[0].quantity == D(quantity) - sum(D(q) for _, q in rows)


@pytest.mark.covers("R6")
@pytest.mark.parametrize(
    ("is_flat", "rows", "kind"),
    [
        (False, [("t1", 10)], KIND.POSITIONS_UNTRUSTED),
        (True, [("t1", 10)], KIND.POSITION_VANISHED),
        (True, [("t1", 10), ("t2", 5)], KIND.POSITION_VANISHED),
    ],
)
def test_empty_list_is_flat_only_beside_a_second_proof(
    is_flat: bool, rows: list[tuple[str, int]], kind: str
) -> None:
    """R6: missing is not flat."""
    found = classify(look(owned=owned(*rows), account_is_flat=is_flat))
    assert [each.kind for each in found] == [kind]


def intent(age_s: float, *, is_unresolved: bool = True) -> LedgerIntent:
    return LedgerIntent(
        client_id="c1", trade_id="t1", symbols=("A",), is_unresolved=is_unresolved, age_s=age_s
    )


@pytest.mark.parametrize(("age_s", "count"), [(29.9, 0), (30.0, 1), (31.0, 1)])
def test_unanswered_intent_is_stuck_after_thirty_seconds(age_s: float, count: int) -> None:
    found = classify(look(intents=(intent(age_s),)))
    assert [each.kind for each in found] == [KIND.INTENT_STUCK] * count


@pytest.mark.covers("R7")
def test_symbol_with_an_unanswered_order_is_not_judged_yet() -> None:
    """R7: it may be the very order that moves the position."""
    doubtful = look(positions=held("A", 15), owned=owned(("t1", 10)), intents=(intent(1),))
    answered = doubtful.model_copy(update={"intents": (intent(1, is_unresolved=False),)})
    assert classify(doubtful) == ()
    assert len(classify(answered)) == 1


def test_difference_counts_only_if_it_stands_unmoved_in_two_looks() -> None:
    first = look(positions=held("A", 15), owned=owned(("t1", 10)))
    moved = look(positions=held("A", 16), owned=owned(("t1", 10)))
    assert confirmed(first, moved) == ()
    assert confirmed(look(), first) == ()
    assert confirmed(first, first) == classify(first)
