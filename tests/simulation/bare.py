"""Bare and unconfirmed time: how long positions were without their whole protection, and how long
nobody knew whether an order of it works (faults.md I4, M8).

A span is measured at the exchange. Time in which a fault itself makes protection impossible is
left out and shown: a process is dead or frozen, the ledger, the network or the broker does not
answer or refuses, the symbol is halted. Everything else counts, also how long it takes to find out.
Of what counts, `entry_s` is told apart: an entry still works as long as its plan asks for
(`partial_wait_s`), or the venue takes its time to cancel it, and beside it no stop may rest.

Unconfirmed is each order that protects from its sending until its fate is known, a late or lost
reply included; left out and shown is only the time in which a part of the system was away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cli.feed_report import unconfirmed_spans
from domain.ids import Purpose
from ledger.records import IntentRecord
from simulator.faults import FaultRule
from tests.simulation.clock import START

Window = tuple[float, float]
RESTING = "resting"
"""The broker holds the stop."""
WATCHED = "watched"
"""No stop of it may rest: the exit watch holds it, and its exit is the order that protects."""
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
    entry_s: float = 0.0

    @property
    def beyond_entry_s(self) -> float:
        """What is left when no entry has to be waited for any more."""
        return round(self.counted_s - self.entry_s, 3)


@dataclass
class EntryLife:
    """When an entry began to work at the venue, when its cancel came there and when it ended."""

    symbol: str
    began_s: float
    asked_s: float = math.inf
    ended_s: float = math.inf

    def waits(self, bare_since_s: float, patience_s: float, latency_s: float) -> list[Window]:
        """The time in which nobody but plan and venue keeps it at work."""
        planned = max(self.began_s, bare_since_s), min(self.ended_s, bare_since_s + patience_s)
        dying = self.asked_s, min(self.ended_s, self.asked_s + latency_s)
        return [window for window in (planned, dying) if window[0] < window[1]]


def window_of(rule: FaultRule, now_s: float) -> Window | None:
    """How long a fault of the venue that strikes now keeps it from being protected."""
    name = _DURATIONS.get(rule.kind.value)
    if name is None:
        return None
    return now_s, now_s + rule.seconds(name, 5.0)


def spans(
    protection: str,
    bare: Iterable[tuple[Window, Sequence[Window]]],
    windows: Sequence[Window],
) -> tuple[BareSpan, ...]:
    """The spans without the windows; each comes with the waits for its entry."""
    found = []
    for span, waits in bare:
        out_s = _within(span, windows)
        entry_s = _within(span, [*windows, *waits]) - out_s
        counted_s = span[1] - span[0] - out_s
        found.append(
            BareSpan(protection, round(counted_s, 3), round(out_s, 3), span[0], round(entry_s, 3))
        )
    return tuple(found)


def unconfirmed_waits(
    orders: Iterable[IntentRecord],
    known_at: Mapping[str, datetime],
    protection: str,
    end_s: float,
) -> Iterator[Window]:
    """From when to when each order that protects was sent and its fate not known.

    The ledger's row says only when a request was answered; news of the order settle it too.
    """
    settled = (
        order.model_copy(update={"answered_at": known_at.get(order.intent.client_id)})
        for order in orders
    )
    found = (
        unconfirmed_spans(settled)
        if protection == RESTING
        else unconfirmed_spans(settled, (Purpose.EXIT,))
    )
    for sent, known in found:
        yield seconds(sent), end_s if known is None else seconds(known)


def seconds(moment: datetime) -> float:
    """Virtual seconds since the run began."""
    return (moment - START) / timedelta(seconds=1)


def _within(span: Window, windows: Sequence[Window]) -> float:
    """Seconds of the span that lie in one of the windows."""
    begin_s, end_s = span
    return sum(max(0.0, min(end_s, e) - max(begin_s, b)) for b, e in _merged(windows))


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
