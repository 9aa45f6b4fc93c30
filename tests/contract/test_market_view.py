"""What the gate reads of the market when an answer is lost, twice, or throttled."""

from __future__ import annotations

import pytest

from activities.risk import read_market
from domain.instrument import Instrument
from domain.order import Side
from domain.plan import PlanLeg
from tests.contract.test_in_process_exchange import in_process
from tests.unit.risk_world import plan as plan_of

LEG = PlanLeg(instrument=Instrument(symbol="ESX"), side=Side.BUY)
CLOCK = {"path": "/v2/clock"}


@pytest.mark.parametrize(
    ("kind", "failures", "faults"),
    [
        ("error_before", 1, ()),
        ("error_before", 2, ("clock: BROKER_ERROR",)),
        ("truncated", 1, ()),
        ("rate_limited", 1, ("clock: RATE_LIMITED",)),
    ],
)
async def test_one_lost_answer_is_asked_again_and_a_second_one_fails_closed(
    kind: str, failures: int, faults: tuple[str, ...]
) -> None:
    """Entries fail closed, but one bad packet costs no signal."""
    exchange, _, broker = in_process()
    exchange.state.faults.add({"kind": kind, "match": {**CLOCK, "count": failures}})
    view = await read_market(broker, plan_of(symbol="ESX", legs=(LEG,)))
    await broker.aclose()
    assert view.faults == faults
    assert (view.clock is None) == bool(faults)
    assert view.account is not None
    assert view.quotes
