"""A plan file becomes a checked plan; starting it as a workflow."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from temporalio.client import Client
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError

from brokers.port import Broker
from deploy.temporal.attributes import ACCOUNT, MODE, STAGE, STRATEGY, SYMBOL, TRADE_ID
from deploy.temporal.versions import current_version
from domain.account import AssetInfo
from domain.clock import ClockMap
from domain.edge import BODY_BYTES_MAX
from domain.errors import BadInput, HoldfastError, Refused, file_to
from domain.ids import TRADE_QUEUE, trade_workflow_id
from domain.messages import TradeInput
from domain.plan import TradePlan
from domain.trade_state import Stage
from domain.validation import PlanContext, check_plan
from observability.build import build_id
from settings import Settings
from workflows._lifecycle import TASK_TIMEOUT

SYMBOLS_TIMEOUT_S = 3.0


def read_plan(path: Path, settings: Settings, clock: ClockMap) -> TradePlan:
    """The plan of the file, or the first thing wrong with it (faults.md §3).

    Raises:
        BadInput: with code and field.
    """
    try:
        with path.open("rb") as source:
            body = source.read(BODY_BYTES_MAX + 1)
    except OSError as error:
        raise BadInput("PLAN_FILE", "plan", str(path), file_to("read", error)) from None
    market_now = clock.market(datetime.now(UTC))
    context = PlanContext(
        market_now=market_now,
        session_date=market_now.date(),
        limits=settings.limits,
        restricted_symbols=tuple(settings.restricted_list().symbols),
        clock_map=clock,
    )
    plan = check_plan(body, context)
    if plan.account != settings.account.name:
        raise BadInput("ACCOUNT_UNKNOWN", "account", plan.account, settings.account.name)
    return plan


async def check_symbols(broker: Broker, plan: TradePlan) -> None:
    """The venue knows every leg. A venue that does not answer leaves it to the gate.

    Raises:
        BadInput, Refused: `SYMBOL_UNKNOWN`, as `tradable_asset`.
    """
    try:
        async with asyncio.timeout(SYMBOLS_TIMEOUT_S):
            for number, leg in enumerate(plan.legs):
                field = f"legs.{number}.instrument.symbol"
                await tradable_asset(broker, leg.instrument.symbol, field)
    except TimeoutError:
        return
    except HoldfastError as error:
        if error.code == "SYMBOL_UNKNOWN":
            raise


async def tradable_asset(broker: Broker, symbol: str, field: str) -> AssetInfo:
    """What the venue says of a symbol that a person typed.

    Raises:
        BadInput: `SYMBOL_UNKNOWN` (faults.md §3 row 14). Refused, Transient, Uncertain: from the
            broker; `SYMBOL_UNKNOWN` where it has never heard of it.
    """
    asset = await broker.asset(symbol)
    if not asset.tradable:
        raise BadInput("SYMBOL_UNKNOWN", field, symbol, "a tradable symbol")
    return asset


async def start_trade(client: Client, plan: TradePlan, settings: Settings, clock: ClockMap) -> str:
    """Starts the Trade workflow; one id is one trade for ever.

    Raises:
        Refused: `TRADE_EXISTS`.
    """
    mode = settings.broker.mode.value
    # The build that will run it, which need not be the code of this command.
    build = await current_version(client) or build_id()
    pairs = ((TRADE_ID, plan.trade_id), (ACCOUNT, plan.account), (STRATEGY, plan.strategy))
    more = ((SYMBOL, plan.symbol), (MODE, mode), (STAGE, Stage.RESERVING.value))
    try:
        handle = await client.start_workflow(
            "Trade",
            TradeInput(
                plan=plan,
                installation=settings.account.installation,
                clock=clock,
                mode=mode,
                build_id=build,
            ),
            id=trade_workflow_id(plan.trade_id),
            task_queue=TRADE_QUEUE,
            task_timeout=TASK_TIMEOUT,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            search_attributes=TypedSearchAttributes(
                [SearchAttributePair(key, value) for key, value in (*pairs, *more)]
            ),
            static_summary=f"{plan.side} {plan.symbol} · {plan.note or plan.strategy}"[:200],
        )
    except WorkflowAlreadyStartedError:
        raise Refused(f"trade was {plan.trade_id}", code="TRADE_EXISTS") from None
    return handle.id
