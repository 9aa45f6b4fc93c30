"""Sizes and prices of entries: never past the worst price, never above the risk (req. 60)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from domain.errors import PriceUnavailable, Refused
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.order import Side
from domain.plan import (
    CapitalSize,
    ConfidenceSize,
    FixedSize,
    PlanLeg,
    PlanPrice,
    RiskSize,
    StopPlan,
    TargetPlan,
    TradePlan,
    WalkPlan,
    WalkStart,
)
from domain.risk.sizing import (
    EntryPrices,
    collar,
    confidence_quantity,
    entry_prices,
    loss_between,
    size_entry,
    structure_loss,
)
from tests.unit.risk_world import SHARE, combo, option, plan, quote

TWO_PERCENT = Decimal("0.02")


def walk(**changes: Any) -> WalkPlan:
    values = {"step": "0.01", "interval_s": "5", "steps_max": 5, "max_time_s": "60"}
    return WalkPlan(**(values | changes))


def prices(start: str, worst: str) -> EntryPrices:
    bounds = collar(Decimal(worst), Decimal("0.5"), Decimal(worst), SHARE)
    return EntryPrices(start=Decimal(start), worst=Decimal(worst), collar=bounds)


@pytest.mark.parametrize(
    ("side", "start", "expected"),
    [
        (Side.BUY, WalkStart.NEAR, "100.00"),
        (Side.BUY, WalkStart.MID, "100.05"),
        (Side.BUY, WalkStart.FAR, "100.11"),
        (Side.SELL, WalkStart.NEAR, "100.11"),
        (Side.SELL, WalkStart.MID, "100.06"),
        (Side.SELL, WalkStart.FAR, "100.00"),
    ],
)
def test_walk_starts_where_the_plan_says_rounded_protectively(
    side: Side, start: WalkStart, expected: str
) -> None:
    """The mid of 100.00/100.11 is 100.055: a buy rounds down, a sell up."""
    given_plan = plan(side, walk=walk(start=start))
    found = entry_prices(given_plan, quote(bid="100.00", ask="100.11"), TWO_PERCENT)
    assert found.start == Decimal(expected)


@pytest.mark.parametrize(
    ("side", "changes", "expected"),
    [
        (Side.BUY, {"worst_offset": "0.20"}, "100.21"),
        (Side.SELL, {"worst_offset": "0.20"}, "99.81"),
        (Side.BUY, {"worst_price": "100.50"}, "100.50"),
        (Side.BUY, {"worst_price": "150.00"}, "102.01"),
        (Side.SELL, {"worst_price": "50.00"}, "98.01"),
        (Side.BUY, {}, "102.01"),
        (Side.SELL, {}, "98.01"),
    ],
)
def test_worst_price_stops_at_the_collar(side: Side, changes: Any, expected: str) -> None:
    """D7: reference 100.01, two per cent."""
    found = entry_prices(plan(side, walk=walk(**changes)), quote(), TWO_PERCENT)
    assert found.worst == Decimal(expected)
    assert found.collar.contains(found.worst)


def test_a_worst_price_that_the_market_has_left_pulls_the_start_or_refuses() -> None:
    near = entry_prices(plan(walk=walk(worst_price="99.50")), quote(), TWO_PERCENT)
    assert (near.start, near.worst) == (Decimal("99.50"), Decimal("99.50"))
    with pytest.raises(Refused) as caught:
        entry_prices(plan(walk=walk(worst_price="98.00")), quote(), TWO_PERCENT)
    assert caught.value.code == "PRICE_OUTSIDE_COLLAR"


def test_a_wide_quote_starts_at_the_collar_and_not_outside() -> None:
    given_plan = plan(walk=walk(start=WalkStart.NEAR))
    found = entry_prices(given_plan, quote(bid="90.00", ask="110.00"), TWO_PERCENT)
    assert found.start == Decimal("98.00")


@pytest.mark.parametrize(("bid", "ask"), [(None, "1"), ("1", None), ("2", "1"), (None, None)])
def test_without_a_valid_quote_there_is_no_price(bid: str | None, ask: str | None) -> None:
    with pytest.raises(PriceUnavailable):
        entry_prices(plan(), quote(bid=bid, ask=ask), TWO_PERCENT)


def test_a_collar_without_room_for_a_tick_is_refused() -> None:
    coarse = Instrument(symbol="ES", tick_size=Decimal("0.25"))
    assert collar(Decimal("100.00"), TWO_PERCENT, Decimal(100), coarse).high == Decimal("102.00")
    with pytest.raises(Refused) as caught:
        collar(Decimal("1.10"), Decimal("0.01"), Decimal("1.10"), coarse)
    assert caught.value.code == "CONFIG_CONTRADICTION"


def test_a_combo_near_zero_gets_its_collar_from_its_legs() -> None:
    """Net mid 0.00, legs worth 8.00: two per cent is 0.16 either way; credits are negative."""
    legs = combo(
        (option(OptionRight.CALL, 100), Side.BUY), (option(OptionRight.CALL, 105), Side.SELL)
    )
    found = entry_prices(legs, quote(bid="-0.05", ask="0.05"), TWO_PERCENT, gross=Decimal(8))
    assert (found.collar.low, found.collar.high) == (Decimal("-0.16"), Decimal("0.16"))
    assert found.worst == Decimal("0.16")


@pytest.mark.parametrize(
    ("quantity", "expected"), [("100", "100"), ("99.99", "99"), ("1", "1"), ("0.99", "")]
)
def test_fixed_size_goes_down_to_whole_lots(quantity: str, expected: str) -> None:
    given_plan = plan(size=FixedSize(quantity=Decimal(quantity)))
    if not expected:
        with pytest.raises(Refused) as caught:
            size_entry(given_plan, prices("100.00", "100.05"))
        assert caught.value.code == "SIZE_BELOW_LOT"
        return
    assert size_entry(given_plan, prices("100.00", "100.05")).quantity == Decimal(expected)


@pytest.mark.parametrize(
    ("risk", "expected"), [("104.99", "99"), ("105.00", "100"), ("106.04", "100"), ("1.04", "")]
)
def test_risk_size_at_the_worst_price(risk: str, expected: str) -> None:
    """Stop at 99.00, worst 100.05: 1.05 each."""
    given_plan = plan(
        size=RiskSize(risk_amount=Decimal(risk)),
        stop=StopPlan(price=PlanPrice(absolute=Decimal("99.00"))),
    )
    if not expected:
        with pytest.raises(Refused):
            size_entry(given_plan, prices("100.00", "100.05"))
        return
    sized = size_entry(given_plan, prices("100.00", "100.05"))
    assert sized.quantity == Decimal(expected)
    assert sized.loss_at_worst == Decimal(expected) * Decimal("1.05")
    assert sized.notional == Decimal(expected) * Decimal("100.05")


def test_risk_size_needs_a_bounded_loss() -> None:
    short = plan(Side.SELL, size=RiskSize(risk_amount=Decimal(100)), stop=None)
    with pytest.raises(Refused) as caught:
        size_entry(short, prices("100.05", "100.00"))
    assert caught.value.code == "SIZE_NEEDS_STOP"


@pytest.mark.parametrize("stop", ["100.05", "100.06"])
def test_a_stop_at_or_past_the_worst_price_is_refused(stop: str) -> None:
    given_plan = plan(stop=StopPlan(price=PlanPrice(absolute=Decimal(stop))))
    with pytest.raises(Refused) as caught:
        size_entry(given_plan, prices("100.00", "100.05"))
    assert caught.value.code == "STOP_WRONG_SIDE"


@pytest.mark.parametrize(
    ("side", "changes", "expected"),
    [
        (Side.BUY, {"stop": StopPlan(price=PlanPrice(offset=Decimal(-20)))}, "stop was -8.20"),
        (Side.BUY, {"stop": StopPlan(price=PlanPrice(offset=Decimal("-11.80")))}, "stop was 0.00"),
        (
            Side.SELL,
            {"targets": (TargetPlan(price=PlanPrice(offset=Decimal(-12)), fraction=Decimal(1)),)},
            "targets.0 was -0.20",
        ),
    ],
)
def test_an_exit_at_zero_or_below_is_refused_before_the_entry(
    side: Side, changes: dict[str, Any], expected: str
) -> None:
    """No venue takes its order: the position would be bare from its first fill on (I4)."""
    with pytest.raises(Refused) as caught:
        size_entry(plan(side, **changes), prices("11.80", "11.80"))
    assert caught.value.code == "PRICE_NOT_POSITIVE"
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [("0.5", "0"), ("0.4", "0"), ("0.75", "49.975012"), ("1", "99.950024"), ("1.5", "99.950024")],
)
def test_confidence_scales_the_position_to_six_decimals(confidence: str, expected: str) -> None:
    """Requirement 60: max(0, (c - 0.5) x 2) x 10,000 / 100.05."""
    found = confidence_quantity(Decimal(confidence), Decimal(10_000), Decimal("100.05"))
    assert found == Decimal(expected)


def test_confidence_size_goes_down_to_whole_lots_or_is_refused() -> None:
    rule = ConfidenceSize(confidence=Decimal("0.75"), max_position=Decimal(10_000))
    assert size_entry(plan(size=rule), prices("100.00", "100.05")).quantity == Decimal(49)
    none = rule.model_copy(update={"confidence": Decimal("0.5")})
    with pytest.raises(Refused):
        size_entry(plan(size=none), prices("100.00", "100.05"))


def test_a_defined_structure_is_sized_by_its_bound() -> None:
    """Width 5, credit 1.20: 380 each, so 1,000 of risk buys two units."""
    spread = combo(
        (option(OptionRight.PUT, 95), Side.SELL),
        (option(OptionRight.PUT, 90), Side.BUY),
        size=RiskSize(risk_amount=Decimal(1000)),
    )
    bounds = collar(Decimal("-1.20"), TWO_PERCENT, Decimal(4), SHARE)
    given_prices = EntryPrices(start=Decimal("-1.25"), worst=Decimal("-1.20"), collar=bounds)
    sized = size_entry(spread, given_prices)
    assert (sized.quantity, sized.loss_at_worst) == (Decimal(2), Decimal(760))


def test_structure_loss_of_debit_condor_and_naked_short() -> None:
    debit = combo(
        (option(OptionRight.CALL, 100), Side.BUY), (option(OptionRight.CALL, 105), Side.SELL)
    )
    condor = combo(
        (option(OptionRight.PUT, 90), Side.BUY),
        (option(OptionRight.PUT, 95), Side.SELL),
        (option(OptionRight.CALL, 105), Side.SELL),
        (option(OptionRight.CALL, 110), Side.BUY),
    )
    naked = combo(
        (option(OptionRight.CALL, 100), Side.SELL), (option(OptionRight.PUT, 90), Side.BUY)
    )
    later = option(OptionRight.CALL, 100, expiry=date(2027, 1, 15))
    uncovered = combo((later, Side.SELL), (option(OptionRight.CALL, 100), Side.BUY))
    assert structure_loss(debit, Decimal("2.20"), {}) == Decimal(220)
    assert structure_loss(condor, Decimal("-1.60"), {}) == Decimal(340)
    assert structure_loss(naked, Decimal("-1.00"), {}) is None
    assert structure_loss(uncovered, Decimal("-1.00"), {}) is None


def test_a_size_beyond_every_amount_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        size_entry(plan(size=FixedSize(quantity=Decimal("1e15"))), prices("100.00", "100.05"))
    assert caught.value.code == "NOTIONAL_ABOVE_MAX"


def test_inverse_loss_is_counted_in_coin() -> None:
    inverse = Instrument(
        symbol="INV", kind=InstrumentKind.PERPETUAL, inverse=True, multiplier=Decimal(100)
    )
    loss = loss_between(inverse, Decimal(10), Decimal(50_000), Decimal(40_000))
    assert loss == Decimal("0.005")


money = st.decimals(min_value="1", max_value="1000", places=2)


Answer = TypeVar("Answer")


def outcome_of(ask: Callable[[], Answer]) -> tuple[str, Answer | None]:
    """The refusal's code, or the answer."""
    try:
        return "", ask()
    except Refused as error:
        return error.code, None


@st.composite
def risk_plans(draw: st.DrawFn) -> tuple[TradePlan, EntryPrices, Decimal]:
    side = draw(st.sampled_from(list(Side)))
    lot = draw(st.sampled_from([Decimal(1), Decimal("0.001"), Decimal(100)]))
    multiplier = draw(st.sampled_from([Decimal(1), Decimal(50), Decimal(100)]))
    instrument = Instrument(symbol="XYZ", lot_size=lot, min_quantity=lot, multiplier=multiplier)
    worst, distance = draw(money), draw(money) / 10
    assume(distance < worst)
    risk = draw(st.decimals(min_value="1", max_value="1000000", places=2))
    stop = StopPlan(price=PlanPrice(absolute=worst - side.sign * distance))
    given_plan = plan(
        side,
        legs=(PlanLeg(instrument=instrument, side=side),),
        size=RiskSize(risk_amount=risk),
        stop=stop,
        targets=(),
    )
    assume(stop.price.at(worst) > 0)  # else refused whatever the size
    return given_plan, prices(str(worst), str(worst)), risk


@given(risk_plans())
def test_loss_at_the_worst_price_never_exceeds_the_risk(
    drawn: tuple[TradePlan, EntryPrices, Decimal],
) -> None:
    given_plan, given_prices, risk = drawn
    refusal, sized = outcome_of(lambda: size_entry(given_plan, given_prices))
    if sized is None:
        assert refusal == "SIZE_BELOW_LOT"
        return
    assert sized.stop_price is not None
    instrument = given_plan.instrument
    exact_loss = abs(given_prices.worst - sized.stop_price) * sized.quantity * instrument.multiplier
    one_more = sized.quantity + instrument.lot_size
    assert exact_loss <= risk
    assert abs(given_prices.worst - sized.stop_price) * one_more * instrument.multiplier > risk
    assert sized.quantity % instrument.lot_size == 0


@given(
    st.sampled_from(list(Side)),
    st.sampled_from(list(WalkStart)),
    money,
    st.decimals(min_value="0.01", max_value="50", places=2),
    st.none() | st.decimals(min_value="-5", max_value="50", places=2),
)
def test_start_and_worst_always_lie_in_the_collar_on_the_tick(
    side: Side, start: WalkStart, bid: Decimal, width: Decimal, offset: Decimal | None
) -> None:
    """I13 for every quote that is not crossed."""
    given_plan = plan(side, walk=walk(start=start, worst_offset=offset))
    arrival = quote(bid=str(bid), ask=str(bid + width))
    refusal, found = outcome_of(lambda: entry_prices(given_plan, arrival, TWO_PERCENT))
    if found is None:
        assert refusal in {"PRICE_OUTSIDE_COLLAR", "CONFIG_CONTRADICTION"}
        return
    assert found.collar.contains(found.start)
    assert found.collar.contains(found.worst)
    assert (found.worst - found.start) * side.sign >= 0
    assert found.start % SHARE.tick_size == found.worst % SHARE.tick_size == 0


@pytest.mark.parametrize(
    ("capital", "lot", "quantity"),
    [
        # 1 % at risk over 2.00 would be half a unit: half of the capital buys less.
        ("100", "0.001", "0.499"),
        ("100000", "0.001", "499.750"),
        ("100000", "1", "499"),
    ],
)
def test_share_of_capital_suits_small_and_large_accounts(
    capital: str, lot: str, quantity: str
) -> None:
    """The same plan on 100 and on 100,000: value at the worst price bounds it."""
    fraction = Instrument(symbol="AAPL", lot_size=Decimal(lot), min_quantity=Decimal(lot))
    wanted = plan(
        legs=(PlanLeg(instrument=fraction, side=Side.BUY),),
        size=CapitalSize(risk_fraction=Decimal("0.01"), position_fraction=Decimal("0.5")),
        stop=StopPlan(price=PlanPrice(offset=Decimal("-2"))),
    )
    sized = size_entry(wanted, prices("100.00", "100.05"), Decimal(capital))
    assert sized.quantity == Decimal(quantity)
    assert sized.notional <= Decimal(capital) / 2


def test_share_of_capital_is_bounded_by_the_loss_at_the_stop() -> None:
    wanted = plan(
        size=CapitalSize(risk_fraction=Decimal("0.01"), position_fraction=Decimal("0.5")),
        stop=StopPlan(price=PlanPrice(offset=Decimal("-20"))),
    )
    sized = size_entry(wanted, prices("100.00", "100.05"), Decimal(100_000))
    assert (sized.quantity, sized.loss_at_worst) == (Decimal(50), Decimal(1000))


@pytest.mark.parametrize(
    ("capital", "code"),
    [(None, "CAPITAL_UNKNOWN"), ("0", "CAPITAL_UNKNOWN"), ("100", "SIZE_BELOW_LOT")],
)
def test_share_of_no_capital_or_too_little_for_a_lot_is_refused(
    capital: str | None, code: str
) -> None:
    wanted = plan(size=CapitalSize(position_fraction=Decimal("0.5")))
    with pytest.raises(Refused) as raised:
        size_entry(
            wanted, prices("100.00", "100.05"), None if capital is None else Decimal(capital)
        )
    assert raised.value.code == code
