"""What a trade believes of trading hours when two tell it (G3, H7)."""

from __future__ import annotations

from datetime import datetime, timedelta

from domain.facts import Fact, RiskReserved, SessionChanged, TradingHalted, TradingResumed
from domain.fold import apply_all
from domain.trade_state import Hours, TradeState
from tests.unit.test_part_close import entered

SECOND = timedelta(seconds=1)


def heard(*facts: Fact, now: datetime) -> Hours:
    """The hours that a new trade believes after these facts."""
    trade, _ = entered()
    planned = TradeState.planned(trade.state.plan, trade.state.installation, trade.state.clock)
    return apply_all(planned, facts, now).hours


def gate(at: datetime, *, is_open: bool = True, halted: bool = False) -> RiskReserved:
    """The gate's answer, with the hours that it read."""
    trade, _ = entered()
    assert trade.state.ticket is not None
    read = {"is_open": is_open, "halted": halted}
    return RiskReserved(at=at, ticket=trade.state.ticket.model_copy(update=read))


def test_close_that_is_heard_while_the_gate_answers_outlives_the_gates_older_reading() -> None:
    now = entered()[0].now
    close = SessionChanged(at=now, is_open=False, next_open=now + timedelta(hours=16))
    hours = heard(close, gate(now - SECOND), now=now + SECOND)
    assert (hours.is_open, hours.next_open, hours.read_at) == (False, close.next_open, now)


def test_gate_that_read_later_than_the_watch_is_believed() -> None:
    now = entered()[0].now
    hours = heard(SessionChanged(at=now - SECOND, is_open=True), gate(now, is_open=False), now=now)
    assert (hours.is_open, hours.read_at) == (False, now)


def test_halt_that_is_heard_while_the_gate_answers_lasts_until_trading_resumes() -> None:
    now = entered()[0].now
    symbol = entered()[0].state.plan.symbol
    halt = TradingHalted(at=now, symbol=symbol)
    assert heard(halt, gate(now - SECOND), now=now).halted == (symbol,)
    assert heard(halt, gate(now - SECOND, halted=True), now=now).halted == (symbol,)
    assert heard(gate(now, halted=True), now=now).halted == (symbol,)
    resumed = TradingResumed(at=now, symbol=symbol)
    assert heard(halt, gate(now - SECOND, halted=True), resumed, now=now).halted == ()


def test_streamer_whose_clock_is_ahead_makes_no_hours_fresh_for_ever() -> None:
    """H7: an exit believes only hours that were read just now."""
    now = entered()[0].now
    told = SessionChanged(at=now + timedelta(hours=1), is_open=True)
    assert heard(gate(now), told, now=now).read_at == now
