"""Does this code decide as the open workflows did? Asked before a deploy starts (faults.md H12).

A history that does not replay is no proof of a fault: a build may decide otherwise on purpose, and
open trades are handed over by their state. But nobody should learn of it from a stuck trade.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from cli.history import replay_history
from deploy.temporal.handover import open_workflows
from observability.build import DEPLOYMENT_NAME
from observability.payload_codec import HoldfastCodec

COLUMNS = ("workflow", "build", "verdict", "text")
OK = "ok"


async def replay_open(
    client: Client,
    deployment: str = DEPLOYMENT_NAME,
    workflows: Sequence[type] | None = None,
) -> list[dict[str, Any]]:
    """A row for each open workflow: `ok`, or why its history does not replay on this code.

    `workflows` are other classes than those of the worker: for tests.
    """
    rows: list[dict[str, Any]] = []
    for pin in await open_workflows(client, deployment):
        handle = client.get_workflow_handle(pin.workflow_id, run_id=pin.run_id)
        try:
            history = await handle.fetch_history()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            continue
        verdict = await replay_history(
            history, workflows, codec=codec_of(client), namespace=client.namespace
        )
        rows.append({"workflow": pin.workflow_id, "build": pin.build_id, **verdict})
    return rows


def codec_of(client: Client) -> HoldfastCodec | None:
    """The codec with which the client was made."""
    codec = client.data_converter.payload_codec
    return codec if isinstance(codec, HoldfastCodec) else None


def different(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the histories that do not replay."""
    return [row for row in rows if row["verdict"] != OK]
