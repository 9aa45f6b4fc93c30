"""What a reconcile pass reads beside orders and positions: statement rows, fees, cash."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from activities.services import Services
from brokers.port import EventPage, FeeActivity
from domain.account import AccountSnapshot
from domain.account_events import CASH_KINDS, AccountEvent, EventKind
from domain.base import Frozen
from domain.facts import Fact, FundingPaid
from domain.money import ONE, Amount, exact
from domain.occ import OPTION_MULTIPLIER, looks_like_option
from domain.recon.cash import CashLook
from domain.recon.classify import FeeLook
from ledger.records import CashMovement, FeeRecord, TradePosition, TradeRecord

LOOK_BACK = timedelta(days=7)


class Statement(Frozen):
    """Rows that are not booked yet and move a position; fees that both sides have."""

    events: tuple[AccountEvent, ...] = ()
    fees: tuple[FeeLook, ...] = ()
    told: tuple[tuple[str, Fact], ...] = ()
    booked: int = 0


def events_cursor(account: str) -> str:
    """Ledger cursor that holds the market instant from which on rows are ours to book."""
    return f"account-events/{account}"


def anchor_cursor(account: str) -> str:
    """Ledger cursor with the broker's cash less ours at the first pass."""
    return f"cash-anchor/{account}"


async def read_statement(services: Services, market_now: datetime) -> Statement:
    """Reads the rows of the last week; books fees and money, leaves positions to the looks.

    Money and fees are the broker's own words with ids, so that booking them is idempotent. Rows
    from before the first pass belong to whoever booked the account's start.
    """
    if not services.broker.capabilities.tells_account_events:
        return Statement()
    since = await _begin(services, market_now)
    page = await services.broker.account_events(max(since, market_now - LOOK_BACK))
    for problem in page.problems:
        details = {"text": problem.text}
        subject = services.account
        await services.ledger.append_audit("reconcile", f"row.{problem.code}", subject, details)
    told, money = await _book_money(services, page)
    fees, missed = await _book_fees(services, page.fees)
    rows = await services.ledger.adjustments(services.account)
    known = [row.adjustment_id for row in rows if row.adjustment_id.startswith("event/")]
    open_rows = tuple(
        event
        for event in page.events
        if event.kind not in (*CASH_KINDS, EventKind.OTHER)
        and not any(event.event_id in each for each in known)
    )
    return Statement(events=open_rows, fees=fees, told=told, booked=money + missed)


async def _begin(services: Services, market_now: datetime) -> datetime:
    name = events_cursor(services.account)
    stored = await services.ledger.get_cursor(name)
    if stored is not None:
        return datetime.fromisoformat(stored)
    # A row of today carries the day alone, which reads as its first instant in UTC.
    day = market_now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    begin = day - timedelta(microseconds=1)
    await services.ledger.set_cursor(name, begin.isoformat())
    return begin


async def _book_money(
    services: Services, page: EventPage
) -> tuple[tuple[tuple[str, Fact], ...], int]:
    """Funding and income as fees of their trade (a receipt is a negative cost), transfers as the
    owner's money. Funding is told to the trade that holds the symbol alone."""
    ledger, account = services.ledger, services.account
    owned = await ledger.positions_by_trade(account)
    told: list[tuple[str, Fact]] = []
    count = 0
    for event in page.events:
        if event.kind not in CASH_KINDS or event.amount == 0:
            continue
        if event.kind is EventKind.TRANSFER:
            movement = CashMovement(
                movement_id=event.event_id,
                account=account,
                amount=event.amount,
                text=event.text,
                at=event.at,
                booked_by="reconcile",
            )
            count += await ledger.book_cash(movement)
            continue
        owner = _sole_owner(owned, event.symbol)
        fee = FeeRecord(
            activity_id=event.event_id,
            account=account,
            amount=-event.amount,
            trade_id=owner,
            symbol=event.symbol or None,
            text=event.text,
            venue_time=event.at,
        )
        is_new = await ledger.record_fee(fee)
        count += is_new
        if is_new and owner is not None:
            at = services.now()
            fact = FundingPaid(at=at, activity_id=event.event_id, amount=-event.amount)
            told.append((owner, fact))
    return tuple(told), count


def _sole_owner(owned: Sequence[TradePosition], symbol: str) -> str | None:
    owners = [row.trade_id for row in owned if row.symbol == symbol and symbol]
    return owners[0] if len(owners) == 1 and owners[0] != "EXTERNAL" else None


async def _book_fees(
    services: Services, fees: Sequence[FeeActivity]
) -> tuple[tuple[FeeLook, ...], int]:
    """Books fees that nobody had told; answers those that both sides have."""
    ledger, account = services.ledger, services.account
    booked: dict[str, Decimal] = {}
    for row in await ledger.fees(account):
        # A correction stands under the id of what it corrects, with a suffix.
        base = row.activity_id.split("/corrected/")[0]
        booked[base] = booked.get(base, Decimal(0)) + row.amount
    both: list[FeeLook] = []
    missed = 0
    for fee in fees:
        if fee.activity_id in booked:
            amount = booked[fee.activity_id]
            look = FeeLook(activity_id=fee.activity_id, told=fee.amount, booked=amount)
            both.append(look)
            continue
        missed += await ledger.record_fee(
            FeeRecord(
                activity_id=fee.activity_id,
                account=account,
                amount=fee.amount,
                symbol=fee.symbol,
                broker_order_id=fee.broker_order_id,
                text=fee.text,
                venue_time=fee.venue_time,
            )
        )
    return tuple(both), missed


class CashRead(Frozen):
    """Both sides of the cash; `anchor` None until the first quiet pass has set it."""

    broker: Amount
    booked: Amount
    anchor: Amount | None = None

    @property
    def look(self) -> CashLook | None:
        if self.anchor is None:
            return None
        return CashLook(broker=self.broker, expected=self.booked + self.anchor)


async def read_cash(
    services: Services, shown: AccountSnapshot, trades: Sequence[TradeRecord]
) -> CashRead | None:
    """The broker's cash, before fees that have no row yet, beside ours; None where it is not told.

    Multipliers are those of standard options and of the open trades' instruments.
    """
    if shown.cash is None:
        return None
    broker_cash = shown.cash + shown.pending_fees
    ledger, account = services.ledger, services.account
    multipliers = {
        symbol: OPTION_MULTIPLIER
        for symbol in await ledger.traded_symbols(account)
        if looks_like_option(symbol)
    }
    multipliers |= {
        leg.instrument.symbol: leg.instrument.multiplier
        for trade in trades
        for leg in trade.plan.legs
        if leg.instrument.multiplier != ONE
    }
    booked = await ledger.booked_cash(account, multipliers)
    stored = await ledger.get_cursor(anchor_cursor(account))
    anchor = None if stored is None else exact(stored)
    return CashRead(broker=broker_cash, booked=booked, anchor=anchor)


async def set_anchor(services: Services, anchor: Decimal) -> None:
    """What the broker's cash is more than our rows from here on."""
    await services.ledger.set_cursor(anchor_cursor(services.account), f"{anchor:f}")
