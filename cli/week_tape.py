"""The week's market on disk: recorded days, cut to a stretch each, behind one another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from itertools import chain
from pathlib import Path

from cli.demo_stack import DemoFiles, exchange_config
from domain.base import Frozen
from domain.errors import BadInput
from domain.instrument import Instrument
from marketdata.events import read_tape, write_tape
from marketdata.session_tape import Recorded, SessionTape
from observability.build import repository_root

DAYS_MIN, DAYS_MAX = 2, 5
WINDOW_MIN = 75
# The exchange plays on after the sessions: what is late to get out needs a market.
AFTER_WINDOW = timedelta(minutes=45)
# XNYS trades 6.5 hours, 3.5 on a half day.
FULL_DAY = timedelta(hours=6)
_MINUTE_BARS = "equities/lean/minute"
# Years apart on purpose: a weekend, a change to winter time, months without data, and last a day
# that closes at 13:00 New York. NWSA is the last session before its spin-off.
RECORDED_WEEK = (
    (date(2013, 6, 28), {"NWSA": "20130627-20130628"}),
    (date(2013, 10, 4), {"IBM": "20131004-20131009", "SPY": "20131004-20131009"}),
    (date(2013, 10, 7), {"BAC": "20131004-20131009", "SPY": "20131004-20131009"}),
    (date(2014, 6, 5), {"AAPL": "20140605-20140606", "TWX": "20140605-20140605"}),
    (date(2015, 12, 24), {"GOOG": "20151224-20151224"}),
)


class WeekDay(Frozen):
    """One recorded day. `tape.begin` and `tape.end` are the stretch of it that is traded."""

    session: date
    tape: SessionTape

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(item.symbol for item in self.tape.instruments)


def recorded_data() -> Path:
    """Where the recorded market data of the project lie, if they are there."""
    return repository_root().parent / "shared" / "data" / "open"


def prepare_week(
    files: DemoFiles, sources: Sequence[Path], minutes: int = WINDOW_MIN
) -> tuple[WeekDay, ...]:
    """Writes a tape per day, all of them as the exchange's tape, and the exchange's settings.

    Args:
        files: where the run keeps what it makes.
        sources: files or folders; the first five days in them count. Empty: `RECORDED_WEEK`.
        minutes: market minutes of each day: the first ones, on a half day the last ones.

    Raises:
        BadInput: WEEK_DATA if nothing was given and the recorded data are not there; WEEK_DAYS
            for less than two days; MINUTES_INVALID; as `prepare_files`.
    """
    if minutes < 1:
        raise BadInput("MINUTES_INVALID", "minutes", minutes, ">= 1")
    days = tuple(_days_of(files, sources, minutes))
    if len(days) < DAYS_MIN:
        found = ", ".join(f"{day.session}" for day in days)
        raise BadInput("WEEK_DAYS", "tape", found, f"files of at least {DAYS_MIN} recorded days")
    write_tape(files.tape, chain.from_iterable(read_tape(Path(day.tape.path)) for day in days))
    text = json.dumps(exchange_config(_as_one(files.tape, days)), indent=2)
    files.exchange_config.write_text(text + "\n")
    return days


def _days_of(files: DemoFiles, sources: Sequence[Path], minutes: int) -> Iterable[WeekDay]:
    if sources:
        recorded = Recorded.read(sources)
        for session in recorded.sessions()[:DAYS_MAX]:
            yield _day_of(files, recorded, session, minutes)
        return
    folder = recorded_data() / _MINUTE_BARS
    if not folder.is_dir():
        raise BadInput("WEEK_DATA", "tape", "", "--tape FILE for every recorded day")
    for session, names in RECORDED_WEEK:
        paths = [
            folder / f"{symbol}.{kind}.{days}.csv.gz"
            for symbol, days in names.items()
            for kind in ("quotes", "trades")
        ]
        yield _day_of(files, Recorded.read(paths), session, minutes)


def _day_of(files: DemoFiles, recorded: Recorded, session: date, minutes: int) -> WeekDay:
    """The day cut to its stretch; it ends with the data where they end earlier."""
    path = files.data_dir / f"day-{session:%Y%m%d}.csv"
    begin, end = _stretch(recorded, session, minutes)
    tape = recorded.cut(path, session, begin, end + AFTER_WINDOW)
    last = max(event.time for event in read_tape(path)).replace(second=0, microsecond=0)
    if last < end - timedelta(minutes=1):
        end = last
    return WeekDay(session=session, tape=tape.model_copy(update={"begin": begin, "end": end}))


def _stretch(recorded: Recorded, session: date, minutes: int) -> tuple[datetime, datetime]:
    hours = recorded.hours(session)
    opens, closes = hours[0].open, hours[-1].close
    length = min(timedelta(minutes=minutes), closes - opens)
    # What a half day is about is its early close: that one is played.
    return (opens, opens + length) if closes - opens > FULL_DAY else (closes - length, closes)


def _as_one(path: Path, days: Sequence[WeekDay]) -> SessionTape:
    """All days as the one tape that the exchange plays."""
    instruments: dict[str, Instrument] = {}
    for day in days:
        for item in day.tape.instruments:
            instruments.setdefault(item.symbol, item)
    first, last = days[0].tape, days[-1].tape
    return first.model_copy(
        update={
            "path": str(path),
            "instruments": tuple(instruments.values()),
            "hours": tuple(stretch for day in days for stretch in day.tape.hours),
            "end": last.end,
            "events": sum(day.tape.events for day in days),
        }
    )
