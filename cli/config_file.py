"""A settings file from values: every key of the schema, each with what it means."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from domain.errors import BadInput
from domain.risk.limits import Limits
from marketdata.calendars import calendar_for
from settings import Settings
from settings_file import load_settings

COLUMNS_MAX = 100
HEAD = """\
# Settings of one account. Written by `starter.py init`; yours to edit.
# `starter.py config check` reads it, `config show` tells what is in force and why.
# A key that is not known is refused with its line. Secrets never stand in this file.
"""
# Stand in for a key that is not at hand yet when only the file is checked.
_PLACEHOLDERS = ("PKNOTTHEREYET", "AKNOTTHEREYET")
KEY_VARIABLES = ("HOLDFAST_BROKER_KEY_ID", "HOLDFAST_BROKER_SECRET")


def sections() -> dict[str, type[BaseModel]]:
    """The tables of the file, in order."""
    found = {name: info.annotation for name, info in Settings.model_fields.items()}
    return {
        name: model
        for name, model in found.items()
        if isinstance(model, type) and issubclass(model, BaseModel)
    }


def rendered(values: Mapping[str, Mapping[str, object]]) -> str:
    """The file's text; what is not among the values is written with its default."""
    lines = [HEAD]
    for name, model in sections().items():
        about = _about(model, name)
        lines += [f"# {about}" if about else "", f"[{name}]"]
        given = values.get(name, {})
        for key, info in model.model_fields.items():
            lines += _key_lines(key, info, given.get(key, PydanticUndefined))
        lines.append("")
    return "\n".join(lines)


def _about(model: type[BaseModel], name: str) -> str:
    if name == "limits":
        return "Every limit must be stated: none has a default. Fractions are of 1 (0.02 = 2 %)."
    first = (model.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(first.split()).split(". ")[0].rstrip(".") + "."


def _key_lines(key: str, info: FieldInfo, given: object) -> list[str]:
    value = given
    if value is PydanticUndefined:
        value = info.get_default(call_default_factory=True)
    # Tables of their own cannot stand here; an empty list in their place would forbid them.
    text = None if _holds_tables(info.annotation) else toml_value(value)
    line = f"# {key} = ..." if text is None else f"{key} = {text}"
    if not info.description:
        return [line]
    whole = f"{line:32}  # {info.description}"
    return [whole] if len(whole) <= COLUMNS_MAX else [f"# {info.description}", line]


def _holds_tables(annotation: object) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_holds_tables(each) for each in get_args(annotation))


def toml_value(value: object) -> str | None:
    """The value as TOML; None for what cannot stand in the file or need not."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return f"{value:f}" if isinstance(value, Decimal) else str(value)
        case float():
            return f"{value:g}"
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            if not escaped.isprintable():
                raise BadInput("CONFIG_TYPE", "text", value, "printable characters")
            return f'"{escaped}"'
        case list() | tuple():
            parts = [toml_value(each) for each in value]
            return None if None in parts else f"[{', '.join(p for p in parts if p)}]"
        case _:
            return None


def limit_value(name: str, text: str) -> bool | int | Decimal:
    """The value of a limit from text.

    Raises:
        BadInput: `CONFIG_UNKNOWN_KEY`, `CONFIG_TYPE`. Ranges are checked with the whole file.
    """
    info = Limits.model_fields.get(name)
    if info is None:
        allowed = ", ".join(Limits.model_fields)
        raise BadInput("CONFIG_UNKNOWN_KEY", f"limits.{name}", text, allowed)
    if info.annotation is bool:
        if text not in ("true", "false"):
            raise BadInput("CONFIG_TYPE", f"limits.{name}", text, "true|false")
        return text == "true"
    whole = info.annotation is int
    if not re.fullmatch(r"\d{1,12}" if whole else r"\d{1,12}(\.\d{1,9})?", text, re.ASCII):
        allowed = "a whole number" if whole else "a number such as 0.05"
        raise BadInput("CONFIG_TYPE", f"limits.{name}", text, allowed)
    return int(text) if whole else Decimal(text)


def check_file(path: Path, environment: Mapping[str, str] | None = None) -> tuple[Settings, bool]:
    """Loads the file as every process would; the broker's key may still be missing.

    Returns:
        The settings, and whether the broker's key was there.

    Raises:
        BadInput: what is wrong with it, with file and line.
    """
    environment = dict(os.environ if environment is None else environment)
    settings, has_key = _loaded(path, environment)
    calendar_for(settings.account.calendar, settings.read_at)
    return settings, has_key


def _loaded(path: Path, environment: Mapping[str, str]) -> tuple[Settings, bool]:
    try:
        return load_settings(path, environment), True
    except BadInput as error:
        if any(name in environment for name in KEY_VARIABLES):
            raise
        first = error
    # If only the key is missing, one that fits the mode shows whether the rest is right.
    for key_id in _PLACEHOLDERS:
        try:
            filled = {**environment, **dict.fromkeys(KEY_VARIABLES, key_id)}
            return load_settings(path, filled), False
        except BadInput as error:
            if error.field != "broker.key_id":
                raise
    raise first


def masked(value: object) -> object:
    """For the screen: a secret shows only that it is there."""
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    return value
