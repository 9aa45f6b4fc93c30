"""What changed between two sets of limits, and which side of each change is the stricter one.

A looser limit while trades are open is not taken over by itself: the risk of the day was accepted
under the stricter one. Two people can decide it: one proposes, another one approves in time
(faults.md §3 row 52). Limits only ever judge entries; exits do not know them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.risk.limits import Limits

# A larger number is looser, but for these; `allow_short` is looser when true.
_SMALLER_IS_LOOSER = frozenset(
    {
        "batch_fresh_fraction_min",
        "duplicate_window_s",
        "entry_blocked_first_s",
        "entry_blocked_last_s",
        "exit_time_min_s",
        "expiry_days_min",
        "expiry_cutoff_s",
        "options_level_min",
        "repeat_window_s",
    }
)


PROPOSAL_LIFE = timedelta(minutes=30)
"""So long after it was made a proposal may be approved, and so long after that taken over."""


class LimitProposal(Frozen):
    """Limits that one person wants in force although trades are open, and who agreed.

    It names every limit: a settings file that was edited since is another proposal.
    """

    proposal_id: str
    account: str
    limits: Limits
    by: str
    reason: str
    at: AwareDatetime
    approved_by: str = ""
    approved_at: AwareDatetime | None = None

    def why_not_approve(self, by: str, wanted: Limits, now: datetime) -> str:
        """`CODE text` why this person may not approve it now; empty if they may."""
        if self.approved_at is not None:
            return f"PROPOSAL_DONE {self.approved_by} approved it before"
        if by == self.by:
            return f"SAME_PERSON {by} proposed it and cannot approve it as well"
        if not self.at <= now <= self.at + PROPOSAL_LIFE:
            return f"PROPOSAL_EXPIRED it was made at {self.at:%Y-%m-%d %H:%M:%S} UTC"
        if self.limits != wanted:
            return "LIMITS_DIFFER the settings file was changed since it was proposed"
        return ""

    def allows(self, wanted: Limits, now: datetime) -> bool:
        """True if exactly these limits were approved, not too long ago."""
        if self.approved_at is None or self.limits != wanted:
            return False
        return self.approved_at <= now <= self.approved_at + PROPOSAL_LIFE


class LimitChange(Frozen):
    """One limit that differs, as text."""

    name: str
    before: str
    after: str
    looser: bool


def changes(before: Limits, after: Limits) -> tuple[LimitChange, ...]:
    """Every limit that differs, in the order of the file."""
    found = []
    for name in Limits.model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            looser = _is_looser(name, old, new)
            found.append(LimitChange(name=name, before=str(old), after=str(new), looser=looser))
    return tuple(found)


def strictest(one: Limits, other: Limits) -> Limits:
    """Of each limit the stricter value; contradicts itself no more than both do."""
    chosen: dict[str, Any] = {}
    for name in Limits.model_fields:
        old, new = getattr(one, name), getattr(other, name)
        chosen[name] = old if _is_looser(name, old, new) else new
    return Limits.model_validate(chosen)


def _is_looser(name: str, before: Any, after: Any) -> bool:
    return bool(after < before if name in _SMALLER_IS_LOOSER else after > before)
