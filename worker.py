"""Worker process: wires ports to activities and runs the roles it is asked for.

    python worker.py --config FILE --role trade|gateway|streams|all

`--config` may be given several times, one file per account: one process then serves them all. Each
account has its own order lane, kill sweeper and fill stream; the queue of workflows is shared.

Composition root: wiring only, imported by nothing but tests and `starter.py`. Everything that a
workflow needs is imported here before the first workflow starts (Python < 3.12 sandbox imports).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import uvloop
from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import (
    FixedSizeSlotSupplier,
    Worker,
    WorkerDeploymentConfig,
    WorkerTuner,
)

from activities.alert_sender import AlertSender
from activities.audit_export import AuditExport
from activities.by_hand import ByHandActivities
from activities.day_report import DayReportActivities
from activities.flatten import FlattenActivities
from activities.gateway import GatewaySweeper
from activities.health_watch import HealthWatch
from activities.late_answers import tell_late
from activities.meter import NoMeter
from activities.operations import OperationActivities
from activities.orders import OrderActivities
from activities.reads import ReadActivities
from activities.reconcile import ReconcileActivities
from activities.risk import RiskActivities
from activities.services import Services, wall_now
from activities.session import SessionActivities
from activities.session_days import SessionDayActivities
from activities.strategy_hosts import StrategyHost
from activities.streams import StreamActivities
from activities.trades import TradeActivities
from brokers.alpaca.config import AlpacaMode
from brokers.guarded import GuardedBroker
from brokers.port import Broker
from brokers.transport import unwatched
from deploy.local.kill_journal import KillJournal
from deploy.local.runfile import read_run_file
from deploy.local.stack import READY_FILE_VARIABLE, stack_environment
from deploy.temporal.lane_pace import LanePace
from deploy.temporal.lanes import OrderLane
from domain.bar import Bar
from domain.control import ApiBreakerState
from domain.errors import BadInput, HoldfastError
from domain.ids import TRADE_QUEUE, order_queue, stream_queue
from domain.risk.breakers import ApiBreaker
from domain.session import SessionSpec
from ledger.deployment_store import stale_alert
from ledger.repository import Ledger
from marketdata.event_dates import KeptDates
from marketdata.feed import TapeFeed
from marketdata.polled import PolledFeed
from marketdata.port import MarketDataFeed
from marketdata.session_days import next_day
from marketdata.stream_feed import StreamFeed
from observability.audit_file import AuditFile
from observability.beating import BEAT_EVERY_S, Beating
from observability.build import DEPLOYMENT_NAME, build_id
from observability.failpoints import parse_failpoints
from observability.logs import configure_logging
from observability.payload_codec import HoldfastCodec
from observability.plugin import holdfast_plugin
from observing import Observed, observe, serve
from payload_keys import payload_codec
from payload_watch import PayloadWatch
from report.day import write_day
from settings import Settings
from settings_file import load_settings
from strategies.registry import StrategyProcess, find_strategy
from wiring import (
    alert_policy,
    alert_sends,
    broker_of,
    config_hash,
    copy_journal,
    limits_in_force,
    market_parts,
)
from workflows.day_report import DayReportWorkflow
from workflows.flatten import FlattenWorkflow
from workflows.reconcile import ReconcileWorkflow
from workflows.session import SessionWorkflow
from workflows.streams import StreamsWorkflow
from workflows.trade import TradeWorkflow

WORKFLOWS = (
    TradeWorkflow,
    SessionWorkflow,
    StreamsWorkflow,
    FlattenWorkflow,
    ReconcileWorkflow,
    DayReportWorkflow,
)
TAPES_KEPT = 4
# Under the data directory; without one, under the working directory.
REPORTS = Path("reports")


def feed_opener(services: Services) -> Callable[[SessionSpec], MarketDataFeed]:
    """Where a session's bars come from: its tape, else the stream or quotes of its account.

    Sessions on one tape share one feed: it holds no state of a session.
    """
    reading = threading.Lock()

    @lru_cache(maxsize=TAPES_KEPT)
    def tape_feed(path: Path, interval_s: int, _changed_ns: int) -> TapeFeed:
        return TapeFeed.open(path, interval_s=interval_s)

    def opened(spec: SessionSpec) -> MarketDataFeed:
        if spec.tape:
            path = Path(spec.tape)
            with reading:
                return tape_feed(path, spec.bar_interval_s, path.stat().st_mtime_ns)
        own = services.of(spec.account)
        if own.market is not None and own.market.follows_positions:
            return stream_feed(own, spec)
        return PolledFeed(own.broker.quotes, interval_s=spec.bar_interval_s)

    return opened


WANTED_FOR = timedelta(minutes=10)


def stream_feed(services: Services, spec: SessionSpec) -> StreamFeed:
    """Bars that the streams worker stored; the session's symbols stay wanted while it asks."""
    ledger, account, interval_s = services.ledger, services.account, spec.bar_interval_s
    source = f"session:{spec.name}"

    async def want(symbols: Sequence[str]) -> None:
        until = services.now() + WANTED_FOR
        await ledger.want_market(account, source, symbols, interval_s, until)

    async def sealed() -> datetime | None:
        return await ledger.bars_sealed_to(account, interval_s)

    async def read(
        symbols: Sequence[str], after: datetime | None, until: datetime
    ) -> Sequence[Bar]:
        return await ledger.market_bars(account, interval_s, symbols, after, until)

    return StreamFeed(want, sealed, read, services.broker.quotes, interval_s=interval_s)


def open_strategy(name: str) -> StrategyProcess:
    """The strategy of `strategies/` with this name, or the file at this path."""
    return StrategyProcess(find_strategy(name) or Path(name))


def trade_worker(
    client: Client,
    services: Services,
    *,
    task_queue: str = TRADE_QUEUE,
    sticky_timeout_s: float = 1.0,
    drain_s: float = 10.0,
    deployment_name: str = DEPLOYMENT_NAME,
    build: str | None = None,
    cached_workflows: int = 1_000,
    strategy_opener: Callable[[str], StrategyHost] = open_strategy,
) -> Worker:
    """Workflows and bookkeeping; versioned, because open trades are pinned to their build."""
    trades, operations = TradeActivities(services), OperationActivities(services)
    dates = KeptDates()
    sessions = SessionActivities(services, feed_opener(services), strategy_opener, dates.blackout)
    days = SessionDayActivities(services, sessions, next_day)
    deployment = WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(
            deployment_name=deployment_name, build_id=build or build_id()
        ),
        use_worker_versioning=True,
    )
    return Worker(
        client,
        task_queue=task_queue,
        workflows=list(WORKFLOWS),
        activities=[
            trades.watch_exits,
            trades.raise_alert,
            trades.settle_trade,
            ByHandActivities(services).book_by_hand,
            operations.engage_kill,
            sessions.next_decisions,
            sessions.accept_signal,
            sessions.note_signal,
            sessions.note_session,
            sessions.close_session,
            days.next_session_day,
            days.begin_session_day,
            days.drain_session,
        ],
        deployment_config=deployment,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=sticky_timeout_s),
        max_cached_workflows=cached_workflows,
        max_concurrent_workflow_tasks=DECISION_SLOTS,
        graceful_shutdown_timeout=timedelta(seconds=drain_s),
    )


# Decisions at once. They share one interpreter: a hundred cold replays taken together after a
# restart all ran past the 3 s of a workflow task and were thrown away. What waits in the server's
# queue has no such limit.
DECISION_SLOTS = 4

# Steps of the order lane at once. What waits must wait in the server's queue, where priorities
# count and a timed-out entry is known to be unsent; 50 entries taken at once ran out of time
# inside the process. Fewer than the connections to the broker.
LANE_SLOTS = 16


def gateway_worker(
    client: Client, services: Services, *, lane: OrderLane | None = None, drain_s: float = 10.0
) -> Worker:
    """The order lane of one account. Unversioned: build and config hash go with every order.

    `lane` is the account's budget at its broker; without one nothing is held back.

    The build is named all the same: left out, the SDK reads and hashes every loaded module from
    disk, a third of a second of work before a dead process's successor protects anything.
    """
    orders, reads, risk = (
        OrderActivities(services),
        ReadActivities(services),
        RiskActivities(services),
    )
    flatten = FlattenActivities(services)
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
            flatten.look_for_flat,
            flatten.tell_flatten,
            flatten.take_over_legs,
        ],
        build_id=build_id(),
        interceptors=[Beating(tell_late(client))],
        # Else a beat waits for 0.8 of the timeout.
        max_heartbeat_throttle_interval=timedelta(seconds=BEAT_EVERY_S),
        tuner=WorkerTuner.create_composite(
            workflow_supplier=FixedSizeSlotSupplier(1),
            activity_supplier=_lane_slots(lane),
            local_activity_supplier=FixedSizeSlotSupplier(1),
            nexus_supplier=FixedSizeSlotSupplier(1),
        ),
        graceful_shutdown_timeout=timedelta(seconds=drain_s),
    )


def _lane_slots(lane: OrderLane | None) -> FixedSizeSlotSupplier | LanePace:
    if lane is None:
        return FixedSizeSlotSupplier(LANE_SLOTS)
    return LanePace(lane.activities_per_second, lane.burst, LANE_SLOTS)


# --- the process --------------------------------------------------------------------------------

RECONNECT_FIRST_S = 0.2
RECONNECT_MAX_S = 5.0
BESIDE_AGAIN_S = 1.0
# Connections to PostgreSQL for work, and for each further account of the process.
POOL_SIZE, POOL_PER_PEER = 10, 2
ROLES = ("trade", "gateway", "streams", "all")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; roles may name their account as `gateway:<account>`."""
    parser = argparse.ArgumentParser(prog="worker", description="Holdfast worker process")
    parser.add_argument("--config", type=Path, action="append", help="repeatable")
    parser.add_argument("--role", default=os.environ.get("HOLDFAST_ROLE", "all"))
    parser.add_argument("--data", type=Path, default=os.environ.get("HOLDFAST_DATA_DIR"))
    options = parser.parse_args(argv)
    if options.config is None and os.environ.get("HOLDFAST_CONFIG"):
        options.config = [Path(os.environ["HOLDFAST_CONFIG"])]
    if options.config is None:
        parser.error("--config is needed")
    options.role, _, options.account = options.role.partition(":")
    if options.role not in ROLES:
        parser.error(f"--role was {options.role}, allowed: {' '.join(ROLES)}")
    return options


def main() -> None:
    """Runs until SIGTERM; ends by flush and `os._exit` (architecture §10).

    The interpreter's own end crashed in 6 of 93 cases after a Worker had done all of its work.
    """
    code = 1
    # What is imported and wired lives as long as the process. Each full collection went through
    # its 157,000 objects: 0.2 to 0.3 s in which no order, signal or kill went out.
    gc.freeze()
    try:
        code = uvloop.run(run_process(arguments()))
    except HoldfastError as error:
        sys.stderr.write(f"{error.code} {error.text}\n")
        code = 2 if isinstance(error, BadInput) else 1
    except Exception:
        logging.getLogger(__name__).exception("the worker process ends")
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


async def run_process(options: argparse.Namespace) -> int:
    """Wires everything, serves the role, drains on the first signal; the second one is hard."""
    stopped = _stop_on_signals()
    run_info = None if options.data is None else read_run_file(options.data)
    environment = {**({} if run_info is None else stack_environment(run_info)), **os.environ}
    every = accounts_of([load_settings(path, environment) for path in options.config])
    if options.account and options.account not in every:
        raise BadInput("ACCOUNT_UNKNOWN", "role", options.account, ", ".join(every))
    # What is not of one account (servers, logs, metrics) comes from the first file.
    settings = next(iter(every.values()))
    watched = settings.observability
    configure_logging(watched.log_level, json_lines=watched.log_json)
    journal = None if options.data is None else KillJournal(options.data)
    payloads = PayloadWatch()
    codec = payload_codec(settings, payloads.note)
    async with AsyncExitStack() as stack:
        observed = observe(options.role, settings, stack)
        served = await build_all_services(every, stack, journal, options.data, observed)
        if options.account:
            served = {options.account: served[options.account]}
        serve(observed, settings, served, stack)
        sweepers: list[GatewaySweeper] = []
        if options.role in ("gateway", "all"):
            # Before Temporal: a kill must work while the server is away (K8).
            sweepers = [
                await start_sweeper(every[name], services, stack, journal)
                for name, services in served.items()
            ]
        if options.role in ("streams", "all"):
            for name, services in served.items():
                start_alerts(every[name], services, stack)
            start_audit_file(watched.audit_file, next(iter(served.values())).ledger, stack)
        client = await _connect_temporal(settings, stopped, observed, codec)
        if client is None:
            return 0
        for sweeper in sweepers:
            sweeper.use_client(client)
        if options.role in ("streams", "all"):
            for services in served.values():
                run_beside(HealthWatch(services, client).run, "health-watch", stack)
        reports = REPORTS if options.data is None else options.data / REPORTS
        every_served = tuple(served.values())
        look = partial(payloads.run, every_served[0], client, codec)
        run_beside(look, "payload-watch", stack)
        lanes = {name: OrderLane(name, s.broker.requests_per_minute) for name, s in every.items()}
        for each in workers_of(options.role, client, every_served, settings, lanes, reports):
            await stack.enter_async_context(each)
        gc.freeze()
        ready_file = os.environ.get(READY_FILE_VARIABLE)
        if ready_file:
            await asyncio.to_thread(Path(ready_file).touch)
        await stopped.wait()
    return 0


def accounts_of(read: Sequence[Settings]) -> dict[str, Settings]:
    """The settings by account, in the order of the command line.

    Raises:
        BadInput: CONFIG_CONTRADICTION: an account twice, two accounts with one key (a variable of
            the environment is for all files), or servers and installations that differ.
    """
    found: dict[str, Settings] = {}
    keys: dict[str, str] = {}
    for each in read:
        name, first = each.account.name, read[0]
        same = (
            ("account.installation", each.account.installation, first.account.installation),
            ("temporal.address", each.temporal.address, first.temporal.address),
            ("temporal.namespace", each.temporal.namespace, first.temporal.namespace),
            ("ledger.dsn", each.ledger.dsn == first.ledger.dsn, True),
            ("encryption", each.encryption == first.encryption, True),
        )
        for field, value, wanted in same:
            if value != wanted:
                allowed = "the same in every --config"
                raise BadInput("CONFIG_CONTRADICTION", field, value, allowed)
        key = each.adapter().key_id
        if name in found:
            raise BadInput("CONFIG_CONTRADICTION", "account.name", name, "once in all --config")
        if key in keys:
            allowed = f"another key than account {keys[key]} has"
            raise BadInput("CONFIG_CONTRADICTION", "broker.key_file", name, allowed)
        found[name], keys[key] = each, name
    return found


async def build_all_services(
    every: Mapping[str, Settings],
    stack: AsyncExitStack,
    journal: KillJournal | None = None,
    data_dir: Path | None = None,
    observed: Observed | None = None,
) -> dict[str, Services]:
    """Services of every account; they share the ledger's pool and know each other.

    Raises:
        Refused, LedgerDown: see `build_services`.
    """
    dsn = next(iter(every.values())).ledger.dsn.get_secret_value()
    ledger = await Ledger.connect(dsn, pool_size=POOL_SIZE + POOL_PER_PEER * (len(every) - 1))
    stack.push_async_callback(ledger.aclose)
    served: dict[str, Services] = {}
    for name, settings in every.items():
        made = await build_services(settings, ledger, stack, journal, observed)
        market = market_parts(settings, data_dir)
        served[name] = replace(made, peers=served, market=market)
    return served


def workers_of(
    role: str,
    client: Client,
    served: Sequence[Services],
    settings: Settings,
    lanes: Mapping[str, OrderLane],
    reports: Path = REPORTS,
) -> list[Worker]:
    """The Temporal workers of a role: one of the shared queue, two of each account's own.

    `lanes` are the budgets of the accounts by name.
    """
    drain_s = settings.temporal.drain_timeout_s
    found: list[Worker] = []
    if role in ("trade", "all"):
        sticky_s = settings.temporal.sticky_timeout_s
        found.append(trade_worker(client, served[0], sticky_timeout_s=sticky_s, drain_s=drain_s))
    for services in served:
        if role in ("gateway", "all"):
            lane = lanes[services.account]
            found.append(gateway_worker(client, services, lane=lane, drain_s=drain_s))
        if role in ("streams", "all"):
            found.append(streams_worker(client, services, reports=reports))
    return found


async def build_services(
    settings: Settings,
    ledger: Ledger,
    stack: AsyncExitStack,
    journal: KillJournal | None = None,
    observed: Observed | None = None,
) -> Services:
    """Ledger and broker behind their ports; the broker is closed with `stack`.

    Raises:
        Refused: `INSTALLATION_DIFFERS`, `ACCOUNT_DIFFERS`.
        LedgerDown: PostgreSQL is away; the supervisor starts this process again.
    """
    account, venue = settings.account, settings.broker.venue.value
    await ledger.ensure_installation(account.installation)
    await ledger.ensure_account(account.name, venue, account.currency)
    if journal is not None:
        await copy_journal(ledger, journal)
    watch = unwatched if observed is None else observed.calls(account.name)
    broker = await guarded(broker_of(settings, watch=watch), ledger, venue, account.name)
    stack.push_async_callback(broker.aclose)
    await tell_if_stale(ledger, account.name, settings)
    blocked = "a kill waits in the local journal"
    return Services(
        ledger=ledger,
        broker=broker,
        account=account.name,
        broker_name=venue,
        installation=account.installation,
        limits=await limits_in_force(ledger, account.name, settings.limits),
        restricted=settings.restricted_list(),
        config_hash=config_hash(settings),
        build_id=build_id(),
        live=settings.broker.mode is AlpacaMode.LIVE,
        request_timeout_s=settings.broker.request_timeout_s,
        settle_window_s=settings.trade.settle_window_s,
        disallow_market_orders=settings.safety.disallow_market_orders,
        fees=settings.fee_rates(),
        failpoint=parse_failpoints(os.environ).hit,
        meter=NoMeter() if observed is None else observed.meter.of(account.name),
        entry_blocked=lambda: blocked if journal is not None and journal.is_pending() else "",
    )


async def tell_if_stale(ledger: Ledger, account: str, settings: Settings) -> None:
    """Alerts if this process is not the build, or has not the settings, that was deployed (H13).

    It starts all the same: exits and the kill go out through it. The gate refuses its entries.
    """
    deployed = await ledger.deployed(account)
    mine = (build_id(), config_hash(settings))
    why = "" if deployed is None else deployed.why_not(*mine)
    if why:
        logging.getLogger(__name__).error("WORKER_STALE %s", why)
        await ledger.raise_alert(stale_alert(account, *mine, why), "worker")


async def guarded(broker: Broker, ledger: Ledger, venue: str, account: str) -> GuardedBroker:
    """The adapter behind the API breaker, which goes on from what the ledger remembers.

    Halts come from the market-data stream by way of the ledger: every process sees them.
    """

    async def on_change(state: ApiBreakerState, failures: int) -> None:
        try:
            await ledger.set_api_breaker(venue, state, failures)
        except HoldfastError as error:
            logging.getLogger(__name__).warning("API breaker %s not stored: %s", state, error.code)

    before = await ledger.api_breaker(venue)
    open_now = ApiBreaker(state=ApiBreakerState.OPEN, opened_at=wall_now())
    was_closed = before.state is ApiBreakerState.CLOSED
    breaker = None if was_closed else open_now
    return GuardedBroker(broker, on_change, wall_now, breaker, halts_of(ledger, account))


def halts_of(ledger: Ledger, account: str) -> Callable[[], Awaitable[Sequence[str]]]:
    """Reads the symbols whose halt was told and not ended."""

    async def halted() -> tuple[str, ...]:
        return tuple(halt.symbol for halt in await ledger.halts(account))

    return halted


async def start_sweeper(
    settings: Settings, services: Services, stack: AsyncExitStack, journal: KillJournal | None
) -> GatewaySweeper:
    """The kill's own hands in the gateway: own broker connections, no workflow."""
    reserved = broker_of(settings, reserved=True)
    stack.push_async_callback(reserved.aclose)

    async def copy() -> None:
        if journal is not None and journal.is_pending():
            await copy_journal(services.ledger, journal)

    sweeper = GatewaySweeper(services, reserved, copy_waiting=copy)
    run_beside(sweeper.run, "kill-sweeper", stack)
    return sweeper


def start_alerts(settings: Settings, services: Services, stack: AsyncExitStack) -> None:
    """The alert sender beside the streams; it needs no Temporal, so a kill is told without."""

    async def send() -> None:
        await AlertSender(services, alert_policy(settings), alert_sends(settings)).run()

    run_beside(send, "alert-sender", stack)


def start_audit_file(path: str, ledger: Ledger, stack: AsyncExitStack) -> None:
    """The audit's copy on disk, if the settings name a file."""
    if path:
        file = AuditFile(Path(path))
        stack.callback(file.close)
        run_beside(AuditExport(ledger, file).run, "audit-file", stack)


def run_beside(
    work: Callable[[], Coroutine[Any, Any, None]], name: str, stack: AsyncExitStack
) -> None:
    """Runs endless work until `stack` closes; begun anew if an error that nobody knows ends it.

    A process without its kill sweeper or its alert sender looks as healthy as one with them.
    """

    async def always() -> None:
        while True:
            try:
                await work()
            except Exception:
                logging.getLogger(__name__).exception("%s ended and begins anew", name)
            await asyncio.sleep(BESIDE_AGAIN_S)

    task = asyncio.create_task(always(), name=name)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)


async def _connect_temporal(
    settings: Settings, stopped: asyncio.Event, watched: Observed, codec: HoldfastCodec
) -> Client | None:
    """A client as soon as the server answers; None if the process is told to stop before."""
    delay_s = RECONNECT_FIRST_S
    while not stopped.is_set():
        try:
            return await Client.connect(
                settings.temporal.address,
                namespace=settings.temporal.namespace,
                plugins=[holdfast_plugin(interceptors=[watched.interceptor], codec=codec)],
                runtime=watched.runtime,
            )
        except (RuntimeError, RPCError) as error:
            logging.getLogger(__name__).warning("Temporal does not answer: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), delay_s)
        delay_s = min(delay_s * 2, RECONNECT_MAX_S)
    return None


def _stop_on_signals() -> asyncio.Event:
    stopped = asyncio.Event()

    def on_signal() -> None:
        if stopped.is_set():
            os._exit(130)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stopped


def streams_worker(
    client: Client, services: Services, *, drain_s: float = 3.0, reports: Path = REPORTS
) -> Worker:
    """Fill stream, exit watch and reports of one account, on slots of their own. Unversioned."""
    streams, reconcile = StreamActivities(services, client), ReconcileActivities(services, client)
    return Worker(
        client,
        task_queue=stream_queue(services.account),
        activities=[
            streams.run_fill_stream,
            streams.run_exit_watch,
            reconcile.reconcile_account,
            DayReportActivities(services, partial(write_day, folder=reports)).report_day,
        ],
        build_id=build_id(),
        # Else beats go out every 2.4 s of the 3 s after which a streamer counts as dead, and it
        # hears of its cancellation as late.
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        graceful_shutdown_timeout=timedelta(seconds=drain_s),
    )


if __name__ == "__main__":
    main()
