"""What runs beside the Temporal workers must not end without a word (I9, I18)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

import worker


async def test_work_that_an_unknown_error_ends_begins_anew_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A kill sweeper that a strange answer of PostgreSQL ended left kills to nobody."""
    monkeypatch.setattr(worker, "BESIDE_AGAIN_S", 0.01)
    begun: list[int] = []
    again = asyncio.Event()

    async def work() -> None:
        begun.append(len(begun))
        if len(begun) == 1:
            raise KeyError("a column that was not there")
        again.set()
        await asyncio.Event().wait()

    async with AsyncExitStack() as stack:
        worker.run_beside(work, "kill-sweeper", stack)
        async with asyncio.timeout(2):
            await again.wait()
    assert begun == [0, 1]
    assert "kill-sweeper ended and begins anew" in caplog.text
