"""No trade sleeps through what is due: time alone must wake it for it (faults.md I11).

A trade with nothing on its way hears only news and its own timer. What it would do some seconds
later without any news must not lie before that timer; else it is done whenever somebody else has
news, perhaps never: a flatten stood still half way because of one such gap.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from temporalio import workflow

from domain.steps import decide, next_deadline
from domain.trade_state import TradeState
from tests.simulation.scenario import stormy
from tests.simulation.world import run_scenario
from workflows.trade import TradeWorkflow

SEEDS = {
    "alpaca": (*range(1, 61), 184, 208, 263, 270, 354),
    "tradier": (*range(1, 61), 294, 307, 332, 363),
}
"""Those behind the first sixty are where earlier code overslept."""
LATER_S = (0.01, 0.1, 0.5, 1.2, 2.1, 3.3, 5.5, 12, 35, 130, 400)
OVERSLEPT_S = 1.0
"""A quote that is kept warm beside the rest of an exit may come that much later."""


def overslept(state: TradeState, now: datetime) -> str:
    """What the trade would have done long before it wakes; empty if it wakes in time."""
    wakes_at = next_deadline(state, now)
    for later_s in LATER_S:
        due_at = now + timedelta(seconds=later_s)
        if wakes_at is not None and wakes_at - due_at <= timedelta(seconds=OVERSLEPT_S):
            return ""
        _, commands = decide(state, due_at)
        if commands:
            return f"{commands} in {later_s} s, wakes at {wakes_at}, now {now}"
    return ""


@pytest.mark.parametrize("broker", ["alpaca", "tradier"])
def test_no_trade_sleeps_through_what_is_due(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    looked = 0
    wait = TradeWorkflow._wait_for_facts_or_deadline

    async def watched(trade: TradeWorkflow) -> None:
        nonlocal looked
        if not trade._inbox and trade._running.is_quiet and not trade._state.rewound:
            looked += 1
            found.append(overslept(trade._state, workflow.now()))
        await wait(trade)

    monkeypatch.setattr(TradeWorkflow, "_wait_for_facts_or_deadline", watched)
    for seed in SEEDS[broker]:
        run_scenario(stormy(seed, broker))
        assert not any(found), f"seed {seed}: {[each for each in found if each]}"
    assert looked > len(SEEDS[broker])
