"""Every recorded shape replays under this code; a broken history does not (style.md rule 30)."""

from __future__ import annotations

import gzip
import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

import worker
from observability.plugin import holdfast_plugin
from tests.architecture_rules import MACHINE_PATHS
from tests.replay.golden_shapes import GOLDEN
from tests.replay.record import RUN_NAMES, TRADE_NAMES
from tests.replay.session_shapes import OTHERS
from tests.replay.trade_shapes import SHAPES

HISTORIES = Path(__file__).parent / "histories"
FILES = sorted([*HISTORIES.glob("*/*.json"), *HISTORIES.glob("*/*.json.gz")])
BYTES_MAX = 3_600_000
# Written together with another shape.
BESIDE = ("started_and_stopped",)
SCHEDULED = "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED"


def _name_of(path: Path) -> str:
    return path.name.partition(".")[0]


def events_of(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    loaded: dict[str, Any] = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    return loaded


async def replay(history: dict[str, Any], sandboxed_for: tuple[str, ...] | None = None) -> None:
    plugin = holdfast_plugin(sandboxed_for=sandboxed_for)
    replayer = Replayer(workflows=list(worker.WORKFLOWS), plugins=[plugin])
    await replayer.replay_workflow(WorkflowHistory.from_json("recorded", json.dumps(history)))


@pytest.mark.covers("H12")
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{_name_of(path)}")
@pytest.mark.parametrize("sandboxed_for", [None, ()], ids=["production", "sandbox"])
async def test_recorded_history_replays(path: Path, sandboxed_for: tuple[str, ...] | None) -> None:
    await replay(events_of(path), sandboxed_for)


def test_there_is_a_history_of_every_shape_and_together_they_stay_small() -> None:
    recorded = {_name_of(path) for path in FILES}
    shapes = {*SHAPES, *OTHERS, *GOLDEN}
    assert not shapes - recorded, "record them: make record-history"
    assert not {_shape_of(name) for name in recorded} - {*shapes, *BESIDE}
    assert sum(path.stat().st_size for path in FILES) < BYTES_MAX


def _shape_of(name: str) -> str:
    for suffix in (*RUN_NAMES[1:], *TRADE_NAMES[1:]):
        name = name.removesuffix(suffix)
    return name


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{_name_of(path)}")
def test_history_names_no_folder_of_one_machine(path: Path) -> None:
    """Payloads are base64 in the file: a path in them is seen only when they are read."""
    found = MACHINE_PATHS.findall("\n".join(texts_of(events_of(path))))
    assert not found


def texts_of(value: Any) -> Iterator[str]:
    """Every text of a history; payloads as they were before the coding."""
    if isinstance(value, dict):
        for name, each in value.items():
            is_payload = name == "data" and isinstance(each, str)
            yield from [b64decode(each).decode(errors="replace")] if is_payload else texts_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts_of(each)
    else:
        yield str(value)


@pytest.mark.covers("H12")
async def test_history_with_another_activity_in_its_place_does_not_replay() -> None:
    """The corpus could prove nothing if this passed."""
    history = events_of(HISTORIES / "Trade" / "stopped_out.json")
    sends = [
        event["activityTaskScheduledEventAttributes"]
        for event in history["events"]
        if event["eventType"] == SCHEDULED
    ]
    send = next(s for s in sends if s["activityType"]["name"] == "place_order")
    send["activityType"]["name"] = "cancel_order"
    with pytest.raises(NondeterminismError):
        await replay(history)


async def test_history_without_its_first_timer_does_not_replay() -> None:
    history = events_of(HISTORIES / "Trade" / "stopped_out.json")
    timer = next(e for e in history["events"] if e["eventType"] == "EVENT_TYPE_TIMER_STARTED")
    timer["eventType"] = "EVENT_TYPE_MARKER_RECORDED"
    timer["markerRecordedEventAttributes"] = {"markerName": "planted"}
    del timer["timerStartedEventAttributes"]
    with pytest.raises(NondeterminismError):
        await replay(history)
