"""Counts what activities answer: orders, verdicts of the gate, signals.

Called by `ActivityWatch` with the answer in hand: what the trade learns is what is counted.
"""

from __future__ import annotations

from typing import Any

from domain.facts import (
    Fact,
    FactBatch,
    OrderAccepted,
    OrderNotSent,
    OrderRejected,
    OrderUnknown,
    ReplaceRejected,
    RiskRefused,
    RiskReserved,
)
from domain.session import Evaluation
from observability.metrics import AccountMeter

ORDER_STEPS = frozenset(
    {"place_order", "replace_order", "walk_step", "cancel_order", "resolve_order"}
)


def count_answer(meter: AccountMeter, step: str, answer: Any, arguments: Any) -> None:
    """Counts facts, evaluations and noted signals; anything else says nothing."""
    if isinstance(answer, FactBatch):
        for fact in answer.facts:
            _count_fact(meter, step, fact)
    elif isinstance(answer, Evaluation):
        _count_evaluation(meter, answer)
    elif step == "note_signal":
        for argument in arguments:
            meter.count("signals", verdict=str(getattr(argument, "decision", "")))


def _count_fact(meter: AccountMeter, step: str, fact: Fact) -> None:
    match fact:
        case OrderAccepted():
            meter.count("orders_accepted", step=step)
        case OrderRejected(code=code) | ReplaceRejected(code=code):
            meter.count("orders_rejected", step=step, code=code)
        case OrderNotSent(code=code):
            meter.count("orders_not_sent", code=code)
        case OrderUnknown():
            meter.count("orders_unanswered", step=step)
        case RiskReserved():
            meter.count("risk_verdicts", verdict="reserved", code="")
        case RiskRefused(code=code):
            meter.count("risk_verdicts", verdict="refused", code=code)
        case _:
            pass


def _count_evaluation(meter: AccountMeter, found: Evaluation) -> None:
    counts = found.counts
    for name, amount in (
        ("bars", counts.bars),
        ("strategy_decisions", counts.decisions),
        ("strategy_faults", counts.strategy_faults),
    ):
        if amount:
            meter.count(name, amount)
    for verdict in ("refused", "late", "watched", "exits", "dropped"):
        amount = getattr(counts, verdict)
        if amount:
            meter.count("signals", amount, verdict=verdict)
