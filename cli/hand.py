"""One command of a person to one trade: audited, asked, followed until it is known what became.

The trade's version goes with every command: the one the operator saw (`--version`), else the one
read right before. Nothing here waits for a broker; the trade is asked how far it is.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic_core import PydanticCustomError
from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import FailureError
from temporalio.service import RPCError, RPCStatusCode

from cli.context import Target, TemporalDown
from domain.errors import BadInput, HoldfastError, Refused, Transient
from domain.ids import check_id, trade_workflow_id
from domain.messages import CommandAnswer, OperatorRequest, Receipt, TradeStatus
from domain.money import exact
from domain.operator_checks import IDEMPOTENCY_MISMATCH, body_of
from domain.order import Side
from domain.outcomes import Progress
from ledger.records import TradeRecord
from ledger.repository import Ledger

UPDATE_TIMEOUT = timedelta(seconds=10)
QUERY_TIMEOUT = timedelta(seconds=2)
ASK_AGAIN_S = 0.2
REASON_MAX = 500
_MARKET_VERBS = frozenset({"move_stop", "move_target"})


@dataclass(frozen=True)
class Hand:
    """Who commands which trade to do what. `wait_s` is how long the answer is waited for."""

    trade_id: str
    verb: str
    request: OperatorRequest
    wait_s: float = 15.0


def number_of(field: str, text: str) -> Decimal:
    """The number a person typed (faults.md §3 rows 1-9).

    Raises:
        BadInput: NOT_FINITE, NUMBER_TYPE, NUMBER_OUT_OF_RANGE.
    """
    try:
        return exact(text)
    except PydanticCustomError as error:
        raise BadInput(error.type, field, text, "a plain number such as 101.25") from None


def check_words(field: str, text: str) -> str:
    """What goes into the audit must say something, shortly (faults.md §3 row 66).

    Raises:
        BadInput: `REASON_REQUIRED`, `REASON_TOO_LONG`.
    """
    if not text.strip():
        raise BadInput("REASON_REQUIRED", field, text, "why, in words")
    if len(text) > REASON_MAX:
        raise BadInput("REASON_TOO_LONG", field, len(text), f"<= {REASON_MAX} characters")
    return text


async def command_trade(target: Target, hand: Hand) -> dict[str, Any]:
    """Gives the command and answers what became of it, as far as that is known in time.

    Raises:
        BadInput: `TRADE_UNKNOWN`. Refused: the trade said no, with its own code.
        TemporalDown, LedgerDown: nothing was commanded.
    """
    check_id(hand.trade_id, "trade_id")
    check_id(hand.request.command_id, "command_id")
    client = await target.temporal()
    async with target.ledger() as ledger:
        trade = await _open_trade(ledger, hand)
        request = await _with_market(target, trade, hand)
        handle = client.get_workflow_handle(trade_workflow_id(hand.trade_id))
        if request.version is None:
            seen = await _status(handle)
            request = request.model_copy(update={"version": seen and seen.version})
        hand = Hand(hand.trade_id, hand.verb, request, hand.wait_s)
        await _audit(ledger, hand, "asked", _asked(request))
        try:
            await _send(handle, hand)
        except HoldfastError as error:
            await _audit(ledger, hand, "refused", {"code": error.code, "text": error.text})
            raise
        answer = await _follow(handle, hand)
        await _audit(ledger, hand, "answered", answer.model_dump(mode="json"))
    return {"trade_id": hand.trade_id, "verb": hand.verb, "by": request.by} | answer.model_dump()


async def ask_outcome(client: Client, trade_id: str, command_id: str) -> CommandAnswer:
    """What became of an earlier command.

    Raises:
        BadInput: `TRADE_UNKNOWN`. TemporalDown: nobody answers for the trade.
    """
    check_id(trade_id, "trade_id")
    try:
        answer: CommandAnswer = await client.get_workflow_handle(trade_workflow_id(trade_id)).query(
            "outcome", command_id, result_type=CommandAnswer, rpc_timeout=QUERY_TIMEOUT
        )
    except (WorkflowQueryFailedError, WorkflowQueryRejectedError) as error:
        raise TemporalDown(str(error)) from error
    except RPCError as error:
        raise _of_rpc(error, trade_id) from error
    return answer


async def _open_trade(ledger: Ledger, hand: Hand) -> TradeRecord:
    """Row 65: a trade that nobody knows is not one that has ended."""
    trade = await ledger.trade(hand.trade_id)
    if trade is None:
        allowed = "an open trade; see starter.py trade list"
        raise BadInput("TRADE_UNKNOWN", "trade_id", hand.trade_id, allowed)
    if trade.closed_at is not None:
        raise Refused(f"trade {hand.trade_id} ended: {trade.result}", code="ALREADY_CLOSED")
    return trade


async def _with_market(target: Target, trade: TradeRecord, hand: Hand) -> OperatorRequest:
    """The request with the market's price, so that a price beyond it is not taken by mistake.

    Without a price the command still goes: a stop must be movable when quotes are away.
    """
    plan, request = trade.plan, hand.request
    if hand.verb not in _MARKET_VERBS or plan.is_combo or request.marketable:
        return request
    try:
        async with target.broker() as broker:
            quotes = await broker.quotes([plan.symbol])
    except HoldfastError:
        return request
    quote = quotes.get(plan.symbol)
    if quote is None:
        return request
    reference = quote.bid if plan.side is Side.BUY else quote.ask
    return request.model_copy(update={"reference": reference})


async def _send(handle: WorkflowHandle[Any, Any], hand: Hand) -> Receipt:
    """The update; its id is the command's, so that a repeat answers the first receipt (I17)."""
    request = hand.request
    try:
        receipt: Receipt = await handle.execute_update(
            hand.verb,
            request,
            id=request.command_id,
            result_type=Receipt,
            rpc_timeout=UPDATE_TIMEOUT,
        )
    except WorkflowUpdateFailedError as error:
        raise refused_by(error) from None
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        again = f"repeat --command-id {request.command_id}"
        text = f"no worker answered; it may still be taken: {again}"
        raise TemporalDown(text) from error
    except RPCError as error:
        raise _of_rpc(error, hand.trade_id) from error
    if receipt.body_hash and receipt.body_hash != body_of(request.fact(hand.verb, _now())):
        text = f"{IDEMPOTENCY_MISMATCH} command_id: {request.command_id} was another command"
        raise Refused(text, code=IDEMPOTENCY_MISMATCH)
    return receipt


def refused_by(error: WorkflowUpdateFailedError) -> Refused:
    """The trade's no, in its own words: `str` of a failure would put its type before its code."""
    cause = error.cause
    text = cause.message if isinstance(cause, FailureError) else str(cause)
    return Refused(text, code=text.split(" ", 1)[0] or "REFUSED")


def quantity_of(text: str) -> Decimal:
    """The units a person typed.

    Raises:
        BadInput: as `number_of`; QTY_NOT_POSITIVE.
    """
    size = number_of("qty", text)
    if size <= 0:
        raise BadInput("QTY_NOT_POSITIVE", "qty", text, "> 0")
    return size


def _of_rpc(error: RPCError, trade_id: str) -> HoldfastError:
    if error.status is RPCStatusCode.NOT_FOUND:
        allowed = "a running trade; see starter.py trade list, or starter.py restore"
        return BadInput("TRADE_NOT_RUNNING", "trade_id", trade_id, allowed)
    if error.status is RPCStatusCode.FAILED_PRECONDITION:
        text = "its workflow cannot go on (see its page in the Web UI); kill and flatten work"
        return Transient(f"trade {trade_id}: {text} without it", code="TRADE_STUCK")
    return TemporalDown(error.message)


async def _follow(handle: WorkflowHandle[Any, Any], hand: Hand) -> CommandAnswer:
    """Asks until it is done or refused, or the time is up."""
    command_id = hand.request.command_id
    until = asyncio.get_running_loop().time() + hand.wait_s
    answer = CommandAnswer(command_id=command_id, progress=Progress.UNKNOWN, text="recorded")
    while True:
        # A worker that is busy or away is asked again: the command is recorded.
        with suppress(RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
            answer = await handle.query(
                "outcome", command_id, result_type=CommandAnswer, rpc_timeout=QUERY_TIMEOUT
            )
        is_over = answer.progress in (Progress.DONE, Progress.REFUSED)
        if is_over or asyncio.get_running_loop().time() > until:
            return answer
        await asyncio.sleep(ASK_AGAIN_S)


async def _status(handle: WorkflowHandle[Any, Any]) -> TradeStatus | None:
    try:
        status: TradeStatus = await handle.query(
            "status", result_type=TradeStatus, rpc_timeout=QUERY_TIMEOUT
        )
    except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
        return None
    return status


def _asked(request: OperatorRequest) -> dict[str, object]:
    return request.model_dump(mode="json", exclude_defaults=True, exclude={"by"})


async def _audit(ledger: Ledger, hand: Hand, what: str, details: dict[str, object]) -> None:
    """Who, why and under which id; before the command and after it (I12)."""
    details = {"command_id": hand.request.command_id, "what": what, **details}
    await ledger.append_audit(hand.request.by, f"trade.{hand.verb}", hand.trade_id, details)


def _now() -> datetime:
    return datetime.now(UTC)
