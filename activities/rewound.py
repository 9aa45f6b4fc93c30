"""Finds trades that know less than the ledger: Temporal's store came back from an older copy.

A power cut may cost the store its last commits, a person may put a backup back (faults.md H3). The
server notices nothing. A fill that was told before is never told again, so a trade would wait for
ever for an order that is long gone, or move a stop that has moved since. So each trade is asked
what it knows: after a start, after the server was away, and every ten minutes. One that lacks an
order of its own, or what a person told it, gives up and is built again from the ledger
(`HealthWatch`); one that lacks fills or its own end reads the broker first. One that cannot end as
it had, for it does not know the exit that sold what it holds, ends as given up; nothing is built
again then. A kill or a flatten that it has not heard it is told.
"""

from __future__ import annotations

import asyncio
import logging
import math
from datetime import datetime, timedelta

from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError

from activities.doorbell import FACTS_SIGNAL, temporal_sender
from activities.gateway import covers_trade
from activities.older_ledger import OlderLedger
from activities.restore_hand import ACTION, hand_in
from activities.services import Services
from domain.control import KillSwitch
from domain.errors import HoldfastError, Transient
from domain.facts import DiscrepancyFound, Fact, FactEnvelope, FlattenRequested, KillEngaged
from domain.fold import flatten_word, kill_word
from domain.ids import trade_workflow_id
from domain.knowledge import Lack, TradeKnowledge, lack_of
from domain.restore_hand import Hand, standing_flattens, standing_words
from domain.trade_state import HISTORY_REWOUND
from ledger.records import AuditRow, TradeRecord

TRADE_BEHIND = "TRADE_BEHIND"
SENDER = "health watch"
KNOWN_QUERY = "known"
RUNNING = "WorkflowType = 'Trade' AND ExecutionStatus = 'Running'"
AGAIN_EVERY_S = 600.0
LOOKS_TO_BELIEVE = 2
"""A fill is booked a moment before it is told."""
LOOKS_TO_GIVE_UP = 8
"""What reading the broker has not brought half a minute later is taken from the ledger."""
LOOKS_MAX = 20
"""How often a trade that is busy or does not answer is asked in one round."""
_LOST = (Lack.ORDERS, Lack.WORDS)
"""What no read of the broker brings back."""
WORDS_BACK = timedelta(days=7)
WORDS_MAX = 5000
ASKED_PER_LOOK = 100
ASKED_AT_ONCE = 8
RPC_TIMEOUT = timedelta(seconds=2)

_log = logging.getLogger(__name__)


class RewoundWatch:
    """Asks every running trade of the account until it knows what the ledger does.

    Args:
        services: ledger and clocks of the account.
        client: where the trades run.
        older: what of the trades the ledger itself has lost.
    """

    def __init__(self, services: Services, client: Client, older: OlderLedger) -> None:
        self._services = services
        self._client = client
        self._send = temporal_sender(client)
        self._older = older
        self._left: dict[str, int] = {}
        """Trades of this round that are not yet found sound, and how often each was asked."""
        self._lacking: dict[str, tuple[Lack, int]] = {}
        self._given_up: set[str] = set()
        self._hands: dict[str, Hand] = {}
        self._kills: tuple[KillSwitch, ...] = ()
        self._began_s = -math.inf

    def begin_again(self) -> None:
        """The server was away: it may have come back with an older store, and so the ledger."""
        self._began_s = -math.inf

    async def look(self) -> None:
        """One look at some of the trades that are left; a round begins when it is time.

        Raises:
            HoldfastError: the ledger did not answer.
            RPCError: Temporal did not list its trades.
        """
        if await self._older.may_be_older():
            self.begin_again()
        now_s = self._services.monotonic()
        if now_s - self._began_s >= AGAIN_EVERY_S:
            found = self._client.list_workflows(RUNNING, rpc_timeout=RPC_TIMEOUT)
            ids = [each.id.removeprefix(trade_workflow_id("")) async for each in found]
            await self._read_words()
            await self._older.book_ends(ids)
            self._left, self._lacking, self._began_s = dict.fromkeys(ids, 0), {}, now_s
        else:
            await self._older.book_owed()
        asked = list(self._left)[:ASKED_PER_LOOK]
        if asked:
            await self._older.read_watches()
        places = asyncio.Semaphore(ASKED_AT_ONCE)
        lacks = await asyncio.gather(*(self._ask(each, places) for each in asked))
        for trade_id, lack in zip(asked, lacks, strict=True):
            looks = self._left.pop(trade_id) + 1
            if lack is not Lack.NOTHING and looks < LOOKS_MAX:
                # Behind the others: one that does not answer keeps none of them waiting.
                self._left[trade_id] = looks
            await self._weigh(trade_id, lack)

    async def _read_words(self) -> None:
        """What people told trades of late, and the kills that stand: read once for a round."""
        ledger, since = self._services.ledger, self._services.now() - WORDS_BACK
        try:
            rows = await ledger.find_audit(since=since, action=ACTION, limit=WORDS_MAX)
            self._kills = (await ledger.read_control(self._services.account)).kills
        except HoldfastError as error:
            # A long audit may take too long; what orders and fills show counts all the same.
            _log.warning("words of people were not read: %s", error.code)
            return
        of_trade: dict[str, list[AuditRow]] = {}
        for row in rows:
            of_trade.setdefault(row.subject, []).append(row)
        self._hands = {trade_id: hand_in(mine) for trade_id, mine in of_trade.items()}

    async def _ask(self, trade_id: str, places: asyncio.Semaphore) -> Lack | None:
        """What the trade lacks; None if that cannot be said now."""
        async with places:
            book = await self._services.ledger.trade_book(trade_id)
            if book is not None and book.trade.account != self._services.account:
                return Lack.NOTHING
            handle = self._client.get_workflow_handle(trade_workflow_id(trade_id))
            try:
                known: TradeKnowledge = await handle.query(
                    KNOWN_QUERY, result_type=TradeKnowledge, rpc_timeout=RPC_TIMEOUT
                )
            except (RPCError, WorkflowQueryFailedError) as error:
                # It has just ended, no worker of its build runs, or that build knows no such query.
                _log.info("%s did not tell what it knows: %s", trade_id, error)
                return None
        if known.busy or await self._older.mends(trade_id, known):
            return None
        if book is None:
            return Lack.NOTHING
        if not await self._tell_wishes(book.trade, known):
            return None
        return lack_of(
            known,
            told=standing_words(self._hands.get(trade_id, Hand()), known.ended_at),
            sent=book.sent_ids,
            in_doubt=book.doubtful_ids,
            filled=book.fill_keys,
            taken_back=book.taken_back,
            ended_at=book.trade.closed_at,
        )

    async def _tell_wishes(self, trade: TradeRecord, known: TradeKnowledge) -> bool:
        """Kills and flattens that stand and that it has not heard: it takes each once.

        One from before it began, or before the end after which it was reopened, is not about it
        (`Restorer`). False if they could not be told.
        """
        if known.commands is None or trade.closed_at is not None:
            return True
        since = max(filter(None, (trade.created_at, known.ended_at)))
        now, hand = self._services.now(), self._hands.get(trade.trade_id, Hand())
        kills = [_engaged(kill, now) for kill in self._kills if _is_about(kill, trade, since)]
        if any(kill_word(fact) not in known.commands for fact in kills):
            # Two people may have lifted it since the round began.
            control = await self._services.ledger.read_control(trade.account)
            stand = {kill.command_id for kill in control.kills}
            kills = [fact for fact in kills if fact.command_id in stand]
        wishes: dict[str, KillEngaged | FlattenRequested]
        wishes = {kill_word(fact): fact for fact in kills}
        wishes |= {flatten_word(fact): fact for fact in standing_flattens(hand, since)}
        unheard = [fact for word, fact in wishes.items() if word not in known.commands]
        return not unheard or await self._signal(trade.trade_id, *unheard)

    async def _weigh(self, trade_id: str, lack: Lack | None) -> None:
        """Tells a trade that lacked the same at several looks in a row."""
        if lack is None or lack is Lack.NOTHING:
            self._lacking.pop(trade_id, None)
            if lack is Lack.NOTHING:
                # Building it again has helped: the store may be put back once more.
                self._given_up.discard(trade_id)
            return
        before, count = self._lacking.get(trade_id, (lack, 0))
        count = count + 1 if before is lack else 1
        # Should building it again not help, it must not be ended again and again.
        may_give_up = trade_id not in self._given_up
        is_told = True
        if count == LOOKS_TO_BELIEVE:
            is_told = await self._tell(trade_id, lack, give_up=may_give_up and lack in _LOST)
        elif count == LOOKS_TO_GIVE_UP and may_give_up:
            is_told = await self._tell(trade_id, lack, give_up=True)
        if is_told:
            # What was not taken is told at the next look.
            self._lacking[trade_id] = (lack, count)

    async def _tell(self, trade_id: str, lack: Lack, *, give_up: bool) -> bool:
        code = HISTORY_REWOUND if give_up else TRADE_BEHIND
        text = f"the ledger knows {lack}, this run does not"
        fact = DiscrepancyFound(at=self._services.now(), code=code, text=text)
        if not await self._signal(trade_id, fact):
            return False
        if give_up:
            self._given_up.add(trade_id)
        if give_up and lack is Lack.END:
            # Nothing builds it again: what it asked the exit watch since is nobody's.
            await self._services.ledger.delete_watch(trade_id)
        return True

    async def _signal(self, trade_id: str, *facts: Fact) -> bool:
        """False if the server did not take it: one trade's full inbox keeps no other waiting."""
        try:
            await self._send(trade_id, FACTS_SIGNAL, FactEnvelope.of(*facts, sender=SENDER))
        except Transient as error:
            _log.warning("%s was not told: %s", trade_id, error)
            return False
        return True


def _engaged(kill: KillSwitch, now: datetime) -> KillEngaged:
    return KillEngaged(
        at=now, command_id=kill.command_id, mode=kill.mode, by=kill.by, reason=kill.reason
    )


def _is_about(kill: KillSwitch, trade: TradeRecord, since: datetime) -> bool:
    return covers_trade(kill, trade) and kill.engaged_at >= since
