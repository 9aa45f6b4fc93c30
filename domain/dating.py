"""When an activity learned something, kept inside what is possible (faults.md H7).

Freshness is judged by workflow time, facts are dated by the clock of the worker that read them. A
worker whose clock is ahead would make knowledge fresh for ever, one that is behind never: exits
would be sent on old knowledge, or not at all. The workflow knows when it asked and when it heard.
"""

from __future__ import annotations

from datetime import datetime

from domain.facts import (
    BrokerSnapshot,
    Fact,
    QuoteRead,
    RiskReserved,
    SessionChanged,
)


def dated_within(fact: Fact, asked_at: datetime, heard_at: datetime) -> Fact:
    """The fact with the times that freshness is judged by not before it was asked, nor ahead."""
    if not isinstance(fact, BrokerSnapshot | QuoteRead | RiskReserved | SessionChanged):
        return fact
    told = {"at": fact.at}
    if isinstance(fact, BrokerSnapshot):
        told["started_at"] = fact.started_at
    within = {name: min(max(at, asked_at), heard_at) for name, at in told.items()}
    return fact if within == told else fact.model_copy(update=within)
