"""What the recorder plays of the golden trades: each at every broker that can do it."""

from __future__ import annotations

from domain.ids import trade_workflow_id
from simulator.config import WireFace
from tests.golden.catalogue import CATALOGUE, Golden, judge, perform
from tests.golden.playing import Play
from tests.rig import Rig
from tests.workflow.test_kill import sweeping

GOLDEN: dict[str, tuple[Golden, WireFace]] = {
    f"{name}_{face}": (golden, face)
    for name, golden in CATALOGUE.items()
    for face in golden.brokers
}


def spelled_out(names: list[str]) -> list[str]:
    """The shapes behind these names: `gt01` is that trade at every broker."""
    return [
        shape
        for name in names
        for shape in ([each for each in GOLDEN if each.startswith(f"{name}_")] or [name])
    ]


async def play_golden(rig: Rig, golden: Golden) -> list[str]:
    """Workflow ids of the trades, in the order of their start; the run must have been clean."""
    async with sweeping(rig):
        golden.prepare(rig)
        play = Play(rig, kill_all=True)
        wrong = await judge(golden, play, await perform(golden, play))
    assert not wrong, f"{golden.name} is not worth recording: {wrong}"
    return [trade_workflow_id(plan.trade_id) for plan in play.plans]
