"""Everything the exchange knows, in one place, and the little tools that all parts need."""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import sha1

from simulator.account import Account, Activity
from simulator.book import Book
from simulator.calendar import SessionCalendar
from simulator.config import ExchangeConfig, Listing
from simulator.faults import FaultBoard, FaultKind, FaultRule
from simulator.journal import Journal
from simulator.orders import SimOrder
from simulator.refusals import Reason, Refusal

ID_SPACE = uuid.UUID("5f0c7c0e-51f1-4d0e-9a5b-0d1ce0a7ad11")


@dataclass(frozen=True, slots=True)
class Notice:
    """What the private stream tells: an event of one order, with its execution if there is one.

    Listeners are called at once and must read the order at once: it goes on living.
    """

    event: str
    order: SimOrder
    time: datetime
    execution_id: str | None = None
    price: Decimal | None = None
    quantity: Decimal | None = None
    position_quantity: Decimal | None = None
    previous_execution_id: str | None = None


Listener = Callable[[Notice], None]


@dataclass(frozen=True, slots=True)
class MarketNotice:
    """What the public market tells: `quote` and `status` read the book, `trade` brings its own.

    Listeners are called at once and must read the book at once: it goes on living.
    """

    event: str
    book: Book
    time: datetime
    price: Decimal | None = None
    size: Decimal | None = None


MarketListener = Callable[[MarketNotice], None]


class State:
    """Owned by one `Exchange`; single-threaded.

    `event_number` counts market events, `version` changes of any order.
    """

    def __init__(self, config: ExchangeConfig, journal: Journal) -> None:
        self.config = config
        self.journal = journal
        self.now = config.start
        self.listings: dict[str, Listing] = {item.symbol: item for item in config.listings}
        self.books: dict[str, Book] = {symbol: Book(symbol) for symbol in self.listings}
        self.calendar = SessionCalendar(config.calendar)
        self.account = Account(config.cash, self.listings)
        self.faults = FaultBoard(config.seed)
        self.orders: dict[str, SimOrder] = {}
        self.by_client: dict[str, SimOrder] = {}
        self.open_orders: dict[str, SimOrder] = {}
        self.listeners: list[Listener] = []
        self.market_listeners: list[MarketListener] = []
        self.event_number = 0
        self.version = 0
        self._counters: dict[str, int] = {}
        self._heap: list[tuple[datetime, int, Callable[[], None]]] = []

    def new_id(self, kind: str) -> str:
        """Ids come from seed, account and counter: the same script gives the same ids."""
        number = self._counters.get(kind, 0) + 1
        self._counters[kind] = number
        maker = ":".join(filter(None, (str(self.config.seed), self.config.account)))
        return _id_of(f"{maker}:{kind}:{number}")

    def fixed_id(self, kind: str, name: str) -> str:
        """Id of a thing that has a name (asset, account)."""
        return _fixed_id(f"{kind}:{name}")

    def record(self, kind: str, **fields: object) -> None:
        self.journal.write(self.now, kind, **fields)

    def notify(self, notice: Notice) -> None:
        for listener in list(self.listeners):
            listener(notice)

    def tell_market(
        self, event: str, book: Book, price: Decimal | None = None, size: Decimal | None = None
    ) -> None:
        """Tells the listeners of the public market, if there are any: tapes are long."""
        if not self.market_listeners:
            return
        notice = MarketNotice(event, book, self.now, price, size)
        for listener in list(self.market_listeners):
            listener(notice)

    def fault(self, kind: FaultKind, **facts: str) -> FaultRule | None:
        """Asks the board; a fault that fires is journalled."""
        if not self.faults.rules:
            return None
        rule = self.faults.take(kind, **facts)
        if rule is not None:
            self.record("fault", fault=kind.value, rule=rule.id, facts=facts)
        return rule

    def is_hidden(
        self, order: SimOrder, method: str, path: str, *, beside_lookups: bool = False
    ) -> bool:
        """True while a lookup-lag fault keeps this order from being found (C5).

        `beside_lookups`: a list is read that look-ups do not depend on; a rule must ask for it.
        """
        facts = {
            "client_id": order.client_id,
            "symbol": order.symbol,
            "method": method,
            "path": path,
        }
        for rule in self.faults.rules:
            if rule.kind is not FaultKind.LOOKUP_LAG or not rule.agrees(facts):
                continue
            if beside_lookups and not rule.params.get("lists"):
                continue
            if self.now < order.created_at + timedelta(seconds=rule.seconds("lag_s", 5.0)):
                rule.fired += 1
                self.faults.fired[rule.kind.value] += 1
                self.record("fault", fault=rule.kind.value, rule=rule.id, facts=facts)
                return True
        return False

    def schedule(self, delay_s: float, action: Callable[[], None]) -> None:
        """Runs `action` when market time has advanced by `delay_s`."""
        self._counters["schedule"] = self._counters.get("schedule", 0) + 1
        due = self.now + timedelta(seconds=delay_s)
        heapq.heappush(self._heap, (due, self._counters["schedule"], action))

    def next_due(self) -> datetime | None:
        return self._heap[0][0] if self._heap else None

    def pop_due(self) -> Callable[[], None]:
        return heapq.heappop(self._heap)[2]

    def is_open(self) -> bool:
        return self.calendar.is_open(self.now)

    def add_listing(self, listing: Listing) -> None:
        """A new symbol from now on."""
        self.listings[listing.symbol] = listing
        self.books[listing.symbol] = Book(listing.symbol)

    def listing(self, symbol: str) -> Listing:
        """The listing of a symbol.

        Raises:
            Refusal: UNKNOWN_SYMBOL.
        """
        try:
            return self.listings[symbol]
        except KeyError:
            raise Refusal(Reason.UNKNOWN_SYMBOL, f"asset {symbol} not found") from None

    @property
    def halted(self) -> tuple[str, ...]:
        """Symbols that are halted now."""
        return tuple(book.symbol for book in self.books.values() if book.is_halted)

    def can_trade(self, symbol: str) -> bool:
        return self.is_open() and not self.books[symbol].is_halted

    def add_activity(
        self, kind: str, execution_id: str | None = None, **fields: object
    ) -> Activity:
        """Appends a statement row; its id is `YYYYMMDDHHMMSSmmm::<uuid>`."""
        unique = execution_id or self.new_id("activity")
        stamp = self.now.strftime("%Y%m%d%H%M%S") + f"{self.now.microsecond // 1000:03d}"
        row = Activity(
            id=f"{stamp}::{unique}",
            kind=kind,
            time=self.now,
            execution_id=execution_id or "",
            **fields,  # type: ignore[arg-type]
        )
        self.account.activities.append(row)
        return row


def _id_of(name: str) -> str:
    """The text of `uuid.uuid5(ID_SPACE, name)`, at a third of its cost."""
    raw = bytearray(sha1(ID_SPACE.bytes + name.encode(), usedforsecurity=False).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x50
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_fixed_id = lru_cache(maxsize=4096)(_id_of)
