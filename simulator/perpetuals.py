"""Perpetual contracts with leverage: funding by the clock, liquidation at the mark.

Isolated margin: a position is put up with 1/leverage of its entry value and is taken away when
what is left of that falls to the maintenance share of its value. The trade's own stops stay, as
they do at a venue that knows no reduce-only: whoever left them must take them away.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from domain.money import ONE, divide, multiply
from simulator.config import PerpetualTerms
from simulator.events import Events
from simulator.state import MarketNotice, State


class Perpetuals:
    """Watches the marks of the listings that have terms."""

    def __init__(self, state: State, events: Events) -> None:
        self._state = state
        self._events = events
        listed = [item for item in state.listings.values() if item.perpetual is not None]
        if listed:
            state.market_listeners.append(self._moved)
        for item in listed:
            assert item.perpetual is not None
            self._schedule(item.symbol, item.perpetual)

    def liquidation_price(self, symbol: str) -> Decimal | None:
        """Mark at which the position is taken away; None without a position."""
        terms, holding = self._terms(symbol), self._state.account.holdings.get(symbol)
        if terms is None or holding is None:
            return None
        sign = 1 if holding.quantity > 0 else -1
        room = divide(ONE, terms.leverage) - terms.maintenance_rate
        return multiply(holding.average_price, ONE - sign * room)

    def _terms(self, symbol: str) -> PerpetualTerms | None:
        return self._state.listings[symbol].perpetual

    def _schedule(self, symbol: str, terms: PerpetualTerms) -> None:
        seconds = timedelta(seconds=float(terms.funding_interval_s)).total_seconds()
        self._state.schedule(seconds, lambda: self._pay(symbol, terms))

    def _pay(self, symbol: str, terms: PerpetualTerms) -> None:
        self._events.pay_funding(symbol, terms.funding_rate)
        self._schedule(symbol, terms)

    def _moved(self, notice: MarketNotice) -> None:
        symbol, mark = notice.book.symbol, notice.book.mark
        limit = self.liquidation_price(symbol)
        if limit is None or mark is None:
            return
        held, terms = self._state.account.quantity(symbol), self._terms(symbol)
        assert terms is not None
        if (mark - limit) * (1 if held > 0 else -1) <= 0:
            fee = multiply(abs(held), mark, terms.liquidation_fee_rate)
            self._events.liquidate(symbol, mark, fee.quantize(Decimal("0.01")))
