"""`python -m simulator`: the simulated exchange as its own program.

Prints one JSON line `{"port", "control_port", "pid", ...}` when it serves, and writes the same to
`--port-file`. SIGTERM and SIGINT end it cleanly.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import uvloop

from simulator.clock import SimClock
from simulator.config import ExchangeConfig, WireFace
from simulator.journal import Journal, plain
from simulator.server import SimulatorServer
from simulator.tape import TapeEvent, read_tape
from simulator.venue import Venue


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="simulator", description="Simulated exchange")
    parser.add_argument("--config", type=Path, help="JSON of simulator.config.ExchangeConfig")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="wire face; 0 takes a free port")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--tape", type=Path, help="CSV in the format of simulator.tape")
    parser.add_argument(
        "--speed", help="market seconds per wall second; without it time is stepped"
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--face", choices=[face.value for face in WireFace], help="protocol")
    parser.add_argument("--start", help="market time at the start, RFC 3339")
    parser.add_argument("--port-file", type=Path)
    parser.add_argument("--journal", type=Path, help="NDJSON file, one row flushed at a time")
    parser.add_argument("--check", action="store_true", help="only read what is given")
    return parser.parse_args(argv)


def build_server(options: argparse.Namespace) -> SimulatorServer:
    """Wires exchange, clock and journal."""
    config = ExchangeConfig.from_json(options.config) if options.config else ExchangeConfig()
    if options.seed is not None:
        config = dataclasses.replace(config, seed=options.seed)
    if options.face is not None:
        config = dataclasses.replace(config, face=WireFace(options.face))
    if options.start:
        start = datetime.fromisoformat(options.start)
        if start.tzinfo is None:
            raise ValueError(f"--start was {options.start}, allowed: with an offset")
        config = dataclasses.replace(config, start=start.astimezone(UTC))
    tape: Iterable[TapeEvent] = read_tape(options.tape) if options.tape else ()
    venue = Venue.open(config, tape, lambda account: _journal(options.journal, account, config))
    speed = Decimal(options.speed) if options.speed else None
    clock = SimClock(config.start, speed)
    return SimulatorServer(venue, clock, options.port, options.control_port, options.host)


def _journal(path: Path | None, account: str, config: ExchangeConfig) -> Journal:
    """The account's journal; those of further accounts lie beside the first one's."""
    if path is not None and account != config.account:
        path = path.with_name(f"{path.stem}-{account}{path.suffix}")
    return Journal(path, wall=lambda: datetime.now(UTC))


async def serve(options: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with build_server(options) as server:
        line = json.dumps(
            {
                "port": server.port,
                "control_port": server.control_port,
                "url": server.url,
                "stream_url": server.stream_url,
                "control_url": server.control_url,
                "pid": os.getpid(),
                "market_time": plain(server.clock.market0),
                "wall0": plain(server.clock.wall0),
                "speed": plain(server.clock.speed),
            }
        )
        if options.port_file is not None:
            part = options.port_file.with_suffix(".part")
            part.write_text(line + "\n", encoding="utf-8")
            part.replace(options.port_file)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        await server.run_until(stopped)


def check(options: argparse.Namespace) -> str:
    """What is wrong with the options' files and values; empty if nothing is."""
    try:
        build_server(options)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, OSError) as error:
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return ""


if __name__ == "__main__":
    given = arguments()
    if given.check:
        sys.exit(check(given) or 0)
    uvloop.run(serve(given))
