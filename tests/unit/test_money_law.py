"""The money law against numbers worked by hand (architecture §7, I5).

Every case carries its working as plain arithmetic. The test evaluates that text with fractions,
which share no code with the law, and docs/money.md must show the same table.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import PriceUnavailable
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.money import round_to_cent
from domain.money_law import (
    CostPosition,
    assigned_shares,
    average_cost,
    fees_of,
    fifo_lots,
    net_unit_price,
    realised_pnl,
    slippage,
    trade_result,
    unrealised,
    unrealised_at_mid,
)
from domain.order import Fill, Quote, Side

NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "money.md"


def _option(symbol: str, right: OptionRight, strike: str) -> Instrument:
    return Instrument(
        symbol=symbol,
        kind=InstrumentKind.OPTION,
        multiplier=Decimal(100),
        underlying="XYZ",
        expiry=date(2026, 12, 18),
        strike=Decimal(strike),
        right=right,
    )


INSTRUMENTS = {
    "XYZ": Instrument(symbol="XYZ"),
    "C100": _option("C100", OptionRight.CALL, "100"),
    "C105": _option("C105", OptionRight.CALL, "105"),
    "C110": _option("C110", OptionRight.CALL, "110"),
    "P95": _option("P95", OptionRight.PUT, "95"),
    "P90": _option("P90", OptionRight.PUT, "90"),
    "ES": Instrument(
        symbol="ES",
        kind=InstrumentKind.FUTURE,
        multiplier=Decimal(50),
        tick_size=Decimal("0.25"),
    ),
    "LIN": Instrument(
        symbol="LIN",
        kind=InstrumentKind.PERPETUAL,
        tick_size=Decimal("0.1"),
        lot_size=Decimal("0.001"),
    ),
    "INV": Instrument(
        symbol="INV",
        kind=InstrumentKind.PERPETUAL,
        multiplier=Decimal(100),
        inverse=True,
        tick_size=Decimal("0.5"),
    ),
}


@dataclass(frozen=True)
class Case:
    """`fills` read `symbol side quantity@price`; `fees` with ~ are estimates; `rate` per coin."""

    name: str
    fills: str
    fees: str
    working: str
    gross: str
    net: str
    rate: str = ""


CASES = (
    Case("equity long, full", "XYZ b100@10.00, XYZ s100@11.50", "0.00",
         "(11.50 - 10.00) * 100", "150.00", "150.00"),
    Case("equity long, loss", "XYZ b100@10.00, XYZ s100@9.37", "1.00",
         "(9.37 - 10.00) * 100", "-63.00", "-64.00"),
    Case("equity long, fill in parts", "XYZ b30@10.00, XYZ b70@10.10, XYZ s100@10.50", "0.00",
         "(10.50 - 10.00) * 30 + (10.50 - 10.10) * 70", "43.00", "43.00"),
    Case("equity long, exit in parts", "XYZ b100@10.00, XYZ s40@11.00, XYZ s60@12.00", "0.35",
         "(11.00 - 10.00) * 40 + (12.00 - 10.00) * 60", "160.00", "159.65"),
    Case("equity long, still half open", "XYZ b100@10.00, XYZ s50@12.25", "0.00",
         "(12.25 - 10.00) * 50", "112.50", "112.50"),
    Case("equity long, scale in", "XYZ b100@10.00, XYZ b50@13.00, XYZ s150@12.00", "0.00",
         "(12.00 - 11.00) * 150", "150.00", "150.00"),
    Case("equity long, scale in after partial exit",
         "XYZ b100@10.00, XYZ s50@11.00, XYZ b50@12.00, XYZ s100@13.00", "0.00",
         "(11.00 - 10.00) * 50 + (13.00 - 11.00) * 100", "250.00", "250.00"),
    Case("equity long, three tranches",
         "XYZ b90@20.00, XYZ s30@20.50, XYZ s30@21.00, XYZ s30@20.00", "0.09",
         "0.50 * 30 + 1.00 * 30 + 0 * 30", "45.00", "44.91"),
    Case("equity long, average with no end", "XYZ b1@10.00, XYZ b2@10.01, XYZ s3@10.02", "0.00",
         "(10.02 - 10.00) * 1 + (10.02 - 10.01) * 2", "0.04", "0.04"),
    Case("equity long, sub-penny prices", "XYZ b1000@0.5001, XYZ s1000@0.5004", "0.00",
         "(0.5004 - 0.5001) * 1000", "0.30", "0.30"),
    Case("equity long, one share, odd cents", "XYZ b1@187.21, XYZ s1@187.20", "0.02",
         "187.20 - 187.21", "-0.01", "-0.03"),
    Case("equity short, full", "XYZ s100@20.00, XYZ b100@18.00", "0.00",
         "(20.00 - 18.00) * 100", "200.00", "200.00"),
    Case("equity short, loss", "XYZ s100@20.00, XYZ b100@21.25", "0.51",
         "(20.00 - 21.25) * 100", "-125.00", "-125.51"),
    Case("equity short, cover in parts", "XYZ s100@20.00, XYZ b25@19.00, XYZ b75@18.00", "0.00",
         "(20.00 - 19.00) * 25 + (20.00 - 18.00) * 75", "175.00", "175.00"),
    Case("equity short, scale in", "XYZ s100@20.00, XYZ s100@22.00, XYZ b200@20.50", "0.00",
         "(21.00 - 20.50) * 200", "100.00", "100.00"),
    Case("equity short, still open", "XYZ s100@20.00, XYZ b10@19.50", "~0.10",
         "(20.00 - 19.50) * 10", "5.00", "4.90"),
    Case("equity flip long to short", "XYZ b100@10.00, XYZ s150@11.00, XYZ b50@10.50", "0.00",
         "(11.00 - 10.00) * 100 + (11.00 - 10.50) * 50", "125.00", "125.00"),
    Case("equity flip short to long", "XYZ s40@10.00, XYZ b100@9.00, XYZ s60@9.25", "0.00",
         "(10.00 - 9.00) * 40 + (9.25 - 9.00) * 60", "55.00", "55.00"),
    Case("equity, both OCO legs filled",
         "XYZ b10@50.00, XYZ s10@55.00, XYZ s10@48.00, XYZ b10@48.10", "0.00",
         "(55.00 - 50.00) * 10 + (48.00 - 48.10) * 10", "49.00", "49.00"),
    Case("option long, full", "C100 b2@2.50, C100 s2@3.75", "2.60",
         "(3.75 - 2.50) * 2 * 100", "250.00", "247.40"),
    Case("option long, expires worthless by sale", "C100 b1@1.20, C100 s1@0.01", "1.30",
         "(0.01 - 1.20) * 100", "-119.00", "-120.30"),
    Case("option long, partial", "C100 b5@2.00, C100 s3@2.40", "~5.20",
         "(2.40 - 2.00) * 3 * 100", "120.00", "114.80"),
    Case("option long, scale in", "C100 b1@2.00, C100 b3@3.00, C100 s4@3.25", "5.20",
         "(3.25 - 2.75) * 4 * 100", "200.00", "194.80"),
    Case("option short, full", "P95 s3@1.85, P95 b3@0.60", "3.90",
         "(1.85 - 0.60) * 3 * 100", "375.00", "371.10"),
    Case("option short, loss, in parts", "P95 s2@1.00, P95 b1@1.50, P95 b1@2.25", "2.60",
         "(1.00 - 1.50) * 100 + (1.00 - 2.25) * 100", "-175.00", "-177.60"),
    Case("vertical debit, full",
         "C100 b1@4.00, C105 s1@1.80, C100 s1@5.10, C105 b1@2.40", "2.60",
         "((5.10 - 2.40) - (4.00 - 1.80)) * 100", "50.00", "47.40"),
    Case("vertical debit, loss",
         "C100 b2@4.00, C105 s2@1.80, C100 s2@1.10, C105 b2@0.30", "5.20",
         "((1.10 - 0.30) - (4.00 - 1.80)) * 2 * 100", "-280.00", "-285.20"),
    Case("vertical credit, full",
         "P95 s1@2.10, P90 b1@0.90, P95 b1@0.55, P90 s1@0.15", "2.60",
         "((2.10 - 0.90) - (0.55 - 0.15)) * 100", "80.00", "77.40"),
    Case("vertical credit, half the units out",
         "P95 s2@2.10, P90 b2@0.90, P95 b1@0.50, P90 s1@0.20", "~3.90",
         "((2.10 - 0.90) - (0.50 - 0.20)) * 100", "90.00", "86.10"),
    Case("iron condor, full",
         "P90 b1@0.60, P95 s1@1.40, C105 s1@1.30, C110 b1@0.50, "
         "P90 s1@0.20, P95 b1@0.70, C105 b1@0.65, C110 s1@0.15", "5.20",
         "((1.40 + 1.30 - 0.60 - 0.50) - (0.70 + 0.65 - 0.20 - 0.15)) * 100", "60.00", "54.80"),
    Case("iron condor, scale in",
         "P90 b1@0.60, P95 s1@1.40, C105 s1@1.30, C110 b1@0.50, "
         "P90 b1@0.50, P95 s1@1.20, C105 s1@1.10, C110 b1@0.40, "
         "P90 s2@0.10, P95 b2@0.40, C105 b2@0.30, C110 s2@0.05", "10.40",
         "((1.60 + 1.40) - 2 * 0.55) * 100", "190.00", "179.60"),
    Case("combo unwound short leg first", "P95 s1@2.00, P90 b1@1.00, P95 b1@2.60, P90 s1@1.30",
         "2.60", "(2.00 - 2.60) * 100 + (1.30 - 1.00) * 100", "-30.00", "-32.60"),
    Case("covered call", "XYZ b100@98.00, C105 s1@1.50, XYZ s100@104.00, C105 b1@1.10", "1.30",
         "(104.00 - 98.00) * 100 + (1.50 - 1.10) * 100", "640.00", "638.70"),
    Case("future long, full", "ES b2@5000.25, ES s2@5004.50", "8.20",
         "(5004.50 - 5000.25) * 2 * 50", "425.00", "416.80"),
    Case("future short, partial", "ES s3@5000.00, ES b1@4990.75", "~6.15",
         "(5000.00 - 4990.75) * 50", "462.50", "456.35"),
    Case("future long, scale in", "ES b1@5000.00, ES b1@5002.50, ES s2@5000.75", "8.20",
         "(5000.75 - 5001.25) * 2 * 50", "-50.00", "-58.20"),
    Case("linear perpetual long", "LIN b0.250@60000.0, LIN s0.250@61250.0", "15.16",
         "(61250 - 60000) * 0.250", "312.50", "297.34"),
    Case("linear perpetual short, parts",
         "LIN s0.300@60000.0, LIN b0.100@59000.0, LIN b0.200@60500.0", "18.00",
         "(60000 - 59000) * 0.100 + (60000 - 60500) * 0.200", "0.00", "-18.00"),
    Case("linear perpetual, scale in",
         "LIN b0.100@60000.0, LIN b0.300@62000.0, LIN s0.400@61000.0", "0.00",
         "(61000 - 61500) * 0.400", "-200.00", "-200.00"),
    Case("inverse long, full", "INV b10@50000.0, INV s10@62500.0", "0.00",
         "10 * 100 * (1 / 50000 - 1 / 62500) * 62500", "250.00", "250.00", "62500"),
    Case("inverse long, loss", "INV b10@50000.0, INV s10@40000.0", "1.00",
         "10 * 100 * (1 / 50000 - 1 / 40000) * 40000", "-200.00", "-201.00", "40000"),
    Case("inverse short, full", "INV s8@50000.0, INV b8@40000.0", "0.00",
         "8 * 100 * (1 / 40000 - 1 / 50000) * 40000", "160.00", "160.00", "40000"),
    Case("inverse long, partial", "INV b10@40000.0, INV s4@50000.0", "~0.50",
         "4 * 100 * (1 / 40000 - 1 / 50000) * 50000", "100.00", "99.50", "50000"),
    Case("inverse long, scale in", "INV b10@40000.0, INV b10@60000.0, INV s20@50000.0", "0.00",
         "100 * (10 / 40000 + 10 / 60000 - 20 / 50000) * 50000", "83.33", "83.33", "50000"),
    Case("inverse short, cover in parts", "INV s20@50000.0, INV b10@40000.0, INV b10@62500.0",
         "0.00", "100 * (10 / 40000 + 10 / 62500 - 20 / 50000) * 50000", "50.00", "50.00", "50000"),
)  # fmt: skip

_FILL = re.compile(r"(\w+) ([bs])([0-9.]+)@([0-9.]+)")


def fills_of(case: Case) -> list[Fill]:
    rows = [_FILL.fullmatch(text.strip()) for text in case.fills.split(",")]
    fills: list[Fill] = []
    for index, row in enumerate(rows):
        assert row is not None, case.fills
        symbol, side, quantity, price = row.groups()
        last = index == len(rows) - 1
        booked = None if case.fees.startswith("~") else Decimal(case.fees if last else 0)
        fills.append(
            Fill(
                fill_key=f"f{index}",
                broker_order_id="o",
                symbol=symbol,
                side=Side.BUY if side == "b" else Side.SELL,
                quantity=Decimal(quantity),
                price=Decimal(price),
                fee=booked,
                venue_time=NOW,
            )
        )
    return fills


_OPERATORS: dict[type[ast.AST], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def arithmetic(text: str) -> Fraction:
    """Evaluates + - * / with exact fractions; every number from its own characters."""

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(ast.get_source_segment(text, node) or "")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        assert isinstance(node, ast.BinOp), ast.dump(node)
        return _OPERATORS[type(node.op)](value(node.left), value(node.right))

    return value(ast.parse(text, mode="eval").body)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_worked_case_gives_its_amount_to_the_cent(case: Case) -> None:
    fills = fills_of(case)
    instruments = [INSTRUMENTS[name] for name in dict.fromkeys(fill.symbol for fill in fills)]
    rates = {"INV": Decimal(case.rate)} if case.rate else {}
    estimates = {fills[-1].fill_key: Decimal(case.fees[1:])} if case.fees[0] == "~" else {}
    result = trade_result(instruments, fills, rates=rates, fee_estimates=estimates)
    by_hand = arithmetic(case.working)
    assert abs(Fraction(case.gross) - by_hand) <= Fraction(1, 200)
    assert abs(Fraction(result.gross) - by_hand) < Fraction(1, 10**15)
    assert round_to_cent(result.gross) == Decimal(case.gross)
    assert result.net_cents == Decimal(case.net)
    assert result.fees_estimated is case.fees.startswith("~")


def test_the_golden_table_covers_every_kind_of_trade() -> None:
    names = " ".join(case.name for case in CASES)
    assert len(CASES) >= 40
    kinds = "equity long,equity short,option long,option short,vertical,iron condor,linear"
    for kind in (*kinds.split(","), "inverse long", "inverse short", "scale in", "partial"):
        assert kind in names


def document_rows() -> list[str]:
    lines = ["| # | case | fills | fees | working | gross | net |", "|---|---|---|---|---|---|---|"]
    for number, case in enumerate(CASES, start=1):
        working = case.working.replace("*", "×").replace(" - ", " − ")
        lines.append(
            f"| {number} | {case.name} | {case.fills} | {case.fees} | {working} "
            f"| {case.gross} | {case.net} |"
        )
    return lines


def test_document_shows_the_table_of_this_test() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    shown = [line for line in text.splitlines() if re.match(r"\| (#|[0-9]+|-+) \|", line)]
    assert [line for line in shown if not line.startswith("|---")] == [
        line for line in document_rows() if not line.startswith("|---")
    ]


@pytest.mark.parametrize("case", [case for case in CASES if not case.rate], ids=lambda c: c.name)
def test_fifo_and_average_cost_agree_once_flat(case: Case) -> None:
    fills = fills_of(case)
    for symbol in {fill.symbol for fill in fills}:
        rows = [fill for fill in fills if fill.symbol == symbol]
        position = average_cost(INSTRUMENTS[symbol], rows)
        lots = fifo_lots(INSTRUMENTS[symbol], rows)
        assert sum(lot.quantity for lot in lots.open_lots) == position.quantity
        if position.quantity == 0:
            assert round_to_cent(lots.realised) == round_to_cent(position.realised)


def test_fifo_lots_close_the_oldest_first_and_keep_the_rest() -> None:
    case = Case("", "XYZ b100@10.00, XYZ b50@13.00, XYZ s120@12.00", "0.00", "", "", "")
    ledger = fifo_lots(INSTRUMENTS["XYZ"], fills_of(case))
    assert [(match.opened_by, match.quantity, match.realised) for match in ledger.matches] == [
        ("f0", Decimal(100), Decimal("200.00")),
        ("f1", Decimal(20), Decimal("-20.00")),
    ]
    assert [(lot.fill_key, lot.quantity) for lot in ledger.open_lots] == [("f1", Decimal(30))]


def _quote(bid: str | None, ask: str | None) -> Quote:
    return Quote(symbol="XYZ", bid=bid, ask=ask, venue_time=NOW)


@pytest.mark.parametrize(
    ("quantity", "expected", "at_mid"), [("100", "90.00", "100.00"), ("-100", "-110.00", "-100.00")]
)
def test_unrealised_values_longs_at_bid_and_shorts_at_ask(
    quantity: str, expected: str, at_mid: str
) -> None:
    position = CostPosition(quantity=Decimal(quantity), average_price=Decimal("10.00"))
    quote = _quote("10.90", "11.10")
    assert unrealised(INSTRUMENTS["XYZ"], position, quote) == Decimal(expected)
    assert unrealised_at_mid(INSTRUMENTS["XYZ"], position, quote) == Decimal(at_mid)


def test_unrealised_of_a_future_uses_the_mark_and_nothing_else() -> None:
    position = CostPosition(quantity=Decimal(2), average_price=Decimal(5000))
    mark = Decimal("5001.50")
    assert unrealised(INSTRUMENTS["ES"], position, _quote("1", "2"), mark) == Decimal("150.00")
    with pytest.raises(PriceUnavailable):
        unrealised(INSTRUMENTS["ES"], position, _quote("1", "2"))


@pytest.mark.parametrize(("quantity", "bid", "ask"), [("1", None, "11"), ("-1", "10", None)])
def test_unrealised_without_its_side_is_unavailable(
    quantity: str, bid: str | None, ask: str | None
) -> None:
    position = CostPosition(quantity=Decimal(quantity), average_price=Decimal(10))
    with pytest.raises(PriceUnavailable):
        unrealised(INSTRUMENTS["XYZ"], position, _quote(bid, ask))
    with pytest.raises(PriceUnavailable):
        unrealised_at_mid(INSTRUMENTS["XYZ"], position, _quote(bid, ask))


@pytest.mark.parametrize(
    ("side", "average", "expected"),
    [
        (Side.BUY, "10.03", "3.00"),
        (Side.BUY, "9.98", "-2.00"),
        (Side.SELL, "9.98", "2.00"),
        (Side.SELL, "10.00", "0.00"),
    ],
)
def test_slippage_is_signed_against_the_arrival_mid(
    side: Side, average: str, expected: str
) -> None:
    cost = slippage(INSTRUMENTS["XYZ"], side, Decimal(100), Decimal(average), Decimal("10.00"))
    assert cost == Decimal(expected)


def test_combo_net_is_positive_for_a_debit_and_negative_for_a_credit() -> None:
    debit = [(Side.BUY, 1, Decimal("4.00")), (Side.SELL, 1, Decimal("1.80"))]
    ratio = [(Side.SELL, 2, Decimal("1.80")), (Side.BUY, 1, Decimal("2.00"))]
    assert net_unit_price(debit) == Decimal("2.20")
    assert net_unit_price(ratio) == Decimal("-1.60")


@pytest.mark.parametrize(
    ("symbol", "contracts", "premium", "shares", "basis"),
    [
        ("P95", "-1", "1.85", "100", "93.15"),
        ("C105", "-2", "1.50", "-200", "106.50"),
        ("C105", "1", "1.50", "100", "106.50"),
        ("P95", "1", "1.85", "-100", "93.15"),
    ],
)
def test_assignment_moves_the_premium_into_the_share_basis(
    symbol: str, contracts: str, premium: str, shares: str, basis: str
) -> None:
    left = assigned_shares(INSTRUMENTS[symbol], Decimal(contracts), Decimal(premium))
    assert (left.quantity, left.basis_price) == (Decimal(shares), Decimal(basis))


@pytest.mark.parametrize("missing", ["strike", "right"])
def test_option_without_strike_or_right_assigns_nothing(missing: str) -> None:
    """Shares at a guessed strike would be false money (I5)."""
    vague = INSTRUMENTS["P95"].model_copy(update={missing: None})
    with pytest.raises(ValueError, match="has no strike or right"):
        assigned_shares(vague, Decimal(-1), Decimal("1.85"))


def test_booked_fee_wins_over_its_estimate() -> None:
    case = Case("", "XYZ b1@10.00, XYZ s1@10.00", "0.30", "", "", "")
    fills = fills_of(case)
    assert fees_of(fills, {"f1": Decimal(9)}) == (Decimal("0.30"), False)
    unbooked = [fills[0], fills[1].model_copy(update={"fee": None})]
    assert fees_of(unbooked, {"f1": Decimal("0.25")}) == (Decimal("0.25"), True)


def test_flat_position_earns_nothing_more_even_without_a_quote() -> None:
    flat = CostPosition(quantity=Decimal(0), average_price=Decimal(10), realised=Decimal(5))
    assert unrealised(INSTRUMENTS["XYZ"], flat, _quote(None, None)) == 0
    assert unrealised_at_mid(INSTRUMENTS["XYZ"], flat, _quote(None, None)) == 0


def test_result_of_a_half_closed_trade_tells_what_is_open_and_what_it_cost() -> None:
    """I5: gross, both kinds of fees, the rest by symbol, and only the rates that were needed."""
    fills = fills_of(Case("", "XYZ b10@10.00, XYZ s4@12.00", "0.30", "", "", ""))
    booked = [fills[0], fills[1].model_copy(update={"fee": None})]
    result = trade_result(
        [INSTRUMENTS["XYZ"]],
        booked,
        fee_estimates={"f1": Decimal("0.25")},
        other_fees=Decimal("0.05"),
    )
    assert (result.gross, result.open_quantities, result.rates) == (
        Decimal(8),
        {"XYZ": Decimal(6)},
        {},
    )
    fees = (booked[0].fee or Decimal(0)) + Decimal("0.30")
    assert (result.fees, result.fees_estimated, result.net) == (fees, True, Decimal(8) - fees)
    foreign = trade_result([INSTRUMENTS["XYZ"]], fills, rates={"XYZ": Decimal("1.5")})
    assert (foreign.gross, foreign.rates) == (Decimal(12), {"XYZ": Decimal("1.5")})
    flat = trade_result([INSTRUMENTS["XYZ"]], [])
    assert (flat.net, flat.open_quantities, flat.fees_estimated) == (Decimal(0), {}, False)


def test_foreign_settlement_without_a_rate_is_refused() -> None:
    fills = fills_of(Case("", "INV b1@50000.0", "0.00", "", "", ""))
    with pytest.raises(PriceUnavailable):
        trade_result([INSTRUMENTS["INV"]], fills)
    with pytest.raises(ValueError, match="belong to no leg"):
        trade_result([INSTRUMENTS["XYZ"]], fills, rates={"INV": Decimal(1)})


def test_inverse_price_of_zero_is_refused() -> None:
    with pytest.raises(PriceUnavailable):
        realised_pnl(INSTRUMENTS["INV"], Side.BUY, Decimal(1), Decimal(0), Decimal(1))


@pytest.mark.parametrize(("entry", "leaves"), [("1", "2"), ("0.5", "1")])
def test_inverse_price_of_one_and_less_is_a_price(entry: str, leaves: str) -> None:
    found = realised_pnl(INSTRUMENTS["INV"], Side.BUY, Decimal(1), Decimal(entry), Decimal(leaves))
    assert found > 0


cents = st.decimals(min_value="0.01", max_value="5000", places=2)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 500), cents), min_size=1, max_size=12))
def test_cash_is_conserved_for_any_list_of_fills(rows: list[tuple[bool, int, Decimal]]) -> None:
    """I5: cash in = realised + value of what is left at cost, whatever the order of fills."""
    fills = [
        Fill(fill_key=str(index), broker_order_id="o", symbol="XYZ",
             side=Side.BUY if buys else Side.SELL, quantity=Decimal(size), price=price,
             venue_time=NOW)
        for index, (buys, size, price) in enumerate(rows)
    ]  # fmt: skip
    position = average_cost(INSTRUMENTS["XYZ"], fills)
    cash = -sum(Fraction(fill.signed_quantity) * Fraction(fill.price) for fill in fills)
    left = Fraction(position.quantity) * Fraction(position.average_price or 0)
    assert abs(cash + left - Fraction(position.realised)) < Fraction(1, 10**12)
    lots = fifo_lots(INSTRUMENTS["XYZ"], fills)
    at_cost = sum(Fraction(lot.quantity) * Fraction(lot.price) for lot in lots.open_lots)
    assert cash + at_cost == Fraction(lots.realised)
