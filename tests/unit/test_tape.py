"""Market data in: the demo day, recorded files, the user's own tables, bars without look-ahead."""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from domain.bar import Bar
from domain.errors import BadInput, PriceUnavailable
from marketdata.demo_tape import DEMO_BEGIN, DEMO_END, demo_events, demo_trades
from marketdata.events import EventKind, TapeEvent, read_tape, write_tape
from marketdata.feed import OpenBar, TapeFeed, close_bar, fold_price
from marketdata.port import BarPage, MarketDataFeed
from marketdata.session_tape import prepare_demo, prepare_files
from marketdata.tapes import SYNTHETIC_LABEL, load_tape, preview

T0 = datetime(2026, 3, 9, 13, 30, tzinfo=UTC)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "open"
BARS = "ts_utc,open,high,low,close,volume\n"
QUOTES = "ts_utc,bid,ask,bid_size,ask_size\n"
TRADES = "ts_utc,price,size\n"


def table(directory: Path, text: str, name: str = "SPY.csv") -> Path:
    path = directory / name
    path.write_text(text, newline="")
    return path


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the data is not there: ../shared/data/open/{name}")
    return path


def quote(second: float, bid: str | None, ask: str | None, symbol: str = "SPY") -> TapeEvent:
    return TapeEvent(
        time=T0 + timedelta(seconds=second),
        symbol=symbol,
        kind=EventKind.QUOTE,
        bid=Decimal(bid) if bid else None,
        ask=Decimal(ask) if ask else None,
    )


def trade(second: float, price: str, size: str = "1", symbol: str = "SPY") -> TapeEvent:
    return TapeEvent(
        time=T0 + timedelta(seconds=second),
        symbol=symbol,
        kind=EventKind.TRADE,
        price=Decimal(price),
        size=Decimal(size),
    )


@pytest.fixture(scope="module")
def demo() -> tuple[TapeEvent, ...]:
    return tuple(demo_events())


class TestDemoDay:
    def test_prints_keep_the_traded_volume_and_stay_inside_the_session(self) -> None:
        prints = list(demo_trades())

        assert sum(event.size for event in prints if event.size is not None) == 1_393_193
        assert prints[0].time == datetime(2013, 9, 3, 13, 30, 0, 40_000, tzinfo=UTC)
        assert all(DEMO_BEGIN <= event.time < DEMO_END for event in prints)
        assert all(a.time <= b.time for a, b in pairwise(prints))
        assert all(
            event.price is not None and event.price % Decimal("0.25") == 0 for event in prints
        )

    @pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Apia"])
    def test_host_time_zone_changes_nothing(
        self, zone: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """G5: the machine's own zone has no say."""
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            first = next(demo_trades())
        finally:
            monkeypatch.undo()
            time.tzset()
        assert first.time == datetime(2013, 9, 3, 13, 30, 0, 40_000, tzinfo=UTC)

    def test_quote_stands_one_tick_around_the_last_print_with_its_size(
        self, demo: tuple[TapeEvent, ...]
    ) -> None:
        last, quoted = demo[:2]

        assert last.price is not None
        assert (quoted.bid, quoted.ask) == (
            last.price - Decimal("0.25"),
            last.price + Decimal("0.25"),
        )
        assert (quoted.bid_size, quoted.ask_size) == (last.size, last.size)

    def test_prepared_tape_reads_back_and_says_that_its_quotes_are_synthetic(
        self, tmp_path: Path, demo: tuple[TapeEvent, ...]
    ) -> None:
        tape = prepare_demo(tmp_path / "esx.csv.gz")
        events = list(read_tape(Path(tape.path)))

        assert events == list(demo)
        assert tape.events == len(events)
        assert tape.synthetic_quotes
        assert tape.label == SYNTHETIC_LABEL
        assert tape.trading_calendar().next_close(DEMO_BEGIN) == DEMO_END


class TestForeignTables:
    def test_columns_may_stand_in_any_order_and_strangers_are_ignored(self, tmp_path: Path) -> None:
        path = table(tmp_path, "size,note,price,time\n5,x,10.5,2026-03-09T13:30:00-04:00\n")
        (event,) = load_tape([path])

        assert event.time == datetime(2026, 3, 9, 17, 30, tzinfo=UTC)
        assert (event.symbol, event.price, event.size) == ("SPY", Decimal("10.5"), Decimal(5))

    def test_bar_stands_at_its_end_because_nobody_knew_it_earlier(self, tmp_path: Path) -> None:
        path = table(
            tmp_path,
            BARS + "2026-03-09T13:30:00Z,1,2,0.5,1.5,10\n2026-03-09T13:31:00Z,1,2,0.5,1.5,10\n",
        )
        events = load_tape([path])
        assert [event.time for event in events] == [T0 + timedelta(minutes=n) for n in (1, 2)]

    def test_several_instruments_are_interleaved_by_time(self, tmp_path: Path) -> None:
        a = table(
            tmp_path, TRADES + "2026-03-09T13:30:00Z,1,1\n2026-03-09T13:30:02Z,1,1\n", "AA.csv"
        )
        b = table(tmp_path, TRADES + "2026-03-09T13:30:01Z,2,1\n", "BB.csv")
        assert [event.symbol for event in load_tape([a, b])] == ["AA", "BB", "AA"]

    def test_one_sided_tick_row_keeps_the_other_side(self, tmp_path: Path) -> None:
        rows = "2026-03-09T13:30:00Z,,10.2,0,5\n2026-03-09T13:30:01Z,10.1,,7,0\n"
        first, second = load_tape([table(tmp_path, QUOTES + rows)])

        assert (first.bid, first.ask) == (None, Decimal("10.2"))
        assert (second.bid, second.ask, second.ask_size) == (
            Decimal("10.1"),
            Decimal("10.2"),
            Decimal(5),
        )

    def test_empty_cell_is_no_value_and_never_zero(self, tmp_path: Path) -> None:
        (event,) = load_tape([table(tmp_path, QUOTES + "2026-03-09T13:30:00Z,0,0.05,0,5\n")])
        assert (event.bid, event.bid_size) == (None, None)

    def test_gzip_and_byte_order_mark_are_read(self, tmp_path: Path) -> None:
        path = tmp_path / "SPY.csv.gz"
        path.write_bytes(gzip.compress(("\ufeff" + TRADES + "2026-03-09T13:30:00Z,1,1\n").encode()))
        assert len(load_tape([path])) == 1

    def test_identical_trades_in_one_instant_are_two_trades(self, tmp_path: Path) -> None:
        row = "2026-03-09T13:30:00Z,1,1\n"
        assert len(load_tape([table(tmp_path, TRADES + row + row)])) == 2

    @pytest.mark.parametrize(
        ("text", "code", "where"),
        [
            ("", "CSV_ROW", "row 1"),
            ("2026-03-09T13:30:00Z,1,2\n", "CSV_ROW", "row 1"),
            ("ts_utc;bid;ask\n2026-03-09T13:30:00Z;1;2\n", "CSV_ROW", "row 1"),
            ("ts_utc,price,price,size\n", "CSV_ROW", "row 1"),
            (TRADES + "2026-03-09T13:30:00Z,1\n", "CSV_ROW", "row 2"),
            (TRADES + "2026-03-09T13:30:00Z,1,1\n\n", "CSV_ROW", "row 3"),
            (TRADES + "2026-03-09T13:30:00Z,,1\n", "CSV_ROW", "row 2 price"),
            (TRADES + "2026-03-09T13:30:00Z,0,1\n", "CSV_ROW", "row 2 price"),
            (TRADES + "2026-03-09T13:30:00Z,-1,1\n", "CSV_ROW", "row 2 price"),
            (TRADES + '2026-03-09T13:30:00Z,1,"1\n2"\n', "CSV_ROW", "row 3"),
            (
                TRADES + f"2026-03-09T13:30:00Z,1,{'9' * 5000}\n",
                "CSV_NUMBER_FORMAT",
                "row 2 size",
            ),
            (TRADES + "2026-03-09T13:30:00Z,1" * 10_000, "CSV_ROW", "row 2"),
            (TRADES + '2026-03-09T13:30:00Z,1,"2', "CSV_ROW", "file"),
            (TRADES + '2026-03-09T13:30:00Z,1,"1,234.5"\n', "CSV_NUMBER_FORMAT", "row 2 size"),
            (TRADES + '2026-03-09T13:30:00Z,"1.234,5",1\n', "CSV_NUMBER_FORMAT", "row 2 price"),
            (TRADES + "2026-03-09T13:30:00Z,$5,1\n", "CSV_NUMBER_FORMAT", "row 2 price"),
            (TRADES + "2026-03-09T13:30:00Z,(5),1\n", "CSV_NUMBER_FORMAT", "row 2 price"),
            (TRADES + "2026-03-09T13:30:00Z,NaN,1\n", "CSV_NUMBER_FORMAT", "row 2 price"),
            (TRADES + "2026-03-09T13:30:00Z,1e99,1\n", "CSV_NUMBER_FORMAT", "row 2 price"),
            (TRADES + "03/04/05,1,1\n", "CSV_DATE_AMBIGUOUS", "row 2 ts_utc"),
            (TRADES + "2026-03-09T13:30:00,1,1\n", "TIME_NO_ZONE", "row 2 ts_utc"),
            (TRADES + "1773063000,1,1\n", "TIME_UNIT_SUSPECT", "row 2 ts_utc"),
            (TRADES + "1773063000000,1,1\n", "TIME_UNIT_SUSPECT", "row 2 ts_utc"),
            (TRADES + "9999-12-31T00:00:00Z,1,1\n", "TIME_OUT_OF_WINDOW", "row 2 ts_utc"),
            (TRADES + "2026-02-30T00:00:00Z,1,1\n", "CSV_ROW", "row 2 ts_utc"),
            (
                TRADES + "2026-03-09T13:30:01Z,1,1\n2026-03-09T13:30:00Z,1,1\n",
                "CSV_ROW",
                "row 3 ts_utc",
            ),
            (BARS + "2026-03-09T13:30:00Z,1,2,1.5,1.2,1\n", "CSV_ROW", "row 2"),
            (BARS + "2026-03-09T13:30:00Z,1,1,1,1,1\n" * 2, "CSV_DUPLICATE", "row 3"),
            (
                "ts_utc,id,price,size\n" + "2026-03-09T13:30:00Z,7,1,1\n" * 2,
                "CSV_DUPLICATE",
                "row 3 id",
            ),
            (
                "ts_utc,symbol,price,size\n2026-03-09T13:30:00Z,АAPL,1,1\n",
                "SYMBOL_FORMAT",
                "row 2 symbol",
            ),
        ],
    )
    def test_bad_row_refuses_the_whole_file_with_code_and_place(
        self, tmp_path: Path, text: str, code: str, where: str
    ) -> None:
        """faults.md §3 rows 12, 22-24, 53-55."""
        with pytest.raises(BadInput) as refusal:
            load_tape([table(tmp_path, text)])
        assert (refusal.value.code, refusal.value.field) == (code, where)

    def test_overlapping_bars_are_refused(self, tmp_path: Path) -> None:
        starts = ("13:30:00", "13:31:00", "13:32:00", "13:32:30", "13:33:30")
        rows = "".join(f"2026-03-09T{start}Z,1,1,1,1,1\n" for start in starts)
        with pytest.raises(BadInput, match="CSV_DUPLICATE"):
            load_tape([table(tmp_path, BARS + rows)])

    def test_gap_is_counted_and_refused_where_none_is_allowed(self, tmp_path: Path) -> None:
        minutes = (30, 31, 32, 36, 37)
        rows = "".join(f"2026-03-09T13:{minute}:00Z,1,1,1,1,1\n" for minute in minutes)
        path = table(tmp_path, BARS + rows)

        assert preview(path).gaps == 1
        assert len(load_tape([path], gaps_max=1)) == 5
        with pytest.raises(BadInput, match="CSV_GAP"):
            load_tape([path], gaps_max=0)

    def test_preview_lists_every_problem_and_counts_the_rows(self, tmp_path: Path) -> None:
        rows = "2026-03-09T13:30:00Z,1,1\n2026-03-09T13:31:00Z,$1,1\n03/04/05,1,1\n"
        seen = preview(table(tmp_path, TRADES + rows))

        assert seen.rows == 3
        assert [text.split()[0] for text in seen.problems] == [
            "CSV_NUMBER_FORMAT",
            "CSV_DATE_AMBIGUOUS",
        ]

    def test_missing_file_and_unknown_zone_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="FILE_NOT_FOUND"):
            load_tape([tmp_path / "SPY.csv"])
        for zone in ("EST5", "Mars/Base", ""):
            with pytest.raises(BadInput, match="TZ_UNKNOWN"):
                load_tape([tmp_path / "SPY.csv"], zone=zone)

    @pytest.mark.parametrize(
        ("local", "code"),
        [
            ("2026-11-01T01:30:00", "TIME_AMBIGUOUS"),
            ("2026-03-08T02:30:00", "TIME_NONEXISTENT"),
        ],
    )
    def test_local_time_around_a_clock_change_is_refused(
        self, tmp_path: Path, local: str, code: str
    ) -> None:
        path = table(tmp_path, TRADES + f"{local},1,1\n")
        with pytest.raises(BadInput) as refusal:
            load_tape([path], zone="America/New_York")
        assert refusal.value.code == code

    def test_local_time_in_a_named_zone_becomes_utc(self, tmp_path: Path) -> None:
        path = table(tmp_path, TRADES + "2026-03-09T09:30:00,1,1\n")
        assert load_tape([path], zone="America/New_York")[0].time == T0


class TestParquet:
    def write(self, directory: Path, **columns: Sequence[object]) -> Path:
        path = directory / "SPY.parquet"
        pyarrow.parquet.write_table(pyarrow.table(dict(columns)), path)
        return path

    def test_decimals_and_plain_floats_are_read_exactly(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path, ts_utc=[T0, T0], price=[187.21, 187.2], size=[Decimal("1.50"), Decimal(2)]
        )
        events = load_tape([path])
        assert [event.price for event in events] == [Decimal("187.21"), Decimal("187.2")]
        assert events[0].size == Decimal("1.50")

    def test_computed_float_is_refused(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, ts_utc=[T0], price=[0.1 + 0.2], size=[1])
        with pytest.raises(BadInput, match="CSV_NUMBER_FORMAT"):
            load_tape([path])

    def test_naive_time_needs_a_zone(self, tmp_path: Path) -> None:
        naive = T0.replace(tzinfo=None)
        path = self.write(tmp_path, ts_utc=[naive], price=[1.0], size=[1])
        with pytest.raises(BadInput, match="TIME_NO_ZONE"):
            load_tape([path])

    def test_file_that_is_no_parquet_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "SPY.parquet"
        path.write_text("hello")
        with pytest.raises(BadInput, match="CSV_ROW"):
            load_tape([path])


class TestFeed:
    def test_bar_is_handed_out_once_complete_and_only_once(self) -> None:
        feed = TapeFeed([trade(0, "10"), trade(59, "12"), trade(61, "11"), trade(130, "9")])
        before = feed.completed(("SPY",), None, T0 + timedelta(seconds=59.999))
        first = feed.completed(("SPY",), before.cursor, T0 + timedelta(seconds=60))
        again = feed.completed(("SPY",), first.cursor, T0 + timedelta(seconds=119))
        rest = feed.completed(("SPY",), again.cursor, T0 + timedelta(hours=1))

        assert before == BarPage()
        assert [(bar.open, bar.high, bar.low, bar.close) for bar in first.bars] == [
            tuple(map(Decimal, (10, 12, 10, 12)))
        ]
        assert again.bars == ()
        assert [bar.close for bar in rest.bars] == [Decimal(11), Decimal(9)]

    def test_restart_at_any_cursor_sees_every_bar_exactly_once(
        self, demo: tuple[TapeEvent, ...]
    ) -> None:
        feed = TapeFeed(demo)
        whole = feed.completed(("ESX",), None, DEMO_END)
        cursor, now, pieces = None, DEMO_BEGIN, list[Bar]()
        while now < DEMO_END:
            now += timedelta(seconds=700)
            page = feed.completed(("ESX",), cursor, now)
            pieces.extend(page.bars)
            cursor = page.cursor

        assert tuple(pieces) == whole.bars
        assert len(pieces) == 321

    def test_bars_of_a_second_become_bars_of_a_minute(self, tmp_path: Path) -> None:
        """Strategies refuse bars that overlap (BARS_ORDER); sixty one-second rows are one bar."""
        rows = [
            f"2026-03-09T13:30:{at:02}Z,{10 + at},{11 + at},{9 + at},{10 + at},2"
            for at in range(60)
        ]
        rows.append("2026-03-09T13:31:00Z,5,6,4,5,1")
        feed = TapeFeed(load_tape([table(tmp_path, BARS + "\n".join(rows) + "\n")]))
        first, second = feed.completed(["SPY"], None, T0 + timedelta(hours=1)).bars
        assert (first.start, first.end) == (T0, T0 + timedelta(minutes=1))
        assert [first.open, first.high, first.low, first.close] == [10, 70, 9, 69]
        assert first.volume == 120
        assert second.start == first.end
        assert second.close == 5

    def test_bars_of_polled_prices_equal_the_bars_of_the_tape(
        self, demo: tuple[TapeEvent, ...]
    ) -> None:
        events = demo[:4000]
        current: OpenBar | None = None
        folded: list[Bar] = []
        for event in events:
            if event.price is None:
                continue
            current, done = fold_price(
                current, "ESX", event.time, event.price, size=event.size or Decimal(0)
            )
            if done is not None:
                folded.append(done)
        assert current is not None
        folded.append(close_bar(current))
        tape = TapeFeed(event for event in events if event.kind is EventKind.TRADE)

        assert tuple(folded) == tape.completed(("ESX",), None, DEMO_END).bars

    def test_late_price_does_not_rewrite_the_growing_bar(self) -> None:
        current, _ = fold_price(None, "SPY", T0 + timedelta(minutes=1), Decimal(10))
        after, done = fold_price(current, "SPY", T0, Decimal(99))
        assert (after, done) == (current, None)

    def test_symbol_without_trades_gets_bars_of_its_mid(self) -> None:
        feed = TapeFeed([quote(0, "9", "11"), quote(30, "11", "13")])
        (bar,) = feed.completed(("SPY",), None, T0 + timedelta(minutes=1)).bars
        assert (bar.open, bar.close, bar.bid, bar.ask) == tuple(map(Decimal, (10, 12, 11, 13)))

    def test_quote_is_the_newest_one_that_is_not_in_the_future(self) -> None:
        feed = TapeFeed([quote(0, "9", "11"), trade(1, "10"), quote(2, "8", "12")])
        seen = feed.quote("SPY", T0 + timedelta(seconds=1.5))
        assert (seen.bid, seen.ask, seen.last) == (Decimal(9), Decimal(11), Decimal(10))

    @pytest.mark.parametrize(
        ("event", "code"),
        [
            (quote(0, None, "11"), "QUOTE_ONE_SIDED"),
            (quote(0, "12", "11"), "QUOTE_CROSSED"),
            (quote(-301, "9", "11"), "QUOTE_STALE"),
            (quote(1, "9", "11"), "PRICE_UNAVAILABLE"),
        ],
    )
    def test_no_valid_quote_is_an_error_and_never_a_substitute(
        self, event: TapeEvent, code: str
    ) -> None:
        """faults.md §3 rows 32 and 33, requirement 167."""
        with pytest.raises(PriceUnavailable) as refusal:
            TapeFeed([event, trade(0, "10")]).quote("SPY", T0)
        assert refusal.value.code == code

    async def test_feed_fits_the_port(self) -> None:
        feed: MarketDataFeed = TapeFeed([quote(0, "9", "11")])
        assert set(await feed.quotes(("SPY",), T0)) == {"SPY"}
        assert (await feed.bars(("SPY",), None, T0 + timedelta(minutes=1))).cursor is not None
        with pytest.raises(PriceUnavailable):
            await feed.quotes(("SPY", "QQQ"), T0)


def test_tape_file_of_the_loader_reads_back_the_same(tmp_path: Path) -> None:
    events = [quote(0, "1.10", "1.20"), trade(0.5, "1.15"), quote(1, None, "1.20")]
    path = tmp_path / "tape.csv"
    assert write_tape(path, events) == 3
    assert list(read_tape(path)) == events
    assert list(load_tape([path])) == events


@pytest.mark.shared
class TestRecordedFiles:
    def test_spy_minutes_hold_390_session_bars_a_day_between_real_quotes(
        self, tmp_path: Path
    ) -> None:
        files = [
            shared(f"equities/lean/minute/SPY.{kind}.20131004-20131009.csv.gz")
            for kind in ("quotes", "trades")
        ]
        tape = prepare_files(files, tmp_path / "spy.csv")
        events = list(read_tape(Path(tape.path)))
        bars = [event for event in events if event.kind is EventKind.BAR]

        assert len(bars) == 390
        assert (tape.begin, tape.end) == (
            datetime(2013, 10, 4, 13, 30, tzinfo=UTC),
            datetime(2013, 10, 4, 20, 0, tzinfo=UTC),
        )
        assert not tape.synthetic_quotes
        assert tape.instruments[0].calendar == "XNYS"

    def test_goog_half_day_ends_at_its_early_close(self, tmp_path: Path) -> None:
        files = [
            shared(f"equities/lean/minute/GOOG.{kind}.20151224-20151224.csv.gz")
            for kind in ("quotes", "trades")
        ]
        tape = prepare_files(files, tmp_path / "goog.csv")
        assert tape.end == datetime(2015, 12, 24, 18, 0, tzinfo=UTC)

    def test_option_quotes_make_option_instruments(self, tmp_path: Path) -> None:
        path = shared("options/lean/minute/SPXW.quotes.20210106.csv.gz")
        tape = prepare_files([path], tmp_path / "tape.csv", symbols=["SPXW210106C03700000"])
        (instrument,) = tape.instruments
        assert (instrument.strike, instrument.multiplier) == (Decimal(3700), Decimal(100))

    def test_crypto_bars_run_around_the_clock_with_synthetic_quotes(self, tmp_path: Path) -> None:
        path = shared("crypto/lean/spot-minute/coinbase.BTCUSD.trades.20180404-20180404.csv.gz")
        tape = prepare_files([path], tmp_path / "tape.csv")
        assert (tape.calendar, tape.label) == ("24/7", SYNTHETIC_LABEL)
        assert tape.instruments[0].tick_size == Decimal("0.01")

    @pytest.mark.parametrize(
        ("name", "shape", "rows"),
        [
            ("equities/lean/second/SPY.trades.20131007-20131008.csv.gz", "bar", 39_058),
            ("equities/lean/tick/IBM.trades.20131007.csv.gz", "trade", 24_293),
            ("crypto/cryptofeed/perp-ticks/BITMEX.quotes.20210722.csv.gz", "quote", 436),
            (
                "crypto/lean/perp-minute/bybit.BTCUSDT.quotes.20221213-20221213.csv.gz",
                "quote_bar",
                460,
            ),
            ("options/lean/minute/SPXW.trades.20210106.csv.gz", "bar", 1_842),
        ],
    )
    def test_every_kind_of_file_is_read_without_a_problem(
        self, name: str, shape: str, rows: int
    ) -> None:
        seen = preview(shared(name))
        assert (seen.shape, seen.rows, seen.problems) == (shape, rows, ())
