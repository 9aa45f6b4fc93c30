"""The toy broker with travel times: requests, answers and news each need milliseconds.

`Trade` answers at once, which hides every race. Here a command reaches the broker `there_ms` after
it was decided, its answer comes back `back_ms` later, and a fill is told `news_ms` after it
happened. Tests put events of the market and of people on single milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from datetime import datetime, timedelta

from domain.commands import Command
from domain.facts import Fact, FillReported
from domain.steps import decide
from tests.unit.toy_broker import Trade

MS = timedelta(milliseconds=1)


def twin(trade: Trade) -> Trade:
    """The same trade at the same moment with a broker of its own: a sweep begins there anew."""
    other, broker = copy(trade), copy(trade.broker)
    broker.orders = [copy(order) for order in trade.broker.orders]
    for name in ("fills", "undelivered", "journal"):
        setattr(broker, name, list(getattr(trade.broker, name)))
    other.broker, other.commands, other.waiting = broker, list(trade.commands), list(trade.waiting)
    return other


class Paced:
    """Runs one trade millisecond by millisecond; `watch` is asked after each of them."""

    def __init__(
        self,
        trade: Trade,
        *,
        there_ms: int = 20,
        back_ms: int = 20,
        news_ms: int = 5,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self.trade = trade
        self.there, self.back, self.news = there_ms * MS, back_ms * MS, news_ms * MS
        self.watch = watch
        self.requests: list[tuple[datetime, Command]] = []
        self.answers: list[tuple[datetime, Command, list[Fact]]] = []

    def run(self, milliseconds: int, events: Mapping[int, Callable[[], None]]) -> None:
        """Runs that long, with the events on their milliseconds, then until nothing travels."""
        for number in range(milliseconds):
            self._tick(events.get(number))
        for _ in range(2000):
            if not self.requests and not self.answers and not self.trade.broker.undelivered:
                return
            self._tick(None)
        raise AssertionError("something still travels after two seconds")

    def _tick(self, event: Callable[[], None] | None) -> None:
        trade = self.trade
        trade.broker.now += MS
        if event is not None:
            event()
        heard = self._arrive() or event is not None
        if heard:
            self._look()
        self.watch()

    def _arrive(self) -> bool:
        """What reaches the broker and what comes back from it in this millisecond."""
        trade, now = self.trade, self.trade.now
        for due in [each for each in self.requests if each[0] <= now]:
            self.requests.remove(due)
            self.answers.append((now + self.back, due[1], trade.answer(due[1])))
        heard = False
        for answer in [each for each in self.answers if each[0] <= now]:
            self.answers.remove(answer)
            trade.waiting.remove(answer[1])
            trade.tell(*answer[2])
            heard = True
        for fill in [f for f in trade.broker.undelivered if f.venue_time + self.news <= now]:
            trade.broker.undelivered.remove(fill)
            trade.tell(FillReported(at=now, fill=fill))
            heard = True
        return heard

    def _look(self) -> None:
        trade = self.trade
        trade.state, commands = decide(trade.state, trade.now, [c.key for c in trade.waiting])
        trade.commands += commands
        for command in commands:
            if command.kind not in ("alert", "watch_exits"):
                trade.waiting.append(command)
                self.requests.append((trade.now + self.there, command))
