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

from domain.control import KillMode
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
from simulator.config import ReplaceQuantity
from tests.simulation.clock import START
from tests.simulation.options import FRIDAY, TODAY, as_options, contracts_of, quote_of

D = Decimal
ACCOUNT = "sim"
SYMBOLS = ("ESX", "NQX")
HEAL_S = 45.0
FLAT_BY_S = 60.0
DEADLINE_S = 180.0
BROKERS = ("alpaca", "tradier")


Values = tuple[tuple[str, Any], ...]


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
    linger_s: float = 0.5
    reconciles: bool = False
    lane_per_minute: int | None = None

    @property
    def has_kill(self) -> bool:
        return any(m.kind == "operator" and m.get("verb") == "kill" for m in self.mishaps)

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


KNOB_CHANCE = 0.25
LANE_CHANCE = 0.2
LANES = {"alpaca": (200, 100), "tradier": (120, 60)}
"""Budgets in requests a minute, of which the order lane gets its share."""
EVENTS_CHANCE = 0.2
MISHAPS_MAX = 6
REPLY_FAULTS = (
    "drop_reply",
    "drop_reply",
    "late_reply",
    "slow",
    "error_before",
    "error_after",
    "truncated",
    "html",
    "rate_limited",
    "lookup_lag",
)
ORDER_FAULTS = (
    "reject",
    "late_reject",
    "partial_fill",
    "late_fill",
    "cancel_lost",
    "replace_doubles",
    "oco_both",
    "halt",
)
STREAM_FAULTS = (
    "stream_drop",
    "stream_duplicate",
    "stream_reorder",
    "stream_silence",
    "stream_disconnect",
)
FAILPOINTS = (
    "before_body",
    "before_intent_row",
    "after_intent_row",
    "after_response",
    "after_ledger",
    "before_complete",
    "workflow_task",
)
OPERATOR = ("flatten", "kill", "close_part", "pause", "new_build")
NOT_AT: dict[str, frozenset[str]] = {
    # It changes an order in its place: there is no second one, and a total stays a total. No rows
    # tell of a split there, so that only a person can part what is whose (R5: parked); executions
    # have no ids, so that none is corrected by name.
    # An option that is gone is believed to have expired on the day after only.
    "tradier": frozenset(
        {
            *("replace_doubles", ReplaceQuantity.FRESH, ReplaceQuantity.REST),
            *("split", "correct", "expire"),
        }
    ),
    "alpaca": frozenset(),
}
"""What a venue cannot do by the nature of its protocol."""
EVENTS = ("bust", "correct", "liquidation", "split", "foreign")
"""What happens to the account without an order of ours."""
OPTION_EVENTS = ("assign", "exercise", "expire", "leg_alone")
"""The same for options and combos."""
OPTIONS_CHANCE = 0.2
REFUSED_AGAIN_CHANCE = 0.1
SPLITS = ("rescale", "cancel", "keep")
METHODS = ("POST", "PATCH", "PUT", "DELETE", "GET", "*")


def stormy(seed: int, broker: str = "alpaca") -> Scenario:
    """Knobs of the venue and a few mishaps, all drawn from the seed (faults.md §2.1)."""
    dice = random.Random(f"stormy:{broker}:{seed}")
    symbols = SYMBOLS if dice.random() < 0.3 else SYMBOLS[:1]
    names = ("t1", "t2") if dice.random() < 0.5 else ("t1",)
    mishaps = [_mishap(dice, broker) for _ in range(dice.randint(1, MISHAPS_MAX))]
    slow_ends = any(m.kind == "fault" and m.get("fault") == "late_fill" for m in mishaps)
    # Dice of their own: what else a seed means stays as it is.
    own = random.Random(f"events:{broker}:{seed}")
    events = _events(own, broker, symbols) if own.random() < EVENTS_CHANCE else []
    mishaps += events
    again = random.Random(f"again:{broker}:{seed}")
    if again.random() < REFUSED_AGAIN_CHANCE:
        mishaps += _lost_hidden_and_refused(again, broker)
    lane = random.Random(f"lane:{broker}:{seed}")
    scenario = Scenario(
        seed=seed,
        broker=broker,
        plans=tuple(plan_of(dice, name, dice.choice(symbols)) for name in names),
        starts_s=tuple(round(0.5 + 3 * dice.random(), 3) for _ in names),
        market=market_of(dice, symbols),
        mishaps=tuple(sorted(mishaps, key=lambda mishap: mishap.at_s)),
        matching=_matching(dice, broker),
        json_payloads=dice.random() < 0.06,
        through_httpx=dice.random() < 0.06,
        slow_network=dice.random() < KNOB_CHANCE,
        requests_per_minute=200 if dice.random() < 0.2 else None,
        linger_s=15.0 if slow_ends else 0.5,
        reconciles=bool(events) or own.random() < EVENTS_CHANCE,
        lane_per_minute=lane.choice(LANES[broker]) if lane.random() < LANE_CHANCE else None,
    )
    turned = random.Random(f"options:{broker}:{seed}")
    return in_options(turned, scenario) if turned.random() < OPTIONS_CHANCE else scenario


def in_options(dice: random.Random, scenario: Scenario) -> Scenario:
    """The same day with its first trade, or all, in options; what befalls options befalls them."""
    # Where no rows tell what became of it, an option on its last day is judged the day after only.
    expiries = (FRIDAY,) if "expire" in NOT_AT[scenario.broker] else (TODAY, FRIDAY)
    others = scenario.plans[1:]
    if dice.random() < 0.5:
        others = tuple(as_options(dice, plan, expiries) for plan in others)
    plans = (as_options(dice, scenario.plans[0], expiries), *others)
    wanted = dice.random() < 0.6
    # Adjusted contracts are not read, and what happens twice in a night cannot be told apart.
    kept = tuple(m for m in scenario.mishaps if m.kind != "event" or not wanted)
    kept = tuple(m for m in kept if m.get("what") != "split")
    if wanted:
        kept += (_option_event(dice, plans, scenario.broker),)
    return replace(
        scenario,
        plans=plans,
        market=with_contracts(scenario.market, plans),
        mishaps=tuple(sorted(kept, key=lambda mishap: mishap.at_s)),
        reconciles=True,
    )


def _option_event(dice: random.Random, plans: tuple[TradePlan, ...], broker: str) -> Mishap:
    """One that may happen to these plans; it waits until it can."""
    legs = [leg for plan in plans for leg in plan.legs if leg.instrument.expiry]
    can = [
        *["assign"] * any(leg.side is Side.SELL for leg in legs),
        *["exercise"] * any(leg.side is Side.BUY for leg in legs),
        *["expire"] * any(leg.instrument.expiry == TODAY for leg in legs),
        *["leg_alone"] * any(plan.is_combo for plan in plans),
    ]
    what = dice.choice([each for each in can if each not in NOT_AT[broker]])
    values: dict[str, Any] = {"what": what}
    if what == "leg_alone":
        values |= {"leg": dice.choice((0, 1)), "for_s": dice.choice((0.3, 2.0, 8.0))}
        return Mishap(0.5, "event", tuple(values.items()))
    values |= {"one": what != "expire" and dice.random() < 0.3}
    return Mishap(round(1 + 30 * dice.random(), 3), "event", tuple(values.items()))


def with_contracts(market: tuple[Move, ...], plans: tuple[TradePlan, ...]) -> tuple[Move, ...]:
    """The market of the shares, and of the options on them at the same moments."""
    found: list[Move] = []
    for move in market:
        found.append(move)
        for instrument in contracts_of(plans):
            if instrument.underlying == move.symbol:
                bid, ask = quote_of(instrument, move.bid, move.ask)
                found.append(Move(move.at_s, instrument.symbol, bid, ask, move.size))
    return tuple(found)


def _events(dice: random.Random, broker: str, symbols: tuple[str, ...]) -> list[Mishap]:
    """One event; it waits until it can happen."""
    what = dice.choice([each for each in EVENTS if each not in NOT_AT[broker]])
    values: dict[str, Any] = {"what": what}
    if what == "split":
        values |= {"ratio": dice.choice((2, 3)), "orders": dice.choice(SPLITS)}
    elif what == "correct":
        values |= {"by": dice.choice(("0.01", "-0.25"))}
    elif what == "foreign":
        values |= {"symbol": dice.choice(symbols), "side": dice.choice(("buy", "sell"))}
        values |= {"quantity": dice.choice((1, 5, 200)), "for_s": dice.choice((2.0, 12.0))}
    return [Mishap(round(1 + 30 * dice.random(), 3), "event", tuple(values.items()))]


def _matching(dice: random.Random, broker: str) -> dict[str, Any]:
    """Each knob of the venue is turned in one seed of four."""
    knobs: dict[str, Any] = {
        "accept_latency_s": dice.choice((D("0.02"), D("0.3"), D("1.5"))),
        "cancel_latency_s": dice.choice((D("0.02"), D("0.3"), D("1.5"))),
        "replace_latency_s": dice.choice((D("0.02"), D("0.3"), D("1.5"))),
        "participation": dice.choice((D("0.1"), D("0.5"))),
        "min_partial": D(1),
        "replace_quantity": dice.choice(
            [each for each in ReplaceQuantity if each not in NOT_AT[broker]]
        ),
    }
    return {name: value for name, value in knobs.items() if dice.random() < KNOB_CHANCE}


def _lost_hidden_and_refused(dice: random.Random, broker: str) -> list[Mishap]:
    """An answer is lost, the order is hidden for a while, and what is asked next is refused.

    Drawn apart they hardly ever meet; a soak found what they do together. Where nothing is promised
    of lists the order may be in none of them for longer than a settle window.
    """
    nth = dice.randint(1, 4)
    lag: Values = (("lag_s", dice.choice((1.0, 2.0, 4.0))),)
    refused = (("nth", nth + 1), ("count", dice.choice((1, 1, 3))))
    if broker == "alpaca" and dice.random() < 0.5:
        lag = (("lag_s", 12.0), ("lists", True))
    return [
        _rule("drop_reply", (("method", "POST"), ("nth", nth))),
        _rule("lookup_lag", (("method", "GET"), ("count", None)), lag),
        _rule("reject", refused, (("text", "insufficient quantity"),)),
    ]


def _rule(fault: str, match: Values, params: Values = ()) -> Mishap:
    """A rule of the fault board from the first moment on."""
    return Mishap(0.0, "fault", (("fault", fault), ("match", match), ("params", params)))


def _mishap(dice: random.Random, broker: str) -> Mishap:
    at_s = round(dice.choice((4.0, 12.0, HEAL_S)) * dice.random(), 3)
    kind = dice.choice(
        ("reply",) * 4
        + ("order",) * 4
        + ("stream",) * 2
        + ("crash",) * 2
        + ("crash_at",) * 3
        + ("stall",) * 3
        + ("operator",) * 2
        + ("ledger_down", "commit_lost", "temporal_down", "no_network", "quote_odd", "evicted")
    )
    if kind == "reply":
        fault = dice.choice(REPLY_FAULTS)
        match = {"method": dice.choice(METHODS), "nth": dice.randint(1, 3)}
        match |= {"count": dice.randint(1, 3)}
        if fault == "lookup_lag":
            # It hides young orders from look-ups, and most orders are young early.
            return _fault(round(at_s / 10, 3), fault, {"method": "GET"}, dice)
        return _fault(at_s, fault, match, dice)
    if kind == "order":
        fault = dice.choice([each for each in ORDER_FAULTS if each not in NOT_AT[broker]])
        return _fault(at_s, fault, {"nth": dice.randint(1, 2)}, dice)
    if kind == "stream":
        match = {"nth": dice.randint(1, 3), "count": dice.randint(1, 4)}
        return _fault(at_s, dice.choice(STREAM_FAULTS), match, dice)
    values: dict[str, Any] = {}
    if kind == "crash":
        values = {"process": dice.choice(("all", "gateway", "streams", "trade"))}
        values |= {"down_s": dice.choice((0.3, 1.0, 5.0))}
    elif kind == "crash_at":
        values = {"failpoint": dice.choice(FAILPOINTS), "nth": dice.randint(1, 6)}
        values |= {"down_s": dice.choice((0.3, 1.0, 5.0))}
    elif kind == "stall":
        values = {"where": dice.choice(("gate", "request", "reply", "body"))}
        values |= {"for_s": dice.choice((0.2, 2.0, 8.0)), "nth": dice.randint(1, 4)}
    elif kind == "operator":
        values = {"verb": dice.choice(OPERATOR), "mode": dice.choice(tuple(KillMode)).value}
        values |= {"twice": dice.random() < 0.3}
    elif kind == "commit_lost":
        values = {"nth": dice.randint(1, 12)}
    elif kind == "quote_odd":
        values = {"how": dice.choice(("none", "one_sided", "crossed", "frozen"))}
        values |= {"for_s": dice.choice((1.0, 4.0))}
    elif kind != "evicted":
        values = {"for_s": dice.choice((0.5, 2.0, 6.0))}
    return Mishap(at_s, kind, tuple(values.items()))


def _fault(at_s: float, fault: str, match: dict[str, Any], dice: random.Random) -> Mishap:
    """A rule for the exchange's own fault board."""
    every: dict[str, dict[str, Any]] = {
        "late_reply": {"delay_s": dice.choice((0.5, 4.0, 8.0))},
        "slow": {"delay_s": dice.choice((0.3, 1.0, 2.2))},
        "error_before": {"status": dice.choice((500, 502, 503, 504))},
        "error_after": {"status": dice.choice((500, 502, 503, 504))},
        "rate_limited": dice.choice(({}, {"retry_after": dice.choice((0, 1, 2, -1, 10**9))})),
        "lookup_lag": {"lag_s": dice.choice((1.0, 4.0, 20.0))},
        "reject": {"text": "insufficient buying power"},
        "late_reject": {"delay_s": dice.choice((0.05, 0.5, 3.0))},
        "partial_fill": {"quantity": 1},
        "late_fill": {"delay_s": dice.choice((0.05, 1.0, 10.0))},
        "halt": {"duration_s": dice.choice((2.0, 6.0))},
        "stream_silence": {"duration_s": dice.choice((3.0, 20.0))},
    }
    params = every.get(fault, {})
    return Mishap(
        at_s,
        "fault",
        (("fault", fault), ("match", tuple(match.items())), ("params", tuple(params.items()))),
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
            at_s += dice.choice((0.5, 1.0, 2.0, 3.0)) if lively else 10.0
            mid += D(dice.randint(-25, 25) + 5 * drift) / 100 if lively else D(0)
    return tuple(sorted(moves, key=lambda move: move.at_s))
