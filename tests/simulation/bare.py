"""Bare time: how long positions were without their whole protection (faults.md I4, M8).

A span is measured at the exchange. Time in which a fault itself makes protection impossible is
left out and shown: a process is dead or frozen, the ledger, the network or the broker does not
answer or refuses, the symbol is halted. Everything else counts, also how long it takes to find out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from simulator.faults import FaultRule

Window = tuple[float, float]
MAX_S = 5.0
"""How long I4 lets a position be without its whole stop."""
_DURATIONS = {
    "late_reply": "delay_s",
    "slow": "delay_s",
    "lookup_lag": "lag_s",
    "halt": "duration_s",
    "stream_silence": "duration_s",
    "late_reject": "delay_s",
}


@dataclass(frozen=True)
class BareSpan:
    """One span in seconds: what counts, and what was left out of it."""

    protection: str
    counted_s: float
    excluded_s: float
    began_s: float


def window_of(rule: FaultRule, now_s: float) -> Window | None:
    """How long a fault of the venue that strikes now keeps it from being protected."""
    name = _DURATIONS.get(rule.kind.value)
    if name is None:
        return None
    return now_s, now_s + rule.seconds(name, 5.0)


def spans(
    protection: str, bare: Iterable[Window], windows: Sequence[Window]
) -> tuple[BareSpan, ...]:
    """The spans without the windows."""
    merged = _merged(windows)
    found = []
    for begin_s, end_s in bare:
        out_s = sum(max(0.0, min(end_s, e) - max(begin_s, b)) for b, e in merged)
        found.append(
            BareSpan(protection, round(end_s - begin_s - out_s, 3), round(out_s, 3), begin_s)
        )
    return tuple(found)


def _merged(windows: Sequence[Window]) -> list[Window]:
    merged: list[Window] = []
    for begin_s, end_s in sorted(windows):
        if merged and begin_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end_s, merged[-1][1]))
        else:
            merged.append((begin_s, end_s))
    return merged


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile; 0 without values."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def told(counted: Mapping[str, Sequence[float]], excluded_s: float) -> str:
    """One line for the campaign's report."""
    parts = [
        f"{name} {len(values)} spans p50 {quantile(values, 0.5):.3f} p99 "
        f"{quantile(values, 0.99):.3f} max {max(values, default=0.0):.3f} s"
        for name, values in sorted(counted.items())
    ]
    return f"{'; '.join(parts) or 'none'} ({excluded_s:.0f} s excluded)"
