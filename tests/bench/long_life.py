"""How large the runs of a trade get in a month, and how long each takes to replay from nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace

from temporalio.testing import TimeSkipper, TimeSkippingConfig

from tests import trade_scenarios as play
from tests.bench.figures import spread, verdict
from tests.bench.servers import Servers
from tests.long_life import (
    BYTES_OF_A_RUN_MAX,
    DAYS,
    EVENTS_OF_A_RUN_MAX,
    PAYLOAD_BYTES_MAX,
    Days,
    live_a_month,
    runs_of,
    state_hash,
)
from tests.rig import running_rig

COLD_REPLAY_MAX_S = 1.0
MOVES_A_DAY = 24
"""Ten hand-overs in thirty days."""


async def measure_long_life(servers: Servers) -> list[str]:
    """Lives the month once; answers the lines to print (faults.md M13)."""
    days = Days()
    skipper = TimeSkipper(servers.client, config=TimeSkippingConfig(enabled=False))
    async with running_rig(servers.client, servers.ledger, "bench", now=days.now) as made:
        rig = replace(made, client=skipper.client)
        rig.deadline_s = 120.0
        play.calm_market(rig)
        handle = await live_a_month(rig, skipper, days, MOVES_A_DAY)
        await handle.result()
        runs = await runs_of(rig.client, handle.id)
    equal = sum(
        state_hash(before.handed_over) == state_hash(after.carried_in)
        for before, after in itertools.pairwise(runs)
    )
    replays_s = [run.cold_replay_s for run in runs]
    return [
        f"{DAYS} days, {DAYS * MOVES_A_DAY} moves of three stops, {len(runs)} runs, "
        f"state equal across {equal} of {len(runs) - 1} hand-overs",
        verdict("events of a run", max(r.events for r in runs), EVENTS_OF_A_RUN_MAX, digits=0),
        verdict("bytes of a run", max(r.size_bytes for r in runs), BYTES_OF_A_RUN_MAX, digits=0),
        verdict("payload", max(r.payload_bytes_max for r in runs), PAYLOAD_BYTES_MAX, digits=0),
        verdict("cold replay of a run", max(replays_s), COLD_REPLAY_MAX_S, " s"),
        f"cold replays: {spread(replays_s, 's')}",
    ]
