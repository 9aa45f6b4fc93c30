"""Dates that are known before they happen – macro releases, earnings – and the rule around them.

Files of such dates are read by `marketdata.event_dates`; here is only what follows from them
(requirements #95, #100). All times are instants, market time UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from domain.base import Frozen

ALL_SYMBOLS = "all"
BLACKOUT_S_MAX = 7 * 24 * 3600


class DateKind(StrEnum):
    MACRO = "macro"
    EARNINGS = "earnings"


class Importance(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


_RANK = {Importance.LOW: 1, Importance.MEDIUM: 2, Importance.HIGH: 3}


class EventDate(Frozen):
    """One release at `time`. `symbol` is `all` for what moves the whole market."""

    time: AwareDatetime
    kind: DateKind
    symbol: str = ALL_SYMBOLS
    name: str
    importance: Importance = Importance.HIGH

    def concerns(self, symbol: str) -> bool:
        return self.symbol in (ALL_SYMBOLS, symbol)


class BlackoutRule(Frozen):
    """No entries from `before_s` before an event until `after_s` after it, in market seconds.

    Holds for events of `kind` that are at least as important as `importance`.
    """

    kind: DateKind
    importance: Importance = Importance.HIGH
    before_s: Annotated[int, Field(ge=0, le=BLACKOUT_S_MAX)]
    after_s: Annotated[int, Field(ge=0, le=BLACKOUT_S_MAX)]

    def holds(self, event: EventDate, now: datetime) -> bool:
        """True if `now` lies in the blackout of this event: before <= now < after."""
        if event.kind is not self.kind or _RANK[event.importance] < _RANK[self.importance]:
            return False
        begins_at = event.time - timedelta(seconds=self.before_s)
        return begins_at <= now < event.time + timedelta(seconds=self.after_s)


# Half an hour around what moves the market; a day around a company's own numbers, since those
# come while its exchange is closed and a position would have to sleep over them.
USUAL_BLACKOUTS = (
    BlackoutRule(kind=DateKind.MACRO, before_s=1800, after_s=1800),
    BlackoutRule(
        kind=DateKind.EARNINGS, importance=Importance.LOW, before_s=24 * 3600, after_s=1800
    ),
)


def blackout_of(
    events: Iterable[EventDate],
    symbol: str,
    now: datetime,
    rules: Sequence[BlackoutRule] = USUAL_BLACKOUTS,
) -> str:
    """Why no entry in the symbol may be taken at the market instant `now`; empty if one may.

    It speaks of entries only: exits are never blocked by a date. An event that no file names is
    not known here, so an empty answer is no promise of calm.
    """
    blocking = [
        (event.time, event.name, event, rule)
        for event in events
        if event.concerns(symbol)
        for rule in rules
        if rule.holds(event, now)
    ]
    if not blocking:
        return ""
    time, name, event, rule = min(blocking, key=lambda each: (each[0], each[1]))
    until = time + timedelta(seconds=rule.after_s)
    whose = "" if event.symbol == ALL_SYMBOLS else f" of {event.symbol}"
    return (
        f"{event.kind} {name}{whose} at {time:%Y-%m-%d %H:%M} UTC,"
        f" no entries until {until:%Y-%m-%d %H:%M}"
    )
