"""The ledger in memory, behind the same methods as the SQL stores, for one account.

What decides is not copied: the gate's verdict, which answer counts, which snapshot is newer are
the functions of `ledger.gate_store` and `ledger.order_store`. Only the statements are replaced.
`tests/ledger/test_memory_ledger.py` runs both side by side.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from domain.alerts import AlertDraft
from domain.control import ApiBreakerState, BreakerState, Control, KillScope, KillSwitch
from domain.entry import entry_orders_max
from domain.errors import Broken, Refused
from domain.fold_orders import AMENDED, PROVEN_ABSENT
from domain.ids import parse_client_order_id, trade_prefix
from domain.money import ZERO
from domain.order import BrokerOrderStatus, Fill, OrderIntent, OrderSnapshot, Side
from domain.plan import TradePlan
from ledger.fill_booking import (
    VENUES_WORD,
    corrected_by,
    execution_name,
    reversal_of,
    unbooked,
)
from ledger.gate_store import (
    _Asked,
    _bodies_differ,
    _code_of,
    _counts,
    _may_try,
    _posted_again,
    _verdict,
)
from ledger.order_store import NOBODY, Owner, is_newer, snapshot_columns
from ledger.records import (
    EXTERNAL,
    AdjustmentRecord,
    ApiBreakerRecord,
    BreakerRecord,
    CashMovement,
    ChildOrder,
    EquityBaseline,
    FeeRecord,
    FillBooking,
    FillRecord,
    GateAnswer,
    GateCode,
    GatePermit,
    GateRefused,
    HeldLeg,
    IntentExists,
    IntentRecord,
    IntentState,
    KillAnswer,
    OrderOwner,
    Reservation,
    ReserveDecision,
    ReserveRequest,
    ReserveResult,
    RiskBook,
    SnapshotBooking,
    TradeBook,
    TradePosition,
    TradeRecord,
    WatchRecord,
    WorkingOrder,
)
from tests.simulation.books import AccountBooks

MESSAGE_WINDOW = timedelta(seconds=60)
_OPEN = (IntentState.SENDING, IntentState.UNKNOWN)


class MemoryLedger(AccountBooks):
    """One account's book of record. Every method is one transaction: it never yields inside."""

    def __init__(
        self, account: str, broker: str, installation: str, now: Callable[[], datetime]
    ) -> None:
        self.account, self.broker = account, broker
        self.installation = installation
        self.now = now
        self.armed = True
        self.version = 1
        self.kills: dict[str, KillSwitch] = {}
        self.breaker = BreakerRecord(account=account, state=BreakerState.NORMAL)
        self.api_breaker = ApiBreakerRecord(broker=broker, state=ApiBreakerState.CLOSED)
        self.baseline: EquityBaseline | None = None
        self.intents: dict[str, IntentRecord] = {}
        self.known_at: dict[str, datetime] = {}
        self.of_trade: dict[str, list[str]] = {}
        self.keys: dict[str, str] = {}
        self.by_broker_id: dict[str, str] = {}
        self.children: dict[str, ChildOrder] = {}
        self.fills: dict[str, FillRecord] = {}
        self.told: set[str] = set()
        self.early_busts: dict[tuple[str, str], Fill | None] = {}
        self.fee_rows: dict[str, FeeRecord] = {}
        self.moves: dict[str, AdjustmentRecord] = {}
        self.movements: dict[str, CashMovement] = {}
        self.reservations: dict[str, tuple[ReserveDecision, Reservation | None]] = {}
        self.releases: Counter[str] = Counter()
        self.trades: dict[str, TradeRecord] = {}
        self.prefixes: dict[str, str] = {}
        self.watches: dict[tuple[str, str], WatchRecord] = {}
        self.cursors: dict[str, str] = {}
        self.leases: dict[str, tuple[str, int, datetime]] = {}
        self.alerts: dict[str, AlertDraft] = {}
        self.alert_times: dict[str, datetime] = {}
        self.audit: list[tuple[str, str, str]] = []
        self._bells: dict[str, list[asyncio.Queue[str]]] = {}

    # --- the order gate ---------------------------------------------------------------------------

    async def open_gate(
        self,
        intent: OrderIntent,
        owner: OrderOwner,
        attempt_token: str,
        now: datetime,
        *,
        build_id: str = "",
        config_hash: str = "",
        resend: bool = False,
    ) -> GateAnswer:
        asked = _Asked(intent, owner, attempt_token, now, build_id, config_hash, resend)
        known = self.intents.get(self.keys.get(intent.key.text, intent.client_id))
        if known is not None:
            if known.intent.client_id != intent.client_id or _bodies_differ(known, asked):
                text = f"the stored intent is {known.intent.client_id}"
                return GateRefused(code=GateCode.INTENT_BODY_DIFFERS, text=text)
            if not _may_try(known, asked):
                return IntentExists(record=known)
        refusal = self._stopped_by(asked) if intent.increasing else None
        if known is None:
            return refusal or GatePermit(record=self._insert(asked, refusal))
        if refusal is not None:
            return refusal
        changes: dict[str, Any] = {"state": IntentState.SENDING, "attempt_token": attempt_token}
        changes |= {"attempts": known.attempts + 1, "gate_at": now, **_posted_again(known, asked)}
        return GatePermit(record=self._change(known, **changes))

    async def may_still_send(
        self,
        intent: OrderIntent,
        owner: OrderOwner,
        attempt_token: str,
        now: datetime,
        *,
        build_id: str = "",
        config_hash: str = "",
    ) -> bool:
        asked = _Asked(intent, owner, attempt_token, now, build_id, config_hash, False)
        known = self.intents.get(intent.client_id)
        if known is None or known.attempt_token != attempt_token:
            return False
        if known.state is not IntentState.SENDING:
            return False
        return not intent.increasing or _verdict(asked, self._policy(), stale="") is None

    def _stopped_by(self, asked: _Asked) -> GateRefused | None:
        """The gate's verdict, then as many entries as the plan of the one signal allows (I15)."""
        refused = _verdict(asked, self._policy(), stale="")
        if refused is not None:
            return refused
        trade = self.trades.get(asked.intent.key.trade_id)
        if trade is None:
            return GateRefused(code=GateCode.NO_SIGNAL, text="the trade has no row")
        if trade.closed_at is not None:
            return GateRefused(code=GateCode.TRADE_ENDED, text="the trade has ended")
        others = (
            self.intents[each]
            for each in self.of_trade.get(trade.trade_id, ())
            if each != asked.intent.client_id
        )
        sent = sum(
            r.intent.increasing and (r.state is not IntentState.NOT_SENT or r.code == AMENDED)
            for r in others
        )
        if sent < entry_orders_max(trade.plan):
            return None
        return GateRefused(code=GateCode.TOO_MANY_ORDERS, text=f"{sent} entries were sent")

    def _policy(self) -> dict[str, Any]:
        """What the SQL statement of the gate reads, under the same names."""
        kills = [
            {
                "scope_kind": kill.scope.kind,
                "scope_value": kill.scope.value,
                "mode": kill.mode,
                "reason": kill.reason,
                "by": kill.by,
                "command_id": kill.command_id,
                "engaged_at": kill.engaged_at,
            }
            for kill in self.kills.values()
        ]
        return {
            "kills": kills,
            "armed": self.armed,
            "risk": self.breaker.state,
            "risk_reason": self.breaker.reason,
            "api": self.api_breaker.state,
            "conditions": (),
        }

    def _insert(self, asked: _Asked, refusal: GateRefused | None) -> IntentRecord:
        intent, sending = asked.intent, refusal is None
        record = IntentRecord(
            intent=intent,
            owner=asked.owner,
            state=IntentState.SENDING if sending else IntentState.NOT_SENT,
            attempt_token=asked.token,
            attempts=int(sending),
            gate_at=asked.now,
            filled_quantity=ZERO,
            code="" if refusal is None else refusal.code.value,
            text="" if refusal is None else refusal.text,
        )
        if intent.client_id not in self.intents:
            self.of_trade.setdefault(asked.owner.trade_id, []).append(intent.client_id)
        self.intents[intent.client_id] = record
        self.keys[intent.key.text] = intent.client_id
        return record

    def _change(self, known: IntentRecord, **changes: Any) -> IntentRecord:
        record = known.model_copy(update=changes)
        self.intents[known.intent.client_id] = record
        if known.state in _OPEN and record.state not in _OPEN:
            self.known_at[known.intent.client_id] = self.now()
        if record.broker_order_id is not None:
            self.by_broker_id[record.broker_order_id] = known.intent.client_id
        return record

    def _with_snapshot(self, known: IntentRecord, snapshot: OrderSnapshot) -> dict[str, Any]:
        """`snapshot_columns` without the round trip through JSON."""
        columns = snapshot_columns(known, snapshot)
        columns.pop("terminal", None)
        if "snapshot" in columns:
            columns |= {"snapshot": snapshot, "status": snapshot.status}
        return columns

    async def claim_intent(self, client_id: str, attempt_token: str) -> IntentRecord | None:
        known = self.intents.get(client_id)
        if known is not None and known.state in _OPEN:
            known = self._change(known, attempt_token=attempt_token)
        return known

    async def record_answer(
        self,
        client_id: str,
        attempt_token: str | None,
        state: IntentState,
        *,
        snapshot: OrderSnapshot | None = None,
        code: str = "",
        text: str = "",
        at: datetime | None = None,
        sent_at: datetime | None = None,
    ) -> IntentRecord:
        known = self.intents.get(client_id)
        if known is None:
            raise Broken(f"no intent row for {client_id}", code="INTENT_MISSING")
        if not _counts(known, attempt_token, state, code):
            return known
        changes: dict[str, Any] = {"state": state, "text": text}
        changes |= {"code": _code_of(known, state, code)}
        changes |= {"answered_at": at or known.answered_at, "sent_at": sent_at or known.sent_at}
        if snapshot is not None:
            changes |= self._with_snapshot(known, snapshot)
        known = self._change(known, **changes)
        if state is IntentState.UNKNOWN:
            self._raise(f"order-unknown/{client_id}", "ORDER_UNKNOWN", known.owner.trade_id)
        if snapshot is not None:
            self._book_legs(Owner(client_id, known.intent.key.trade_id, True), snapshot)
        return known

    async def book_sent_intent(
        self,
        intent: OrderIntent,
        owner: OrderOwner,
        attempt_token: str,
        state: IntentState,
        at: datetime,
        *,
        snapshot: OrderSnapshot | None = None,
        code: str = "",
        text: str = "",
        answered_at: datetime | None = None,
    ) -> IntentRecord:
        if intent.client_id not in self.intents:
            self._insert(_Asked(intent, owner, attempt_token, at, "", "", False), None)
        return await self.record_answer(
            intent.client_id,
            None,
            state,
            snapshot=snapshot,
            code=code,
            text=text,
            at=answered_at or at,
        )

    # --- orders -----------------------------------------------------------------------------------

    def _owner_of(self, client_id: str | None, broker_ids: tuple[str | None, ...]) -> Owner:
        if client_id is not None and client_id in self.intents:
            return Owner(client_id, self.intents[client_id].owner.trade_id, True)
        for position, broker_id in enumerate(broker_ids):
            root = None if broker_id is None else self.by_broker_id.get(broker_id)
            if root is not None:
                return Owner(root, self.intents[root].owner.trade_id, position == 0)
            child = None if broker_id is None else self.children.get(broker_id)
            if child is not None:
                parent = self.intents[child.parent_client_id]
                return Owner(child.parent_client_id, parent.owner.trade_id, False)
        if client_id is None or parse_client_order_id(client_id) is None:
            return NOBODY
        return Owner(None, self.prefixes.get(client_id[:16]), False)

    async def record_snapshot(
        self, account: str, snapshot: OrderSnapshot, *, seen_at: datetime | None = None
    ) -> SnapshotBooking:
        """Nobody's hand is simulated here, so that nothing is older than its word."""
        ids = (snapshot.broker_order_id, snapshot.replaces_broker_id, snapshot.parent_broker_id)
        root = self.by_broker_id.get(snapshot.broker_order_id)
        known = None if root is None else self.intents[root]
        if known is not None and known.state is IntentState.ACCEPTED and known.snapshot == snapshot:
            return SnapshotBooking(
                known=True, client_id=root, trade_id=known.owner.trade_id, before=snapshot
            )
        owner = self._owner_of(snapshot.client_id, ids)
        if owner.client_id is None:
            return SnapshotBooking(known=False, trade_id=owner.trade_id)
        if owner.is_root:
            before = self._book_root(owner.client_id, snapshot)
        else:
            before = self._book_child(owner, snapshot, None)
        attributed = self._book_legs(owner, snapshot)
        return SnapshotBooking(
            known=True,
            client_id=owner.client_id,
            trade_id=owner.trade_id,
            fills_attributed=attributed,
            before=before,
        )

    def _book_root(self, client_id: str, snapshot: OrderSnapshot) -> OrderSnapshot | None:
        known = self.intents[client_id]
        changes = self._with_snapshot(known, snapshot)
        if known.state is not IntentState.ACCEPTED:
            was_rejected = snapshot.status is BrokerOrderStatus.REJECTED
            changes["state"] = IntentState.REJECTED if was_rejected else IntentState.ACCEPTED
            if was_rejected:
                changes |= {"code": snapshot.reject_code, "text": snapshot.reject_text}
        self._change(known, **changes)
        return known.snapshot

    def _book_child(
        self, owner: Owner, child: OrderSnapshot, parent_broker_id: str | None
    ) -> OrderSnapshot | None:
        assert owner.client_id is not None
        stored = self.children.get(child.broker_order_id)
        old = None if stored is None else stored.snapshot
        if not is_newer(old, child):
            return old
        parent = parent_broker_id or child.parent_broker_id or child.replaces_broker_id or ""
        self.children[child.broker_order_id] = ChildOrder(
            broker_order_id=child.broker_order_id,
            parent_client_id=owner.client_id if stored is None else stored.parent_client_id,
            parent_broker_id=parent if stored is None else stored.parent_broker_id,
            client_id=child.client_id,
            snapshot=child,
        )
        return old

    def _book_legs(self, owner: Owner, snapshot: OrderSnapshot) -> int:
        """Children of an order, and the fills that waited for their owner."""
        assert owner.client_id is not None
        ids = [snapshot.broker_order_id]
        for leg in snapshot.legs:
            self._book_child(owner, leg, snapshot.broker_order_id)
            ids.append(leg.broker_order_id)
        attributed = 0
        for key, row in self.fills.items():
            waits = row.trade_id is None
            if waits and (row.fill.broker_order_id in ids or row.fill.client_id == owner.client_id):
                self.fills[key] = row.model_copy(update={"trade_id": owner.trade_id})
                attributed += 1
        for key, fee in self.fee_rows.items():
            if fee.trade_id is None and fee.broker_order_id in ids:
                self.fee_rows[key] = fee.model_copy(update={"trade_id": owner.trade_id})
        return attributed

    async def intent(self, client_id: str) -> IntentRecord | None:
        return self.intents.get(client_id)

    async def orders_of_trade(self, trade_id: str) -> tuple[IntentRecord, ...]:
        return tuple(self.intents[each] for each in self.of_trade.get(trade_id, ()))

    async def children_of_trade(self, trade_id: str) -> tuple[ChildOrder, ...]:
        return tuple(
            child
            for _, child in sorted(self.children.items())
            if self.intents[child.parent_client_id].owner.trade_id == trade_id
        )

    async def open_children(self, account: str) -> tuple[ChildOrder, ...]:
        ours = {r.broker_order_id for r in self.intents.values()}
        return tuple(
            c
            for c in self.children.values()
            if not c.snapshot.is_terminal and c.broker_order_id not in ours
        )

    async def open_after_the_end(self, account: str) -> dict[str, str]:
        rows = [(r.broker_order_id, r.owner.trade_id) for r in self.intents.values() if r.is_live]
        for child in await self.open_children(account):
            trade_id = self.intents[child.parent_client_id].owner.trade_id
            rows.append((child.broker_order_id, trade_id))
        ended = {t.trade_id for t in self.trades.values() if t.closed_at is not None}
        return {each: trade_id for each, trade_id in rows if each and trade_id in ended}

    async def open_orders(
        self,
        account: str,
        *,
        trade_id: str | None = None,
        strategy: str | None = None,
        symbol: str | None = None,
    ) -> tuple[IntentRecord, ...]:
        return tuple(
            r
            for r in self.intents.values()
            if r.is_live
            and trade_id in (None, r.owner.trade_id)
            and strategy in (None, r.owner.strategy)
            and (symbol is None or symbol in r.owner.symbols)
        )

    @property
    def has_doubt(self) -> bool:
        """True while the fate of an order is not known."""
        return any(record.state in _OPEN for record in self.intents.values())

    async def unresolved_intents(self, account: str) -> tuple[IntentRecord, ...]:
        return tuple(r for r in self.intents.values() if r.state in _OPEN)

    async def absent_intents(self, account: str, since: datetime) -> tuple[IntentRecord, ...]:
        return tuple(
            r
            for r in self.intents.values()
            if r.state is IntentState.NOT_SENT
            and r.code == PROVEN_ABSENT
            and r.answered_at is not None
            and r.answered_at >= since
        )

    # --- fills and money --------------------------------------------------------------------------

    async def record_fill(self, account: str, fill: Fill) -> FillBooking:
        return (await self.record_fills(account, (fill,)))[0]

    async def record_fills(
        self,
        account: str,
        many: Sequence[Fill],
        *,
        told_to: str | None = None,
        only_owned: bool = False,
    ) -> tuple[FillBooking, ...]:
        return tuple(
            self._book_sum(fill, told_to)
            if fill.is_sum
            else self._book(fill, told_to, only_owned=only_owned)
            for fill in many
        )

    def _book(
        self,
        fill: Fill,
        told_to: str | None = None,
        reverses: str | None = None,
        *,
        only_owned: bool = False,
    ) -> FillBooking:
        key = fill.fill_key
        known = self.fills.get(key)
        if known is not None:
            seen = (fill.symbol, fill.side, fill.quantity, fill.price)
            old = known.fill
            if old.fee is None and fill.fee is not None:
                new = old.model_copy(update={"fee": fill.fee})
                self.fills[key] = known.model_copy(update={"fill": new})
            return FillBooking(
                fill_key=key,
                is_new=False,
                trade_id=known.trade_id,
                differs=seen != (old.symbol, old.side, old.quantity, old.price),
                told=key in self.told,
            )
        owner = self._owner_of(fill.client_id, (fill.broker_order_id,))
        if only_owned and owner.trade_id is None:
            return FillBooking(fill_key=key, is_new=True, trade_id=None)
        told = owner.trade_id is not None and owner.trade_id == told_to
        self.fills[key] = FillRecord(
            fill=fill,
            account=self.account,
            broker=self.broker,
            trade_id=owner.trade_id,
            reverses=reverses,
            booked_at=self.now(),
        )
        if told:
            self.told.add(key)
        booking = FillBooking(fill_key=key, is_new=True, trade_id=owner.trade_id, told=told)
        early = (fill.broker_order_id, execution_name(fill))
        if reverses is not None or early not in self.early_busts:
            return booking
        self._take_back(key, self.early_busts[early], told_to)
        return booking.model_copy(update={"took_back": True})

    def _book_sum(self, fill: Fill, told_to: str | None) -> FillBooking:
        """What the sum holds beyond the booked rows of its order (ADR 0017)."""
        rows = [
            row
            for row in self.fills.values()
            if (row.fill.broker_order_id, row.fill.symbol) == (fill.broker_order_id, fill.symbol)
        ]
        new = unbooked(fill, rows)
        if new is None:
            last = rows[-1]
            return FillBooking(
                fill_key=last.fill.fill_key,
                is_new=False,
                trade_id=last.trade_id,
                told=last.fill.fill_key in self.told,
                fill=last.fill,
            )
        for key in new.replaces:
            self._reverse(key, corrected_by(new.fill))
        booking = self._book(new.fill, told_to)
        return booking.model_copy(update={"fill": new.fill, "took_back": bool(new.replaces)})

    async def take_back(
        self, account: str, broker_order_id: str, execution_id: str, corrected: Fill | None = None
    ) -> FillBooking | None:
        for key, row in self.fills.items():
            is_meant = execution_name(row.fill) == execution_id and not row.is_reversal
            if is_meant and row.fill.broker_order_id == broker_order_id:
                return self._take_back(key, corrected)
        self.early_busts.setdefault((broker_order_id, execution_id), corrected)
        return None

    def _take_back(
        self, fill_key: str, corrected: Fill | None, told_to: str | None = None
    ) -> FillBooking:
        if corrected is None:
            return self._reverse(fill_key, VENUES_WORD, told_to)
        if corrected.fill_key == fill_key:
            raise Refused(f"fill key was {fill_key} for both", code="FILL_KEY_SAME")
        self._reverse(fill_key, corrected_by(corrected), told_to)
        return self._book(corrected, told_to)

    def _reverse(self, fill_key: str, reason: str, told_to: str | None = None) -> FillBooking:
        return self._book(reversal_of(self.fills[fill_key].fill, reason), told_to, fill_key)

    async def fills_of_trade(self, trade_id: str) -> tuple[FillRecord, ...]:
        return tuple(row for row in self.fills.values() if row.trade_id == trade_id)

    async def untold_fills(self, account: str) -> tuple[FillRecord, ...]:
        if len(self.told) == len(self.fills):
            return ()
        return tuple(
            row
            for key, row in self.fills.items()
            if key not in self.told and row.trade_id is not None
        )

    async def mark_fills_told(self, account: str, fill_keys: Sequence[str]) -> None:
        self.told.update(key for key in fill_keys if key in self.fills)

    async def record_fee(self, fee: FeeRecord) -> bool:
        if fee.activity_id in self.fee_rows:
            return False
        if fee.trade_id is None and fee.broker_order_id is not None:
            owner = self._owner_of(None, (fee.broker_order_id,))
            fee = fee.model_copy(update={"trade_id": owner.trade_id})
        self.fee_rows[fee.activity_id] = fee
        return True

    async def fees(self, account: str, trade_id: str | None = None) -> tuple[FeeRecord, ...]:
        rows = sorted(self.fee_rows.values(), key=lambda row: (row.venue_time, row.activity_id))
        return tuple(row for row in rows if trade_id in (None, row.trade_id))

    async def adjustments(
        self, account: str, trade_id: str | None = None
    ) -> tuple[AdjustmentRecord, ...]:
        rows = sorted(self.moves.values(), key=lambda row: (row.at, row.adjustment_id))
        return tuple(row for row in rows if trade_id in (None, row.trade_id))

    async def record_adjustment(self, adjustment: AdjustmentRecord) -> bool:
        if adjustment.adjustment_id in self.moves:
            return False
        self.moves[adjustment.adjustment_id] = adjustment
        return True

    async def move_positions(
        self, account: str, rows: Sequence[AdjustmentRecord], *, takes: Mapping[str, Decimal]
    ) -> bool:
        if any(row.adjustment_id in self.moves for row in rows):
            return False
        held = {p.symbol: p.quantity for p in self.positions() if p.trade_id == EXTERNAL}
        for symbol, quantity in takes.items():
            has = held.get(symbol, ZERO)
            if has * quantity <= 0 or abs(has) < abs(quantity):
                raise Refused(f"EXTERNAL has {has} {symbol}", code="EXTERNAL_MOVED")
        self.moves |= {row.adjustment_id: row for row in rows}
        return True

    def positions(self) -> tuple[TradePosition, ...]:
        sums: dict[tuple[str, str], Decimal] = {}
        for row in self.fills.values():
            key = (row.trade_id or EXTERNAL, row.fill.symbol)
            sign = 1 if row.fill.side is Side.BUY else -1
            sums[key] = sums.get(key, ZERO) + sign * row.fill.quantity
        for move in self.moves.values():
            key = (move.trade_id or EXTERNAL, move.symbol)
            sums[key] = sums.get(key, ZERO) + move.quantity
        return tuple(
            TradePosition(trade_id=trade_id, symbol=symbol, quantity=quantity)
            for (trade_id, symbol), quantity in sorted(sums.items())
            if quantity != 0
        )

    async def positions_by_trade(self, account: str) -> tuple[TradePosition, ...]:
        return self.positions()

    # --- risk -------------------------------------------------------------------------------------

    async def reserve(
        self,
        request: ReserveRequest,
        evaluate: Callable[[RiskBook], ReserveDecision],
        now: datetime,
    ) -> ReserveResult:
        known = self.reservations.get(request.trade_id)
        is_new = known is None
        if known is None:
            decision = evaluate(self.book(now))
            reservation = Reservation(
                reservation_id=f"reservation/{request.trade_id}",
                trade_id=request.trade_id,
                account=request.account,
                strategy=request.strategy,
                symbol=request.symbol,
                quantity=decision.quantity,
                notional=decision.notional,
                loss=decision.loss,
                reserved_at=now,
            )
            known = (decision, reservation if decision.approved else None)
            self.reservations[request.trade_id] = known
        return ReserveResult(
            is_new=is_new,
            reservation_id=f"reservation/{request.trade_id}",
            decision=known[0],
            reservation=known[1],
        )

    def book(self, now: datetime) -> RiskBook:
        """What the gate may count."""
        live = [r for r in self.intents.values() if r.is_live and not self._is_proven_done(r)]
        back = {r.owner.trade_id for r in live if r.intent.increasing}
        back |= {each.trade_id for each in self.positions() if each.quantity}
        return RiskBook(
            account=self.account,
            read_at=now,
            control=self._control(),
            risk_breaker=self.breaker,
            api_breaker=self.api_breaker,
            reservations=tuple(
                each.model_copy(update={"legs": self._held_legs(each.trade_id)})
                for _, each in self.reservations.values()
                if each is not None and (each.released_at is None or each.trade_id in back)
            ),
            positions=self.positions(),
            working_orders=tuple(_working(record) for record in live),
            messages_last_60_s=sum(
                r.attempts for r in self.intents.values() if r.gate_at > now - MESSAGE_WINDOW
            ),
            baseline=self.baseline,
        )

    def _is_proven_done(self, row: IntentRecord) -> bool:
        trade = self.trades.get(row.owner.trade_id)
        if trade is None or trade.closed_at is None or row.answered_at is None:
            return False
        is_accepted = row.state is IntentState.ACCEPTED and not row.code
        return is_accepted and trade.closed_at > row.answered_at

    def _held_legs(self, trade_id: str) -> tuple[HeldLeg, ...]:
        legs = self.trades[trade_id].plan.legs
        return tuple(HeldLeg(symbol=leg.instrument.symbol, side=leg.side) for leg in legs)

    def held(self) -> tuple[Reservation, ...]:
        """Unreleased reservations."""
        rows = (row for _, row in self.reservations.values())
        return tuple(row for row in rows if row is not None and row.released_at is None)

    async def release_reservation(self, trade_id: str, reason: str) -> bool:
        decision, row = self.reservations.get(trade_id, (None, None))
        if decision is None or row is None or row.released_at is not None:
            return False
        freed = row.model_copy(update={"released_at": self.now(), "release_reason": reason})
        self.reservations[trade_id] = (decision, freed)
        self.releases[trade_id] += 1
        return True

    async def reserved_decision(self, trade_id: str) -> ReserveDecision | None:
        return self.reservations.get(trade_id, (None, None))[0]

    async def equity_baseline(self, account: str, roll: datetime) -> EquityBaseline | None:
        found = self.baseline
        return found if found is not None and found.roll == roll else None

    async def set_equity_baseline(
        self, account: str, roll: datetime, equity: Decimal, read_at: datetime
    ) -> EquityBaseline:
        if self.baseline is None or self.baseline.roll != roll:
            self.baseline = EquityBaseline(
                account=account, roll=roll, equity=equity, read_at=read_at
            )
        return self.baseline

    async def trip_breaker(self, account: str, reason: str, text: str, by: str) -> None:
        self.breaker = BreakerRecord(
            account=account, state=BreakerState.TRIPPED, reason=str(reason), changed_at=self.now()
        )

    async def set_api_breaker(self, broker: str, state: ApiBreakerState, failures: int = 0) -> None:
        self.api_breaker = ApiBreakerRecord(
            broker=broker, state=state, failures=failures, changed_at=self.now()
        )

    # --- control ----------------------------------------------------------------------------------

    def _control(self) -> Control:
        return Control(
            account=self.account,
            armed=self.armed,
            kills=tuple(self.kills.values()),
            version=self.version,
            updated_at=self.now(),
        )

    async def read_control(self, account: str) -> Control:
        return self._control()

    async def engage_kill(
        self, account: str | None, kill: KillSwitch, expected_version: int | None = None
    ) -> KillAnswer:
        known = self.kills.get(kill.command_id)
        if known is not None and (known.scope, known.mode) != (kill.scope, kill.mode):
            raise Refused(f"command id was used: {kill.command_id}", code="COMMAND_ID_USED")
        if known is None:
            self.kills[kill.command_id] = kill
            self.version += 1
            self._ring("holdfast_control")
        covered = [r for r in self.intents.values() if r.is_live and _covers(kill.scope, r)]
        return KillAnswer(
            controls=(self._control(),),
            was_engaged=known is not None,
            in_flight=tuple(r for r in covered if r.state in _OPEN),
            working=tuple(r for r in covered if r.state not in _OPEN and r.intent.increasing),
        )

    # --- trades -----------------------------------------------------------------------------------

    async def installation_id(self) -> str:
        return self.installation

    async def create_trade(
        self, plan: TradePlan, *, stage: str = "planned", build_id: str = "", config_hash: str = ""
    ) -> TradeRecord:
        known = self.trades.get(plan.trade_id)
        if known is not None and known.plan != plan:
            text = f"trade was there with another plan: {plan.trade_id}"
            raise Refused(text, code="TRADE_EXISTS")
        if known is None:
            known = TradeRecord(
                trade_id=plan.trade_id,
                account=plan.account,
                session=plan.session,
                strategy=plan.strategy,
                symbol=plan.symbol,
                plan=plan,
                stage=stage,
                created_at=self.now(),
                updated_at=self.now(),
            )
            self.trades[plan.trade_id] = known
            self.prefixes[trade_prefix(self.installation, plan.trade_id)] = plan.trade_id
        return known

    async def update_trade(
        self,
        trade_id: str,
        *,
        stage: str | None = None,
        protection: str | None = None,
        result: str | None = None,
        story: str | None = None,
        build_id: str | None = None,
        document: Mapping[str, object] | None = None,
        closed: bool | None = None,
        reopened_at: datetime | None = None,
    ) -> TradeRecord:
        asked = {
            "stage": stage,
            "protection": protection,
            "result": result,
            "story": story,
            "build_id": build_id,
            "document": document,
        }
        changes: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}
        if closed is not None:
            changes["closed_at"] = self.now() if closed else None
        elif reopened_at is not None:
            closed_at = self.trades[trade_id].closed_at
            changes["closed_at"] = closed_at if closed_at and closed_at > reopened_at else None
        return self._change_trade(trade_id, changes)

    async def settle_trade(
        self,
        trade_id: str,
        realised: Decimal,
        fees: Decimal,
        *,
        fees_estimated: bool,
        result: str | None = None,
    ) -> TradeRecord:
        changes: dict[str, Any] = {
            "realised": realised,
            "fees": fees,
            "fees_estimated": fees_estimated,
            "closed_at": self.now(),
        }
        if result is not None:
            changes["result"] = result
        return self._change_trade(trade_id, changes)

    def _change_trade(self, trade_id: str, changes: dict[str, Any]) -> TradeRecord:
        known = self.trades.get(trade_id)
        if known is None:
            raise Refused(f"trade was {trade_id}", code="TRADE_UNKNOWN")
        if changes.get("closed_at") is not None and known.closed_at is not None:
            changes["closed_at"] = known.closed_at
        row = known.model_copy(update=changes | {"updated_at": self.now()})
        self.trades[trade_id] = row
        return row

    async def fees_naming(
        self, account: str, broker_order_ids: Sequence[str]
    ) -> tuple[FeeRecord, ...]:
        ids = set(broker_order_ids)
        return tuple(
            row
            for row in await self.fees(account)
            if row.trade_id is None and ids & {row.broker_order_id, *row.text.split(" ")}
        )

    async def trades_with_estimated_fees(self, account: str, limit: int) -> tuple[str, ...]:
        with_fills = {row.trade_id for row in self.fills.values()}
        return tuple(
            trade.trade_id
            for trade in sorted(self.trades.values(), key=lambda t: (str(t.closed_at), t.trade_id))
            if trade.closed_at is not None
            and trade.realised is not None
            and trade.fees_estimated
            and trade.trade_id in with_fills
        )[:limit]

    async def trade(self, trade_id: str) -> TradeRecord | None:
        return self.trades.get(trade_id)

    async def trade_book(self, trade_id: str) -> TradeBook | None:
        trade = self.trades.get(trade_id)
        if trade is None:
            return None
        return TradeBook(
            trade=trade,
            orders=await self.orders_of_trade(trade_id),
            fills=await self.fills_of_trade(trade_id),
            adjustments=await self.adjustments(trade.account, trade_id),
        )

    async def trade_of_prefix(self, client_prefix: str) -> TradeRecord | None:
        return self.trades.get(self.prefixes.get(client_prefix, ""))

    async def list_trades(
        self, *, account: str | None = None, open_only: bool = False, **_filters: object
    ) -> tuple[TradeRecord, ...]:
        rows = self.trades.values()
        return tuple(row for row in rows if not open_only or row.closed_at is None)

    async def disable_after_losses(self, name: str, account: str) -> None:
        return None

    # --- watches ----------------------------------------------------------------------------------

    async def upsert_watch(self, watch: WatchRecord) -> bool:
        key = (watch.trade_id, watch.rule_id)
        known = self.watches.get(key)
        if known is not None and known.position_epoch > watch.position_epoch:
            return False
        if known is not None and known.position_epoch == watch.position_epoch:
            kept = {
                name: getattr(known, name)
                for name in ("high_water_mark", "last_mark", "confirmed_at", "evaluated_at")
                if getattr(known, name) is not None
            }
            watch = watch.model_copy(update=kept | {"confirmations": known.confirmations})
        self.watches[key] = watch
        self._ring("holdfast_watches")
        return True

    async def save_watch_progress(self, watch: WatchRecord) -> bool:
        key = (watch.trade_id, watch.rule_id)
        known = self.watches.get(key)
        if known is None or known.position_epoch != watch.position_epoch:
            return False
        self.watches[key] = watch
        return True

    async def delete_watch(self, trade_id: str, rule_id: str | None = None) -> int:
        gone = [k for k in self.watches if k[0] == trade_id and rule_id in (None, k[1])]
        for key in gone:
            del self.watches[key]
        if gone:
            self._ring("holdfast_watches")
        return len(gone)

    async def list_watches(self, account: str) -> tuple[WatchRecord, ...]:
        return tuple(row for _, row in sorted(self.watches.items()))

    # --- operations -------------------------------------------------------------------------------

    async def take_lease(self, name: str, holder: str, ttl_s: float) -> int | None:
        now, until = self.now(), self.now() + timedelta(seconds=ttl_s)
        known = self.leases.get(name)
        if known is not None and known[2] > now:
            if known[0] != holder:
                return None
            self.leases[name] = (holder, known[1], until)
            return known[1]
        epoch = 1 if known is None else known[1] + 1
        self.leases[name] = (holder, epoch, until)
        return epoch

    async def renew_lease(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool:
        return self._expire(name, holder, epoch, self.now() + timedelta(seconds=ttl_s))

    async def release_lease(self, name: str, holder: str, epoch: int) -> bool:
        return self._expire(name, holder, epoch, self.now())

    def _expire(self, name: str, holder: str, epoch: int, until: datetime) -> bool:
        known = self.leases.get(name)
        if known is None or known[:2] != (holder, epoch) or known[2] <= self.now():
            return False
        self.leases[name] = (holder, epoch, until)
        return True

    async def get_cursor(self, name: str) -> str | None:
        return self.cursors.get(name)

    async def set_cursor(self, name: str, value: str) -> None:
        self.cursors[name] = value

    async def append_audit(
        self, actor: str, action: str, subject: str, details: Mapping[str, Any]
    ) -> None:
        self.audit.append((actor, action, subject))

    async def raise_alert(self, draft: AlertDraft, actor: str) -> bool:
        is_told = draft.key not in self.alerts
        self.alerts.setdefault(draft.key, draft)
        self.alert_times.setdefault(draft.key, self.now())
        return is_told

    def _raise(self, key: str, code: str, trade_id: str) -> None:
        from domain.commands import AlertSeverity

        draft = AlertDraft(
            key=key,
            account=self.account,
            trade_id=trade_id,
            code=code,
            severity=AlertSeverity.WARNING,
            text=key,
            once=True,
        )
        self.alerts.setdefault(key, draft)
        self.alert_times.setdefault(key, self.now())

    async def listen(self, *channels: str) -> AsyncIterator[tuple[str, str]]:
        """Tells every bell of these channels; the first word says that the line is up."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        for channel in channels:
            self._bells.setdefault(channel, []).append(queue)
        try:
            yield channels[0], ""
            while True:
                yield await queue.get(), self.account
        finally:
            for channel in channels:
                self._bells[channel].remove(queue)

    def _ring(self, channel: str) -> None:
        for queue in self._bells.get(channel, ()):
            queue.put_nowait(channel)


def _working(record: IntentRecord) -> WorkingOrder:
    body = record.intent.body
    return WorkingOrder(
        client_id=record.intent.client_id,
        trade_id=record.owner.trade_id,
        symbol=body.symbol,
        side=body.side,
        remaining=max(body.quantity - record.filled_quantity, ZERO),
        limit_price=body.limit_price,
        increasing=record.intent.increasing,
    )


def _covers(scope: KillScope, record: IntentRecord) -> bool:
    owner = record.owner
    return scope.covers(
        account=owner.account,
        strategy=owner.strategy,
        symbols=owner.symbols,
        trade_id=owner.trade_id,
        client_id=record.intent.client_id,
    )
