"""An exit that was held back as not reducing, and the fill that explains it (I4, E8)."""

from __future__ import annotations

from decimal import Decimal
from unittest.mock import patch

import pytest

from domain.commands import Command, PlaceOrder
from domain.facts import Fact, FlattenRequested, OrderNotSent
from domain.ids import Purpose
from domain.order import Side
from tests.unit.test_trade_fold import make_plan, start
from tests.unit.toy_broker import Trade

D = Decimal


def exits(trade: Trade) -> list[Decimal]:
    return [
        command.intent.body.quantity
        for command in trade.commands
        if isinstance(command, PlaceOrder) and command.intent.key.purpose is Purpose.FLATTEN
    ]


@pytest.mark.covers("E8", "D9")
def test_exit_for_the_rest_goes_at_once_when_a_late_fill_has_explained_the_refusal() -> None:
    """The pause is for the order that was refused; the rest was bare for 30 s (simulation)."""
    trade, broker = start(make_plan(steps_max=0))
    trade.pass_time(1)
    broker.move(D("99.80"), D("99.90"))
    trade.pass_time(5)
    stop = next(order for order in broker.orders if order.live and order.side is Side.SELL)
    held, answer = broker.position, trade.answer
    assert held > 4

    def refuse_the_first(command: Command) -> list[Fact]:
        if not isinstance(command, PlaceOrder) or broker.position < held:
            return answer(command)
        broker._fill(stop, D(4))
        now, client_id = trade.now, command.intent.client_id
        text = "the broker holds less"
        return [
            OrderNotSent(
                at=now, client_id=client_id, code="NOT_REDUCING", text=text, retry_after_s=30
            )
        ]

    with patch.object(trade, "answer", refuse_the_first):
        trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="drill"))
        trade.pass_time(3)
    assert exits(trade) == [held, held - 4]
