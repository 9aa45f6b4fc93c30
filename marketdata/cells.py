"""One cell of a foreign table: exact or refused (faults.md §3 rows 22-26 and 54)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic_core import PydanticCustomError

from domain.errors import BadInput
from domain.money import exact

_PLAIN_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
_ISO_TIME = re.compile(
    r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?"
)
_SLASHED_DATE = re.compile(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}([T ].*)?")
_YEAR_MIN, _YEAR_MAX = 1971, 2199
_NO_VALUE = frozenset({"", "nan", "NaN", "null", "None"})


def number_cell(text: str, field: str) -> Decimal | None:
    """The number in a cell, or None for an empty one.

    Raises:
        BadInput: CSV_NUMBER_FORMAT for anything but a plain decimal: thousands separators,
            decimal commas, currency signs, brackets (row 54); NaN is no number either.
    """
    if text == "":
        return None
    if len(text) > 48 or not text.isascii() or _PLAIN_NUMBER.fullmatch(text) is None:
        raise BadInput("CSV_NUMBER_FORMAT", field, text, "plain decimal such as 1234.5")
    try:
        return exact(text)
    except PydanticCustomError as error:
        raise BadInput("CSV_NUMBER_FORMAT", field, text, error.message_template) from None


def float_text(value: float, field: str) -> str:
    """Text of a binary float as its shortest decimal, the way Parquet files carry prices.

    Refuses floats that need more than 12 decimals: such a value was computed, not quoted
    (0.1 + 0.2 has lost the price already; faults.md §3 row 5).
    """
    text = repr(float(value)) if not hasattr(value, "item") else str(value)
    if text in _NO_VALUE:
        return ""
    fraction = text.partition("e")[0].partition(".")[2]
    if len(fraction) > 12:
        raise BadInput("CSV_NUMBER_FORMAT", field, text, "at most 12 decimals")
    return text


def time_cell(text: str, field: str, zone: ZoneInfo | None) -> datetime:
    """The instant in a cell, as aware UTC.

    ISO-8601 with Z or an offset; a local time only if the caller named its `zone`.

    Raises:
        BadInput: CSV_DATE_AMBIGUOUS for 03/04/05, TIME_NO_ZONE, TIME_AMBIGUOUS and
            TIME_NONEXISTENT around clock changes, TIME_UNIT_SUSPECT for epoch numbers,
            TIME_OUT_OF_WINDOW for a year outside 1971-2199, CSV_ROW otherwise.
    """
    allowed = "ISO-8601 with zone, such as 2026-03-09T13:30:00Z"
    if text.isdigit():
        raise BadInput("TIME_UNIT_SUSPECT", field, text, allowed)
    if _ISO_TIME.fullmatch(text) is None:
        slashed = _SLASHED_DATE.fullmatch(text) is not None
        raise BadInput("CSV_DATE_AMBIGUOUS" if slashed else "CSV_ROW", field, text, allowed)
    try:
        time = datetime.fromisoformat(_microseconds(text))
        moment = _in_zone(time, zone, field, text) if time.tzinfo is None else time
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadInput("CSV_ROW", field, text, allowed) from None
    if not _YEAR_MIN <= moment.year <= _YEAR_MAX:
        raise BadInput("TIME_OUT_OF_WINDOW", field, text, f"{_YEAR_MIN}..{_YEAR_MAX}")
    return moment


def named_zone(name: str) -> ZoneInfo:
    """The zone, or BadInput TZ_UNKNOWN (row 26); "EST5"-like short forms are refused too."""
    if "/" in name or name == "UTC":
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    raise BadInput("TZ_UNKNOWN", "zone", name, "an IANA name such as America/New_York")


def _microseconds(text: str) -> str:
    """Cuts nanoseconds: Python's datetime ends at microseconds."""
    return re.sub(r"([.,]\d{6})\d+", r"\1", text)


def _in_zone(time: datetime, zone: ZoneInfo | None, field: str, text: str) -> datetime:
    if zone is None:
        raise BadInput("TIME_NO_ZONE", field, text, "name the zone of local times")
    earlier, later = time.replace(tzinfo=zone, fold=0), time.replace(tzinfo=zone, fold=1)
    if earlier.utcoffset() == later.utcoffset():
        return earlier
    if (earlier.utcoffset() or timedelta()) > (later.utcoffset() or timedelta()):
        raise BadInput("TIME_AMBIGUOUS", field, text, "a time that happens once, or an offset")
    raise BadInput("TIME_NONEXISTENT", field, text, "a time that the clock shows")
