"""A slice of the event-kill driver: every golden trade killed once, every fault at least once.

faults.md H1, H2, H4, H5, C2, C7, C8, K1: the whole product is `make chaos`. Where a trade dies
moves on with each commit, so that runs of `make test` go through every event on the way to an
order's answer; `CHAOS_ROUND=n` plays the slice of another round again. The cells run a few at a
time before the first test, because each of them mostly waits for timeouts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from observability.build import commit
from simulator.config import WireFace
from tests.chaos.driver import Driver
from tests.chaos.faults import Cell, Fault
from tests.chaos.grounds import Lane, running_lanes
from tests.chaos.results import Results
from tests.chaos.times import Times
from tests.golden.catalogue import CATALOGUE
from workflows import _lifecycle as life

pytestmark = pytest.mark.timeout(1200)

AT_ONCE = 4
# Other pytest workers share the machine with this one.
PACE = 1.5
# Trades whose way to the first answer is another one die where something was done and nobody has
# been told: the classic place to die.
KILLED_AT = {
    "gt01": "reply.POST:1",
    "gt03": "walk_step.exit:1",
    "gt05": "replace_order.exit:1",
    "gt08": "reserve_risk.exit:1",
}
# Every other trade passes these on the way to its first answer, one after the other.
ON_THE_WAY = (
    "activation:1",
    "activation.exit:1",
    "reserve_risk.enter:1",
    "reserve_risk.exit:1",
    "place_order.enter:1",
    "before_intent_row:1",
    "after_intent_row:1",
    "send.POST:1",
    "reply.POST:1",
    "after_response:1",
    "place_order.exit:1",
)
# A kill between cause and effect, as of a person: at the entry's events in turn.
KILL_SWITCH_AT = ("send.POST:1", "place_order.exit:1", "walk_step.enter:1")
# Wherever a fault does most harm: around the entry, at the protection, in the workflow itself.
# The hang behind the intent's row blocks the loop of the whole process for five seconds (H8).
ELSEWHERE = (
    (Fault.KILL_COLD, "gt05", "place_order.exit:2"),
    (Fault.STOP, "gt01", "send.POST:1"),
    (Fault.STOP, "gt20", "after_intent_row:1"),
    (Fault.RAISE, "gt01", "place_order.exit:1"),
    (Fault.HANG, "gt01", "send.POST:2"),
    (Fault.HANG, "gt01", "after_intent_row:1"),
    (Fault.LOSE, "gt05", "reply.PATCH:1"),
    (Fault.TEMPORAL_KILL, "gt01", "place_order.exit:1"),
    (Fault.POSTGRES_STOP, "gt01", "after_response:1"),
    (Fault.POSTGRES_READ_ONLY, "gt01", "before_intent_row:2"),
    (Fault.POSTGRES_SLOW, "gt01", "place_order.enter:1"),
    (Fault.BROKER_CUT, "gt01", "after_intent_row:2"),
    (Fault.BROKER_SLOW, "gt01", "send.POST:1"),
    (Fault.BROKER_TWICE, "gt01", "send.POST:1"),
    (Fault.FLATTEN, "gt05", "place_order.exit:2"),
)


def _cell(fault: Fault, trade: str, failpoint: str, face: WireFace) -> Cell:
    place, _, nth = failpoint.rpartition(":")
    return Cell(trade, face.value, fault, 0, place, int(nth))


def _round() -> int:
    """Which slice this run plays: the same for the same commit, in every process of the run."""
    asked = os.environ.get("CHAOS_ROUND", "")
    return int(asked) if asked else int(commit().partition("-")[0] or "0", 16) % 1_000


ROUND = _round()


def _cells() -> tuple[Cell, ...]:
    """Trades in turn at either broker and event, so that each is killed everywhere in the end."""
    killed = [
        _cell(
            Fault.KILL,
            name,
            KILLED_AT.get(name, ON_THE_WAY[(number + ROUND) % len(ON_THE_WAY)]),
            golden.brokers[(number + ROUND // len(ON_THE_WAY)) % len(golden.brokers)],
        )
        for number, (name, golden) in enumerate(CATALOGUE.items())
    ]
    switched = (Fault.KILL_SWITCH, "gt05", KILL_SWITCH_AT[ROUND % len(KILL_SWITCH_AT)])
    return (*killed, *(_cell(*each, WireFace.ALPACA) for each in (*ELSEWHERE, switched)))


CELLS = _cells()


@pytest.fixture(scope="module")
def driver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    """Every selected cell, played by the driver that `make chaos` uses."""
    mine = [item for item in request.session.items if item.path == request.path]
    chosen = {item.callspec.params["cell"] for item in mine if isinstance(item, pytest.Function)}
    results = Results.open(tmp_path_factory.mktemp("chaos"))
    made = Driver(dict(CATALOGUE), tuple(Fault), results, Times(PACE), commit="")
    before = {name: getattr(life, name) for name in dir(life) if name.endswith("_TIMEOUT")}
    made.times.shorten_workflows()
    try:
        asyncio.run(_play_all(made, [cell for cell in CELLS if cell in chosen]))
        yield made
    finally:
        for name, value in before.items():
            setattr(life, name, value)


async def _play_all(driver: Driver, cells: list[Cell]) -> None:
    async def work(lane: Lane, waiting: list[Cell]) -> None:
        while waiting:
            await driver.play(lane, waiting.pop(0))

    shared = [cell for cell in cells if not cell.fault.needs_own_server]
    alone = [cell for cell in cells if cell.fault.needs_own_server]
    async with running_lanes(AT_ONCE, 1 if alone else 0) as lanes:
        await asyncio.gather(
            *(work(lane, shared) for lane in lanes[:AT_ONCE]),
            *(work(lane, alone) for lane in lanes[AT_ONCE:]),
        )


@pytest.mark.covers("H1", "H2", "H4", "H5", "H8", "C2", "C7", "C8", "K1", "B2", "E1", "E6", "F5")
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.key)
def test_trade_keeps_its_promises_whatever_strikes(driver: Driver, cell: Cell) -> None:
    row = driver.results.rows[cell.key]
    assert not row["violations"], row
    assert row["outcome"] == "ok", f"{cell.failpoint} was never passed"
