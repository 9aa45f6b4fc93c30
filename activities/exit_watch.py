"""The exit watch of one account: evaluates rule exits on fresh quotes and tells the trade once.

Ticks never enter workflow history (architecture §6): only `exit_triggered` with its rule and
position epoch does, so that two watchers or a restart give one exit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import ValidationError
from temporalio import activity

from activities.doorbell import EXIT_SIGNAL, Doorbell, Send
from activities.lease import lead_for_ever
from activities.quotes import net_quote
from activities.reporting import report, report_draft
from activities.services import Services, StreamInput
from domain.account import MarketClock
from domain.alerts import TEXT_MAX, AlertDraft
from domain.clock import ClockMap
from domain.commands import AlertSeverity
from domain.errors import HoldfastError
from domain.exits.rules import DEFAULT_GUARDS, Guards, Triggered, WatchState, evaluate
from domain.facts import ExitTriggered
from domain.money import ZERO
from domain.order import Quote, Side
from domain.plan import ExitRule, RuleKind, TradePlan
from ledger.records import WatchRecord

WATCH_CHANNEL = "holdfast_watches"
REREAD_S = 5.0
SAVE_EVERY_S = 2.0
LATE_S = 5.0

Key = tuple[str, str]


def lease_name(account: str) -> str:
    """Ledger lease of the account's exit watch."""
    return f"exit-watch/{account}"


class Watched:
    """One rule on one trade with what the ledger does not keep between two looks."""

    def __init__(self, record: WatchRecord, plan: TradePlan) -> None:
        document = record.document
        self.record = record
        self.plan = plan
        self.rule = ExitRule.model_validate(document["rule"])
        self.clock = ClockMap.model_validate(document["clock"])
        self.evaluated_at = record.evaluated_at
        self.saved_at: datetime | None = None
        self.is_late = False
        self.is_spike_told = False
        self.state = WatchState(
            rule_id=record.rule_id,
            position_epoch=record.position_epoch,
            side=Side(str(document["side"])),
            entry_price=Decimal(str(document["average_entry"])),
            quantity=abs(Decimal(str(document["units"]))),
            multiplier=plan.instrument.multiplier,
            opened_at=datetime.fromisoformat(str(document["opened_at"])),
            high_water=record.high_water_mark,
            confirmations=record.confirmations,
            last_confirmed_at=record.confirmed_at,
            base_mark=record.last_mark,
        )

    @property
    def symbols(self) -> tuple[str, ...]:
        if self.rule.symbol is not None:
            return (self.rule.symbol,)
        return tuple(leg.instrument.symbol for leg in self.plan.legs)

    def quote(self, quotes: Mapping[str, Quote]) -> Quote | None:
        """Net quote of a unit of the position, or the quote of the rule's own symbol."""
        if self.rule.symbol is not None:
            return quotes.get(self.rule.symbol)
        return net_quote(self.plan.legs, quotes, self.plan.symbol)

    def anew(self, asked: WatchRecord) -> WatchRecord:
        """The row as it was asked for again: its stop was moved, or the trade was rebuilt and has
        not heard that the rule fired. The marks stay, what was confirmed was the old rule."""
        update = {"document": asked.document, "confirmations": 0, "confirmed_at": None}
        return self.progress().model_copy(update=update)

    def progress(self) -> WatchRecord:
        """The row to save."""
        state = self.state
        return self.record.model_copy(
            update={
                "high_water_mark": state.high_water,
                "last_mark": state.base_mark,
                "confirmations": state.confirmations,
                "confirmed_at": state.last_confirmed_at,
                "evaluated_at": self.evaluated_at,
            }
        )


class ExitWatch:
    """Reads the list of watches, looks at the market every interval, tells trades."""

    def __init__(
        self,
        services: Services,
        send: Send,
        input: StreamInput,
        guards: Guards = DEFAULT_GUARDS,
    ) -> None:
        self._services = services
        self._guards = guards
        self._input = input
        self._doorbell = Doorbell(send, sender=f"watch/{services.account}", now=services.now)
        self._watched: dict[Key, Watched] = {}
        self._changed = asyncio.Event()
        self._clock: MarketClock | None = None
        self._clock_read_s = 0.0
        self._spikes: list[tuple[Watched, str]] = []

    async def run(self, holder: str) -> None:
        """Watches whenever the lease is free, for ever."""
        name = lease_name(self._services.account)
        try:
            await lead_for_ever(self._services, name, holder, self._jobs)
        finally:
            await self._doorbell.aclose()

    def _jobs(self) -> list[Coroutine[Any, Any, None]]:
        return [self._listen(), self._read_list_always(), self._look_always()]

    # --- the list -------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """A change of the list wakes the reader; without the line it still reads every 5 s."""
        while True:
            try:
                lines: AsyncGenerator[tuple[str, str], None] = self._services.ledger.listen(
                    WATCH_CHANNEL
                )
                async with aclosing(lines):
                    async for _channel, payload in lines:
                        if payload in ("", self._services.account):
                            self._changed.set()
            except HoldfastError as error:
                activity.logger.warning("line of watches: %s", error.code)
                await asyncio.sleep(REREAD_S)

    async def _read_list_always(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self.read_list()
            except HoldfastError as error:
                # The old list goes on: a watch that ended is refused by its epoch.
                activity.logger.warning("list of watches: %s", error.code)
            try:
                async with asyncio.timeout(REREAD_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def read_list(self) -> None:
        """Takes over new and changed rows, drops those that are gone."""
        ledger = self._services.ledger
        rows = await ledger.list_watches(self._services.account)
        found: dict[Key, Watched] = {}
        for row in rows:
            key = (row.trade_id, row.rule_id)
            known = self._watched.get(key)
            if known is not None and known.record.position_epoch == row.position_epoch:
                if known.record.document == row.document:
                    found[key] = known
                    continue
                row = known.anew(row)
            trade = await ledger.trade(row.trade_id)
            if trade is None:
                continue
            try:
                found[key] = Watched(row, trade.plan)
            except (ValidationError, ValueError, KeyError, ArithmeticError) as error:
                text = f"rule {row.rule_id}: {type(error).__name__}"
                await report(self._services, "WATCH_UNREADABLE", text, row.trade_id)
        self._watched = found

    # --- the look -------------------------------------------------------------------------------

    async def _look_always(self) -> None:
        while True:
            await asyncio.sleep(self._input.quote_interval_s)
            try:
                await self.look()
            except HoldfastError as error:
                activity.logger.warning("look of the exit watch: %s", error)
            await self._tell_late()

    async def look(self) -> None:
        """One batched quote read, every rule evaluated on it."""
        watched = list(self._watched.values())
        if not watched:
            return
        clock = await self._market_clock()
        symbols = sorted({symbol for each in watched for symbol in each.symbols})
        quotes = await self._services.broker.quotes(symbols)
        self._services.meter.count("ticks", len(quotes), source="exit_watch")
        newest = max((quote.venue_time for quote in quotes.values()), default=clock.market_now)
        market_now = max(clock.market_now, newest)
        for each in watched:
            self._evaluate(each, each.quote(quotes), market_now)
        for each in watched:
            await self._save(each)
        await self._tell_spikes()

    async def _tell_spikes(self) -> None:
        """After the trades were rung: an alert may not hold up an emergency exit."""
        while self._spikes:
            each, text = self._spikes.pop()
            record = each.record
            draft = AlertDraft(
                key=f"volatility-exit/{record.trade_id}/{record.rule_id}/{record.position_epoch}",
                account=record.account,
                trade_id=record.trade_id,
                code="VOLATILITY_EXIT",
                severity=AlertSeverity.WARNING,
                text=f"{record.symbol}: {text}"[:TEXT_MAX],
                once=True,
            )
            await report_draft(self._services, draft)

    async def _market_clock(self) -> MarketClock:
        """The venue's clock, read every few seconds; quotes carry it forward between reads."""
        read_s = self._services.monotonic()
        if self._clock is None or read_s - self._clock_read_s >= self._input.clock_interval_s:
            self._clock = await self._services.broker.market_clock()
            self._clock_read_s = read_s
        return self._clock

    def _evaluate(self, each: Watched, quote: Quote | None, market_now: datetime) -> None:
        mark, age_s = None, None
        if quote is not None:
            mark = quote.mid
            market_age_s = (market_now - quote.venue_time) / timedelta(seconds=1)
            age_s = max(ZERO, Decimal(str(round(each.clock.wall_duration_s(market_age_s), 6))))
        before = each.state
        each.state, outcome = evaluate(each.rule, before, mark, age_s, market_now, self._guards)
        # A look that was used makes a new state, even where the market's time stands still.
        was_used = each.state is not before and each.state.last_eval_at == market_now
        if was_used or before.triggered:
            each.evaluated_at = self._services.now()
        if isinstance(outcome, Triggered):
            fact = ExitTriggered(
                at=self._services.now(),
                rule_id=outcome.rule_id,
                position_epoch=outcome.position_epoch,
                mark=outcome.mark,
                text=outcome.text,
            )
            self._doorbell.ring(each.record.trade_id, fact, signal=EXIT_SIGNAL)
            if each.rule.kind is RuleKind.VOLATILITY_SPIKE and not each.is_spike_told:
                each.is_spike_told = True
                self._spikes.append((each, outcome.text))

    async def _save(self, each: Watched) -> None:
        """Saves what moved, at most every two seconds unless a confirmation was counted."""
        now, row = self._services.now(), each.progress()
        is_due = each.saved_at is None or (now - each.saved_at).total_seconds() >= SAVE_EVERY_S
        if row == each.record or not (is_due or row.confirmations != each.record.confirmations):
            return
        await self._services.ledger.save_watch_progress(row)
        each.record, each.saved_at = row, now

    async def _tell_late(self) -> None:
        """Alerts once per rule that had no usable look for 5 s while the market is open."""
        if self._clock is None or not self._clock.is_open:
            return
        now = self._services.now()
        for each in self._watched.values():
            if each.evaluated_at is None:
                each.evaluated_at = now
            age_s = (now - each.evaluated_at).total_seconds()
            if age_s > LATE_S and not each.is_late:
                text = f"rule {each.rule.rule_id} was not evaluated for {age_s:.0f} s"
                await report(
                    self._services,
                    "EXIT_WATCH_LATE",
                    text,
                    each.record.trade_id,
                    AlertSeverity.WARNING,
                )
            each.is_late = age_s > LATE_S
