"""The one kill path (architecture §7, faults.md K1-K9): control row first, then the cancels.

Free of Temporal, so that the command line can run it with the servers away. What is cancelled
are working *entries* only: protective stops, targets and reducing exits stay (I9). Each order
ends in the receipt as cancelled, filled, already dead or unknown; silence is never success.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime

from brokers.port import Broker, NotExecuted
from domain.base import Frozen
from domain.control import KillScope, KillScopeKind, KillSwitch
from domain.errors import HoldfastError, Refused, Transient
from domain.ids import Purpose, parse_client_order_id, trade_digest
from domain.money import ZERO, Quantity
from domain.order import BrokerOrderStatus, OrderSnapshot
from ledger.errors import LedgerDown
from ledger.records import IntentRecord, KillAnswer, OrderOwner
from ledger.repository import Ledger

# Longest time between the gate and the end of a send: 150 ms and one HTTP attempt, rounded up.
SECOND_SWEEP_AFTER_S = 3.5
CONCURRENCY = 8
PROOF_S = 2.0
PROOF_EVERY_S = 0.1
RETRY_AFTER_MAX_S = 1.0
TRIES_MAX = 6


class OrderFate(StrEnum):
    """What became of an entry that the kill went after."""

    CANCELLED = "cancelled"
    FILLED = "filled"
    ALREADY_DEAD = "already_dead"
    UNKNOWN = "unknown"


class SweptOrder(Frozen):
    """One entry in the receipt; `filled` is the broker's cumulative quantity."""

    client_id: str
    broker_order_id: str = ""
    symbol: str = ""
    fate: OrderFate
    filled: Quantity = ZERO
    text: str = ""


class KillReceipt(Frozen):
    """Final once both sweeps are done; `faults` name what could not be read."""

    command_id: str
    account: str
    scope: str
    mode: str
    by: str
    orders: tuple[SweptOrder, ...] = ()
    in_flight: tuple[str, ...] = ()
    trades_told: int = 0
    trades_not_told: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    final: bool = False
    at: AwareDatetime

    @property
    def open_ends(self) -> tuple[SweptOrder, ...]:
        """Orders that may still trade: a person has to look."""
        return tuple(order for order in self.orders if order.fate is OrderFate.UNKNOWN)


class Engaged(Frozen):
    """The kill is in force. `answer` is None when only the local journal could take it."""

    answer: KillAnswer | None
    text: str = ""


async def engage(
    ledger: Ledger | None,
    account: str,
    kill: KillSwitch,
    *,
    journal: Callable[[], None] | None = None,
    expected_version: int | None = None,
) -> Engaged:
    """Puts the kill in force before anything else happens; every client comes through here.

    Args:
        ledger: None when it is known to be away.
        account: the account it is meant for; scope `all` covers every account.
        journal: writes the local journal; called only when the ledger cannot be written.

    Raises:
        VersionConflict: somebody was faster (409, I17); nothing has changed.
        Refused: `KILL_LIFTED`, the id is that of a kill which people have lifted.
        LedgerDown: the ledger is away and there is no journal.
    """
    owner = None if kill.scope.kind is KillScopeKind.ALL else account
    reason = "the ledger is not connected"
    if ledger is not None:
        try:
            answer = await ledger.engage_kill(owner, kill, expected_version)
            if answer.lifted_at is not None:
                text = f"kill {kill.command_id} was lifted at {answer.lifted_at:%Y-%m-%d %H:%M:%S}"
                raise Refused(f"{text} UTC: nothing is stopped, give a new id", code="KILL_LIFTED")
            return Engaged(answer=answer)
        except Transient as error:
            if journal is None:
                raise
            reason = error.text
    if journal is None:
        raise LedgerDown(reason)
    journal()
    return Engaged(answer=None, text=reason)


def is_our_entry(order: OrderSnapshot, installation: str) -> bool:
    """True for an order whose client id says: ours, and an entry."""
    parts = parse_client_order_id(order.client_id or "")
    return (
        parts is not None and parts.installation == installation and parts.purpose is Purpose.ENTRY
    )


def covers_order(
    scope: KillScope, account: str, order: OrderSnapshot, owner: OrderOwner | None
) -> bool:
    """Whether the kill covers a broker order.

    Without the ledger the owner is not known. The trade is then told by the digest in the client
    id; a strategy cannot be told, and stopping too much adds no risk, so it counts as covered.
    """
    client_id = order.client_id or ""
    if owner is not None:
        return scope.covers(
            account=account,
            strategy=owner.strategy,
            symbols=owner.symbols,
            trade_id=owner.trade_id,
            client_id=client_id,
        )
    parts = parse_client_order_id(client_id)
    match scope.kind:
        case KillScopeKind.ALL | KillScopeKind.STRATEGY:
            return True
        case KillScopeKind.ACCOUNT:
            return scope.value == account
        case KillScopeKind.SYMBOL:
            return scope.value in (order.symbol, *(leg.symbol for leg in order.legs))
        case KillScopeKind.TRADE:
            return parts is not None and parts.trade_digest == trade_digest(scope.value)
        case KillScopeKind.ORDER:
            return scope.value == client_id


OwnerOf = Callable[[str], Awaitable[OrderOwner | None]]


async def _nobody(_client_id: str) -> OrderOwner | None:
    return None


class EntrySweep:
    """Cancels the entries of one kill at one broker account; keeps what became of each.

    Args:
        broker: with a connection pool of its own (F5).
        owner_of: the ledger's owner of a client id; None while the ledger is away.
    """

    def __init__(
        self,
        broker: Broker,
        account: str,
        installation: str,
        kill: KillSwitch,
        *,
        owner_of: OwnerOf = _nobody,
    ) -> None:
        self._broker = broker
        self._account = account
        self._installation = installation
        self._kill = kill
        self._owner_of = owner_of
        self._free = asyncio.Semaphore(CONCURRENCY)
        self._swept: dict[str, SweptOrder] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self.faults: list[str] = []
        self.first_cancel_after_s: float | None = None
        self._started_s = time.monotonic()

    @property
    def orders(self) -> tuple[SweptOrder, ...]:
        return tuple(self._swept.values())

    async def run_once(self, known: Iterable[IntentRecord] = ()) -> None:
        """One sweep: what the ledger knows at once, and whatever the broker shows beside it."""
        unseen: list[IntentRecord] = []
        for record in known:
            if record.broker_order_id is not None:
                self._go_after(record.broker_order_id, record.intent.client_id)
            else:
                unseen.append(record)
        try:
            for order in await self._broker.open_orders():
                if await self._is_covered(order):
                    self._go_after(order.broker_order_id, order.client_id or "")
        except HoldfastError as error:
            self.faults.append(f"order list: {error.code}")
        for record in unseen:
            self._busy_with(record.intent.client_id, self._look_for(record))
        while self._busy:
            await asyncio.gather(*self._busy.values())

    async def _is_covered(self, order: OrderSnapshot) -> bool:
        if not is_our_entry(order, self._installation):
            return False
        try:
            owner = await self._owner_of(order.client_id or "")
        except HoldfastError:
            owner = None
        return covers_order(self._kill.scope, self._account, order, owner)

    def _go_after(self, broker_order_id: str, client_id: str) -> None:
        done = self._swept.get(broker_order_id)
        if done is None or done.fate is OrderFate.UNKNOWN:
            self._busy_with(broker_order_id, self._cancel(broker_order_id, client_id))

    def _busy_with(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                async with self._free:
                    await work
            finally:
                del self._busy[key]

        if key in self._busy:
            work.close()
            return
        self._busy[key] = asyncio.create_task(run())

    async def _look_for(self, record: IntentRecord) -> None:
        """An intent whose answer is missing: the broker may have it, or may get it yet."""
        client_id = record.intent.client_id
        try:
            order = await self._broker.order_by_client_id(client_id)
        except HoldfastError as error:
            self._note(client_id, "", None, OrderFate.UNKNOWN, f"look-up: {error.code}")
            return
        if order is None:
            self._note(client_id, "", None, OrderFate.UNKNOWN, f"{record.state}, not seen yet")
            return
        self._swept.pop(client_id, None)
        await self._cancel(order.broker_order_id, client_id)

    async def _cancel(self, broker_order_id: str, client_id: str) -> None:
        """Asks, asks again when it was not taken, and reads the order's end."""
        answer = ""
        for _ in range(TRIES_MAX):
            outcome = await self._broker.cancel(broker_order_id)
            if self.first_cancel_after_s is None:
                self.first_cancel_after_s = time.monotonic() - self._started_s
            answer = outcome.kind
            if not isinstance(outcome, NotExecuted):
                break
            answer = outcome.code
            await asyncio.sleep(min(outcome.retry_after_s or 0.1, RETRY_AFTER_MAX_S))
        order = await self._read_end(broker_order_id)
        if order is None:
            self._note(client_id, broker_order_id, None, OrderFate.UNKNOWN, f"{answer}, not read")
            return
        if order.status is BrokerOrderStatus.REPLACED and order.replaced_by_broker_id:
            self._note(
                client_id, broker_order_id, order, OrderFate.ALREADY_DEAD, "replaced meanwhile"
            )
            self._go_after(order.replaced_by_broker_id, client_id)
            return
        self._note(client_id, broker_order_id, order, _fate(order, answer), answer)

    async def _read_end(self, broker_order_id: str) -> OrderSnapshot | None:
        """The order once it is dead, or as it stands when the time for the proof is over."""
        deadline_s = time.monotonic() + PROOF_S
        order: OrderSnapshot | None = None
        while True:
            try:
                order = await self._broker.order(broker_order_id)
            except HoldfastError:
                order = None
            is_over = time.monotonic() > deadline_s
            if is_over or (order is not None and order.is_terminal):
                return order
            await asyncio.sleep(PROOF_EVERY_S)

    def _note(
        self,
        client_id: str,
        broker_order_id: str,
        order: OrderSnapshot | None,
        fate: OrderFate,
        text: str,
    ) -> None:
        self._swept[broker_order_id or client_id] = SweptOrder(
            client_id=(order.client_id if order is not None else None) or client_id,
            broker_order_id=broker_order_id,
            symbol="" if order is None else order.symbol,
            fate=fate,
            filled=ZERO if order is None else order.filled_quantity,
            text=text,
        )


def _fate(order: OrderSnapshot, answer: str) -> OrderFate:
    if not order.is_terminal:
        return OrderFate.UNKNOWN
    if order.status is BrokerOrderStatus.FILLED:
        return OrderFate.FILLED
    if order.status is BrokerOrderStatus.CANCELED and answer != "not_cancelable":
        return OrderFate.CANCELLED
    return OrderFate.ALREADY_DEAD


async def known_entries(ledger: Ledger, account: str, scope: KillScope) -> tuple[IntentRecord, ...]:
    """Increasing intents of the ledger inside the scope that are or may come to be working."""
    return tuple(
        record
        for record in await ledger.open_orders(account)
        if record.intent.increasing and _covers_record(scope, record)
    )


def _covers_record(scope: KillScope, record: IntentRecord) -> bool:
    owner = record.owner
    return scope.covers(
        account=owner.account,
        strategy=owner.strategy,
        symbols=owner.symbols,
        trade_id=owner.trade_id,
        client_id=record.intent.client_id,
    )


def owner_by_ledger(ledger: Ledger) -> OwnerOf:
    """Looks a client id's owner up by its trade prefix."""

    async def owner_of(client_id: str) -> OrderOwner | None:
        found = await ledger.intent(client_id)
        if found is not None:
            return found.owner
        trade = await ledger.trade_of_prefix(client_id[:16])
        if trade is None:
            return None
        symbols = (trade.symbol, *(leg.instrument.symbol for leg in trade.plan.legs))
        return OrderOwner(
            account=trade.account,
            strategy=trade.strategy,
            symbols=tuple(dict.fromkeys(symbols)),
            trade_id=trade.trade_id,
        )

    return owner_of


def receipt_of(
    sweep: EntrySweep,
    kill: KillSwitch,
    account: str,
    at: datetime,
    *,
    in_flight: Iterable[str] = (),
    told: int = 0,
    not_told: Iterable[str] = (),
    final: bool = True,
) -> KillReceipt:
    """The receipt of what this sweep came to."""
    return KillReceipt(
        command_id=kill.command_id,
        account=account,
        scope=kill.scope.text,
        mode=kill.mode.value,
        by=kill.by,
        orders=sweep.orders,
        in_flight=tuple(in_flight),
        trades_told=told,
        trades_not_told=tuple(not_told),
        faults=tuple(sweep.faults),
        final=final,
        at=at,
    )
