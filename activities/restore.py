"""Rebuilds trades from the ledger and starts their workflows again (architecture §5).

Two occasions: a fill or a working order of a trade whose workflow has ended (D9), and a lost or
rewound Temporal store (`starter.py restore`).
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity
from temporalio.client import Client, WorkflowHandle, WorkflowSerializationContext
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from activities.by_hand import booked_facts
from activities.gateway import covers_trade
from activities.older_ledger import LEDGER_BEHIND, has_completed
from activities.reporting import report
from activities.restore_hand import hand_of
from activities.services import Services
from domain import trade_state as ts
from domain.adoption import STRATEGY as ADOPTED_STRATEGY
from domain.clock import ClockMap
from domain.entry import EntryTicket
from domain.errors import HoldfastError, Refused, Transient
from domain.facts import AdjustmentKind, FactBatch, KillEngaged
from domain.ids import TRADE_QUEUE, trade_workflow_id
from domain.messages import TradeInput
from domain.order import OrderSnapshot
from domain.restore import KnownOrder, SendState, rebuild
from domain.trade_state import Role, TradeState
from ledger.records import ChildOrder, IntentRecord, IntentState, TradeRecord
from ledger.repository import Ledger

TRADE_WORKFLOW = "Trade"
TASK_TIMEOUT = timedelta(seconds=3)
_SEND = {
    IntentState.SENDING: SendState.OPEN,
    IntentState.UNKNOWN: SendState.OPEN,
    IntentState.ACCEPTED: SendState.ACCEPTED,
    IntentState.REJECTED: SendState.REJECTED,
    IntentState.NOT_SENT: SendState.NOT_SENT,
}


class Restorer:
    """Starts a trade again from what the ledger knows of it."""

    def __init__(self, services: Services, client: Client, task_queue: str = TRADE_QUEUE) -> None:
        self._services = services
        self._client = client
        self._task_queue = task_queue

    async def reopen(self, trade_id: str, reason: str, clock: ClockMap | None = None) -> bool:
        """Starts the rebuilt trade; False if it has an open workflow already.

        `clock` is for a trade that never ran; else the earlier run's or the venue's counts.
        Idempotent by the workflow id: two callers start one run.

        Raises:
            Refused: `TRADE_UNKNOWN`; `ADOPTION_INCOMPLETE`, its position was never moved to it.
            Transient: ledger, broker or Temporal did not answer; `LEDGER_BEHIND`, it has ended and
                the ledger, an older copy, has it open.
        """
        ledger = self._services.ledger
        trade = await ledger.trade(trade_id)
        if trade is None:
            raise Refused(f"trade was {trade_id}", code="TRADE_UNKNOWN")
        if trade.closed_at is None and await self._has_ended(trade_id):
            # Built again it would sell what its exits have sold, of which the ledger lost the rows.
            text = f"{trade_id} has ended, and the ledger has lost its end: it is booked first"
            raise Transient(text, code=LEDGER_BEHIND)
        if await is_half_adopted(ledger, trade):
            # Without its position it is an empty trade with a plan: it would buy what is there.
            raise Refused(f"{trade_id}: repeat its adopt command", code="ADOPTION_INCOMPLETE")
        earlier = await self._earlier_input(trade_id)
        if earlier is not None:
            clock = earlier.clock
        elif clock is None:
            clock = await self._clock()
        input = await self.input_of(trade, clock, earlier)
        try:
            await self._client.start_workflow(
                TRADE_WORKFLOW,
                input,
                id=trade_workflow_id(trade_id),
                task_queue=self._task_queue,
                task_timeout=TASK_TIMEOUT,
                static_summary=f"restored: {reason}"[:200],
            )
        except WorkflowAlreadyStartedError:
            return False
        except RPCError as error:
            raise Transient(f"{trade_id} was not started: {error.status.name}") from error
        # Should this fail, the run's next step writes it: the end is in the state that it holds.
        await ledger.update_trade(trade_id, stage="restored", reopened_at=trade.closed_at)
        text = "; ".join((reason, *_what_it_does(input.state)))
        await report(self._services, "TRADE_RESTORED", text, trade_id)
        return True

    async def _has_ended(self, trade_id: str) -> bool:
        try:
            return await has_completed(self._client, trade_id)
        except RPCError as error:
            raise Transient(f"{trade_id} was not looked at: {error.status.name}") from error

    async def input_of(
        self, trade: TradeRecord, clock: ClockMap, earlier: TradeInput | None = None
    ) -> TradeInput:
        """The workflow input that carries the rebuilt state."""
        services, ledger = self._services, self._services.ledger
        decision = await ledger.reserved_decision(trade.trade_id)
        ticket = None
        if decision is not None and decision.approved:
            ticket = EntryTicket.model_validate(decision.document)
        rows = await ledger.fills_of_trade(trade.trade_id)
        adjusted = await ledger.adjustments(services.account, trade.trade_id)
        gone = [row.reverses for row in rows if row.reverses is not None]
        state = rebuild(
            trade.plan,
            services.installation,
            clock,
            ticket=ticket,
            orders=known_orders(
                await ledger.orders_of_trade(trade.trade_id),
                await ledger.children_of_trade(trade.trade_id),
            ),
            fills=[row.fill for row in rows if not row.is_reversal],
            busted=gone,
            adjustments=booked_facts(
                [row.fill for row in rows if not row.is_reversal and row.fill.fill_key not in gone],
                adjusted,
            ),
            now=services.now(),
            closed_at=trade.closed_at,
            hand=await hand_of(ledger, trade),
        )
        carried = FactBatch(facts=await self._kills_that_stand(trade, state))
        if earlier is not None:
            return earlier.model_copy(update={"state": state, "carried": carried})
        return TradeInput(
            plan=trade.plan,
            installation=services.installation,
            clock=clock,
            state=state,
            carried=carried,
        )

    async def _kills_that_stand(
        self, trade: TradeRecord, state: TradeState
    ) -> tuple[KillEngaged, ...]:
        """Engaged kills that its earlier run was told, or would have been: it goes on with them.

        One from before it began is not about it, such as about a position that a person adopts
        since; and what a person has released is theirs.
        """
        control = await self._services.ledger.read_control(trade.account)
        return tuple(
            KillEngaged(
                at=self._services.now(),
                command_id=kill.command_id,
                mode=kill.mode,
                by=kill.by,
                reason=kill.reason,
            )
            for kill in control.kills
            if covers_trade(kill, trade)
            and kill.engaged_at >= trade.created_at
            and not state.releasing
        )

    async def _clock(self) -> ClockMap:
        """Without the earlier run, market time goes on from the venue's clock at its own pace."""
        now = self._services.now()
        clock = await self._services.broker.market_clock()
        return ClockMap(wall0=now, market0=clock.market_now)

    async def _earlier_input(self, trade_id: str) -> TradeInput | None:
        """What the ended run was started with, while its history is kept."""
        handle: WorkflowHandle[object, object] = self._client.get_workflow_handle(
            trade_workflow_id(trade_id)
        )
        try:
            async for event in handle.fetch_history_events(page_size=1):
                payloads = event.workflow_execution_started_event_attributes.input.payloads
                about = WorkflowSerializationContext(self._client.namespace, handle.id)
                reader = self._client.data_converter.with_context(about)
                decoded = await reader.decode(payloads, [TradeInput])
                first = decoded[0]
                return first if isinstance(first, TradeInput) else None
        except RPCError as error:
            activity.logger.warning("history of %s: %s", trade_id, error.status.name)
        except (Refused, ValueError, RuntimeError) as error:
            # Of another build, or sealed with a lost key: the ledger alone tells what the trade is.
            activity.logger.warning("history of %s: %r", trade_id, error)
        return None


def _what_it_does(state: TradeState | None) -> tuple[str, ...]:
    """What a person must know of the rebuilt trade at once."""
    if state is None:
        return ()
    told: list[str] = []
    if state.taken_over:
        told.append(f"it stays in a person's hands ({ts.hand(state)})")
    elif state.paused:
        told.append("it stays paused")
    if state.live(Role.ENTRY):
        told.append("its entry works and is cancelled: a restored trade never walks on")
    return tuple(told)


async def is_half_adopted(ledger: Ledger, trade: TradeRecord) -> bool:
    """True if a person's adoption broke off before the position was moved to the trade."""
    if trade.strategy != ADOPTED_STRATEGY:
        return False
    moved = await ledger.adjustments(trade.account, trade.trade_id)
    return not any(row.kind is AdjustmentKind.ADOPTED for row in moved)


async def restore_lost(restorer: Restorer, services: Services) -> tuple[str, ...]:
    """Starts every trade of the account that the ledger says is open and Temporal lost.

    Answers the ids that were started; one that cannot be restored is reported, the rest go on.
    """
    started: list[str] = []
    for trade in await services.ledger.list_trades(account=services.account, open_only=True):
        try:
            if await restorer.reopen(trade.trade_id, "the Temporal store was lost"):
                started.append(trade.trade_id)
        except HoldfastError as error:
            await report(services, "RESTORE_FAILED", error.text, trade.trade_id)
    return tuple(started)


def known_orders(
    intents: tuple[IntentRecord, ...], children: tuple[ChildOrder, ...]
) -> list[KnownOrder]:
    """The ledger's rows in the domain's words."""
    of_parent: dict[str, list[OrderSnapshot]] = {}
    for child in children:
        of_parent.setdefault(child.parent_client_id, []).append(child.snapshot)
    return [
        KnownOrder(
            intent=record.intent,
            send=_SEND[record.state],
            snapshot=record.snapshot,
            children=tuple(of_parent.get(record.intent.client_id, ())),
            code=record.code,
        )
        for record in intents
    ]
