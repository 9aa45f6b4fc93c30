"""`starter.py statement …` on a real ledger: files that tie out, deposits, what is refused."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from domain.facts import AdjustmentKind
from domain.order import Side
from ledger.records import AdjustmentRecord, FeeRecord
from ledger.repository import Ledger
from starter import app
from tests.ledger.samples import ACCOUNT, NOW, fill, plan

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_dsn: str) -> Run:
    """Runs `statement` on an account with two trades, a bust, fees and a split."""
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    asyncio.run(_book(ledger_dsn))

    def call(*arguments: str) -> tuple[int, Any]:
        asked = ["--data", str(tmp_path), "statement", *arguments, "--account", ACCOUNT, "--json"]
        result = CliRunner().invoke(app, asked)
        text = result.output
        return result.exit_code, json.loads(text) if result.exit_code == 0 else text

    return call


async def _book(dsn: str) -> None:
    ledger = await Ledger.connect(dsn, pool_size=2)
    await ledger.ensure_account(ACCOUNT, "alpaca")
    await ledger.create_trade(plan())
    day = timedelta(days=1)
    sold = fill("f-3", quantity="12", price="60", side=Side.SELL, broker_order_id="b-2", fee="0.12")
    await ledger.record_fills(
        ACCOUNT,
        [
            fill("f-1", quantity="10", price="100.25"),
            fill("f-2", quantity="5", price="101", execution_id="x-2"),
            sold.model_copy(update={"venue_time": NOW + 2 * day}),
        ],
    )
    await ledger.take_back(ACCOUNT, "b-1", "x-2")
    fee = FeeRecord(
        activity_id="fee-1",
        account=ACCOUNT,
        amount=Decimal("0.07"),
        text="fee for order b-1",
        venue_time=NOW.replace(hour=0),
    )
    await ledger.record_fee(fee)
    split = AdjustmentRecord(
        adjustment_id="split-1",
        account=ACCOUNT,
        symbol="AAPL",
        quantity=Decimal(10),
        kind=AdjustmentKind.SPLIT,
        text="=2 for 1",
        at=NOW + day,
    )
    await ledger.record_adjustment(split)
    await ledger.aclose()


def read(row: dict[str, Any], kind: str) -> list[dict[str, str]]:
    (path,) = (each for each in row["files"] if each.endswith(f"-{kind}.csv"))
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_month_ties_out_and_names_lots_fees_and_the_split(run: Run, tmp_path: Path) -> None:
    deposit = ("book", "--amount", "5000", "--id", "wire-1", "--at", "2026-03-01", "--reason", "x")
    assert run(*deposit)[1]["booked"] == "now"
    assert run(*deposit)[1]["booked"] == "before"

    code, (row,) = run("monthly", "--month", "2026-03", "--out", str(tmp_path / "files"))
    assert code == 0, row
    cash = read(row, "cash")
    amounts = sum(Decimal(line["amount"]) for line in cash)
    assert Decimal(row["opening_cash"]) + amounts == Decimal(row["closing_cash"])
    assert cash[-1]["running"] == row["closing_cash"]
    # 5000 - 1002.50 - 0.07 + 720.00 - 0.12
    assert Decimal(row["closing_cash"]) == Decimal("4717.31")
    assert [line["kind"] for line in cash].count("deposit") == 1

    (lot,) = read(row, "realised")
    assert (lot["opened_by"], lot["closed_by"], lot["quantity"]) == ("f-1", "f-3", "12")
    assert Decimal(lot["gross"]) == (Decimal(60) - Decimal("50.125")) * 12
    assert Decimal(lot["fees"]) == Decimal("0.042") + Decimal("0.12")
    assert "split 10 to 20" in lot["text"]
    (left,) = read(row, "open-lots")
    assert (Decimal(left["quantity"]), Decimal(left["cost"])) == (
        Decimal(8),
        Decimal(401),
    )
    assert [line["kind"] for line in read(row, "fills")].count("split") == 1
    assert any(line["text"] == "'=2 for 1" for line in read(row, "fills")), "no formula in a cell"
    assert [line["key"] for line in read(row, "fees")] == ["fee-1"]


def test_days_follow_each_other_without_a_gap(run: Run, tmp_path: Path) -> None:
    days = ("daily", "--from", "2026-03-02", "--to", "2026-03-05")
    _, rows = run(*days, "--out", str(tmp_path / "files"))
    assert [row["period"][-2:] for row in rows] == ["02", "03", "04", "05"]
    for before, after in pairwise(rows):
        assert before["closing_cash"] == after["opening_cash"]
    assert rows[0]["opening_cash"] == "0"
    assert rows[0]["fees"] == "0.07", "midnight UTC is the day before in New York"


BOOK = ("--at", "2026-03-01", "--reason", "x")
REFUSED: tuple[tuple[tuple[str, ...], str], ...] = (
    (("monthly", "--month", "2026-13"), "DATE_INVALID"),
    (("monthly", "--month", "yesterday"), "DATE_INVALID"),
    (("daily", "--from", "2026-02-30"), "DATE_INVALID"),
    (("daily", "--from", "2026-03-02", "--to", "2026-03-01"), "DATE_INVALID"),
    (("book", "--amount", "NaN", "--id", "w", *BOOK), "AMOUNT_INVALID"),
    (("book", "--amount", "0", "--id", "w", *BOOK), "AMOUNT_INVALID"),
    (("book", "--amount", "5", "--id", "w w", *BOOK), "ID_FORMAT"),
)


def test_bad_input_is_refused_with_its_code_and_field(run: Run) -> None:
    for arguments, code in REFUSED:
        exit_code, text = run(*arguments)
        assert (exit_code, text.split()[0]) == (2, code), arguments


def test_id_of_another_amount_is_a_conflict(run: Run) -> None:
    words = ("--id", "wire-2", "--at", "2026-03-01", "--reason", "x")
    assert run("book", "--amount", "5000", *words)[0] == 0
    code, text = run("book", "--amount", "6000", *words)
    assert (code, text.split()[0]) == (4, "CASH_DIFFERS")


def test_account_that_nobody_knows_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger, ledger_dsn: str
) -> None:
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    asked = ["--data", str(tmp_path), "statement", "monthly", "--month", "2026-03"]
    result = CliRunner().invoke(app, [*asked, "--account", "nobody"])
    assert (result.exit_code, result.output.split()[0]) == (2, "ACCOUNT_UNKNOWN")
