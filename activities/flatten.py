"""Steps of the Flatten workflow: look at broker and ledger, tell the trades, take over legs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from decimal import Decimal

from pydantic import AwareDatetime
from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import SearchAttributeKey

from activities.emergency import DirectFlatten, FlattenLine, held_by_trades
from activities.executions import book_executions, fills_of_trade
from activities.kill import is_our_entry
from activities.reporting import report_draft
from activities.services import Services
from domain.account import MarketClock
from domain.alerts import TEXT_MAX, AlertDraft
from domain.base import Frozen
from domain.commands import AlertSeverity
from domain.control import KillScope, KillScopeKind
from domain.errors import HoldfastError
from domain.facts import FactEnvelope, FlattenRequested
from domain.ids import (
    Purpose,
    flatten_workflow_id,
    parse_client_order_id,
    trade_digest,
    trade_workflow_id,
)
from domain.money import ZERO, total
from domain.order import Fill, OrderSnapshot
from ledger.records import EXTERNAL, IntentRecord, TradePosition, TradeRecord

TELL_CONCURRENCY = 40
REPORTED_PROBLEMS = SearchAttributeKey.for_keyword_list("TemporalReportedProblems")


class FlattenInput(Frozen):
    """A flatten of everything of ours in the scope; idempotent by `command_id`.

    `started_at`, `trade_ids` and `lines` are carried over a continue-as-new.
    """

    command_id: str
    account: str
    scope: KillScope
    by: str
    reason: str
    started_at: AwareDatetime | None = None
    trade_ids: tuple[str, ...] = ()
    lines: tuple[FlattenLine, ...] = ()
    taken_over: tuple[str, ...] = ()


class FlattenStep(Frozen):
    """What a step is about: the command and the trades found so far."""

    command_id: str
    account: str
    scope: KillScope
    by: str
    reason: str
    since: AwareDatetime
    trade_ids: tuple[str, ...] = ()


class FlattenLook(Frozen):
    """One look. `complete` False proves nothing from absence (R6).

    Its open trades are told all the same: a trade whose executions are not all read knows its own.
    """

    complete: bool
    trade_ids: tuple[str, ...] = ()
    lines: tuple[FlattenLine, ...] = ()
    open_trades: tuple[str, ...] = ()
    working_entries: tuple[str, ...] = ()
    wedged: tuple[str, ...] = ()
    fault: str = ""

    @property
    def is_flat(self) -> bool:
        """Only the broker's word counts: nothing held, no entry working, everything read."""
        return (
            self.complete
            and not self.working_entries
            and all(each.left == 0 for each in self.lines if each.trade_id != EXTERNAL)
        )


class FlattenReceipt(Frozen):
    """Per symbol: found, sent, filled, left, why. `done` is the broker's word, not ours.

    Done is about our trades: what no trade of ours owns is left alone and named (K2).
    """

    command_id: str
    scope: str
    by: str
    reason: str
    done: bool
    pending: str = ""
    lines: tuple[FlattenLine, ...] = ()
    trades: tuple[str, ...] = ()
    taken_over: tuple[str, ...] = ()
    started_at: AwareDatetime
    at: AwareDatetime

    @property
    def is_flat(self) -> bool:
        """True if the broker holds nothing inside the scope any more, of no trade either."""
        return self.done and not self.pending and all(line.left == 0 for line in self.lines)


def flatten_id(command_id: str, scope: KillScope, account: str) -> str:
    """Workflow id of a flatten; scope `all` runs once per account."""
    if scope.kind is KillScopeKind.ALL:
        return flatten_workflow_id(f"{command_id}-{account}")
    return flatten_workflow_id(command_id)


class FlattenActivities:
    """Runs on the order lane of the account, ahead of everything else."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @activity.defn(name="look_for_flat")
    async def look_for_flat(self, step: FlattenStep) -> FlattenLook:
        """Books what was executed, then compares ledger and broker; never raises for a fault."""
        # Side by side: a ledger that is slow to take the alert must not hold up the look.
        look, _ = await asyncio.gather(self._look(step), self._tell_begin(step))
        return look

    async def _tell_begin(self, step: FlattenStep) -> None:
        if not step.trade_ids:
            await report_draft(self._services, _alert_of(step))

    async def _look(self, step: FlattenStep) -> FlattenLook:
        services = self._services
        try:
            await book_executions(services)
            clock = await services.broker.market_clock()
            orders = await services.broker.open_orders()
            trades = await self._trades(step)
            unread = [t.trade_id for t in trades if await self._misses_executions(t)]
            owned = await services.ledger.positions_by_trade(step.account)
            # The broker last: what it still holds behind all that is held by nobody we know.
            held = {p.symbol: p.quantity for p in await services.broker.positions()}
            lines = await self._lines(step, trades, clock, owned, held)
            wedged = await self._wedged(step, lines)
        except HoldfastError as error:
            return FlattenLook(complete=False, trade_ids=step.trade_ids, fault=error.code)
        return FlattenLook(
            complete=not unread,
            trade_ids=tuple(trade.trade_id for trade in trades),
            lines=lines,
            open_trades=tuple(t.trade_id for t in trades if t.closed_at is None),
            working_entries=tuple(self._entries(trades, orders)),
            # What such a trade holds is not known to the ledger: nobody else closes it.
            wedged=tuple(each for each in wedged if each not in unread),
            fault=" ".join(("EXECUTIONS_MISSING", *unread)) if unread else "",
        )

    async def _trades(self, step: FlattenStep) -> list[TradeRecord]:
        """Trades in the scope that are open, or ended and hold or work, and those found earlier.

        A late fill and an entry that works after all restart their trade a moment later (D9, C5).
        """
        ledger = self._services.ledger
        listed = await ledger.list_trades(account=step.account, open_only=True)
        found = {trade.trade_id: trade for trade in listed if _covers(step.scope, trade)}
        known = {trade.trade_id for trade in listed} | set(step.trade_ids)
        holding = {row.trade_id for row in await ledger.positions_by_trade(step.account)}
        late = holding | set((await ledger.open_after_the_end(step.account)).values())
        for trade_id in (*step.trade_ids, *sorted(late - known)):
            if trade_id not in found:
                trade = await ledger.trade(trade_id)
                if trade is not None and (trade_id in known or _covers(step.scope, trade)):
                    found[trade_id] = trade
        return list(found.values())

    async def _misses_executions(self, trade: TradeRecord) -> bool:
        book = await self._services.ledger.trade_book(trade.trade_id)
        return book is not None and book.misses_executions

    async def _lines(
        self,
        step: FlattenStep,
        trades: Sequence[TradeRecord],
        clock: MarketClock,
        positions: Sequence[TradePosition],
        held: dict[str, Decimal],
    ) -> tuple[FlattenLine, ...]:
        ledger = self._services.ledger
        lines: list[FlattenLine] = []
        for trade in trades:
            exits = _exits_since(await ledger.orders_of_trade(trade.trade_id), step)
            filled = _by_symbol(exits, await fills_of_trade(self._services, trade.trade_id))
            for leg in trade.plan.legs:
                symbol = leg.instrument.symbol
                own = total(p.quantity for p in positions if _is(p, trade.trade_id, symbol))
                others = total(
                    p.quantity
                    for p in positions
                    if p.symbol == symbol and p.trade_id != trade.trade_id
                )
                # The broker has the last word on what is left of ours.
                left = held.get(symbol, ZERO) - others if own == 0 else own
                is_foreign = own == 0 and any(_is(p, EXTERNAL, symbol) for p in positions)
                lines.append(
                    FlattenLine(
                        symbol=symbol,
                        found=left,
                        sent=total(each.intent.body.quantity for each in exits),
                        filled=filled.get(symbol, ZERO),
                        left=ZERO if is_foreign else left,
                        why="" if left == 0 or is_foreign else _why(clock, symbol),
                        trade_id=trade.trade_id,
                    )
                )
        return (*lines, *_left_alone(step.scope, positions, held, lines))

    def _entries(self, trades: Sequence[TradeRecord], orders: Sequence[OrderSnapshot]) -> list[str]:
        """Client ids of entries that still work at the broker (K2)."""
        installation = self._services.installation
        digests = {trade_digest(trade.trade_id) for trade in trades}
        return [
            order.client_id
            for order in orders
            if order.client_id is not None
            and is_our_entry(order, installation)
            and (parts := parse_client_order_id(order.client_id)) is not None
            and parts.trade_digest in digests
        ]

    async def _wedged(self, step: FlattenStep, lines: Sequence[FlattenLine]) -> list[str]:
        """Trades that hold something and whose workflow does not work on it."""
        holding = dict.fromkeys(
            line.trade_id for line in lines if line.left != 0 and line.trade_id != EXTERNAL
        )
        return [each for each in holding if await self._is_wedged(step, each)]

    async def _is_wedged(self, step: FlattenStep, trade_id: str) -> bool:
        handle = activity.client().get_workflow_handle(trade_workflow_id(trade_id))
        try:
            described = await handle.describe()
        except Exception:
            # Not found, or the server does not say: nobody is seen to work on it.
            return True
        if described.status is not WorkflowExecutionStatus.RUNNING:
            return True
        if described.typed_search_attributes.get(REPORTED_PROBLEMS):
            return True
        orders = await self._services.ledger.orders_of_trade(trade_id)
        return not _exits_since(orders, step)

    @activity.defn(name="tell_flatten")
    async def tell_flatten(self, step: FlattenStep) -> tuple[str, ...]:
        """Doorbell to every trade; returns the ones that could not be told."""
        fact = FlattenRequested(
            at=self._services.now(), command_id=step.command_id, by=step.by, reason=step.reason
        )
        envelope = FactEnvelope.of(fact, sender=f"flatten/{step.command_id}")
        client, free = activity.client(), asyncio.Semaphore(TELL_CONCURRENCY)
        not_told: list[str] = []

        async def tell(trade_id: str) -> None:
            async with free:
                try:
                    handle = client.get_workflow_handle(trade_workflow_id(trade_id))
                    await handle.signal("facts", envelope)
                except Exception as error:
                    activity.logger.warning("trade %s was not told: %r", trade_id, error)
                    not_told.append(trade_id)

        await asyncio.gather(*(tell(trade_id) for trade_id in step.trade_ids))
        return tuple(not_told)

    @activity.defn(name="take_over_legs")
    async def take_over_legs(self, step: FlattenStep) -> tuple[FlattenLine, ...]:
        """Closes the ledger legs of trades that do not answer, at the broker directly."""
        services = self._services
        held = await held_by_trades(
            services.ledger, services.account, services.installation, step.trade_ids
        )
        await services.ledger.append_audit(
            "flatten", "take_over", step.command_id, {"trades": list(step.trade_ids)}
        )
        direct = DirectFlatten(
            services.broker,
            services.installation,
            step.command_id,
            ledger=services.ledger,
            collar_fraction=services.limits.collar_fraction,
            now=services.now,
            allow_market=services.allow_market_exits,
        )
        limit = activity.info().start_to_close_timeout
        lines = await direct.run(held, math.inf if limit is None else limit.total_seconds())
        await book_executions(services)
        return lines


def _alert_of(step: FlattenStep) -> AlertDraft:
    """One alert for the whole command, whoever looks first."""
    return AlertDraft(
        key=f"flatten/{step.command_id}/{step.account}",
        account=step.account,
        code="FLATTEN",
        severity=AlertSeverity.CRITICAL,
        text=f"{step.scope.text} by {step.by}: {step.reason}"[:TEXT_MAX],
        once=True,
    )


def _covers(scope: KillScope, trade: TradeRecord) -> bool:
    return scope.covers(
        account=trade.account,
        strategy=trade.strategy,
        symbols=(trade.symbol, *(leg.instrument.symbol for leg in trade.plan.legs)),
        trade_id=trade.trade_id,
    )


def _left_alone(
    scope: KillScope,
    positions: Sequence[TradePosition],
    held: dict[str, Decimal],
    lines: Sequence[FlattenLine],
) -> tuple[FlattenLine, ...]:
    """What the broker holds of no trade of ours: never closed, never hidden either (K2).

    The broker's word counts: also what the ledger has under nobody, or under a trade that it does
    not know, as after an older copy of it was put back.
    """
    match scope.kind:
        case KillScopeKind.ALL | KillScopeKind.ACCOUNT:
            inside = set(held)
        case KillScopeKind.SYMBOL:
            inside = {scope.value}
        case _:
            return ()
    nobodys = {p.symbol: p.quantity for p in positions if p.trade_id == EXTERNAL}
    moving = {line.symbol for line in lines if line.left != 0}
    found = {
        symbol: nobodys.get(symbol, ZERO) if symbol in moving else held[symbol]
        for symbol in sorted(inside & held.keys())
    }
    return tuple(
        FlattenLine(
            symbol=symbol,
            found=rest,
            left=rest,
            why="of no trade: left alone",
            trade_id=EXTERNAL,
        )
        for symbol, rest in found.items()
        if rest != 0 and held[symbol] != 0
    )


def _exits_since(orders: Sequence[IntentRecord], step: FlattenStep) -> list[IntentRecord]:
    wanted = (Purpose.EXIT, Purpose.FLATTEN)
    return [o for o in orders if o.intent.key.purpose in wanted and o.gate_at >= step.since]


def _by_symbol(exits: Sequence[IntentRecord], fills: Sequence[Fill]) -> dict[str, Decimal]:
    """What these orders filled. An execution that was read (not streamed) has no client id."""
    shown = [each.snapshot for each in exits if each.snapshot is not None]
    parts = [part.broker_order_id for order in shown for part in (order, *order.legs)]
    numbers = {*parts, *(each.broker_order_id for each in exits)}
    names = {each.intent.client_id for each in exits}
    found: dict[str, Decimal] = {}
    for fill in fills:
        if fill.client_id in names or fill.broker_order_id in numbers:
            found[fill.symbol] = found.get(fill.symbol, ZERO) + fill.quantity
    return found


def _is(position: TradePosition, trade_id: str, symbol: str) -> bool:
    return (position.trade_id, position.symbol) == (trade_id, symbol)


def _why(clock: MarketClock, symbol: str) -> str:
    if not clock.is_open:
        at = "" if clock.next_open is None else f" until {clock.next_open.isoformat()}"
        return f"PENDING MARKET_CLOSED{at}"
    if symbol in clock.halted_symbols:
        return "PENDING HALTED"
    return "PENDING exit on its way"
