"""What changed between two sets of limits, and which side of each change is the stricter one.

A looser limit while trades are open is not taken over: the risk of the day was accepted under the
stricter one (faults.md §3 row 52). Limits only ever judge entries; exits do not know them.
"""

from __future__ import annotations

from typing import Any

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
