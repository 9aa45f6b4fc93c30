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
import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

from pydantic import SecretStr
from temporalio.client import Client as TemporalClient

from activities.by_hand import ByHandActivities
from activities.operations import OperationActivities
from activities.orders import OrderActivities
from activities.reads import ReadActivities
from activities.risk import RiskActivities
from activities.services import Services, StreamInput
from activities.streams import FillStream
from activities.trades import TradeActivities
from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig
from brokers.port import Broker
from brokers.tradier.client import TradierBroker
from brokers.tradier.config import TradierConfig
from domain.clock import real_time
from domain.ids import order_queue, trade_prefix, trade_workflow_id
from domain.instrument import Instrument
from domain.messages import TradeInput, TradeResult
from domain.plan import TradePlan
from domain.risk.limits import RestrictedList
from ledger.repository import Ledger
from simulator.app import AlpacaFace, TradierFace
from simulator.clock import SimClock
from simulator.config import ExchangeConfig, FeeSchedule, Listing, MatchingConfig, WireFace
from simulator.exchange import Exchange
from simulator.journal import Journal, Row
from tests.rig import roomy_limits
from tests.simulation.clock import START, VirtualLoop, run_virtual
from tests.simulation.ledger import MemoryLedger
from tests.simulation.oracle import Oracle
from tests.simulation.payloads import ByReference, json_payloads
from tests.simulation.processes import Process
from tests.simulation.scenario import ACCOUNT, DEADLINE_S, SYMBOLS, Scenario, calm
from tests.simulation.temporal import Client, Run, Server
from tests.simulation.wire import Call, HttpxTransport, Routes, Weather, Wire
from workflows.trade import TradeWorkflow

D = Decimal
INSTALLATION = "5101"
CASH = D(1_000_000)
LIMITS = roomy_limits(max_order_notional="1000000", max_total_notional="10000000")
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


def run_seed(
    seed: int,
    *,
    broker: str = "alpaca",
    mutant: Mutant = nullcontext,
    exchange_behaviour: ExchangeBehaviour | None = None,
) -> Outcome:
    """The seed's own scenario."""
    return run_scenario(calm(seed, broker), mutant=mutant, exchange_behaviour=exchange_behaviour)


def run_scenario(
    scenario: Scenario,
    *,
    mutant: Mutant = nullcontext,
    exchange_behaviour: ExchangeBehaviour | None = None,
) -> Outcome:
    """Plays the scenario to its end in virtual time."""
    before = random.getstate()
    logging.disable(logging.CRITICAL)
    random.seed(f"simulation:{scenario.seed}")
    loop = VirtualLoop()
    try:
        with mutant():
            return run_virtual(World(scenario, loop, exchange_behaviour).play(), loop)
    finally:
        logging.disable(logging.NOTSET)
        random.setstate(before)


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
        self.happened: Counter[str] = Counter()
        self.ledger = MemoryLedger(ACCOUNT, scenario.broker, INSTALLATION, loop.now)
        journal = ToldJournal()
        self.exchange = Exchange(_exchange_config(scenario), journal=journal)
        self.oracle = Oracle(self.ledger, self.exchange.config.cash)
        journal.listener = self.oracle.on_row
        self.clock = SimClock(START, D(1), wall_s=loop.time)
        make_face = AlpacaFace if scenario.broker == "alpaca" else TradierFace
        self.face = make_face(self.exchange, self.clock)
        _without_middle_layers(self.face.app)
        self._wake_exchange()
        if exchange_behaviour is not None:
            exchange_behaviour(self.exchange)
        converter = json_payloads() if scenario.json_payloads else ByReference()
        workflows = {"Trade": TradeWorkflow}
        self.server = Server(loop, workflows, converter, self._lag_s, self._closed)
        self.processes: dict[str, Process] = {}
        self.results: list[TradeResult] = []
        self._births = 0
        loop.set_exception_handler(self._broken)

    def _broken(self, _loop: object, context: dict[str, Any]) -> None:
        """An error that nobody caught, ours or the simulation's, fails the run."""
        error = context.get("exception")
        self.oracle.violated("BROKEN", f"{context.get('message')}: {error!r}")

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
        if not process.is_alive:
            return Weather(refused=True)
        return Weather(self.dice.choice((0.001, 0.004)), self.dice.choice((0.001, 0.004)))

    def birth(self, name: str) -> Process:
        """A new incarnation of a process, serving its queues."""
        self._births += 1
        process = Process(name, self._births)
        self.processes[name] = process
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
            process.bodies = {
                "place_order": orders.place_order,
                "replace_order": orders.replace_order,
                "walk_step": orders.walk_step,
                "cancel_order": orders.cancel_order,
                "resolve_order": orders.resolve_order,
                "read_broker": reads.read_broker,
                "read_quote": reads.read_quote,
                "reserve_risk": RiskActivities(services).reserve_risk,
            }
            self.server.serve(order_queue(ACCOUNT), process)
        else:
            client = cast(TemporalClient, Client(self.server))
            given = StreamInput(account=ACCOUNT, compare_interval_s=10.0, clock_interval_s=20.0)
            stream = FillStream(services, client, given)
            process.spawn(stream.run(f"streams/{process.number}"))
        return process

    def _services(self, process: Process) -> Services:
        return Services(
            ledger=cast(Ledger, self.ledger),
            broker=self._broker(process),
            account=ACCOUNT,
            broker_name=self.scenario.broker,
            installation=INSTALLATION,
            limits=LIMITS,
            restricted=RestrictedList(as_of=START),
            now=self.loop.now,
            monotonic=self.loop.time,
        )

    def _broker(self, process: Process) -> Broker:
        """The real adapter of this process, on its own way through the network."""
        wire = Wire(self.face.app, lambda call: self._weather(process, call))
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
        for name in ("trade", "gateway", "streams"):
            self.birth(name)
        for plan, at_s in zip(scenario.plans, scenario.starts_s, strict=True):
            self.loop.call_later(at_s, self._start, plan)
        while self.loop.time() < DEADLINE_S and not self._is_over():  # noqa: ASYNC110
            await asyncio.sleep(1.0)
        await asyncio.sleep(0.5)
        self.catch_up()
        self._judge_end()
        return self._outcome()

    def _show(self, move: Any) -> None:
        self.catch_up()
        self.exchange.set_quote(move.symbol, move.bid, move.ask, move.size, move.size)

    def _start(self, plan: TradePlan) -> None:
        given = TradeInput(plan=plan, installation=INSTALLATION, clock=real_time(START))
        self.server.start("Trade", given, trade_workflow_id(plan.trade_id))

    def _is_over(self) -> bool:
        started = len({run.workflow_id for run in self.server.runs})
        return started == len(self.scenario.plans) and all(r.is_closed for r in self.server.runs)

    def _closed(self, run: Run) -> None:
        """A trade says that it has ended: the exchange is asked whether that is so."""
        if not isinstance(run.result, TradeResult):
            self.oracle.violated("I11", f"{run.workflow_id} ended without a result: {run.failure}")
            return
        self.results.append(run.result)
        prefix = trade_prefix(INSTALLATION, run.result.trade_id)
        working = [
            order.client_id
            for order in self.exchange.open_orders
            if order.client_id.startswith(prefix)
        ]
        self.oracle.at_close(run.result.trade_id, working)

    def _judge_end(self) -> None:
        for run in self.server.runs:
            if not run.is_closed:
                self.oracle.violated("I11", f"{run.workflow_id} has not ended")
        for text in self.server.tasks_failed:
            self.oracle.violated("I11", f"workflow task failed: {text}")
        account = self.exchange.state.account
        self.oracle.at_end(account, self.exchange.open_orders)

    def _outcome(self) -> Outcome:
        rows = self.exchange.journal.rows
        return Outcome(
            seed=self.scenario.seed,
            broker=self.scenario.broker,
            violations=tuple(self.oracle.violations),
            trace_hash=trace_hash(rows),
            trades=len(self.results),
            happened=self.happened,
            results=tuple(self.results),
            virtual_s=self.loop.time(),
            rows=tuple(rows),
        )


def trace_hash(rows: list[Row]) -> str:
    """One hash of everything that happened at the exchange."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _without_middle_layers(app: Any) -> None:
    """The gates call the endpoints directly."""
    for gate in {id(gate): gate for gate in (*app._gates.values(), app._first)}.values():
        gate._app = Routes(gate._app)


def _exchange_config(scenario: Scenario) -> ExchangeConfig:
    fees = FeeSchedule(per_unit=D("0.005"), minimum=D("0.01"))
    listings = tuple(
        Listing(Instrument(symbol=symbol, tick_size=D("0.01")), fees=fees) for symbol in SYMBOLS
    )
    return ExchangeConfig(
        listings=listings,
        matching=MatchingConfig(**scenario.matching),
        cash=CASH,
        seed=scenario.seed,
        start=START,
        requests_per_minute=scenario.requests_per_minute,
        face=WireFace(scenario.broker),
    )
