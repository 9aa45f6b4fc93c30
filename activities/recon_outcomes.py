"""What a reconcile pass does about a finding: one outcome for each class, each idempotent (R8).

People are alerted first: a booked difference is none any more, so a pass that dies behind its
booking would never be asked for it again, and an alert that is raised twice is told once. The
ledger's rows come next, then the trade is told; a pass that dies in between is made good by the
next one, which tells whatever was booked and not taken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from activities.by_hand import adjustment_rows, booked_facts
from activities.doorbell import Doorbell
from activities.executions import fills_of_trade
from activities.recon_reading import read_cash, set_anchor
from activities.reporting import report
from activities.services import Services
from domain.account_events import AccountEvent
from domain.commands import AlertSeverity
from domain.control import TripReason
from domain.discrepancies import severity_of
from domain.errors import Uncertain
from domain.facts import AdjustmentKind, DiscrepancyFound, Fact, PositionAdjusted
from domain.ids import parse_client_order_id
from domain.instrument import Instrument
from domain.money import ZERO, as_amount, divide, multiply, total
from domain.money_law import assigned_shares, average_cost
from domain.occ import option_instrument
from domain.recon.cash import CASH_BLOCKS_FROM
from domain.recon.classify import Discrepancy, DiscrepancyKind
from domain.split_math import PRICE_STEP, split_quantity
from ledger.records import EXTERNAL, AdjustmentRecord, FeeRecord, FillRecord, TradePosition

CHOICES = "choose: adopt it to a trade, ignore it, or flatten it by name"
GUARDS = "it stays: it guards a position of no trade; cancel it at the broker before you adopt"
ACTOR = "reconcile"
_OURS = ("recon/", "event/")
_KIND = DiscrepancyKind
Outcome = Callable[[Discrepancy, datetime], Awaitable[None]]


class Outcomes:
    """Books and tells for one account."""

    def __init__(self, services: Services, doorbell: Doorbell) -> None:
        self._services = services
        self._doorbell = doorbell

    async def settle(
        self, finding: Discrepancy, events: Sequence[AccountEvent], market_now: datetime
    ) -> None:
        """The one outcome of the finding's class (`domain.discrepancies`)."""
        at = next((e.at for e in events if e.event_id in finding.event_ids), market_now)
        outcomes: dict[DiscrepancyKind, Outcome] = {
            _KIND.ORPHAN_ENTRY: self._cancel,
            _KIND.ORPHAN_EXIT: self._look_or_cancel,
            _KIND.FOREIGN_ORDER: self._leave,
            _KIND.INTENT_STUCK: self._look_or_cancel,
            _KIND.POSITION_MISMATCH: self._book_external,
            _KIND.POSITION_VANISHED: self._book_gone,
            _KIND.POSITIONS_UNTRUSTED: self._only_tell,
            _KIND.EXTERNAL_TRADE: self._book_taken_by_others,
            _KIND.LIQUIDATION: self._book_gone,
            _KIND.ASSIGNMENT: self._book_ended_option,
            _KIND.EXERCISE: self._book_ended_option,
            _KIND.EXPIRY: self._book_ended_option,
            _KIND.OPTION_GONE: self._only_tell,
            _KIND.SPLIT: self._book_split,
            _KIND.SYMBOL_CHANGE: self._book_new_symbol,
            _KIND.FEE_MISMATCH: self._correct_fee,
            _KIND.CASH_DIFFERENCE: self._tell_cash,
        }
        await outcomes[finding.kind](finding, at)

    # --- telling ----------------------------------------------------------------------------------

    async def tell_untold(self) -> None:
        """Rings trades that are open or hold something with what they never took (R8)."""
        services = self._services
        told = await self._told()
        rows = await services.ledger.adjustments(services.account)
        waiting = [
            row
            for row in rows
            if row.trade_id is not None
            and row.adjustment_id.startswith(_OURS)
            and row.adjustment_id not in told
        ]
        if not waiting:
            return
        trades = await services.ledger.list_trades(account=services.account, open_only=True)
        holders = {row.trade_id for row in await self._owned()}
        for trade_id in sorted({trade.trade_id for trade in trades} | holders):
            mine = [row for row in rows if row.trade_id == trade_id]
            if any(row in waiting for row in mine):
                fills = await fills_of_trade(services, trade_id)
                facts = booked_facts(fills, mine)
                fresh = [fact for fact in facts if fact.adjustment_id.startswith(_OURS)]
                self._doorbell.ring(trade_id, *(f for f in fresh if f.adjustment_id not in told))

    async def gave_shares(self, trade_id: str, facts: Sequence[Fact]) -> bool:
        """True if an adjustment is among the facts and the trade holds something by the ledger."""
        if not any(isinstance(fact, PositionAdjusted) for fact in facts):
            return False
        return any(row.trade_id == trade_id for row in await self._owned())

    async def _owned(self) -> tuple[TradePosition, ...]:
        owned = await self._services.ledger.positions_by_trade(self._services.account)
        return tuple(row for row in owned if row.trade_id != EXTERNAL)

    async def delivered(self, facts: Sequence[Fact]) -> None:
        """Remembers which adjustments their trades have taken."""
        ids = [fact.adjustment_id for fact in facts if isinstance(fact, PositionAdjusted)]
        if ids:
            rows = await self._services.ledger.adjustments(self._services.account)
            known = {row.adjustment_id for row in rows}
            told = sorted((await self._told() & known) | set(ids))
            await self._services.ledger.set_cursor(self._told_cursor, "\n".join(told))

    @property
    def _told_cursor(self) -> str:
        return f"adjustments-told/{self._services.account}"

    async def _told(self) -> set[str]:
        stored = await self._services.ledger.get_cursor(self._told_cursor)
        return set(filter(None, (stored or "").split("\n")))

    async def _alert(
        self, finding: Discrepancy, more: str = "", severity: AlertSeverity | None = None
    ) -> None:
        text = f"{finding.text} {more}".strip()
        worth = severity or severity_of(finding.kind)
        await report(self._services, finding.kind.upper(), text, finding.trade_id, worth)

    async def remember_foreign(self, findings: Sequence[Discrepancy]) -> None:
        """Alerts a foreign order once, not in every pass."""
        services, name = self._services, f"foreign-orders/{self._services.account}"
        foreign = {f.broker_order_id: f for f in findings if f.kind is _KIND.FOREIGN_ORDER}
        known = set(filter(None, (await services.ledger.get_cursor(name) or "").split(",")))
        for broker_order_id in sorted(foreign.keys() - known):
            await self._alert(foreign[broker_order_id], "it is left alone")
        if known != foreign.keys():
            await services.ledger.set_cursor(name, ",".join(sorted(foreign)))

    # --- orders and positions ---------------------------------------------------------------------

    async def _leave(self, finding: Discrepancy, at: datetime) -> None:
        """Told once by `remember_foreign`, never touched."""

    async def _only_tell(self, finding: Discrepancy, at: datetime) -> None:
        await self._alert(finding)

    async def _look_or_cancel(self, finding: Discrepancy, at: datetime) -> None:
        """Its trade looks at it; an exit without an open trade is cancelled, unless it guards."""
        if finding.kind is _KIND.ORPHAN_EXIT and not finding.trade_id:
            if finding.guards:
                await self._alert(finding, GUARDS)
            else:
                await self._cancel(finding, at)
            return
        now, code = self._services.now(), finding.kind.upper()
        self._doorbell.ring(
            finding.trade_id, DiscrepancyFound(at=now, code=code, text=finding.text)
        )
        await self._alert(finding)

    async def _cancel(self, finding: Discrepancy, at: datetime) -> None:
        """An order of ours that no trade answers for ends here (R1)."""
        await self._alert(finding, "it is cancelled")
        await self._services.broker.cancel(finding.broker_order_id)

    async def _book_external(self, finding: Discrepancy, at: datetime) -> None:
        """The difference goes to EXTERNAL, which freezes entries in the symbol (R2, I20)."""
        kind, price = AdjustmentKind.EXTERNAL, finding.price
        row = await self._row(finding, None, finding.quantity, kind, price=price)
        await self._alert(finding, CHOICES)
        await self._services.ledger.record_adjustment(row)
        self._services.failpoint("after_repair")

    async def _book_gone(self, finding: Discrepancy, at: datetime) -> None:
        """Each owner loses what the broker took, at its price; exits then go at once (R3)."""
        price = finding.price
        if price is None:
            quotes = await self._services.broker.quotes([finding.symbol])
            quote = quotes.get(finding.symbol)
            price = None if quote is None else quote.mid
        losses = await self._losses(finding)
        await self._alert(finding)
        kind = AdjustmentKind.LIQUIDATION
        rows = [
            await self._row(finding, trade_id, lost, kind, price=price, at=at)
            for trade_id, lost in losses.items()
        ]
        await self._book(*rows)

    async def _losses(self, finding: Discrepancy) -> dict[str, Decimal]:
        """What each owner loses: all of them everything, or the only one a part.

        Raises:
            Uncertain: MOVED: they hold something else by now; the next pass looks again.
        """
        services, symbol = self._services, finding.symbol
        rows = await services.ledger.positions_by_trade(services.account)
        owned = {
            r.trade_id: r.quantity
            for r in rows
            if r.symbol == symbol and r.trade_id != EXTERNAL and r.quantity != 0
        }
        if sorted(owned) != sorted(finding.owners):
            raise Uncertain(f"owners of {symbol} moved during the pass", code="MOVED")
        if total(owned.values()) + finding.quantity == 0:
            return {trade_id: -quantity for trade_id, quantity in owned.items()}
        if len(owned) != 1:
            raise Uncertain(f"{symbol} moved during the pass", code="MOVED")
        return dict.fromkeys(owned, finding.quantity)

    async def _book_ended_option(self, finding: Discrepancy, at: datetime) -> None:
        """The contracts leave at what they cost, the premium goes into the shares' basis (R4).

        The shares belong to nobody's plan: EXTERNAL holds them until a person adopts them.
        """
        if len(finding.owners) > 1 and finding.delivered:
            held = await self._services.broker.positions()
            if any(position.symbol == finding.symbol for position in held):
                await self._alert(finding, "several owners, a part of it: book it by hand")
                return
        option = option_instrument(finding.symbol)
        kind = AdjustmentKind(finding.kind.value)
        losses = await self._losses(finding)
        more = f"shares are without owner; {CHOICES}" if finding.delivered else ""
        await self._alert(finding, more)
        rows = []
        for trade_id, lost in losses.items():
            premium = await self._average(option, trade_id)
            price = ZERO if kind is AdjustmentKind.EXPIRY else premium
            rows.append(await self._row(finding, trade_id, lost, kind, price=price, at=at))
            if finding.delivered:
                shares = assigned_shares(option, -lost, premium)
                into = finding.model_copy(update={"symbol": finding.delivered_symbol})
                rows.append(
                    await self._row(
                        into,
                        None,
                        shares.quantity,
                        kind,
                        price=shares.basis_price,
                        at=at,
                        name=f"{EXTERNAL}/{trade_id}",
                    )
                )
        await self._book(*rows)

    async def _average(self, instrument: Instrument, trade_id: str) -> Decimal:
        fills = await fills_of_trade(self._services, trade_id)
        mine = [fill for fill in fills if fill.symbol == instrument.symbol]
        # A row could not hold an average without an end: the shares stayed unbooked (R4).
        return as_amount(average_cost(instrument, mine).average_price or ZERO)

    async def _book_split(self, finding: Discrepancy, at: datetime) -> None:
        """Every owner in new shares; trades write their plan anew and read their orders (R5)."""
        assert finding.ratio is not None, "a split has a ratio"
        services = self._services
        owned = await services.ledger.positions_by_trade(services.account)
        await self._alert(finding)
        rows, held = [], {}
        for each in owned:
            owner, quantity = each.trade_id, each.quantity
            if each.symbol != finding.symbol:
                continue
            if owner == EXTERNAL and finding.is_late:
                quantity -= finding.quantity
                kind, name = AdjustmentKind.EXTERNAL, f"{EXTERNAL}/late"
                rows.append(await self._row(finding, None, -finding.quantity, kind, name=name))
            change = split_quantity(quantity, finding.ratio) - quantity
            if change != 0:
                trade_id = None if owner == EXTERNAL else owner
                kind = AdjustmentKind.SPLIT
                rows.append(await self._row(finding, trade_id, change, kind, at=at))
                held[owner] = quantity
        await self._book(*rows, held=held)

    async def _book_new_symbol(self, finding: Discrepancy, at: datetime) -> None:
        """The trade ends at its cost; EXTERNAL holds the new symbol until a person adopts it."""
        services = self._services
        shown = {p.symbol: p for p in await services.broker.positions()}
        new = shown.get(finding.delivered_symbol)
        cost = None if new is None else new.average_price
        kind = AdjustmentKind.SYMBOL_CHANGE
        losses = await self._losses(finding)
        await self._alert(finding, f"its plan ends with the old symbol; {CHOICES}")
        into = finding.model_copy(update={"symbol": finding.delivered_symbol})
        rows = []
        for trade_id, lost in losses.items():
            price = await self._average(Instrument(symbol=finding.symbol), trade_id) or cost
            name = f"{EXTERNAL}/{trade_id}"
            rows += [
                await self._row(finding, trade_id, lost, kind, price=price, at=at),
                await self._row(into, None, -lost, kind, price=price, at=at, name=name),
            ]
        await self._book(*rows)

    async def _book_taken_by_others(self, finding: Discrepancy, at: datetime) -> None:
        """What others sold of a trade's position is the trade's loss; its exits must go (R2, R3).

        Only executions whose order is provably not ours count, and only where one owner lost it.
        """
        services = self._services
        fills = await self._foreign_fills(finding)
        everything = await services.ledger.positions_by_trade(services.account)
        ours = total(
            r.quantity
            for r in everything
            if r.symbol == finding.symbol and r.trade_id in finding.owners
        )
        is_clear = len(finding.owners) == 1 or ours + finding.quantity == 0
        if not fills or not is_clear:
            await self._alert(finding, "whose it was cannot be told; its exits may oversell")
            return
        quantity = total(fill.fill.quantity for fill in fills)
        value = total(multiply(fill.fill.quantity, fill.fill.price) for fill in fills)
        average = divide(value, quantity).quantize(PRICE_STEP)
        kind = AdjustmentKind.CLOSED_OUTSIDE
        losses = await self._losses(finding)
        await self._alert(finding)
        pairs: list[AdjustmentRecord] = []
        for trade_id, lost in losses.items():
            row = await self._row(finding, trade_id, lost, kind, price=average, at=at)
            pairs += adjustment_rows(services.account, trade_id, booked_facts((), [row])[0])
        await self._book(*pairs, takes={finding.symbol: total(losses.values())})

    async def _foreign_fills(self, finding: Discrepancy) -> list[FillRecord]:
        """The newest executions of nobody that make up the quantity; none if one may be ours."""
        services = self._services
        rows = await services.ledger.unattributed_fills(services.account)
        sign = 1 if finding.quantity > 0 else -1
        chosen: list[FillRecord] = []
        for row in reversed(rows):
            if row.fill.symbol != finding.symbol or row.fill.side.sign != sign:
                continue
            order = await services.broker.order(row.fill.broker_order_id)
            if order is None:
                return []
            booking = await services.ledger.record_snapshot(services.account, order)
            parts = parse_client_order_id(order.client_id) if order.client_id else None
            if booking.known or (parts and parts.installation == services.installation):
                return []
            chosen.append(row)
            if total(each.fill.quantity for each in chosen) >= abs(finding.quantity):
                break
        return chosen

    # --- money ------------------------------------------------------------------------------------

    async def _correct_fee(self, finding: Discrepancy, at: datetime) -> None:
        """The broker's amount wins by a row of its own; nothing that was booked is edited."""
        services, activity_id = self._services, finding.event_ids[0]
        rows = await services.ledger.fees(services.account)
        first = next(row for row in rows if row.activity_id == activity_id)
        update = {
            "activity_id": f"{activity_id}/corrected/{finding.quantity}",
            "amount": finding.quantity,
            "text": finding.text[:200],
            "venue_time": at,
        }
        await self._alert(finding)
        await services.ledger.record_fee(FeeRecord(**(first.model_dump() | update)))
        services.failpoint("after_repair")

    async def _tell_cash(self, finding: Discrepancy, at: datetime) -> None:
        """A difference is told once; a large one stops entries until a person has looked (R9)."""
        services = self._services
        is_large = abs(finding.quantity) >= CASH_BLOCKS_FROM
        severity = AlertSeverity.CRITICAL if is_large else AlertSeverity.WARNING
        if is_large:
            reason = TripReason.CASH_DIFFERENCE
            await services.ledger.trip_breaker(services.account, reason, finding.text, ACTOR)
        await self._alert(finding, "entries stop" if is_large else "", severity)
        trades = await services.ledger.list_trades(account=services.account, open_only=True)
        shown = await services.broker.account()
        read = await read_cash(services, shown, trades)
        if read is not None and read.anchor is not None:
            await set_anchor(services, read.anchor + finding.quantity)

    # --- rows -------------------------------------------------------------------------------------

    async def _row(
        self,
        finding: Discrepancy,
        trade_id: str | None,
        quantity: Decimal,
        kind: AdjustmentKind,
        *,
        price: Decimal | None = None,
        at: datetime | None = None,
        name: str = "",
    ) -> AdjustmentRecord:
        """One row of `finding`; `name` stands for the owner where EXTERNAL has several rows."""
        return AdjustmentRecord(
            adjustment_id=await self._adjustment_id(finding, name or trade_id or EXTERNAL),
            account=self._services.account,
            trade_id=trade_id,
            symbol=finding.symbol,
            quantity=quantity,
            price=price,
            kind=kind,
            text=finding.text[:200],
            at=at or self._services.now(),
        )

    async def _adjustment_id(self, finding: Discrepancy, owner: str) -> str:
        """Named by the broker's rows where there are any; else it counts up per owner and symbol:
        two passes that saw the same book it once (R8)."""
        symbol = finding.symbol
        if finding.event_ids:
            return f"event/{'+'.join(finding.event_ids)}/{owner}/{symbol}"
        rows = await self._services.ledger.adjustments(self._services.account)
        number = sum(1 for r in rows if r.symbol == symbol and (r.trade_id or EXTERNAL) == owner)
        return f"recon/{owner}/{symbol}/{number + 1}"

    async def _book(
        self,
        *rows: AdjustmentRecord,
        held: Mapping[str, Decimal] | None = None,
        takes: Mapping[str, Decimal] | None = None,
    ) -> None:
        """All rows of a finding or none, then their trades are told.

        One transaction for all owners: the broker's statement row counts as booked from the
        first one on, so that nobody would come back for the others (R8).

        Args:
            held: what each owner had before it was split.
            takes: what EXTERNAL must have of each symbol.
        """
        account = self._services.account
        if not rows or not await self._services.ledger.move_positions(
            account, rows, takes=takes or {}
        ):
            return
        self._services.failpoint("after_repair")
        for row in rows:
            if row.trade_id is not None:
                fact = booked_facts((), [row])[0]
                if held is not None:
                    before = held[row.trade_id]
                    update = {"split_from": before, "split_to": before + row.quantity}
                    fact = fact.model_copy(update=update)
                self._doorbell.ring(row.trade_id, fact)
