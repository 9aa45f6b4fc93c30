"""Which trades are told that the ledger knows more than they do, and how often (faults.md H3)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.older_ledger import OlderLedger
from activities.rewound import (
    AGAIN_EVERY_S,
    LOOKS_MAX,
    LOOKS_TO_GIVE_UP,
    TRADE_BEHIND,
    RewoundWatch,
)
from activities.services import Services
from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from domain.facts import DiscrepancyFound, FactEnvelope
from domain.ids import Purpose, client_id_of_prefix, trade_prefix, trade_workflow_id
from domain.knowledge import TradeKnowledge
from domain.trade_state import HISTORY_REWOUND
from ledger.errors import LedgerDown
from ledger.records import AuditRow

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
MINE = "acct-1"
STOP = client_id_of_prefix(trade_prefix("abcd", MINE), 0, Purpose.STOP, 1, "0" * 8)
MOVED = client_id_of_prefix(trade_prefix("abcd", MINE), 0, Purpose.STOP, 2, "0" * 8)
SOUND = TradeKnowledge(orders=(STOP, MOVED), fills=("f1",))
BUSY = TradeKnowledge(busy=True)


@dataclass
class World:
    """One trade in Temporal and in the ledger; every other workflow is of another account."""

    known: TradeKnowledge | None = SOUND
    account: str = "acct"
    closed_at: datetime | None = None
    monotonic_s: float = 0.0
    asked: int = 0
    refuses: int = 0
    audit: tuple[AuditRow, ...] = ()
    audit_is_away: bool = False
    kills: tuple[KillSwitch, ...] = ()
    told: list[str] = field(default_factory=list)
    unwatched: list[str] = field(default_factory=list)

    async def list_workflows(self, query: str, **_: Any) -> AsyncIterator[Any]:
        for trade_id in (MINE, "unknown-1"):
            yield SimpleNamespace(id=trade_workflow_id(trade_id))

    def get_workflow_handle(self, workflow_id: str) -> World:
        return self if workflow_id == trade_workflow_id(MINE) else World(known=SOUND)

    async def query(self, name: str, **_: Any) -> TradeKnowledge:
        self.asked += 1
        if self.known is None:
            raise RPCError("nobody answers", RPCStatusCode.DEADLINE_EXCEEDED, b"")
        return self.known

    async def signal(self, name: str, envelope: FactEnvelope, **_: Any) -> None:
        if self.refuses:
            self.refuses -= 1
            raise RPCError("the server has just begun", RPCStatusCode.UNAVAILABLE, b"")
        for fact in envelope.as_facts(NOW):
            self.told.append(fact.code if isinstance(fact, DiscrepancyFound) else fact.kind)

    async def trade_book(self, trade_id: str) -> Any:
        if trade_id != MINE:
            return None
        trade = SimpleNamespace(
            trade_id=MINE,
            account=self.account,
            strategy="sma",
            symbol="AAPL",
            plan=SimpleNamespace(legs=()),
            created_at=NOW,
            closed_at=self.closed_at,
        )
        return SimpleNamespace(
            trade=trade, sent_ids=(STOP, MOVED), doubtful_ids=(), fill_keys=("f1",), taken_back=()
        )

    async def find_audit(self, **_: Any) -> tuple[AuditRow, ...]:
        if self.audit_is_away:
            raise LedgerDown("too slow")
        return self.audit

    async def read_control(self, account: str) -> Any:
        return SimpleNamespace(kills=self.kills)

    async def delete_watch(self, trade_id: str) -> None:
        self.unwatched.append(trade_id)

    def watch(self) -> RewoundWatch:
        services = SimpleNamespace(
            ledger=self, account="acct", now=lambda: NOW, monotonic=lambda: self.monotonic_s
        )
        whole = cast(OlderLedger, WholeLedger())
        return RewoundWatch(cast(Services, services), cast(Client, self), whole)


class WholeLedger:
    """It has lost nothing (`tests/workflow/test_older_ledger.py` has one that has)."""

    async def may_be_older(self) -> bool:
        return False

    async def read_watches(self) -> None: ...

    async def book_ends(self, running: list[str]) -> None: ...

    async def book_owed(self) -> None: ...

    async def mends(self, trade_id: str, known: TradeKnowledge) -> bool:
        return False


def words(verb: str, *whats: str, minutes: int = 1) -> tuple[AuditRow, ...]:
    """What the audit says of a person's command to the trade."""
    return tuple(
        AuditRow(
            sequence=number,
            at=NOW + timedelta(minutes=minutes),
            actor="alice",
            action=f"trade.{verb}",
            subject=MINE,
            details=json.dumps({"command_id": f"c-{verb}", "what": what, "progress": "done"}),
            previous_hash="",
            hash="",
        )
        for number, what in enumerate(whats, start=1)
    )


def kill(minutes: int = 1) -> KillSwitch:
    return KillSwitch(
        scope=KillScope(kind=KillScopeKind.ACCOUNT, value="acct"),
        mode=KillMode.FLATTEN,
        reason="enough",
        by="alice",
        command_id="k-1",
        engaged_at=NOW + timedelta(minutes=minutes),
    )


async def look(watch: RewoundWatch, times: int) -> None:
    for _ in range(times):
        await watch.look()


async def test_a_trade_that_lacks_an_order_at_two_looks_is_given_up_once() -> None:
    """Nothing ends a trade twice: should building it again not help, a person reads the alert."""
    world = World(known=TradeKnowledge(orders=(STOP,), fills=("f1",)))
    watch = world.watch()
    await look(watch, 1)
    assert world.told == []
    await look(watch, LOOKS_MAX)
    assert world.told == [HISTORY_REWOUND]
    world.monotonic_s = AGAIN_EVERY_S
    await look(watch, LOOKS_MAX)
    assert world.told == [HISTORY_REWOUND, TRADE_BEHIND]


async def test_a_trade_that_lacks_a_fill_reads_the_broker_before_it_is_given_up() -> None:
    world = World(known=TradeKnowledge(orders=(STOP, MOVED)))
    watch = world.watch()
    await look(watch, LOOKS_TO_GIVE_UP - 1)
    assert world.told == [TRADE_BEHIND]
    await look(watch, 1)
    assert world.told == [TRADE_BEHIND, HISTORY_REWOUND]


async def test_a_trade_whose_end_is_booked_reads_the_broker_before_it_ends_as_given_up() -> None:
    """What an exit that it does not know has sold it would hold for ever; nothing is rebuilt."""
    world = World(known=TradeKnowledge(orders=(STOP,)), closed_at=NOW)
    watch = world.watch()
    await look(watch, LOOKS_TO_GIVE_UP - 1)
    assert (world.told, world.unwatched) == ([TRADE_BEHIND], [])
    await look(watch, LOOKS_MAX)
    assert (world.told, world.unwatched) == ([TRADE_BEHIND, HISTORY_REWOUND], [MINE])


async def test_a_trade_is_given_up_although_the_signal_was_not_taken_at_first() -> None:
    """It counted as told, and its next rounds read the broker for ever."""
    world = World(known=TradeKnowledge(orders=(STOP,), fills=("f1",)), refuses=2)
    watch = world.watch()
    await look(watch, LOOKS_TO_GIVE_UP)
    assert world.told == [HISTORY_REWOUND]


async def test_a_trade_that_was_sound_since_may_be_given_up_again() -> None:
    """The store is put back a second time in the life of one process."""
    world = World(known=TradeKnowledge(orders=(STOP,), fills=("f1",)))
    watch = world.watch()
    await look(watch, 2)
    set_back, world.known = world.known, SOUND
    await look(watch, 1)
    watch.begin_again()
    world.known = set_back
    await look(watch, 2)
    assert world.told == [HISTORY_REWOUND, HISTORY_REWOUND]


async def test_a_fill_that_is_on_its_way_for_one_look_is_no_lack() -> None:
    world = World(known=TradeKnowledge(orders=(STOP, MOVED)))
    watch = world.watch()
    for known in (TradeKnowledge(orders=(STOP, MOVED)), BUSY) * 5:
        world.known = known
        await watch.look()
    assert world.told == []


async def test_a_sound_trade_is_asked_once_in_a_round_and_again_after_the_server_was_away() -> None:
    world = World()
    watch = world.watch()
    await look(watch, 5)
    assert world.asked == 1
    watch.begin_again()
    await look(watch, 5)
    assert world.asked == 2
    world.monotonic_s = AGAIN_EVERY_S
    await look(watch, 5)
    assert (world.asked, world.told) == (3, [])


async def test_a_trade_that_does_not_answer_is_left_alone_after_a_while() -> None:
    """No worker of its build runs: `TRADE_STUCK` tells of it."""
    world = World(known=None)
    await look(world.watch(), 2 * LOOKS_MAX)
    assert (world.asked, world.told) == (LOOKS_MAX, [])


async def test_trades_of_another_account_are_not_asked() -> None:
    world = World(account="another")
    await look(world.watch(), 3)
    assert (world.asked, world.told) == (0, [])


def heard(*commands: str, ended_at: datetime | None = None) -> TradeKnowledge:
    return SOUND.model_copy(update={"commands": commands, "ended_at": ended_at})


@pytest.mark.parametrize(
    ("known", "told"),
    [(heard(), [HISTORY_REWOUND]), (heard("c-take_over"), []), (SOUND, [])],
    ids=["set back", "it knows", "a build that does not tell"],
)
async def test_a_trade_that_lacks_what_a_person_told_it_is_built_again_with_it(
    known: TradeKnowledge, told: list[str]
) -> None:
    """Set back behind a take-over it went on trading beside the person: no order shows that."""
    world = World(known=known, audit=words("take_over", "asked", "answered"))
    await look(world.watch(), LOOKS_TO_GIVE_UP)
    assert world.told == told


async def test_a_command_that_nobody_answered_gives_no_trade_up() -> None:
    world = World(known=heard(), audit=words("take_over", "asked"))
    await look(world.watch(), LOOKS_MAX)
    assert world.told == []


@pytest.mark.parametrize(
    ("world", "told"),
    [
        (World(known=heard(), kills=(kill(),)), ["kill_engaged"]),
        (World(known=heard("kill/flatten/k-1"), kills=(kill(),)), []),
        (World(known=heard(), kills=(kill(minutes=-1),)), []),
        (World(known=heard(ended_at=NOW + timedelta(minutes=2)), kills=(kill(),)), []),
        (World(known=heard(), audit=words("flatten", "asked")), ["flatten_requested"]),
        (World(known=heard("flatten/c-flatten"), audit=words("flatten", "asked")), []),
        (World(known=heard(), audit=words("flatten", "asked"), closed_at=NOW), []),
    ],
    ids=[
        "a kill",
        "it knows the kill",
        "from before it began",
        "from before it was reopened",
        "a flatten",
        "it knows the flatten",
        "it has ended",
    ],
)
async def test_a_kill_or_a_flatten_that_a_trade_has_not_heard_is_told_again(
    world: World, told: list[str]
) -> None:
    """While nothing can trade no order shows it: it was not closed at the next open."""
    await look(world.watch(), 1)
    assert world.told == told


async def test_a_kill_that_the_server_did_not_take_is_told_at_the_next_look() -> None:
    """It stopped the look at all other trades, and whatever the health watch looks at behind."""
    world = World(known=heard(), kills=(kill(),), refuses=2)
    watch = world.watch()
    await look(watch, 2)
    assert world.told == []
    await look(watch, 2)
    assert world.told == ["kill_engaged"]


async def test_orders_are_compared_although_the_audit_cannot_be_read() -> None:
    world = World(known=TradeKnowledge(orders=(STOP,), fills=("f1",)), audit_is_away=True)
    await look(world.watch(), 2)
    assert world.told == [HISTORY_REWOUND]
