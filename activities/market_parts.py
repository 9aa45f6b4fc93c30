"""What the worker of the market-data stream is made of; wired by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydantic import AwareDatetime, Field

from brokers.port import MarketStream
from domain.base import Frozen
from domain.instrument import Instrument
from ledger.records import RecordingRecord
from marketdata.port import GrowingBars, TickRecorder, WantedSymbols


@dataclass(frozen=True)
class OpenRecorder:
    """A recorder and the folder that it writes to, as people see it."""

    recorder: TickRecorder
    folder: str


@dataclass(frozen=True)
class MarketParts:
    """The stream and what its ticks become.

    `stays_connected`: also without a wanted symbol, for halts. `follows_positions`: open trades
    want their symbols. `silence_s`: wall seconds without a message, in an open market and with a
    symbol, after which the connection counts as dead.
    """

    stream: Callable[[], MarketStream]
    bars: Callable[[int], GrowingBars]
    book: Callable[[Iterable[tuple[str, str]]], WantedSymbols]
    recorder: Callable[[RecordingRecord, Mapping[str, Instrument]], OpenRecorder]
    stays_connected: bool = True
    follows_positions: bool = False
    silence_s: float = 30.0


class MarketHeard(Frozen):
    """How the market-data stream is; told every two seconds, read by people and `preflight`.

    `problems` counts what could not be read or was refused, by code, since the worker started.
    `message_at` is wall time; None before the first message.
    """

    connected: bool
    is_silent: bool = False
    symbols: tuple[str, ...] = ()
    sources: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    message_at: AwareDatetime | None = None
    connections: int = 0
    late_ticks: int = 0
    problems: dict[str, int] = Field(default_factory=dict)
    told_at: AwareDatetime


def market_cursor(account: str) -> str:
    """Cursor of the ledger that holds the newest `MarketHeard` of the account."""
    return f"market-heard/{account}"
