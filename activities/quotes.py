"""Quotes of a structure: the legs' quotes and the net quote of one trade unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal

from brokers.port import Broker
from domain.instrument import InstrumentKind
from domain.money import ZERO
from domain.order import Quote, Side
from domain.plan import PlanLeg

JUMP_FACTOR = Decimal(10)
JUMP_WITHIN = timedelta(minutes=10)


class QuoteMemory:
    """The quotes that entries were last judged by: a slipped decimal point shows against them.

    A jump by more than ten times within ten minutes of the venue's time is held until the next
    quote near it confirms it (faults.md §3 row 34). Of one process: the first quote of a symbol
    has nothing to jump from.
    """

    def __init__(self) -> None:
        self._last: dict[str, Quote] = {}

    def jumped(self, quotes: Mapping[str, Quote]) -> tuple[str, ...]:
        """Symbols whose mid jumped since the last look, which this one replaces."""
        found = [
            symbol
            for symbol, quote in quotes.items()
            if (before := self._last.get(symbol)) is not None and _is_jump(before, quote)
        ]
        self._last.update(quotes)
        return tuple(sorted(found))


def _is_jump(before: Quote, now: Quote) -> bool:
    if before.mid is None or now.mid is None or min(before.mid, now.mid) <= 0:
        return False
    low, high = sorted((before.mid, now.mid))
    return abs(now.venue_time - before.venue_time) <= JUMP_WITHIN and high > low * JUMP_FACTOR


async def read_quotes(broker: Broker, legs: Sequence[PlanLeg]) -> dict[str, Quote]:
    """Quotes of all legs in one request; a symbol without a quote is missing, never zero."""
    return await broker.quotes([leg.instrument.symbol for leg in legs])


def exit_quote(legs: Sequence[PlanLeg], quotes: Mapping[str, Quote], symbol: str) -> Quote | None:
    """As `net_quote`, for getting out: a long option that nobody bids for counts as worthless.

    Zero is the worst that a sold option can bring, so this bounds the exit and is no invented
    price; without it a structure with a dead wing could never be closed. Entries do not use it.
    """
    shown: dict[str, Quote] = dict(quotes)
    for leg in legs:
        name = leg.instrument.symbol
        quote = shown.get(name)
        option = leg.instrument.kind is InstrumentKind.OPTION
        if quote is not None and option and leg.side is Side.BUY and quote.bid is None:
            shown[name] = quote.model_copy(update={"bid": ZERO})
    return net_quote(legs, shown, symbol)


def net_quote(legs: Sequence[PlanLeg], quotes: Mapping[str, Quote], symbol: str) -> Quote | None:
    """Quote of one unit: what buying the structure costs (ask) and what selling it brings (bid).

    For one leg that is the leg's own quote. A side is None as soon as one leg lacks it; the time
    is that of the oldest leg.
    """
    found = [quotes.get(leg.instrument.symbol) for leg in legs]
    present = [quote for quote in found if quote is not None]
    if len(present) != len(legs):
        return None
    if len(legs) == 1:
        return present[0]
    bid, ask, gross = ZERO, ZERO, ZERO
    complete = True
    for leg, quote in zip(legs, present, strict=True):
        if quote.bid is None or quote.ask is None:
            complete = False
            continue
        pay, receive = (quote.ask, quote.bid) if leg.side is Side.BUY else (-quote.bid, -quote.ask)
        ask += leg.ratio * pay
        bid += leg.ratio * receive
        gross += leg.ratio * (quote.bid + quote.ask) / 2
    return Quote(
        symbol=symbol,
        bid=bid if complete else None,
        ask=ask if complete else None,
        gross=gross if complete else None,
        venue_time=min(quote.venue_time for quote in present),
    )
