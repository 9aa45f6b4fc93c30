"""A session's trades as workflows: started as children in name only, and told things."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from temporalio import workflow
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import FailureError
from temporalio.workflow import ChildWorkflowHandle

with workflow.unsafe.imports_passed_through():
    from domain.clock import ClockMap
    from domain.closing import EXIT_SIGNAL
    from domain.facts import CloseRequested, FactEnvelope
    from domain.ids import trade_workflow_id
    from domain.messages import TradeInput, TradeResult
    from domain.plan import TradePlan
    from domain.session import ExitWish, SessionSpec
    from domain.trade_state import Stage
    from workflows import _lifecycle as life

REASON_MAX = 500


async def start_trade(
    plan: TradePlan, spec: SessionSpec, clock: ClockMap
) -> ChildWorkflowHandle[object, TradeResult]:
    """Starts the trade and waits for its start.

    Raises:
        WorkflowAlreadyStartedError: one id is one trade.
    """
    return await workflow.start_child_workflow(
        "Trade",
        TradeInput(
            plan=plan,
            installation=spec.installation,
            clock=clock,
            mode=spec.mode,
            build_id=spec.build_id,
        ),
        id=trade_workflow_id(plan.trade_id),
        result_type=TradeResult,
        parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        task_timeout=life.TASK_TIMEOUT,
        search_attributes=_attributes(plan, spec.mode),
        static_summary=f"{plan.side} {plan.symbol} · {plan.note or plan.strategy}",
    )


def _attributes(plan: TradePlan, mode: str) -> TypedSearchAttributes:
    return TypedSearchAttributes(
        [
            SearchAttributePair(life.TRADE_ID, plan.trade_id),
            SearchAttributePair(life.ACCOUNT, plan.account),
            SearchAttributePair(life.STRATEGY, plan.strategy),
            SearchAttributePair(life.SYMBOL, plan.symbol),
            SearchAttributePair(life.MODE, mode),
            SearchAttributePair(life.STAGE, Stage.RESERVING),
        ]
    )


async def tell_trades(trade_ids: Iterable[str], envelope: FactEnvelope) -> None:
    """Doorbells to the trades; one that has ended meanwhile does not hear it."""
    await asyncio.gather(*(tell_trade(trade_id, envelope) for trade_id in trade_ids))


async def send_exit(wish: ExitWish) -> tuple[str, ...]:
    """Tells the trades to close a part or all; answers those that heard it.

    The signal's id is the command's: however often it comes, it closes once.
    """
    fact = CloseRequested(
        at=workflow.now(),
        command_id=wish.signal_id,
        by=wish.by,
        reason=wish.reason[:REASON_MAX],
        fraction=wish.fraction,
        exit_name=EXIT_SIGNAL,
    )
    envelope = FactEnvelope.of(fact, sender="session")
    heard = await asyncio.gather(*(tell_trade(each, envelope) for each in wish.trade_ids))
    return tuple(each for each, told in zip(wish.trade_ids, heard, strict=True) if told)


async def tell_trade(trade_id: str, envelope: FactEnvelope) -> bool:
    """One doorbell; False if there is no such trade any more."""
    handle = workflow.get_external_workflow_handle(trade_workflow_id(trade_id))
    try:
        await handle.signal("facts", envelope)
    except FailureError as error:
        workflow.logger.info("trade %s did not hear: %s", trade_id, error)
        return False
    return True
