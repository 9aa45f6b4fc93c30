"""What the driver plays: trades with a market that waits for what the exchange has seen.

One interface for all: a trade prepares its rig, starts by its plan, is moved by its market script
and is judged by the oracle.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from domain.messages import TradeResult
from domain.plan import TradePlan
from simulator.config import ExchangeConfig, WireFace
from tests import trade_scenarios as play
from tests.golden.oracle import Rules, broken
from tests.rig import Rig

Handle = Any
WALK_INTERVAL_S = "1.2"


@dataclass(frozen=True)
class ChaosTrade:
    """One trade that can be played at a broker.

    `market` moves the market to the end of the trade; it waits for rows of the journal only.
    `check` answers what is broken of what the trade as it ended had promised; with `is_steered` a
    person ended it, and only the invariants count.
    """

    name: str
    brokers: tuple[WireFace, ...]
    config: Callable[[WireFace], ExchangeConfig]
    prepare: Callable[[Rig], None]
    plan: Callable[[Rig], TradePlan]
    market: Callable[[Rig, Handle], Coroutine[Any, Any, None]]
    check: Callable[[Rig, TradePlan, TradeResult, bool], Awaitable[list[str]]]
    limits: dict[str, Any] = field(default_factory=dict)


def rules_of(rig: Rig, plan: TradePlan) -> Rules:
    """What the oracle must know of a run."""
    return Rules(installation=rig.services.installation, plans=(plan,))


async def _ratchet(rig: Rig, _handle: Handle) -> None:
    await play.ratcheted_out(rig)


async def _check(rig: Rig, plan: TradePlan, result: TradeResult, is_steered: bool) -> list[str]:
    found = broken(rig.journal(), rules_of(rig, plan))
    if not is_steered and result.exit_reason != "ratcheted_stop":
        found.append(f"outcome was {result.outcome} {result.exit_reason} {result.code}")
    return found


def _config(face: WireFace) -> ExchangeConfig:
    return ExchangeConfig(requests_per_minute=None, face=face)


OWN = ChaosTrade(
    name="ratchet",
    brokers=(WireFace.ALPACA,),
    config=_config,
    prepare=play.calm_market,
    plan=lambda rig: play.plan_of(rig, "1", interval_s=WALK_INTERVAL_S),
    market=_ratchet,
    check=_check,
)


def all_trades() -> dict[str, ChaosTrade]:
    """Every trade by its name."""
    return {OWN.name: OWN}
