"""How far an account may go: the same three words at every venue."""

from __future__ import annotations

from enum import StrEnum


class BrokerMode(StrEnum):
    """SIMULATOR: our own exchange. PAPER: the venue's play money. LIVE: real money."""

    SIMULATOR = "simulator"
    PAPER = "paper"
    LIVE = "live"
