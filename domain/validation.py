"""A plan from outside becomes a `TradePlan` here or is refused (faults.md §3 rows 1-31).

One set of rules for every edge: plan file, signal, config and API. `plan_faults` lists all that
is wrong, `check_plan` raises the first. Nothing durable has happened by then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ValidationError

from domain.edge import check_known_fields, read_json_object
from domain.errors import BadInput, allowed_by
from domain.money import DECIMAL_PLACES_MAX, MAGNITUDE_MAX
from domain.plan import TradePlan
from domain.plan_context import PlanContext
from domain.plan_rules import rule_faults

__all__ = ["PlanContext", "check_plan", "faults_of", "plan_faults", "read_timestamp"]

TIMESTAMP_PAST = timedelta(days=2)
TIMESTAMP_FUTURE = timedelta(minutes=5)
FLAT_BY_FUTURE = timedelta(days=400)
_QUANTITY_TEXT = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_NOT_FINITE_TEXT = frozenset({"nan", "inf", "infinity"})
_TIME_FIELDS = frozenset({"signal_time", "flat_by"})

# pydantic's own words for a wrong value, in ours; upper-case types are ours already.
_CODES = {
    "missing": "MISSING_FIELD",
    "timezone_aware": "TIME_NO_ZONE",
    "union_tag_invalid": "KIND_INVALID",
    "union_tag_not_found": "KIND_INVALID",
    "enum": "ENUM_INVALID",
    "literal_error": "ENUM_INVALID",
    "finite_number": "NOT_FINITE",
}


def check_plan(plan: bytes | Mapping[str, Any] | TradePlan, context: PlanContext) -> TradePlan:
    """The plan, or the first fault.

    Args:
        plan: the bytes of a plan file or body, parsed JSON, or a plan built in code.
        context: what is known around it; see `PlanContext`.

    Raises:
        BadInput: with code, field path, shortened value and allowed range.
    """
    if isinstance(plan, bytes):
        plan = read_json_object(plan, where="plan")
    if not isinstance(plan, TradePlan):
        plan = _parsed(plan)
    faults = (*_time_faults(plan, context), *rule_faults(plan, context))
    if faults:
        raise faults[0]
    return plan


def plan_faults(
    plan: bytes | Mapping[str, Any] | TradePlan, context: PlanContext
) -> tuple[BadInput, ...]:
    """Everything that is wrong with the plan, in field order; empty if it may be used."""
    try:
        if isinstance(plan, bytes):
            plan = read_json_object(plan, where="plan")
        if not isinstance(plan, TradePlan):
            check_known_fields(TradePlan, plan)
            _check_raw(plan)
    except BadInput as error:
        return (error,)
    if not isinstance(plan, TradePlan):
        try:
            plan = TradePlan.model_validate(plan)
        except ValidationError as error:
            return faults_of(error)
    return (*_time_faults(plan, context), *rule_faults(plan, context))


def _parsed(values: Mapping[str, Any]) -> TradePlan:
    check_known_fields(TradePlan, values)
    _check_raw(values)
    try:
        return TradePlan.model_validate(values)
    except ValidationError as error:
        raise faults_of(error)[0] from None


def faults_of(error: ValidationError, where: str = "") -> tuple[BadInput, ...]:
    """A validation error as our own list: one `BadInput` for each, secrets never echoed long."""
    faults: list[BadInput] = []
    for row in error.errors(include_url=False):
        path = ".".join(str(part) for part in row["loc"])
        field = f"{where}.{path}" if where and path else where or path
        value = "" if row["type"] == "missing" else row["input"]
        if isinstance(value, Mapping | BaseModel):
            value = ""
        code = _code(row["type"], path, value)
        faults.append(BadInput(code, field, value, _allowed(code, row)))
    return tuple(faults)


def _code(kind: str, path: str, value: object) -> str:
    leaf = path.rsplit(".", 1)[-1]
    if kind == "NOT_FINITE" or kind == "finite_number":
        return "NOT_FINITE"
    if leaf == "side" or path == "side":
        return "SIDE_INVALID"
    if path.startswith("walk.") and leaf in {"step", "interval_s", "steps_max", "max_time_s"}:
        return "WALK_INVALID"
    if kind == "NUMBER_OUT_OF_RANGE" and isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        if abs(value) <= MAGNITUDE_MAX and isinstance(exponent, int):
            return "PRICE_PRECISION" if -200 < exponent < -DECIMAL_PLACES_MAX else kind
    if leaf == "quantity" and kind in {"NUMBER_TYPE", "PRICE_PRECISION"}:
        return "QTY_TYPE"
    if leaf == "quantity" and kind == "NUMBER_OUT_OF_RANGE":
        return "QTY_ABOVE_MAX"
    if leaf == "multiplier":
        return "OPTION_NONSTANDARD"
    if kind.startswith(("datetime", "date_")):
        return "TIME_FORMAT"
    if kind.isupper():
        return kind
    return _CODES.get(kind, "FIELD_TYPE")


def _allowed(code: str, row: Any) -> str:
    if code == "SIDE_INVALID":
        return "[buy,sell]"
    if code == "QTY_TYPE":
        return "a plain whole or decimal number"
    if code == "WALK_INVALID":
        return "step > 0, interval and times > 0, steps_max 0..1000"
    if code == "TIME_NO_ZONE":
        return "a zone, e.g. 2026-11-21T14:30:00Z"
    return allowed_by(row["type"], row["msg"])


def _check_raw(values: Mapping[str, Any], path: str = "") -> None:
    """What a lenient parser would forgive: numbers as times, exponents in quantities, booleans."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else str(key)
        if key in _TIME_FIELDS and value is not None:
            _check_time_text(value, here)
        elif key == "quantity":
            _check_quantity_text(value, here)
        elif isinstance(value, Mapping):
            _check_raw(value, here)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    _check_raw(item, f"{here}.{index}")


def _check_quantity_text(value: object, field: str) -> None:
    if not isinstance(value, str):
        return
    if value.lower().lstrip("+-") in _NOT_FINITE_TEXT:
        raise BadInput("NOT_FINITE", field, value, "a finite number")
    if not value.isascii() or _QUANTITY_TEXT.fullmatch(value) is None:
        raise BadInput("QTY_TYPE", field, value, "a plain whole or decimal number")


def _check_time_text(value: object, field: str) -> None:
    if isinstance(value, bool | int | Decimal | float):
        # Epoch numbers carry no unit: a thousandfold error would still be a valid time.
        raise BadInput("TIME_UNIT_SUSPECT", field, value, "ISO 8601 text with zone")
    if isinstance(value, str) and value.strip().lstrip("-").replace(".", "").isdigit():
        raise BadInput("TIME_UNIT_SUSPECT", field, value, "ISO 8601 text with zone")


def read_timestamp(value: object, field: str, now: datetime, *, unit: str = "iso") -> datetime:
    """A timestamp from outside, inside the window around `now`.

    Args:
        value: ISO text with zone, an aware datetime, or epoch numbers where `unit` is s or ms.
        field: path for the error.
        now: the aware instant to compare with.
        unit: `iso`, `s` or `ms`: what the interface promises.

    Raises:
        BadInput: `TIME_NO_ZONE`, `TIME_FORMAT`, `TIME_UNIT_SUSPECT`, `TIME_OUT_OF_WINDOW`
            (faults.md §3 rows 22-24).
    """
    if unit in {"s", "ms"}:
        moment = _from_epoch(value, field, now, unit)
    else:
        moment = _from_text(value, field)
    return _inside_window(moment, field, now, TIMESTAMP_PAST, TIMESTAMP_FUTURE)


def _from_text(value: object, field: str) -> datetime:
    _check_time_text(value, field)
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise BadInput("TIME_FORMAT", field, value, "ISO 8601 with zone") from None
    if moment.tzinfo is None:
        raise BadInput("TIME_NO_ZONE", field, value, "e.g. 2026-11-21T14:30:00Z")
    return moment


def _from_epoch(value: object, field: str, now: datetime, unit: str) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadInput("TIME_FORMAT", field, value, f"whole epoch {unit}")
    own, other = (1, 1000) if unit == "s" else (1000, 1)
    epoch_now = int(now.timestamp())
    near_own = abs(value // own - epoch_now) <= TIMESTAMP_PAST.days * 86_400
    near_other = abs(value // other - epoch_now) <= TIMESTAMP_PAST.days * 86_400
    if not near_own and near_other:
        raise BadInput("TIME_UNIT_SUSPECT", field, value, f"epoch {unit}")
    if not near_own:
        raise BadInput("TIME_OUT_OF_WINDOW", field, value, "2 days back to 5 minutes ahead")
    whole, part = divmod(value, own)
    return datetime.fromtimestamp(whole, tz=now.tzinfo) + timedelta(milliseconds=part)


def _inside_window(
    moment: datetime, field: str, now: datetime, past: timedelta, future: timedelta
) -> datetime:
    if not now - past <= moment <= now + future:
        raise BadInput(
            "TIME_OUT_OF_WINDOW", field, moment.isoformat(), f"{past} back to {future} ahead"
        )
    return moment


def _time_faults(plan: TradePlan, context: PlanContext) -> tuple[BadInput, ...]:
    faults: list[BadInput] = []
    now = context.market_now
    try:
        _inside_window(plan.signal_time, "signal_time", now, TIMESTAMP_PAST, TIMESTAMP_FUTURE)
    except BadInput as error:
        faults.append(error)
    if plan.flat_by is not None:
        try:
            _inside_window(plan.flat_by, "flat_by", now, timedelta(0), FLAT_BY_FUTURE)
        except BadInput as error:
            faults.append(error)
    return tuple(faults)
