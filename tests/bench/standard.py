"""One standard trade from signal to settlement, with the market moving as soon as it may."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from decimal import Decimal

from domain.ids import trade_workflow_id
from domain.messages import TradeResult
from tests.bench.figures import until
from tests.bench.plans import ENTRY_QUOTE, SYMBOL, TARGET_QUOTES, TradeBook, standard_plan
from tests.rig import Rig

DEADLINE_S = 30.0


@dataclass(frozen=True)
class StandardRun:
    """A finished trade: wall seconds from start to result, and its workflow id."""

    seconds: float
    workflow_id: str
    result: TradeResult


async def run_standard_trade(rig: Rig, name: str) -> StandardRun:
    """Walks three steps, takes three targets and ratchets twice.

    Raises:
        AssertionError: the trade did not go the standard way.
    """
    rig.quote(SYMBOL, *ENTRY_QUOTE)
    plan = standard_plan(TradeBook(rig.services.account, rig.clock), name)
    started = time.perf_counter()
    handle = await rig.start_trade(plan)
    stops: tuple[Decimal, ...] = ()
    for number, quote in enumerate(TARGET_QUOTES):
        tranches = len(TARGET_QUOTES) - number
        await _until_moved(rig, tranches, stops)
        stops = _stop_prices(rig)
        rig.quote(SYMBOL, *quote)
    async with asyncio.timeout(DEADLINE_S):
        result = await handle.result()
    seconds = time.perf_counter() - started
    assert (result.outcome, result.exit_reason) == ("closed", "target"), result
    return StandardRun(seconds, trade_workflow_id(plan.trade_id), result)


def _stop_prices(rig: Rig) -> tuple[Decimal, ...]:
    return tuple(o.stop_price for o in rig.exchange.open_orders if o.stop_price is not None)


async def _until_moved(rig: Rig, tranches: int, before: tuple[Decimal, ...]) -> None:
    await until(lambda: _moved(rig, tranches, before), f"{tranches} stops moved from {before}")


def _moved(rig: Rig, tranches: int, before: tuple[Decimal, ...]) -> bool:
    """All stops of the tranches rest at the exchange, above where they were before."""
    stops = _stop_prices(rig)
    return len(stops) == tranches and (not before or min(stops) > max(before))
