"""`history record|replay`: workflow histories as files, and the proof that they replay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import typer
from temporalio.client import WorkflowHistory
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer

from cli.context import EXIT_FAILED, Target, execute, target_of
from cli.output import print_rows
from domain.errors import BadInput
from observability.build import repository_root
from observability.payload_codec import HoldfastCodec, sealed_payloads
from observability.plugin import holdfast_plugin
from payload_keys import payload_codec

app = typer.Typer(no_args_is_help=True, help="Record and replay workflow histories.")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")


def histories_dir() -> Path:
    return repository_root() / "tests" / "replay" / "histories"


@app.command()
def record(
    context: typer.Context,
    workflow_id: str,
    name: Annotated[str, typer.Option(help="file name; default: from the workflow id")] = "",
    folder: Annotated[Path | None, typer.Option(help="default: tests/replay/histories")] = None,
) -> None:
    """Writes the history to <folder>/<Workflow>/<name>.json."""
    target = target_of(context)
    path = execute(lambda: _record(target, workflow_id, name, folder or histories_dir()))
    typer.echo(str(path))


async def _record(target: Target, workflow_id: str, name: str, folder: Path) -> Path:
    chosen = name or re.sub(r"[^A-Za-z0-9_.-]", "-", workflow_id)
    if _NAME.fullmatch(chosen) is None or chosen.startswith("."):
        raise BadInput("NAME_FORMAT", "name", chosen, "A-Z a-z 0-9 _ . - and no dot first")
    client = await target.temporal()
    handle = client.get_workflow_handle(workflow_id)
    try:
        history = await handle.fetch_history()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        raise BadInput(
            "WORKFLOW_UNKNOWN",
            "workflow_id",
            workflow_id,
            "an id that the server knows, such as trade/TRADE_ID",
        ) from None
    started = history.events[0].workflow_execution_started_event_attributes
    path = folder / started.workflow_type.name / f"{chosen}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(history.to_json())
    return path


@app.command()
def replay(
    context: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="a file or folder; default: all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Replays histories with this code; exit 1 if one is not deterministic any more."""
    chosen = path or histories_dir()
    files = sorted(chosen.rglob("*.json")) if chosen.is_dir() else [chosen]

    target = target_of(context)

    async def run() -> list[dict[str, object]]:
        return [{"history": str(each), **await replay_file(each, target)} for each in files]

    rows = execute(run)
    print_rows(rows, ("history", "verdict", "text"), as_json=as_json)
    if not rows or any(row["verdict"] != "ok" for row in rows):
        raise typer.Exit(EXIT_FAILED)


async def replay_file(path: Path, target: Target) -> dict[str, object]:
    """Replays one file with the runtime of client and worker.

    A sealed one is opened with the keys of the target, under the id that it was recorded with.

    Raises:
        BadInput: `HISTORY_FILE`: there is no such file, or it is no history; the keys are not
            there.
    """
    try:
        history = WorkflowHistory.from_json(path.stem, _text_of(path))
    except (OSError, ValueError) as error:
        raise BadInput("HISTORY_FILE", "path", str(path), str(error)[:80]) from None
    started = history.events[0].workflow_execution_started_event_attributes
    if not any(True for event in history.events for _ in sealed_payloads(event)):
        return await replay_history(history)
    settings = target.settings()
    history = replace(history, workflow_id=started.workflow_id or path.stem)
    codec, namespace = payload_codec(settings), settings.temporal.namespace
    return await replay_history(history, codec=codec, namespace=namespace)


async def replay_history(
    history: WorkflowHistory,
    workflows: Sequence[type] | None = None,
    *,
    codec: HoldfastCodec | None = None,
    namespace: str = "ReplayNamespace",
) -> dict[str, object]:
    """Verdict `ok` if this code, or these `workflows`, decide as the history says.

    Sealed payloads are bound to their namespace.
    """
    from worker import WORKFLOWS  # heavy; only replays need the workflow classes

    replayer = Replayer(
        workflows=list(workflows or WORKFLOWS),
        namespace=namespace,
        plugins=[holdfast_plugin(codec=codec)],
        runtime=_quiet(),
    )
    result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
    failure = result.replay_failure
    if failure is None:
        return {"verdict": "ok", "text": f"{len(history.events)} events"}
    return {"verdict": "FAILED", "text": str(failure)[:300]}


@lru_cache(maxsize=1)
def _quiet() -> Runtime:
    """A replay that fails says so in its verdict; the SDK would print it before our JSON."""
    return Runtime(telemetry=TelemetryConfig(logging=None))


def _text_of(path: Path) -> str:
    return path.read_text()
