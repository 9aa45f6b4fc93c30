"""The worker of the bare workflows as a process of its own, to be killed (ADDRESS LOG).

Every step that is done becomes one line of the log, so that the parent sees it without a server.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from temporalio import activity
from temporalio.client import Client

from deploy.local.temporal import NAMESPACE
from observability.plugin import holdfast_plugin
from tests.bench.bare import BareNote, BareRunner, running_bare


class LoggedRunner(BareRunner):
    """Writes the name of the workflow behind each of its steps."""

    def __init__(self, client: Client, log: Path) -> None:
        super().__init__(client)
        self._log = log.open("a", buffering=1)

    @activity.defn(name="bench_bare_step")
    async def step(self, note: BareNote) -> BareNote:
        self._log.write(f"{note.name}\n")
        return note


async def main(address: str, log: Path) -> None:
    client = await Client.connect(address, namespace=NAMESPACE, plugins=[holdfast_plugin()])
    async with running_bare(client, LoggedRunner(client, log)):
        log.with_suffix(".ready").touch()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
