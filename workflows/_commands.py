"""Runs a trade's commands as tasks keyed by order; their answers become facts in the inbox.

The main loop never awaits a broker: it starts tasks here and looks again when facts arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    CancelledError,
    TimeoutError,
    TimeoutType,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from activities.by_hand import ByHandActivities, ByHandInput
    from activities.orders import OrderActivities
    from activities.reads import ReadActivities
    from activities.risk import RiskActivities
    from activities.services import (
        AlertInput,
        CancelInput,
        PlaceInput,
        QuoteInput,
        ReadInput,
        ReplaceInput,
        ReserveInput,
        ResolveInput,
        SettleInput,
        TradeRef,
        WalkInput,
        WatchInput,
    )
    from activities.trades import TradeActivities
    from domain.commands import (
        Alert,
        BookByHand,
        CancelOrder,
        Command,
        PlaceOrder,
        ReadBroker,
        ReadQuote,
        ReplaceOrder,
        ReserveRisk,
        ResolveOrder,
        Settle,
        Urgency,
        WalkStep,
        WatchExits,
    )
    from domain.dating import dated_within
    from domain.facts import CommandFailed, Fact, FactBatch, OrderNotSent, OrderUnknown
    from domain.ids import order_queue
    from workflows import _lifecycle as life


class CommandTasks:
    """Tasks of one trade, keyed by order id or step; keys never run twice at once."""

    def __init__(
        self,
        trade: Callable[[], TradeRef],
        interval: timedelta,
        settle_input: Callable[[Settle], SettleInput],
        build_id: str,
    ) -> None:
        self._trade_now = trade
        self._queue = order_queue(trade().account)
        self._entry_wait = max(interval, life.ENTRY_QUEUE_TIMEOUT_MIN)
        self._settle_input = settle_input
        self._build_id = build_id
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._commands: dict[str, Command] = {}

    @property
    def _trade(self) -> TradeRef:
        """The asking trade with its stage of this moment."""
        return self._trade_now()

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._tasks)

    @property
    def is_quiet(self) -> bool:
        return not self._tasks

    def start(self, commands: tuple[Command, ...], into: list[Fact]) -> None:
        """Starts each command under its key; answers are appended to `into`."""
        for command in commands:
            if command.key in self._tasks:
                continue
            task = asyncio.create_task(self._run(command, into))
            self._tasks[command.key] = task
            self._commands[command.key] = command

    def cancel_entries(self) -> None:
        """Takes queued entries back: *cancelled* then proves *not sent* (architecture §4)."""
        for key, command in self._commands.items():
            if _is_entry(command):
                self._tasks[key].cancel()

    async def _run(self, command: Command, into: list[Fact]) -> None:
        """Executes one command; whatever comes of it ends as facts, never as an exception."""
        asked_at = workflow.now()
        try:
            batch = await self._execute(command)
            heard_at = workflow.now()
            into.extend(dated_within(fact, asked_at, heard_at) for fact in batch.facts)
        except (ActivityError, asyncio.CancelledError) as error:
            into.extend(failure_facts(command, error))
        finally:
            del self._tasks[command.key]
            del self._commands[command.key]

    async def _execute(self, command: Command) -> FactBatch:
        trade = self._trade
        match command:
            case ReserveRisk():
                return await self._on_order_lane(
                    RiskActivities.reserve_risk,
                    ReserveInput(trade=trade, plan=command.plan, build_id=self._build_id),
                    Urgency.ENTRY,
                    life.READ_TIMEOUT,
                    life.READ_RETRY,
                    summary=f"risk gate {trade.symbols[0]}",
                )
            case PlaceOrder() | ReplaceOrder() | WalkStep() | CancelOrder() | ResolveOrder():
                return await self._order(command)
            case ReadBroker():
                return await self._on_order_lane(
                    ReadActivities.read_broker,
                    ReadInput(trade=trade, command=command),
                    command.urgency,
                    life.READ_TIMEOUT,
                    life.READ_RETRY,
                    summary=f"read broker: {command.reason}",
                    is_bare=command.is_bare,
                )
            case ReadQuote():
                return await self._on_order_lane(
                    ReadActivities.read_quote,
                    QuoteInput(trade=trade, command=command),
                    Urgency.EXIT,
                    life.READ_TIMEOUT,
                    life.READ_RETRY,
                    summary=f"read quote {trade.symbols[0]}",
                    is_bare=command.is_bare,
                )
            case WatchExits():
                return await self._book(
                    TradeActivities.watch_exits,
                    WatchInput(trade=trade, command=command),
                    f"watch {len(command.rules)} exit rules",
                )
            case BookByHand():
                return await self._book(
                    ByHandActivities.book_by_hand,
                    ByHandInput(trade=trade, command=command),
                    "book what a person changed",
                )
            case Alert():
                return await self._book(
                    TradeActivities.raise_alert,
                    AlertInput(trade=trade, command=command),
                    f"{command.severity} {command.code}",
                )
            case Settle():
                return await self._book(
                    TradeActivities.settle_trade,
                    self._settle_input(command),
                    f"settle {command.outcome} {command.exit_reason}".strip(),
                )

    async def _order(
        self, command: PlaceOrder | ReplaceOrder | WalkStep | CancelOrder | ResolveOrder
    ) -> FactBatch:
        trade, once = self._trade, life.ONE_ATTEMPT
        match command:
            case PlaceOrder():
                return await self._on_order_lane(
                    OrderActivities.place_order,
                    PlaceInput(trade=trade, command=command),
                    command.urgency,
                    life.SEND_TIMEOUT,
                    once,
                    summary=command.summary,
                    queue_wait=self._entry_wait if command.intent.increasing else None,
                    is_bare=not command.intent.increasing,
                )
            case ReplaceOrder():
                return await self._on_order_lane(
                    OrderActivities.replace_order,
                    ReplaceInput(trade=trade, command=command),
                    command.urgency,
                    life.WALK_TIMEOUT,
                    once,
                    summary=command.summary,
                    queue_wait=life.CHANGE_QUEUE_TIMEOUT,
                )
            case WalkStep():
                return await self._on_order_lane(
                    OrderActivities.walk_step,
                    WalkInput(trade=trade, command=command),
                    Urgency.ENTRY,
                    life.WALK_TIMEOUT,
                    once,
                    summary=command.summary,
                    queue_wait=self._entry_wait,
                )
            case CancelOrder():
                return await self._on_order_lane(
                    OrderActivities.cancel_order,
                    CancelInput(trade=trade, command=command),
                    command.urgency,
                    life.WALK_TIMEOUT,
                    once,
                    summary=command.summary,
                )
            case ResolveOrder():
                return await self._on_order_lane(
                    OrderActivities.resolve_order,
                    ResolveInput(trade=trade, command=command),
                    command.urgency,
                    life.RESOLVE_TIMEOUT,
                    once,
                    summary=f"resolve {command.intent.reason or command.intent.key.purpose}",
                )

    async def _on_order_lane(
        self,
        step: Any,
        argument: Any,
        urgency: Urgency,
        timeout: timedelta,
        retry: Any,
        *,
        summary: str,
        queue_wait: timedelta | None = None,
        is_bare: bool = False,
    ) -> FactBatch:
        result: FactBatch = await workflow.execute_activity_method(
            step,
            argument,
            task_queue=self._queue,
            start_to_close_timeout=timeout,
            heartbeat_timeout=life.BEAT_TIMEOUT,
            schedule_to_start_timeout=queue_wait,
            retry_policy=retry,
            priority=life.BARE_PRIORITY if is_bare else life.PRIORITY[urgency],
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=summary,
        )
        return result

    async def _book(self, step: Any, argument: Any, summary: str) -> FactBatch:
        result: FactBatch | None = await workflow.execute_activity_method(
            step,
            argument,
            start_to_close_timeout=life.BOOKKEEPING_TIMEOUT,
            retry_policy=life.REPEAT,
            priority=life.REPORT_PRIORITY,
            summary=summary,
        )
        return result if result is not None else FactBatch()


def _is_entry(command: Command) -> bool:
    if isinstance(command, PlaceOrder):
        return command.intent.increasing
    if isinstance(command, ResolveOrder):
        return command.may_repost and command.intent.increasing
    return isinstance(command, WalkStep)


def failure_facts(command: Command, error: BaseException) -> tuple[Fact, ...]:
    """What a step without an answer means for the trade.

    Cancelled or timed out in the queue proves that nothing was sent; anything else behind a send
    is unknown and will be resolved by broker evidence.
    """
    now = workflow.now()
    cause = error.cause if isinstance(error, ActivityError) else error
    if isinstance(command, PlaceOrder | ReplaceOrder | WalkStep | ResolveOrder):
        client_id = command.intent.client_id
        never_ran = isinstance(cause, TimeoutError) and cause.type in (
            TimeoutType.SCHEDULE_TO_START,
            TimeoutType.SCHEDULE_TO_CLOSE,
        )
        cancelled = isinstance(cause, CancelledError) or is_cancelled_exception(error)
        if (never_ran or cancelled) and not isinstance(command, ResolveOrder):
            code = "CANCELLED" if cancelled else "QUEUE_TIMEOUT"
            return (OrderNotSent(at=now, client_id=client_id, code=code, text=str(cause)[:120]),)
        return (OrderUnknown(at=now, client_id=client_id, reason=str(cause)[:120]),)
    code = type(cause).__name__ if cause is not None else "FAILED"
    return (CommandFailed(at=now, step=command.key, code=code, text=str(cause)[:200]),)
