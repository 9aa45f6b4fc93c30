"""One seeded whole-path simulation: everything real but process, socket and clock.

Real: the fold, the trade workflow (in the SDK's own workflow instance), the activity bodies, the
order protocol, the adapters, the stream reader, the exchange with its wire face. Simulated: time
(`clock`), Temporal's server (`temporal`), PostgreSQL (`ledger`), the network (`wire`).

    outcome = run_seed(7, broker="tradier")        # what a seed means: `scenario`
    outcome = run_scenario(scenario)               # any scenario, e.g. a shrunk one
    assert outcome.violations == ()

For the bug museum: `mutant` is a context manager entered around the run (plant a bug there, e.g.
with `unittest.mock.patch`), `exchange_behaviour` is called with the exchange before the first
event (change the venue there). `Outcome.trace_hash` names every event of the exchange's journal.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from functools import cache, partial
from typing import Any, cast

from pydantic import SecretStr
from temporalio.client import Client as TemporalClient

from activities.by_hand import ByHandActivities
from activities.doorbell import temporal_sender
from activities.exit_watch import ExitWatch
from activities.flatten import FlattenActivities, FlattenReceipt
from activities.gateway import GatewaySweeper
from activities.operations import OperationActivities
from activities.orders import OrderActivities
from activities.reads import ReadActivities
from activities.recon_reading import anchor_cursor
from activities.reconcile import ReconcileInput, ReconcilePass
from activities.restore import Restorer
from activities.risk import RiskActivities
from activities.services import Services, StreamInput
from activities.streams import FillStream
from activities.trades import TradeActivities
from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig
from brokers.guarded import GuardedBroker
from brokers.port import Broker
from brokers.tradier.client import TradierBroker
from brokers.tradier.config import TradierConfig
from deploy.temporal.lanes import OrderLane
from domain.clock import real_time
from domain.errors import HoldfastError
from domain.exits.rules import Guards
from domain.ids import order_queue, trade_prefix, trade_workflow_id
from domain.instrument import Instrument
from domain.messages import TradeInput, TradeResult
from domain.plan import TradePlan
from domain.risk.limits import RestrictedList
from ledger.repository import Ledger
from simulator.app import AlpacaFace, TradierFace
from simulator.clock import SimClock
from simulator.config import (
    ExchangeConfig,
    FeeSchedule,
    Listing,
    MatchingConfig,
    ReplaceQuantity,
    WireFace,
)
from simulator.exchange import Exchange
from simulator.journal import Journal, Row
from tests.rig import roomy_limits
from tests.simulation import bare
from tests.simulation.bare import BareSpan
from tests.simulation.clock import START, VirtualLoop, run_virtual
from tests.simulation.ledger import MemoryLedger
from tests.simulation.lines import LedgerLine
from tests.simulation.mishaps import NAMES, Mishaps
from tests.simulation.options import RULE_ID, contracts_of, is_watched, structure_of
from tests.simulation.oracle import Oracle
from tests.simulation.payloads import ByReference, json_payloads
from tests.simulation.processes import Process
from tests.simulation.scenario import (
    ACCOUNT,
    DEADLINE_S,
    EVENTS,
    OPTION_EVENTS,
    SYMBOLS,
    Move,
    Scenario,
    stormy,
)
from tests.simulation.temporal import Client, Run, Server
from tests.simulation.wire import Call, HttpxTransport, Routes, Weather, Wire
from workflows.flatten import FlattenWorkflow
from workflows.trade import TradeWorkflow

D = Decimal
TICK = D("0.01")
INSTALLATION = "5101"
CASH = D(1_000_000)
RECONCILE_EVERY_S = 10.0
"""Five minutes in production; here a day is three minutes long."""
QUICK_GUARDS = Guards(scan_interval_s=D(2), grace_s=D(4))
"""The guards of the exit watch, as much shorter as the day is."""
LAG_MAX_S = 60.0
"""Five minutes in production; no simulated list lags for longer than 20 s."""
WATCHED_ENDS = ("stop", "target", RULE_ID)
LIMITS = roomy_limits(max_order_notional="1000000", max_total_notional="10000000")
NOT_OURS = frozenset({*EVENTS, *OPTION_EVENTS, "replace_doubles", "oco_both", "fresh"})
Mutant = Callable[[], AbstractContextManager[object]]
ExchangeBehaviour = Callable[[Exchange], None]


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `violations` empty is what we want."""

    seed: int
    broker: str
    violations: tuple[str, ...]
    trace_hash: str
    trades: int
    happened: Counter[str] = field(default_factory=Counter)
    results: tuple[TradeResult, ...] = ()
    virtual_s: float = 0.0
    rows: tuple[Row, ...] = ()
    bare_s: tuple[float, ...] = ()
    bare: tuple[BareSpan, ...] = ()
    unconfirmed: tuple[BareSpan, ...] = ()


def run_seed(
    seed: int,
    *,
    broker: str = "alpaca",
    mutant: Mutant = nullcontext,
    exchange_behaviour: ExchangeBehaviour | None = None,
) -> Outcome:
    """The seed's own scenario."""
    return run_scenario(stormy(seed, broker), mutant=mutant, exchange_behaviour=exchange_behaviour)


def run_scenario(
    scenario: Scenario,
    *,
    mutant: Mutant = nullcontext,
    exchange_behaviour: ExchangeBehaviour | None = None,
) -> Outcome:
    """Plays the scenario to its end in virtual time."""
    before = random.getstate()
    random.seed(f"simulation:{scenario.seed}")
    loop = VirtualLoop()
    try:
        with quiet(), mutant():
            return run_virtual(World(scenario, loop, exchange_behaviour).play(), loop)
    finally:
        random.setstate(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Nobody reads the log of a simulation, and none is long enough to need its garbage back."""
    logging.disable(logging.CRITICAL)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        if collects:
            gc.enable()


class ToldJournal(Journal):
    """The exchange's journal; the oracle hears of each row at once."""

    def __init__(self) -> None:
        super().__init__()
        self.listener: Callable[[Row], None] = lambda row: None

    def write(self, now: Any, kind: str, **fields: Any) -> Row:
        row = super().write(now, kind, **fields)
        self.listener(row)
        return row


class World:
    """All parts of one simulation."""

    def __init__(
        self,
        scenario: Scenario,
        loop: VirtualLoop,
        exchange_behaviour: ExchangeBehaviour | None = None,
    ) -> None:
        self.scenario = scenario
        self.loop = loop
        self.dice = random.Random(f"world:{scenario.seed}")
        self.ledger = MemoryLedger(ACCOUNT, scenario.broker, INSTALLATION, loop.now)
        # The account is older than the run: reconciliation knows its cash from before.
        self.ledger.cursors[anchor_cursor(ACCOUNT)] = f"{CASH:f}"
        journal = ToldJournal()
        self.exchange = Exchange(_exchange_config(scenario), journal=journal)
        self.oracle = Oracle(
            self.ledger, self.exchange, scenario.plans, loop.call_soon, self._excused
        )
        journal.listener = self.oracle.on_row
        self.clock = SimClock(START, D(1), wall_s=loop.time)
        make_face = AlpacaFace if scenario.broker == "alpaca" else TradierFace
        self.face = make_face(self.exchange, self.clock)
        _without_middle_layers(self.face.app)
        self.exchange.state.market_listeners.clear()  # nobody reads the market-data stream here
        self._wake_exchange()
        if exchange_behaviour is not None:
            exchange_behaviour(self.exchange)
        converter = json_payloads() if scenario.json_payloads else ByReference()
        workflows = {"Trade": TradeWorkflow, "Flatten": FlattenWorkflow}
        self.server = Server(loop, workflows, converter, self._lag_s, self._closed)
        self.server.knows_types(_argument_types())
        if scenario.lane_per_minute is not None:
            lane = OrderLane(ACCOUNT, scenario.lane_per_minute)
            self.server.limit(lane.queue, float(1 / lane.activities_per_second), lane.burst)
        self.mishaps = Mishaps(self)
        self.server.lose_task = self.mishaps.lose_task
        self.moves: dict[str, Move] = {}
        self.processes: dict[str, Process] = {}
        self.results: list[TradeResult] = []
        self.pass_began_s = 0.0
        self.closed_s = 0.0
        self._births = 0
        loop.set_exception_handler(self._broken)

    def _excused(self) -> frozenset[str]:
        """What the venue has done wrong so far that flips or overfills without our doing."""
        fired = self.exchange.state.faults.fired
        fresh = self.scenario.matching.get("replace_quantity") is ReplaceQuantity.FRESH
        struck = self.mishaps.events.struck | ({"fresh"} if fresh else set())
        return frozenset(kind for kind, n in fired.items() if n) | struck

    def _broken(self, _loop: object, context: dict[str, Any]) -> None:
        """An error that nobody caught, ours or the simulation's, fails the run."""
        error = context.get("exception")
        self.oracle.violated("BROKEN", f"{context.get('message')}: {error!r}")

    def _task_failed(self, process: Process, error: BaseException) -> None:
        self.oracle.violated("BROKEN", f"{process.name}: {error!r}")

    # --- the parts --------------------------------------------------------------------------------

    def _wake_exchange(self) -> None:
        """What the exchange plans for later happens then, not at the next request."""
        state = self.exchange.state
        schedule = state.schedule

        def scheduled(delay_s: float, action: Callable[[], None]) -> None:
            schedule(delay_s, action)
            self.loop.call_later(delay_s + 1e-6, self.catch_up)

        state.schedule = scheduled  # type: ignore[method-assign]

    def catch_up(self) -> None:
        """Market time is virtual time."""
        self.exchange.advance_to(max(self.clock.now(), self.exchange.now))

    def _lag_s(self, occasion: str) -> float:
        return self.dice.choice((0.001, 0.002, 0.005))

    def _weather(self, process: Process, call: Call) -> Weather:
        if not process.is_alive or self.mishaps.no_network:
            return Weather(refused=True)
        slow = (0.02, 0.2, 0.4) if self.scenario.slow_network else (0.001, 0.004)
        if self.mishaps.is_healed:
            slow = (0.001, 0.004)
        out_s, back_s = self.mishaps.on_the_way_s(call)
        return Weather(self.dice.choice(slow) + out_s, self.dice.choice(slow) + back_s)

    def birth(self, name: str) -> Process:
        """A new incarnation of a process, serving its queues."""
        self._births += 1
        process = Process(name, self._births)
        self.processes[name] = process
        process.failpoint = lambda step: self.mishaps.failpoint(process, step)
        process.stall_s = self.mishaps.body_stall_s
        process.on_error = partial(self._task_failed, process)
        client = cast(TemporalClient, Client(self.server, process))
        services = self._services(process)
        if name == "trade":
            trades = TradeActivities(services)
            process.bodies = {
                "watch_exits": trades.watch_exits,
                "raise_alert": trades.raise_alert,
                "settle_trade": trades.settle_trade,
                "book_by_hand": ByHandActivities(services).book_by_hand,
                "engage_kill": OperationActivities(services).engage_kill,
            }
            self.server.serve("trade", process)
        elif name == "gateway":
            orders, reads = OrderActivities(services), ReadActivities(services)
            flatten = FlattenActivities(services)
            process.bodies = {
                "place_order": orders.place_order,
                "replace_order": orders.replace_order,
                "walk_step": orders.walk_step,
                "cancel_order": orders.cancel_order,
                "resolve_order": orders.resolve_order,
                "read_broker": reads.read_broker,
                "read_quote": reads.read_quote,
                "reserve_risk": RiskActivities(services).reserve_risk,
                "look_for_flat": flatten.look_for_flat,
                "tell_flatten": flatten.tell_flatten,
                "take_over_legs": flatten.take_over_legs,
            }
            self.server.serve(order_queue(ACCOUNT), process)
            if self.scenario.has_kill:
                sweeper = GatewaySweeper(services, self._broker(process), client=client)
                process.spawn(sweeper.run())
        else:
            given = StreamInput(account=ACCOUNT, compare_interval_s=10.0, clock_interval_s=20.0)
            stream = FillStream(services, client, given)
            process.spawn(stream.run(f"streams/{process.number}"))
            if contracts_of(self.scenario.plans):
                watch = ExitWatch(services, temporal_sender(client), given, QUICK_GUARDS)
                process.spawn(watch.run(f"watch/{process.number}"))
            if self.scenario.reconciles:
                process.spawn(self._reconcile_always(services, client))
        return process

    async def _reconcile_always(self, services: Services, client: TemporalClient) -> None:
        """The schedule's passes, more of them than in a real day."""
        given = ReconcileInput(account=ACCOUNT)
        while True:
            restorer = Restorer(services, client)
            one = ReconcilePass(services, temporal_sender(client), restorer)
            began_s = self.loop.time()
            try:
                report = await one.run(given)
                self.pass_began_s = began_s
                self.mishaps.happened["reconciled"] += 1
                for finding in report.findings:
                    self.mishaps.happened[f"found/{finding.kind}"] += 1
            except HoldfastError as error:
                self.mishaps.happened[f"reconcile_failed/{error.code}"] += 1
            finally:
                await one.aclose()
            await asyncio.sleep(RECONCILE_EVERY_S)

    def bury(self, name: str) -> None:
        """SIGKILL: the queues of the process are served by nobody."""
        self.processes[name].kill()
        if name == "trade":
            self.server.serve("trade", None)
            self.server.forget_workflows()
        elif name == "gateway":
            self.server.serve(order_queue(ACCOUNT), None)

    def _services(self, process: Process) -> Services:
        line = cast(Ledger, LedgerLine(self.ledger, process, self.mishaps.ledger))
        guarded = GuardedBroker(
            self._broker(process),
            partial(line.set_api_breaker, self.scenario.broker),
            self.loop.now,
            halted=self._halted,
        )
        return Services(
            ledger=line,
            broker=guarded,
            account=ACCOUNT,
            broker_name=self.scenario.broker,
            installation=INSTALLATION,
            limits=LIMITS,
            restricted=RestrictedList(as_of=START),
            failpoint=lambda step: self.mishaps.failpoint(process, step),
            lag_max_s=LAG_MAX_S,
            now=self.loop.now,
            monotonic=self.loop.time,
        )

    async def _halted(self) -> tuple[str, ...]:
        """What the market-data stream tells of halts."""
        return self.exchange.state.halted

    def _broker(self, process: Process) -> Broker:
        """The real adapter of this process, on its own way through the network."""
        wire = Wire(self.face.app, lambda call: self._weather(process, call), self._sent)
        transport = HttpxTransport(wire)
        key = self.exchange.config.keys[0]
        if isinstance(self.face, AlpacaFace):
            config = AlpacaConfig(
                account=ACCOUNT,
                key_id=key.key,
                secret=SecretStr(key.secret),
                trading_url="http://exchange.test",
            )
            alpaca = AlpacaBroker(
                config, http_transport=transport, connector=self.face.hub.connect, now=self.loop.now
            )
            if not self.scenario.through_httpx:
                for part in (alpaca._trading, alpaca._data):
                    part._client = wire.client(config.headers())  # type: ignore[assignment]
            return alpaca
        hub = self.face.hub
        tradier_config = TradierConfig(
            account=ACCOUNT,
            key_id=key.key,
            secret=SecretStr(key.secret),
            trading_url="http://exchange.test",
        )
        tradier = TradierBroker(
            tradier_config,
            http_transport=transport,
            connect=lambda url: hub.connect,
            now=self.loop.now,
        )
        if not self.scenario.through_httpx:
            headers = tradier_config.headers()
            tradier._http._client = wire.client(headers)  # type: ignore[assignment]
        return tradier

    # --- the play ---------------------------------------------------------------------------------

    async def play(self) -> Outcome:
        """From the first quote until every trade has ended, or the deadline."""
        scenario = self.scenario
        for move in scenario.market:
            self.loop.call_later(move.at_s, self._show, move)
        for name in NAMES:
            self.birth(name)
        self.mishaps.plan()
        for plan, at_s in zip(scenario.plans, scenario.starts_s, strict=True):
            self.loop.call_later(at_s, self._start, plan)
        while self.loop.time() < DEADLINE_S and not self._is_over():
            await asyncio.sleep(1.0)
            if self._is_over():
                await asyncio.sleep(scenario.linger_s)
        self.catch_up()
        self._judge_end()
        return self._outcome()

    def _show(self, move: Move) -> None:
        self.moves[move.symbol] = move
        self.catch_up()
        ratio = self.mishaps.events.ratios.get(move.symbol, D(1))
        low = (move.bid / ratio).quantize(TICK, ROUND_DOWN)
        high = (move.ask / ratio).quantize(TICK, ROUND_UP)
        bid: Decimal | None = low
        ask: Decimal | None = high
        match self.mishaps.odd_quote:
            case "frozen":
                return
            case "none":
                bid = ask = None
            case "one_sided":
                ask = None
            case "crossed":
                bid, ask = high + D("0.05"), low
        self.exchange.set_quote(move.symbol, bid, ask, move.size, move.size)

    def show_again(self) -> None:
        """The market as it should be shown now."""
        for move in list(self.moves.values()):
            self._show(move)

    def _sent(self, call: Call) -> None:
        self.oracle.on_sent(call, self.loop.time())

    def _start(self, plan: TradePlan) -> None:
        given = TradeInput(plan=plan, installation=INSTALLATION, clock=real_time(START))
        self.server.start("Trade", given, trade_workflow_id(plan.trade_id))

    def _is_over(self) -> bool:
        """Every trade has been and is no more; flatten orders too."""
        if self.mishaps.events.struck and not self._has_been_looked_at():
            return False
        known = {run.workflow_id for run in self.server.runs if run.kind == "Trade"}
        closed = all(run.is_closed for run in self.server.runs)
        return len(known) == len(self.scenario.plans) and closed

    def _has_been_looked_at(self) -> bool:
        """True once a pass has begun behind an event, the last end and the last doubt.

        In a symbol whose orders are in doubt no pass believes a difference (R7).
        """
        doubts = self.ledger.known_at.values()
        ended_s = max(self.mishaps.events.settled_s, self.closed_s, *map(bare.seconds, doubts))
        return not self.ledger.has_doubt and self.pass_began_s > ended_s

    def _closed(self, run: Run) -> None:
        """A trade says that it has ended: the exchange is asked whether that is so."""
        if isinstance(run.result, FlattenReceipt):
            return
        if not isinstance(run.result, TradeResult):
            self.oracle.violated("I11", f"{run.workflow_id} ended without a result: {run.failure}")
            return
        self.results.append(run.result)
        self.closed_s = self.loop.time()
        prefix = trade_prefix(INSTALLATION, run.result.trade_id)
        working = [
            order.client_id
            for order in self.exchange.open_orders
            if order.client_id.startswith(prefix)
        ]
        self.oracle.at_close(run.result.trade_id, working)

    def _judge_end(self) -> None:
        symbols = {trade_workflow_id(plan.trade_id): plan.symbol for plan in self.scenario.plans}
        open_runs = [run for run in self.server.runs if not run.is_closed]
        parked = frozenset(
            symbols[run.workflow_id]
            for run in open_runs
            if run.workflow_id in symbols and self.oracle.is_parked(symbols[run.workflow_id])
        )
        for run in open_runs:
            if symbols.get(run.workflow_id) not in parked:
                self.oracle.violated("I11", f"{run.workflow_id} has not ended")
        self.mishaps.happened["parked"] += len(parked)
        for text in self.server.tasks_failed:
            self.oracle.violated("I11", f"workflow task failed: {text}")
        account = self.exchange.state.account
        self.oracle.at_end(account, self.exchange.open_orders, parked)

    def _happened(self) -> Counter[str]:
        """Everything that struck in this run, and what the system had to do about it."""
        found = Counter(self.mishaps.happened)
        found.update({f"fault/{k}": n for k, n in self.exchange.state.faults.fired.items()})
        found["lane"] += self.scenario.lane_per_minute is not None
        found["replayed"] += self.server.replays
        found["continued_as_new"] += self.server.continued
        for record in self.ledger.intents.values():
            if record.code:
                found[f"intent/{record.code}"] += 1
        plans = {plan.trade_id: plan for plan in self.scenario.plans}
        for result in self.results:
            plan = plans[result.trade_id]
            if result.quantity:
                found[f"traded/{structure_of(plan)}"] += 1
            if is_watched(plan, self.scenario.broker) and result.exit_reason in WATCHED_ENDS:
                found["exit_watch"] += 1
        for alert in self.ledger.alerts.values():
            found[f"alert/{alert.code}"] += 1
        return +found

    def _outcome(self) -> Outcome:
        rows = self.exchange.journal.rows
        return Outcome(
            seed=self.scenario.seed,
            broker=self.scenario.broker,
            violations=tuple(self.oracle.violations),
            trace_hash=trace_hash(rows, self.results, self.ledger),
            trades=len(self.results),
            happened=self._happened(),
            results=tuple(self.results),
            virtual_s=self.loop.time(),
            rows=tuple(rows),
            bare_s=tuple(round(end - start, 3) for start, end in self.oracle.naked),
            bare=self._bare(),
            unconfirmed=self._unconfirmed(),
        )

    def _bare(self) -> tuple[BareSpan, ...]:
        """Bare time of what trades hold; a position that others made or took is not judged."""
        if self._excused() & NOT_OURS:
            return ()
        windows = [*self.mishaps.windows, *self.oracle.windows]
        found = zip(self.oracle.naked, self.oracle.naked_waits, strict=True)
        return bare.spans(self._class(bare.RESTING), found, windows)

    def _unconfirmed(self) -> tuple[BareSpan, ...]:
        """The time without an answer of each order that protects."""
        found: list[BareSpan] = []
        ledger, end_s = self.ledger, self.loop.time()
        for plan in self.scenario.plans:
            protection = bare.WATCHED if is_watched(plan, self.scenario.broker) else bare.RESTING
            orders = [ledger.intents[each] for each in ledger.of_trade.get(plan.trade_id, ())]
            waits = bare.unconfirmed_waits(orders, ledger.known_at, protection, end_s)
            named = self._class(protection)
            found += bare.spans(named, ((wait, ()) for wait in waits), self.mishaps.away)
        return tuple(found)

    def _class(self, protection: str) -> str:
        """What a slow lane bounds stands apart."""
        per_minute = self.scenario.lane_per_minute
        return protection if per_minute is None else f"{protection} at {per_minute}/min"


def trace_hash(rows: list[Row], results: list[TradeResult], ledger: MemoryLedger) -> str:
    """One hash of everything that happened at the exchange, and of what was made of it."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    for result in results:
        digest.update(result.model_dump_json().encode())
    for record in ledger.intents.values():
        digest.update(f"{record.intent.client_id} {record.state} {record.attempts}".encode())
    return digest.hexdigest()[:16]


@cache
def _argument_types() -> dict[str, list[type]]:
    """What the activities take, by their names: the JSON converter must know."""
    classes = (
        *(TradeActivities, ByHandActivities, OperationActivities, OrderActivities),
        *(ReadActivities, RiskActivities, FlattenActivities),
    )
    found: dict[str, list[type]] = {}
    for each in classes:
        for member in vars(each).values():
            definition = getattr(member, "__temporal_activity_definition", None)
            if definition is not None:
                found[definition.name] = definition.arg_types
    return found


def _without_middle_layers(app: Any) -> None:
    """The gates call the endpoints directly."""
    for gate in {id(gate): gate for gate in (*app._gates.values(), app._first)}.values():
        gate._app = Routes(gate._app)


def _exchange_config(scenario: Scenario) -> ExchangeConfig:
    fees = FeeSchedule(per_unit=D("0.005"), minimum=D("0.01"))
    listings = tuple(
        Listing(Instrument(symbol=symbol, tick_size=D("0.01")), fees=fees) for symbol in SYMBOLS
    )
    listings += tuple(Listing(each, fees=fees) for each in contracts_of(scenario.plans))
    return ExchangeConfig(
        listings=listings,
        matching=MatchingConfig(**scenario.matching),
        cash=CASH,
        seed=scenario.seed,
        start=START,
        requests_per_minute=scenario.requests_per_minute,
        face=WireFace(scenario.broker),
    )
