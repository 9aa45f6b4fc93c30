"""The faults of the event-kill driver and the cells: trade x broker x fault x failpoint.

A cell names one pass of one place, taken from the list that the fault-free run of the same trade
left behind (its event index). Which faults make sense at which place is decided here and nowhere
else, so that the printed coverage is of what is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.points import Strike

CORE_TRADES = frozenset({"gt01", "gt05", "gt07", "gt20"})
"""Played at every index in each run; of the others every third index, another third each time."""
SHARES = 3
RESETTING_TRADES = frozenset({"gt12"})
WITHOUT_IDEMPOTENCY = frozenset({"tradier"})


class Fault(StrEnum):
    """What goes wrong at a failpoint.

    Inside the worker: `kill` (SIGKILL), `kill_cold` (the same without a workflow cache), `stop`
    (SIGSTOP for longer than start-to-close and retry, then SIGCONT: a zombie beside its
    successor), `raise`, `hang`, `lose` (the reply of a request). Around it: `temporal_kill`
    (SIGKILL and restart on the same store), `postgres_stop`, `postgres_slow`,
    `postgres_read_only`, `broker_cut`, `broker_slow`, `broker_twice` (what is sent arrives
    twice; where client ids are unique), and a person: `kill_switch` (cancel-entries), `flatten`.
    Played in this order: what kills a process comes first.
    """

    KILL = "kill"
    KILL_COLD = "kill_cold"
    TEMPORAL_KILL = "temporal_kill"
    POSTGRES_STOP = "postgres_stop"
    STOP = "stop"
    RAISE = "raise"
    HANG = "hang"
    LOSE = "lose"
    POSTGRES_SLOW = "postgres_slow"
    POSTGRES_READ_ONLY = "postgres_read_only"
    BROKER_CUT = "broker_cut"
    BROKER_SLOW = "broker_slow"
    BROKER_TWICE = "broker_twice"
    KILL_SWITCH = "kill_switch"
    FLATTEN = "flatten"

    @property
    def strike(self) -> Strike:
        """What the worker itself does at the failpoint."""
        return _STRIKES.get(self, Strike.ASK)

    @property
    def is_cold(self) -> bool:
        return self is Fault.KILL_COLD

    @property
    def needs_own_server(self) -> bool:
        """Nobody else may use the Temporal server of this cell."""
        return self is Fault.TEMPORAL_KILL

    @property
    def is_of_postgres(self) -> bool:
        return self.value.startswith("postgres_")

    @property
    def is_of_network(self) -> bool:
        return self.value.startswith("broker_")

    @property
    def ends_otherwise(self) -> bool:
        """A person ends the trade: what the market script expects does not count."""
        return self in (Fault.KILL_SWITCH, Fault.FLATTEN)


_STRIKES = {
    Fault.KILL: Strike.KILL,
    Fault.KILL_COLD: Strike.KILL,
    Fault.STOP: Strike.STOP,
    Fault.RAISE: Strike.RAISE,
    Fault.HANG: Strike.HANG,
    Fault.LOSE: Strike.LOSE,
}


@dataclass(frozen=True, order=True)
class Cell:
    """One run of the driver. `index` is the place in the event index of its trade, from 0."""

    trade: str
    broker: str
    fault: Fault
    index: int
    place: str
    nth: int

    @property
    def failpoint(self) -> str:
        return f"{self.place}:{self.nth}"

    @property
    def key(self) -> str:
        """Names the cell in the results file and on the command line."""
        return f"{self.trade}/{self.broker}/{self.fault.value}/{self.failpoint}"


def is_possible(trade: str, broker: str, fault: Fault, place: str) -> bool:
    """A reply can be lost only where there is one, and a kill that a script resets is no kill.

    A request that arrives twice at a venue without idempotency is two orders: no connection does
    that, and nobody could keep it from doubling.
    """
    if fault is Fault.KILL_SWITCH:
        return trade not in RESETTING_TRADES
    if fault is Fault.BROKER_TWICE:
        return broker not in WITHOUT_IDEMPOTENCY
    return fault is not Fault.LOSE or place.startswith("reply.")


def cells_of(
    trade: str, broker: str, index: Sequence[str], faults: Iterable[Fault]
) -> Iterator[Cell]:
    """The cells of one trade; `index` are its passes `place:nth` in the order in which they came.

    The index must be the one of the cache that the fault runs with: a cold worker replays more.
    """
    for fault in faults:
        for number, failpoint in enumerate(index):
            place, _, nth = failpoint.rpartition(":")
            if is_possible(trade, broker, fault, place):
                yield Cell(trade, broker, fault, number, place, int(nth))


def share_of(cell: Cell) -> int | None:
    """Which of the `SHARES` runs plays the cell; None: every run does."""
    return None if cell.trade in CORE_TRADES else cell.index % SHARES
