"""The risk gate's hands: collect what it needs, run it in one transaction, hand out the ticket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TypeVar
from zoneinfo import ZoneInfo

from temporalio import activity

from activities.quotes import QuoteMemory, net_quote
from activities.self_halt import stop_strategy
from activities.services import ReserveInput, Services
from brokers.errors import (
    AUTH_NEEDED,
    BROKER_BAD_BODY,
    BROKER_ERROR,
    NO_ANSWER,
    NOT_CONNECTED,
    RATE_LIMITED,
)
from brokers.port import Broker
from domain.account import AccountSnapshot, AssetInfo, MarketClock
from domain.base import Frozen
from domain.clock import ClockMap
from domain.control import ApiBreakerState, TripReason
from domain.entry import EntryTicket, RiskApproved
from domain.errors import HoldfastError, PriceUnavailable, Transient
from domain.facts import Fact, FactBatch, RiskRefused, RiskReserved
from domain.money import ZERO
from domain.order import Quote
from domain.plan import TradePlan
from domain.risk import gate
from domain.risk.breakers import ApiBreaker, RiskBreaker
from domain.risk.daily_loss import DailyBaseline, DailyLoss, judge
from domain.risk.fees import entry_fee
from domain.risk.gate_types import (
    ActiveCondition,
    AgedQuote,
    GateDecision,
    GateInput,
    OpenLeg,
    OwnWorkingOrder,
    Portfolio,
    RecentEntry,
    RiskRefusal,
    StrategyBook,
    SymbolAge,
    SymbolExposure,
    Verdict,
)
from domain.risk.limits import Limits
from domain.risk.repeats import REPEATED_ENTRIES
from domain.risk.sizing import SizedEntry, entry_prices, size_entry
from ledger.records import (
    EXTERNAL,
    GateVerdict,
    ReserveDecision,
    ReserveRequest,
    RiskBook,
    VerdictKind,
)

Answer = TypeVar("Answer")
ROLL_ZONE = ZoneInfo("America/New_York")
ROLL_HOUR = 17
ALWAYS_OPEN_CALENDARS = ("24/7",)
CAUSES = {
    RATE_LIMITED: "the broker's rate limit",
    NOT_CONNECTED: "no connection to the broker",
    NO_ANSWER: "the broker did not answer",
    BROKER_ERROR: "the broker answered with an error",
    BROKER_BAD_BODY: "the broker's answer could not be read",
    AUTH_NEEDED: "the broker did not accept our key",
}


class MarketView(Frozen):
    """What the gate sees of broker and market, read before the transaction.

    `jumped` are the symbols whose quote waits for a second one that confirms it.
    """

    account: AccountSnapshot | None
    clock: MarketClock | None
    quotes: dict[str, Quote]
    assets: tuple[AssetInfo, ...] | None
    faults: tuple[str, ...] = ()
    jumped: tuple[str, ...] = ()


class Judgement(Frozen):
    """Everything a dry run shows and a reservation needs."""

    gate_input: GateInput
    decision: GateDecision
    sized: SizedEntry | None
    ticket: EntryTicket | None
    refusal_code: str = ""
    refusal_text: str = ""


class RiskActivities:
    """Runs the gate for one account."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._quotes_seen = QuoteMemory()

    @activity.defn(name="reserve_risk")
    async def reserve_risk(self, input: ReserveInput) -> FactBatch:
        """Books the trade, judges it and reserves, all idempotent by trade id (B1-B3)."""
        services, plan = self._services, input.plan
        await services.ledger.create_trade(
            plan, stage="reserving", build_id=input.build_id, config_hash=services.config_hash
        )
        market = await read_market(services.broker, plan, services.universe)
        jumped = self._quotes_seen.jumped(market.quotes)
        market = market.model_copy(update={"jumped": jumped})
        await ensure_baseline(services, market)
        now = services.now()

        def evaluate(book: RiskBook) -> ReserveDecision:
            return _as_decision(judge_plan(services, plan, input.trade.clock, market, book, now))

        request = ReserveRequest(
            trade_id=plan.trade_id,
            account=plan.account,
            strategy=plan.strategy,
            symbol=plan.symbol,
            look_back_s=look_back_s(services.limits, input.trade.clock),
        )
        result = await services.ledger.reserve(request, evaluate, now)
        services.failpoint("after_ledger")
        decision = result.decision
        if decision.approved and not result.is_new and await self._has_ended(plan.trade_id):
            text = "a trade of this id has ended; its orders and fills are not this one's"
            return FactBatch(facts=(RiskRefused(at=now, code="TRADE_ID_USED", text=text),))
        await self._trip_on_daily_loss(decision)
        if decision.code == REPEATED_ENTRIES:
            await stop_strategy(services, plan.strategy, plan.trade_id, decision.text)
        if not decision.approved:
            await services.ledger.update_trade(
                plan.trade_id, stage="refused", result=decision.code, story=decision.text
            )
            await services.ledger.settle_trade(
                plan.trade_id, ZERO, ZERO, fees_estimated=False, result=decision.code
            )
        return FactBatch(facts=(_fact_of(decision, now),))

    async def _has_ended(self, trade_id: str) -> bool:
        row = await self._services.ledger.trade(trade_id)
        return row is not None and row.closed_at is not None

    async def _trip_on_daily_loss(self, decision: ReserveDecision) -> None:
        """A day's loss beyond its limit latches the risk breaker (peers.md §4 row 17)."""
        for verdict in decision.verdicts:
            if verdict.check == "daily_loss" and verdict.code == TripReason.DAILY_LOSS:
                await self._services.ledger.trip_breaker(
                    self._services.account, TripReason.DAILY_LOSS, str(verdict.facts), "gate"
                )


def _fact_of(decision: ReserveDecision, now: datetime) -> Fact:
    if decision.approved:
        return RiskReserved(at=now, ticket=EntryTicket.model_validate(decision.document))
    refused = next((v for v in decision.verdicts if v.verdict is VerdictKind.REFUSED), None)
    return RiskRefused(
        at=now,
        code=decision.code,
        text=decision.text,
        facts=refused.facts if refused is not None else {},
    )


async def read_market(broker: Broker, plan: TradePlan, universe: Sequence[str] = ()) -> MarketView:
    """Account, clock, quotes and permissions at once; what cannot be read is None and named.

    One lost answer must not cost a signal: what failed on its way is asked once more, with the
    reads' own time limit. A venue that refuses or throttles is not asked again.
    """
    faults: list[str] = []

    async def read(name: str, call: Callable[[], Awaitable[Answer]]) -> Answer | None:
        try:
            try:
                return await call()
            except Transient as error:
                if error.code == RATE_LIMITED:
                    raise
                return await call()
        except HoldfastError as error:
            faults.append(f"{name}: {error.code}")
            return None

    legs = [leg.instrument.symbol for leg in plan.legs]
    symbols = [*legs, *(symbol for symbol in universe if symbol not in legs)]
    account, clock, quotes, *assets = await asyncio.gather(
        read("account", broker.account),
        read("clock", broker.market_clock),
        read("quote", partial(broker.quotes, symbols)),
        *(read("asset", partial(broker.asset, symbol)) for symbol in legs),
    )
    known = tuple(asset for asset in assets if asset is not None)
    return MarketView(
        account=account,
        clock=clock,
        quotes=quotes or {},
        assets=known if len(known) == len(legs) else None,
        faults=tuple(sorted(faults)),
    )


def last_roll(market_now: datetime) -> datetime:
    """The roll that began the trading day at `market_now`: 17:00 New York, as a UTC instant."""
    local = market_now.astimezone(ROLL_ZONE)
    roll = local.replace(hour=ROLL_HOUR, minute=0, second=0, microsecond=0)
    if roll > local:
        roll = (roll - timedelta(days=1)).replace(hour=ROLL_HOUR)
    return roll.astimezone(UTC)


async def ensure_baseline(services: Services, market: MarketView) -> None:
    """Stores the day's equity baseline once; a restart reads the stored one (peers row 17)."""
    if market.account is None or market.clock is None:
        return
    roll = last_roll(market.clock.market_now)
    if await services.ledger.equity_baseline(services.account, roll) is not None:
        return
    equity = market.account.equity
    if equity is not None and equity > 0:
        await services.ledger.set_equity_baseline(services.account, roll, equity, services.now())


def judge_plan(
    services: Services,
    plan: TradePlan,
    clock: ClockMap,
    market: MarketView,
    book: RiskBook,
    now: datetime,
) -> Judgement:
    """Sizes the plan and runs every check of the gate on what was read. Pure but for its inputs.

    Shared by the reservation and by `trade submit --dry-run`.
    """
    arrival = net_quote(plan.legs, market.quotes, plan.symbol)
    sized, size_code, size_text = _size(services, plan, arrival, market, book)
    given = _gate_input(services, plan, clock, market, book, now, arrival, sized)
    decision = gate.evaluate(given)
    approved = gate.approve(given, decision, now, services.config_hash)
    if size_code or not isinstance(approved, RiskApproved):
        code = size_code or getattr(approved, "code", "REFUSED")
        text = size_text or getattr(approved, "text", "")
        # A refusal that stands earlier in the gate order than the sizing names the reason.
        if isinstance(approved, RiskRefusal) and approved.check in _BEFORE_SIZING:
            code, text = approved.code, approved.text
        return Judgement(
            gate_input=given,
            decision=decision,
            sized=sized,
            ticket=None,
            refusal_code=code,
            refusal_text=text,
        )
    assert sized is not None
    assert arrival is not None
    ticket = EntryTicket(
        approved=approved,
        start_price=sized.prices.start,
        arrival=arrival,
        capabilities=services.broker.capabilities,
        is_open=market.clock.is_open if market.clock is not None else False,
        next_close=market.clock.next_close if market.clock is not None else None,
        halted=market.clock is not None and plan.symbol in market.clock.halted_symbols,
        allow_market_exits=services.allow_market_exits,
        exit_collar_fraction=services.limits.collar_fraction,
    )
    return Judgement(gate_input=given, decision=decision, sized=sized, ticket=ticket)


_BEFORE_SIZING = frozenset(
    {"kill", "conditions", "risk_breaker", "api_breaker", "session", "freshness"}
)


def _size(
    services: Services,
    plan: TradePlan,
    arrival: Quote | None,
    market: MarketView,
    book: RiskBook,
) -> tuple[SizedEntry | None, str, str]:
    if arrival is None:
        return None, PriceUnavailable.code, ", ".join(market.faults) or "no quote"
    try:
        gross = _gross(plan, market)
        prices = entry_prices(plan, arrival, services.limits.collar_fraction, gross)
        return size_entry(plan, prices, _capital(plan, market, book)), "", ""
    except HoldfastError as error:
        return None, error.code, error.text


def _capital(plan: TradePlan, market: MarketView, book: RiskBook) -> Decimal | None:
    """What the strategy may use: its stored capital, without one the account's equity."""
    known = next((row for row in book.configurations if row.name == plan.strategy), None)
    if known is not None and known.capital is not None:
        return known.capital
    return None if market.account is None else market.account.equity


def _gross(plan: TradePlan, market: MarketView) -> Decimal | None:
    """Sum of the legs' mids: the collar of a combo is a fraction of it, not of its net price."""
    if not plan.is_combo:
        return None
    mids = [
        (quote.mid or ZERO) * leg.ratio
        for leg in plan.legs
        if (quote := market.quotes.get(leg.instrument.symbol)) is not None
    ]
    return sum(mids, ZERO)


def _gate_input(
    services: Services,
    plan: TradePlan,
    clock: ClockMap,
    market: MarketView,
    book: RiskBook,
    now: datetime,
    arrival: Quote | None,
    sized: SizedEntry | None,
) -> GateInput:
    market_now = clock.market(now)
    if market.clock is not None:
        market_now = market.clock.market_now
    legs = tuple(
        _aged(quote, market_now, clock)
        for leg in plan.legs
        if (quote := market.quotes.get(leg.instrument.symbol)) is not None
    )
    return GateInput(
        plan=plan,
        quantity=sized.quantity if sized is not None else ZERO,
        start_price=sized.prices.start if sized is not None else None,
        worst_price=sized.prices.worst if sized is not None else None,
        limits=services.limits,
        wall_now=now,
        market_now=market_now,
        control=book.control,
        conditions=tuple(
            ActiveCondition(kind=c.kind, text=c.text, since=c.since)
            for c in book.conditions
            if not c.symbol or c.symbol == plan.symbol
        ),
        risk_breaker=_risk_breaker(book),
        api_breaker=_api_breaker(book),
        market_clock=market.clock,
        unread=_unread(market.faults),
        session_opened_at=market.clock.opened_at if market.clock is not None else None,
        round_the_clock=plan.instrument.calendar in ALWAYS_OPEN_CALENDARS,
        session_date=market.clock.session_date if market.clock is not None else None,
        arrival=None if arrival is None else _aged(arrival, market_now, clock),
        leg_quotes=legs,
        jumped=market.jumped,
        batch=_batch(services, plan, market, market_now, clock),
        restricted=services.restricted,
        assets=market.assets,
        working_orders=_working(book, plan),
        account=market.account,
        portfolio=_portfolio(book, plan),
        strategy=_strategy_book(book, plan),
        daily_loss=_daily_loss(services, market, book),
        messages_last_minute=book.messages_last_60_s,
        recent_entries=_recent(plan, clock, book, now),
        fee_estimate=ZERO if sized is None else entry_fee(plan, sized.quantity, services.fees),
    )


def _unread(faults: Sequence[str]) -> dict[str, str]:
    """What could not be read and why, for a person."""
    found = (fault.partition(": ") for fault in faults)
    return {name: f"{CAUSES[code]} ({code})" if code in CAUSES else code for name, _, code in found}


def look_back_s(limits: Limits, clock: ClockMap) -> float:
    """How far back the gate wants to know of entries, in wall seconds."""
    return clock.wall_duration_s(float(max(limits.repeat_window_s, limits.duplicate_window_s)))


def _recent(
    plan: TradePlan, clock: ClockMap, book: RiskBook, now: datetime
) -> tuple[RecentEntry, ...]:
    """The strategy's entries before this one; ages are market time, as strategies think."""
    return tuple(
        RecentEntry(
            trade_id=row.trade_id,
            strategy=row.strategy,
            idea=row.idea.name,
            age_s=_seconds(clock.market(now) - clock.market(row.reserved_at)),
        )
        for row in book.recent
        if row.trade_id != plan.trade_id
    )


def _seconds(between: timedelta) -> Decimal:
    return Decimal(str(round(between / timedelta(seconds=1), 6)))


def _batch(
    services: Services, plan: TradePlan, market: MarketView, market_now: datetime, clock: ClockMap
) -> tuple[SymbolAge, ...]:
    """Age of every symbol of the universe, the plan's legs included; None: no data at all."""
    legs = [leg.instrument.symbol for leg in plan.legs]
    symbols = [*legs, *(symbol for symbol in services.universe if symbol not in legs)]
    ages = []
    for symbol in symbols:
        quote = market.quotes.get(symbol)
        age_s = None if quote is None else _aged(quote, market_now, clock).age_s
        ages.append(SymbolAge(symbol=symbol, age_s=age_s))
    return tuple(ages)


def _aged(quote: Quote, market_now: datetime, clock: ClockMap) -> AgedQuote:
    """Age in wall seconds: freshness is a machine duration at every speed."""
    market_age_s = (market_now - quote.venue_time) / timedelta(seconds=1)
    age_s = Decimal(str(round(clock.wall_duration_s(market_age_s), 6)))
    return AgedQuote(quote=quote, age_s=age_s)


def _risk_breaker(book: RiskBook) -> RiskBreaker:
    row = book.risk_breaker
    return RiskBreaker(state=row.state, reason=row.reason or None)


def _api_breaker(book: RiskBook) -> ApiBreaker | None:
    row = book.api_breaker
    if row.state is ApiBreakerState.CLOSED:
        return ApiBreaker()
    return None if row.changed_at is None else ApiBreaker(state=row.state, opened_at=row.changed_at)


def _working(book: RiskBook, plan: TradePlan) -> tuple[OwnWorkingOrder, ...]:
    """The other trades' orders in what the plan would trade; no other can cross it."""
    symbols = {leg.instrument.symbol for leg in plan.legs}
    return tuple(
        OwnWorkingOrder(
            trade_id=order.trade_id,
            client_id=order.client_id,
            symbol=order.symbol,
            side=order.side,
            remaining_quantity=order.remaining,
            limit_price=order.limit_price,
        )
        for order in book.working_orders
        if order.symbol in symbols and order.trade_id != plan.trade_id
    )


def _portfolio(book: RiskBook, plan: TradePlan) -> Portfolio:
    """What the other trades hold and have reserved; unexplained symbols are frozen."""
    others = [r for r in book.reservations if r.trade_id != plan.trade_id]
    positions = [p for p in book.positions if p.trade_id != plan.trade_id and p.quantity != 0]
    lots = {leg.instrument.symbol: leg.instrument.lot_size for leg in plan.legs}
    # Dust that a trade left there cannot be traded: no reason to freeze its symbol.
    frozen = tuple(
        p.symbol
        for p in positions
        if p.trade_id == EXTERNAL and abs(p.quantity) >= lots.get(p.symbol, ZERO)
    )
    held = {p.symbol: ZERO for p in positions}
    reserved = {r.symbol: ZERO for r in others}
    for p in positions:
        held[p.symbol] += p.quantity
    for r in others:
        reserved[r.symbol] += r.notional
    exposures = tuple(
        SymbolExposure(
            symbol=symbol, quantity=held.get(symbol, ZERO), notional=reserved.get(symbol, ZERO)
        )
        for symbol in sorted({*held, *reserved})
    )
    holding = {p.trade_id for p in positions}
    unfilled = [r.notional for r in others if r.trade_id not in holding]
    return Portfolio(
        open_positions=len(others) + len(frozen),
        total_notional=sum((r.notional for r in others), ZERO),
        reserved_cash=sum(unfilled, ZERO),
        exposures=exposures,
        frozen_symbols=frozen,
        open_legs=tuple(
            OpenLeg(trade_id=r.trade_id, symbol=leg.symbol, side=leg.side)
            for r in others
            for leg in r.legs
        ),
    )


def _strategy_book(book: RiskBook, plan: TradePlan) -> StrategyBook | None:
    """The plan's stored configuration with what its other trades hold and have reserved."""
    known = next((row for row in book.configurations if row.name == plan.strategy), None)
    if known is None:
        return None
    others = (r for r in book.reservations if r.trade_id != plan.trade_id)
    return StrategyBook(
        enabled=known.enabled,
        reason=known.reason,
        capital=known.capital,
        open_notional=sum((r.notional for r in others if r.strategy == known.name), ZERO),
    )


def _daily_loss(services: Services, market: MarketView, book: RiskBook) -> DailyLoss | None:
    """Equity now against the stored baseline; no baseline or no equity counts as tripped."""
    if market.account is None or book.baseline is None:
        return None
    baseline = DailyBaseline(
        account_id=book.baseline.account,
        roll_at=book.baseline.roll,
        equity=book.baseline.equity,
        read_at=book.baseline.read_at,
    )
    fraction = services.limits.max_daily_loss_fraction
    return judge(baseline, market.account.equity, book.transfers, fraction)


def _as_decision(judgement: Judgement) -> ReserveDecision:
    """The judgement in the ledger's words; the ticket is kept as the document."""
    ticket = judgement.ticket
    decision = judgement.decision
    return ReserveDecision(
        approved=ticket is not None,
        quantity=judgement.gate_input.quantity,
        notional=decision.order_notional,
        loss=decision.order_loss,
        verdicts=tuple(_verdict(verdict) for verdict in decision.verdicts),
        code=judgement.refusal_code,
        text=judgement.refusal_text[:500],
        document={} if ticket is None else ticket.model_dump(mode="json"),
    )


def _verdict(verdict: Verdict) -> GateVerdict:
    return GateVerdict(
        check=verdict.name,
        verdict=VerdictKind(verdict.outcome.value),
        code=verdict.code,
        facts=verdict.facts,
    )
