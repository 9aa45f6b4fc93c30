"""Options of the simulated exchange, checked before anything of an earlier run is moved."""

from __future__ import annotations

import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from cli.context import from_here, positive
from cli.dates import instant_of
from domain.errors import BadInput, file_to
from observability.build import repository_root

CHECK_TIMEOUT_S = 60


def market_options() -> str:
    """Options of `up` for a market that is open now, as they are pasted in this folder."""
    example = from_here(repository_root() / "docs" / "examples" / "exchange.json")
    return f"--exchange-config {shlex.quote(example)} --exchange-start NOW"


def no_market() -> str:
    """What a simulated exchange without a market cannot do, and how to give it one."""
    return (
        "NO_MARKET no market was given: the simulated exchange has no quotes and refuses every "
        f"symbol but ESX (SYMBOL_UNKNOWN). Give `up` {market_options()}, or --tape FILE"
    )


def _start(text: str) -> datetime:
    """An instant, or NOW as `init` and `up` themselves propose it."""
    if text.upper() == "NOW":
        return datetime.now(UTC)
    return instant_of(text, "exchange-start")


def exchange_arguments(config: Path | None, tape: Path | None, speed: str, start: str) -> list[str]:
    """The options as the exchange's program takes them.

    Raises:
        BadInput: NUMBER_INVALID, DATE_INVALID, EXCHANGE_FILE, EXCHANGE_CONFIG.
    """
    if speed:
        positive("speed", speed)
    named: dict[str, str | None] = {
        "--config": _file("exchange-config", config),
        "--tape": _file("tape", tape),
        "--speed": speed,
        "--start": _start(start).isoformat() if start else "",
    }
    arguments = [text for name, value in named.items() if value for text in (name, value)]
    file = config or tape
    if file is not None:
        _check_content(arguments, file)
    return arguments


def _file(field: str, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        path.open("rb").close()
    except OSError as error:
        raise BadInput("EXCHANGE_FILE", field, str(path), file_to("read", error)) from None
    return str(path.resolve())


def _check_content(arguments: list[str], file: Path) -> None:
    """The exchange's own program reads them: what it refuses later would end the start."""
    command = [sys.executable, "-m", "simulator", "--check", *arguments]
    done = subprocess.run(  # noqa: S603 - our own program
        command,
        cwd=repository_root(),
        capture_output=True,
        text=True,
        timeout=CHECK_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        allowed = f"what the exchange reads: {said}"
        field = "exchange-config" if "--config" in arguments else "tape"
        raise BadInput("EXCHANGE_CONFIG", field, str(file), allowed)
