"""The order lane's budget (architecture §4, ADR 0021).

One task queue per broker account. An order activity makes two trading requests, so the lane gets
half of the broker's limit divided by two, and what it leaves unused it may use up at once, up to
another fifth of a minute: the stops of a new position do not wait for one another. Streams and
reconcile pace themselves inside 20 %; the rest belongs to the kill.

The gateway keeps the rate (`lane_pace.py`); at the server a rate gives at most a second
of arrears, so there it is only the bound for what no gateway may exceed.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import RateLimit
from temporalio.api.workflowservice.v1 import UpdateTaskQueueConfigRequest
from temporalio.client import Client

from domain.ids import order_queue

LANE_SHARE = Decimal("0.5")
BURST_SHARE = Decimal("0.2")
REQUESTS_PER_ACTIVITY = 2
BURST_MIN = 2
SECONDS_PER_MINUTE = 60


@dataclass(frozen=True, slots=True)
class OrderLane:
    """One broker account and its request limit per wall-clock minute.

    `speed` scales the rate together with the simulated exchange's own budget (architecture §9).
    """

    account: str
    broker_requests_per_minute: int
    speed: Decimal = Decimal(1)

    @property
    def queue(self) -> str:
        return order_queue(self.account)

    @property
    def activities_per_second(self) -> Decimal:
        per_minute = self.broker_requests_per_minute * LANE_SHARE / REQUESTS_PER_ACTIVITY
        return per_minute * self.speed / SECONDS_PER_MINUTE

    @property
    def burst(self) -> int:
        """Activities that a rested lane lets go at once."""
        share = self.broker_requests_per_minute * BURST_SHARE / REQUESTS_PER_ACTIVITY
        return max(BURST_MIN, int(share))

    def max_concurrent_walks(self, walk_interval_s: Decimal) -> int:
        """How many walking entries the lane can step in time; `doctor` prints it."""
        return int(self.activities_per_second * walk_interval_s)


async def set_lane_rate(client: Client, lane: OrderLane) -> None:
    """Tells the server the bound of the lane; it overrides whatever a worker asks for."""
    bound = max(Decimal(lane.burst), lane.activities_per_second)
    reason = f"burst of {lane.broker_requests_per_minute} requests/min, two per activity"
    await limit_queue(client, lane.queue, bound, reason)


async def limit_queue(client: Client, queue: str, per_second: Decimal, reason: str) -> None:
    """Sets the rate of an activity queue at the server."""
    await client.workflow_service.update_task_queue_config(
        UpdateTaskQueueConfigRequest(
            namespace=client.namespace,
            identity=client.identity,
            task_queue=queue,
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            update_queue_rate_limit=UpdateTaskQueueConfigRequest.RateLimitUpdate(
                rate_limit=RateLimit(requests_per_second=float(per_second)),
                reason=reason,
            ),
        )
    )
