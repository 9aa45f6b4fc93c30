"""What was read, judged: may entries go now? Pure; one function per group of lines.

`wrong` is what stops entries or leaves risk without an owner. A fact that does not, but that a
person should know, is a `note` (shown green).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from activities.day_reading import night_stops, trade_protection
from activities.streams import StreamHeard
from cli.checks import Finding, note, ok, unknown, wrong
from domain.account import AccountSnapshot
from domain.clock import ClockMap
from domain.control import ApiBreakerState, BreakerState, Control, KillScopeKind
from domain.occ import looks_like_option
from domain.order import Quote
from domain.recon.classify import Discrepancy, DiscrepancyKind
from domain.risk.limits import RESTRICTED_LIST_AGE_S_MAX, Limits
from ledger.records import (
    EXTERNAL,
    ApiBreakerRecord,
    BreakerRecord,
    ChildOrder,
    ConditionRecord,
    IntentRecord,
    TradePosition,
    TradeRecord,
)

DAY_TRADER_EQUITY_MIN = Decimal(25_000)
COMPARE_AGE_MAX = timedelta(seconds=35)
RECONCILE_AGE_MAX = timedelta(minutes=15)
NAMED_MAX = 5
_WHOLE = (KillScopeKind.ALL, KillScopeKind.ACCOUNT)
_ORDER_KINDS = (
    DiscrepancyKind.ORPHAN_ENTRY,
    DiscrepancyKind.ORPHAN_EXIT,
    DiscrepancyKind.FOREIGN_ORDER,
)


@dataclass(frozen=True)
class LedgerReading:
    """What the ledger says of the account, at one moment."""

    control: Control
    conditions: tuple[ConditionRecord, ...]
    risk: BreakerRecord
    api: ApiBreakerRecord
    trades: tuple[TradeRecord, ...]
    owned: tuple[TradePosition, ...]
    intents: tuple[IntentRecord, ...]
    children: tuple[ChildOrder, ...]
    heard: StreamHeard | None
    streamer: str
    reconciled_at: datetime | None


def switches(reading: LedgerReading, symbols: Iterable[str], *, want_armed: bool) -> list[Finding]:
    """Arm, kills, conditions and both breakers, each with its reason."""
    control, watched = reading.control, frozenset(symbols)
    if control.armed:
        found = [ok("armed", f"yes, by {control.updated_by or 'an operator'}")]
    else:
        text = "no: entries are refused; when the rest is green: starter.py arm --reason …"
        found = [wrong("armed", text) if want_armed else note("armed", text)]
    killed = [f"{k.mode} {k.scope.text} by {k.by}: {k.reason}" for k in control.kills]
    stops = any(
        kill.scope.kind in _WHOLE
        or (kill.scope.kind is KillScopeKind.SYMBOL and kill.scope.value in watched)
        for kill in control.kills
    )
    found.append(_listed("kill", killed, is_wrong=stops))
    active = [f"{c.kind} {c.symbol or 'every symbol'} {c.text}".strip() for c in reading.conditions]
    blocks = any(not c.symbol or c.symbol in watched for c in reading.conditions)
    found.append(_listed("conditions", active, is_wrong=blocks))
    risk, api = reading.risk, reading.api
    if risk.state is BreakerState.NORMAL:
        found.append(ok("risk breaker", risk.state))
    else:
        found.append(wrong("risk breaker", f"{risk.state}: {risk.reason} {risk.text}".strip()))
    if api.state is ApiBreakerState.CLOSED:
        found.append(ok("api breaker", f"{api.broker} {api.state}"))
    else:
        found.append(wrong("api breaker", f"{api.broker} {api.state}, {api.failures} failures"))
    return found


def _listed(check: str, items: Sequence[str], *, is_wrong: bool) -> Finding:
    if not items:
        return ok(check, "none")
    text = "; ".join(items[:NAMED_MAX])
    return wrong(check, text) if is_wrong else note(check, f"elsewhere: {text}")


def stream(reading: LedgerReading, now: datetime) -> list[Finding]:
    """The order stream's streamer, its silence, and the last reconcile."""
    heard, found = reading.heard, []
    if not reading.streamer:
        found.append(wrong("order stream", "nobody streams; run: starter.py up"))
    elif heard is None:
        found.append(unknown("order stream", "not told yet: it says so within a compare pass"))
    elif now - heard.compared_at > COMPARE_AGE_MAX:
        found.append(wrong("order stream", f"last compare pass {ago(now, heard.compared_at)}"))
    elif not heard.connected:
        found.append(wrong("order stream", f"not connected, last frame {ago(now, heard.frame_at)}"))
    else:
        # A quiet account has no frames; the compare pass is what shows that nothing was missed.
        text = f"last frame {ago(now, heard.frame_at)}, compared {ago(now, heard.compared_at)}"
        found.append(ok("order stream", text))
    at = reading.reconciled_at
    if at is None:
        found.append(unknown("reconcile", "no pass yet", is_needed=False))
    elif now - at > RECONCILE_AGE_MAX:
        found.append(wrong("reconcile", f"last good pass {ago(now, at)}"))
    else:
        found.append(ok("reconcile", f"last good pass {ago(now, at)}"))
    return found


def account(shown: AccountSnapshot, currency: str, limits: Limits) -> list[Finding]:
    """May the account trade at the broker, and with how much."""
    found = []
    status = shown.status or "not told"
    if shown.trading_blocked:
        found.append(wrong("broker account", f"blocked: {', '.join(shown.blocks) or status}"))
    elif shown.status and shown.status.upper() != "ACTIVE":
        found.append(wrong("broker account", f"status {shown.status}"))
    else:
        found.append(ok("broker account", f"{shown.account_id}, status {status}"))
    if shown.currency != currency:
        text = f"was {shown.currency}, the settings say {currency}"
        found.append(wrong("currency", text))
    if shown.pattern_day_trader is None and shown.day_trades is None:
        found.append(ok("day trades", "not told by the broker"))
    else:
        marked = bool(shown.pattern_day_trader)
        text = f"{shown.day_trades or 0} in five sessions, pattern day trader: {marked}"
        poor = shown.equity is None or shown.equity < DAY_TRADER_EQUITY_MIN
        found.append(wrong("day trades", text) if marked and poor else ok("day trades", text))
    if shown.equity is None or shown.buying_power is None:
        found.append(unknown("buying power", "the broker did not say; entries are refused"))
    else:
        text = f"{shown.buying_power} {shown.currency}, equity {shown.equity}"
        enough = shown.buying_power > 0 and shown.equity > 0
        more = f", max_total_notional {limits.max_total_notional}"
        found.append(ok("buying power", text + more) if enough else wrong("buying power", text))
    return found


def quotes(
    symbols: Sequence[str],
    found: Mapping[str, Quote],
    clock: ClockMap,
    now: datetime,
    *,
    limits: Limits,
    is_open: bool,
) -> list[Finding]:
    """Age of each symbol's quote in wall seconds against `quote_max_age_s`."""
    if not symbols:
        text = "no session, no position; name symbols with --symbol"
        return [unknown("data age", text, is_needed=False)]
    lines = []
    for symbol in symbols:
        check, quote = f"data age {symbol}", found.get(symbol)
        limit = limits.quote_max_age_s
        if looks_like_option(symbol):
            limit = limits.option_quote_max_age_s
        if quote is None:
            line = unknown(check, "no quote", is_needed=is_open)
        else:
            age_s = clock.wall_age_s(now, quote.venue_time)
            text = f"{age_s:.1f} s, allowed: {limit:f} s"
            if not is_open:
                line = unknown(check, f"{text}; judged when the market is open", is_needed=False)
            elif quote.bid is None or quote.ask is None:
                line = wrong(check, f"one side is missing, {text}")
            else:
                line = ok(check, text) if age_s <= limit else wrong(check, text)
        lines.append(line)
    return lines


def open_trades(reading: LedgerReading) -> list[Finding]:
    """Open trades by protection class; what is naked or waits for a person is wrong.

    So is not to know it.
    """
    trades = reading.trades
    if not trades:
        return [ok("open trades", "none")]
    stops = night_stops(reading.intents, {})
    classes: dict[str, list[str]] = defaultdict(list)
    for trade in trades:
        name = trade_protection(trade, reading.owned, stops.get(trade.trade_id, ()))
        classes[name].append(f"{trade.trade_id} ({trade.stage})")
    found = []
    for name, members in sorted(classes.items()):
        text = f"{len(members)}: {', '.join(members[:NAMED_MAX])}"
        judged = {"naked": wrong, "unknown": unknown}.get(name, ok)
        found.append(judged(f"open trades {name}", text))
    parked = [trade.trade_id for trade in trades if trade.stage == "needs_operator"]
    if parked:
        found.append(wrong("waiting for a person", ", ".join(parked[:NAMED_MAX])))
    return found


def books(
    findings: Sequence[Discrepancy], owned: Sequence[TradePosition], accepted: frozenset[str]
) -> list[Finding]:
    """Orders and positions without an owner, intents without an answer.

    Args:
        findings: differences that stood in two looks.
        owned: positions by trade; the owner EXTERNAL is nobody.
        accepted: symbols whose foreign orders and positions a person knows of.
    """
    orders = [f for f in findings if f.kind in _ORDER_KINDS and f.symbol not in accepted]
    stuck = [f for f in findings if f.kind is DiscrepancyKind.INTENT_STUCK]
    held = [
        f"{row.quantity:f} {row.symbol}"
        for row in owned
        if row.trade_id == EXTERNAL and row.quantity != 0 and row.symbol not in accepted
    ]
    held += [
        f"{f.kind} {f.text}"
        for f in findings
        if f.kind not in (*_ORDER_KINDS, DiscrepancyKind.INTENT_STUCK)
    ]
    lines = {
        "orders without owner": [f"{f.kind} {f.text}" for f in orders],
        "orders without answer": [f.text for f in stuck],
        "positions without owner": held,
    }
    return [_listed(check, items, is_wrong=True) for check, items in lines.items()]


def restricted(as_of: datetime | None, count: int, now: datetime) -> Finding:
    """Age of the restricted list that the gateway works with."""
    if as_of is None:
        return unknown("restricted list", "no gateway has read it", is_needed=False)
    age_s = (now - as_of).total_seconds()
    text = f"{count} symbols, as of {ago(now, as_of)}"
    if age_s > RESTRICTED_LIST_AGE_S_MAX:
        return wrong("restricted list", f"{text}: older than a day, restart or renew it")
    return ok("restricted list", text)


def ago(now: datetime, at: datetime) -> str:
    """An age for people."""
    seconds = max(0, int((now - at).total_seconds()))
    if seconds < 120:
        return f"{seconds} s ago"
    return f"{seconds // 60} min ago" if seconds < 7200 else f"{seconds // 3600} h ago"
