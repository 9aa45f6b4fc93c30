"""The evening's arithmetic and words: gap risk by its formulas, unknown stays unknown."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from activities.day_report import day_bounds
from domain.day_report import (
    DayMoney,
    DayReport,
    GapRisk,
    HeldPosition,
    NightStop,
    gap_risk,
)
from domain.instrument import Instrument, InstrumentKind
from domain.order import Side, TimeInForce
from domain.risk.daily_loss import DailyBaseline, DailyLoss, LossState, judge
from report.day import html_of, parts

NOW = datetime(2026, 3, 2, 21, 15, tzinfo=UTC)
SHARE = Instrument(symbol="ABC")
FIVE = Decimal("0.05")


def stop(price: str, quantity: str, force: TimeInForce = TimeInForce.GTC) -> NightStop:
    return NightStop(
        client_id=f"s{price}",
        symbol="ABC",
        side=Side.SELL,
        price=Decimal(price),
        quantity=Decimal(quantity),
        time_in_force=force,
        expires_tonight=force is TimeInForce.DAY,
        is_dormant=True,
    )


def evening(*held: HeldPosition, daily: DailyLoss | None = None, **values: object) -> DayReport:
    money = DayMoney(realised=Decimal("12.5"), fees=Decimal("0.3"), unrealised=None)
    fields: dict[str, object] = {
        "account": "paper",
        "currency": "USD",
        "day": date(2026, 3, 2),
        "begin": NOW,
        "end": NOW,
        "read_at": NOW,
        "held": held,
        "money": money,
        "daily": daily or DailyLoss(state=LossState.UNKNOWN, code="BASELINE_MISSING"),
        "armed": True,
        **values,
    }
    return DayReport.model_validate(fields)


@pytest.mark.parametrize(
    ("quantity", "price", "stops", "at_stop", "at_gap"),
    [
        ("100", "50", [("48", "60"), ("49", "40")], "160", "250"),
        ("-100", "50", [("53", "100")], "300", "250"),
        ("100", "50", [("51", "100")], "-100", "250"),
        ("100", "50", [("48", "60")], None, "250"),
        ("100", "50", [], None, "250"),
    ],
)
def test_gap_risk_follows_its_formulas(
    quantity: str, price: str, stops: list[tuple[str, str]], at_stop: str | None, at_gap: str
) -> None:
    found = gap_risk(SHARE, Decimal(quantity), Decimal(price), [stop(p, q) for p, q in stops], FIVE)
    assert found.value == Decimal(5000)
    assert found.at_stop == (None if at_stop is None else Decimal(at_stop))
    assert found.at_gap == Decimal(at_gap)


def test_position_without_a_price_has_an_unknown_risk_and_so_has_the_sum() -> None:
    assert gap_risk(SHARE, Decimal(1), None, [stop("1", "1")], FIVE) == GapRisk()
    known = HeldPosition(
        trade_id="t1", symbol="A", quantity=Decimal(1), risk=GapRisk(at_gap=Decimal(7))
    )
    blind = HeldPosition(trade_id="t2", symbol="B", quantity=Decimal(1))
    assert evening(known).gap_loss == Decimal(7)
    assert evening(known, blind).gap_loss is None
    assert "costs unknown" in evening(known, blind).line


def test_gap_of_an_option_is_not_guessed() -> None:
    option = Instrument(symbol="O", kind=InstrumentKind.OPTION, multiplier=Decimal(100))
    found = gap_risk(option, Decimal(2), Decimal(3), [], FIVE)
    assert (found.value, found.at_gap) == (Decimal(600), None)


def test_day_stop_is_told_to_expire_and_a_lasting_one_to_sleep() -> None:
    stops = (stop("48", "60", TimeInForce.DAY), stop("47", "40"))
    held = HeldPosition(trade_id="t1", symbol="ABC", quantity=Decimal(100), stops=stops)
    rows = next(part for part in parts(evening(held)) if part.title == "Dormant stops").rows
    assert [row[-1] for row in rows] == ["expires at the close", "asleep until the next open"]


def test_what_is_unknown_is_called_unknown_on_the_page() -> None:
    blind = HeldPosition(trade_id="<b>t</b>", symbol="B", quantity=Decimal(1))
    page = html_of(evening(blind, unread=("quotes (TIMEOUT)",)))
    assert "Not read: quotes (TIMEOUT)" in page
    assert "unknown of unknown allowed, unknown used" in page
    assert "&lt;b&gt;t&lt;/b&gt;" in page
    assert "<b>t</b>" not in page


def test_daily_loss_is_shown_against_its_limit() -> None:
    baseline = DailyBaseline(account_id="a", roll_at=NOW, equity=Decimal(10_000), read_at=NOW)
    daily = judge(baseline, Decimal(9_900), Decimal(0), FIVE)
    (day,) = (part for part in parts(evening(daily=daily)) if part.title == "The day")
    assert ("daily loss", "100.00 of 500.00 allowed, 20.0 % used") in day.rows


def test_day_of_an_instant_is_the_day_of_new_york() -> None:
    late = datetime(2026, 3, 3, 2, 0, tzinfo=UTC)
    found, begin, end = day_bounds(None, late)
    assert found == date(2026, 3, 2)
    assert begin <= late < end
    short, first, after = day_bounds(date(2026, 3, 8), late)
    assert short == date(2026, 3, 8)
    assert (after.astimezone(UTC) - first.astimezone(UTC)).total_seconds() == 23 * 3600
