"""Attacks on trades in a person's hands: what automation must not do behind their back."""

from __future__ import annotations

from decimal import Decimal

import pytest

from domain.control import KillMode
from domain.facts import (
    FlattenRequested,
    KillEngaged,
)
from domain.order import Side
from domain.outcomes import progress_of
from tests.unit.test_operator_fold import order, told
from tests.unit.test_part_close import close_fact, entered
from tests.unit.toy_broker import live_exit_quantity

D = Decimal


def test_exit_signal_leaves_a_trade_in_a_persons_hands_alone() -> None:
    """The strategy is automation; the person has perhaps sold by hand already (I2)."""
    trade, broker = entered()
    order(trade, "take_over")
    trade.tell(close_fact(trade, "e1", fraction="1", exit_name="exit_signal"))
    trade.pass_time(20)
    assert broker.position == 10
    assert live_exit_quantity(broker, Side.SELL) == 10
    assert " ".join(progress_of(trade.state, "e1")).startswith("refused TAKEN_OVER")


def test_person_may_close_all_of_what_they_took_over() -> None:
    trade, broker = entered()
    order(trade, "take_over")
    trade.tell(close_fact(trade, "c", fraction="1"))
    trade.pass_time(20)
    assert broker.position == 0


@pytest.mark.parametrize("verb", ["flatten", "kill"])
def test_flatten_and_kill_count_although_their_id_was_used(verb: str) -> None:
    """A stop that is lost for the sake of an id is worse than one that comes twice (I9)."""
    trade, broker = entered()
    order(trade, "pause", "x")
    values = {"at": trade.now, "command_id": "x", "by": "ann", "reason": "enough"}
    if verb == "flatten":
        trade.tell(FlattenRequested.model_validate(values))
    else:
        trade.tell(KillEngaged.model_validate(values | {"mode": KillMode.BLOCK}))
        trade.tell(KillEngaged.model_validate(values | {"mode": KillMode.FLATTEN}))
    trade.pass_time(20)
    assert broker.position == 0


def test_command_under_the_id_of_a_flatten_is_refused_and_not_swallowed() -> None:
    """Every command has an outcome (I17)."""
    trade, broker = entered()
    broker.open_session = False
    trade.tell(FlattenRequested(at=trade.now, command_id="x", by="ann", reason="r"))
    trade.tell(told(trade, "pause", "x"))
    assert " ".join(progress_of(trade.state, "x")).split()[0] != "unknown"
