"""What people read about a trade: numbers as they write them."""

from __future__ import annotations

from decimal import Decimal

from domain.story import working_lines
from tests.unit.test_trade_fold import start

D = Decimal


def test_working_order_is_told_without_exponent_and_idle_zeros() -> None:
    trade, _ = start()
    trade.pass_time(1)
    (entry,) = trade.state.live()
    raw = entry.model_copy(update={"quantity": D("1E+1"), "limit_price": D("100.5000")})
    state = trade.state.changed(orders=(raw,))
    assert working_lines(state) == (f"entry {raw.state} buy 10 {raw.symbol} @ 100.5",)
