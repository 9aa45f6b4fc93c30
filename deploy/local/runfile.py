"""`<data>/run.json`: where everything of a running stack listens, and which processes it is.

Written whole and at once (temporary file, then rename), mode 0600: it holds the ledger's
password. Readers are `starter.py`, the workers and the sweep after a killed supervisor.
"""

from __future__ import annotations

import contextlib
import json
import os
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from deploy.local.processes import ProcessMark
from domain.base import Frozen

RUN_FILE = "run.json"


class StackState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


class ProcessEntry(Frozen):
    """One process of the stack: pid with start time, so that a reused pid is a stranger."""

    name: str
    pid: int
    started: str
    log_file: str = ""

    @property
    def mark(self) -> ProcessMark:
        return ProcessMark(self.pid, self.started)


class RunInfo(Frozen):
    """Addresses and processes of one running stack."""

    data_dir: str
    state: StackState = StackState.STARTING
    supervisor: ProcessEntry
    ledger_dsn: str = ""
    temporal_address: str = ""
    temporal_namespace: str = "default"
    web_ui_url: str = ""
    exchange_url: str = ""
    exchange_control_url: str = ""
    processes: tuple[ProcessEntry, ...] = ()

    def process(self, name: str) -> ProcessEntry | None:
        return next((each for each in self.processes if each.name == name), None)


def run_file(data_dir: Path) -> Path:
    return data_dir / RUN_FILE


def write_run_file(info: RunInfo) -> None:
    """Replaces the file in one step; a reader sees the old or the new one, never a half."""
    path = run_file(Path(info.data_dir))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}.new")
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as target:
        target.write(info.model_dump_json(indent=2) + "\n")
    fresh.replace(path)


def read_run_file(data_dir: Path) -> RunInfo | None:
    """None when there is no stack, or the file is not one of ours."""
    with contextlib.suppress(FileNotFoundError, ValidationError, json.JSONDecodeError):
        return RunInfo.model_validate_json(run_file(data_dir).read_text())
    return None


def remove_run_file(data_dir: Path) -> None:
    run_file(data_dir).unlink(missing_ok=True)
