"""Ledger and exchange journal of several accounts, read side by side for the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

import httpx

from cli.contest_files import Portfolio
from cli.feed_report import journal_book, read_journal, read_ledger_book
from domain.instrument import Instrument
from ledger.repository import Ledger
from report.records import Book
from settings import Settings


async def read_books(
    ledger: Ledger,
    control: httpx.AsyncClient,
    portfolios: Sequence[Portfolio],
    settings: Mapping[str, Settings],
    instruments: Sequence[Instrument],
    worth: Mapping[str, Decimal] | None = None,
) -> tuple[Book, Book]:
    """Both sides with the rows of every account since its start cash, and its equity.

    Args:
        ledger: what Holdfast wrote down.
        control: the control plane of the simulated exchange.
        portfolios: one per account; the first one is the exchange's first account.
        settings: of every account.
        instruments: of everything that was traded, for their multipliers.
        worth: equity of each account by the ledger; without it the ledger's cash, which is right
            only for accounts that hold nothing (the positions are compared beside it).
    """
    multipliers = {item.symbol: item.multiplier for item in instruments}
    ours: dict[str, Book] = {}
    theirs: dict[str, Book] = {}
    for number, portfolio in enumerate(portfolios):
        name = portfolio.account
        asked = {} if number == 0 else {"account": name}
        currency = settings[name].account.currency
        book = await read_ledger_book(
            ledger, name, portfolio.cash, currency=currency, multipliers=multipliers
        )
        equity = book.cash[currency] if worth is None else worth[name]
        ours[name] = book.model_copy(update={"equity": {name: equity}})
        text = (await control.get("/sim/journal", params=asked)).raise_for_status().text
        state = (await control.get("/sim/state", params=asked)).raise_for_status().json()
        book = journal_book(read_journal(text), currency=currency)
        theirs[name] = book.model_copy(update={"equity": {name: Decimal(state["equity"])}})
    return Book.merged(ours), Book.merged(theirs)
