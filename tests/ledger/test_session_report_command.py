"""`starter.py report session` on a real ledger: its own rows only, prices named, unknown told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from activities.risk import last_roll
from domain.bar import Bar
from domain.ids import Purpose
from domain.order import BrokerOrderStatus, OrderType, Side
from ledger.records import FeeRecord, IntentState, SignalRecord
from ledger.repository import Ledger
from starter import app
from tests.ledger.samples import ACCOUNT, NOW, fill, intent, owner, plan, snapshot

D = Decimal
Run = Callable[..., tuple[int, Any]]
EQUITY = D(50_000)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def dsn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_dsn: str) -> str:
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    asyncio.run(_book(ledger_dsn))
    return ledger_dsn


@pytest.fixture
def run(tmp_path: Path, dsn: str) -> Run:
    """Runs `report session` on a ledger with one session of two trades, and one beside it."""

    def call(*arguments: str) -> tuple[int, Any]:
        asked = ["--data", str(tmp_path / "none"), "report", "session", *arguments]
        result = CliRunner().invoke(app, asked)
        is_json = result.exit_code == 0 and "--json" in arguments
        return result.exit_code, json.loads(result.output) if is_json else result.output

    return call


async def _book(dsn: str) -> None:
    ledger = await Ledger.connect(dsn, pool_size=2)
    await ledger.ensure_account(ACCOUNT, "alpaca")
    await ledger.arm(ACCOUNT, "alice", "test")
    await ledger.set_equity_baseline(ACCOUNT, last_roll(NOW), EQUITY, NOW)
    await _signals(ledger)
    await _filled_trade(ledger)
    refused = plan("trade-2").model_copy(update={"signal_time": NOW + 3 * MINUTE})
    await ledger.create_trade(refused, build_id="build-7", config_hash="cafe")
    await ledger.update_trade("trade-2", stage="refused", result="NOTIONAL_ABOVE_MAX")
    await _another_session(ledger)
    await ledger.aclose()


async def _signals(ledger: Ledger) -> None:
    decided = (
        ("taken", "", "trade-1", 0),
        ("refused", "NOTIONAL_ABOVE_MAX", "trade-2", 3),
        *(("none", "NO_SIGNAL", None, minute) for minute in (1, 2, 4, 5)),
    )
    for word, code, trade_id, minute in decided:
        at = NOW + minute * MINUTE
        await ledger.record_signal(_signal(f"sig-{minute}", "s-1", at, word, code, trade_id))


def _signal(
    signal_id: str, session: str, at: datetime, word: str, code: str, trade_id: str | None
) -> SignalRecord:
    return SignalRecord(
        signal_id=signal_id,
        session=session,
        account=ACCOUNT,
        strategy="sma",
        symbol="AAPL",
        decision=word,
        code=code,
        trade_id=trade_id,
        signal_time=at,
        recorded_at=at,
    )


async def _filled_trade(ledger: Ledger) -> None:
    """Bought 10 at 100.25 (mid 100.20), stop at 98 moved to 99, sold at 99; fees 0.30."""
    await ledger.create_trade(plan(), build_id="build-7", config_hash="cafe")
    entry = intent()
    await _accept(ledger, entry, "b-1")
    for sequence, price in enumerate(("98", "99")):
        wish = intent(sequence=sequence, purpose=Purpose.STOP, increasing=False)
        changes = {"order_type": OrderType.STOP, "limit_price": None, "stop_price": D(price)}
        body = wish.body.model_copy(update=changes)
        begin = NOW + (1 + 2 * sequence) * MINUTE
        moved = wish.model_copy(update={"body": body, "tranche": 0})
        await _accept(ledger, moved, f"stop-{sequence}", begin, begin + 2 * MINUTE)
    sold = fill("f-2", broker_order_id="stop-1", price="99", side=Side.SELL)
    sold = sold.model_copy(update={"venue_time": NOW + 5 * MINUTE})
    await ledger.record_fills(ACCOUNT, [fill("f-1", fee=D("0.10")), sold])
    fee = FeeRecord(
        activity_id="fee-1",
        account=ACCOUNT,
        amount=D("0.20"),
        text="fee for order stop-1",
        venue_time=NOW.replace(hour=0),
    )
    await ledger.record_fee(fee)
    document = {
        "entry_quantity": "10",
        "average_entry": "100.25",
        "average_exit": "99",
        "arrival_mid": "100.20",
        "naked_s": 1.25,
        "exit_reason": "ratcheted_stop",
    }
    await ledger.update_trade("trade-1", stage="closed", document=document)
    await ledger.settle_trade("trade-1", D("-12.80"), D("0.30"), fees_estimated=False)


async def _accept(
    ledger: Ledger, wish: Any, order_id: str, begin: datetime = NOW, end: datetime | None = None
) -> None:
    await ledger.open_gate(wish, owner(wish.key.trade_id), "t1", NOW)
    seen = snapshot(
        order_id,
        client_id=wish.client_id,
        status=BrokerOrderStatus.WORKING if end is None else BrokerOrderStatus.REPLACED,
        submitted_at=begin,
        updated_at=end or begin,
    )
    await ledger.record_answer(wish.client_id, "t1", IntentState.ACCEPTED, snapshot=seen)


async def _open_trade(ledger: Ledger) -> None:
    """Bought 10 in two parts; it goes on."""
    await ledger.create_trade(plan("trade-3"))
    await _accept(ledger, intent("trade-3"), "b-3")
    parts = (("f-3", "b-3", "6", "100", Side.BUY), ("f-4", "b-3", "4", "101", Side.BUY))
    for key, order_id, quantity, price, side in parts:
        part = fill(key, broker_order_id=order_id, price=price, side=side, fee=D("0.10"))
        await ledger.record_fill(ACCOUNT, part.model_copy(update={"quantity": D(quantity)}))
    await ledger.update_trade("trade-3", stage="open", protection="resting")


async def _another_session(ledger: Ledger) -> None:
    """Same account and symbol a day later; the first session's report must not see it."""
    later = NOW + timedelta(days=1)
    signal = _signal("sig-x", "s-2", later, "none", "NO_SIGNAL", None)
    await ledger.record_signal(signal)
    fee = FeeRecord(
        activity_id="fee-x", account=ACCOUNT, amount=D(7), text="fee for b-9", venue_time=later
    )
    await ledger.record_fee(fee)


async def _seal_bars(dsn: str) -> None:
    ledger = await Ledger.connect(dsn, pool_size=1)
    bars = [
        Bar(
            symbol="AAPL",
            start=NOW + number * MINUTE,
            end=NOW + (number + 1) * MINUTE,
            **dict.fromkeys(("open", "high", "low", "close"), D(100 - number)),
        )
        for number in range(4)
    ]
    await ledger.seal_bars(ACCOUNT, 60, bars, bars[-1].end)
    await ledger.aclose()


def test_facts_are_those_of_the_session_and_nothing_else(run: Run) -> None:
    code, told = run("s-1", "--json")
    assert code == 0, told
    facts = told["facts"]
    assert (facts["session"], facts["account"], facts["signals"]) == ("s-1", ACCOUNT, 1)
    assert (facts["commit"], facts["config_hash"]) == ("build-7", "cafe")
    counts = {(each["word"], each["code"]): each["count"] for each in facts["verdicts"]}
    assert counts == {
        ("none", "NO_SIGNAL"): 4,
        ("taken", ""): 1,
        ("refused", "NOTIONAL_ABOVE_MAX"): 1,
    }
    filled, refused = sorted(facts["trades"], key=lambda row: str(row["trade_id"]))
    assert refused["refusal_code"] == "NOTIONAL_ABOVE_MAX"
    assert D(filled["entry_average"]) - D(filled["arrival_mid"]) == D("0.05")
    assert (D(filled["naked_s"]), D(filled["fees"])) == (D("1.25"), D("0.30"))

    (line,) = facts["equity"]
    assert D(line["start"]) == EQUITY
    assert D(line["points"][-1]["value"]) == EQUITY - D("12.50") - D("0.30")
    (chart,) = facts["charts"]
    assert [D(piece["price"]) for piece in chart["stops"]] == [98, 99]
    assert len({piece["stop_id"] for piece in chart["stops"]}) == 1, "one stop that moved"
    assert [mark["is_entry"] for mark in chart["fills"]] == [True, False]


def test_open_trade_shows_what_it_holds_and_is_no_unfilled_one(run: Run, dsn: str) -> None:
    asyncio.run(_with_ledger(dsn, _open_trade))
    facts = run("s-1", "--json")[1]["facts"]
    (row,) = (each for each in facts["trades"] if each["trade_id"] == "trade-3")
    assert (D(row["quantity"]), D(row["entry_average"])) == (D(10), D("100.4"))
    assert row["exit_average"] is None
    assert "naked time unknown" in row["note"], "no workflow tells it here"
    told = run("s-1")[1]
    assert "2 filled, 0 not filled, 1 refused by risk; 0 winners, 1 losers" in told
    assert "1 open" in told


async def _with_ledger(dsn: str, work: Callable[[Ledger], Awaitable[None]]) -> None:
    ledger = await Ledger.connect(dsn, pool_size=1)
    await work(ledger)
    await ledger.aclose()


def test_without_bars_the_prices_are_those_that_the_trades_saw(run: Run) -> None:
    facts = run("s-1", "--json")[1]["facts"]
    (chart,) = facts["charts"]
    assert chart["sparse"]
    assert [D(each["value"]) for each in chart["prices"]] == [D("100.20"), D("100.25"), D(99)]
    assert "mid at sizing" in facts["prices_from"]
    assert "marked at fills only" in facts["equity_from"]


def test_bars_of_the_ledger_are_drawn_and_named_as_the_source(run: Run, dsn: str) -> None:
    asyncio.run(_seal_bars(dsn))
    facts = run("s-1", "--json")[1]["facts"]
    (chart,) = facts["charts"]
    assert not chart["sparse"]
    assert [D(each["value"]) for each in chart["prices"]] == [100, 99, 98, 97]
    assert facts["prices_from"].startswith("Prices: 4 bars of 60 s that the ledger keeps")
    values = [D(point["value"]) for point in facts["equity"][0]["points"]]
    assert min(values) == EQUITY - D("0.10") - D("32.50"), "held 10 from 100.25 at the mark 97"


def test_broker_that_is_away_makes_the_comparison_unknown_not_equal(
    run: Run, tmp_path: Path
) -> None:
    page = tmp_path / "deep" / "s-1.html"
    code, text = run("s-1", "--html", str(page))
    assert code == 0, text
    assert "ledger equals broker: unknown" in text
    shown = page.read_text()
    assert '<p class="verdict unknown">ledger equals broker: unknown' in shown
    for word in ("Signals by verdict", "NOTIONAL_ABOVE_MAX", "mid at sizing", "at its roll"):
        assert word in shown, word
    assert json.loads(page.with_suffix(".json").read_text())["books"] is None


def test_session_without_a_trade_has_a_page_with_a_note_for_its_prices(
    run: Run, tmp_path: Path
) -> None:
    page = tmp_path / "s-2.html"
    assert run("s-2", "--html", str(page))[0] == 0
    shown = page.read_text()
    assert "No price chart" in shown
    assert "price-0" not in shown
    facts = json.loads(page.with_suffix(".json").read_text())["facts"]
    assert facts["equity_from"].startswith("The equity before the session is unknown")
    assert D(facts["equity"][0]["start"]) == 0


def test_unknown_name_is_told_with_the_names_that_are_known(run: Run) -> None:
    code, text = run("nobody")
    assert (code, text.split()[0]) == (2, "SESSION_UNKNOWN")
    assert "s-1" in text
    assert "s-2" in text
    assert run()[1].split()[0] == "NAME_MISSING"


def test_list_counts_decisions_and_trades_of_each_session_newest_first(run: Run) -> None:
    code, rows = run("--list", "--json")
    assert code == 0
    shown = [(row["name"], row["decisions"], row["taken"], row["trades"]) for row in rows]
    assert shown == [("s-2", 1, 0, 0), ("s-1", 6, 1, 2)]
