"""A week of recorded days: its tapes, the jump between two days, and what fails a day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import starter
from cli.contest_files import Portfolio
from cli.demo_stack import DemoFiles
from cli.week import by_account, jump
from cli.week_report import AccountDay, DayOutcome, SessionDayResult, has_failed, last_line
from cli.week_tape import WeekDay, prepare_week
from domain.errors import BadInput
from domain.money import exact
from domain.session import SessionCounts, SessionResult
from marketdata.events import read_tape
from report.records import Book, FillRow
from report.verify import compare
from simulator.clock import SimClock
from simulator.config import CalendarConfig, ExchangeConfig, SessionHours
from simulator.control import ControlPlane
from simulator.exchange import Exchange
from simulator.orders import Status, TimeInForce
from tests.unit.simulator_rig import SYMBOL, equity, order, quote

HALF_DAY = date(2015, 12, 24)
FILL = FillRow(fill_key="o:1", symbol="GOOG", side="buy", quantity=exact(1), price=exact("750.5"))
BOOK = Book(fills=(FILL,), cash={"demo USD": exact("99990")}, equity={"demo": exact("99990")})


def minutes_of(*opens: datetime, count: int, symbol: str = "GOOG") -> str:
    """A quote at every minute after each of the openings."""
    rows = ["ts_utc,symbol,bid,ask,bid_size,ask_size"]
    for begin in opens:
        for minute in range(count):
            at = begin + timedelta(minutes=minute)
            rows.append(f"{at:%Y-%m-%dT%H:%M:%SZ},{symbol},750.1{minute % 10},750.30,100,100")
    return "\n".join(rows) + "\n"


def prepared(folder: Path, text: str, minutes: int = 30) -> tuple[DemoFiles, tuple[WeekDay, ...]]:
    source = folder / "GOOG.csv"
    source.write_text(text)
    files = DemoFiles.fresh(folder / "week")
    return files, prepare_week(files, [source], minutes)


def day_of(**changes: Any) -> DayOutcome:
    """A day as it must be, with these changes."""
    hours = datetime(2015, 12, 24, 16, 45, tzinfo=UTC)
    tape: Any = {
        "path": "day.csv",
        "instruments": [{"symbol": "GOOG"}],
        "calendar": "XNYS",
        "hours": [],
        "begin": hours,
        "end": hours + timedelta(minutes=75),
        "events": 1,
        "synthetic_quotes": False,
        "label": "quotes recorded",
    }
    result = SessionResult(
        name="week-roads-20151224",
        reason="session closed",
        counts=SessionCounts(signals=3, taken=2),
        account="demo",
        strategies=("every_road",),
        symbols=("GOOG",),
    )
    right: dict[str, Any] = {
        "day": WeekDay.model_validate({"session": HALF_DAY, "tape": tape}),
        "differences": compare(BOOK, BOOK),
        "orders": 1,
        "fills": 1,
        "fees": 0,
        "sessions": (SessionDayResult(result=result, filled=1, net=exact("-10")),),
        "accounts": (
            AccountDay(
                account="demo",
                before=exact("100000"),
                after=exact("99990"),
                baseline=exact("100000"),
            ),
        ),
    }
    return DayOutcome.model_validate(right | changes)


# --- the tapes --------------------------------------------------------------------------------


def test_days_of_a_file_become_tapes_behind_one_another(tmp_path: Path) -> None:
    """A full day is played from its open, a half day up to its early close (G4)."""
    thursday = datetime(2015, 12, 17, 14, 30, tzinfo=UTC)
    half = datetime(2015, 12, 24, 14, 30, tzinfo=UTC)
    files, days = prepared(tmp_path, minutes_of(thursday, half, count=210))
    assert [(day.session, day.symbols) for day in days] == [
        (thursday.date(), ("GOOG",)),
        (HALF_DAY, ("GOOG",)),
    ]
    assert (days[0].tape.begin, days[0].tape.end) == (thursday, thursday + timedelta(minutes=30))
    closes = datetime(2015, 12, 24, 18, 0, tzinfo=UTC)
    assert (days[1].tape.begin, days[1].tape.end) == (closes - timedelta(minutes=30), closes)
    times = [event.time for event in read_tape(files.tape)]
    assert times == sorted(times)
    assert times[0] == days[0].tape.begin
    assert len(times) == sum(day.tape.events for day in days)
    exchange = ExchangeConfig.from_json(files.exchange_config)
    assert [each.day for each in exchange.calendar.sessions] == [day.session for day in days]
    assert exchange.calendar.sessions[1].close == closes
    assert exchange.start < days[0].tape.begin


def test_day_whose_data_end_early_ends_with_them(tmp_path: Path) -> None:
    opens = [datetime(2015, 12, day, 14, 30, tzinfo=UTC) for day in (16, 17)]
    _, days = prepared(tmp_path, minutes_of(*opens, count=20))
    assert [day.tape.end for day in days] == [each + timedelta(minutes=19) for each in opens]


@pytest.mark.parametrize(("minutes", "code"), [(30, "WEEK_DAYS"), (0, "MINUTES_INVALID")])
def test_what_is_no_week_is_refused(tmp_path: Path, minutes: int, code: str) -> None:
    one_day = minutes_of(datetime(2015, 12, 17, 14, 30, tzinfo=UTC), count=30)
    with pytest.raises(BadInput) as refused:
        prepared(tmp_path, one_day, minutes)
    assert refused.value.code == code


@pytest.mark.parametrize("speed", ["fast", "0", "-1", "NaN"])
def test_speed_that_is_none_is_refused_before_anything_starts(speed: str, tmp_path: Path) -> None:
    data = tmp_path / "week"
    told = CliRunner().invoke(
        starter.app, ["demo", "--week", f"--speed={speed}", "--data", str(data)]
    )
    assert told.exit_code == 2
    assert "NUMBER_INVALID speed" in told.output
    assert not data.exists()


# --- the jump ---------------------------------------------------------------------------------


async def test_jump_plays_what_lies_between_two_days() -> None:
    """DAY orders end at the close, GTC orders live on, and time runs on from the next morning."""
    first = datetime(2026, 3, 6, 14, 30, tzinfo=UTC)
    second = first + timedelta(days=3)
    hours = tuple(
        SessionHours(each.date(), each, each + timedelta(hours=6.5)) for each in (first, second)
    )
    venue = Exchange(
        ExchangeConfig(listings=(equity(),), calendar=CalendarConfig(sessions=hours), start=first)
    )
    quote(venue, "100.00", "100.25")
    dies = venue.submit(order("buy", 1, limit="90.00"))
    lives = venue.submit(order("buy", 1, limit="89.00", tif=TimeInForce.GTC))
    clock = SimClock(first, Decimal(150))
    control = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=ControlPlane(venue, clock).app()), base_url="http://sim"
    )
    async with control:
        told = await jump(control, second - timedelta(minutes=15), Decimal(150))
    assert dies.status is Status.EXPIRED
    assert lives.symbol == SYMBOL
    assert lives.is_working
    assert told.speed == 150
    assert second - timedelta(minutes=15) <= told.market0 < second
    assert not clock.is_stepped


# --- what fails a day -------------------------------------------------------------------------


def test_day_as_it_must_be_has_no_problem_and_the_week_ends_equal() -> None:
    day = day_of()
    assert day.problems == ()
    assert not has_failed([day], 1)
    assert last_line([day], 1).startswith("1 days, 3 sessions: ledger equals exchange journal ")
    assert "every_road on GOOG: 3 signals, 1 filled, -10" in day.line()


def test_session_without_a_signal_is_said() -> None:
    quiet = day_of().sessions[0].result.model_copy(update={"counts": SessionCounts()})
    assert (
        "every_road on GOOG: no signal" in day_of(sessions=(SessionDayResult(result=quiet),)).line()
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"differences": compare(BOOK, Book(cash=BOOK.cash, equity=BOOK.equity))},
            "fill o:1: ledger buy 1 GOOG at 750.5, journal -",
        ),
        ({"open_trades": ("t-1",)}, "still open: t-1"),
        ({"working_orders": ("d0d0",)}, "order still works: d0d0"),
        ({"verified": ("verify demo: cash USD: …",)}, "verify demo: cash USD: …"),
        ({"sessions": ()}, "no trade was filled on this day"),
        (
            {"accounts": ({"account": "demo", "before": "100000", "after": "99990"},)},
            "baseline of demo: None, the evening before 100000",
        ),
        (
            {
                "accounts": (
                    {
                        "account": "demo",
                        "before": "100000",
                        "after": "99989",
                        "baseline": "100000",
                    },
                )
            },
            "sessions of demo made -10, the account -11",
        ),
    ],
)
def test_planted_problem_is_named_and_fails_the_week(changes: dict[str, Any], told: str) -> None:
    """Exit code 1: one difference is enough, on whichever day it stands."""
    bad = day_of(**changes)
    assert told in bad.problems
    assert has_failed([day_of(), bad], 2)
    assert last_line([day_of(), bad], 2).startswith("week FAILED: 2 of 2 days played")


def test_week_that_was_cut_short_has_failed() -> None:
    assert has_failed([day_of()], 2)
    assert last_line([day_of()], 2).startswith("week FAILED: 1 of 2 days played")


def test_portfolios_of_one_account_are_one_book() -> None:
    names = [("demo", "a"), ("demo", "b"), ("alone", "c")]
    portfolios = [Portfolio(account=a, strategy=s, session=s) for a, s in names]
    assert [each.strategy for each in by_account(portfolios)] == ["a", "c"]
