"""The deadlines of a chaos run: short, so that a cell is over soon (faults.md §2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from workflows import _lifecycle as life
from workflows import reconcile


@dataclass(frozen=True)
class Times:
    """Wall seconds; `pace` stretches all of them together where a machine is slow or busy.

    What matters is their order: beat < request < start-to-close < hang < stop, and a stop
    outlasts the first retry behind a start-to-close, whatever the number of seconds.
    """

    pace: float = 1.0

    @property
    def request_s(self) -> float:
        return 1.2 * self.pace

    @property
    def beat_timeout_s(self) -> float:
        """After that a process that died in a step of the order lane is missed."""
        return 1.0 * self.pace

    @property
    def start_to_close_s(self) -> float:
        """Of a send; steps of several requests have half as much again."""
        return 2.0 * self.pace

    @property
    def long_start_to_close_s(self) -> float:
        return 3.0 * self.pace

    @property
    def workflow_task_s(self) -> float:
        return 2.0 * self.pace

    @property
    def hang_s(self) -> float:
        return 3.6 * self.pace

    @property
    def stopped_s(self) -> float:
        return 4.5 * self.pace

    @property
    def away_s(self) -> float:
        """How long a database or a broker is out of reach."""
        return 3.0 * self.pace

    @property
    def slow_s(self) -> float:
        """How long they answer slowly."""
        return 4.0 * self.pace

    @property
    def lag_max_s(self) -> float:
        """How long an entry stays in doubt that nobody may post again; no list here lags at all."""
        return 20.0 * self.pace

    @property
    def cell_s(self) -> float:
        """A trade that has not ended by then does not get on (I11)."""
        return 180.0 * self.pace

    @property
    def walk_interval_s(self) -> str:
        return f"{1.2 * self.pace:.1f}"

    def shorten_workflows(self) -> None:
        """Shortens the deadlines of this process's workflows; the sandbox passes them through."""
        life.BEAT_TIMEOUT = timedelta(seconds=self.beat_timeout_s)
        life.SEND_TIMEOUT = timedelta(seconds=self.start_to_close_s)
        life.WALK_TIMEOUT = timedelta(seconds=self.long_start_to_close_s)
        life.RESOLVE_TIMEOUT = timedelta(seconds=self.long_start_to_close_s)
        life.READ_TIMEOUT = timedelta(seconds=self.long_start_to_close_s)
        life.BOOKKEEPING_TIMEOUT = timedelta(seconds=self.long_start_to_close_s)
        life.TASK_TIMEOUT = timedelta(seconds=self.workflow_task_s)
        reconcile.PASS_TIMEOUT = timedelta(seconds=2 * self.long_start_to_close_s)
