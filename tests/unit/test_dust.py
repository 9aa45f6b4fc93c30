"""What is left below one lot ends as DUST by itself and blocks neither stop nor exit (E9)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from activities.by_hand import adjustment_rows
from domain import trade_state as ts
from domain.commands import Alert, BookByHand, Command, PlaceOrder, Settle
from domain.facts import (
    AdjustmentKind,
    BookedByHand,
    Fact,
    FlattenRequested,
    PositionAdjusted,
)
from domain.instrument import Instrument, InstrumentKind
from domain.order import Side
from domain.plan import PlanLeg
from domain.trade_state import Stage
from tests.unit.test_trade_fold import make_plan
from tests.unit.toy_broker import ToyBroker, Trade, live_exit_quantity

D = Decimal
COIN = Instrument(
    symbol="AAPL", kind=InstrumentKind.CRYPTO, lot_size=D("0.01"), min_quantity=D("0.01")
)
FEE = D("0.025")


class Booked(Trade):
    """A trade whose ledger answers what it was asked to book."""

    def answer(self, command: Command) -> list[Fact]:
        if not isinstance(command, BookByHand):
            return super().answer(command)
        ids = tuple(each.adjustment_id for each in command.adjustments)
        return [BookedByHand(at=self.now, adjustment_ids=ids)]


def holding(side: Side = Side.BUY, fee: Decimal = FEE) -> tuple[Trade, ToyBroker]:
    """Ten coins bought, the fee taken in coins: 9.975 are held, 9.97 can be sold."""
    plan = make_plan(side=side, targets=()).model_copy(
        update={"legs": (PlanLeg(instrument=COIN, side=side),)}
    )
    bid = D("99.75") if side is Side.BUY else D(100)
    broker = ToyBroker(symbol="AAPL", bid=bid, ask=bid + D("0.25"))
    trade = Booked(plan, broker, worst=D(101) if side is Side.BUY else D(99))
    trade.look()
    trade.look()
    broker.coin_fee = fee * side.sign
    trade.deliver()
    trade.tell(
        PositionAdjusted(
            at=trade.now,
            adjustment_id="fee-1",
            symbol="AAPL",
            quantity=-fee * side.sign,
            adjustment=AdjustmentKind.BASE_COIN_FEE,
        )
    )
    trade.pass_time(1)
    assert ts.held_units(trade.state) == 10 - fee
    return trade, broker


def dust_of(trade: Trade) -> list[PositionAdjusted]:
    return [
        each
        for command in trade.commands
        if isinstance(command, BookByHand)
        for each in command.adjustments
    ]


@pytest.mark.covers("E9")
@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("way", ["stop", "flatten"])
def test_rest_below_one_lot_is_written_off_and_the_trade_closes(side: Side, way: str) -> None:
    trade, broker = holding(side)
    assert live_exit_quantity(broker, side.opposite) == D("9.97")
    if way == "stop":
        bid = D(94) if side is Side.BUY else D(106)
        broker.move(bid, bid + D("0.25"))
    else:
        trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="test"))
    trade.pass_time(20)
    assert broker.position == D("0.005") * side.sign
    assert ts.stage(trade.state) is Stage.CLOSED
    assert ts.is_flat(trade.state)
    (gone,) = dust_of(trade)
    assert (gone.adjustment, gone.quantity) == (AdjustmentKind.DUST, D("-0.005") * side.sign)
    told = [c.text for c in trade.commands if isinstance(c, Alert) and c.code == "DUST"]
    assert len(told) == 1
    assert "less than one lot" in told[0]
    assert all(
        c.intent.body.quantity % D("0.01") == 0 for c in trade.commands if isinstance(c, PlaceOrder)
    )
    assert sum(isinstance(c, Settle) for c in trade.commands) == 1


def test_whole_lots_leave_no_dust() -> None:
    trade, broker = holding(fee=D("0.02"))
    broker.move(D(94), D("94.25"))
    trade.pass_time(20)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    assert dust_of(trade) == []


def test_dust_changes_hands_to_external_and_no_quantity_is_lost() -> None:
    """I20: the ledger's sum over all owners stays what the broker holds."""
    trade, broker = holding()
    broker.move(D(94), D("94.25"))
    trade.pass_time(20)
    (gone,) = dust_of(trade)
    rows = adjustment_rows("paper", trade.state.plan.trade_id, gone)
    assert [(row.trade_id, row.quantity) for row in rows] == [
        (trade.state.plan.trade_id, D("-0.005")),
        (None, D("0.005")),
    ]
