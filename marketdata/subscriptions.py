"""Who wants which symbol: a symbol stays subscribed while any source holds it.

A source is `kind:name`: `position:<trade>`, `session:<name>`, `recording:<name>`. Pure state in
one process; across processes a source says so in the ledger (`market_wants`) and the book is
filled from its rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from domain.errors import BadInput
from domain.symbols import check_symbol

# A venue takes only so many symbols: what holds money comes first, what only looks on last.
KINDS = ("position", "session", "recording")


class SubscriptionBook:
    """Counts by source, not by call: the same source twice is once, so that a repeat is harmless.

    A release that nobody waited for is no error: a source that ends twice has ended.
    """

    def __init__(self, held: Iterable[tuple[str, str]] = ()) -> None:
        """`held` are (symbol, source) pairs, as the ledger has them.

        A pair that is refused is left out and stands in `refused`: one bad row may not take the
        market away from all the others.
        """
        self._sources: dict[str, set[str]] = {}
        self.refused: tuple[BadInput, ...] = ()
        for symbol, source in held:
            try:
                self.subscribe(symbol, source)
            except BadInput as error:
                self.refused += (error,)

    def subscribe(self, symbol: str, source: str) -> bool:
        """True if nobody held the symbol before: the feed must be asked for it now.

        Raises:
            BadInput: SYMBOL_FORMAT or SYMBOL_NON_ASCII; SUBSCRIPTION_SOURCE for a source whose
                kind is not known.
        """
        check_symbol(symbol)
        _kind(source)
        is_new = symbol not in self._sources
        self._sources.setdefault(symbol, set()).add(source)
        return is_new

    def release(self, symbol: str, source: str) -> bool:
        """True if that was the last source: the feed may stop sending the symbol."""
        holders = self._sources.get(symbol, set())
        if source not in holders:
            return False
        holders.remove(source)
        if holders:
            return False
        del self._sources[symbol]
        return True

    def symbols(self) -> tuple[str, ...]:
        """All that is wanted, the most important first, then by name (`MarketStream.want`)."""
        rank = {symbol: min(map(_kind, held)) for symbol, held in self._sources.items()}
        return tuple(sorted(rank, key=lambda symbol: (rank[symbol], symbol)))

    def sources_of(self, symbol: str) -> tuple[str, ...]:
        """Who holds the symbol, in order of name; empty if nobody does."""
        return tuple(sorted(self._sources.get(symbol, ())))

    def by_symbol(self) -> dict[str, tuple[str, ...]]:
        """The whole book for people: every symbol with its sources."""
        return {symbol: self.sources_of(symbol) for symbol in self.symbols()}


def _kind(source: str) -> int:
    kind, _, name = source.partition(":")
    if kind not in KINDS or not name:
        allowed = f"{'|'.join(KINDS)}:NAME"
        raise BadInput("SUBSCRIPTION_SOURCE", "source", source, allowed)
    return KINDS.index(kind)
