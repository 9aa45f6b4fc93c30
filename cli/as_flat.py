"""`trade close --as-flat`: the look at the broker and the second person before it is asked for."""

from __future__ import annotations

from activities.as_flat import what_is_left
from brokers.alpaca.config import AlpacaMode
from cli.context import Target
from cli.two_people import check_second_person
from domain.errors import BadInput, Refused
from domain.ids import check_id


async def check_as_flat(target: Target, trade_id: str, by: str, approver: str | None) -> None:
    """Nothing may speak against it: neither the broker nor, with real money, a second person.

    Raises:
        BadInput: `TRADE_UNKNOWN`.
        Refused: `BROKER_SHOWS` an order or a position of the trade; `SECOND_PERSON`.
        HoldfastError: the broker or the ledger could not be read, so nothing is proven.
    """
    check_id(trade_id, "trade_id")
    settings = target.settings()
    async with target.ledger() as ledger:
        book = await ledger.trade_book(trade_id)
        if book is None:
            allowed = "an open trade; see starter.py trade list"
            raise BadInput("TRADE_UNKNOWN", "trade_id", trade_id, allowed)
        async with target.broker() as broker:
            left = await what_is_left(broker, ledger, settings.account.installation, book)
        if left:
            text = f"the broker still has {'; '.join(left)}: flatten it, or release it"
            raise Refused(text, code="BROKER_SHOWS")
        if settings.broker.mode is AlpacaMode.LIVE:
            await check_second_person(ledger, by, approver)
