"""The operator's hand: `python starter.py --help`.

Composition root: one module of `cli/` per group of commands, imported by nothing.
"""

# ruff: noqa: E402 - an interrupt during the slow imports must find its handler.
from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

EXIT_INTERRUPTED = 130
if __name__ == "__main__":
    # The imports below take seconds; a Ctrl-C in them is not a fault of ours to be traced.
    signal.signal(
        signal.SIGINT, lambda *_: os._exit(os.write(2, b"interrupted\n") and EXIT_INTERRUPTED)
    )

import typer

from cli import control
from cli.context import Target, default_config, default_data_dir, demo_config, failed, positive
from domain.errors import BadInput

# Who stops everything must not wait for the commands that they did not call.
URGENT = ("kill", "disarm")


def first_word(arguments: list[str]) -> str:
    """The command among the arguments, empty if there is none."""
    words = iter(arguments)
    for word in words:
        if word in ("--config", "--data"):
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


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


def add_commands() -> None:
    """All but the urgent ones: importing them takes most of a second."""
    from cli import (
        adoption,
        alert,
        audit,
        codec_server,
        config,
        contest,
        deploy,
        history,
        init,
        key,
        limits,
        preflight,
        record,
        recovery,
        report,
        session,
        stack,
        statement,
        strategy,
        trade,
        trade_hand,
        verify,
    )

    before = (init.app, preflight.app, stack.app, deploy.app)
    after = (verify.app, recovery.app, adoption.app, codec_server.app)
    app.registered_commands[:0] = [row for flat in before for row in flat.registered_commands]
    app.registered_commands += [row for flat in after for row in flat.registered_commands]
    app.add_typer(config.app, name="config")
    app.add_typer(key.app, name="key")
    trade.app.registered_commands += trade_hand.app.registered_commands
    app.add_typer(trade.app, name="trade")
    app.add_typer(trade_hand.order_app, name="order")
    app.add_typer(history.app, name="history")
    app.add_typer(control.reset_app, name="reset")
    app.add_typer(control.operator_app, name="operator")
    app.add_typer(control.breaker_app, name="breaker")
    app.add_typer(limits.app, name="limits")
    app.add_typer(session.app, name="session")
    app.add_typer(contest.app, name="contest")
    app.add_typer(strategy.app, name="strategy")
    app.add_typer(alert.app, name="alert")
    app.add_typer(record.app, name="record")
    app.add_typer(audit.app, name="audit")
    app.add_typer(report.app, name="report")
    app.add_typer(statement.app, name="statement")


app.registered_commands += control.app.registered_commands
if __name__ != "__main__" or first_word(sys.argv[1:]) not in URGENT:
    add_commands()


@app.command()
def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option(help="leave the stack up until Ctrl-C")] = False,
    tape: Annotated[list[Path] | None, typer.Option(help="play these files or folders")] = None,
    speed: Annotated[str, typer.Option(help="market seconds per wall second")] = "",
    data: Annotated[Path | None, typer.Option(help="fresh data directory of the run")] = None,
    week: Annotated[bool, typer.Option("--week", help="several days, three sessions each")] = False,
    minutes: Annotated[int, typer.Option(help="with --week: market minutes of each day")] = 75,
) -> None:
    """Plays a recorded day as a paper session and compares ledger and exchange at its end."""
    from cli.demo import SPEED, run_demo  # the tape's libraries are heavy

    # Never the account that `init` described in this folder, unless it is named.
    named = None if context.parent is None else context.parent.params.get("config")
    chosen = Path(named or os.environ.get("HOLDFAST_CONFIG") or demo_config())
    try:
        pace = positive("speed", speed) if speed else SPEED
    except BadInput as error:
        raise failed(error) from None
    tapes = tape or []
    if week:
        from cli.week import run_week

        code = run_week(
            config=chosen, data_dir=data, tapes=tapes, speed=pace, minutes=minutes, keep=keep
        )
    else:
        code = run_demo(config=chosen, data_dir=data, tapes=tapes, speed=pace, keep=keep)
    raise typer.Exit(code)


def main() -> None:
    """Runs the command and ends by flush and `os._exit`.

    The interpreter's own end crashed now and then behind a Temporal client whose connect had
    failed (architecture §10). A shell that starts us in the background ignores SIGINT for us; the
    stack must still stop on it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: str | int | None = 1
    try:
        app()
        code = 0
    except SystemExit as end:
        code = end.code
        if code == EXIT_INTERRUPTED:  # the commands' library ends so on Ctrl-C, without a word
            sys.stderr.write("interrupted\n")
    except Exception:
        # A fault of ours: the interpreter's own end, which would print it, is not reached.
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
