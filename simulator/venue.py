"""A venue: one market seen by several accounts that cannot touch each other.

Every account has a matching core of its own on the same tape and clock: cash, orders, positions,
faults and journal are its own, and so is what is left of a displayed size. That is what isolated
means here: an account sees the tape alone. No order of it can fill against, stand before, or use
up the liquidity of another account's; two accounts that do the same get the same fills.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import tee
from typing import TYPE_CHECKING

from simulator.exchange import Exchange
from simulator.journal import Journal
from simulator.refusals import Reason, Refusal

if TYPE_CHECKING:
    from simulator.config import ExchangeConfig
    from simulator.tape import TapeEvent


class Venue:
    """The accounts' exchanges; `first` is the one that callers without a name mean."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self.exchanges = tuple(exchanges)
        self.first = self.exchanges[0]
        names = [exchange.config.account for exchange in self.exchanges]
        keys = [key.key for exchange in self.exchanges for key in exchange.config.keys]
        if len(set(names)) < len(names) or len(set(keys)) < len(keys):
            raise ValueError("two accounts had the same name or key")

    @classmethod
    def open(
        cls,
        config: ExchangeConfig,
        tape: Iterable[TapeEvent] = (),
        journal_of: Callable[[str], Journal] = lambda _account: Journal(),
    ) -> Venue:
        """An exchange for the first account and one for each of `config.accounts`.

        The tape is read once: all accounts move through it together, so little is held back.
        """
        configs = [config, *(config.of_account(account) for account in config.accounts)]
        tapes = tee(tape, len(configs))
        return cls(
            Exchange(each, events, journal_of(each.account))
            for each, events in zip(configs, tapes, strict=True)
        )

    @classmethod
    def of(cls, exchange: Exchange | Venue) -> Venue:
        """A venue of one account, or the venue that it already is."""
        return exchange if isinstance(exchange, Venue) else cls((exchange,))

    def account(self, name: str) -> Exchange:
        """The exchange of the account; the first one where no name is given.

        Raises:
            Refusal: NOT_FOUND.
        """
        if not name:
            return self.first
        for exchange in self.exchanges:
            if exchange.config.account == name:
                return exchange
        raise Refusal(Reason.NOT_FOUND, f"account {name} not found")

    def advance_to(self, moment: datetime) -> None:
        """Plays everything that is due for every account; an account never goes back."""
        for exchange in self.exchanges:
            exchange.advance_to(max(moment, exchange.now))

    def close_journals(self) -> None:
        for exchange in self.exchanges:
            exchange.journal.close()
