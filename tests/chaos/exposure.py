"""Naked and unconfirmed seconds of one run, downtime left out and told apart (faults.md I4, M8).

Three causes are parted: nobody could act (`downtime_s`: process, server or network away), the
server still waited for what a dead process had in its hands (`orphaned_s`: until its timeouts),
and what is left, which is our own code's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from temporalio.api.history.v1 import HistoryEvent

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
    orphaned_s: float = 0.0


def wall_of(row: dict[str, Any]) -> datetime:
    """The wall time of a journal row."""
    return datetime.fromisoformat(row["wall"])


def windows_of(spans: Iterable[tuple[float, float]]) -> list[Window]:
    """Epoch seconds as moments, overlapping windows put together."""
    return merged(
        (datetime.fromtimestamp(begin, UTC), datetime.fromtimestamp(end, UTC))
        for begin, end in spans
    )


def exposure_of(
    rows: Sequence[dict[str, Any]],
    rules: Rules,
    orders: Sequence[IntentRecord],
    downtime: Sequence[Window],
    orphaned: Sequence[Window] = (),
) -> Exposure:
    """From the exchange's journal; only the unconfirmed seconds are the ledger's to know."""
    away = merged([*downtime, *orphaned])
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
    downtime_s = _length_s(merged(downtime))
    orphaned_s = _length_s(away) - downtime_s
    return Exposure(longest, together, waited, round(downtime_s, 3), round(orphaned_s, 3))


def orphaned_windows(events: Iterable[HistoryEvent], downtime: Sequence[Window]) -> list[Window]:
    """From each downtime to the moment at which the server gave up what was in flight then.

    What is retried shows no timeout in the history, only a start with another attempt.
    """
    known: dict[int, HistoryEvent] = {}
    found: list[Window] = []
    for event in events:
        known[event.event_id] = event
        began_with = _taken_at(event)
        taken = known.get(began_with) if began_with else None
        if taken is None:
            continue
        at, until = _moment(taken), _moment(event)
        found += [
            (begin, until) for begin, end in downtime if at <= end and begin < until and at < until
        ]
    return merged(found)


def _taken_at(event: HistoryEvent) -> int:
    """The event with which the task began that this one tells was lost; 0 if none was."""
    name = event.WhichOneof("attributes") or ""
    if name == "activity_task_timed_out_event_attributes":
        return event.activity_task_timed_out_event_attributes.started_event_id
    if name == "workflow_task_timed_out_event_attributes":
        return event.workflow_task_timed_out_event_attributes.scheduled_event_id
    if name == "activity_task_started_event_attributes":
        started = event.activity_task_started_event_attributes
        return started.scheduled_event_id if started.attempt > 1 else 0
    return 0


def _moment(event: HistoryEvent) -> datetime:
    return event.event_time.ToDatetime(UTC)


def merged(windows: Iterable[Window]) -> list[Window]:
    """The same windows, overlapping ones put together."""
    found: list[Window] = []
    for begin, end in sorted(windows):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def _length_s(windows: Iterable[Window]) -> float:
    return sum((end - begin).total_seconds() for begin, end in windows)


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
