"""A generated market for symbols without a tape, and the merge of several event sources."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from simulator.config import BookConfig, Listing
from simulator.tape import TapeEvent, TapeKind


def generated_events(
    config: BookConfig, listing: Listing, start: datetime, seed: int
) -> Iterator[TapeEvent]:
    """Endless seeded random walk: at each step one quote and one trade at its bid or ask."""
    dice = random.Random(f"book:{seed}:{config.symbol}")  # noqa: S311 - repeatable on purpose
    instrument = listing.instrument
    interval = timedelta(seconds=float(config.interval_s))
    price = instrument.tick_down(config.start_price)
    moment = start
    while True:
        tick = instrument.tick_at(price)
        price = max(tick * (config.half_spread_ticks + 1), price)
        bid = price - tick * config.half_spread_ticks
        ask = price + tick * config.half_spread_ticks
        sizes = [Decimal(dice.randint(1, config.size_max)) * instrument.lot_size for _ in "ba"]
        yield TapeEvent(
            moment,
            config.symbol,
            TapeKind.QUOTE,
            bid=bid,
            ask=ask,
            bid_size=sizes[0],
            ask_size=sizes[1],
        )
        traded = dice.choice((bid, ask))
        yield TapeEvent(
            moment, config.symbol, TapeKind.TRADE, price=traded, size=instrument.lot_size
        )
        price += tick * dice.randint(-config.step_ticks, config.step_ticks)
        moment += interval


def merged(sources: Sequence[Iterator[TapeEvent]]) -> Iterator[TapeEvent]:
    """One stream in time order; at the same instant the earlier source comes first."""
    if len(sources) == 1:
        return sources[0]
    return heapq.merge(*sources, key=lambda event: event.time)
