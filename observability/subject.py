"""What an activity is about: the ids that its log lines, spans and counters carry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TRADE_PREFIX, SESSION_PREFIX = "trade/", "session/"


@dataclass(frozen=True, slots=True)
class Subject:
    """Ids of the work at hand; empty where there is none.

    `scan_id` names one look of a session at the market: session and market instant.
    """

    account: str = ""
    trade_id: str = ""
    session: str = ""
    signal_id: str = ""
    scan_id: str = ""

    @property
    def fields(self) -> dict[str, str]:
        """The ids that are there, for logs and spans."""
        named = (
            ("account", self.account),
            ("trade_id", self.trade_id),
            ("session", self.session),
            ("signal_id", self.signal_id),
            ("scan_id", self.scan_id),
        )
        return {name: value for name, value in named if value}


def subject_of(workflow_id: str, arguments: Iterable[object]) -> Subject:
    """Reads the ids off an activity's workflow and input.

    Inputs name them in one of a few ways: as fields, in their trade reference, plan or session.
    """
    found = {"account": "", "trade_id": "", "session": "", "signal_id": ""}
    scan_id = ""
    for argument in arguments:
        for holder in _holders(argument):
            for name in found:
                value = getattr(holder, name, "")
                if not found[name] and isinstance(value, str):
                    found[name] = value
        spec, at = getattr(argument, "spec", None), getattr(argument, "market_now", None)
        if spec is not None and at is not None:
            found["session"] = found["session"] or str(getattr(spec, "name", ""))
            scan_id = f"{found['session']}@{at:%Y%m%dT%H%M%SZ}"
    if workflow_id.startswith(TRADE_PREFIX):
        found["trade_id"] = workflow_id.removeprefix(TRADE_PREFIX)
    if workflow_id.startswith(SESSION_PREFIX):
        found["session"] = found["session"] or workflow_id.removeprefix(SESSION_PREFIX)
    return Subject(**found, scan_id=scan_id)


def _holders(argument: object) -> Iterator[object]:
    """The input itself and what it holds that may name ids; a plan knows its session."""
    yield argument
    for name in ("trade", "plan", "spec"):
        holder = getattr(argument, name, None)
        if holder is not None:
            yield holder
