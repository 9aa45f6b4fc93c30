"""What people read about a trade: numbers as they write them."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from domain.messages import TradeStatus
from domain.plan import ExitRule, RuleKind
from domain.story import story_of, working_lines
from domain.trade_state import NakedClock
from tests.unit.test_trade_fold import make_plan, start
from tests.unit.toy_broker import START

D = Decimal


def test_working_order_is_told_without_exponent_and_idle_zeros() -> None:
    trade, _ = start()
    trade.pass_time(1)
    (entry,) = trade.state.live()
    raw = entry.model_copy(update={"quantity": D("1E+1"), "limit_price": D("100.5000")})
    state = trade.state.changed(orders=(raw,))
    assert working_lines(state) == (f"entry {raw.state} buy 10 {raw.symbol} @ 100.5",)


def test_exits_that_are_only_watched_are_told_with_the_plan() -> None:
    """A vertical rests nothing: its story said `stop none · targets none` and no word more."""
    rules = (
        ExitRule(rule_id="tp", kind=RuleKind.PROFIT_PERCENT, threshold=D("30")),
        ExitRule(rule_id="sl", kind=RuleKind.LOSS_AMOUNT, threshold=D("150.00")),
    )
    trade, _ = start(make_plan().model_copy(update={"rules": rules}))
    assert "· targets +5 x 1 · watched profit percent 30, loss amount 150" in story_of(trade.state)


def test_a_position_that_is_naked_now_is_told_as_such_and_its_seconds_run_on() -> None:
    """I4: with the worker dead nothing is counted; the clock's beginning is all that is known."""
    trade, _ = start()
    trade.pass_time(25)
    assert "naked" not in story_of(trade.state)
    bare = trade.state.changed(naked=NakedClock(since=START, total_s=1.5))
    assert "naked 1.5 s · **naked since 15:00:00 UTC**" in story_of(bare)

    status = TradeStatus(
        trade_id="t-1", stage="open", protection="naked", held=D(10), naked_s=1.5, naked_since=START
    )
    assert status.naked_so_far_s(START + timedelta(seconds=12)) == 13.5
    assert status.naked_so_far_s(START - timedelta(seconds=12)) == 1.5, "a clock that is behind"
    over = status.model_copy(update={"naked_since": None})
    assert over.naked_so_far_s(START + timedelta(hours=9)) == 1.5
