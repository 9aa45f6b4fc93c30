"""What `make run` starts: the tape, an exchange that plays it, the stack around it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from temporalio.client import Schedule

from cli.contest_files import (
    Contest,
    ContestFiles,
    Portfolio,
    add_to_exchange,
    contest_template,
    entrants,
)
from cli.context import operator_name
from cli.deploy import deployed_alone
from deploy.local.control import down, status
from deploy.local.runfile import RunInfo
from deploy.local.stack import (
    exchange_child,
    prepare_ledger,
    prepare_temporal,
    stack_environment,
    worker_child,
)
from deploy.local.supervisor import StackConfig
from deploy.temporal.lanes import OrderLane
from deploy.temporal.prepare import connect_when_ready
from deploy.temporal.versions import set_current_version
from domain.errors import BadInput
from domain.instrument import InstrumentKind
from ledger.repository import Ledger
from marketdata.calendars import ALWAYS_OPEN
from marketdata.events import read_tape
from marketdata.session_tape import SessionTape, prepare_demo, prepare_files
from observability.build import build_id, repository_root
from payload_keys import payload_codec
from settings import Settings
from settings_file import load_settings

START_CASH = Decimal(100_000)
# Market time before the opening: session, strategy and streams are awake when the bell rings.
BEFORE_OPEN = timedelta(minutes=15)
FEE_PER_UNIT = "0.01"
OPTION_FEE_PER_UNIT = "0.65"
CRYPTO_FEE_RATE = "0.0025"
# The simulated exchange's own pair; `settings` uses it where nothing else is given.
SIMULATOR_KEY = {"key": "SIM-PAPER-KEY", "secret": "sim-paper-secret", "mode": "paper"}


@dataclass(frozen=True)
class DemoFiles:
    """Where one run keeps what it makes."""

    data_dir: Path

    @property
    def tape(self) -> Path:
        return self.data_dir / "tape.csv"

    @property
    def exchange_config(self) -> Path:
        return self.data_dir / "exchange.json"

    @property
    def contest(self) -> ContestFiles:
        return ContestFiles(self.data_dir)

    @property
    def report(self) -> Path:
        return self.data_dir / "report.html"

    @classmethod
    def fresh(cls, data_dir: Path) -> DemoFiles:
        """An empty data directory; a stack that an earlier run left up there is stopped first.

        Raises:
            BadInput: DATA_DIR_FOREIGN: the directory holds what no run of ours made.
        """
        data_dir = data_dir.resolve()
        if status(data_dir).info is not None:
            down(data_dir)
        marker = data_dir / ".holdfast-demo"
        if data_dir.exists():
            if not marker.exists() and any(data_dir.iterdir()):
                raise BadInput("DATA_DIR_FOREIGN", "data", data_dir, "an empty or new directory")
            shutil.rmtree(data_dir)
        data_dir.mkdir(parents=True)
        marker.touch()
        return cls(data_dir)


def prepare_tape(files: DemoFiles, sources: Sequence[Path]) -> SessionTape:
    """Writes the session's tape and the configuration of the exchange that plays it.

    The session ends with the tape where that is earlier than the exchange's close: without
    quotes nobody could get out any more.
    """
    tape = prepare_files(sources, files.tape) if sources else prepare_demo(files.tape)
    last = max(event.time for event in read_tape(files.tape))
    last_minute = last.replace(second=0, microsecond=0)
    if last_minute < tape.end - timedelta(minutes=1):
        tape = tape.model_copy(update={"end": last_minute})
    files.exchange_config.write_text(json.dumps(exchange_config(tape), indent=2) + "\n")
    return tape


def prepare_contest(files: DemoFiles, tape: SessionTape, first: Portfolio) -> Contest:
    """Enters every strategy with $100 beside the `first` portfolio, the demonstration's own.

    Raises:
        BadInput: CONTEST_EMPTY if no strategy loads.
    """
    portfolios = files.contest.enter(contest_template(), entrants())
    add_to_exchange(files.exchange_config, portfolios)
    contest = Contest(tape=tape, portfolios=(first, *portfolios), rounds=1)
    files.contest.save(contest)
    return contest


def exchange_config(tape: SessionTape) -> dict[str, Any]:
    """The simulated exchange for this tape: its instruments, its hours, its opening bell."""
    sessions = [
        {
            "day": hours.session.isoformat(),
            "open": hours.open.isoformat(),
            "close": hours.close.isoformat(),
        }
        for hours in tape.hours
    ]
    around_the_clock = tape.calendar == ALWAYS_OPEN
    return {
        "listings": [
            {
                **item.model_dump(mode="json", exclude_none=True),
                "fees": _fees(item.kind),
                "fractional": item.kind is InstrumentKind.CRYPTO,
            }
            for item in tape.instruments
        ],
        "calendar": {"always_open": True} if around_the_clock else {"sessions": sessions},
        "keys": [SIMULATOR_KEY],
        "cash": str(START_CASH),
        "start": (tape.begin - BEFORE_OPEN).isoformat(),
    }


def _fees(kind: InstrumentKind) -> dict[str, str]:
    match kind:
        case InstrumentKind.OPTION:
            return {"per_unit": OPTION_FEE_PER_UNIT}
        case InstrumentKind.CRYPTO:
            return {"rate": CRYPTO_FEE_RATE}
        case _:
            return {"per_unit": FEE_PER_UNIT}


def demo_stack(
    files: DemoFiles,
    settings: Sequence[Settings],
    report: Callable[[str], None],
    schedules: Mapping[str, Schedule] | None = None,
) -> StackConfig:
    """PostgreSQL, Temporal with its Web UI, the exchange, one worker of all roles and accounts."""
    lanes = [OrderLane(s.account.name, s.broker.requests_per_minute) for s in settings]
    paths = [Path(each.source) for each in settings]
    temporal = prepare_temporal(lanes=lanes, schedules=schedules, codec=payload_codec(settings[0]))
    return StackConfig(
        data_dir=files.data_dir,
        exchange=exchange_child(
            ("--config", str(files.exchange_config), "--tape", str(files.tape))
        ),
        workers=(worker_child("all", *paths),),
        prepare=(prepare_ledger, lambda info: asyncio.run(deploy_accounts(info, paths)), temporal),
        report=report,
    )


async def deploy_accounts(info: RunInfo, paths: Sequence[Path]) -> None:
    """Rows of the accounts, and which build and settings are deployed on each (H13).

    The settings are read as the worker of this stack will read them.
    """
    environment = {**stack_environment(info), **os.environ}
    every = [load_settings(path, environment) for path in paths]
    ledger = await Ledger.connect(info.ledger_dsn, pool_size=1)
    try:
        for each in every:
            account = each.account
            await ledger.ensure_installation(account.installation)
            await ledger.ensure_account(account.name, each.broker.venue.value, account.currency)
        await deployed_alone(ledger, every, operator_name(None))
    finally:
        await ledger.aclose()


async def make_build_current(info: RunInfo, settings: Settings) -> Any:
    """A client of the running stack; this build takes the new workflows from here on."""
    address, namespace = info.temporal_address, info.temporal_namespace
    client = await connect_when_ready(address, namespace, codec=payload_codec(settings))
    await set_current_version(client, build_id())
    return client


def default_data_dir() -> Path:
    return repository_root() / ".holdfast" / "demo"
