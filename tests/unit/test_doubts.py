"""A park ends when the broker answers its question; other parks wait for a person (I10, I11)."""

from __future__ import annotations

from decimal import Decimal

from domain import doubts
from domain.commands import CancelOrder
from domain.facts import CancelRejected, Fact, FlattenRequested
from tests.unit.test_trade_fold import make_plan
from tests.unit.toy_broker import ToyBroker, Trade

D = Decimal


class CutOff(Trade):
    """No cancel leaves while the line is down."""

    is_down = True

    def _cancelled(self, command: CancelOrder, fault: str) -> list[Fact]:
        if not self.is_down:
            return super()._cancelled(command, fault)
        text = "before anything was sent"
        return [
            CancelRejected(
                at=self.now, client_id=command.client_id, code="NOT_CONNECTED", text=text
            )
        ]


def parked_by_refused_cancels() -> CutOff:
    """A flatten while the line is down: the working entry cannot be cancelled for a while."""
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    trade = CutOff(make_plan(), broker)
    trade.settle_down()
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="enough"))
    trade.pass_time(20)
    assert trade.state.needs_operator.endswith("is refused")
    return trade


def test_refused_cancel_parks_no_longer_once_the_order_is_dead() -> None:
    """Found by the simulation: six seconds without a network parked a trade for ever."""
    trade = parked_by_refused_cancels()
    trade.is_down = False
    trade.pass_time(60)
    assert not trade.state.needs_operator
    assert trade.state.settled


def test_park_without_a_question_about_an_order_stays() -> None:
    trade = parked_by_refused_cancels()
    other = trade.state.changed(needs_operator="INTENT_BODY_DIFFERS: abc")
    assert doubts.lift_answered(other) is other
