"""Printing of measurements: medians, tails, targets, and what they were measured on."""

from __future__ import annotations

import asyncio
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import version

from deploy.local.postgres import binary_dir
from deploy.local.temporal import temporal_binary

POLL_S = 0.004
UNTIL_S = 60.0


async def until(condition: Callable[[], bool], what: str, timeout_s: float = UNTIL_S) -> None:
    """Looks every 4 ms, because half of what is watched has no event to wait for.

    Raises:
        AssertionError: `what` did not happen in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s: {what}") from None


def context_lines() -> list[str]:
    """Cores, load and versions; nothing that names this machine."""
    server = _first_line([str(temporal_binary()), "--version"])
    postgres = _first_line([str(binary_dir() / "postgres"), "--version"])
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return [
        f"cores {os.cpu_count()} · load before {load} · {platform.system()} {platform.machine()}",
        f"Python {platform.python_version()} · temporalio {version('temporalio')} · {server}",
        f"{postgres} · asyncpg {version('asyncpg')} · httpx {version('httpx')}",
    ]


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.splitlines()[0].strip()


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest-rank quantile: the smallest value with `share` of all at or below it."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """Median, 90th percentile and the ends."""
    shown = [
        ("median", statistics.median(values)),
        ("p90", quantile(values, 0.9)),
        ("min", min(values)),
        ("max", max(values)),
    ]
    text = " · ".join(f"{name} {value:.{digits}f}" for name, value in shown)
    return f"{text} {unit} (n {len(values)})"


def verdict(name: str, value: float, limit: float, unit: str = "", digits: int = 2) -> str:
    """One line that says whether a goal was met."""
    met = "met" if value <= limit else "MISSED"
    return f"{met}: {name} {value:.{digits}f}{unit} (target ≤ {limit:g}{unit})"
