"""`deploy` before it starts anything: what cannot work is said in one line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.context import Target
from domain.errors import Broken
from ledger.repository import SCHEMA_VERSION, Ledger
from starter import app


@pytest.mark.parametrize("option", ["--check", "--no-restart", "--force"])
def test_code_with_another_schema_is_not_deployed_beside_a_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """`--check` said ok, `deploy` ended in a traceback, and nobody knew what migrates."""

    @asynccontextmanager
    async def old(self: Target) -> AsyncIterator[Ledger]:
        raise Broken("schema revision was 0010, this code needs 0011", code=SCHEMA_VERSION)
        yield

    monkeypatch.setattr(Target, "ledger", old)
    answer = CliRunner().invoke(app, ["--data", str(tmp_path), "deploy", option])
    assert answer.exit_code == 1
    assert answer.output.startswith("SCHEMA_VERSION schema revision was 0010")
    assert f"`starter.py --data {tmp_path} up --resume --override-pins`" in answer.output
