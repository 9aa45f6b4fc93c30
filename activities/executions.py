"""Reading executions into the ledger: the one way in which quantities are booked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from activities.services import Services
from domain.errors import HoldfastError
from domain.facts import Fact, FillCorrected, FillReported
from domain.ids import parse_client_order_id
from domain.order import Fill, OrderSnapshot
from domain.sums import sums_of
from ledger.records import FeeRecord

PAGES_MAX = 50


def cursor_name(account: str) -> str:
    return f"executions/{account}"


async def book_executions(services: Services, told_to: str | None = None) -> tuple[Fill, ...]:
    """Reads every execution after the stored cursor, books it once and moves the cursor.

    `told_to` is the trade that gets its fills in the caller's answer; those of other trades stay
    untold and the streamer rings them. Answers all fills read, new or not. Two readers at once are
    harmless: fills are a set (I7) and a cursor that goes back only makes the next one read more.

    Raises:
        Transient, Uncertain: the broker or the ledger did not answer.
    """
    name = cursor_name(services.account)
    cursor = await services.ledger.get_cursor(name)
    read: list[Fill] = []
    for _ in range(PAGES_MAX):
        page = await services.broker.executions_since(cursor)
        if page.fills:
            await _book_page(services, page.fills, told_to)
            read += page.fills
        for problem in page.problems:
            # The cursor moves past an unreadable row, so it must be on record (I2).
            await services.ledger.append_audit(
                "executions", f"unreadable.{problem.code}", services.account, {"text": problem.text}
            )
        for fee in page.fees:
            await services.ledger.record_fee(
                FeeRecord(
                    activity_id=fee.activity_id,
                    account=services.account,
                    amount=fee.amount,
                    symbol=fee.symbol,
                    broker_order_id=fee.broker_order_id,
                    text=fee.text,
                    venue_time=fee.venue_time,
                )
            )
        if page.cursor is not None and page.cursor != cursor:
            cursor = page.cursor
            await services.ledger.set_cursor(name, cursor)
        if not page.has_more:
            break
    return tuple(read)


async def book_shown(services: Services, orders: Iterable[OrderSnapshot], told_to: str) -> None:
    """Books what these orders show as filled, where the venue names no executions.

    Its executions are those of today's orders and of the ones that worked at the last look. An
    order that was sent right before a night without us, and has filled in it, is in neither (G4).

    Raises:
        LedgerDown: nothing was booked.
    """
    if services.broker.capabilities.executions_have_ids:
        return
    shown = [each for order in orders for each in sums_of(order)]
    if shown:
        await services.ledger.record_fills(services.account, shown, told_to=told_to)


async def _book_page(services: Services, fills: Sequence[Fill], told_to: str | None) -> None:
    """Books the fills; of one that nobody of ours owns the broker tells first whose order it is.

    It may be ours without a link here: its answer is on its way, or a flatten past the ledger sent
    it. Booked as foreign meanwhile it would freeze its symbol for the entries of other trades, and
    what a flatten sold would be sold a second time by the trade (I4, I20, K8). What the broker
    does not tell now is foreign until it does.
    """
    booked = await services.ledger.record_fills(
        services.account, fills, told_to=told_to, only_owned=True
    )
    pairs = zip(fills, booked, strict=True)
    lonely = [fill for fill, booking in pairs if booking.trade_id is None]
    if not lonely:
        return
    names: dict[str, str] = {}
    try:
        await _find_names(services, lonely, names)
    finally:
        named = [
            fill.model_copy(update={"client_id": names.get(fill.broker_order_id, fill.client_id)})
            for fill in lonely
        ]
        await services.ledger.record_fills(services.account, named, told_to=told_to)


async def _find_names(services: Services, lonely: Sequence[Fill], names: dict[str, str]) -> None:
    """Puts our id of each order of these fills into `names`, and the order into the ledger."""
    for broker_order_id in dict.fromkeys(fill.broker_order_id for fill in lonely):
        order = await services.broker.order(broker_order_id)
        client_id = (order.client_id if order else None) or ""
        parts = parse_client_order_id(client_id)
        if order is not None and parts is not None and parts.installation == services.installation:
            names[broker_order_id] = client_id
            await services.ledger.record_snapshot(services.account, order)


async def fills_of_trade(services: Services, trade_id: str) -> tuple[Fill, ...]:
    """All booked fills of the trade, reversed ones left out."""
    fills, _ = await fills_and_corrections(services, trade_id)
    return fills


async def fills_and_corrections(
    services: Services, trade_id: str
) -> tuple[tuple[Fill, ...], tuple[FillCorrected, ...]]:
    """The fills that count, and which of them stand for one that was taken back.

    A trade that knows the old one must hear of both at once: it would count them twice.
    """
    rows = await services.ledger.fills_of_trade(trade_id)
    by_key = {row.fill.fill_key: row.fill for row in rows}
    now = services.now()
    reversals = {row.reverses: row for row in rows if row.reverses is not None}
    fills = tuple(
        row.fill for row in rows if not row.is_reversal and row.fill.fill_key not in reversals
    )
    corrections = tuple(
        FillCorrected(at=now, fill_key=key, fill=by_key[row.corrected_by])
        for key, row in reversals.items()
        if row.corrected_by in by_key
    )
    return fills, corrections


async def fresh_fill_facts(services: Services, trade_id: str) -> tuple[Fact, ...]:
    """Fills of the trade after a fresh read; nothing if broker or ledger cannot be read now.

    Used behind an order answer that shows a filled quantity, so that the doorbell of the stream
    does not have to come first.
    """
    try:
        await book_executions(services, trade_id)
    except HoldfastError:
        return ()
    return await booked_fill_facts(services, trade_id)


async def booked_fill_facts(services: Services, trade_id: str) -> tuple[Fact, ...]:
    """Fills of the trade that the ledger has now; nothing if it cannot be read."""
    try:
        fills, corrections = await fills_and_corrections(services, trade_id)
    except HoldfastError:
        return ()
    now = services.now()
    return (*corrections, *(FillReported(at=now, fill=fill) for fill in fills))
