"""Words that neither PostgreSQL nor UTF-8 can hold reach no ledger and no payload."""

from __future__ import annotations

from datetime import UTC, datetime

from domain.plan import TradePlan
from domain.signal import Decision
from tests.unit.bad_plans import good_plan

BAD = "a\x00b \ud800 ü"
"""A NUL in a note let `reserve_risk` fail for ever, in a trade that no list showed."""


def test_words_of_a_strategy_that_nobody_can_store_do_not_stop_its_decision() -> None:
    now = datetime(2026, 1, 5, tzinfo=UTC)
    said = Decision(strategy="s", symbol="AAPL", bar_time=now, reason=BAD)
    assert said.reason == "a?b ? ü"
    assert Decision.model_validate_json(said.model_dump_json()) == said


def test_note_of_a_plan_that_nobody_can_store_does_not_stop_the_trade() -> None:
    plan = TradePlan.model_validate(good_plan("share") | {"note": BAD})
    assert plan.note == "a?b ? ü"
    assert TradePlan.model_validate_json(plan.model_dump_json()) == plan
