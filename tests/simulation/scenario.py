"""What a seed means: trades, a market, knobs of venue and network, and a list of mishaps.

A scenario is a plain value. Shrinking takes mishaps out of it and changes nothing else, so that
what is left is the cause of a failure.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from domain.instrument import Instrument
from domain.order import Side
from domain.plan import (
    FixedSize,
    PlanLeg,
    PlanPrice,
    RatchetKind,
    RatchetStep,
    StopPlan,
    TargetPlan,
    TradePlan,
    WalkPlan,
    WalkStart,
)
from tests.simulation.clock import START

D = Decimal
ACCOUNT = "sim"
SYMBOLS = ("ESX", "NQX")
HEAL_S = 45.0
FLAT_BY_S = 60.0
DEADLINE_S = 180.0
BROKERS = ("alpaca", "tradier")


@dataclass(frozen=True)
class Move:
    """The market shows this quote from this moment on."""

    at_s: float
    symbol: str
    bid: Decimal
    ask: Decimal
    size: Decimal


@dataclass(frozen=True)
class Mishap:
    """One thing that goes wrong: `kind` names it, `values` are its numbers and words."""

    at_s: float
    kind: str
    values: tuple[tuple[str, Any], ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        return dict(self.values).get(name, default)

    @property
    def text(self) -> str:
        words = " ".join(f"{name}={value}" for name, value in self.values)
        return f"{self.at_s:7.3f} s  {self.kind} {words}".rstrip()


@dataclass(frozen=True)
class Scenario:
    """One whole simulated day of a few trades."""

    seed: int
    broker: str = "alpaca"
    plans: tuple[TradePlan, ...] = ()
    starts_s: tuple[float, ...] = ()
    market: tuple[Move, ...] = ()
    mishaps: tuple[Mishap, ...] = ()
    matching: dict[str, Any] = field(default_factory=dict)
    json_payloads: bool = False
    through_httpx: bool = False
    slow_network: bool = False
    requests_per_minute: int | None = None

    def without(self, *left_out: Mishap) -> Scenario:
        return replace(self, mishaps=tuple(m for m in self.mishaps if m not in left_out))


def calm(seed: int, broker: str = "alpaca") -> Scenario:
    """Nothing goes wrong: the market moves, the trade lives and ends."""
    dice = random.Random(f"calm:{seed}")
    return Scenario(
        seed=seed,
        broker=broker,
        plans=(plan_of(dice, "t1", SYMBOLS[0]),),
        starts_s=(0.5,),
        market=market_of(dice, SYMBOLS[:1]),
    )


def plan_of(dice: random.Random, name: str, symbol: str) -> TradePlan:
    """A plan of the common kinds: side, tranches, ratchet and ends are drawn."""
    side = dice.choice((Side.BUY, Side.BUY, Side.SELL))
    sign = 1 if side is Side.BUY else -1
    tranches = dice.choice((1, 2, 3))
    quantity = dice.choice((1, 3, 10, 100))
    tranches = min(tranches, quantity)
    reach = dice.choice((D("0.40"), D("0.80"), D("1.50")))
    values: dict[str, Any] = {
        "trade_id": f"sim-{name}",
        "session": "simulation",
        "account": ACCOUNT,
        "strategy": "seeded",
        "symbol": symbol,
        "legs": (PlanLeg(instrument=Instrument(symbol=symbol, tick_size=D("0.01")), side=side),),
        "side": side,
        "size": FixedSize(quantity=D(quantity)),
        "walk": WalkPlan(
            start=dice.choice(tuple(WalkStart)),
            step=D("0.05"),
            interval_s=dice.choice((D("0.5"), D(1), D(2))),
            steps_max=3,
            worst_offset=D("0.25"),
            max_time_s=D(12),
            partial_wait_s=dice.choice((D(0), D(2))),
        ),
        "stop": StopPlan(price=PlanPrice(offset=-sign * dice.choice((D("0.50"), D(1))))),
        "targets": tuple(
            TargetPlan(price=PlanPrice(offset=sign * reach * (n + 1)), fraction=_part(n, tranches))
            for n in range(tranches)
        ),
        "time_stop_s": dice.choice((None, D(15), D(30))),
        "flat_by": START + timedelta(seconds=FLAT_BY_S),
        "signal_id": f"signal-{name}",
        "signal_time": START,
        "signal_max_age_s": D(60),
    }
    if tranches > 1 and dice.random() < 0.7:
        values["ratchet"] = tuple(
            RatchetStep(
                after_target=n,
                kind=RatchetKind.BREAK_EVEN if n == 1 else RatchetKind.PREVIOUS_TARGET,
            )
            for n in range(1, tranches)
        )
    return TradePlan.model_validate(values)


def _part(number: int, of: int) -> Decimal:
    """Fractions that add up to one; the last takes the rest."""
    each = (D(1) / of).quantize(D("0.01"))
    return each if number < of - 1 else 1 - each * (of - 1)


def market_of(dice: random.Random, symbols: tuple[str, ...]) -> tuple[Move, ...]:
    """A walk of the middle in steps of a second or two, until everything must be over."""
    moves: list[Move] = []
    for symbol in symbols:
        at_s, mid = 0.0, D(100)
        drift = dice.choice((-1, 0, 0, 1))
        while at_s < DEADLINE_S:
            half = dice.choice((D("0.01"), D("0.02"), D("0.05")))
            size = D(dice.choice((2, 50, 1000)))
            moves.append(Move(at_s, symbol, mid - half, mid + half, size))
            lively = at_s < FLAT_BY_S
            at_s += dice.choice((0.4, 1.0, 2.0)) if lively else 5.0
            mid += D(dice.randint(-20, 20) + 5 * drift) / 100 if lively else D(0)
    return tuple(sorted(moves, key=lambda move: move.at_s))
