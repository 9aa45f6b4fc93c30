"""Naked and unconfirmed seconds of one run, downtime left out and told apart (faults.md I4, M8)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cli.feed_report import unconfirmed_spans
from domain.instrument import InstrumentKind
from domain.plan import TradePlan
from ledger.records import IntentRecord
from tests.golden.oracle import Rules, Window, bare_spans


@dataclass(frozen=True)
class Exposure:
    """Wall seconds of one run.

    `naked_s` by protection class is the longest span and all of them together; unconfirmed are
    the seconds in which stops and targets were sent and not answered, None if one never was.
    """

    naked_max_s: dict[str, float]
    naked_s: dict[str, float]
    unconfirmed_s: float | None
    downtime_s: float


def wall_of(row: dict[str, Any]) -> datetime:
    """The wall time of a journal row."""
    return datetime.fromisoformat(row["wall"])


def windows_of(spans: Iterable[tuple[float, float]]) -> list[Window]:
    """Epoch seconds as moments, overlapping windows put together."""
    merged: list[Window] = []
    for begin_s, end_s in sorted(spans):
        begin, end = datetime.fromtimestamp(begin_s, UTC), datetime.fromtimestamp(end_s, UTC)
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def exposure_of(
    rows: Sequence[dict[str, Any]],
    rules: Rules,
    orders: Sequence[IntentRecord],
    away: Sequence[Window],
) -> Exposure:
    """From the exchange's journal; only the unconfirmed seconds are the ledger's to know."""
    classes = {plan.trade_id: protection_class(plan) for plan in rules.plans}
    longest: dict[str, float] = {}
    together: dict[str, float] = {}
    for span in bare_spans(rows, rules):
        name, seconds = classes[span.trade_id], span.seconds(away)
        longest[name] = round(max(longest.get(name, 0.0), seconds), 3)
        together[name] = round(together.get(name, 0.0) + seconds, 3)
    waited: float | None = 0.0
    for sent, answered in unconfirmed_spans(orders):
        if answered is None:
            waited = None
            break
        waited = round((waited or 0.0) + seconds_outside(sent, answered, away), 3)
    downtime_s = sum((end - begin).total_seconds() for begin, end in away)
    return Exposure(longest, together, waited, round(downtime_s, 3))


def protection_class(plan: TradePlan) -> str:
    """What protects the trade when all is well (architecture §6)."""
    if plan.is_combo:
        return "defined"
    is_option = plan.instrument.kind is InstrumentKind.OPTION
    return "monitored" if is_option or plan.stop is None else "resting"


def seconds_outside(begin: datetime, end: datetime, away: Sequence[Window]) -> float:
    """The length of a span without the windows in which nobody could act."""
    left = (end - begin).total_seconds()
    for away_begin, away_end in away:
        left -= max(0.0, (min(away_end, end) - max(away_begin, begin)).total_seconds())
    return max(0.0, left)
