"""The session report: sums to the cent, signs, labels, and what the demo still owes."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from rich.console import Console

from report.portfolio import Standing
from report.records import Book, SessionFacts, TradeRow
from report.session import (
    DEMO_SIGNALS_MIN,
    build,
    missing_outcomes,
    print_report,
    totals_of,
)
from report.verify import compare

BEGIN = datetime(2013, 9, 3, 13, 30, tzinfo=UTC)
LABEL = "quotes synthetic: last trade ± 1 tick"
CONTEST = tuple(
    Standing(account=f"contest-{name}", strategy=name, start_cash=Decimal(100), signals=2)
    for name in ("trend", "reversion", "breakout")
)
EQUAL = compare(Book(), Book())


def trade(number: int = 1, **values: object) -> TradeRow:
    fields: dict[str, object] = {
        "trade_id": f"t{number}",
        "strategy": "opening_breakout",
        "symbol": "ESX",
        "side": "buy",
        "signal_time": BEGIN + timedelta(minutes=number),
        "stage": "closed",
        "quantity": "8",
        "entry_average": "1640.50",
        "exit_average": "1641.25",
        "realised": "6.00",
        "fees": "0.10",
        "arrival_mid": "1640.25",
        "exit_reason": "target",
        **values,
    }
    return TradeRow.model_validate(fields)


def refused(number: int, code: str = "NOTIONAL_ABOVE_MAX") -> TradeRow:
    return trade(
        number,
        quantity="0",
        realised="0",
        fees="0",
        entry_average=None,
        exit_average=None,
        exit_reason="",
        stage="refused",
        refusal_code=code,
    )


def session(*trades: TradeRow, signals: int | None = None, **values: object) -> SessionFacts:
    fields: dict[str, object] = {
        "session": "demo",
        "account": "SIM1",
        "tape": "ESX",
        "quotes_label": LABEL,
        "market_begin": BEGIN,
        "market_end": BEGIN + timedelta(hours=5),
        "signals": len(trades) if signals is None else signals,
        "trades": trades,
        "standings": CONTEST,
        **values,
    }
    return SessionFacts.model_validate(fields)


def full_demo() -> list[TradeRow]:
    unfilled = {"quantity": "0", "entry_average": None, "exit_reason": "max_time"}
    return [
        *(trade(number) for number in range(1, 9)),
        trade(9, partial=True),
        trade(10, exit_reason="stop"),
        trade(11, exit_reason="time_stop"),
        trade(12, exit_reason="flatten"),
        trade(13, exit_reason="ratcheted_stop", targets_filled=1),
        trade(14, stage="not_filled", **unfilled),
        refused(15),
    ]


def terminal_text(facts: SessionFacts) -> str:
    stream = io.StringIO()
    print_report(build(facts, EQUAL), Console(file=stream, width=220))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("side", "entry", "expected"),
    [("buy", "1640.50", "0.25"), ("buy", "1640", "-0.25"), ("sell", "1640", "0.25")],
)
def test_slippage_is_signed_and_cost_is_positive(side: str, entry: str, expected: str) -> None:
    assert trade(side=side, entry_average=entry).slippage == Decimal(expected)


def test_totals_add_up_to_the_cent() -> None:
    loser = trade(2, realised="-16.00", fees="0.07", quantity="24", entry_average="1640.25")
    sums = totals_of(4, [trade(1), loser, refused(3)])

    assert (sums.gross, sums.fees, sums.net) == tuple(map(Decimal, ("-10.00", "0.17", "-10.17")))
    assert (sums.filled, sums.refused, sums.not_filled) == (2, 1, 0)
    assert (sums.winners, sums.losers) == (1, 1)
    assert sums.average_slippage == Decimal("0.0625")


def test_trade_that_only_pays_its_fees_is_a_loser() -> None:
    assert totals_of(1, [trade(realised="0.10", fees="0.11")]).losers == 1


def test_terminal_report_ends_with_the_verdict_and_names_the_synthetic_quotes() -> None:
    text = terminal_text(session(trade(1), refused(2), refused(3, "OPPOSITE_POSITION")))

    assert text.rstrip().splitlines()[-1].startswith("ledger equals exchange journal: 0 accepted")
    assert "quotes: synthetic: last trade ± 1 tick" in text
    assert "refused: 1 NOTIONAL_ABOVE_MAX, 1 OPPOSITE_POSITION" in text
    assert "gross +6.00, fees 0.10, net +5.90" in text


def test_recorded_quotes_are_not_called_synthetic() -> None:
    text = terminal_text(session(trade(1), quotes_label="quotes recorded"))
    assert "synthetic" not in text


def test_differences_are_shown_before_the_verdict() -> None:
    differences = compare(Book(cash={"USD": Decimal(1)}), Book(cash={"USD": Decimal(2)}))
    report = build(session(trade(1)), differences)

    assert report.differences == ("cash USD: ledger 1.00, journal 2.00",)
    assert not report.equal


def test_full_demo_owes_nothing() -> None:
    assert missing_outcomes(session(*full_demo(), signals=DEMO_SIGNALS_MIN)) == ()


@pytest.mark.parametrize(
    ("left_out", "owed"),
    [
        ("t9", "partial fill"),
        ("t10", "stopped out"),
        ("t11", "time stop"),
        ("t12", "operator flatten"),
        ("t13", "three-tranche ratchet"),
        ("t14", "not filled"),
        ("t15", "refused by risk"),
    ],
)
def test_each_missing_outcome_is_owed_by_name(left_out: str, owed: str) -> None:
    trades = [row for row in full_demo() if row.trade_id != left_out]
    assert missing_outcomes(session(*trades, signals=DEMO_SIGNALS_MIN)) == (owed,)


def test_too_few_signals_and_fills_are_owed() -> None:
    owed = missing_outcomes(session(*full_demo()[3:], signals=DEMO_SIGNALS_MIN - 1))
    assert owed == (">= 20 signals", ">= 12 filled trades")
