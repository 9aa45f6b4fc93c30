"""What a streamer does with news of the broker: book it, and ring the trade if it is new there.

The stream is a hint and REST is truth (architecture §8): frames may be lost, doubled or out of
order (F1–F3), so everything here is idempotent and the compare pass finds what no frame told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from temporalio import activity

from activities.doorbell import Doorbell
from activities.executions import book_executions
from activities.order_facts import any_filled
from activities.reporting import report
from activities.services import Services
from brokers.port import FrameProblem, OrderUpdate
from domain.commands import AlertSeverity
from domain.errors import HoldfastError
from domain.facts import Fact, FillBusted, FillReported, OrderReported
from domain.order import BrokerOrderStatus, Fill, OrderClass, OrderSnapshot
from ledger.records import ChildOrder, IntentRecord, IntentState, SnapshotBooking

GRACE_S = 0.25
PARTNER_S = 1.0
IN_FLIGHT_S = 2.0
VANISHED_READS_MAX = 10
# A resting order of an earlier day is in no list of such a venue: its absence is no news, and
# asking for it in every pass would use up the request budget (F8).
UNLISTED_READ_EVERY_S = 60.0
LATE_LOOK_S = 60.0
# No list or look-up of a venue lags so long behind an order that it has answered for.
LOST_AFTER_S = 20.0


class StreamBooker:
    """Books frames and snapshots of one account; rings trades with what they cannot know yet."""

    def __init__(self, services: Services, doorbell: Doorbell) -> None:
        self._services = services
        self._doorbell = doorbell
        self._graced: set[asyncio.Task[None]] = set()
        self._ringing: set[str] = set()
        self._filled_s: dict[str, float] = {}
        self._read_s: dict[str, float] = {}
        self._unread: set[str] = set()
        self._lost_since: dict[str, float] = {}
        self._lost_told: set[str] = set()

    # --- frames ---------------------------------------------------------------------------------

    async def take(self, update: OrderUpdate) -> None:
        """One frame. Raises only when the ledger is away; the next compare pass repairs that."""
        if update.busted_execution:
            await self._book_bust(
                update.order.broker_order_id, update.busted_execution, update.fill
            )
            return
        if update.fill is not None:
            await self._take_fill(update.order, update.fill)
            return
        if self._ends_with_partner(update.order):
            await self.book_order(update.order)
            return
        seen_at = self._told_at(update.order)
        task = asyncio.create_task(self._after_grace(update.order, seen_at))
        self._graced.add(task)
        task.add_done_callback(self._graced.discard)

    async def _take_fill(self, order: OrderSnapshot, fill: Fill) -> None:
        """A fill, and the end of its order if the frame tells both.

        Where a venue names no executions every frame of an order carries what it has filled so
        far, its cancel too. Told as a fill only, the cancel was no news to anybody any more, and
        what it left stood bare until the next look (I4).
        """
        services = self._services
        seen_at = self._told_at(order)
        booking = await services.ledger.record_snapshot(services.account, order, seen_at=seen_at)
        await self._book_fill(fill)
        self._filled_s[fill.symbol] = services.monotonic()
        if booking.known and booking.trade_id is not None and _matters(booking, order):
            self._doorbell.ring(booking.trade_id, OrderReported(at=services.now(), order=order))

    def _told_at(self, order: OrderSnapshot) -> datetime:
        """When the broker sent a frame, by its own time of the order's last change.

        A frame may be long on its way, and a person's word may be younger than it (I10).
        """
        now = self._services.now()
        return now if order.updated_at is None else min(now, order.updated_at)

    def _ends_with_partner(self, order: OrderSnapshot) -> bool:
        """True for a cancel right behind a fill: most likely the other half of an OCO.

        No answer of ours tells that one, so it need not wait, and it travels with the fill.
        """
        filled_s = self._filled_s.get(order.symbol)
        if filled_s is None or order.status is not BrokerOrderStatus.CANCELED:
            return False
        return self._services.monotonic() - filled_s < PARTNER_S

    async def _book_fill(self, fill: Fill) -> None:
        services = self._services
        booking = await services.ledger.record_fill(services.account, fill)
        if booking.differs:
            text = f"fill {fill.fill_key} was told with other numbers before"
            await report(services, "FILL_DIFFERS", text, booking.trade_id or "")
        if booking.took_back:
            await self.ring_untold()
        elif booking.trade_id is not None and not booking.told:
            self._ring_fill(booking.trade_id, booking.fill or fill)

    async def _book_bust(
        self, broker_order_id: str, execution_id: str, corrected: Fill | None
    ) -> None:
        """The venue takes an execution back: a row that reverses it, told like a fill (D9).

        One that is `corrected` is reversed and booked anew in one step. One that is not booked yet
        is reversed when it comes.
        """
        services = self._services
        booking = await services.ledger.take_back(
            services.account, broker_order_id, execution_id, corrected
        )
        if booking is None:
            text = f"execution {execution_id} of order {broker_order_id} was taken back"
            warning = AlertSeverity.WARNING
            await report(services, "BUST_UNKNOWN", f"{text} before it came", severity=warning)
            return
        await self.ring_untold()

    def _ring_fill(self, trade_id: str, fill: Fill, busts: str | None = None) -> None:
        """Rings once per row while the signal is on its way; `delivered` ends that."""
        if fill.fill_key in self._ringing:
            return
        now = self._services.now()
        fact = (
            FillReported(at=now, fill=fill) if busts is None else FillBusted(at=now, fill_key=busts)
        )
        self._ringing.add(fill.fill_key)
        self._doorbell.ring(trade_id, fact)

    async def delivered(self, trade_id: str, facts: tuple[Fact, ...]) -> None:
        """Marks the fills among delivered facts as told, so that nobody rings them again."""
        keys = told_keys(facts)
        if keys:
            await self._services.ledger.mark_fills_told(self._services.account, keys)
            self._ringing.difference_update(keys)

    def forget(self, fill_keys: list[str]) -> None:
        """Lets the outbox ring these rows again if they are still untold."""
        self._ringing.difference_update(fill_keys)

    async def ring_untold(self) -> int:
        """Rings every booked fill that its trade has not heard of: whoever booked it, whenever.

        A read for one trade books the fills of others too, and a process may die between booking
        and telling; this is how such a fill still arrives.
        """
        rows = await self._services.ledger.untold_fills(self._services.account)
        fresh = [row for row in rows if row.fill.fill_key not in self._ringing]
        for row in fresh:
            if row.trade_id is not None:
                self._ring_fill(row.trade_id, row.fill, row.reverses)
        return len(fresh)

    async def _after_grace(self, order: OrderSnapshot, seen_at: datetime) -> None:
        """Waits for the REST answer of our own step, which tells the same and costs no signal."""
        await asyncio.sleep(GRACE_S)
        try:
            await self.book_order(order, seen_at)
        except HoldfastError as error:
            activity.logger.warning("order %s not booked: %s", order.broker_order_id, error.code)

    async def book_order(self, order: OrderSnapshot, seen_at: datetime | None = None) -> bool:
        """Books the broker's view; rings the trade and answers True if it is news that matters.

        `seen_at` is given where a person may have had the last word since (I10).
        """
        services = self._services
        booking = await services.ledger.record_snapshot(services.account, order, seen_at=seen_at)
        if not booking.known or booking.trade_id is None:
            return False
        is_news = _matters(booking, order)
        if is_news:
            self._doorbell.ring(booking.trade_id, OrderReported(at=services.now(), order=order))
        return is_news

    async def frame_problem(self, problem: FrameProblem) -> None:
        """A frame that could not be read: quarantined, audited, told to a person."""
        await report(self._services, problem.code, problem.text)

    # --- compare ----------------------------------------------------------------------------------

    async def compare(self) -> int:
        """Reads executions and orders from the broker; answers how much the stream had not told.

        Raises:
            HoldfastError: broker or ledger did not answer; nothing was concluded.
        """
        # What was called absent comes first: once a list has booked it, nobody looks for it.
        news = await self._compare_executions() + await self._compare_absent()
        return news + await self._compare_orders()

    async def _compare_executions(self) -> int:
        await book_executions(self._services)
        return await self.ring_untold()

    async def _compare_orders(self) -> int:
        """Open orders of the broker against live rows of the ledger, both ways (D9, R-rows)."""
        services, news = self._services, 0
        intents = await services.ledger.open_orders(services.account)
        children = await services.ledger.open_children(services.account)
        known = {r.broker_order_id: r.snapshot for r in intents if r.broker_order_id is not None}
        known |= {child.broker_order_id: child.snapshot for child in children}
        ended = await services.ledger.open_after_the_end(services.account)
        asked_at = services.now()
        listed = await services.broker.open_orders()
        for order in listed:
            # Children first: the parent's snapshot would book them without telling anybody.
            for each in (*order.legs, order):
                if not _is_same(known.get(each.broker_order_id), each):
                    news += await self.book_order(each, asked_at)
        shown = {o.broker_order_id for o in listed}
        shown |= {leg.broker_order_id for o in listed for leg in o.legs}
        # A list may lag: an order that works after its trade's end is asked for by itself.
        gone = self._gone(intents, children, shown - ended.keys())
        for broker_order_id in self._in_turn(gone):
            self._read_s[broker_order_id] = services.monotonic()
            self._unread.add(broker_order_id)
            asked_at = services.now()
            order_now = await services.broker.order(broker_order_id)
            await self._watch_lost(broker_order_id, order_now, intents, children)
            if order_now is not None:
                news += await self.book_order(order_now, asked_at)
                if broker_order_id in ended and not order_now.is_terminal:
                    fact = OrderReported(at=services.now(), order=order_now)
                    self._doorbell.ring(ended[broker_order_id], fact)
            self._unread.discard(broker_order_id)
        for client_id in self._unanswered(intents, listed):
            asked_at = services.now()
            found = await services.broker.order_by_client_id(client_id)
            if found is not None:
                news += await self.book_order(found, asked_at)
        return news

    async def _watch_lost(
        self,
        broker_order_id: str,
        found: OrderSnapshot | None,
        intents: Sequence[IntentRecord],
        children: Sequence[ChildOrder],
    ) -> None:
        """Tells a person of an order that the broker has answered for and knows no more (R6).

        A paper account that was reset, a simulated exchange that began anew: its trade counts on
        a stop that nobody holds. Told only: absence ends no order, the positions do (R3).
        """
        now_s = self._services.monotonic()
        if found is not None:
            self._lost_since.pop(broker_order_id, None)
            return
        since_s = self._lost_since.setdefault(broker_order_id, now_s)
        if now_s - since_s < LOST_AFTER_S or broker_order_id in self._lost_told:
            return
        self._lost_told.add(broker_order_id)
        parents = {c.parent_client_id for c in children if c.broker_order_id == broker_order_id}
        owner = next(
            (
                record
                for record in intents
                if record.broker_order_id == broker_order_id or record.intent.client_id in parents
            ),
            None,
        )
        name = broker_order_id if owner is None else owner.intent.client_id
        text = f"the broker knows order {name} no more: what it protects may be bare"
        trade_id = "" if owner is None else owner.owner.trade_id
        await report(self._services, "ORDER_LOST", text, trade_id)

    async def works_after_the_end(self, trade_id: str, facts: tuple[Fact, ...]) -> str:
        """The id of a reported order that works though its trade has ended; empty if none does.

        A late frame may say so of an order that is long dead: the ledger knows better.
        """
        told = [
            fact.order.broker_order_id
            for fact in facts
            if isinstance(fact, OrderReported) and not fact.order.is_terminal
        ]
        if not told:
            return ""
        ended = await self._services.ledger.open_after_the_end(self._services.account)
        return next((each for each in told if ended.get(each) == trade_id), "")

    async def _compare_absent(self) -> int:
        """Looks again for orders that were called absent, where lists may lag behind that (C5).

        One that shows up was sent. Its trade stopped believing in it and hears of it, unless it
        died without a fill.
        """
        services, news = self._services, 0
        has_own_id = services.broker.capabilities.replace_makes_new_id
        since = services.now() - timedelta(seconds=LATE_LOOK_S)
        for record in await services.ledger.absent_intents(services.account, since):
            if record.intent.replaces is not None and not has_own_id:
                continue
            found = await services.broker.order_by_client_id(record.intent.client_id)
            if found is None:
                continue
            await services.ledger.record_snapshot(services.account, found)
            if not found.is_terminal or any_filled(found):
                fact = OrderReported(at=services.now(), order=found)
                self._doorbell.ring(record.owner.trade_id, fact)
                news += 1
        return news

    def _unanswered(
        self, intents: tuple[IntentRecord, ...], listed: Sequence[OrderSnapshot]
    ) -> list[str]:
        """Client ids whose send is long over and whose answer is in no row.

        The ledger was away when the broker answered (H5): the trade knows its order, but the row
        knows no broker id, so that executions of it would be nobody's. An order that is listed
        was booked above. A change in place is no order of its own and is not looked for.
        """
        services = self._services
        wait = timedelta(seconds=services.request_timeout_s + IN_FLIGHT_S)
        young, shown = services.now() - wait, {order.client_id for order in listed}
        has_own_id = services.broker.capabilities.replace_makes_new_id
        return [
            record.intent.client_id
            for record in intents
            if record.broker_order_id is None
            and record.gate_at < young
            and record.intent.client_id not in shown
            and (has_own_id or record.intent.replaces is None)
        ][:VANISHED_READS_MAX]

    def _in_turn(self, gone: list[str]) -> list[str]:
        """Those to ask for by id in this pass, who was not asked for longest first."""
        self._read_s = {each: at for each, at in self._read_s.items() if each in gone}
        self._unread &= set(gone)
        self._lost_since = {each: at for each, at in self._lost_since.items() if each in gone}
        self._lost_told &= self._lost_since.keys()
        if self._services.broker.capabilities.lists_orders_of_today_only:
            since_s = self._services.monotonic() - UNLISTED_READ_EVERY_S
            # A read that broke off has told nothing: it need not wait for its turn (I4).
            due = {each for each in gone if self._read_s.get(each, since_s) <= since_s}
            gone = [each for each in gone if each in due | self._unread]
        return sorted(gone, key=lambda each: self._read_s.get(each, 0.0))[:VANISHED_READS_MAX]

    def _gone(
        self,
        intents: tuple[IntentRecord, ...],
        children: tuple[ChildOrder, ...],
        shown: set[str],
    ) -> list[str]:
        """Broker ids that the ledger believes live and the broker does not list any more.

        Orders in flight get a grace (R7): their own step is about to tell.
        """
        young = self._services.now() - timedelta(seconds=IN_FLIGHT_S)
        mine = [
            record.broker_order_id
            for record in intents
            if record.state is IntentState.ACCEPTED
            and record.broker_order_id is not None
            and (record.answered_at or record.gate_at) < young
        ]
        mine += [child.broker_order_id for child in children]
        return [broker_order_id for broker_order_id in mine if broker_order_id not in shown]

    async def aclose(self) -> None:
        """Drops what waits in its grace; the next compare pass finds it."""
        tasks = list(self._graced)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_same(known: OrderSnapshot | None, shown: OrderSnapshot) -> bool:
    """True if the ledger has all of this; a pass over quiet orders then costs no transaction."""
    return known is not None and (
        (known.status, known.filled_quantity, known.quantity)
        == (shown.status, shown.filled_quantity, shown.quantity)
        and (known.limit_price, known.stop_price) == (shown.limit_price, shown.stop_price)
    )


def told_keys(facts: tuple[Fact, ...]) -> list[str]:
    """Keys of the ledger's fill rows that these facts tell."""
    keys = [fact.fill.fill_key for fact in facts if isinstance(fact, FillReported)]
    return keys + [f"{fact.fill_key}/bust" for fact in facts if isinstance(fact, FillBusted)]


def _matters(booking: SnapshotBooking, order: OrderSnapshot) -> bool:
    """True for an end, an unknown word or a child that woke, unless REST told it before.

    A complete fill is told by its executions; a combo's executions carry other ids, so there the
    order itself is the news.
    """
    before = None if booking.before is None else booking.before.status
    if order.status is before:
        return False
    if order.status is BrokerOrderStatus.FILLED:
        return order.order_class is OrderClass.COMBO
    if order.is_terminal or order.status is BrokerOrderStatus.UNKNOWN:
        return True
    return BrokerOrderStatus.HELD in (before, order.status) and before is not None
