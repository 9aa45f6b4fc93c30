"""One session's market on disk: what the exchange plays and what the session may trade.

Picks one trading session out of the data, cuts to its hours, adds synthetic quotes where the
data has none, and writes the tape file that the simulated exchange reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.errors import BadInput
from domain.instrument import Instrument, InstrumentKind
from domain.money import CTX, ONE
from domain.occ import looks_like_option, option_instrument
from marketdata.calendars import (
    ALWAYS_OPEN,
    Calendar,
    TradingHours,
    calendar_for,
    tape_calendar,
)
from marketdata.demo_tape import (
    DEMO_BEGIN,
    DEMO_END,
    DEMO_SYMBOL,
    demo_events,
    demo_instrument,
)
from marketdata.events import EventKind, TapeEvent, write_tape
from marketdata.recording import recording_terms, tape_files
from marketdata.tapes import SYNTHETIC_LABEL, load_tape, with_synthetic_quotes

RECORDED_LABEL = "quotes recorded"
SIMULATED_LABEL = "quotes recorded from a simulated market"
DEFAULT_EQUITY_CALENDAR = "XNYS"
_COIN_QUOTES = ("USD", "USDT", "USDC", "EUR", "BTC")


class AssetClass(StrEnum):
    EQUITY = "equity"
    OPTION = "option"
    CRYPTO = "crypto"


_ASSETS = {
    InstrumentKind.EQUITY: AssetClass.EQUITY,
    InstrumentKind.OPTION: AssetClass.OPTION,
    InstrumentKind.CRYPTO: AssetClass.CRYPTO,
}


class SessionTape(Frozen):
    """A written tape and what goes with it. All instants are market time, UTC."""

    path: str
    instruments: tuple[Instrument, ...]
    calendar: str
    hours: tuple[TradingHours, ...]
    begin: AwareDatetime
    end: AwareDatetime
    events: int
    synthetic_quotes: bool
    label: str

    def trading_calendar(self) -> Calendar:
        """The calendar that sessions on this tape go by: its own hours, then nothing."""
        return Calendar(self.calendar, self.hours, bounded=False)


def prepare_demo(path: Path) -> SessionTape:
    """Writes the demo day (ESX, 2013-09-03) to `path`."""
    events = write_tape(path, demo_events())
    hours = tape_calendar(DEMO_SYMBOL, DEMO_BEGIN, DEMO_END).session_hours(DEMO_BEGIN.date())
    return SessionTape(
        path=str(path),
        instruments=(demo_instrument(),),
        calendar=DEMO_SYMBOL,
        hours=hours,
        begin=DEMO_BEGIN,
        end=DEMO_END,
        events=events,
        synthetic_quotes=True,
        label=SYNTHETIC_LABEL,
    )


def prepare_files(
    paths: Sequence[Path],
    path: Path,
    *,
    symbol: str | None = None,
    symbols: Sequence[str] | None = None,
    asset: AssetClass | None = None,
    calendar: str | None = None,
    session: date | None = None,
    zone: str | None = None,
) -> SessionTape:
    """Writes one session of the given files to `path`; the first session they cover by default.

    A folder stands for the parts of a recording in it; these know the terms of their
    instruments. For other files the symbols decide where `asset` is not given (OCC form = option,
    name ending in a coin's quote currency of a venue-named file = crypto, else equity). Without
    `calendar`: XNYS, crypto around the clock.

    Raises:
        BadInput: as `load_tape`; SESSION_CLOSED if the session has no trading hours or no data.
    """
    recorded = Recorded.read(
        paths, symbol=symbol, symbols=symbols, asset=asset, calendar=calendar, zone=zone
    )
    day = session or next(iter(recorded.sessions()), None)
    return recorded.cut(path, day)


@dataclass(frozen=True)
class Recorded:
    """Files of market data, read once and checked whole; `cut` writes one session of them."""

    events: tuple[TapeEvent, ...]
    kinds: dict[str, AssetClass]
    known: dict[str, Instrument]
    simulated: bool
    calendar: Calendar

    @classmethod
    def read(
        cls,
        paths: Sequence[Path],
        *,
        symbol: str | None = None,
        symbols: Sequence[str] | None = None,
        asset: AssetClass | None = None,
        calendar: str | None = None,
        zone: str | None = None,
    ) -> Recorded:
        """Reads the files as `prepare_files` says.

        Raises:
            BadInput: as `load_tape`.
        """
        files = [file for each in paths for file in tape_files(each)]
        events = load_tape(files, symbol=symbol, symbols=symbols, zone=zone)
        recorded = [terms for terms in map(recording_terms, files) if terms is not None]
        known = {each.instrument.symbol: each.instrument for each in recorded if each.instrument}
        kinds = {
            name: asset or (_ASSETS[known[name].kind] if name in known else _asset_of(name, files))
            for name in sorted({event.symbol for event in events})
        }
        name = calendar or (ALWAYS_OPEN if _all_crypto(kinds) else DEFAULT_EQUITY_CALENDAR)
        return cls(
            events=events,
            kinds=kinds,
            known=known,
            simulated=any(not terms.quotes_are_real for terms in recorded),
            calendar=calendar_for(name, events[0].time),
        )

    def sessions(self) -> tuple[date, ...]:
        """Every session that the files have events in, oldest first."""
        found: dict[date, None] = {}
        for event in self.events:
            # A year of calendar is known to each side of the first event; files may hold more.
            trading = calendar_for(self.calendar.name, event.time)
            day = trading.session_of(event.time)
            if day is not None:
                found[day] = None
        return tuple(found)

    def hours(self, session: date) -> tuple[TradingHours, ...]:
        """The trading hours of the session, empty on a holiday."""
        noon = datetime.combine(session, time(12), tzinfo=UTC)
        return calendar_for(self.calendar.name, noon).session_hours(session)

    def cut(
        self,
        path: Path,
        session: date | None,
        begin: datetime | None = None,
        until: datetime | None = None,
    ) -> SessionTape:
        """Writes the session to `path`; of it only what lies from `begin` until before `until`.

        Raises:
            BadInput: SESSION_CLOSED if it has no trading hours or no data there.
        """
        calendar = self.calendar.name
        hours = self.hours(session) if session is not None else ()
        inside = [
            event
            for event in self.events
            if any(_belongs(event, stretch) for stretch in hours)
            and (begin is None or event.time >= begin)
            and (until is None or event.time < until)
        ]
        if not hours or not inside:
            allowed = f"a session of {calendar} with data"
            raise BadInput("SESSION_CLOSED", "session", session or "", allowed)
        found = sorted({event.symbol for event in inside})
        instruments = tuple(
            self.known[item].model_copy(update={"calendar": calendar})
            if item in self.known
            else _instrument(item, self.kinds[item], inside, calendar)
            for item in found
        )
        synthetic = _symbols_without_quotes(inside, found)
        ticks = {item.symbol: item.tick_size for item in instruments}
        all_crypto = _all_crypto(self.kinds)
        return SessionTape(
            path=str(path),
            instruments=instruments,
            calendar=calendar,
            hours=hours,
            begin=hours[0].open if not all_crypto else inside[0].time,
            end=hours[-1].close if not all_crypto else inside[-1].time + timedelta(seconds=1),
            events=write_tape(path, _quoted(inside, synthetic, ticks)),
            synthetic_quotes=bool(synthetic) or self.simulated,
            label=_label(synthetic, found, simulated=self.simulated),
        )


def _all_crypto(kinds: dict[str, AssetClass]) -> bool:
    return set(kinds.values()) == {AssetClass.CRYPTO}


def _belongs(event: TapeEvent, hours: TradingHours) -> bool:
    """A bar stands at its end, so the one that ends at the opening is from before it."""
    if event.kind is EventKind.BAR:
        return hours.open < event.time <= hours.close
    return hours.open <= event.time < hours.close


def _symbols_without_quotes(events: Sequence[TapeEvent], symbols: Iterable[str]) -> list[str]:
    quoted = {event.symbol for event in events if event.kind is EventKind.QUOTE}
    return [name for name in symbols if name not in quoted]


def _quoted(
    events: Iterable[TapeEvent], synthetic: Sequence[str], ticks: dict[str, Decimal]
) -> Iterable[TapeEvent]:
    """Adds synthetic quotes for the symbols that have none of their own."""
    for event in events:
        if event.symbol in synthetic:
            yield from with_synthetic_quotes((event,), ticks)
        else:
            yield event


def _label(synthetic: Sequence[str], symbols: Sequence[str], *, simulated: bool) -> str:
    if not synthetic:
        return SIMULATED_LABEL if simulated else RECORDED_LABEL
    if len(synthetic) == len(symbols):
        return SYNTHETIC_LABEL
    return f"{SYNTHETIC_LABEL} for {', '.join(synthetic)}"


def _asset_of(symbol: str, paths: Sequence[Path]) -> AssetClass:
    if looks_like_option(symbol):
        return AssetClass.OPTION
    # Venue-named files: coinbase.BTCUSD.trades.20180404.csv
    named_by_venue = any(
        path.name.split(".")[0].islower() and symbol in path.name for path in paths
    )
    if named_by_venue and symbol.endswith(_COIN_QUOTES):
        return AssetClass.CRYPTO
    return AssetClass.EQUITY


def _instrument(
    symbol: str, asset: AssetClass, events: Sequence[TapeEvent], calendar: str
) -> Instrument:
    match asset:
        case AssetClass.OPTION:
            return option_instrument(symbol, calendar=calendar)
        case AssetClass.CRYPTO:
            own = [event for event in events if event.symbol == symbol]
            lot = _finest(event.size or event.volume or event.bid_size for event in own)
            return Instrument(
                symbol=symbol,
                kind=InstrumentKind.CRYPTO,
                tick_size=_finest(event.price or event.close or event.bid for event in own),
                lot_size=lot,
                min_quantity=lot,
                calendar=calendar,
            )
        case AssetClass.EQUITY:
            return Instrument(
                symbol=symbol, sub_dollar_tick_size=Decimal("0.0001"), calendar=calendar
            )


def _finest(numbers: Iterable[Decimal | None]) -> Decimal:
    """The smallest decimal step that occurs; the venue's own step is not in the data."""
    places = 0
    for number in numbers:
        if number is not None:
            exponent = number.normalize(CTX).as_tuple().exponent
            places = max(places, -int(exponent))
    return ONE.scaleb(-min(places, 8))
