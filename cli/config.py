"""`config`: the settings file as a schema, checked, and as it is in force."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.config_file import check_file, masked, sections
from cli.context import Target, failed, target_of
from cli.output import print_json, print_rows
from domain.errors import HoldfastError
from settings import Settings
from settings_file import origins_of

app = typer.Typer(help="The settings file: its schema, a check, and what is in force.")


@app.command()
def schema() -> None:
    """Prints the JSON schema of the settings file, made from the code."""
    print_json(json_schema())


@app.command()
def check(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="settings file")] = None,
) -> None:
    """Reads a settings file as every process would. Exit 2 with file, line and reason."""
    path = target_of(context).config if file is None else file
    try:
        settings, has_key = check_file(path)
    except HoldfastError as error:
        raise failed(error) from None
    missing = "" if has_key else "; the broker's key is not there yet"
    typer.echo(f"{path}: good, {settings.broker.mode} account {settings.account.name}{missing}")


@app.command()
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Every setting in force and where it comes from; secrets are masked."""
    target = target_of(context)
    try:
        rows = effective(target)
    except HoldfastError as error:
        raise failed(error) from None
    print_rows(rows, ("setting", "value", "from"), as_json=as_json)


def effective(target: Target) -> list[dict[str, Any]]:
    """One row for each setting.

    Raises:
        BadInput: the file is refused.
    """
    environment = {**target.stack_environment(), **os.environ}
    settings, has_key = check_file(target.config, environment)
    origins = origins_of(target.config, environment)
    rows: list[dict[str, Any]] = []
    for section, model in sections().items():
        table = getattr(settings, section)
        for key in model.model_fields:
            name = f"{section}.{key}"
            value = masked(getattr(table, key))
            rows.append({"setting": name, "value": value, "from": origins.get(name, "default")})
    for key in ("broker_key_id", "broker_secret"):
        value = masked(getattr(settings, key)) if has_key else "not there"
        source = "" if not has_key else origins.get(key, str(settings.broker.secrets))
        rows.append({"setting": key, "value": value, "from": source})
    return rows


def json_schema() -> dict[str, Any]:
    """The schema of the file: what the code adds itself is left out."""
    found = Settings.model_json_schema()
    tables = sections()
    found["properties"] = {k: v for k, v in found["properties"].items() if k in tables}
    found["required"] = [key for key in found["required"] if key in tables]
    found["title"] = "holdfast.toml"
    return found
