"""Writes back what the ledger has lost of trades: an older copy of it was put back, or a standby
without its last commits took over.

The mirror of `rewound`. The trades know better: their orders go on, but an execution of an order
without a row is nobody's, risk without a reservation does not count, and a rule without its watch
is not looked at. Each trade that runs is compared with its rows when it is asked what it knows; one
that has ended although the ledger has it open is booked as it ended, never built again: it would
sell once more what its lost exits have sold. What no trade knows, kills and resets, nobody can
write back: where the loss is proven, entries stop until people have looked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import timedelta

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from activities.absence import NOT_SEEN
from activities.by_hand import adjustment_rows
from activities.executions import book_executions, book_shown
from activities.reporting import report
from activities.self_halt import stop_for_older_ledger
from activities.services import Services, SettleInput, TradeRef
from activities.trades import settle, watch_rows
from domain import trade_state as ts
from domain.errors import HoldfastError, Transient
from domain.ids import Purpose, parse_client_order_id, trade_workflow_id
from domain.knowledge import TradeKnowledge
from domain.messages import TradeInput
from domain.money import ZERO
from domain.order import OrderSnapshot, OrderState
from domain.protecting import watch_of
from domain.steps import settle_command
from domain.story import story_of
from domain.trade_state import OrderRecord, TradeState
from ledger.records import IntentState, ReserveDecision, ReserveRequest, TradeBook

LEDGER_BEHIND = "LEDGER_BEHIND"
WHOLE_QUERY = "whole"
LOOKS_TO_BELIEVE = 2
"""A row that could not be written at once comes a moment later."""
OLDER_COPY = "an older copy of the ledger is in use, kills and resets since are lost"
NAMED_MAX = 3
LOOKS_FOR_AN_END = 6
END = "the end"
RPC_TIMEOUT = timedelta(seconds=5)
ORDERS_BACK = timedelta(days=1)
_KILL = "kill/"
_FOUND_AGAIN = ("recon/", "event/")
"""Adjustments that reconcile books again from what the broker shows."""

_log = logging.getLogger(__name__)


class OlderLedger:
    """Compares trades with their rows, and writes what is not there.

    Args:
        services: ledger, broker and clocks of the account.
        client: where the trades run.
    """

    def __init__(self, services: Services, client: Client) -> None:
        self._services = services
        self._client = client
        self._head: tuple[int, str] | None = None
        self._losses = 0
        self._lacking: dict[str, int] = {}
        self._told: set[tuple[str, str]] = set()
        """What trades lack and a person knows of: a kill cannot be written back."""
        self._watched: dict[str, int] = {}
        self._has_new_row = False
        self._owed: dict[str, int] = {}
        """Trades whose end may have to be booked, and how often that failed."""
        self._one_at_a_time = asyncio.Lock()

    async def may_be_older(self) -> bool:
        """True if the ledger was away since the last look, or is not the one that was seen then,
        or has a trade since that nobody found in it: kills were not told to that one.

        What stood in its audit stands there for ever: entries stop where it does not, for a kill
        may have stood there too (I9).

        Raises:
            LedgerDown: the ledger did not answer.
        """
        ledger, seen, losses = self._services.ledger, self._head, self._losses
        self._losses, is_older = ledger.losses, False
        if seen is not None and seen[0]:
            rows = await ledger.list_audit(after=seen[0] - 1, limit=1)
            is_older = [(row.sequence, row.hash) for row in rows] != [seen]
        if is_older and seen is not None:
            text = f"row {seen[0]} of the audit is gone: {OLDER_COPY}"
            await self._stop_and_tell("", text, cause=f"audit/{seen[0]}/{seen[1]}")
        self._head = await ledger.audit_head()
        may_be = is_older or losses != self._losses
        if may_be:
            self._told.clear()
        has_new_row, self._has_new_row = self._has_new_row, False
        return may_be or has_new_row

    async def read_watches(self) -> None:
        """The newest position epoch that the exit watch has of each trade.

        Raises:
            LedgerDown: nothing was read.
        """
        rows = await self._services.ledger.list_watches(self._services.account)
        self._watched = {}
        for row in rows:
            newest = max(row.position_epoch, self._watched.get(row.trade_id, 0))
            self._watched[row.trade_id] = newest

    async def mends(self, trade_id: str, known: TradeKnowledge) -> bool:
        """True if the ledger lacks what this trade knows: it is written back at the second look.

        What cannot be written now is tried again at the next look.
        """
        try:
            return await self._mends(trade_id, known)
        except HoldfastError as error:
            _log.warning("rows of %s were not written back: %s", trade_id, error)
            return True

    async def _mends(self, trade_id: str, known: TradeKnowledge) -> bool:
        # Read behind the trade's own word: what it has sent until then is there.
        book = await self._services.ledger.trade_book(trade_id)
        lost = await self._lost(trade_id, book, known)
        if not lost:
            self._lacking.pop(trade_id, None)
            return False
        self._lacking[trade_id] = self._lacking.get(trade_id, 0) + 1
        if self._lacking[trade_id] < LOOKS_TO_BELIEVE:
            return True
        whole = await self._ask(trade_id)
        if whole is not None and whole.plan.account != self._services.account:
            return False
        if whole is None and book is None:
            return False  # whose it is nobody knows; reconcile tells its orders
        await self._tell_lost(
            trade_id, lost, is_proof=book is None or _is_proof(lost), is_mended=whole is not None
        )
        if whole is not None and whole.state is not None:
            await self._write_back(whole, whole.state)
            self._has_new_row |= book is None
        self._told |= {(trade_id, each) for each in lost}
        return True

    async def book_ends(self, running: Collection[str]) -> None:
        """Books the end of each trade that the ledger has open and whose workflow is complete.

        Raises:
            LedgerDown, RPCError: ledger or Temporal did not answer.
        """
        trades = await self._services.ledger.list_trades(
            account=self._services.account, open_only=True
        )
        self._owed = {trade.trade_id: 0 for trade in trades if trade.trade_id not in running}
        await self.book_owed()

    async def book_owed(self) -> None:
        """Tries again what could not be booked; after some looks the next round does.

        Raises:
            RPCError: Temporal did not answer.
        """
        for trade_id in list(self._owed):
            try:
                await self._book_end_of(trade_id)
                del self._owed[trade_id]
            except HoldfastError as error:
                _log.warning("the end of %s was not booked: %s", trade_id, error)
                self._owed[trade_id] += 1
                if self._owed[trade_id] == LOOKS_FOR_AN_END:
                    del self._owed[trade_id]
                    text = f"its end is not booked: {error}"
                    await report(self._services, LEDGER_BEHIND, text, trade_id)

    # --- comparing --------------------------------------------------------------------------------

    async def _lost(
        self, trade_id: str, book: TradeBook | None, known: TradeKnowledge
    ) -> tuple[str, ...]:
        """Ids of orders, words of kills and the watch that the trade knows and the ledger lacks."""
        if book is not None and book.trade.account != self._services.account:
            return ()
        rows = () if book is None else book.orders
        have = {row.intent.client_id for row in rows}
        orders = [each for each in known.orders if each not in have]
        words = {each: _kill_of(each) for each in known.commands or () if each.startswith(_KILL)}
        ids = set(words.values())
        gone = ids - await self._services.ledger.known_kills(ids) if ids else set()
        kills = [each for each, command_id in words.items() if command_id in gone]
        unwatched = book is not None and known.watched > self._watched.get(trade_id, 0)
        lost = (*orders, *kills, *(("watch",) if unwatched else ()))
        return tuple(each for each in lost if (trade_id, each) not in self._told)

    async def _ask(self, trade_id: str) -> TradeInput | None:
        """The trade with all that it knows; None if it cannot say, as one of an older build."""
        handle = self._client.get_workflow_handle(trade_workflow_id(trade_id))
        try:
            told: TradeInput = await handle.query(
                WHOLE_QUERY, result_type=TradeInput, rpc_timeout=RPC_TIMEOUT
            )
        except (RPCError, WorkflowQueryFailedError) as error:
            _log.warning("%s did not tell what the ledger lacks: %s", trade_id, error)
            return None
        return told

    async def _tell_lost(
        self, trade_id: str, lost: tuple[str, ...], *, is_proof: bool, is_mended: bool = True
    ) -> None:
        """An exit may have gone without the ledger (H5); all else proves that it is older."""
        named = ", ".join(lost[:NAMED_MAX])
        named += f" and {len(lost) - NAMED_MAX} more" if len(lost) > NAMED_MAX else ""
        what = "what can be is written back" if is_mended else "its build cannot tell it"
        text = f"the ledger lacks {named} of this trade: {what}"
        if not is_proof:
            await report(self._services, LEDGER_BEHIND, text, trade_id)
            return
        # One kill is heard by many trades: its word is the same at each, and stops once.
        kill = next((each for each in lost if each.startswith(_KILL)), "")
        cause = kill or f"{trade_id}/{lost[0]}"
        await self._stop_and_tell(trade_id, f"{text}; {OLDER_COPY}", cause=cause)

    async def _stop_and_tell(self, trade_id: str, text: str, *, cause: str) -> None:
        async with self._one_at_a_time:
            reason = f"{LEDGER_BEHIND} {trade_id} {text}"
            await stop_for_older_ledger(self._services, cause, reason)
        await report(self._services, LEDGER_BEHIND, text, trade_id)

    # --- writing ----------------------------------------------------------------------------------

    async def _write_back(self, whole: TradeInput, state: TradeState) -> None:
        """Trade, reservation, orders, adjustments and watch, each only if it is not there."""
        services, plan = self._services, whole.plan
        # Kills since it began are about it: it hears of those that it has not heard (I9).
        began_at = None if state.ticket is None else state.ticket.approved.approved_at
        await services.ledger.create_trade(plan, build_id=whole.build_id, began_at=began_at)
        if not ts.is_final(state):
            shown = ts.stage(state), ts.protection(state)
            await services.ledger.update_trade(plan.trade_id, stage=shown[0], protection=shown[1])
        await self._reserve(state)
        owner = TradeRef.of(plan, whole.clock).owner
        lacking = await self._orders_lacking(state)
        seen = await self._at_broker(whole, lacking)
        for record in lacking:
            assert record.intent is not None
            snapshot = seen.get(record.broker_order_id or "")
            if record.broker_order_id is not None and snapshot is None:
                _log.warning("order %s is not shown: no row of it", record.client_id)
                continue
            await services.ledger.book_sent_intent(
                record.intent,
                owner,
                f"older-ledger/{services.now().isoformat()}",
                _send_state(record),
                record.changed_at,
                snapshot=snapshot,
                code="" if snapshot is not None else record.reject_code or NOT_SEEN,
            )
        await book_shown(services, seen.values(), told_to="")
        for fact in state.adjustments:
            if not fact.adjustment_id.startswith(_FOUND_AGAIN):
                rows = adjustment_rows(services.account, plan.trade_id, fact)
                await services.ledger.move_positions(services.account, rows, takes={})
        command = None if ts.is_final(state) else watch_of(state)
        if command is not None and state.watched_epoch:
            trade = TradeRef.of(plan, whole.clock)
            for row in watch_rows(trade, command, services.now()):
                await services.ledger.upsert_watch(row)

    async def _reserve(self, state: TradeState) -> None:
        """The risk is there already: it is counted again, not judged (I6)."""
        ticket, plan = state.ticket, state.plan
        if ticket is None:
            return
        approved = ticket.approved
        decision = ReserveDecision(
            approved=True,
            quantity=approved.quantity,
            notional=approved.reserved_notional,
            loss=approved.reserved_loss,
            text="written back",
            document=ticket.model_dump(mode="json"),
        )
        request = ReserveRequest(
            trade_id=plan.trade_id,
            account=plan.account,
            strategy=plan.strategy,
            symbol=plan.symbol,
        )
        await self._services.ledger.reserve(request, lambda book: decision, approved.approved_at)

    async def _orders_lacking(self, state: TradeState) -> list[OrderRecord]:
        """Own orders without a row, or with one from before their answer: its legs are unknown."""
        rows = await self._services.ledger.orders_of_trade(state.plan.trade_id)
        named = {row.intent.client_id: row.broker_order_id for row in rows}
        own = [o for o in state.orders if o.intent and o.state is not OrderState.NOT_SENT]
        return [
            each
            for each in own
            if each.client_id not in named
            or (each.broker_order_id is not None and named[each.client_id] is None)
        ]

    async def _at_broker(
        self, whole: TradeInput, lacking: list[OrderRecord]
    ) -> dict[str, OrderSnapshot]:
        """These orders as the broker shows them, by its ids: one list, the rest one by one."""
        broker, wanted = self._services.broker, [o.broker_order_id for o in lacking]
        if not any(wanted):
            return {}
        since = whole.clock.market(self._services.now()) - ORDERS_BACK
        seen = {order.broker_order_id: order for order in await broker.orders_since(since)}
        for broker_order_id in filter(None, wanted):
            if broker_order_id not in seen:
                order = await broker.order(broker_order_id)
                if order is not None:
                    seen[broker_order_id] = order
        return seen

    async def _book_end_of(self, trade_id: str) -> None:
        if not await has_completed(self._client, trade_id):
            return
        # Read behind its end, which is booked before it.
        row = await self._services.ledger.trade(trade_id)
        whole = None if row is None or row.closed_at is not None else await self._ask(trade_id)
        if whole is not None and whole.state is not None and ts.is_final(whole.state):
            await self._book_end(whole, whole.state)

    async def _book_end(self, whole: TradeInput, state: TradeState) -> None:
        """The end as the trade knows it, by the executions that are read again."""
        services, plan = self._services, whole.plan
        if (plan.trade_id, END) not in self._told:
            await self._tell_lost(plan.trade_id, (END,), is_proof=True)
            self._told.add((plan.trade_id, END))
        await self._write_back(whole, state)
        await book_executions(services, plan.trade_id)
        if state.refusal_code:
            await services.ledger.update_trade(
                plan.trade_id, stage=ts.stage(state), result=state.refusal_code
            )
            await services.ledger.settle_trade(
                plan.trade_id, ZERO, ZERO, fees_estimated=False, result=state.refusal_code
            )
            return
        keys = [fill.fill_key for fill in state.fills]
        booked = {row.fill.fill_key for row in await services.ledger.fills_of_trade(plan.trade_id)}
        if missing := set(keys) - booked:
            # An end on less would be false money.
            text = f"{len(missing)} executions are not told again by the broker"
            raise Transient(text, code=LEDGER_BEHIND)
        settlement = SettleInput(
            trade=TradeRef.of(plan, whole.clock),
            plan=plan,
            command=settle_command(state),
            stage=ts.stage(state),
            story=story_of(state),
        )
        await settle(services, settlement)
        await services.ledger.mark_fills_told(services.account, keys)


async def has_completed(client: Client, trade_id: str) -> bool:
    """True if the trade's newest workflow came to its own end.

    Raises:
        RPCError: Temporal did not answer.
    """
    handle = client.get_workflow_handle(trade_workflow_id(trade_id))
    try:
        described = await handle.describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return described.status is WorkflowExecutionStatus.COMPLETED


def _is_proof(lost: Collection[str]) -> bool:
    """True if an entry or a kill is among them: neither is ever without its row."""
    parts = [parse_client_order_id(each) for each in lost]
    is_entry = any(each is not None and each.purpose is Purpose.ENTRY for each in parts)
    return is_entry or any(each.startswith(_KILL) for each in lost)


def _kill_of(word: str) -> str:
    """The command id in the word that a trade remembers of a kill, `kill/<mode>/<id>`."""
    return word.split("/", 2)[2]


def _send_state(record: OrderRecord) -> IntentState:
    if record.broker_order_id is not None:
        return IntentState.ACCEPTED
    is_refused = record.state is OrderState.REJECTED
    return IntentState.REJECTED if is_refused else IntentState.UNKNOWN
