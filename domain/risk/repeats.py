"""Repeats: one strategy that enters again and again, one idea that comes twice.

Both are the marks of a loop that runs wild (faults.md controls 6 and 7, row A7): each order alone
looks right, their number does not.
"""

from __future__ import annotations

import hashlib
import json

from domain.base import Frozen
from domain.order import Side
from domain.plan import SizeRule, TradePlan
from domain.risk.gate_types import GateInput, Verdict
from domain.risk.verdicts import passed, refused

REPEATED_ENTRIES = "REPEATED_ENTRIES"
DUPLICATE_SUSPECT = "DUPLICATE_SUSPECT"


class EntryIdea(Frozen):
    """What a plan wants to enter: its legs, side and size, not its ids, times and prices.

    Two sources that tell the same idea a second apart see other prices and give other ids. A
    thousand plans of a busy hour are compared in this form: each costs a tenth of a whole plan.
    """

    legs: tuple[tuple[str, Side, int], ...]
    side: Side
    size: SizeRule

    @property
    def name(self) -> str:
        """Sixteen hexadecimal digits, the same for the same idea."""
        wanted = {
            "legs": [(symbol, side.value, ratio) for symbol, side, ratio in self.legs],
            "side": self.side.value,
            "size": self.size.model_dump(mode="json"),
        }
        text = json.dumps(wanted, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def idea_of(plan: TradePlan) -> str:
    """The name of the plan's idea."""
    legs = tuple((leg.instrument.symbol, leg.side, leg.ratio) for leg in plan.legs)
    return EntryIdea(legs=legs, side=plan.side, size=plan.size).name


def repeats(given: GateInput) -> Verdict:
    """Entries of the strategy within the window leave room for one more (control 6)."""
    if given.limits is None or given.recent_entries is None:
        return refused("repeats", "RECENT_ENTRIES_UNREADABLE")
    window_s, most = given.limits.repeat_window_s, given.limits.repeat_entries_max
    count = sum(
        each.strategy == given.plan.strategy and each.age_s < window_s
        for each in given.recent_entries
    )
    facts = {"strategy": given.plan.strategy, "entries": count, "max": most, "window_s": window_s}
    if count + 1 > most:
        return refused("repeats", REPEATED_ENTRIES, **facts)
    return passed("repeats", **facts)


def duplicate(given: GateInput) -> Verdict:
    """The same idea of the same strategy under another id is not entered twice (A7)."""
    if given.limits is None or given.recent_entries is None:
        return refused("duplicate", "RECENT_ENTRIES_UNREADABLE")
    window_s, idea = given.limits.duplicate_window_s, idea_of(given.plan)
    for each in given.recent_entries:
        same = each.strategy == given.plan.strategy and each.idea == idea
        # An entry of the same instant may read a hair younger than now: zero still means off.
        if same and window_s > 0 and each.age_s < window_s:
            facts = {"trade": each.trade_id, "age_s": each.age_s, "window_s": window_s}
            return refused("duplicate", DUPLICATE_SUSPECT, **facts)
    return passed("duplicate", window_s=window_s)
