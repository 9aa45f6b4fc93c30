"""The operator's hand: `python starter.py --help`.

Composition root: one module of `cli/` per group of commands, imported by nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from cli import control, stack, trade
from cli.context import Target, default_config, default_data_dir

app = typer.Typer(
    name="starter",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Holdfast: every trade is durable. Starts the stack, submits trades, stops everything.",
)


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="settings file")] = None,
    data: Annotated[Path | None, typer.Option(help="data directory of the stack")] = None,
) -> None:
    """Which stack the command is about."""
    chosen = (default_data_dir() if data is None else data).resolve()
    context.obj = Target(default_config() if config is None else config, chosen)


for flat in (stack.app, control.app):
    app.registered_commands += flat.registered_commands
app.add_typer(trade.app, name="trade")
app.add_typer(control.reset_app, name="reset")
app.add_typer(control.operator_app, name="operator")

# Groups that other modules bring: `app` is a typer of their own.
for name in ("session",):
    if importlib.util.find_spec(f"cli.{name}") is not None:
        app.add_typer(importlib.import_module(f"cli.{name}").app, name=name)


if __name__ == "__main__":
    app()
