"""Seeded faults: rules that say what goes wrong, when, and how often (faults.md §2.1 knobs).

A rule has a `kind`, a `match` and `params`. It fires when everything in its match agrees, the
`nth` agreeing occasion is reached, the dice allow it and `count` is not used up.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any


class FaultKind(StrEnum):
    """Where it strikes: the reply of a request, the order itself, or the stream.

    Reply: `drop_reply` (done, connection closed), `late_reply` (done, answered after `delay_s`
    wall seconds), `slow` (waits `delay_s` before doing it), `error_before` / `error_after`
    (`status`, default 503), `truncated` and `html` (200 with a useless body), `rate_limited`
    (429, header Retry-After = `retry_after` if given), `lookup_lag` (404 on lookups of an order
    younger than `lag_s` market seconds; with `lists` it is in no list either, wherever look-ups do
    not read the list themselves).
    Order: `reject` (refused with `text`), `late_reject` (accepted, rejected after `delay_s`
    market seconds), `partial_fill` (`quantity` or `fraction` at most in this event), `late_fill`
    (fills `quantity` or the rest `delay_s` market seconds after the cancel), `cancel_lost` (204,
    nothing happens), `replace_doubles` (old and new both live), `oco_both` (the sibling fills
    too), `halt` (the symbol halts for `duration_s` market seconds when the order arrives).
    Stream: `stream_drop`, `stream_duplicate`, `stream_reorder`, `stream_silence` (nothing for
    `duration_s` wall seconds), `stream_disconnect`.
    """

    DROP_REPLY = "drop_reply"
    LATE_REPLY = "late_reply"
    SLOW = "slow"
    ERROR_BEFORE = "error_before"
    ERROR_AFTER = "error_after"
    TRUNCATED = "truncated"
    HTML = "html"
    RATE_LIMITED = "rate_limited"
    LOOKUP_LAG = "lookup_lag"
    REJECT = "reject"
    LATE_REJECT = "late_reject"
    PARTIAL_FILL = "partial_fill"
    LATE_FILL = "late_fill"
    CANCEL_LOST = "cancel_lost"
    REPLACE_DOUBLES = "replace_doubles"
    OCO_BOTH = "oco_both"
    HALT = "halt"
    STREAM_DROP = "stream_drop"
    STREAM_DUPLICATE = "stream_duplicate"
    STREAM_REORDER = "stream_reorder"
    STREAM_SILENCE = "stream_silence"
    STREAM_DISCONNECT = "stream_disconnect"


@dataclass(slots=True)
class FaultRule:
    """One rule. `method`, `path`, `client_id`, `symbol`, `event` are shell patterns."""

    kind: FaultKind
    id: str = ""
    patterns: Mapping[str, str] = field(default_factory=dict)
    nth: int = 1
    probability: float = 1.0
    count: int | None = 1
    params: Mapping[str, Any] = field(default_factory=dict)
    seen: int = 0
    fired: int = 0

    def number(self, name: str, default: str | None = None) -> Decimal | None:
        """A number of the parameters, exactly."""
        value = self.params.get(name, default)
        return None if value is None else Decimal(str(value))

    def seconds(self, name: str, default_s: float = 0.0) -> float:
        return float(self.params.get(name, default_s))

    def agrees(self, facts: Mapping[str, str]) -> bool:
        return all(
            fnmatchcase(facts.get(name, ""), pattern) for name, pattern in self.patterns.items()
        )


MATCH_KEYS = frozenset({"method", "path", "client_id", "symbol", "event"})
RULE_KEYS = frozenset({"kind", "id", "match", "params"})


class FaultBoard:
    """All rules of one exchange. The dice are seeded: same script, same faults."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(f"faults:{seed}")  # noqa: S311 - repeatable on purpose
        self.rules: list[FaultRule] = []
        self.fired: Counter[str] = Counter()

    def add(self, raw: Mapping[str, Any]) -> FaultRule:
        """Adds a rule from JSON: `{"kind", "match": {method, path, client_id, symbol, event,
        nth, probability, count}, "params": {...}}`; count null means for ever.

        Raises:
            ValueError: unknown kind or key.
        """
        match = dict(raw.get("match", {}))
        nth = int(match.pop("nth", 1))
        probability = float(match.pop("probability", 1.0))
        count = match.pop("count", 1)
        unknown = (set(match) - MATCH_KEYS) | (set(raw) - RULE_KEYS)
        if unknown:
            raise ValueError(f"unknown keys were {sorted(unknown)}")
        rule = FaultRule(
            kind=FaultKind(raw["kind"]),
            id=str(raw.get("id") or f"fault-{len(self.rules) + 1}"),
            patterns={name: str(value) for name, value in match.items()},
            nth=nth,
            probability=probability,
            count=None if count is None else int(count),
            params=dict(raw.get("params", {})),
        )
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Heals everything: no rule is left; counters stay."""
        self.rules.clear()

    def take(self, kind: FaultKind, **facts: str) -> FaultRule | None:
        """The first rule of this kind that fires now, or None."""
        for rule in self.rules:
            if rule.kind is not kind or not rule.agrees(facts):
                continue
            if rule.count is not None and rule.fired >= rule.count:
                continue
            rule.seen += 1
            if rule.seen < rule.nth:
                continue
            if rule.probability < 1.0 and self._dice.random() >= rule.probability:
                continue
            rule.fired += 1
            self.fired[kind.value] += 1
            return rule
        return None
