"""What a trade forgets between two runs is never missed (I16, D9, I1)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.commands import Alert
from domain.facts import FillReported, OperatorCommand, OperatorVerb
from domain.forgetting import DEAD_KEPT, carried, forget
from domain.order import Side
from domain.trade_state import Role, TradeState
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan, start
from tests.unit.toy_broker import ToyBroker, ToyOrder, Trade, live_exit_quantity

D = Decimal
STATE_BYTES_MAX = 64_000
MOVES_A_RUN = 20


def hand_over(trade: Trade) -> None:
    """Continue-as-new: the state is written, read back and looks at the broker first."""
    trade.state = TradeState.model_validate_json(carried(trade.state).model_dump_json())
    trade.pass_time(3)


def move_stop(trade: Trade, number: int) -> None:
    trade.tell(
        OperatorCommand(
            at=trade.now,
            command_id=f"move-{number}",
            by="ann",
            verb=OperatorVerb.MOVE_STOP,
            price=D("96.50") + D(number % 10) / 20,
            widen=True,
        )
    )
    trade.pass_time(3)


def long_life(moves: int) -> tuple[Trade, ToyBroker]:
    """Three tranches whose stops move ever again, a hand-over after every twenty moves."""
    trade, broker = start(make_plan(targets=THREE, ratchet=RATCHET))
    trade.pass_time(25)
    assert ts.held_units(trade.state) == 10
    for number in range(1, moves + 1):
        move_stop(trade, number)
        if number % MOVES_A_RUN == 0:
            hand_over(trade)
    return trade, broker


def told(trade: Trade, code: str) -> bool:
    return any(isinstance(c, Alert) and c.code == code for c in trade.commands)


@pytest.mark.covers("H10", "H11")
def test_hundreds_of_moves_leave_a_state_that_one_payload_holds() -> None:
    trade, broker = long_life(120)
    assert len(carried(trade.state).model_dump_json()) < STATE_BYTES_MAX
    assert trade.state.forgotten > 300
    ids = [line.split(" by ")[1][:32] for line in broker.journal if line.startswith("replace")]
    assert len(ids) == len(set(ids)) > 300, "a sequence was used twice (I1)"
    assert live_exit_quantity(broker, Side.SELL) == 10
    broker.move(D("90"), D("90.20"))
    trade.pass_time(30)
    assert broker.position == 0
    assert ts.stage(trade.state) is ts.Stage.CLOSED


def test_nothing_is_forgotten_while_the_entry_may_still_fill() -> None:
    trade, _ = start()
    trade.pass_time(5)
    assert forget(trade.state, kept=0) == trade.state


def test_what_filled_what_lives_and_what_they_are_tied_to_stays() -> None:
    trade, broker = long_life(40)
    broker.move(D("102.40"), D("102.60"))
    trade.pass_time(30)
    before = trade.state
    after = forget(before, kept=0)
    assert after.forgotten > before.forgotten
    assert after.live() == before.live()
    assert ts.tranche_quantities(after) == ts.tranche_quantities(before)
    assert ts.targets_filled(after) == ts.targets_filled(before) == (0,)
    assert ts.missing_fills(after) == ts.missing_fills(before) == ()
    names = {o.client_id for o in after.orders}
    for record in after.live():
        assert record.replaces is None or record.replaces in names
        assert record.parent_client_id is None or record.parent_client_id in names
    dead = [o for o in after.orders if not o.is_live and not ts.fills_of(after, o)]
    assert len(dead) <= DEAD_KEPT


def first_dead_stop(trade: Trade, broker: ToyBroker, *, ours: bool) -> ToyOrder:
    """A stop that was replaced long ago and that the trade does not know any more."""
    known = {o.broker_order_id for o in trade.state.orders}
    return next(
        o
        for o in broker.orders
        if o.stop_price and not o.live and o.broker_id not in known and bool(o.client_id) is ours
    )


@pytest.mark.covers("D9")
def test_late_fill_of_a_forgotten_stop_is_booked_and_told_and_the_rest_protected() -> None:
    """D9: the fill names an order of ours that the trade has forgotten."""
    trade, broker = long_life(60)
    stop = first_dead_stop(trade, broker, ours=True)
    broker._fill(stop, D(2))
    trade.pass_time(10)
    assert ts.held_units(trade.state) == broker.position == 8
    assert told(trade, "LATE_FILL")
    assert live_exit_quantity(broker, Side.SELL) <= 8
    recalled = trade.state.order(stop.client_id or "")
    assert recalled is not None
    assert recalled.role is Role.STOP


def test_late_fill_of_a_forgotten_child_is_booked_after_a_look() -> None:
    """D9: the broker made this stop, its fill carries no id of ours."""
    trade, broker = long_life(60)
    broker._fill(first_dead_stop(trade, broker, ours=False), D(2))
    trade.pass_time(10)
    assert ts.held_units(trade.state) == broker.position == 8
    assert told(trade, "LATE_FILL")


def test_fill_with_a_foreign_id_is_still_quarantined() -> None:
    trade, broker = long_life(60)
    assert trade.state.forgotten
    fill = broker.fills[0].model_copy(
        update={"fill_key": "x", "broker_order_id": "zzz", "client_id": "f" * 32}
    )
    trade.tell(FillReported(at=trade.now, fill=fill))
    assert ts.held_units(trade.state) == 10
    assert any(a.code == "FILL_UNATTRIBUTED" for a in trade.state.alerts)
