"""Short ways to say what a check found; facts are text, so that they can be stored and shown."""

from __future__ import annotations

from domain.risk.gate_types import Outcome, Verdict


def passed(name: str, **facts: object) -> Verdict:
    return Verdict(name=name, outcome=Outcome.PASSED, facts=_text(facts))


def refused(name: str, code: str, **facts: object) -> Verdict:
    return Verdict(name=name, outcome=Outcome.REFUSED, code=code, facts=_text(facts))


def not_applicable(name: str, code: str, **facts: object) -> Verdict:
    return Verdict(name=name, outcome=Outcome.NOT_APPLICABLE, code=code, facts=_text(facts))


def _text(facts: dict[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in facts.items()}
