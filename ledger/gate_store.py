"""The last-hop gate: one transaction between a wish and a send (architecture §5 steps 1-4).

The intent row is UNIQUE on (trade, leg, purpose, sequence) and on the client id, its body never
changes. The attempt token fences: only the attempt whose token stands in the row may send.
Increasing orders pass only while the account is armed and nothing stops it; reducing orders need
the row and nothing else. The number of entry orders is held against the trade's own plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import cast, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.alerts import TEXT_MAX, AlertDraft
from domain.commands import AlertSeverity
from domain.control import ApiBreakerState, BreakerState
from domain.entry import entry_orders_max
from domain.errors import Broken
from domain.fold_orders import AMENDED, BY_HAND, PROVEN_ABSENT
from domain.order import BrokerOrderStatus, OrderIntent, OrderSnapshot
from domain.plan import TradePlan
from ledger.alert_store import add_alert
from ledger.connection import limit_waits, lock_shared
from ledger.control_store import (
    GATE_IDLE_MS,
    GATE_LOCK_MS,
    ControlStore,
    gate_lock_name,
)
from ledger.deployment_store import Deployment, stale_alert
from ledger.errors import LockBusy
from ledger.order_store import Owner, book_legs, snapshot_columns
from ledger.records import (
    ALL_ACCOUNTS,
    DUPLICATE,
    GateAnswer,
    GateCode,
    GatePermit,
    GateRefused,
    IntentExists,
    IntentRecord,
    IntentState,
    OrderOwner,
)
from ledger.rows import Columns, intent_of, kill_of
from ledger.tables import control, order_children, orders

# One round trip for everything that can stop an entry.
_POLICY = text(
    """
    SELECT json_build_object(
        'kills', (SELECT json_agg(k ORDER BY k.engaged_at) FROM kills k
                  WHERE k.account IN (:account, :common) AND k.reset_at IS NULL),
        'armed', (SELECT c.armed FROM control c WHERE c.account = :account),
        'risk', (SELECT b.state FROM risk_breakers b WHERE b.account = :account),
        'risk_reason', (SELECT b.reason FROM risk_breakers b WHERE b.account = :account),
        'api', (SELECT b.state FROM accounts a JOIN api_breakers b USING (broker)
                WHERE a.account = :account),
        'deployed', (SELECT row_to_json(d) FROM deployments d WHERE d.account = :account),
        'conditions', (SELECT json_agg(c) FROM conditions c
                       WHERE c.account IN (:account, :common))
    )
    """
)
# Orders out against the one signal in: what left under the trade's name, amended orders too.
_ORDERS_OUT = text(
    """
    SELECT t.plan, t.closed_at, (
        SELECT count(*) FROM orders o
        WHERE o.trade_id = :trade_id AND o.increasing AND o.client_id <> :client_id
          AND (o.state <> 'not_sent' OR o.code = :amended)
    ) AS sent
    FROM trades t WHERE t.trade_id = :trade_id
    """
)
_INSERT_TRIES = 3
REDUCING_IDLE_MS = 5000
_OPEN_STATES = (IntentState.SENDING.value, IntentState.UNKNOWN.value)


class GateStore(ControlStore):
    """Opening the gate, fencing attempts, recording answers."""

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
        """Decides in one transaction whether this attempt may send this intent now.

        A permit puts the row to `sending` under `attempt_token`. A row that an earlier attempt
        left in `sending` or `unknown` answers IntentExists, as do accepted and rejected ones;
        a `not_sent` row may be tried again. The same token may ask again (lost commit, B3).

        Args:
            now: market or wall instant that `intent.not_after` is compared with.
            resend: pass a row in `sending`/`unknown` once more with the same body and id; only
                where the venue's ids are unique for ever (architecture §5 step 5).

        Raises:
            LedgerDown: nothing is known; an entry must not be sent (H5).
        """
        asked = _Asked(intent, owner, attempt_token, now, build_id, config_hash, resend)
        try:
            async with self._work() as connection:
                # A reducing order holds nothing that a kill waits for.
                idle_ms = GATE_IDLE_MS if intent.increasing else REDUCING_IDLE_MS
                await limit_waits(connection, lock_ms=GATE_LOCK_MS, idle_ms=idle_ms)
                answer = await _pass_gate(connection, asked)
        except LockBusy:
            if intent.increasing and not await self._is_row_locked(intent.client_id):
                return GateRefused(code=GateCode.CONTROL_LOCKED, text="the control row was held")
            return GateRefused(code=GateCode.INTENT_LOCKED, text="the intent row was held")
        return answer

    async def _is_row_locked(self, client_id: str) -> bool:
        query = select(orders.c.client_id).where(orders.c.client_id == client_id)
        try:
            async with self._work() as connection:
                await limit_waits(connection, lock_ms=1, idle_ms=GATE_IDLE_MS)
                await connection.execute(query.with_for_update())
        except LockBusy:
            return True
        return False

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
        """One look without locks, for a permit that was long on its way (C8, I9).

        False means that another attempt or a resolver took the row over, or that an increasing
        order would be stopped now: do not send. The send's age then counts from this look.
        """
        asked = _Asked(intent, owner, attempt_token, now, build_id, config_hash, False)
        mine = select(orders.c.client_id).where(
            orders.c.client_id == intent.client_id,
            orders.c.attempt_token == attempt_token,
            orders.c.state == IntentState.SENDING.value,
        )
        names = {"account": owner.account, "common": ALL_ACCOUNTS}
        async with self._statement() as connection:
            if (await connection.execute(mine)).one_or_none() is None:
                return False
            if not intent.increasing:
                return True
            policy = (await connection.execute(_POLICY, names)).scalar_one()
        return _verdict(asked, policy, _why_stale(asked, policy["deployed"])) is None

    async def claim_intent(self, client_id: str, attempt_token: str) -> IntentRecord | None:
        """A resolver puts its own token on an open row, so that no older attempt may send.

        Rows with a definite answer keep their token. None if there is no such intent.
        """
        async with self._work() as connection:
            row = await _locked(connection, client_id)
            if row is not None and row["state"] in _OPEN_STATES:
                row = await _change(connection, client_id, attempt_token=attempt_token)
            record = None if row is None else intent_of(row)
        return record

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
        """Books what came of an attempt and answers the row that stands.

        Accepted is evidence and always wins. Anything else but a duplicate is ignored from an
        attempt whose token is no longer the row's, and never overrules a definite answer by a
        weaker one.
        `attempt_token` None is the evidence of a resolver, not the word of an attempt. Without `at`
        the row keeps the instant of its last answer: this one tells nothing of an earlier post. Its
        code DUPLICATE outlasts every other answer that leaves the order unknown. An accepted
        order that a person calls dead (code `by-hand`) stays accepted and counts as cancelled.

        Raises:
            Broken: `INTENT_MISSING`, the gate never saw this client id.
        """
        async with self._work() as connection:
            row = await _locked(connection, client_id)
            if row is None:
                raise Broken(f"no intent row for {client_id}", code="INTENT_MISSING")
            known = intent_of(row)
            if _is_written_off(known, attempt_token, state, code):
                row = await _write_off(connection, known, code, text, at)
            elif _counts(known, attempt_token, state, code):
                changes: dict[str, Any] = {"state": state.value, "text": text}
                changes |= {"code": _code_of(known, state, code)}
                changes |= {"answered_at": at or known.answered_at}
                changes |= {"sent_at": sent_at or known.sent_at}
                if code == BY_HAND:
                    changes["by_hand_at"] = at
                if snapshot is not None:
                    changes |= snapshot_columns(known, snapshot)
                row = await _change(connection, client_id, **changes)
                if state is IntentState.UNKNOWN:
                    await add_alert(connection, _alert_of_unknown(known, code, text))
                if snapshot is not None:
                    # Executions of a leg order may come before anything else names its id.
                    owner = Owner(client_id, known.intent.key.trade_id, True)
                    await book_legs(connection, row["account"], owner, snapshot)
            record = intent_of(row)
        return record

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
        """Writes the row of a reducing order afterwards, when the ledger was down at the send.

        The durable intent was the scheduled activity (architecture §5 step 7), so `at` is the
        moment of its scheduling. Idempotent; an existing row only takes the answer.
        """
        asked = _Asked(intent, owner, attempt_token, at, "", "", False)
        columns = _new_row(asked, IntentState.SENDING, "", "booked after the send")
        async with self._statement() as connection:
            await connection.execute(upsert(orders).values(**columns).on_conflict_do_nothing())
        return await self.record_answer(
            intent.client_id,
            None,
            state,
            snapshot=snapshot,
            code=code,
            text=text,
            at=answered_at or at,
        )


class _Asked:
    """The arguments of one knock at the gate."""

    def __init__(
        self,
        intent: OrderIntent,
        owner: OrderOwner,
        token: str,
        now: datetime,
        build_id: str,
        config_hash: str,
        resend: bool,
    ) -> None:
        self.intent = intent
        self.owner = owner
        self.token = token
        self.now = now
        self.build_id = build_id
        self.config_hash = config_hash
        self.resend = resend


async def _pass_gate(connection: AsyncConnection, asked: _Asked) -> GateAnswer:
    for _ in range(_INSERT_TRIES):
        row = await _existing(connection, asked.intent)
        if row is not None:
            known = intent_of(row)
            if known.intent.client_id != asked.intent.client_id or _bodies_differ(known, asked):
                text = f"the stored intent is {known.intent.client_id}"
                return GateRefused(code=GateCode.INTENT_BODY_DIFFERS, text=text)
            if not _may_try(known, asked):
                return IntentExists(record=known)
        refusal = await _stopped_by(connection, asked)
        if row is None:
            row = await _insert(connection, asked, refusal)
            if row is None:
                continue  # somebody else inserted it between our two statements
            return refusal or GatePermit(record=intent_of(row))
        if refusal is not None:
            return refusal
        changed = await _change(
            connection,
            asked.intent.client_id,
            state=IntentState.SENDING.value,
            attempt_token=asked.token,
            attempts=orders.c.attempts + 1,
            gate_at=asked.now,
            build_id=asked.build_id,
            config_hash=asked.config_hash,
            **_posted_again(known, asked),
        )
        return GatePermit(record=intent_of(changed))
    return GateRefused(code=GateCode.INTENT_LOCKED, text="the intent row came and went")


async def _existing(connection: AsyncConnection, intent: OrderIntent) -> Columns | None:
    key = intent.key
    same_key = (
        (orders.c.trade_id == key.trade_id)
        & (orders.c.leg == key.leg)
        & (orders.c.purpose == key.purpose.value)
        & (orders.c.sequence == key.sequence)
    )
    query = select(orders).where(or_(same_key, orders.c.client_id == intent.client_id))
    found = await connection.execute(query.with_for_update())
    return found.mappings().first()


def _bodies_differ(known: IntentRecord, asked: _Asked) -> bool:
    same_key = known.intent.key == asked.intent.key
    same_risk = known.intent.increasing == asked.intent.increasing
    return not (same_key and same_risk and known.intent.body == asked.intent.body)


def _may_try(known: IntentRecord, asked: _Asked) -> bool:
    if known.state is IntentState.NOT_SENT:
        # What was proven absent may have a successor: an attempt that wakes up now must not send.
        return known.code not in (PROVEN_ABSENT, BY_HAND)
    if known.state is IntentState.SENDING and known.attempt_token == asked.token:
        return True
    return asked.resend and known.state in (IntentState.SENDING, IntentState.UNKNOWN)


async def _stopped_by(connection: AsyncConnection, asked: _Asked) -> GateRefused | None:
    """Why an increasing order may not go now; None for one that may and for reducing ones."""
    intent, owner = asked.intent, asked.owner
    if not intent.increasing:
        return None
    await lock_shared(connection, gate_lock_name(owner.account), gate_lock_name(ALL_ACCOUNTS))
    rows = (
        select(control.c.account)
        .where(control.c.account.in_((owner.account, ALL_ACCOUNTS)))
        .order_by(control.c.account)
        .with_for_update(read=True)
    )
    held: Sequence[str] = (await connection.execute(rows)).scalars().all()
    if len(held) != 2:
        return GateRefused(code=GateCode.ACCOUNT_UNKNOWN, text=f"account was {owner.account}")
    # Read after the lock, in a statement of its own: it sees the kill that held us up.
    found = await connection.execute(_POLICY, {"account": owner.account, "common": ALL_ACCOUNTS})
    policy = found.scalar_one()
    stale = _why_stale(asked, policy["deployed"])
    if stale:
        told = stale_alert(owner.account, asked.build_id, asked.config_hash, stale)
        await add_alert(connection, told)
    return _verdict(asked, policy, stale) or await _out_of_bounds(connection, asked)


async def _out_of_bounds(connection: AsyncConnection, asked: _Asked) -> GateRefused | None:
    """More orders out than the plan of the one signal allows, or no signal at all (I15)."""
    key = asked.intent.key
    query = {"trade_id": key.trade_id, "client_id": asked.intent.client_id, "amended": AMENDED}
    row = (await connection.execute(_ORDERS_OUT, query)).one_or_none()
    if row is None:
        return GateRefused(code=GateCode.NO_SIGNAL, text=f"trade {key.trade_id} has no row")
    if row.closed_at is not None:
        # Its run was set back in an older store (H3); what is reopened never enters.
        return GateRefused(code=GateCode.TRADE_ENDED, text=f"trade {key.trade_id} has ended")
    most = entry_orders_max(TradePlan.model_validate(row.plan))
    if row.sent < most:
        return None
    text = f"trade {key.trade_id} sent {row.sent} entry orders, its plan allows {most}"
    return GateRefused(code=GateCode.TOO_MANY_ORDERS, text=text)


def _verdict(asked: _Asked, policy: dict[str, Any], stale: str) -> GateRefused | None:
    """The first thing that stops the order; what is missing counts as bad."""
    owner, not_after = asked.owner, asked.intent.not_after
    for row in policy["kills"] or ():
        kill = kill_of(row)
        if kill.scope.covers(
            account=owner.account,
            strategy=owner.strategy,
            symbols=owner.symbols,
            trade_id=owner.trade_id,
            client_id=asked.intent.client_id,
        ):
            return GateRefused(code=GateCode.KILLED, text=f"{kill.mode} {kill.scope.text}")
    if policy["armed"] is not True:
        return GateRefused(code=GateCode.NOT_ARMED, text=f"account was {owner.account}")
    if stale:
        return GateRefused(code=GateCode.WORKER_STALE, text=stale)
    if not_after is not None and asked.now > not_after:
        return GateRefused(code=GateCode.NOT_AFTER, text=f"not after {not_after}")
    if policy["risk"] != BreakerState.NORMAL:
        return GateRefused(code=GateCode.BREAKER_TRIPPED, text=policy["risk_reason"] or "MISSING")
    if policy["api"] not in (ApiBreakerState.CLOSED, ApiBreakerState.HALF_OPEN):
        return GateRefused(code=GateCode.API_BREAKER_OPEN, text=f"account was {owner.account}")
    for condition in policy["conditions"] or ():
        if condition["symbol"] in ("", *owner.symbols):
            return GateRefused(code=GateCode.CONDITION_ACTIVE, text=condition["kind"])
    return None


def _why_stale(asked: _Asked, deployed: dict[str, Any] | None) -> str:
    """Why this worker is not the one that was deployed (H13); empty if it is."""
    if deployed is None:
        return ""
    return Deployment.model_validate(deployed).why_not(asked.build_id, asked.config_hash)


async def _insert(
    connection: AsyncConnection, asked: _Asked, refusal: GateRefused | None
) -> Columns | None:
    state = IntentState.SENDING if refusal is None else IntentState.NOT_SENT
    code = "" if refusal is None else refusal.code.value
    columns = _new_row(asked, state, code, "" if refusal is None else refusal.text)
    statement = upsert(orders).values(**columns).on_conflict_do_nothing().returning(orders)
    row: Columns | None = (await connection.execute(statement)).mappings().one_or_none()
    return row


def _new_row(asked: _Asked, state: IntentState, code: str, text: str) -> dict[str, Any]:
    intent, owner = asked.intent, asked.owner
    return {
        "client_id": intent.client_id,
        "trade_id": intent.key.trade_id,
        "leg": intent.key.leg,
        "purpose": intent.key.purpose.value,
        "sequence": intent.key.sequence,
        "account": owner.account,
        "strategy": owner.strategy,
        "symbols": list(owner.symbols),
        "increasing": intent.increasing,
        "body": intent.body.model_dump(mode="json"),
        "intent": intent.model_dump(mode="json"),
        "state": state.value,
        "attempt_token": asked.token,
        # A refused knock is no message to the venue.
        "attempts": 1 if state is IntentState.SENDING else 0,
        "gate_at": asked.now,
        "code": code,
        "text": text,
        "build_id": asked.build_id,
        "config_hash": asked.config_hash,
    }


async def _locked(connection: AsyncConnection, client_id: str) -> Columns | None:
    query = select(orders).where(orders.c.client_id == client_id).with_for_update()
    return (await connection.execute(query)).mappings().one_or_none()


async def _change(connection: AsyncConnection, client_id: str, **columns: Any) -> Columns:
    statement = update(orders).where(orders.c.client_id == client_id).values(**columns)
    row: Columns = (await connection.execute(statement.returning(orders))).mappings().one()
    return row


def _alert_of_unknown(known: IntentRecord, code: str, text: str) -> AlertDraft:
    """Said once per order; what stays unknown is told as critical by the trade itself."""
    body, owner = known.intent.body, known.owner
    return AlertDraft(
        key=f"order-unknown/{known.intent.client_id}",
        account=owner.account,
        trade_id=owner.trade_id,
        code="ORDER_UNKNOWN",
        severity=AlertSeverity.WARNING,
        text=f"{body.side} {body.quantity:f} {owner.symbols[0]}, order {known.intent.client_id}: "
        f"{code} {text}".strip()[:TEXT_MAX],
        once=True,
    )


def _is_written_off(known: IntentRecord, token: str | None, state: IntentState, code: str) -> bool:
    by_hand = token is None and state is IntentState.NOT_SENT and code == BY_HAND
    is_dead = known.snapshot is not None and known.snapshot.is_terminal
    return by_hand and known.state is IntentState.ACCEPTED and not is_dead


async def _write_off(
    connection: AsyncConnection, known: IntentRecord, code: str, text: str, at: datetime | None
) -> Columns:
    """The order and its children work no more, by a person's word; what they filled stays."""
    dead = {"status": BrokerOrderStatus.CANCELED.value, "raw_status": BY_HAND}
    mine = order_children.c.parent_client_id == known.intent.client_id
    await connection.execute(
        update(order_children)
        .where(mine, order_children.c.terminal.is_(False))
        .values(terminal=True, snapshot=order_children.c.snapshot.op("||")(cast(dead, JSONB)))
    )
    changes: dict[str, Any] = {"terminal": True, "code": code, "text": text, "by_hand_at": at}
    if known.snapshot is not None:
        seen = known.snapshot.model_dump(mode="json") | dead
        changes |= {"status": dead["status"], "snapshot": seen}
    return await _change(connection, known.intent.client_id, **changes)


def _posted_again(known: IntentRecord, asked: _Asked) -> dict[str, Any]:
    """What the row says while its order is sent once more.

    An attempt that the row is taken from may have sent until now: its order is in doubt from here.
    """
    is_taken = known.state is IntentState.SENDING and known.attempt_token != asked.token
    return {
        "code": _code_of(known, IntentState.SENDING, ""),
        "text": "",
        "answered_at": asked.now if is_taken else known.answered_at,
    }


def _code_of(known: IntentRecord, state: IntentState, code: str) -> str:
    """The code to book: that the venue knew the id is forgotten for nothing but a definite end."""
    is_open = state.value in _OPEN_STATES
    return DUPLICATE if is_open and known.code == DUPLICATE else code


def _counts(known: IntentRecord, token: str | None, state: IntentState, code: str) -> bool:
    """True if this answer may change the row.

    What the venue called a duplicate it has: that counts whoever was told so, and no proof of
    absence that began before it stands against it (C5).
    """
    if state is IntentState.ACCEPTED:
        return True
    if known.state is IntentState.ACCEPTED:
        return False
    if code == DUPLICATE:
        return known.state.value in _OPEN_STATES
    if token is not None and token != known.attempt_token:
        return False
    if code == PROVEN_ABSENT and known.code == DUPLICATE:
        return False
    if state is IntentState.UNKNOWN:
        return known.state in (IntentState.SENDING, IntentState.UNKNOWN)
    return True
