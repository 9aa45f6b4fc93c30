"""An answer that is larger than the Temporal server takes (faults.md H11, I11).

Foreign text is shortened at the edge of the product; here something got past it. The trade must
neither fail nor wait for ever: the step counts as not answered, and is asked again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from domain.messages import OperatorSignal
from domain.order import OrderSnapshot
from ledger.repository import Ledger
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig
from workflows.trade import TradeWorkflow

pytestmark = pytest.mark.timeout(300)
# The server takes 2 MB in a payload and 4 MB in a message.
SIZES = (3_000_000, 5_000_000)
UNANSWERED = 2
UNANSWERED_KINDS = (
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
)


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    async with running_rig(temporal_client, ledger, f"acct-{unique}") as made:
        made.deadline_s = 60.0
        play.calm_market(made)
        yield made


class Talkative:
    """Lets the broker's reads of orders say more than any payload holds; counts them."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        self.reads = 0
        self._text = "x" * size
        for name in ("open_orders", "order", "order_by_client_id"):
            monkeypatch.setattr(rig.broker, name, self._said(getattr(rig.broker, name)))

    def _said(self, read: Any) -> Any:
        async def answer(*arguments: Any) -> Any:
            told = await read(*arguments)
            self.reads += 1
            if isinstance(told, OrderSnapshot):
                return self._longer(told)
            return told if told is None else tuple(self._longer(each) for each in told)

        return answer

    def _longer(self, order: OrderSnapshot) -> OrderSnapshot:
        return order.model_copy(update={"reject_text": self._text})


@pytest.mark.covers("H11")
@pytest.mark.parametrize("size", SIZES)
async def test_trade_is_not_stuck_behind_an_answer_that_the_server_does_not_take(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """H11: flattened meanwhile; it is out as soon as the broker's answers fit again."""
    handle = await rig.start_trade(play.plan_of(rig, "1", targets=(), ratchet=()))
    await play.fill_entry(rig)
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 1, "protected")
    with monkeypatch.context() as patched:
        talkative = Talkative(rig, patched, size)
        await handle.signal(TradeWorkflow.flatten, OperatorSignal(command_id="f-1", by="test"))
        await rig.until(lambda: talkative.reads >= UNANSWERED, "it was asked again")
        assert await handle.query(TradeWorkflow.story)
    result = await handle.result()
    assert (result.outcome, result.exit_reason) == ("closed", "flatten")
    kinds = [event.event_type for event in (await handle.fetch_history()).events]
    assert any(kind in UNANSWERED_KINDS for kind in kinds), "the server took it"
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)
