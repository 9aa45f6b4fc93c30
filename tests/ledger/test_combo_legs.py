"""Legs of a combo belong to its trade from the answer on, and what came before it too (I2, I5)."""

from __future__ import annotations

from decimal import Decimal

from domain.order import OrderClass, OrderSnapshot, Side
from ledger.records import FeeRecord, IntentState
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, NOW, fill, intent, owner, snapshot

LEGS = ("leg-1", "leg-2")


def _combo(client_id: str) -> OrderSnapshot:
    legs = tuple(
        snapshot(name, client_id=f"made-{name}", order_class=OrderClass.COMBO) for name in LEGS
    )
    return snapshot("b-1", client_id=client_id, order_class=OrderClass.COMBO, legs=legs)


async def _answered(ledger: Ledger) -> None:
    wish = intent()
    seen = _combo(wish.client_id)
    await ledger.record_answer(wish.client_id, "t1", IntentState.ACCEPTED, snapshot=seen)


def _fee(name: str, broker_order_id: str) -> FeeRecord:
    return FeeRecord(
        activity_id=name,
        account=ACCOUNT,
        amount=Decimal("0.65"),
        broker_order_id=broker_order_id,
        venue_time=NOW,
    )


async def test_leg_executions_after_the_answer_go_to_the_trade(armed: Ledger) -> None:
    await armed.open_gate(intent(), owner(), "t1", NOW)
    await _answered(armed)
    children = await armed.children_of_trade("trade-1")
    assert [child.broker_order_id for child in children] == list(LEGS)
    booked = await armed.record_fills(
        ACCOUNT,
        (
            fill("leg-1:1", broker_order_id="leg-1"),
            fill("leg-2:1", broker_order_id="leg-2", side=Side.SELL),
        ),
    )
    assert [one.trade_id for one in booked] == ["trade-1", "trade-1"]
    assert await armed.record_fee(_fee("fee-1", "leg-2"))
    assert [fee.activity_id for fee in await armed.fees(ACCOUNT, "trade-1")] == ["fee-1"]


async def test_leg_executions_and_fees_before_the_answer_are_given_to_the_trade(
    armed: Ledger,
) -> None:
    """The stream is faster than the answer that names the legs."""
    await armed.open_gate(intent(), owner(), "t1", NOW)
    early = await armed.record_fill(ACCOUNT, fill("leg-1:1", broker_order_id="leg-1"))
    await armed.record_fee(_fee("fee-1", "leg-1"))
    await armed.record_fee(_fee("fee-2", "somebody-else"))
    assert early.trade_id is None
    await _answered(armed)
    assert await armed.unattributed_fills(ACCOUNT) == ()
    assert len(await armed.fills_of_trade("trade-1")) == 1
    assert [fee.activity_id for fee in await armed.fees(ACCOUNT, "trade-1")] == ["fee-1"]
