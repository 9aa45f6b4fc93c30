"""Getting out by hand: through the Flatten workflow, or straight at the broker without servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from activities.emergency import (
    DirectFlatten,
    FlattenLine,
    HeldLeg,
    held_by_trades,
    held_by_us,
)
from activities.flatten import FlattenInput, FlattenReceipt, flatten_id
from activities.kill import EntrySweep, OrderFate, engage, known_entries, owner_by_ledger
from brokers.port import Broker
from cli.context import Target
from cli.output import print_json, print_rows, shown
from deploy.local.kill_journal import JournalKill
from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from domain.errors import BadInput, HoldfastError, Refused, Transient
from domain.ids import TRADE_QUEUE, trade_prefix
from ledger.records import EXTERNAL, TradePosition
from ledger.repository import Ledger
from observability.payload_codec import PayloadRefused
from settings import Settings

RECEIPT_POLL_S = 0.3
WORKFLOW_ANSWER_S = 4.0
LEDGER, JOURNAL = "ledger", "local journal"
TAKES_EFFECT = "takes effect once a worker runs: `up --resume`. Its kill stays until it is reset"


def utc_now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def ledger_if_up(target: Target) -> AsyncIterator[Ledger | None]:
    """The ledger, or None while it is away; an emergency goes on without."""
    async with contextlib.AsyncExitStack() as stack:
        found: Ledger | None = None
        with contextlib.suppress(HoldfastError, OSError):
            found = await stack.enter_async_context(target.ledger())
        yield found


async def flatten_scope(
    target: Target, scope: KillScope, command_id: str, *, by: str, reason: str, wait_s: float
) -> FlattenReceipt:
    """The receipt after at most `wait_s`; `done` only if the broker says flat."""
    settings = target.settings()
    given = FlattenInput(
        command_id=command_id, account=settings.account.name, scope=scope, by=by, reason=reason
    )
    await audit_flatten(target, scope, command_id, by=by, reason=reason)
    # Also without the keys of the payloads: the way out at the broker needs none.
    with contextlib.suppress(Transient, RPCError, BadInput, PayloadRefused):
        client = await target.temporal()
        receipt = await _by_workflow(client, given, wait_s)
        if receipt is not None:
            return receipt
    return await flatten_directly(target, settings, given)


async def audit_flatten(
    target: Target, scope: KillScope, command_id: str, *, by: str, reason: str
) -> None:
    """Who wanted a trade out: a rebuilt trade goes on with it. Nothing waits for a dead ledger."""
    if scope.kind is not KillScopeKind.TRADE:
        return
    details = {"command_id": command_id, "what": "asked", "reason": reason}
    async with ledger_if_up(target) as ledger:
        if ledger is not None:
            with contextlib.suppress(HoldfastError):
                await ledger.append_audit(by, "trade.flatten", scope.value, details)


async def _by_workflow(client: Client, given: FlattenInput, wait_s: float) -> FlattenReceipt | None:
    """Starts (or finds) the Flatten execution; None when no worker answers for it."""
    workflow_id = flatten_id(given.command_id, given.scope, given.account)
    with contextlib.suppress(WorkflowAlreadyStartedError):
        await client.start_workflow(
            "Flatten",
            given,
            id=workflow_id,
            task_queue=TRADE_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"flatten {given.scope.text}: {given.reason}"[:200],
        )
    handle = client.get_workflow_handle(workflow_id)
    deadline = asyncio.get_running_loop().time() + wait_s
    receipt = await _query(handle)
    while receipt is not None and not receipt.done:
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(RECEIPT_POLL_S)
        receipt = await _query(handle) or receipt
    return receipt


async def _query(handle: WorkflowHandle[object, object]) -> FlattenReceipt | None:
    try:
        async with asyncio.timeout(WORKFLOW_ANSWER_S):
            receipt: FlattenReceipt = await handle.query("receipt", result_type=FlattenReceipt)
    except (RPCError, TimeoutError):
        return None
    except Exception:
        # The SDK tells a worker-less query by several classes; no answer is no answer.
        return None
    return receipt


async def flatten_directly(
    target: Target, settings: Settings, given: FlattenInput
) -> FlattenReceipt:
    """Without Temporal: latch the stop, cancel entries, then close what is ours at the broker."""
    kill = KillSwitch(
        scope=given.scope,
        mode=KillMode.FLATTEN,
        reason=given.reason,
        by=given.by,
        command_id=given.command_id,
        engaged_at=utc_now(),
    )
    owner = None if given.scope.kind is KillScopeKind.ALL else given.account
    async with ledger_if_up(target) as ledger, target.broker(reserved=True) as broker:
        recorded_in = ""
        try:
            engaged = await engage(
                ledger,
                given.account,
                kill,
                journal=lambda: target.kill_journal.append(JournalKill(account=owner, kill=kill)),
            )
            recorded_in = JOURNAL if engaged.answer is None else LEDGER
        except Refused as error:
            if error.code != "KILL_LIFTED":
                raise
            # An old id again: entries stay allowed, but the way out is never closed.
        return await close_or_tell(broker, ledger, settings, kill, recorded_in)


async def close_or_tell(
    broker: Broker,
    ledger: Ledger | None,
    settings: Settings,
    kill: KillSwitch,
    recorded_in: str,
) -> FlattenReceipt:
    """As `close_positions`; where the broker does not answer, what becomes of the wish."""
    started = utc_now()
    try:
        return await close_positions(broker, ledger, settings, kill)
    except HoldfastError as error:
        # Not its text: that nothing was sent is true of one request, not of what was asked for.
        pending = f"not carried out now: {error.code}"
        if recorded_in:
            pending += f"; the flatten is recorded in the {recorded_in} and {TAKES_EFFECT}"
    return FlattenReceipt(
        command_id=kill.command_id,
        scope=kill.scope.text,
        by=kill.by,
        reason=kill.reason,
        done=False,
        pending=pending,
        started_at=started,
        at=utc_now(),
    )


async def close_positions(
    broker: Broker, ledger: Ledger | None, settings: Settings, kill: KillSwitch
) -> FlattenReceipt:
    """Entries first, then each position of ours inside the scope."""
    account, installation = settings.account.name, settings.account.installation
    started = utc_now()
    sweep = EntrySweep(
        broker,
        account,
        installation,
        kill,
        **({} if ledger is None else {"owner_of": owner_by_ledger(ledger)}),
    )
    await sweep.run_once(() if ledger is None else await known_entries(ledger, account, kill.scope))
    alive = [each for each in sweep.orders if each.fate is OrderFate.UNKNOWN]
    held, foreign = await _held(broker, ledger, settings, kill.scope)
    direct = DirectFlatten(
        broker,
        installation,
        kill.command_id,
        ledger=ledger,
        collar_fraction=settings.limits.collar_fraction,
        now=utc_now,
    )
    lines: tuple[FlattenLine, ...] = await direct.run(held)
    reasons = [line.why.removeprefix("PENDING ") for line in lines if line.why]
    reasons += [f"entry {each.client_id} is not proven dead" for each in alive]
    reasons += [f"{fault} could not be read" for fault in sweep.faults]
    if foreign:
        reasons.append(f"of no trade, left alone: {', '.join(foreign)}")
    is_flat = all(line.is_flat for line in lines) and not alive and not sweep.faults
    return FlattenReceipt(
        command_id=kill.command_id,
        scope=kill.scope.text,
        by=kill.by,
        reason=kill.reason,
        done=is_flat,
        pending="; ".join(reasons),
        lines=lines,
        trades=tuple(line.trade_id for line in lines if line.trade_id),
        started_at=started,
        at=utc_now(),
    )


async def _held(
    broker: Broker, ledger: Ledger | None, settings: Settings, scope: KillScope
) -> tuple[tuple[HeldLeg, ...], tuple[str, ...]]:
    """Ours inside the scope: by the ledger's trades where it is up, else by our order ids."""
    account, installation = settings.account.name, settings.account.installation
    if ledger is not None:
        owned = [row for row in await ledger.positions_by_trade(account) if row.quantity != 0]
        covered: list[str] = []
        for trade_id in dict.fromkeys(row.trade_id for row in owned):
            # Ended ones too: a late fill restarts nothing without Temporal (D9).
            trade = await ledger.trade(trade_id)
            if trade is not None and scope.covers(
                account=account,
                strategy=trade.strategy,
                symbols=(trade.symbol, *(leg.instrument.symbol for leg in trade.plan.legs)),
                trade_id=trade_id,
            ):
                covered.append(trade_id)
        ours = await held_by_trades(ledger, account, installation, covered)
        return ours, await _of_no_trade(broker, owned, scope)
    held, foreign = await held_by_us(broker, installation)
    match scope.kind:
        case KillScopeKind.SYMBOL:
            return tuple(leg for leg in held if leg.symbol == scope.value), ()
        case KillScopeKind.TRADE:
            prefix = trade_prefix(installation, scope.value)
            return tuple(leg for leg in held if leg.prefix == prefix), ()
        case KillScopeKind.STRATEGY:
            # Whose position it is only the ledger knows: another strategy's is not ours to close.
            named = tuple(f"{leg.symbol}: strategy unknown without the ledger" for leg in held)
            return (), (*foreign, *named)
        case _:
            return held, foreign


async def _of_no_trade(
    broker: Broker, owned: Sequence[TradePosition], scope: KillScope
) -> tuple[str, ...]:
    """What the broker holds inside the scope beyond the trades: named, never closed (K2)."""
    if scope.kind not in (KillScopeKind.ALL, KillScopeKind.ACCOUNT, KillScopeKind.SYMBOL):
        return ()
    rest = {position.symbol: position.quantity for position in await broker.positions()}
    for row in owned:
        if row.trade_id != EXTERNAL and row.symbol in rest:
            rest[row.symbol] -= row.quantity
    is_inside = {scope.value} if scope.kind is KillScopeKind.SYMBOL else set(rest)
    return tuple(f"{rest[each]:f} {each}" for each in sorted(is_inside & rest.keys()) if rest[each])


def show_receipt(receipt: FlattenReceipt, *, as_json: bool) -> None:
    """Found, sent, filled, left, why per symbol; PENDING is said, never hidden."""
    if as_json:
        print_json(receipt)
        return
    state = f"PENDING: {receipt.pending}"
    if receipt.done:
        state = "DONE: the broker says flat"
        if not receipt.is_flat:
            # What else the account holds has no stop of ours (K2).
            alone = [f"{line.left} {line.symbol}" for line in receipt.lines if line.left != 0]
            state = f"DONE, BUT NOT FLAT: {', '.join(alone) or receipt.pending}; adopt or close it"
    columns = ("symbol", "found", "sent", "filled", "left", "why", "trade_id")
    print_rows([line.model_dump() for line in receipt.lines], columns, as_json=False)
    print(f"flatten {receipt.scope} {receipt.command_id} at {shown(receipt.at)} — {state}")
