"""Worker process: wires ports to activities and runs the roles it is asked for.

    python worker.py --config FILE --role trade|gateway|streams|all

Composition root: wiring only, imported by nothing but tests and `starter.py`. Everything that a
workflow needs is imported here before the first workflow starts (Python < 3.12 sandbox imports).
"""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.worker import Worker, WorkerDeploymentConfig

from activities.operations import OperationActivities
from activities.orders import OrderActivities
from activities.reads import ReadActivities
from activities.risk import RiskActivities
from activities.services import Services
from activities.trades import TradeActivities
from domain.ids import TRADE_QUEUE, order_queue
from observability.build import DEPLOYMENT_NAME, build_id
from workflows.trade import TradeWorkflow

WORKFLOWS = (TradeWorkflow,)


def trade_worker(
    client: Client,
    services: Services,
    *,
    task_queue: str = TRADE_QUEUE,
    sticky_timeout_s: float = 1.0,
    drain_s: float = 10.0,
    deployment_name: str = DEPLOYMENT_NAME,
) -> Worker:
    """Workflows and bookkeeping; versioned, because open trades are pinned to their build."""
    trades, operations = TradeActivities(services), OperationActivities(services)
    deployment = WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=deployment_name, build_id=build_id()),
        use_worker_versioning=True,
    )
    return Worker(
        client,
        task_queue=task_queue,
        workflows=list(WORKFLOWS),
        activities=[
            trades.note_stage,
            trades.watch_exits,
            trades.raise_alert,
            trades.settle_trade,
            operations.engage_kill,
        ],
        deployment_config=deployment,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=sticky_timeout_s),
        graceful_shutdown_timeout=timedelta(seconds=drain_s),
    )


def gateway_worker(client: Client, services: Services, *, drain_s: float = 10.0) -> Worker:
    """The order lane of one account. Unversioned: build and config hash go with every order."""
    orders, reads, risk = (
        OrderActivities(services),
        ReadActivities(services),
        RiskActivities(services),
    )
    return Worker(
        client,
        task_queue=order_queue(services.account),
        activities=[
            orders.place_order,
            orders.replace_order,
            orders.walk_step,
            orders.cancel_order,
            orders.resolve_order,
            reads.read_broker,
            reads.read_quote,
            risk.reserve_risk,
        ],
        graceful_shutdown_timeout=timedelta(seconds=drain_s),
    )
