"""Gate checks on the state of the world: may anything be entered at all right now?

Each check answers one `Verdict`. What could not be read refuses (fail closed for entries).
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

from domain.account import MarketClock
from domain.instrument import Instrument, InstrumentKind
from domain.order import Quote
from domain.risk.breakers import at, blocks_entry, trip_reason
from domain.risk.gate_types import GateInput, SymbolAge, Verdict
from domain.risk.limits import Limits
from domain.risk.verdicts import not_applicable, passed, refused

STALE_NAMED_MAX = 5
HOURS = "market hours"


def symbols_of(given: GateInput) -> tuple[str, ...]:
    """Plan symbol, leg symbols and their underlyings, each once, in order."""
    plan = given.plan
    names = [plan.symbol]
    for leg in plan.legs:
        names.append(leg.instrument.symbol)
        if leg.instrument.underlying is not None:
            names.append(leg.instrument.underlying)
    return tuple(dict.fromkeys(names))


def kill(given: GateInput) -> Verdict:
    """The operator's switch: an unreadable control row means killed and not armed (I9)."""
    control = given.control
    if control is None:
        return refused("kill", "CONTROL_UNREADABLE")
    if control.account != given.plan.account:
        return refused("kill", "CONTROL_UNREADABLE", account=control.account)
    engaged = control.kill_for(
        strategy=given.plan.strategy, symbols=symbols_of(given), trade_id=given.plan.trade_id
    )
    if engaged is not None:
        return refused("kill", "KILLED", scope=engaged.scope.text, mode=engaged.mode, by=engaged.by)
    if not control.armed:
        return refused("kill", "NOT_ARMED", version=control.version)
    return passed("kill", version=control.version)


def conditions(given: GateInput) -> Verdict:
    if given.conditions is None:
        return refused("conditions", "CONDITIONS_UNREADABLE")
    if given.conditions:
        first = given.conditions[0]
        return refused("conditions", "CONDITION_ACTIVE", kind=first.kind, text=first.text)
    return passed("conditions")


def risk_breaker(given: GateInput) -> Verdict:
    reason = trip_reason(given.risk_breaker)
    if reason is not None:
        return refused("risk_breaker", "RISK_BREAKER_TRIPPED", reason=reason)
    return passed("risk_breaker")


def api_breaker(given: GateInput) -> Verdict:
    if given.api_breaker is None:
        return refused("api_breaker", "API_BREAKER_UNREADABLE")
    current = at(given.api_breaker, given.wall_now)
    if blocks_entry(current, given.wall_now):
        return refused("api_breaker", "API_BREAKER_OPEN", state=current.state)
    return passed("api_breaker", state=current.state)


def session(given: GateInput) -> Verdict:
    """Open, not halted, outside the blocked first and last minutes (faults.md §3 row 27)."""
    clock, limits = given.market_clock, given.limits
    if clock is None:
        return refused("session", "SESSION_UNKNOWN", **given.why_unread("clock", HOURS))
    if limits is None:
        return refused("session", "LIMITS_MISSING")
    if not clock.is_open:
        return refused("session", "SESSION_CLOSED", next_open=clock.next_open or "unknown")
    halted = [name for name in symbols_of(given) if name in clock.halted_symbols]
    if halted:
        return refused("session", "HALTED", symbol=halted[0])
    if given.round_the_clock:
        return passed("session", hours="round the clock")
    return _blocked_minutes(given, clock, limits)


def _blocked_minutes(given: GateInput, clock: MarketClock, limits: Limits) -> Verdict:
    since_open = _seconds(given.session_opened_at, given.market_now)
    to_close = _seconds(given.market_now, clock.next_close)
    if limits.entry_blocked_first_s > 0:
        if since_open is None:
            return refused("session", "SESSION_UNKNOWN", missing="session_opened_at")
        if since_open < limits.entry_blocked_first_s:
            return refused(
                "session",
                "ENTRY_TOO_EARLY",
                since_open_s=since_open,
                blocked_first_s=limits.entry_blocked_first_s,
            )
    if to_close is None:
        return refused("session", "SESSION_UNKNOWN", missing="next_close")
    if to_close <= 0 or to_close < limits.entry_blocked_last_s:
        return refused(
            "session",
            "ENTRY_TOO_LATE",
            to_close_s=to_close,
            blocked_last_s=limits.entry_blocked_last_s,
        )
    return passed("session", to_close_s=to_close)


def _seconds(start: datetime | None, end: datetime | None) -> Decimal | None:
    """Exact seconds from start to end; None where one is unknown."""
    if start is None or end is None:
        return None
    between = end - start
    microseconds = (between.days * 86_400 + between.seconds) * 1_000_000 + between.microseconds
    return Decimal(microseconds).scaleb(-6)


def can_exit_today(given: GateInput) -> Verdict:
    """After the longest walk there must be time left to get out before close and `flat_by`."""
    limits, clock, walk = given.limits, given.market_clock, given.plan.walk
    if clock is None:
        return refused("can_exit_today", "SESSION_UNKNOWN", **given.why_unread("clock", HOURS))
    if limits is None:
        return refused("can_exit_today", "SESSION_UNKNOWN", missing="limits")
    needed = walk.max_time_s + limits.exit_time_min_s
    flat_by = _seconds(given.market_now, given.plan.flat_by)
    if flat_by is not None and flat_by < needed:
        return refused("can_exit_today", "NO_TIME_TO_EXIT", flat_by_s=flat_by, needed_s=needed)
    if given.round_the_clock:
        return passed("can_exit_today", needed_s=needed)
    to_close = _seconds(given.market_now, clock.next_close)
    if to_close is None:
        return refused("can_exit_today", "SESSION_UNKNOWN", missing="next_close")
    if to_close < needed:
        return refused("can_exit_today", "NO_TIME_TO_EXIT", to_close_s=to_close, needed_s=needed)
    return passed("can_exit_today", to_close_s=to_close, needed_s=needed)


def expiry(given: GateInput) -> Verdict:
    """Days to expiry, the cut-off on the last day, and that the plan is flat by then.

    faults.md §3 row 28 and G6: what is held into its expiry is exercised, assigned or worthless,
    and no exit of the plan decides which.
    """
    limits, today = given.limits, given.session_date
    dated = [leg.instrument for leg in given.plan.legs if leg.instrument.expiry is not None]
    undated = [
        leg.instrument
        for leg in given.plan.legs
        if leg.instrument.kind is InstrumentKind.OPTION and leg.instrument.expiry is None
    ]
    if undated:
        return refused("expiry", "EXPIRY_UNKNOWN", symbol=undated[0].symbol)
    if not dated:
        return not_applicable("expiry", "NOTHING_EXPIRES")
    if limits is None or today is None:
        return refused("expiry", "SESSION_UNKNOWN", missing="limits or session_date")
    first = min(dated, key=lambda instrument: instrument.expiry or today)
    assert first.expiry is not None
    days = (first.expiry - today).days
    facts = {"symbol": first.symbol, "days": days, "days_min": limits.expiry_days_min}
    if days < 0:
        return refused("expiry", "OPTION_EXPIRED", **facts)
    if days < limits.expiry_days_min:
        return refused("expiry", "OPTION_TOO_CLOSE", **facts)
    if days == 0:
        to_close = _seconds(
            given.market_now, given.market_clock.next_close if given.market_clock else None
        )
        if to_close is None or to_close < limits.expiry_cutoff_s:
            return refused("expiry", "OPTION_TOO_CLOSE", to_close_s=to_close, **facts)
    if _is_held_into(given, first.expiry):
        told = "none" if given.plan.flat_by is None else given.plan.flat_by.isoformat()
        last_day = f"before the close of {first.expiry}"
        return refused("expiry", "HELD_INTO_EXPIRY", flat_by=told, allowed=last_day, **facts)
    return passed("expiry", **facts)


def _is_held_into(given: GateInput, last_day: date) -> bool:
    """True unless the plan is flat before the last close; trading hours lie in one UTC day."""
    flat_by = given.plan.flat_by
    if flat_by is None or flat_by.astimezone(UTC).date() > last_day:
        return True
    closes_at = given.market_clock.next_close if given.market_clock else None
    return given.session_date == last_day and closes_at is not None and flat_by >= closes_at


def freshness(given: GateInput) -> Verdict:
    """Every leg's quote and the trade's net quote: present, two-sided, uncrossed, fresh (I13).

    One ten times above or below the last is held until the next confirms it (faults.md §3 row 34).
    """
    limits = given.limits
    if limits is None:
        return refused("freshness", "LIMITS_MISSING")
    if given.arrival is None:
        why = given.why_unread("quote")
        return refused("freshness", "PRICE_UNAVAILABLE", symbol=given.plan.symbol, **why)
    quotes = {aged.quote.symbol: aged for aged in given.leg_quotes}
    oldest = given.arrival.age_s
    for leg in given.plan.legs:
        aged = quotes.get(leg.instrument.symbol)
        if aged is None:
            return refused("freshness", "PRICE_UNAVAILABLE", symbol=leg.instrument.symbol)
        allowed = age_allowed(limits, leg.instrument)
        code = quote_fault(aged.quote)
        if code:
            return refused("freshness", code, symbol=aged.quote.symbol)
        if aged.quote.symbol in given.jumped:
            return refused("freshness", "QUOTE_JUMP", symbol=aged.quote.symbol, mid=aged.quote.mid)
        for age in (aged.age_s, given.arrival.age_s):
            if not -limits.quote_max_age_s <= age <= allowed:
                return refused(
                    "freshness",
                    "QUOTE_STALE",
                    symbol=aged.quote.symbol,
                    age_s=age,
                    allowed_s=allowed,
                )
        oldest = max(oldest, aged.age_s)
    return passed("freshness", oldest_s=oldest)


def age_allowed(limits: Limits, instrument: Instrument) -> Decimal:
    """Wall seconds a quote of this instrument may be old."""
    if instrument.kind is InstrumentKind.OPTION:
        return limits.option_quote_max_age_s
    return limits.quote_max_age_s


def quote_fault(quote: Quote) -> str:
    """Code of what is wrong with the quote's prices, or empty (faults.md §3 row 32)."""
    if quote.bid is None and quote.ask is None:
        return "QUOTE_EMPTY"
    if quote.bid is None or quote.ask is None:
        return "QUOTE_ONE_SIDED"
    if quote.bid <= 0 and quote.ask <= 0:
        return "QUOTE_EMPTY"
    if quote.bid >= quote.ask:
        return "QUOTE_CROSSED"
    return ""


def batch_freshness(given: GateInput) -> Verdict:
    """At least the configured share of the universe is fresh; stale ones are named (req. 181)."""
    limits = given.limits
    if limits is None:
        return refused("batch_freshness", "LIMITS_MISSING")
    if given.batch is None:
        return not_applicable("batch_freshness", "NO_UNIVERSE")
    if not given.batch:
        return refused("batch_freshness", "BATCH_UNKNOWN")
    stale = [row for row in given.batch if not _is_fresh(row, limits)]
    count, fresh = len(given.batch), len(given.batch) - len(stale)
    ages = sorted(row.age_s for row in given.batch if row.age_s is not None)
    facts: dict[str, object] = {"fresh": fresh, "count": count}
    if ages:
        facts |= {"latest_s": ages[0], "median_s": ages[len(ages) // 2], "oldest_s": ages[-1]}
    if stale:
        facts["stale"] = ",".join(row.symbol for row in stale[:STALE_NAMED_MAX])
    if fresh < limits.batch_fresh_fraction_min * count:
        return refused("batch_freshness", "BATCH_STALE", **facts)
    return passed("batch_freshness", **facts)


def _is_fresh(row: SymbolAge, limits: Limits) -> bool:
    return row.age_s is not None and row.age_s <= limits.batch_max_age_s
