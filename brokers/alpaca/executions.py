"""Reading executions without skipping one. Pure.

The venue pages activities by id, but an id begins with New York wall time and ends with a random
part: within one millisecond, and in the repeated hour of autumn, a later row can sort before an
earlier one. So only the pages of one pass go by id; every new pass starts a little before the
latest execution time seen. Rows then come twice, and the fill key makes them one (I7).

Fees are booked late under the first instant of their day, behind any such place: they are swept
apart, newest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta

from brokers.alpaca.mapping import activity, activity_rows
from brokers.port import ExecutionPage, FeeActivity, FrameProblem
from domain.errors import BadInput, Uncertain
from domain.order import Fill

PAGE_SIZE = 100
OVERLAP = timedelta(seconds=5)
FEE_LOOKBACK = timedelta(days=7)
FEE_SWEEP_INTERVAL_S = 300.0
_TYPES = "FILL,FEE"
ReadActivity = Callable[[object], Fill | FeeActivity | FrameProblem | None]


@dataclass(frozen=True)
class ExecutionCursor:
    """Where reading goes on: `t|start` for a new pass, `p|start|latest|id` inside one."""

    start: datetime
    latest: datetime
    page_token: str | None = None

    @classmethod
    def parse(cls, text: str) -> ExecutionCursor:
        """The place in `text`.

        Raises:
            BadInput: `PAGE_INVALID` for a cursor that this adapter did not make (row 46).
        """
        kind, _, rest = text.partition("|")
        parts = rest.split("|", 2)
        try:
            start = _aware(parts[0])
            if kind == "t" and len(parts) == 1:
                return cls(start=start, latest=start)
            if kind == "p" and len(parts) == 3 and parts[2]:
                return cls(start=start, latest=_aware(parts[1]), page_token=parts[2])
        except ValueError:
            pass
        raise BadInput("PAGE_INVALID", "cursor", text, "a cursor of this adapter")

    @property
    def text(self) -> str:
        if self.page_token is None:
            return f"t|{_text(self.latest)}"
        return f"p|{_text(self.start)}|{_text(self.latest)}|{self.page_token}"

    def params(self) -> dict[str, str]:
        """Query of the next page."""
        query = {
            "activity_types": _TYPES,
            "direction": "asc",
            "page_size": str(PAGE_SIZE),
            "after": _text(self.start - OVERLAP),
        }
        if self.page_token is not None:
            query["page_token"] = self.page_token
        return query

    def fee_params(self) -> dict[str, str]:
        """Query of the sweep for fees that were booked late."""
        return {
            "direction": "desc",
            "page_size": str(PAGE_SIZE),
            "after": _text(self.start - FEE_LOOKBACK),
        }

    def with_late_fees(
        self, page: ExecutionPage, raw: object, read: ReadActivity = activity
    ) -> ExecutionPage:
        """The page with the swept fees that it does not hold already."""
        fees = {fee.activity_id: fee for fee in page.fees}
        problems = list(page.problems)
        for item in map(read, activity_rows(raw)):
            if isinstance(item, FeeActivity):
                fees.setdefault(item.activity_id, item)
            elif isinstance(item, FrameProblem) and item not in problems:
                problems.append(item)
        return page.model_copy(update={"fees": tuple(fees.values()), "problems": tuple(problems)})


def first_cursor(market_now: datetime) -> ExecutionCursor:
    """The start of the venue's current UTC day (the overlap reaches a little before it)."""
    midnight = datetime.combine(market_now.astimezone(UTC).date(), time(), UTC)
    return ExecutionCursor(start=midnight, latest=midnight)


def execution_page(
    place: ExecutionCursor, raw: object, read: ReadActivity = activity
) -> ExecutionPage:
    """The rows of one page as fills, fees and problems, with the cursor to go on from.

    Raises:
        Uncertain: the body was not a list, or a full page did not move forward.
    """
    rows = activity_rows(raw)
    items = [read(row) for row in rows]
    fills = tuple(item for item in items if isinstance(item, Fill))
    fees = tuple(item for item in items if isinstance(item, FeeActivity))
    problems = tuple(item for item in items if isinstance(item, FrameProblem))
    # Fees do not move the clock: they may carry the date of another day.
    latest = max([place.latest, *(fill.venue_time for fill in fills)])
    has_more = len(rows) >= PAGE_SIZE
    token = _last_id(rows) if has_more else None
    if has_more and token in (None, place.page_token):
        raise Uncertain("a full page of activities led nowhere", code="PAGE_STUCK")
    following = replace(place, latest=latest, page_token=token)
    return ExecutionPage(
        fills=fills, fees=fees, problems=problems, cursor=following.text, has_more=has_more
    )


def _last_id(rows: list[object]) -> str | None:
    for row in reversed(rows):
        name = row.get("id") if isinstance(row, dict) else None
        if isinstance(name, str) and name:
            return name
    return None


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("the time had no zone")
    return moment


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
