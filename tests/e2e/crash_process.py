"""Worker processes under the hand of a crash test: started, awaited, and told with their log."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from temporalio.client import Client
from temporalio.service import RPCError

from deploy.temporal.versions import set_current_version
from observability.build import build_id
from tests.e2e.crash_worker import WorkerSpec, run_worker

KILLED = -9
# The first process of a test run imports everything, on a machine that others use, too.
START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 120.0
LOG_SHOWN = 4_000

_forks = get_context("forkserver")
_forks.set_forkserver_preload(["tests.e2e.crash_worker"])


@dataclass(frozen=True)
class WorkerProcess:
    """One worker that runs, or has died."""

    spec: WorkerSpec
    process: BaseProcess

    @classmethod
    def start(cls, spec: WorkerSpec) -> WorkerProcess:
        process = _forks.Process(target=run_worker, args=(spec,), daemon=True)
        process.start()
        return cls(spec, process)

    async def make_current(self, client: Client) -> None:
        """Its build takes new work. A worker that dies or never polls is told with its log."""
        asking = asyncio.create_task(
            set_current_version(
                client,
                build_id(),
                deployment=self.spec.deployment,
                timeout_s=START_TIMEOUT_S,
            )
        )
        try:
            while not asking.done():
                assert self.process.exitcode is None, self.told()
                await asyncio.wait({asking}, timeout=0.1)
            await asking
        except RPCError as error:
            text = f"no poller in {START_TIMEOUT_S} s: {error}; {self.told()}"
            raise AssertionError(text) from error
        finally:
            asking.cancel()

    async def ended(self) -> int:
        """Waits for the end of the process and answers its exit code."""
        await asyncio.to_thread(self.process.join, END_TIMEOUT_S)
        assert self.process.exitcode is not None, f"it lives on; {self.told()}"
        return self.process.exitcode

    async def killed(self) -> None:
        """Waits until its failpoint has killed it; another end is an error of the worker."""
        assert await self.ended() == KILLED, self.told()

    async def kill(self) -> None:
        """The end of a worker that should live until now."""
        died = self.process.exitcode
        self.process.kill()
        await self.ended()
        assert died is None, f"it died before; {self.told()}"

    def told(self) -> str:
        """Exit code and end of the log, for the message of a failed check."""
        log = Path(self.spec.log_file)
        text = log.read_text(errors="replace")[-LOG_SHOWN:] if log.exists() else "no log"
        failpoint, code = self.spec.failpoint or "no failpoint", self.process.exitcode
        return f"worker with {failpoint}, exit {code}:\n{text}"
