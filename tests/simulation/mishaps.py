"""Plays the mishaps of a scenario: faults of the venue, deaths, stalls, outages, operators.

Every mishap that strikes is counted in `happened`; the test over many seeds fails if one of the
kinds never struck ("sometimes" assertions). At `HEAL_S` everything heals.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from domain.ids import trade_workflow_id
from domain.messages import OperatorRequest, OperatorSignal, VersionSignal
from tests.simulation.events import VenueEvents
from tests.simulation.lines import LedgerTrouble
from tests.simulation.processes import Process
from tests.simulation.scenario import ACCOUNT, HEAL_S, Mishap
from tests.simulation.wire import Call

if TYPE_CHECKING:
    from tests.simulation.world import World

REQUEST_LATE_MAX_S = 2.5
"""A request may reach the venue late, but not after the client's own deadline of 3 s: that is the
assumption on which the settle window rests (architecture §5)."""
RESUME_AFTER_S = 5.0
NAMES = ("trade", "gateway", "streams")


class Mishaps:
    """What is wrong now, and what waits for its moment."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.happened: Counter[str] = Counter()
        self.ledger = LedgerTrouble()
        self.ledger.lose_commit = lambda method: self._strikes("commit_lost") is not None
        self.ledger.stall_s = self._gate_stall_s
        self.no_network = False
        self.odd_quote = ""
        self.is_healed = False
        self.windows: list[tuple[float, float]] = []
        self.away: list[tuple[float, float]] = []
        self.events = VenueEvents(world, self._count)
        self._armed: list[Mishap] = []
        self._seen: Counter[int] = Counter()

    def plan(self) -> None:
        """Puts every mishap on the clock, and the healing of all of them."""
        loop = self._world.loop
        for mishap in self._world.scenario.mishaps:
            loop.call_later(mishap.at_s, self._begin, mishap)
        loop.call_later(HEAL_S, self.heal)

    def heal(self) -> None:
        """From here on nothing goes wrong; liveness is demanded (I11)."""
        world = self._world
        self.is_healed = True
        self._armed.clear()
        world.exchange.state.faults.clear()
        self.ledger.is_down = self.no_network = False
        self.odd_quote = ""
        world.server.fail_over(False)
        for name in NAMES:
            if not world.processes[name].is_alive:
                world.birth(name)

    def _begin(self, mishap: Mishap) -> None:
        begin = getattr(self, f"_begin_{mishap.kind}", None)
        if begin is None:
            self._armed.append(mishap)
        else:
            begin(mishap)

    def _strikes(self, kind: str, **wanted: str) -> Mishap | None:
        """The armed mishap of this kind whose turn has come; each strikes once."""
        for mishap in self._armed:
            if mishap.kind != kind or any(mishap.get(k) != v for k, v in wanted.items()):
                continue
            self._seen[id(mishap)] += 1
            if self._seen[id(mishap)] >= mishap.get("nth", 1):
                self._armed.remove(mishap)
                self._count(mishap, *wanted.values())
                return mishap
        return None

    def _count(self, mishap: Mishap, *words: str) -> None:
        self.happened["/".join((mishap.kind, *words))] += 1

    def trouble(self, for_s: float, *, is_away: bool = True) -> None:
        """From now on something is wrong that nobody can do anything against.

        `is_away`: a part of the system does not run or cannot be reached.
        """
        now_s = self._world.loop.time()
        self.windows.append((now_s, now_s + for_s))
        if is_away:
            self.away.append((now_s, now_s + for_s))

    # --- the venue --------------------------------------------------------------------------------

    def _begin_fault(self, mishap: Mishap) -> None:
        match = dict(mishap.get("match"))
        rule = {"kind": mishap.get("fault"), "match": match, "params": dict(mishap.get("params"))}
        self._world.exchange.state.faults.add(rule)

    def _begin_event(self, mishap: Mishap) -> None:
        self.events.begin(mishap)

    def _begin_quote_odd(self, mishap: Mishap) -> None:
        self.odd_quote = mishap.get("how")
        self._count(mishap, self.odd_quote)
        self.trouble(mishap.get("for_s"), is_away=False)
        self._world.show_again()
        self._world.loop.call_later(mishap.get("for_s"), self._end_odd_quote)

    def _end_odd_quote(self) -> None:
        self.odd_quote = ""
        self._world.show_again()

    # --- deaths -----------------------------------------------------------------------------------

    def _begin_crash(self, mishap: Mishap) -> None:
        name = mishap.get("process")
        self._count(mishap, name)
        for each in NAMES if name == "all" else (name,):
            self.kill(each, mishap.get("down_s"))

    def kill(self, name: str, down_s: float) -> None:
        """SIGKILL of one process; the supervisor starts it again after a while."""
        world = self._world
        if not world.processes[name].is_alive:
            return
        self.trouble(down_s)
        world.bury(name)
        world.loop.call_later(down_s, self._reborn, name)

    def _reborn(self, name: str) -> None:
        if not self._world.processes[name].is_alive:
            self._world.birth(name)

    def failpoint(self, process: Process, name: str) -> None:
        """A durable step: here a process may die. Raises into the dying activity."""
        mishap = self._strikes("crash_at", failpoint=name)
        if mishap is not None:
            self.kill(process.name, mishap.get("down_s"))
            raise asyncio.CancelledError

    def lose_task(self) -> bool:
        """The workflow process dies with a finished task that nobody heard of."""
        mishap = self._strikes("crash_at", failpoint="workflow_task")
        if mishap is None:
            return False
        self._world.loop.call_soon(self.kill, "trade", mishap.get("down_s"))
        return True

    def _begin_evicted(self, mishap: Mishap) -> None:
        self._count(mishap)
        self._world.server.forget_workflows()

    # --- stalls and outages -----------------------------------------------------------------------

    def _gate_stall_s(self, method: str) -> float:
        if method != "open_gate":
            return 0.0
        return self._stall_s("gate")

    def body_stall_s(self) -> float:
        """The worker has taken the activity and does nothing for a while."""
        return self._stall_s("body")

    def _stall_s(self, where: str) -> float:
        mishap = self._strikes("stall", where=where)
        if mishap is None:
            return 0.0
        self.trouble(mishap.get("for_s"), is_away=where in ("gate", "body"))
        return float(mishap.get("for_s"))

    def on_the_way_s(self, call: Call) -> tuple[float, float]:
        """Seconds that a writing request loses on its way out and its answer on the way back."""
        if call.method == "GET":
            return 0.0, 0.0
        out_s = min(self._stall_s("request"), REQUEST_LATE_MAX_S)
        return out_s, self._stall_s("reply")

    def _begin_ledger_down(self, mishap: Mishap) -> None:
        self._count(mishap)
        self.ledger.is_down = self._world.oracle.rows_may_lag = True
        self._for_a_while(mishap, self._end_ledger_down)

    def _end_ledger_down(self) -> None:
        self.ledger.is_down = False

    def _begin_temporal_down(self, mishap: Mishap) -> None:
        self._count(mishap)
        self._world.server.fail_over(True)
        self._for_a_while(mishap, lambda: self._world.server.fail_over(False))

    def _begin_no_network(self, mishap: Mishap) -> None:
        self._count(mishap)
        self.no_network = True
        self._for_a_while(mishap, self._end_no_network)

    def _end_no_network(self) -> None:
        self.no_network = False

    def _for_a_while(self, mishap: Mishap, end: object) -> None:
        for_s = mishap.get("for_s")
        self.trouble(for_s)
        self._world.loop.call_later(for_s, end)  # type: ignore[arg-type]

    # --- operators --------------------------------------------------------------------------------

    def _begin_operator(self, mishap: Mishap) -> None:
        verb = mishap.get("verb")
        self._count(mishap, verb)
        for _ in range(2 if mishap.get("twice") else 1):
            for plan in self._world.scenario.plans:
                self._operate(verb, plan.trade_id, mishap)

    def _operate(self, verb: str, trade_id: str, mishap: Mishap) -> None:
        world, workflow_id = self._world, trade_workflow_id(trade_id)
        command_id = f"{verb}-{trade_id}-{mishap.at_s}"
        if verb == "kill":
            self._engage(KillMode(mishap.get("mode")), f"kill-{mishap.at_s}")
        elif not world.server.is_open(workflow_id) or world.server.is_down:
            return
        elif verb == "flatten":
            signal = OperatorSignal(command_id=command_id, by="ann", reason="drill")
            world.server.signal(workflow_id, "flatten", signal)
        elif verb == "new_build":
            world.server.signal(workflow_id, "version_changed", VersionSignal(build_id="next"))
        elif verb == "close_part":
            request = OperatorRequest(command_id=command_id, by="ann", fraction=Decimal("0.5"))
            world.server.update(workflow_id, "close", request)
        else:
            request = OperatorRequest(command_id=command_id, by="ann", reason="drill")
            world.server.update(workflow_id, "pause", request)
            again = request.model_copy(update={"command_id": f"{command_id}-resume"})
            world.loop.call_later(RESUME_AFTER_S, world.server.update, workflow_id, "resume", again)

    def _engage(self, mode: KillMode, command_id: str) -> None:
        """The kill's row, as the command line writes it; sweeps follow in the gateway."""
        kill = KillSwitch(
            scope=KillScope(kind=KillScopeKind.ACCOUNT, value=ACCOUNT),
            mode=mode,
            reason="drill",
            by="ann",
            command_id=command_id,
            engaged_at=self._world.loop.now(),
        )
        self._world.loop.create_task(self._world.ledger.engage_kill(ACCOUNT, kill))
        self._world.oracle.killed_s = min(self._world.oracle.killed_s, self._world.loop.time())
