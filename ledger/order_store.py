"""What the broker says of our orders, their broker-made children, and the order lists.

A snapshot belongs to an order by client id, by broker id, by the order it replaces or by its
parent. News may arrive late or twice: a terminal order is never revived and the cumulative
filled quantity never falls (I7).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, exists, or_, select, union, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.fold_orders import BY_HAND, PROVEN_ABSENT
from domain.ids import parse_client_order_id
from domain.order import BrokerOrderStatus, OrderSnapshot
from ledger.alert_store import tell_opening
from ledger.connection import LedgerConnection
from ledger.records import (
    ChildOrder,
    IntentRecord,
    IntentState,
    SnapshotBooking,
)
from ledger.rows import child_of, intent_of
from ledger.tables import LIVE_ORDERS, fees, fills, order_children, orders, trades


class Owner(NamedTuple):
    """Whose order it is: our root intent and its trade."""

    client_id: str | None
    trade_id: str | None
    is_root: bool


NOBODY = Owner(None, None, False)


async def owner_of_order(
    connection: AsyncConnection,
    account: str,
    client_id: str | None,
    broker_ids: tuple[str | None, ...],
) -> Owner:
    """Finds our intent behind an order; the trade's id prefix is the last resort.

    `broker_ids` are the order's own broker id, then the one it replaces, then its parent's.
    """
    if client_id is not None:
        query = select(orders.c.client_id, orders.c.trade_id).where(
            orders.c.client_id == client_id, orders.c.account == account
        )
        row = (await connection.execute(query)).one_or_none()
        if row is not None:
            return Owner(row.client_id, row.trade_id, True)
    for position, broker_id in enumerate(broker_ids):
        if broker_id is None:
            continue
        found = await _owner_of_broker_id(connection, account, broker_id, own=position == 0)
        if found is not None:
            return found
    return await _owner_of_prefix(connection, account, client_id)


async def _owner_of_broker_id(
    connection: AsyncConnection, account: str, broker_id: str, *, own: bool
) -> Owner | None:
    query = select(orders.c.client_id, orders.c.trade_id).where(
        orders.c.account == account, orders.c.broker_order_id == broker_id
    )
    row = (await connection.execute(query)).first()
    if row is not None:
        return Owner(row.client_id, row.trade_id, own)
    child = select(order_children.c.parent_client_id, order_children.c.trade_id).where(
        order_children.c.account == account, order_children.c.broker_order_id == broker_id
    )
    row = (await connection.execute(child)).first()
    return None if row is None else Owner(row.parent_client_id, row.trade_id, False)


async def _owner_of_prefix(
    connection: AsyncConnection, account: str, client_id: str | None
) -> Owner:
    if client_id is None or parse_client_order_id(client_id) is None:
        return NOBODY
    query = select(trades.c.trade_id).where(
        trades.c.client_prefix == client_id[:16], trades.c.account == account
    )
    trade_id = (await connection.execute(query)).scalar_one_or_none()
    return Owner(None, trade_id, False)


def snapshot_columns(known: IntentRecord, snapshot: OrderSnapshot) -> dict[str, Any]:
    """Columns of the order row after this snapshot; late news changes nothing but the fill."""
    filled = max(known.filled_quantity, snapshot.filled_quantity)
    columns: dict[str, Any] = {"filled_quantity": filled}
    if known.broker_order_id is None or is_newer(known.snapshot, snapshot):
        columns |= {
            "broker_order_id": snapshot.broker_order_id,
            "status": snapshot.status.value,
            "terminal": snapshot.is_terminal,
            "snapshot": snapshot.model_dump(mode="json"),
        }
    return columns


def is_newer(old: OrderSnapshot | None, new: OrderSnapshot) -> bool:
    """False for news that is older than what is known or would revive a dead order."""
    if old is None or old.raw_status == BY_HAND:
        return True  # a person's word: the broker's own overrules it (I10)
    if new.filled_quantity < old.filled_quantity:
        return False
    if old.is_terminal:
        return new.is_terminal
    if new.is_terminal or old.updated_at is None or new.updated_at is None:
        return True
    return new.updated_at >= old.updated_at


class OrderStore(LedgerConnection):
    """Snapshots in, order lists out."""

    async def record_snapshot(
        self, account: str, snapshot: OrderSnapshot, *, seen_at: datetime | None = None
    ) -> SnapshotBooking:
        """Books the broker's own view of one order and of its legs; never raises for foreign ones.

        An intent that we believed unsent or unknown becomes accepted: the broker has it. Fills
        that waited for their owner are attributed. News `seen_at` a moment before a person called
        the order dead revives nothing (I10).
        """
        async with self._work() as connection:
            known = await _accepted_row(connection, account, snapshot.broker_order_id)
            if known is not None and known.snapshot == snapshot:
                # Most reads find only this: nothing new, legs included.
                return SnapshotBooking(
                    known=True,
                    client_id=known.intent.client_id,
                    trade_id=known.owner.trade_id,
                    before=snapshot,
                )
            if known is not None and known.intent.client_id == snapshot.client_id:
                owner = Owner(known.intent.client_id, known.owner.trade_id, True)
            else:
                owner = await owner_of_order(
                    connection,
                    account,
                    snapshot.client_id,
                    (
                        snapshot.broker_order_id,
                        snapshot.replaces_broker_id,
                        snapshot.parent_broker_id,
                    ),
                )
            if owner.client_id is None:
                attributed = await _attribute_by_prefix(connection, account, owner, snapshot)
                return SnapshotBooking(
                    known=False, trade_id=owner.trade_id, fills_attributed=attributed
                )
            if await _is_overruled(connection, owner.client_id, snapshot, seen_at):
                if owner.is_root:
                    await _book_dead(connection, owner.client_id, snapshot)
                return SnapshotBooking(
                    known=True,
                    client_id=owner.client_id,
                    trade_id=owner.trade_id,
                    before=snapshot,
                )
            if owner.is_root:
                before = await _book_root(connection, owner.client_id, snapshot)
            else:
                before = await _book_child(connection, account, owner, snapshot, None)
            attributed = await book_legs(connection, account, owner, snapshot)
        return SnapshotBooking(
            known=True,
            client_id=owner.client_id,
            trade_id=owner.trade_id,
            fills_attributed=attributed,
            before=before,
        )

    async def intent(self, client_id: str) -> IntentRecord | None:
        """The intent row, or None."""
        found = await self._intents(orders.c.client_id == client_id)
        return found[0] if found else None

    async def orders_of_trade(self, trade_id: str) -> tuple[IntentRecord, ...]:
        """Every intent of the trade in the order of their making."""
        return await self._intents(orders.c.trade_id == trade_id)

    async def orders_of_account(self, account: str) -> tuple[IntentRecord, ...]:
        """All intents of the account, oldest first."""
        return await self._intents(orders.c.account == account)

    async def children_of_trade(self, trade_id: str) -> tuple[ChildOrder, ...]:
        """Broker-made orders under the trade's intents."""
        query = (
            select(order_children)
            .where(order_children.c.trade_id == trade_id)
            .order_by(order_children.c.broker_order_id)
        )
        async with self._statement() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(child_of(row) for row in rows)

    async def open_children(self, account: str) -> tuple[ChildOrder, ...]:
        """Broker-made orders of the account that are not known dead.

        A leg that we moved is an order of ours, though its parent still shows it as a leg: its own
        row tells how it is, and this one would stay open for ever.
        """
        query = select(order_children).where(_is_open_child(account))
        async with self._statement() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(child_of(row) for row in rows)

    async def open_after_the_end(self, account: str) -> dict[str, str]:
        """Trade ids by broker id of the orders and children that no row calls dead though their
        trade has ended: a last frame was lost, or they showed up after their trade's end (C5).
        """
        own = select(orders.c.broker_order_id, orders.c.trade_id).where(
            orders.c.account == account, orders.c.broker_order_id.is_not(None), LIVE_ORDERS
        )
        children = select(order_children.c.broker_order_id, order_children.c.trade_id)
        found = union(own, children.where(_is_open_child(account))).subquery()
        query = (
            select(found.c.broker_order_id, found.c.trade_id)
            .join(trades, trades.c.trade_id == found.c.trade_id)
            .where(trades.c.closed_at.is_not(None))
        )
        async with self._statement() as connection:
            rows = (await connection.execute(query)).all()
        return {row.broker_order_id: row.trade_id for row in rows}

    async def open_orders(
        self,
        account: str,
        *,
        trade_id: str | None = None,
        strategy: str | None = None,
        symbol: str | None = None,
    ) -> tuple[IntentRecord, ...]:
        """Intents that are or may come to be at the broker, inside the scope."""
        clauses = [orders.c.account == account, LIVE_ORDERS]
        if trade_id is not None:
            clauses.append(orders.c.trade_id == trade_id)
        if strategy is not None:
            clauses.append(orders.c.strategy == strategy)
        if symbol is not None:
            clauses.append(orders.c.symbols.contains([symbol]))
        return await self._intents(*clauses)

    async def unresolved_intents(self, account: str) -> tuple[IntentRecord, ...]:
        """Intents in `sending` or `unknown`: their fate needs broker evidence (I10)."""
        open_states = (IntentState.SENDING.value, IntentState.UNKNOWN.value)
        return await self._intents(orders.c.account == account, orders.c.state.in_(open_states))

    async def absent_intents(self, account: str, since: datetime) -> tuple[IntentRecord, ...]:
        """Intents that were called absent from `since` on: a broker may show one later (C5)."""
        return await self._intents(
            orders.c.account == account,
            orders.c.state == IntentState.NOT_SENT.value,
            orders.c.code == PROVEN_ABSENT,
            orders.c.answered_at >= since,
        )

    async def _intents(self, *clauses: Any) -> tuple[IntentRecord, ...]:
        query = select(orders).where(*clauses).order_by(orders.c.created_at, orders.c.client_id)
        async with self._statement() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(intent_of(row) for row in rows)


def _is_open_child(account: str) -> ColumnElement[bool]:
    our_own = exists().where(
        orders.c.account == account,
        orders.c.broker_order_id == order_children.c.broker_order_id,
    )
    return and_(order_children.c.account == account, order_children.c.terminal.is_(False), ~our_own)


async def _accepted_row(
    connection: AsyncConnection, account: str, broker_order_id: str
) -> IntentRecord | None:
    query = select(orders).where(
        orders.c.account == account,
        orders.c.broker_order_id == broker_order_id,
        orders.c.state == IntentState.ACCEPTED.value,
    )
    row = (await connection.execute(query)).mappings().first()
    return None if row is None else intent_of(row)


async def _is_overruled(
    connection: AsyncConnection, client_id: str, snapshot: OrderSnapshot, seen_at: datetime | None
) -> bool:
    """True for older news than a person's word, of something that would work again by it.

    Where it does work the next list of open orders shows it.
    """
    if seen_at is None or all(each.is_terminal for each in (snapshot, *snapshot.legs)):
        return False
    query = select(orders.c.by_hand_at).where(orders.c.client_id == client_id).with_for_update()
    by_hand_at = (await connection.execute(query)).scalar_one()
    return by_hand_at is not None and seen_at < by_hand_at


async def _book_dead(connection: AsyncConnection, client_id: str, snapshot: OrderSnapshot) -> None:
    """Overruled news that tells more filled: the order was there, and works no more."""
    query = select(orders.c.filled_quantity).where(orders.c.client_id == client_id)
    if snapshot.filled_quantity > (await connection.execute(query)).scalar_one():
        dead = {"status": BrokerOrderStatus.CANCELED, "raw_status": BY_HAND}
        await _book_root(connection, client_id, snapshot.model_copy(update=dead))


async def _book_root(
    connection: AsyncConnection, client_id: str, snapshot: OrderSnapshot
) -> OrderSnapshot | None:
    query = select(orders).where(orders.c.client_id == client_id).with_for_update()
    known = intent_of((await connection.execute(query)).mappings().one())
    columns = snapshot_columns(known, snapshot)
    if known.state is not IntentState.ACCEPTED:
        # REJECTED here is "reject before accept"; an accepted order that dies keeps its state.
        was_rejected = snapshot.status is BrokerOrderStatus.REJECTED
        state = IntentState.REJECTED if was_rejected else IntentState.ACCEPTED
        columns |= {"state": state.value}
        if was_rejected:
            columns |= {"code": snapshot.reject_code, "text": snapshot.reject_text}
    await connection.execute(
        update(orders).where(orders.c.client_id == client_id).values(**columns)
    )
    return known.snapshot


async def _book_child(
    connection: AsyncConnection,
    account: str,
    owner: Owner,
    child: OrderSnapshot,
    parent_broker_id: str | None,
) -> OrderSnapshot | None:
    query = (
        select(order_children.c.snapshot)
        .where(
            order_children.c.account == account,
            order_children.c.broker_order_id == child.broker_order_id,
        )
        .with_for_update()
    )
    stored = (await connection.execute(query)).scalar_one_or_none()
    old = None if stored is None else OrderSnapshot.model_validate(stored)
    if not is_newer(old, child):
        return old
    parent = parent_broker_id or child.parent_broker_id or child.replaces_broker_id or ""
    changes = {
        "client_id": child.client_id,
        "terminal": child.is_terminal,
        "snapshot": child.model_dump(mode="json"),
    }
    statement = upsert(order_children).values(
        account=account,
        broker_order_id=child.broker_order_id,
        parent_client_id=owner.client_id,
        parent_broker_id=parent,
        trade_id=owner.trade_id,
        **changes,
    )
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["account", "broker_order_id"], set_=changes)
    )
    return old


async def book_legs(
    connection: AsyncConnection, account: str, owner: Owner, snapshot: OrderSnapshot
) -> int:
    """Links the order's legs to our intent, and what was booked for them before to the trade.

    Returns how many fills were attributed.
    """
    broker_ids = [snapshot.broker_order_id]
    for leg in snapshot.legs:
        await _book_child(connection, account, owner, leg, snapshot.broker_order_id)
        broker_ids.append(leg.broker_order_id)
    return await _attribute(connection, account, owner, broker_ids)


async def _attribute_by_prefix(
    connection: AsyncConnection, account: str, owner: Owner, snapshot: OrderSnapshot
) -> int:
    """The same for an order of ours without a row: sent while this ledger was away (K8).

    Its fills get the id as well, which REST does not tell: by it the trade knows them.
    """
    if owner.trade_id is None or snapshot.client_id is None:
        return 0
    await connection.execute(
        update(fills)
        .where(
            fills.c.account == account,
            fills.c.client_id.is_(None),
            fills.c.broker_order_id == snapshot.broker_order_id,
        )
        .values(client_id=snapshot.client_id)
    )
    named = Owner(snapshot.client_id, owner.trade_id, False)
    return await _attribute(connection, account, named, [snapshot.broker_order_id])


async def _attribute(
    connection: AsyncConnection, account: str, owner: Owner, broker_ids: list[str]
) -> int:
    """Gives fills and fees that came before their order's link to the trade; counts the fills."""
    given_fees = (
        update(fees)
        .where(
            fees.c.account == account,
            fees.c.trade_id.is_(None),
            fees.c.broker_order_id.in_(broker_ids),
        )
        .values(trade_id=owner.trade_id)
        .cte("given_fees")
    )
    # One statement for both: this stands behind every answer and frame of an order.
    done = await connection.execute(
        update(fills)
        .where(
            fills.c.account == account,
            fills.c.trade_id.is_(None),
            or_(fills.c.broker_order_id.in_(broker_ids), fills.c.client_id == owner.client_id),
        )
        .values(trade_id=owner.trade_id)
        .returning(fills)
        .add_cte(given_fees)
    )
    attributed = done.mappings().all()
    if attributed and owner.trade_id is not None:
        await tell_opening(connection, account, owner.trade_id, attributed[0])
    return len(attributed)
