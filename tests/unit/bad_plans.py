"""The table of bad plans (faults.md §3 rows 1-31): one table for every edge that takes a plan.

A row changes one field of a good plan, given as JSON values with dotted paths, and names the
code that must come back.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from domain.account import MarketClock
from domain.instrument import OptionRight
from domain.order import Side
from domain.plan_context import PlanContext
from tests.unit.risk_world import CLOSE, NOW, combo, limits, option, plan

DELETE = object()
CONTEXT = PlanContext(market_now=NOW, session_date=NOW.date(), reference_price="100.01")
STRICT = CONTEXT.model_copy(update={"limits": limits()})


@dataclass(frozen=True)
class Bad:
    """`row` of faults.md §3, what is changed, and the code; `base` names the good plan."""

    row: int
    changes: dict[str, Any]
    code: str
    base: str = "share"
    context: PlanContext = CONTEXT


def _condor() -> Any:
    return combo(
        (option(OptionRight.PUT, 90), Side.BUY),
        (option(OptionRight.PUT, 95), Side.SELL),
        (option(OptionRight.CALL, 105), Side.SELL),
        (option(OptionRight.CALL, 110), Side.BUY),
    )


def good_plan(base: str) -> dict[str, Any]:
    """A plan that passes, as parsed JSON."""
    built = _condor() if base == "condor" else plan()
    values: dict[str, Any] = json.loads(built.model_dump_json())
    if base == "absolute":
        values["walk"]["worst_price"] = "100.10"
        values["stop"]["price"] = {"absolute": "99.00"}
        values["targets"] = [
            {"price": {"absolute": "101.00"}, "fraction": "0.5"},
            {"price": {"absolute": "102.00"}, "fraction": "0.5"},
        ]
        values["ratchet"] = [{"after_target": 1, "kind": "trail", "distance": "0.50"}]
    return values


def changed(base: str, changes: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(good_plan(base))
    for path, value in changes.items():
        at: Any = values
        *parents, leaf = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in parents:
            at = at[part]
        if value is DELETE:
            del at[leaf]
        else:
            at[leaf] = value
    return values


def tranches(*fractions: str) -> list[dict[str, Any]]:
    return [
        {"price": {"offset": str(index + 1)}, "fraction": fraction}
        for index, fraction in enumerate(fractions)
    ]


def _size(quantity: object) -> dict[str, Any]:
    return {"size": {"kind": "fixed", "quantity": quantity}}


def _twap(changes: dict[str, Any] | None = None, **slices: object) -> dict[str, Any]:
    """30 units in three slices over half the walk's longest time, with these changes."""
    good: dict[str, Any] = {"count": 3, "window_s": "30", "work_wall_s": "2"}
    return {"entry_style": "twap", "slices": good | slices} | _size("30") | (changes or {})


def _symbol(symbol: object) -> dict[str, Any]:
    return {"symbol": symbol}


CLOSED = CONTEXT.model_copy(
    update={"market_clock": MarketClock(market_now=NOW, is_open=False, next_open=CLOSE)}
)
NEARLY_CLOSED = CONTEXT.model_copy(
    update={
        "market_clock": MarketClock(
            market_now=NOW, is_open=True, next_close=NOW + timedelta(seconds=30)
        )
    }
)
LISTED = CONTEXT.model_copy(update={"known_symbols": ("MSFT",)})
RESTRICTED = CONTEXT.model_copy(update={"restricted_symbols": ("AAPL",)})
AFTER_CUTOFF = CONTEXT.model_copy(
    update={"session_date": date(2026, 12, 18), "expires_today_allowed": False}
)
EXPIRED = CONTEXT.model_copy(update={"session_date": date(2026, 12, 19)})
SATURDAY = option(OptionRight.CALL, 110, expiry=date(2026, 12, 19))
_LEG = "legs.0.instrument"

BAD_PLANS = (
    *(Bad(1, {"walk.worst_price": text}, "NOT_FINITE")
      for text in ("NaN", "Infinity", "-Infinity", "nan")),
    Bad(1, _size("nan"), "NOT_FINITE"),
    Bad(2, {"walk.worst_price": "1e400"}, "NUMBER_OUT_OF_RANGE"),
    Bad(2, {"walk.worst_price": "1e-400"}, "NUMBER_OUT_OF_RANGE"),
    Bad(2, {"walk.worst_price": "9" * 5000}, "NUMBER_OUT_OF_RANGE"),
    *(Bad(3, {"walk.worst_price": text}, "PRICE_NOT_POSITIVE") for text in ("0", "-1", "-0.0")),
    Bad(4, {"walk.worst_price": "100.00001"}, "PRICE_OFF_TICK"),
    Bad(4, {"stop.price.absolute": "99.001"}, "PRICE_OFF_TICK", "absolute"),
    Bad(4, {"targets.1.price.absolute": "102.005"}, "PRICE_OFF_TICK", "absolute"),
    Bad(5, {"walk.worst_price": 0.1 + 0.2}, "PRICE_PRECISION"),
    *(Bad(6, _size(text), "QTY_NOT_POSITIVE") for text in ("0", "-5")),
    Bad(7, _size("1.5"), "QTY_NOT_WHOLE"),
    *(Bad(8, _size(number), "QTY_ABOVE_MAX") for number in (2**31, 2**63, 10**30)),
    *(Bad(9, _size(value), "QTY_TYPE") for value in (True, "5 ", "5e0", "０５", (), "five")),
    Bad(10, _size("58000000"), "NOTIONAL_ABOVE_MAX", context=STRICT),
    *(Bad(11, _symbol(text), "SYMBOL_FORMAT") for text in ("", "A" * 200, "aapl", "A APL")),
    *(Bad(12, _symbol(text), "SYMBOL_NON_ASCII")
      for text in ("\u0410APL", "AAPL\u200f", "AA\u200bPL", "\U0001f680", "AAPL\x00")),
    *(Bad(13, _symbol(text), "SYMBOL_FORMAT")
      for text in ("AAPL;DROP TABLE", "../x", "{{7*7}}", "=CMD()")),
    Bad(14, {"symbol": "MSFT"}, "SYMBOL_MISMATCH"),
    Bad(14, {}, "SYMBOL_UNKNOWN", context=LISTED),
    Bad(14, {}, "SYMBOL_RESTRICTED", context=RESTRICTED),
    Bad(14, {}, "SYMBOL_RESTRICTED", "condor", RESTRICTED),
    *(Bad(15, {"side": value}, "SIDE_INVALID") for value in ("b", "BUY ", None, 1, "sell")),
    Bad(15, {"side": "sell"}, "SIDE_INVALID", "condor"),
    Bad(16, {"stop.price": {"absolute": "100.10"}}, "STOP_WRONG_SIDE", "absolute"),
    Bad(16, {"stop.price": {"offset": "0"}}, "STOP_WRONG_SIDE"),
    Bad(16, {"stop.price": {"offset": "-1"}, "side": "sell", "legs.0.side": "sell"},
        "STOP_WRONG_SIDE"),
    Bad(17, {"targets.0.price.absolute": "98.00"}, "TARGETS_INVALID", "absolute"),
    Bad(17, {"targets.1.price.absolute": "101.00"}, "TARGETS_INVALID", "absolute"),
    Bad(17, {"targets.0.price": {"offset": "-0.50"}}, "TARGETS_INVALID"),
    *(Bad(18, {"targets": tranches(*parts)}, "TRANCHES_SUM")
      for parts in (("0.49", "0.5"), ("0.51", "0.5"), ("0", "1"), ("-0.5", "1.5"))),
    Bad(18, {"targets": tranches(*["0.001"] * 1000)}, "TRANCHES_COUNT"),
    *(Bad(19, {"ratchet.0.distance": text}, "TRAIL_INVALID", "absolute")
      for text in ("0", "-1", "100.10")),
    Bad(19, {"ratchet.0.distance": "NaN"}, "NOT_FINITE", "absolute"),
    Bad(19, {"ratchet.0.after_target": 3}, "RATCHET_INVALID", "absolute"),
    Bad(19, {"stop": None}, "STOP_MISSING", "absolute"),
    *(Bad(20, {"walk.step": text}, "WALK_INVALID") for text in ("0", "-0.01", "0.00001")),
    *(Bad(20, {"walk.steps_max": count}, "WALK_INVALID") for count in (10**9, -1)),
    *(Bad(20, {f"walk.{name}": "0"}, "WALK_INVALID") for name in ("interval_s", "max_time_s")),
    Bad(20, {"walk.time_in_force": "gtc"}, "WALK_INVALID"),
    *(Bad(16, {"stop.limit_offset": text}, "STOP_LIMIT_INVALID") for text in ("-0.01", "0.001")),
    Bad(16, _twap({"stop.limit_offset": "0.10"}), "STOP_LIMIT_UNSUPPORTED"),
    Bad(16, {"rules": [{"rule_id": "x", "kind": "stop_reached", "threshold": "99"}]},
        "RULE_INVALID"),
    Bad(20, {"entry_style": "twap"}, "SLICES_INVALID"),
    Bad(20, _twap({"entry_style": "walk"}), "SLICES_INVALID"),
    *(Bad(20, _twap(count=count), "SLICES_INVALID") for count in (0, 1, 101)),
    *(Bad(20, _twap(window_s=text), "SLICES_INVALID") for text in ("0", "-1", "61")),
    *(Bad(20, _twap(work_wall_s=text), "SLICES_INVALID") for text in ("0", "10", "61")),
    Bad(20, _twap(_size("2")), "SLICES_INVALID"),
    Bad(20, _twap({"time_stop_s": "30"}), "SLICES_INVALID"),
    Bad(20, _twap({"flat_by": (NOW + timedelta(seconds=30)).isoformat()}), "SLICES_INVALID"),
    Bad(20, _twap(), "SLICES_INVALID", context=NEARLY_CLOSED),
    Bad(20, _twap({"stop": None}), "STOP_MISSING"),
    Bad(20, _twap(), "SLICES_INVALID", "condor"),
    Bad(22, {"signal_time": "2026-11-20T16:00:00"}, "TIME_NO_ZONE"),
    *(Bad(23, {"signal_time": text}, "TIME_OUT_OF_WINDOW")
      for text in ("9999-01-01T00:00:00Z", "1970-01-01T00:00:00Z",
                   (NOW + timedelta(minutes=10)).isoformat(),
                   (NOW - timedelta(days=3)).isoformat())),
    Bad(23, {"flat_by": (NOW - timedelta(seconds=1)).isoformat()}, "TIME_OUT_OF_WINDOW"),
    *(Bad(24, {"signal_time": value}, "TIME_UNIT_SUSPECT")
      for value in (1_795_190_400, 1_795_190_400_000, "1795190400")),
    Bad(27, {}, "SESSION_CLOSED", context=CLOSED),
    Bad(28, {}, "OPTION_EXPIRED", "condor", EXPIRED),
    Bad(28, {}, "OPTION_TOO_CLOSE", "condor", AFTER_CUTOFF),
    Bad(28, {f"{_LEG}.symbol": SATURDAY.symbol, f"{_LEG}.expiry": "2026-12-19",
             f"{_LEG}.strike": "110", f"{_LEG}.right": "call"}, "OPTION_EXPIRED", "condor"),
    Bad(29, {"legs.0.ratio": 0}, "SPREAD_INVALID", "condor"),
    Bad(29, {f"{_LEG}.underlying": "MSFT"}, "SPREAD_INVALID", "condor"),
    Bad(29, {"legs.0.ratio": 2, "legs.1.ratio": 2, "legs.2.ratio": 2, "legs.3.ratio": 2},
        "SPREAD_INVALID", "condor"),
    Bad(29, {"legs": []}, "SPREAD_INVALID", "condor"),
    *(Bad(30, {f"{_LEG}.multiplier": value}, "OPTION_NONSTANDARD", "condor")
      for value in ("0", None, "10")),
    Bad(30, {f"{_LEG}.symbol": "AAPL1261218P00090000"}, "OPTION_NONSTANDARD", "condor"),
    *(Bad(31, {f"{_LEG}.symbol": text}, "OCC_FORMAT", "condor")
      for text in ("AAPL261218P0009000", "AAPL261218P000900000", "AAPL261218X00090000",
                   "AAPL261218P00091000")),
    Bad(35, {"trade_id": ""}, "ID_FORMAT"),
    Bad(35, {"signal_id": "a" * 49}, "ID_FORMAT"),
    Bad(35, {"strategy": "a\nb"}, "ID_FORMAT"),
    Bad(42, {"quantty": 1}, "UNKNOWN_FIELD"),
    Bad(42, {"walk.is_admin": True}, "UNKNOWN_FIELD"),
    Bad(42, {"size.quantitty": "5"}, "UNKNOWN_FIELD"),
    Bad(42, {f"{_LEG}.tick": "1"}, "UNKNOWN_FIELD"),
)  # fmt: skip
