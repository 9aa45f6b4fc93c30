"""Tells a trade of a step that ended after the server had given it up.

Its answer reaches nobody. What it booked is marked as told by that answer, so the streamer is
silent about it as well, and the trade resolved its order before: a fill seen by such a zombie was
lost to it for ever (I7, C8; found by chaos: a hung walk step came back while a target filled).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.doorbell import FACTS_SIGNAL
from activities.services import wall_now
from domain.facts import CommandFailed, FactEnvelope

LATE_ANSWER = "LATE_ANSWER"
TELL_TRIES = 10
TELL_AGAIN_S = 2.0
RPC_TIMEOUT = timedelta(seconds=3)


def late_answer(info: activity.Info, at: datetime) -> FactEnvelope:
    """The trade is asked to read the broker anew."""
    text = "it ended when the server may have given it up"
    fact = CommandFailed(at=at, step=info.activity_type, code=LATE_ANSWER, text=text)
    return FactEnvelope.of(fact, sender="order lane")


def tell_late(client: Client) -> Callable[[activity.Info], Awaitable[None]]:
    """Tells the step's trade; repeats while the server is away."""

    async def tell(info: activity.Info) -> None:
        if info.workflow_id is None or info.workflow_type != "Trade":
            return
        envelope = late_answer(info, wall_now())
        handle = client.get_workflow_handle(info.workflow_id)
        for _ in range(TELL_TRIES):
            try:
                await handle.signal(FACTS_SIGNAL, envelope, rpc_timeout=RPC_TIMEOUT)
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return  # It has ended: what comes after an end is its restorer's.
                await asyncio.sleep(TELL_AGAIN_S)
            else:
                return

    return tell
