"""The order lane's rate, set on the server (architecture §4).

One task queue per broker account. An order activity makes at most two trading requests, so the
lane gets 60 % of the broker's limit divided by two; streams and reconcile pace themselves inside
20 %; the rest belongs to the kill.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import RateLimit
from temporalio.api.workflowservice.v1 import UpdateTaskQueueConfigRequest
from temporalio.client import Client

from domain.ids import order_queue

LANE_SHARE = Decimal("0.6")
REQUESTS_PER_ACTIVITY_MAX = 2
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
        per_minute = self.broker_requests_per_minute * LANE_SHARE / REQUESTS_PER_ACTIVITY_MAX
        return per_minute * self.speed / SECONDS_PER_MINUTE

    def max_concurrent_walks(self, walk_interval_s: Decimal) -> int:
        """How many walking entries the lane can step in time; `doctor` prints it."""
        return int(self.activities_per_second * walk_interval_s)


async def set_lane_rate(client: Client, lane: OrderLane) -> None:
    """Tells the server the lane's rate; it overrides whatever a worker asks for."""
    await client.workflow_service.update_task_queue_config(
        UpdateTaskQueueConfigRequest(
            namespace=client.namespace,
            identity=client.identity,
            task_queue=lane.queue,
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            update_queue_rate_limit=UpdateTaskQueueConfigRequest.RateLimitUpdate(
                rate_limit=RateLimit(requests_per_second=float(lane.activities_per_second)),
                reason=f"60 % of {lane.broker_requests_per_minute} requests/min, two per activity",
            ),
        )
    )
