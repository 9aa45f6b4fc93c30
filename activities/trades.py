"""The ledger's side of a trade's life: stage rows, exit watches, alerts, the settlement."""

from __future__ import annotations

import asyncio
from datetime import datetime

from temporalio import activity

from activities.by_hand import with_adjustments
from activities.executions import fills_of_trade
from activities.services import (
    AlertInput,
    AlertMessage,
    Services,
    SettleInput,
    TradeRef,
    WatchInput,
    note_stage,
)
from domain.alerts import AlertDraft
from domain.commands import WatchExits
from domain.errors import Transient
from domain.facts import (
    DiscrepancyFound,
    Fact,
    FactBatch,
    FillBusted,
    FillReported,
    Settled,
)
from domain.knowledge import Lack, lack_of
from domain.money import ZERO, as_amount, total
from domain.money_law import trade_result
from domain.trade_state import HISTORY_REWOUND
from ledger.records import WatchRecord

SETTLED_AT_ONCE = 4
"""Of the ledger's ten connections. A hundred at once each waited for one until their time was up,
were tried again, and kept the gate from it: with other work on the machine none came to its end."""

TOLD_BEFORE_THE_END_S = 1.0


class TradeActivities:
    """Bookkeeping of trades; nothing here talks to the broker."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._turns = asyncio.Semaphore(SETTLED_AT_ONCE)

    @activity.defn(name="watch_exits")
    async def watch_exits(self, input: WatchInput) -> FactBatch:
        """Upserts one watch row per rule for this position epoch; NOTIFY wakes the exit watch."""
        for row in watch_rows(input.trade, input.command, activity.info().scheduled_time):
            await self._services.ledger.upsert_watch(row)
        # An option that is watched may have no step with the broker before its end.
        await note_stage(self._services, input.trade)
        return FactBatch()

    @activity.defn(name="raise_alert")
    async def raise_alert(self, input: AlertInput) -> None:
        """Puts the alert into the outbox. Never blocks trading: it is its own activity."""
        services, alert = self._services.of(input.trade.account), input.command
        activity.logger.warning(
            "alert %s", alert.code, extra={"trade_id": input.trade.trade_id, "text": alert.text}
        )
        draft = AlertDraft.of(
            input.trade.account, input.trade.trade_id, alert.code, alert.severity, alert.text
        )
        await services.ledger.raise_alert(draft, "trade")
        message = AlertMessage(
            trade_id=input.trade.trade_id, account=input.trade.account, alert=alert
        )
        for sink in services.alert_sinks:
            sink(message)

    @activity.defn(name="settle_trade")
    async def settle_trade(self, input: SettleInput) -> FactBatch:
        """Books the end of a trade: P&L by the money law, watches away, reservation released.

        Idempotent: every write is by trade id and the release counts once (I6). Fees are those
        booked by now, under the trade or on rows that name an order of it; `fees_estimated` says
        whether more may come.

        Raises:
            Transient: `SETTLE_LATE`, its time was up before its turn came: another attempt has it.
        """
        began_s, limit = self._services.monotonic(), activity.info().start_to_close_timeout
        async with self._turns:
            waited_s = self._services.monotonic() - began_s
            if limit is not None and waited_s >= limit.total_seconds():
                raise Transient(f"its turn came after {waited_s:.1f} s", code="SETTLE_LATE")
            booked = await self._settle(input)
        if any(isinstance(fact, FillReported) for fact in booked.facts):
            # The trade asks again once it has these; one that cannot place them must not spin.
            await asyncio.sleep(TOLD_BEFORE_THE_END_S)
        return booked

    async def _settle(self, input: SettleInput) -> FactBatch:
        if unknown := await self._unknown_to(input):
            return FactBatch(facts=unknown)
        return FactBatch(facts=(await settle(self._services.of(input.trade.account), input),))

    async def _unknown_to(self, input: SettleInput) -> tuple[Fact, ...]:
        """What the ledger knows and the trade does not: no trade ends on less (H3, I3).

        One that was set back into its walk saw an order replaced by another that it did not know,
        and ended unfilled beside the position that this one had bought.
        """
        services = self._services.of(input.trade.account)
        book = await services.ledger.trade_book(input.trade.trade_id)
        if input.known is None or book is None:
            return ()
        known = input.known
        gone = book.taken_back
        lack = lack_of(
            known,
            sent=book.sent_ids,
            in_doubt=book.doubtful_ids,
            filled=book.fill_keys,
            taken_back=gone,
        )
        now, row = services.now(), book.trade
        if lack is Lack.NOTHING:
            return ()
        if row.closed_at is not None and row.closed_at != known.ended_at:
            # It has ended before, as it is booked; nothing of that is written over.
            await services.ledger.delete_watch(row.trade_id)
            return (
                Settled(
                    at=now,
                    realised=row.realised or ZERO,
                    fees=row.fees or ZERO,
                    fees_estimated=row.fees_estimated,
                    closed_at=row.closed_at,
                ),
            )
        if lack is Lack.ORDERS:
            text = f"the ledger knows {lack}, this run does not"
            return (DiscrepancyFound(at=now, code=HISTORY_REWOUND, text=text),)
        fills = (row.fill for row in book.fills if not row.is_reversal)
        return (
            *(
                FillReported(at=now, fill=fill)
                for fill in fills
                if fill.fill_key not in (*known.fills, *gone)
            ),
            *(FillBusted(at=now, fill_key=key) for key in gone if key in known.fills),
        )


def watch_rows(trade: TradeRef, command: WatchExits, asked_at: datetime) -> list[WatchRecord]:
    """One row per rule of this position epoch."""
    document = command.model_dump(mode="json", exclude={"rules"})
    document |= {"clock": trade.clock.model_dump(mode="json")}
    # A rebuilt trade asks for the same rule, which may have fired for the one before it.
    document |= {"asked_at": asked_at.isoformat()}
    return [
        WatchRecord(
            trade_id=trade.trade_id,
            account=trade.account,
            rule_id=rule.rule_id,
            position_epoch=command.position_epoch,
            symbol=trade.symbols[0],
            document=document | {"rule": rule.model_dump(mode="json")},
        )
        for rule in command.rules
    ]


async def settle(services: Services, input: SettleInput) -> Settled:
    """Books the end by what the ledger has of the trade."""
    trade_id = input.trade.trade_id
    fills = await fills_of_trade(services, trade_id)
    moved = await services.ledger.adjustments(services.account, trade_id)
    booked = await services.ledger.fees(services.account, trade_id)
    order_ids = tuple({fill.broker_order_id for fill in fills})
    named = await services.ledger.fees_naming(services.account, order_ids)
    result = trade_result(
        [leg.instrument for leg in input.plan.legs],
        with_adjustments(fills, moved, input.plan.side),
        other_fees=total(row.amount for row in (*booked, *named)),
        account_currency=input.plan.instrument.currency,
    )
    # Funding and income come under the broker's row and word; they are no execution's fee.
    told = any("/" not in row.activity_id for row in booked)
    estimated = result.fees_estimated and not told
    net, fees = as_amount(result.net), as_amount(result.fees)
    await services.ledger.delete_watch(trade_id)
    await services.ledger.release_reservation(trade_id, input.command.outcome)
    await services.ledger.update_trade(
        trade_id,
        stage=input.stage,
        protection="none",
        story=input.story or None,
        document=input.command.model_dump(mode="json"),
    )
    closed = await services.ledger.settle_trade(
        trade_id,
        net,
        fees,
        fees_estimated=estimated,
        result=input.command.exit_reason or input.command.outcome,
    )
    # A row of losses ends with this trade or not at all: the rule is asked here.
    await services.ledger.disable_after_losses(input.plan.strategy, services.account)
    return Settled(
        at=services.now(),
        realised=net,
        fees=fees,
        fees_estimated=estimated,
        closed_at=closed.closed_at,
    )
