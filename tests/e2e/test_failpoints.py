"""A failpoint kills a real worker at the named place and the workflow still ends (B rows)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from observability.failpoints import ONCE_VARIABLE, VARIABLE
from tests.conftest import TemporalServer

KILLED = -9
DEADLINE_S = 30


@pytest.mark.parametrize(
    ("point", "lines"),
    [
        # Died before the work: done once. Died after it, before anyone was told: done twice.
        ("write_line.enter:2:kill", ["first", "second"]),
        ("write_line.exit:2:kill", ["first", "second", "second"]),
        ("activation:2:kill", ["first", "second"]),
    ],
)
async def test_worker_dies_at_the_point_and_the_next_one_goes_on(
    temporal_server: TemporalServer,
    temporal_client: Client,
    unique: str,
    tmp_path: Path,
    point: str,
    lines: list[str],
) -> None:
    journal, spans = tmp_path / "journal", tmp_path / "spans.json"
    command = [sys.executable, "-m", "tests.e2e.failpoint_program"]
    command += [temporal_server.address, unique, str(journal), str(spans)]
    environment = {**os.environ, VARIABLE: point, ONCE_VARIABLE: str(tmp_path / "fired")}
    handle = await temporal_client.start_workflow(
        "TestTwoLines", id=unique, task_queue=unique, task_timeout=timedelta(seconds=1)
    )

    first = await asyncio.create_subprocess_exec(*command, env=environment)
    assert await asyncio.wait_for(first.wait(), DEADLINE_S) == KILLED

    second = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        result = await asyncio.wait_for(handle.result(), DEADLINE_S)
    finally:
        second.terminate()
        code = await second.wait()
    assert (result, code) == (["first", "second"], 0)
    assert journal.read_text().split() == lines
    names = {json.loads(line)["name"] for line in spans.read_text().splitlines()}
    assert "write_line" in names
