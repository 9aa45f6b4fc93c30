"""Looks that `doctor` and `preflight` share: one finding per line, and what is wrong with it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from brokers.port import Broker
from cli.context import Target, line_of
from deploy.local import control
from deploy.temporal.prepare import RETENTION_MIN
from deploy.temporal.versions import current_version
from domain.account import MarketClock
from domain.base import Frozen
from domain.clock import ClockMap
from domain.errors import HoldfastError
from domain.ids import TRADE_QUEUE, order_queue, stream_queue
from observability.build import build_id

DISK_FREE_MIN_MB = 500
CLOCK_SKEW_MAX_S = 2.0
# A long poll lasts a minute; a worker that was not heard of for longer polls no more.
POLL_AGE_MAX = timedelta(seconds=75)
OK, NOTE, WRONG, UNKNOWN = "ok", "note", "wrong", "unknown"


class Finding(Frozen):
    """One look: `ok`, `note` (works, but know it), `wrong`, or `unknown`.

    `is_needed`: entries need it, so that not knowing counts as wrong.
    """

    check: str
    verdict: str
    text: str = ""
    is_needed: bool = True

    @property
    def is_bad(self) -> bool:
        return self.verdict == WRONG or (self.verdict == UNKNOWN and self.is_needed)


def ok(check: str, text: object = "") -> Finding:
    return Finding(check=check, verdict=OK, text=str(text))


def note(check: str, text: object) -> Finding:
    return Finding(check=check, verdict=NOTE, text=str(text))


def wrong(check: str, text: object) -> Finding:
    return Finding(check=check, verdict=WRONG, text=str(text))


def unknown(check: str, text: object, *, is_needed: bool = True) -> Finding:
    return Finding(check=check, verdict=UNKNOWN, text=str(text), is_needed=is_needed)


async def collected(
    name: str, part: AsyncIterator[Finding], *, timeout_s: float | None = None
) -> list[Finding]:
    """All findings of a part; where it breaks off, the reason is its last line."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(timeout_s):
            async for each in part:
                found.append(each)  # noqa: PERF401 - what came before a break stays
    except TimeoutError:
        found.append(wrong(name, f"no answer within {timeout_s:g} s"))
    except HoldfastError as error:
        found.append(wrong(name, line_of(error)))
    except RPCError as error:
        found.append(wrong(name, f"Temporal: {error.message}"))
    return found


def named(target: Target, findings: Iterable[Finding]) -> list[Finding]:
    """The findings with commands that act on this stack when they are pasted."""
    return [each.model_copy(update={"text": target.named(each.text)}) for each in findings]


def disk(data_dir: Path) -> Finding:
    """Room for PostgreSQL and the logs."""
    existing = next(each for each in (data_dir, *data_dir.parents) if each.exists())
    free_mb = shutil.disk_usage(existing).free // 2**20
    text = f"{free_mb} MB free, needed: {DISK_FREE_MIN_MB}"
    return ok("disk", text) if free_mb >= DISK_FREE_MIN_MB else wrong("disk", text)


def stack(target: Target) -> Finding:
    """Processes of the local stack."""
    found = control.status(target.data_dir)
    dead = [each.entry.name for each in found.processes if not each.alive]
    if found.info is None:
        return note("stack", "not up; start it with: starter.py up --detach")
    if dead:
        return wrong("stack", f"not running: {', '.join(dead)}")
    return ok("stack", f"{len(found.processes)} processes")


def clock_offset(clock: MarketClock, asked: datetime, answered: datetime, by: ClockMap) -> Finding:
    """Our clock against the broker's, taken in the middle of the request."""
    middle = asked + (answered - asked) / 2
    skew_s = (clock.market_now - by.market(middle)).total_seconds()
    wall_s = abs(by.wall_duration_s(skew_s))
    text = f"{wall_s:.2f} s from the broker's, allowed: {CLOCK_SKEW_MAX_S:g} s"
    return ok("clock", text) if wall_s <= CLOCK_SKEW_MAX_S else wrong("clock", text)


async def broker_clock(target: Target, broker: Broker) -> tuple[MarketClock, Finding]:
    """The venue's clock and how far ours is from it."""
    mapped = await target.clock_map()
    asked = datetime.now(UTC)
    clock = await broker.market_clock()
    return clock, clock_offset(clock, asked, datetime.now(UTC), mapped)


async def temporal_server(client: Client) -> AsyncIterator[Finding]:
    """Namespace with its retention, and the build that takes new work."""
    described = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=client.namespace)
    )
    days = described.config.workflow_execution_retention_ttl.ToTimedelta()
    text = f"namespace {client.namespace}, retention {days.days} days"
    yield ok("temporal", text) if days >= RETENTION_MIN else wrong("temporal", text)
    current, mine = await current_version(client), build_id()
    if current == mine:
        yield ok("build", mine)
    else:
        yield wrong("build", f"current was {current}, this code is {mine}; run: starter.py up")


async def workers(client: Client, account: str) -> AsyncIterator[Finding]:
    """Who polls each queue that a trade of this account needs."""
    activity = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
    workflow = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    needed = (
        ("trade workflows", TRADE_QUEUE, workflow),
        ("trade bookkeeping", TRADE_QUEUE, activity),
        ("order lane", order_queue(account), activity),
        ("streams", stream_queue(account), activity),
    )
    for name, queue, kind in needed:
        answer = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
            )
        )
        since = datetime.now(UTC) - POLL_AGE_MAX
        polling = [p for p in answer.pollers if p.last_access_time.ToDatetime(UTC) >= since]
        check = f"workers: {name}"
        if polling:
            yield ok(check, f"{len(polling)} on {queue}")
        else:
            yield wrong(check, f"nobody polls {queue}; run: starter.py up")
