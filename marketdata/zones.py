"""Time zones by name; the one place where they are read.

Time-zone data differs between machines, so the domain only sees aware UTC instants (faults.md §3
row 26).
"""

from __future__ import annotations

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
