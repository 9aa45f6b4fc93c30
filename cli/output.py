"""Printing: a table for people, JSON for programs, times always with their zone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from domain.money import in_figures

WIDTH_MIN = 120


def shown(value: object) -> str:
    """One value for people."""
    match value:
        case None:
            return "-"
        case datetime():
            return value.astimezone().isoformat(timespec="seconds")
        case Decimal():
            return in_figures(value)
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{name} {shown(each)}" for name, each in value.items()) or "-"
        case list() | tuple():
            return ", ".join(shown(each) for each in value) or "-"
        case _:
            return str(value)


def plain(value: object) -> Any:
    """The same for JSON: numbers of money as text, so that no reader makes floats of them."""
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case datetime():
            return value.isoformat()
        case Decimal():
            return f"{value:f}"
        case Mapping():
            return {str(key): plain(each) for key, each in value.items()}
        case str() | None | bool() | int() | float():
            return value
        case Iterable():
            return [plain(each) for each in value]
        case _:
            return str(value)


def print_json(value: object) -> None:
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def print_rows(
    rows: Sequence[Mapping[str, object]], columns: Sequence[str], *, as_json: bool
) -> None:
    """A listing; the JSON form holds every key of the rows, the table the named columns."""
    if as_json:
        print_json(list(rows))
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(shown(row.get(column)) for column in columns))
    console().print(table)


def print_fields(fields: Mapping[str, object], *, as_json: bool) -> None:
    """One thing, field by field."""
    if as_json:
        print_json(fields)
        return
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    for name, value in fields.items():
        table.add_row(name, shown(value))
    console().print(table)


def console() -> Console:
    """Wide enough for ids when the output is piped."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(width=max(made.width, WIDTH_MIN), highlight=False)
