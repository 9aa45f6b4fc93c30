"""Today at the exchange: the broker's clock beside the calendar, with holidays and half days."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from cli.checks import Finding, note, ok, wrong
from domain.account import MarketClock
from domain.errors import BadInput
from domain.money import ZERO
from marketdata.calendars import ALWAYS_OPEN, Calendar, calendar_for
from marketdata.zones import zone

AHEAD_DAYS = 10
LOOK_BACK_DAYS = 60


def findings(
    clock: MarketClock,
    calendar_name: str,
    zone_name: str,
    *,
    simulated: bool,
    blocked_last_s: Decimal = ZERO,
) -> list[Finding]:
    """Open or closed, the next change, half days of the coming days.

    Args:
        clock: what the broker says.
        calendar_name: ISO 10383 code or 24/7.
        zone_name: zone in which times are shown.
        simulated: the simulated exchange has hours of its own; the calendar is not judged.
        blocked_last_s: market seconds before the close in which the gate takes no entry.
    """
    shown = zone(zone_name)
    if clock.stays_open:
        market = ok("market", "open, and stays open: this venue has no close")
    elif clock.is_open:
        market = _open_market(clock, shown, blocked_last_s)
    else:
        market = note("market", f"closed, opens {_local(clock.next_open, shown)}")
    try:
        calendar = calendar_for(calendar_name, clock.market_now)
        return [market, _calendar(clock, calendar, shown, simulated=simulated)]
    except BadInput as error:
        return [market, wrong("calendar", error.text)]


def _open_market(clock: MarketClock, shown: ZoneInfo, blocked_last_s: Decimal) -> Finding:
    text = f"open, closes {_local(clock.next_close, shown)}"
    if clock.next_close is None:
        return ok("market", text)
    if (clock.next_close - clock.market_now).total_seconds() >= blocked_last_s:
        return ok("market", text)
    return note("market", f"{text}: no entries in the last {blocked_last_s:f} s before it")


def _calendar(
    clock: MarketClock, calendar: Calendar, shown: ZoneInfo, *, simulated: bool
) -> Finding:
    if calendar.name == ALWAYS_OPEN:
        return ok("calendar", "never closes")
    now = clock.market_now
    today = clock.session_date or now.astimezone(shown).date()
    text = f"{calendar.name}: {_day_text(calendar, today, shown)}"
    ahead = [
        f"{day:%a %d %b} {kind}"
        for day in (today + timedelta(days=n) for n in range(1, AHEAD_DAYS))
        if (kind := day_kind(calendar, day)) in ("half day", "holiday")
    ]
    if ahead:
        text += f"; ahead: {', '.join(ahead)}"
    says = "open" if clock.is_open else "closed"
    if calendar.is_open(now) != clock.is_open:
        if not simulated:
            return wrong("calendar", f"{text}; but the broker says {says}")
        text += f"; the simulated exchange has hours of its own: {says} now"
    is_plain = day_kind(calendar, today) == "full day"
    return ok("calendar", text) if is_plain else note("calendar", text)


def day_kind(calendar: Calendar, day: date) -> str:
    """`full day`, `half day`, `holiday` (a weekday without a session) or `weekend`."""
    hours = calendar.session_hours(day)
    if not hours:
        return "weekend" if day.weekday() >= 5 else "holiday"
    length = hours[-1].close - hours[0].open
    lengths = Counter(
        before[-1].close - before[0].open
        for n in range(1, LOOK_BACK_DAYS)
        if (before := calendar.session_hours(day - timedelta(days=n)))
    )
    usual = lengths.most_common(1)[0][0] if lengths else length
    return "half day" if length < usual else "full day"


def _day_text(calendar: Calendar, day: date, shown: ZoneInfo) -> str:
    hours, kind = calendar.session_hours(day), day_kind(calendar, day)
    if not hours:
        return f"{day} {kind}"
    times = f"{_local(hours[0].open, shown)} to {_local(hours[-1].close, shown)}"
    return f"{day} {kind.upper() if kind == 'half day' else kind}, {times}"


def _local(at: datetime | None, shown: ZoneInfo) -> str:
    return "at a time not told" if at is None else f"{at.astimezone(shown):%a %H:%M %Z}"
