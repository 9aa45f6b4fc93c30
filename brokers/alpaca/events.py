"""The statement rows of the venue that are no executions (alpaca.md §6). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from brokers.alpaca.mapping import activity, activity_rows
from brokers.alpaca.wire import WireEvent
from brokers.errors import BROKER_BAD_BODY, safe_text
from brokers.port import EventPage, FeeActivity, FrameProblem
from brokers.wire import read_wire
from domain.account_events import AccountEvent, EventKind
from domain.errors import Uncertain
from domain.evidence import FILL_INCONSISTENT
from domain.money import ZERO

PAGE_SIZE = 100
PAGES_MAX = 50
CATEGORY = "non_trade_activity"
_FEES = ("FEE", "CFEE")
_KINDS = {
    "OPASN": EventKind.ASSIGNMENT,
    "OPEXC": EventKind.EXERCISE,
    "OPXRC": EventKind.EXERCISE,
    "OPEXP": EventKind.EXPIRY,
    "OPTRD": EventKind.DELIVERY,
    "SPLIT": EventKind.SPLIT,
    "SSP": EventKind.SPLIT,
    "NC": EventKind.SYMBOL_CHANGE,
    "SC": EventKind.SYMBOL_CHANGE,
    "INT": EventKind.INCOME,
    "CIL": EventKind.INCOME,
    "CSD": EventKind.TRANSFER,
    "CSW": EventKind.TRANSFER,
    "JNLC": EventKind.TRANSFER,
    "ACATC": EventKind.TRANSFER,
    # Not Alpaca's: the simulated exchange tells perpetuals on this wire too.
    "FUND": EventKind.FUNDING,
    "LIQ": EventKind.LIQUIDATION,
}


def event_params(since: datetime, page_token: str | None) -> dict[str, str]:
    """Query of one page, oldest first; a full page is followed by the next one."""
    query = {
        "category": CATEGORY,
        "direction": "asc",
        "page_size": str(PAGE_SIZE),
        "after": since.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    }
    return query if page_token is None else query | {"page_token": page_token}


def next_token(raw: object, before: str | None) -> str | None:
    """Where the next page begins; None at the end.

    Raises:
        Uncertain: the body was not a list, or a full page did not move forward.
    """
    rows = activity_rows(raw)
    if len(rows) < PAGE_SIZE:
        return None
    last = rows[-1]
    token = str(last.get("id")) if isinstance(last, dict) else None
    if token in (None, before):
        raise Uncertain("a full page of activities led nowhere", code="PAGE_STUCK")
    return token


def event_page(pages: Iterable[object]) -> EventPage:
    """All rows of the pages as events, fees and problems; executions are left out."""
    events: dict[str, AccountEvent] = {}
    fees: dict[str, FeeActivity] = {}
    problems: list[FrameProblem] = []
    found: object
    for row in (row for raw in pages for row in activity_rows(raw)):
        word = row.get("activity_type") if isinstance(row, dict) else None
        if isinstance(row, dict) and word in _FEES:
            found = activity({**row, "activity_type": "FEE"})
        else:
            found = _event(row, word)
        if isinstance(found, FeeActivity):
            fees[found.activity_id] = found
        elif isinstance(found, AccountEvent):
            events[found.event_id] = found
        elif isinstance(found, FrameProblem):
            problems.append(found)
    return EventPage(
        events=tuple(events.values()), fees=tuple(fees.values()), problems=tuple(problems)
    )


def _event(raw: object, word: object) -> AccountEvent | FrameProblem | None:
    """One row; a cancelled or corrected one is a problem that a person must look at."""
    if word == "FILL":
        return None
    if not isinstance(word, str) or not word:
        return FrameProblem(code=BROKER_BAD_BODY, text="an activity row had no activity_type")
    try:
        wire = read_wire(WireEvent, raw)
    except Uncertain as error:
        return FrameProblem(code=error.code, text=safe_text(f"activity {word}: {error}"))
    if wire.moment is None:
        return FrameProblem(code=BROKER_BAD_BODY, text=f"activity {wire.id} had no date")
    if wire.status not in ("", "executed"):
        text = safe_text(f"{word} {wire.id} {wire.symbol} was {wire.status}")
        return FrameProblem(code=FILL_INCONSISTENT, text=text)
    return AccountEvent(
        event_id=f"{wire.id}/{word}",
        kind=_kind(word, wire.description),
        symbol=wire.symbol,
        quantity=wire.qty or ZERO,
        price=wire.price,
        amount=wire.net_amount or ZERO,
        text=safe_text(f"{word} {wire.description}")[:200],
        at=wire.moment,
    )


def _kind(word: str, description: str) -> EventKind:
    if word.startswith("DIV"):
        return EventKind.INCOME
    if word == "JNLC" and "bust" in description.lower():
        return EventKind.OTHER  # the execution itself is taken back; its cash goes with it
    return _KINDS.get(word, EventKind.OTHER)
