"""Local clock times with a zone name to instants; the one place where zones are read.

Time-zone data differs between machines, so the domain only sees aware UTC instants
(faults.md §3 rows 25 and 26).
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from domain.errors import BadInput


def zone(name: str, field: str = "zone") -> ZoneInfo:
    """The IANA zone.

    Raises:
        BadInput: `TZ_UNKNOWN`.
    """
    try:
        if not name or not name.isascii() or len(name) > 64:
            raise ValueError(name)
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput("TZ_UNKNOWN", field, name, "an IANA zone, e.g. America/New_York") from None


def local_instant(text: str, zone_name: str, field: str = "time") -> datetime:
    """UTC instant of a local wall-clock text such as `2026-11-01T01:30`.

    Raises:
        BadInput: `TZ_UNKNOWN`; `TIME_FORMAT` for anything but a local ISO time;
            `TIME_AMBIGUOUS` in the hour that happens twice; `TIME_NONEXISTENT` in the hour that
            is skipped.
    """
    where = zone(zone_name, f"{field}.zone")
    try:
        local = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise BadInput("TIME_FORMAT", field, text, "YYYY-MM-DDTHH:MM[:SS]") from None
    if local.tzinfo is not None:
        raise BadInput("TIME_FORMAT", field, text, "no offset beside a zone name")
    first = local.replace(tzinfo=where, fold=0)
    second = local.replace(tzinfo=where, fold=1)
    if first.utcoffset() == second.utcoffset():
        return first.astimezone(UTC)
    # In a gap the round trip through UTC does not come back to the same clock reading.
    if first.astimezone(UTC).astimezone(where).replace(tzinfo=None) != local:
        raise BadInput("TIME_NONEXISTENT", field, f"{text} {zone_name}", "a time that exists")
    raise BadInput("TIME_AMBIGUOUS", field, f"{text} {zone_name}", "add the UTC offset")
