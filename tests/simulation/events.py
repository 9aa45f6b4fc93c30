"""What happens to the account without an order of ours: executions taken back, other people, venue.

Every event waits until it can happen (there is an execution to take back, a position to split),
strikes once, and is counted in `Mishaps.happened`. What a person would mend is mended after a while
by `undo`, so that the end can be judged: flat, and the books equal.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from domain.ids import parse_client_order_id
from domain.money import ZERO
from simulator.events import OrdersOnSplit
from simulator.journal import Row
from simulator.orders import Side
from tests.simulation.option_events import NIGHT_S, end_option, trade_leg_alone
from tests.simulation.scenario import HEAL_S, Mishap

if TYPE_CHECKING:
    from tests.simulation.world import World

LOOK_EVERY_S = 0.5
D = Decimal


class VenueEvents:
    """The events of one run; `ratios` are the splits so far, by symbol.

    At `settled_s` the last of them is over, and what a person undoes is undone.
    """

    def __init__(self, world: World, count: Callable[[Mishap, str], None]) -> None:
        self._world = world
        self._count = count
        self.ratios: dict[str, Decimal] = {}
        self.struck: set[str] = set()
        self.settled_s = 0.0
        self._busted: set[str] = set()

    def begin(self, mishap: Mishap) -> None:
        """Strikes now, or as soon as it can until everything heals."""
        what = str(mishap.get("what"))
        if self._world.loop.time() >= HEAL_S:
            return
        self._world.catch_up()
        if getattr(self, f"_{what}")(mishap):
            self.struck.add(what)
            now_s = self._world.loop.time()
            self.settled_s = max(self.settled_s, now_s) + mishap.get("for_s", 0.0)
            self._count(mishap, what)
        else:
            self._world.loop.call_later(LOOK_EVERY_S, self.begin, mishap)

    # --- the venue --------------------------------------------------------------------------------

    def _bust(self, mishap: Mishap) -> bool:
        """The newest execution of ours is taken back (D9)."""
        row = self._newest_execution()
        if row is not None:
            self._world.exchange.bust(str(row["execution_id"]))
        return row is not None

    def _correct(self, mishap: Mishap) -> bool:
        """The newest execution of ours had another price than was told (D9)."""
        row = self._newest_execution()
        if row is not None:
            price = D(row["price"]) + D(mishap.get("by"))
            self._world.exchange.correct(str(row["execution_id"]), price)
        return row is not None

    def _newest_execution(self) -> Row | None:
        for row in reversed(self._world.exchange.journal.of("fill")):
            name = str(row["execution_id"])
            if name not in self._busted and self._is_ours(str(row["order_id"])):
                self._busted.add(name)
                return row
        return None

    def _is_ours(self, order_id: str) -> bool:
        order = self._world.exchange.state.orders[order_id]
        root = order if order.group is None else order.group.parent
        return parse_client_order_id(root.client_id) is not None

    def _liquidation(self, mishap: Mishap) -> bool:
        """The venue takes a position away at a price of its own (R3)."""
        symbol = self._held_symbol()
        if symbol is None:
            return False
        book = self._world.exchange.state.books[symbol]
        if book.bid is None or book.ask is None:
            return False
        held = self._world.exchange.state.account.quantity(symbol)
        self._world.exchange.events.liquidate(symbol, book.bid if held > 0 else book.ask)
        return True

    def _split(self, mishap: Mishap) -> bool:
        """One share becomes two or three: position, orders and market (R5).

        As in a night: nothing trades from before it until a pass has looked.
        """
        symbol = self._held_symbol()
        if symbol is None or symbol in self.ratios:
            return False
        ratio = int(mishap.get("ratio"))
        self.ratios[symbol] = D(ratio)
        orders = OrdersOnSplit(mishap.get("orders"))
        exchange = self._world.exchange
        exchange.halt(symbol)
        exchange.events.split(symbol, ratio, orders=orders)
        self._world.mishaps.trouble(NIGHT_S, is_away=False)
        self.settled_s = self._world.loop.time() + NIGHT_S
        self._world.loop.call_later(NIGHT_S, self._morning, symbol)
        return True

    def _morning(self, *symbols: str) -> None:
        self._world.catch_up()
        for symbol in symbols:
            self._world.exchange.resume(symbol)

    def _assign(self, mishap: Mishap) -> bool:
        """A short option is assigned, in whole or one contract of it (R4)."""
        return self._end_option(mishap)

    def _exercise(self, mishap: Mishap) -> bool:
        """A long option becomes shares (R4)."""
        return self._end_option(mishap)

    def _expire(self, mishap: Mishap) -> bool:
        """An option ends worthless on its last day (R4)."""
        return self._end_option(mishap)

    def _end_option(self, mishap: Mishap) -> bool:
        symbols = end_option(self._world, str(mishap.get("what")), mishap)
        if not symbols:
            return False
        self._world.mishaps.trouble(NIGHT_S, is_away=False)
        self.settled_s = self._world.loop.time() + NIGHT_S
        self._world.loop.call_later(NIGHT_S, self._morning, *symbols)
        return True

    def _leg_alone(self, mishap: Mishap) -> bool:
        """One leg of a combo trades before the others (GT7)."""
        return trade_leg_alone(self._world, mishap)

    def _held_symbol(self) -> str | None:
        holdings = self._world.exchange.state.account.holdings
        return next((s for s, h in sorted(holdings.items()) if h.quantity != ZERO), None)

    # --- other people -----------------------------------------------------------------------------

    def _foreign(self, mishap: Mishap) -> bool:
        """A person buys or sells in the account, and undoes it after a while (R2, I20)."""
        symbol = str(mishap.get("symbol"))
        quantity, side = D(mishap.get("quantity")), Side(mishap.get("side"))
        if not self._by_hand(symbol, side, quantity):
            return False
        self._world.loop.call_later(
            mishap.get("for_s"), self._undo, symbol, side.opposite, quantity
        )
        return True

    def _by_hand(self, symbol: str, side: Side, quantity: Decimal) -> bool:
        exchange = self._world.exchange
        price = exchange.state.books[symbol].touch(side)
        if price is None:
            return False
        exchange.events.trade_by_hand(symbol, side, quantity, price)
        return True

    def _undo(self, symbol: str, side: Side, quantity: Decimal) -> None:
        self._world.catch_up()
        if not self._by_hand(symbol, side, quantity):
            self._world.loop.call_later(LOOK_EVERY_S, self._undo, symbol, side, quantity)
