"""Rules inside a plan: do its numbers make sense together (faults.md §3 rows 4-20, 27-31)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal

from domain.errors import BadInput
from domain.ids import check_id
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.money import multiply, total
from domain.order import OrderType, Side, TimeInForce
from domain.plan import (
    CapitalSize,
    ConfidenceSize,
    FixedSize,
    PlanPrice,
    RatchetKind,
    RiskSize,
    RuleKind,
    TradePlan,
)
from domain.plan_context import PlanContext
from domain.risk.structure import underlying_of
from domain.slice_rules import slice_faults
from domain.symbols import check_instrument, check_symbol

TRANCHES_MAX = 10
WALK_STEPS_MAX = 1_000
WALK_TIME_S_MAX = 86_400
QUANTITY_MAX = Decimal(1_000_000_000)
COMBO_LEGS_MAX = 4
TEXT_MAX = 500
_NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")


Rule = Callable[[TradePlan, PlanContext], Iterator[BadInput]]


def rule_faults(plan: TradePlan, context: PlanContext) -> tuple[BadInput, ...]:
    """All broken rules. A rule that finds the legs unreadable ends the list: others need them."""
    faults: list[BadInput] = []
    for rule in _RULES:
        before = len(faults)
        try:
            faults.extend(rule(plan, context))
        except BadInput as error:
            faults.append(error)
        if rule is _legs and len(faults) > before:
            break
    return tuple(faults)


def _names(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    check_id(plan.trade_id, "trade_id")
    check_id(plan.signal_id, "signal_id")
    for field in ("session", "account", "strategy"):
        value = getattr(plan, field)
        if _NAME.fullmatch(value) is None:
            yield BadInput("ID_FORMAT", field, value, "1..48 of A-Z a-z 0-9 _ -")
    if len(plan.note) > TEXT_MAX:
        yield BadInput("FIELD_TOO_LONG", "note", plan.note, f"<= {TEXT_MAX} characters")


def _legs(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    check_symbol(plan.symbol)
    if not plan.legs:
        yield BadInput("SPREAD_INVALID", "legs", "", "1..4 legs")
        return
    for index, leg in enumerate(plan.legs):
        check_instrument(
            leg.instrument,
            context.session_date,
            f"legs.{index}.instrument",
            expires_today_allowed=context.expires_today_allowed,
        )
        if leg.ratio < 1:
            yield BadInput("SPREAD_INVALID", f"legs.{index}.ratio", leg.ratio, ">= 1")
    names = [leg.instrument.symbol for leg in plan.legs]
    names += [underlying_of(leg.instrument) for leg in plan.legs]
    if plan.symbol not in names:
        # Halts, conditions and kills go by the plan's symbol: it must be what is traded.
        yield BadInput("SYMBOL_MISMATCH", "symbol", plan.symbol, " ".join(dict.fromkeys(names)))
    yield from _symbol_lists(plan, context)
    if plan.is_combo:
        if plan.side is not Side.BUY:
            yield BadInput("SIDE_INVALID", "side", plan.side, "[buy]: combos are bought as a unit")
        yield from _combo(plan)
    elif plan.side is not plan.legs[0].side:
        yield BadInput("SIDE_INVALID", "side", plan.side, f"[{plan.legs[0].side}] as the leg")
    elif plan.legs[0].ratio != 1:
        yield BadInput("SPREAD_INVALID", "legs.0.ratio", plan.legs[0].ratio, "1 for one leg")


def _symbol_lists(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    for index, leg in enumerate(plan.legs):
        symbol, field = leg.instrument.symbol, f"legs.{index}.instrument.symbol"
        if context.known_symbols is not None and symbol not in context.known_symbols:
            yield BadInput("SYMBOL_UNKNOWN", field, symbol, "a listed symbol")
        for name in (symbol, underlying_of(leg.instrument)):
            if name in context.restricted_symbols:
                allowed = "a symbol that is not restricted"
                yield BadInput("SYMBOL_RESTRICTED", field, name, allowed)
                break


def _combo(plan: TradePlan) -> Iterator[BadInput]:
    if len(plan.legs) > COMBO_LEGS_MAX:
        yield BadInput("SPREAD_INVALID", "legs", len(plan.legs), f"<= {COMBO_LEGS_MAX} legs")
    if math.gcd(*(leg.ratio for leg in plan.legs)) != 1:
        yield BadInput("SPREAD_INVALID", "legs", "ratios", "without a common factor")
    seen: set[str] = set()
    first = plan.legs[0].instrument
    expiry = next((leg.instrument.expiry for leg in plan.legs if leg.instrument.expiry), None)
    for index, leg in enumerate(plan.legs):
        instrument, field = leg.instrument, f"legs.{index}"
        if instrument.symbol in seen:
            yield BadInput("SPREAD_INVALID", field, instrument.symbol, "each contract once")
        seen.add(instrument.symbol)
        if underlying_of(instrument) != underlying_of(first):
            yield BadInput("SPREAD_INVALID", field, underlying_of(instrument), "one underlying")
        if instrument.kind is InstrumentKind.OPTION and instrument.expiry != expiry:
            yield BadInput("SPREAD_INVALID", field, str(instrument.expiry), f"expiry {expiry}")
    puts = [leg.instrument for leg in plan.legs if leg.instrument.right is OptionRight.PUT]
    calls = [leg.instrument for leg in plan.legs if leg.instrument.right is OptionRight.CALL]
    if len(puts) >= 2 and len(calls) >= 2:
        highest = max(put.strike for put in puts if put.strike is not None)
        lowest = min(call.strike for call in calls if call.strike is not None)
        if highest > lowest:
            yield BadInput(
                "SPREAD_INVALID", "legs", f"put {highest} > call {lowest}", "the put below the call"
            )


def _size(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    rule = plan.size
    if isinstance(rule, FixedSize):
        yield from _fixed_size(plan, rule.quantity, context)
    elif isinstance(rule, RiskSize):
        if rule.risk_amount <= 0:
            yield BadInput("SIZE_INVALID", "size.risk_amount", rule.risk_amount, "> 0")
        if plan.stop is None and not plan.is_combo:
            yield BadInput("SIZE_INVALID", "stop", "", "risk sizing needs a stop")
    elif isinstance(rule, ConfidenceSize):
        if not 0 <= rule.confidence <= 1:
            yield BadInput("SIZE_INVALID", "size.confidence", rule.confidence, "0..1")
        if rule.max_position <= 0:
            yield BadInput("SIZE_INVALID", "size.max_position", rule.max_position, "> 0")
    else:
        yield from _capital_size(plan, rule)


def _capital_size(plan: TradePlan, rule: CapitalSize) -> Iterator[BadInput]:
    shares = {"position_fraction": rule.position_fraction}
    if rule.risk_fraction is not None:
        shares["risk_fraction"] = rule.risk_fraction
        if plan.stop is None and not plan.is_combo:
            yield BadInput("SIZE_INVALID", "stop", "", "risk sizing needs a stop")
    for name, share in shares.items():
        if not 0 < share <= 1:
            yield BadInput("SIZE_INVALID", f"size.{name}", share, "0 < share <= 1")


def _fixed_size(plan: TradePlan, quantity: Decimal, context: PlanContext) -> Iterator[BadInput]:
    field = "size.quantity"
    lot = Decimal(1) if plan.is_combo else plan.instrument.lot_size
    if quantity <= 0:
        yield BadInput("QTY_NOT_POSITIVE", field, quantity, "> 0")
        return
    limits = context.limits
    highest = QUANTITY_MAX if limits is None else min(QUANTITY_MAX, limits.max_order_quantity)
    if limits is not None and context.reference_price is not None:
        value = multiply(quantity, abs(context.reference_price), plan.multiplier)
        if value > limits.max_order_notional:
            yield BadInput("NOTIONAL_ABOVE_MAX", field, value, f"<= {limits.max_order_notional}")
    if quantity > highest:
        yield BadInput("QTY_ABOVE_MAX", field, quantity, f"<= {highest}")
    if quantity % lot != 0:
        yield BadInput("QTY_NOT_WHOLE", field, quantity, f"multiples of {lot}")


def _entry_price(plan: TradePlan, context: PlanContext) -> Decimal | None:
    """The price stops and targets are compared with: the worst price, else the reference."""
    if plan.walk.worst_price is not None:
        return plan.walk.worst_price
    return context.reference_price


def _plan_price(price: PlanPrice, field: str) -> None:
    if (price.absolute is None) == (price.offset is None):
        raise BadInput("PLAN_PRICE_INVALID", field, "", "exactly one of absolute, offset")


def _distance(price: PlanPrice, side: Side, entry: Decimal | None) -> Decimal | None:
    """How far the price lies in the trade's favour; None where that cannot be known."""
    if price.offset is not None:
        return price.offset * side.sign
    if entry is None or price.absolute is None:
        return None
    return (price.absolute - entry) * side.sign


def _prices(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    """Sign and tick of every absolute price (rows 3 and 4)."""
    prices: list[tuple[str, Decimal | None]] = [("walk.worst_price", plan.walk.worst_price)]
    if plan.stop is not None:
        prices.append(("stop.price.absolute", plan.stop.price.absolute))
    for index, target in enumerate(plan.targets):
        if target.price is not None:
            prices.append((f"targets.{index}.price.absolute", target.price.absolute))
    for field, price in prices:
        if price is None:
            continue
        if price <= 0 and not plan.is_combo:
            yield BadInput("PRICE_NOT_POSITIVE", field, price, "> 0; only combos have credits")
            continue
        instruments = [leg.instrument for leg in plan.legs]
        if not any(_on_tick(instrument, price, plan.is_combo) for instrument in instruments):
            yield BadInput(
                "PRICE_OFF_TICK", field, price, f"multiples of {plan.instrument.tick_at(price)}"
            )


def _on_tick(instrument: Instrument, price: Decimal, is_combo: bool) -> bool:
    tick = instrument.tick_size if is_combo else instrument.tick_at(price)
    return price % tick == 0


def _stop(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    if plan.stop is None:
        return
    _plan_price(plan.stop.price, "stop.price")
    distance = _distance(plan.stop.price, plan.side, _entry_price(plan, context))
    if distance is not None and distance >= 0:
        below = "below" if plan.side is Side.BUY else "above"
        yield BadInput("STOP_WRONG_SIDE", "stop.price", distance, f"{below} the entry")
    offset = plan.stop.limit_offset
    if offset is None:
        return
    field = "stop.limit_offset"
    instrument = plan.instrument
    if plan.is_combo or instrument.kind is InstrumentKind.OPTION or plan.slices is not None:
        # No stop of theirs rests; between slices nobody watches whether one has triggered.
        yield BadInput("STOP_LIMIT_UNSUPPORTED", field, offset, "none for combo, option, twap")
    if offset < 0 or offset % instrument.tick_size != 0:
        allowed = f">= 0, multiples of {instrument.tick_size}"
        yield BadInput("STOP_LIMIT_INVALID", field, offset, allowed)


def _targets(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    if not plan.targets:
        return
    if len(plan.targets) > TRANCHES_MAX:
        yield BadInput("TRANCHES_COUNT", "targets", len(plan.targets), f"1..{TRANCHES_MAX}")
        return
    for index, target in enumerate(plan.targets):
        if target.price is not None:
            _plan_price(target.price, f"targets.{index}.price")
        if not 0 < target.fraction <= 1:
            yield BadInput(
                "TRANCHES_SUM", f"targets.{index}.fraction", target.fraction, "0 < x <= 1"
            )
    whole = total(target.fraction for target in plan.targets)
    if whole != 1:
        yield BadInput("TRANCHES_SUM", "targets", whole, "fractions that add up to 1")
    yield from _target_order(plan, _entry_price(plan, context))


def _target_order(plan: TradePlan, entry: Decimal | None) -> Iterator[BadInput]:
    """Targets lie on the profit side and each further out than the one before."""
    last: dict[str, Decimal] = {}
    for index, target in enumerate(plan.targets):
        if target.price is None:
            continue
        field = f"targets.{index}.price"
        distance = _distance(target.price, plan.side, entry)
        if distance is not None and distance <= 0:
            yield BadInput("TARGETS_INVALID", field, distance, "on the profit side of the entry")
        way = "offset" if target.price.offset is not None else "absolute"
        value = target.price.offset if way == "offset" else target.price.absolute
        assert value is not None
        ahead = value * plan.side.sign
        stop = plan.stop.price.absolute if plan.stop is not None else None
        if way == "absolute" and stop is not None and ahead <= stop * plan.side.sign:
            yield BadInput("TARGETS_INVALID", field, value, f"beyond the stop at {stop}")
        if way in last and ahead <= last[way]:
            yield BadInput("TARGETS_INVALID", field, value, "further out than the one before")
        last[way] = ahead


def _ratchet(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    if plan.ratchet and plan.stop is None:
        yield BadInput("STOP_MISSING", "stop", "", "a stop that the ratchet can move")
    seen: set[int] = set()
    entry = _entry_price(plan, context)
    for index, step in enumerate(plan.ratchet):
        field = f"ratchet.{index}"
        if not 1 <= step.after_target <= max(1, len(plan.targets)) or step.after_target in seen:
            yield BadInput(
                "RATCHET_INVALID", f"{field}.after_target", step.after_target, "each target once"
            )
        seen.add(step.after_target)
        if step.kind is RatchetKind.TRAIL:
            too_far = entry is not None and not plan.is_combo and step.distance >= entry
            if step.distance <= 0 or too_far:
                yield BadInput("TRAIL_INVALID", f"{field}.distance", step.distance, "0 < x < price")
        elif step.distance < 0:
            yield BadInput("TRAIL_INVALID", f"{field}.distance", step.distance, ">= 0")


def _walk(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    walk = plan.walk
    if walk.interval_s <= 0 or not _keeps(walk.interval_s, context):
        yield BadInput("WALK_INVALID", "walk.interval_s", walk.interval_s, ">= 0.3 s of wall time")
    if not 0 <= walk.steps_max <= WALK_STEPS_MAX:
        yield BadInput("WALK_INVALID", "walk.steps_max", walk.steps_max, f"0..{WALK_STEPS_MAX}")
    if not 0 < walk.max_time_s <= WALK_TIME_S_MAX or not _keeps(walk.max_time_s, context):
        yield BadInput("WALK_INVALID", "walk.max_time_s", walk.max_time_s, f"<= {WALK_TIME_S_MAX}")
    if walk.partial_wait_s < 0:
        yield BadInput("WALK_INVALID", "walk.partial_wait_s", walk.partial_wait_s, ">= 0")
    if walk.worst_price is not None and walk.worst_offset is not None:
        yield BadInput("WALK_INVALID", "walk.worst_offset", walk.worst_offset, "one worst price")
    tick = min(leg.instrument.tick_at(walk.step) for leg in plan.legs)
    if walk.step % tick != 0:
        yield BadInput("WALK_INVALID", "walk.step", walk.step, f"multiples of {tick}")
    if walk.time_in_force is TimeInForce.GTC:
        yield BadInput("WALK_INVALID", "walk.time_in_force", walk.time_in_force, "[day,ioc]")


def _keeps(market_s: Decimal, context: PlanContext) -> bool:
    if context.clock_map is None:
        return True
    return context.clock_map.allows_strategy_duration(float(market_s))


def _ending(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    if plan.time_stop_s is not None and (
        plan.time_stop_s <= 0 or not _keeps(plan.time_stop_s, context)
    ):
        yield BadInput("TIME_STOP_INVALID", "time_stop_s", plan.time_stop_s, ">= 0.3 s wall time")
    if plan.signal_max_age_s <= 0:
        yield BadInput("TIME_STOP_INVALID", "signal_max_age_s", plan.signal_max_age_s, "> 0")
    if plan.max_loss is not None and plan.max_loss <= 0:
        yield BadInput("SIZE_INVALID", "max_loss", plan.max_loss, "> 0")
    if plan.exit_order_type not in {OrderType.LIMIT, OrderType.MARKET}:
        yield BadInput("ENUM_INVALID", "exit_order_type", plan.exit_order_type, "[limit,market]")
    seen: set[str] = set()
    for index, rule in enumerate(plan.rules):
        field = f"rules.{index}"
        if _NAME.fullmatch(rule.rule_id) is None or rule.rule_id in seen:
            yield BadInput("RULE_INVALID", f"{field}.rule_id", rule.rule_id, "unique [A-Za-z0-9_-]")
        seen.add(rule.rule_id)
        if rule.kind is RuleKind.STOP_REACHED:
            yield BadInput("RULE_INVALID", f"{field}.kind", rule.kind, "a rule on marks")
        if rule.threshold <= 0:
            yield BadInput("RULE_INVALID", f"{field}.threshold", rule.threshold, "> 0")


def _session(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    clock = context.market_clock
    if clock is not None and not clock.is_open:
        opens = clock.next_open.isoformat() if clock.next_open is not None else "unknown"
        yield BadInput(
            "SESSION_CLOSED", "symbol", plan.symbol, f"an open session; the next opens at {opens}"
        )


_RULES: tuple[Rule, ...] = (
    _names,
    _legs,
    _size,
    _prices,
    _stop,
    _targets,
    _ratchet,
    _walk,
    slice_faults,
    _ending,
    _session,
)
