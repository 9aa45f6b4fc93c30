"""Recordings: exact ticks in, Parquet parts on disk, the same ticks out as a tape."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain.errors import BadInput
from domain.instrument import Instrument
from domain.order import Quote
from domain.tick import TradePrint
from marketdata.events import EventKind, TapeEvent, write_tape
from marketdata.recording import (
    RecordingTerms,
    TapeRecorder,
    drop_unfinished,
    recording_terms,
    tape_event_of,
    tape_files,
)
from marketdata.session_tape import RECORDED_LABEL, SIMULATED_LABEL, prepare_files
from marketdata.tapes import load_tape

OPEN = datetime(2026, 3, 4, 14, 30, tzinfo=UTC)
TERMS = RecordingTerms(recording="day", source="alpaca paper iex", quotes_are_real=True)
NICKEL = Instrument(symbol="AAA", tick_size=Decimal("0.05"), lot_size=Decimal(10))


def at(seconds: float) -> datetime:
    return OPEN + timedelta(seconds=seconds)


def trade(seconds: float, price: str, symbol: str = "AAA") -> TradePrint:
    return TradePrint(symbol=symbol, price=Decimal(price), size=Decimal(3), venue_time=at(seconds))


def quote(seconds: float, bid: str | None, ask: str | None, symbol: str = "AAA") -> Quote:
    return Quote(
        symbol=symbol,
        bid=None if bid is None else Decimal(bid),
        ask=None if ask is None else Decimal(ask),
        bid_size=None if bid is None else Decimal(100),
        ask_size=None if ask is None else Decimal("0.5"),
        venue_time=at(seconds),
    )


def recorder(folder: Path, terms: RecordingTerms = TERMS) -> TapeRecorder:
    return TapeRecorder(folder, terms, {"AAA": NICKEL})


def record(folder: Path, *ticks: TradePrint | Quote, terms: RecordingTerms = TERMS) -> None:
    made = recorder(folder, terms)
    for tick in ticks:
        made.take(tick)
    made.flush()


PRICES = st.decimals("0.0001", "99999.9999", places=4)
MOMENTS = st.integers(0, 3_600_000_000)
TICKS = st.one_of(
    st.builds(
        lambda at_us, price, symbol: TradePrint(
            symbol=symbol, price=price, size=price, venue_time=at(at_us / 1_000_000)
        ),
        MOMENTS,
        PRICES,
        st.sampled_from(["AAA", "BRK.B", "BTC/USD"]),
    ),
    st.builds(
        lambda at_us, bid, ask: Quote(
            symbol="AAA", bid=bid, ask=ask, venue_time=at(at_us / 1_000_000)
        ),
        MOMENTS,
        st.none() | PRICES,
        st.none() | PRICES,
    ),
)


# A flush between a trade and the quote of the same instant: their order is that of arrival.
@example(ticks=[trade(0, "10.00"), quote(0, None, None)], parts=1)
@example(ticks=[trade(0, "10.00"), quote(0, "9.95", "10.05"), trade(0, "10.05")], parts=3)
@settings(max_examples=50, deadline=None)
@given(st.lists(TICKS, min_size=1, max_size=30), st.integers(1, 3))
def test_what_was_recorded_plays_as_the_same_ticks(
    tmp_path_factory: pytest.TempPathFactory, ticks: list[TradePrint | Quote], parts: int
) -> None:
    folder = tmp_path_factory.mktemp("recording")
    ticks.sort(key=lambda tick: tick.venue_time)
    made = recorder(folder)
    for number, tick in enumerate(ticks):
        made.take(tick)
        if number % (len(ticks) // parts + 1) == 0:
            made.flush()
    made.flush()
    events = [tape_event_of(tick) for tick in ticks]
    wanted = sorted(events, key=lambda event: (event.time, event.symbol))
    assert list(load_tape(tape_files(folder))) == wanted


def test_parts_are_named_by_recording_day_and_symbol_and_know_their_terms(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(trade(1, "10.00"))
    made.take(trade(2, "20.00", "BTC/USD"))
    assert made.flush()[0] == 2
    made.take(trade(60 * 60 * 12, "10.05"))
    assert (made.waiting, made.flush()[0], made.waiting) == (1, 1, 0)
    assert [path.name for path in tape_files(tmp_path)] == [
        "day.2026-03-04.AAA.0001.parquet",
        "day.2026-03-04.BTC-USD.0001.parquet",
        "day.2026-03-05.AAA.0001.parquet",
    ]
    first, second, _ = tape_files(tmp_path)
    assert recording_terms(first) == TERMS.model_copy(update={"instrument": NICKEL})
    assert recording_terms(second) == TERMS
    again = recorder(tmp_path)
    again.take(trade(3, "10.10"))
    again.flush()
    assert (tmp_path / "day.2026-03-04.AAA.0002.parquet").exists()
    (tmp_path / "day.2026-03-04.AAA.0003.unfinished").touch()
    assert drop_unfinished(tmp_path) == 1
    assert len(load_tape(tape_files(tmp_path))) == 4


def test_ticks_out_of_order_are_put_in_order_of_market_time(tmp_path: Path) -> None:
    record(tmp_path, trade(5, "10.05"), trade(4, "10.00"))
    record(tmp_path, trade(3, "9.95"))
    assert [event.price for event in load_tape(tape_files(tmp_path))] == [
        Decimal("9.95"),
        Decimal("10.00"),
        Decimal("10.05"),
    ]


@pytest.mark.parametrize(("is_real", "label"), [(True, RECORDED_LABEL), (False, SIMULATED_LABEL)])
def test_a_folder_plays_as_a_session_with_the_recorded_instruments(
    tmp_path: Path, is_real: bool, label: str
) -> None:
    folder = tmp_path / "recording"
    terms = TERMS.model_copy(update={"quotes_are_real": is_real})
    record(folder, quote(1, "9.95", "10.00"), trade(2, "10.00"), terms=terms)
    tape = prepare_files([folder], tmp_path / "tape.csv")
    assert tape.instruments == (NICKEL,)
    assert (tape.label, tape.synthetic_quotes, tape.events) == (label, not is_real, 2)


def test_a_folder_without_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="FILE_NOT_FOUND tape"):
        tape_files(tmp_path)
    assert recording_terms(tmp_path / "other.csv") is None


def event(seconds: float, symbol: str, kind: EventKind, price: str = "1.00") -> TapeEvent:
    if kind is EventKind.QUOTE:
        bid, ask = Decimal(price), Decimal(price) + 1
        return TapeEvent(time=at(seconds), symbol=symbol, kind=kind, bid=bid, ask=ask)
    size = Decimal(1)
    return TapeEvent(time=at(seconds), symbol=symbol, kind=kind, price=Decimal(price), size=size)


def test_tapes_of_many_instruments_interleave_by_time_symbol_and_kind(tmp_path: Path) -> None:
    trades, quotes = EventKind.TRADE, EventKind.QUOTE
    written = {
        "b.csv": [event(1, "BBB", trades), event(2, "BBB", trades)],
        "z.csv": [event(1, "AAA", trades), event(2, "AAA", trades)],
        "q.csv": [event(1, "AAA", quotes), event(2, "AAA", quotes)],
    }
    paths = [tmp_path / name for name in written]
    for path in paths:
        write_tape(path, written[path.name])
    wanted = [
        (at(second), symbol, kind)
        for second in (1, 2)
        for symbol, kind in (("AAA", quotes), ("AAA", trades), ("BBB", trades))
    ]
    for order in (paths, paths[::-1]):
        found = load_tape(order)
        assert [(each.time, each.symbol, each.kind) for each in found] == wanted


def test_a_file_of_many_instruments_one_after_another_is_interleaved_too(tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    kind = EventKind.TRADE
    write_tape(path, [event(2, "BBB", kind), event(3, "BBB", kind), event(2, "AAA", kind)])
    assert [each.symbol for each in load_tape([path])] == ["AAA", "BBB", "BBB"]


def test_an_instrument_without_data_in_the_session_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    later = 24 * 3600
    write_tape(path, [event(1, "AAA", EventKind.TRADE), event(later, "BBB", EventKind.TRADE)])
    tape = prepare_files([path], tmp_path / "tape.csv")
    assert [item.symbol for item in tape.instruments] == ["AAA"]
