"""The days of a session outside the workflow: the next day, its beginning, and the drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from pydantic import AwareDatetime
from temporalio import activity
from temporalio.service import RPCError

from activities.baseline import take_baseline
from activities.day_reading import night_stops, trade_protection
from activities.services import Services
from activities.session import SessionActivities
from domain.base import Frozen
from domain.errors import HoldfastError
from domain.facts import FactEnvelope, FlattenRequested
from domain.ids import Purpose, trade_workflow_id
from domain.money import Amount
from domain.session import OpenTrade, SessionSpec
from domain.session_day import SessionDay
from domain.trade_state import Stage

DRAIN_LOOK_S = 0.2
_BEFORE_ENTRY = (Stage.RESERVING, Stage.ENTERING)


class NextDayInput(Frozen):
    """`after`: open of the day before, None for the first one."""

    spec: SessionSpec
    market_now: AwareDatetime
    after: AwareDatetime | None = None


class NextDay(Frozen):
    """The next day of the session; None when there is no further one."""

    day: SessionDay | None = None


class BeginDayInput(Frozen):
    spec: SessionSpec
    day: SessionDay


class DayBegun(Frozen):
    """`baseline`: the account's equity at the day's roll; None if it could not be read now."""

    baseline: Amount | None = None


class DrainInput(Frozen):
    """Wait until entries are dead, with `flatten` until all is flat, at most `wait_s` (wall).

    Only trades of `account` count: a session of the same name may have run on another one.
    """

    session: str
    account: str = ""
    trades: tuple[str, ...] = ()
    flatten: bool = False
    wait_s: float = 10.0


class Drained(Frozen):
    """What is still open, and whether that is as little as was asked for."""

    trades: tuple[OpenTrade, ...] = ()
    done: bool = True


class SessionDayActivities:
    """A session's morning and evening. `next_day` reads calendars (marketdata.session_days)."""

    def __init__(
        self,
        services: Services,
        sessions: SessionActivities,
        next_day: Callable[[SessionSpec, datetime, datetime | None], SessionDay | None],
    ) -> None:
        self._services = services
        self._sessions = sessions
        self._next_day = next_day

    @activity.defn(name="next_session_day")
    async def next_session_day(self, input: NextDayInput) -> NextDay:
        """The day that runs or comes next, with its real hours."""
        # The first look at a calendar imports pandas: a second that trades must not wait.
        day = await asyncio.to_thread(self._next_day, input.spec, input.market_now, input.after)
        return NextDay(day=day)

    @activity.defn(name="begin_session_day")
    async def begin_session_day(self, input: BeginDayInput) -> DayBegun:
        """Stores the equity baseline of the day and starts feed and strategies anew.

        The baseline belongs to the account's roll: the first one stands, whoever takes it. One
        that cannot be read now is taken by the next reservation (activities.risk).
        """
        baseline = None
        try:
            baseline = await take_baseline(self._services.of(input.spec.account))
        except HoldfastError as error:
            activity.logger.warning("equity baseline was not taken: %s", error.code)
        await self._sessions.prepare(input.spec)
        return DayBegun(baseline=baseline)

    @activity.defn(name="drain_session")
    async def drain_session(self, input: DrainInput) -> Drained:
        """Looks at the session's trades until nothing is left to wait for."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + input.wait_s
        if input.flatten:
            await self._tell_earlier_runs(input)
        while True:
            trades = await self._open_trades(input)
            waits = trades if input.flatten else [t for t in trades if t.entry_works]
            if not waits or loop.time() >= deadline:
                return Drained(trades=tuple(trades), done=not waits)
            await asyncio.sleep(DRAIN_LOOK_S)

    async def _tell_earlier_runs(self, input: DrainInput) -> None:
        """Trades that an earlier run of the session left open go too; the workflow tells its own.

        One that does not hear it is seen to be open in the answer, and is told at the next asking.
        """
        fact = FlattenRequested(
            at=self._services.now(),
            command_id=f"stop-flatten-{input.session}",
            by="session",
            reason="session stop with flatten",
        )
        envelope = FactEnvelope.of(fact, sender="session")
        for trade in await self._open_trades(input):
            if trade.trade_id not in input.trades:
                handle = activity.client().get_workflow_handle(trade_workflow_id(trade.trade_id))
                try:
                    await handle.signal("facts", envelope)
                except RPCError as error:
                    activity.logger.warning("%s was not told: %s", trade.trade_id, error.message)

    async def _open_trades(self, input: DrainInput) -> list[OpenTrade]:
        """Open trades of the session by the ledger, and those that have no row there yet."""
        ledger = self._services.ledger
        rows = await ledger.list_trades(
            account=input.account or None, session=input.session, open_only=True
        )
        owned = {
            account: await ledger.positions_by_trade(account)
            for account in sorted({row.account for row in rows})
        }
        found = []
        for row in rows:
            orders = await ledger.open_orders(row.account, trade_id=row.trade_id)
            stops = night_stops(orders, {}).get(row.trade_id, ())
            works = any(order.intent.key.purpose is Purpose.ENTRY for order in orders)
            found.append(
                OpenTrade(
                    trade_id=row.trade_id,
                    symbol=row.symbol,
                    stage=row.stage,
                    protection=trade_protection(row, owned[row.account], stops),
                    entry_works=works or row.stage in _BEFORE_ENTRY,
                )
            )
        known = {row.trade_id for row in rows}
        unseen = [each for each in input.trades if each not in known]
        starting = [each for each in unseen if await ledger.trade(each) is None]
        found += [OpenTrade(trade_id=each, stage="starting", entry_works=True) for each in starting]
        return found
