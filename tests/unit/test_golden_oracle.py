"""The oracle of the golden trades bites: every invariant it judges is broken here once."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from domain.ids import IntentKey, Purpose, client_order_id
from domain.instrument import Instrument
from domain.order import Side as PlanSide
from domain.plan import FixedSize, PlanLeg, PlanPrice, StopPlan, TargetPlan, TradePlan, WalkPlan
from simulator.events import OrdersOnSplit
from simulator.exchange import Exchange
from simulator.journal import Journal
from simulator.orders import Kind, OrderClass, OrderRequest, Side, TimeInForce
from tests.golden.oracle import Rules, bare_spans, broken, orders_max

D = Decimal
HOME = "0a0b"
SYMBOL = "ESX"
Rows = list[dict[str, Any]]
BEGAN = datetime(2026, 1, 5, 15, tzinfo=UTC)


def plan_of(name: str) -> TradePlan:
    return TradePlan(
        trade_id=name,
        session="s",
        account="a",
        strategy="test",
        symbol=SYMBOL,
        legs=(PlanLeg(instrument=Instrument(symbol=SYMBOL), side=PlanSide.BUY),),
        side=PlanSide.BUY,
        size=FixedSize(quantity=D(10)),
        walk=WalkPlan(
            step=D("0.25"), interval_s=D(1), steps_max=3, worst_offset=D(1), max_time_s=D(30)
        ),
        stop=StopPlan(price=PlanPrice(offset=D(-2))),
        targets=(TargetPlan(price=PlanPrice(offset=D(3)), fraction=D(1)),),
        signal_id="sig",
        signal_time=datetime(2013, 9, 3, 13, 30, tzinfo=UTC),
    )


RULES = Rules(HOME, (plan_of("one"), plan_of("two")))


def client_id(trade: str, purpose: Purpose, sequence: int, checksum: str = "00000000") -> str:
    return client_order_id(
        HOME, IntentKey(trade_id=trade, purpose=purpose, sequence=sequence), checksum
    )


def played() -> Rows:
    """A whole trade at the real exchange, in steps of a wall second: in, pair, out at the stop."""
    seconds = count()
    exchange = Exchange(journal=Journal(wall=lambda: BEGAN + timedelta(seconds=next(seconds))))
    exchange.set_quote(SYMBOL, D("99.75"), D("100.25"))
    entry = OrderRequest(
        SYMBOL,
        Side.BUY,
        D(10),
        Kind.LIMIT,
        client_id=client_id("one", Purpose.ENTRY, 1),
        limit_price=D("100.25"),
    )
    exchange.submit(entry)
    pair = OrderRequest(
        SYMBOL,
        Side.SELL,
        D(10),
        Kind.LIMIT,
        time_in_force=TimeInForce.GTC,
        order_class=OrderClass.OCO,
        client_id=client_id("one", Purpose.OCO, 2),
        limit_price=D("103.25"),
        take_profit_price=D("103.25"),
        stop_loss_price=D("98.25"),
    )
    exchange.submit(pair)
    exchange.set_quote(SYMBOL, D("98.00"), D("98.25"))
    return [dict(row) for row in exchange.journal.rows]


def row_of(rows: Rows, kind: str, **fields: str) -> dict[str, Any]:
    return next(r for r in rows if r["kind"] == kind and fields.items() <= r.items())


def copied(rows: Rows, row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A further row like this one right behind it, as another order."""
    made = deepcopy(row) | {"order_id": f"{row.get('order_id')}-2"} | changes
    rows.insert(rows.index(row) + 1, made)
    return made


def sent_twice(rows: Rows) -> None:
    entry = row_of(rows, "accepted", side="buy")
    copied(rows, entry, client_id=entry["client_id"][:24] + "ffffffff")


def left_working(rows: Rows) -> None:
    rows.remove(row_of(rows, "canceled"))


def sold_too_much(rows: Rows) -> None:
    copied(
        rows,
        row_of(rows, "accepted", role="stop_loss"),
        client_id=client_id("one", Purpose.EXIT, 3),
        parent_id=None,
        stop_price=None,
        limit_price="98.25",
    )


def turned_round(rows: Rows) -> None:
    copied(rows, row_of(rows, "fill", side="sell"), order_id=_stop_id(rows), execution_id="x")


def _stop_id(rows: Rows) -> str:
    return str(row_of(rows, "accepted", role="stop_loss")["order_id"])


def loosened(rows: Rows) -> None:
    stop = row_of(rows, "accepted", role="stop_loss")
    copied(rows, stop, stop_price="97.25", replaces=stop["order_id"], seq=99)


def far_away(rows: Rows) -> None:
    row_of(rows, "accepted", side="buy")["limit_price"] = "103.00"


def wrong_way(rows: Rows) -> None:
    row_of(rows, "accepted", side="buy")["side"] = "sell"


def nobodys(rows: Rows) -> None:
    row_of(rows, "accepted", side="buy")["client_id"] = client_id("three", Purpose.ENTRY, 1)


def cash_gone(rows: Rows) -> None:
    rows[-1]["cash"] = "1"
    assert rows[-1]["kind"] == "cash"


def told_twice(rows: Rows) -> None:
    fill = row_of(rows, "fill", side="buy")
    copied(rows, fill, order_id=fill["order_id"])


def not_ours(rows: Rows) -> None:
    row_of(rows, "position")["quantity"] = "12"


def crossed(rows: Rows) -> None:
    pair = row_of(rows, "accepted", role="take_profit")
    buy = {"client_id": client_id("two", Purpose.ENTRY, 1), "side": "buy", "limit_price": "103.25"}
    copied(rows, pair, order_class="simple", role=None, **buy)


def flooded(rows: Rows) -> None:
    pair = row_of(rows, "accepted", role="take_profit")
    for number in range(orders_max(RULES.plans[0])):
        name = {"order_id": f"p-{number}", "client_id": client_id("one", Purpose.OCO, 9 + number)}
        copied(rows, pair, **name, group="same", parent_id=pair["order_id"])


@pytest.mark.parametrize(
    ("mutant", "code"),
    [
        (sent_twice, "I1 "),
        (left_working, "I3 "),
        (sold_too_much, "I4 exits"),
        (turned_round, "I4 one turned"),
        (told_twice, "I2 "),
        (told_twice, "I7 "),
        (cash_gone, "I5 "),
        (loosened, "I8 "),
        (far_away, "I13 "),
        (wrong_way, "I15 entry of one was"),
        (nobodys, "I15 entry"),
        (flooded, "I15 one sent"),
        (not_ours, "I20 trades own"),
        (crossed, "I20 "),
    ],
)
def test_planted_violation_is_found(mutant: Callable[[Rows], None], code: str) -> None:
    rows = played()
    mutant(rows)
    found = broken(rows, RULES)
    assert any(text.startswith(code) for text in found), found


def test_sound_journal_breaks_nothing() -> None:
    assert broken(played(), RULES) == []


def test_journal_is_judged_before_the_end_without_asking_for_the_end() -> None:
    rows = played()
    half = rows[: rows.index(row_of(rows, "triggered"))]
    assert broken(half, RULES, at_end=False) == []
    assert any(text.startswith("I3 ") for text in broken(half, RULES))


def test_bare_time_is_from_the_fill_to_the_stop_without_the_time_away() -> None:
    rows = played()
    wall = {number: datetime.fromisoformat(row["wall"]) for number, row in enumerate(rows)}
    filled = rows.index(row_of(rows, "fill", side="buy"))
    covered = rows.index(row_of(rows, "accepted", role="stop_loss"))
    (span,) = bare_spans(rows, RULES)
    assert (span.begin, span.end) == (wall[filled], wall[covered])
    away = [(wall[filled] + timedelta(seconds=1), wall[covered] + timedelta(hours=1))]
    assert span.seconds(away) == 1.0
    assert span.seconds() == covered - filled


# --- what the venue does by itself ----------------------------------------------------------------


def held_protected() -> Exchange:
    """Ten bought at 100.25 by the trade, behind a stop at 95."""
    exchange = Exchange()
    exchange.set_quote(SYMBOL, D("99.75"), D("100.25"))
    entry, stop = client_id("one", Purpose.ENTRY, 1), client_id("one", Purpose.STOP, 2)
    limit = D("100.25")
    exchange.submit(
        OrderRequest(SYMBOL, Side.BUY, D(10), Kind.LIMIT, client_id=entry, limit_price=limit)
    )
    exchange.submit(
        OrderRequest(SYMBOL, Side.SELL, D(10), Kind.STOP, client_id=stop, stop_price=D(95))
    )
    return exchange


def test_split_leaves_owner_stop_and_plan_in_new_shares() -> None:
    """R5: twenty of ten planned are no excess, and a stop at half the price is no looser one."""
    exchange = held_protected()
    exchange.events.split(SYMBOL, 2, orders=OrdersOnSplit.CANCEL)
    again = client_id("one", Purpose.STOP, 3)
    exchange.submit(
        OrderRequest(SYMBOL, Side.SELL, D(20), Kind.STOP, client_id=again, stop_price=D("47.5"))
    )
    rows = [dict(row) for row in exchange.journal.rows]
    assert broken(rows, RULES, at_end=False) == []
    row_of(rows, "accepted", client_id=again)["stop_price"] = "47.4"
    assert any(text.startswith("I8") for text in broken(rows, RULES, at_end=False))


def test_liquidation_takes_from_its_owner_and_only_later_exits_are_too_many() -> None:
    """R3: the stop that the venue left is no flip of ours; one that is sent afterwards is."""
    exchange = held_protected()
    exchange.events.liquidate(SYMBOL, D(97))
    exchange.set_quote(SYMBOL, D("96.75"), D("97.25"))
    rows = [dict(row) for row in exchange.journal.rows]
    assert broken(rows, RULES, at_end=False) == []
    stop = row_of(rows, "accepted", type="stop")
    copied(rows, rows[-1], **(stop | {"order_id": "late", "seq": 99}))
    rows.append(rows[-1] | {"kind": "clock", "seq": 100})
    found = broken(rows, RULES, at_end=False)
    assert any(text.startswith("I4 exits") for text in found), found


def test_shares_of_nobody_are_of_the_trade_that_a_person_gave_them_to() -> None:
    """R2: then it may sell them, and not before."""
    exchange = Exchange()
    exchange.set_quote(SYMBOL, D("99.75"), D("100.25"))
    exchange.set_position(SYMBOL, D(10), "OPASN", D(98))
    owner = client_id("one", Purpose.OCO, 1)[:16]
    exchange.state.record("taken_over", owner=owner, symbol=SYMBOL, quantity=D(10))
    exchange.submit(
        OrderRequest(
            SYMBOL,
            Side.SELL,
            D(10),
            Kind.LIMIT,
            client_id=client_id("one", Purpose.OCO, 1),
            limit_price=D("99.75"),
        )
    )
    rows = [dict(row) for row in exchange.journal.rows]
    assert broken(rows, RULES) == []
    rows.remove(row_of(rows, "taken_over"))
    assert any(text.startswith("I4") for text in broken(rows, RULES))
