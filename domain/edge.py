"""Strict JSON at every edge: plan files, signals, API bodies (faults.md §3 rows 40-43).

Python's parser keeps the last of two equal keys, accepts NaN and turns `0.1` into a binary
float. Here each of those is an error or an exact `Decimal`, and size and depth are bounded
before anything is built, so that memory stays flat.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NoReturn

from pydantic import BaseModel

from domain.errors import BadInput, nearest_name

BODY_BYTES_MAX = 256 * 1024
DEPTH_MAX = 32
_NUMBER_TEXT_MAX = 48
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def read_json(body: bytes, *, bytes_max: int = BODY_BYTES_MAX, where: str = "body") -> Any:
    """Returns the parsed value; every number with a fraction or exponent as exact Decimal.

    Raises:
        BadInput: `BODY_TOO_LARGE`, `TOO_DEEP`, `DUPLICATE_KEY`, `NOT_FINITE`,
            `NUMBER_OUT_OF_RANGE`, or `BAD_JSON` at byte n.
    """
    if len(body) > bytes_max:
        raise BadInput("BODY_TOO_LARGE", where, f"{len(body)} bytes", f"<= {bytes_max} bytes")
    text = _decode(body, where)
    _check_depth(text, where)
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_float=_exact_number,
            parse_int=_whole_number,
            parse_constant=_not_finite,
        )
    except json.JSONDecodeError as error:
        at_byte = len(text[: error.pos].encode())
        raise BadInput(
            "BAD_JSON", where, f"byte {at_byte}: {error.msg}", "JSON (RFC 8259)"
        ) from None


def read_json_object(
    body: bytes, *, bytes_max: int = BODY_BYTES_MAX, where: str = "body"
) -> dict[str, Any]:
    """The same, for edges that take one object: `null`, lists and bare values are refused."""
    value = read_json(body, bytes_max=bytes_max, where=where)
    if not isinstance(value, dict):
        raise BadInput("BAD_JSON", where, f"byte 0: {type(value).__name__}", "one object")
    return value


def _decode(body: bytes, where: str) -> str:
    if body.startswith(_BYTE_ORDER_MARKS):
        raise BadInput("BAD_JSON", where, "byte 0: byte order mark", "UTF-8 without mark")
    try:
        text = body.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        raise BadInput("BAD_JSON", where, f"byte {error.start}: not UTF-8", "UTF-8") from None
    zero = text.find("\x00")
    if zero >= 0:
        raise BadInput("BAD_JSON", where, f"byte {len(text[:zero].encode())}: NUL", "UTF-8")
    if not text.strip():
        raise BadInput("BAD_JSON", where, "byte 0: empty", "one object")
    return text


def _check_depth(text: str, where: str) -> None:
    """Counts open brackets outside strings: the parser itself recurses and must not be asked."""
    depth, in_string, escaped = 0, False, False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise BadInput("TOO_DEEP", where, depth, f"<= {DEPTH_MAX} levels")
        elif character in "]}":
            depth -= 1


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadInput("DUPLICATE_KEY", key[:60], value, "each key once")
        found[key] = value
    return found


def _exact_number(text: str) -> Decimal:
    if len(text) > _NUMBER_TEXT_MAX:
        raise BadInput("NUMBER_OUT_OF_RANGE", "number", text, f"<= {_NUMBER_TEXT_MAX} characters")
    return Decimal(text)


def _whole_number(text: str) -> int:
    # Converting thousands of digits is quadratic work that an attacker would buy for nothing.
    if len(text) > _NUMBER_TEXT_MAX:
        raise BadInput("NUMBER_OUT_OF_RANGE", "number", text, f"<= {_NUMBER_TEXT_MAX} digits")
    return int(text)


def _not_finite(text: str) -> NoReturn:
    raise BadInput("NOT_FINITE", "number", text, "a finite number")


def check_known_fields(model: type[BaseModel], value: object, path: str = "") -> None:
    """Refuses a key that the model (or a model inside it) does not have, naming the nearest.

    Payload models ignore unknown fields on purpose, so that an old worker reads a new field; at
    an edge the same tolerance would hide a typo or an attack (row 42).

    Raises:
        BadInput: `UNKNOWN_FIELD`.
    """
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        here = f"{path}.{key}" if path else str(key)
        field = model.model_fields.get(str(key))
        if field is None:
            allowed = nearest_name(str(key), model.model_fields)
            raise BadInput("UNKNOWN_FIELD", here[:120], inner, allowed)
        _check_inside(_models_in(field.annotation), inner, here)


def _check_inside(models: Sequence[type[BaseModel]], value: object, path: str) -> None:
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_inside(models, item, f"{path}.{index}")
    elif isinstance(value, Mapping) and models:
        chosen = _model_for(models, value)
        if chosen is not None:
            check_known_fields(chosen, value, path)


def _model_for(
    models: Sequence[type[BaseModel]], value: Mapping[Any, Any]
) -> type[BaseModel] | None:
    """The union member that the `kind` names; None leaves the judgement to the validator."""
    if len(models) == 1:
        return models[0]
    for model in models:
        kind = model.model_fields.get("kind")
        if kind is not None and value.get("kind") == kind.default:
            return model
    return None


def _models_in(annotation: object) -> tuple[type[BaseModel], ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    origin = typing.get_origin(annotation)
    if origin is None and not isinstance(annotation, types.UnionType):
        return ()
    found: list[type[BaseModel]] = []
    for argument in typing.get_args(annotation):
        found.extend(_models_in(argument))
    return tuple(found)
