"""`python -m tests.bench [trade|recovery|kill|life|scale|indicators …]`: goals of speed and size.

Measured: ratios and rates within one run on real parts; nothing here is a test with a time limit.
Exit code 0 says that it ran, not that every goal was met: the lines say `met` or `MISSED`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import uvloop

from tests.bench.figures import context_lines
from tests.bench.indicator_rate import measure_indicators
from tests.bench.kill_latency import measure_kill
from tests.bench.long_life import measure_long_life
from tests.bench.recovery import measure_recovery
from tests.bench.scale import measure_scale
from tests.bench.servers import Servers, running_servers
from tests.bench.trade_cost import measure_trade_cost

PARTS: dict[str, tuple[str, Callable[[Servers], Awaitable[list[str]]]]] = {
    "trade": ("standard trade against a bare workflow", measure_trade_cost),
    "recovery": ("SIGKILL of the only worker with 50 open trades", measure_recovery),
    "kill": ("kill while 50 trades walk", measure_kill),
    "life": ("a trade of thirty days: its runs and their cold replay", measure_long_life),
    "scale": ("1,000 open trades: kill of the entries, restart against a floor", measure_scale),
}
# Pure computation: no servers are started for these.
ALONE: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "indicators": ("ticks through ten indicators on one core", measure_indicators),
}


async def main(names: list[str]) -> int:
    """Measures the named parts, all of them without names; each on servers of its own."""
    known = {**PARTS, **ALONE}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.stderr.write(f"part was {unknown[0]}, allowed: {' '.join(known)}\n")
        return 2
    # A kill refuses sends by the dozen, and each says so in the log.
    logging.disable(logging.CRITICAL)
    print(f"make bench · {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    for line in context_lines():
        print(f"  {line}")
    failed = False
    for name in names or known:
        print(f"\n{name}: {known[name][0]}", flush=True)
        try:
            lines = await _measured(name)
        except AssertionError as error:
            failed, lines = True, [f"NOT MEASURED: {error}"]
        for line in lines:
            print(f"  {line}", flush=True)
    return int(failed)


async def _measured(name: str) -> list[str]:
    if name in ALONE:
        return ALONE[name][1]()
    async with running_servers() as servers:
        return await PARTS[name][1](servers)


if __name__ == "__main__":
    sys.exit(uvloop.run(main(sys.argv[1:])))
