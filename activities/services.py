"""What activities work with: ports, injected once in `worker.py`, and the names of the caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import AwareDatetime
from temporalio import activity

from activities.market_parts import MarketParts
from activities.meter import Meter, NoMeter
from brokers.port import Broker
from domain.base import Frozen
from domain.clock import ClockMap
from domain.commands import (
    Alert,
    CancelOrder,
    PlaceOrder,
    ReadBroker,
    ReadQuote,
    ReplaceOrder,
    ResolveOrder,
    Settle,
    WalkStep,
    WatchExits,
)
from domain.errors import HoldfastError, Transient
from domain.ids import TRADE_QUEUE
from domain.knowledge import TradeKnowledge
from domain.plan import TradePlan
from domain.risk.fees import FeeRates
from domain.risk.limits import Limits, RestrictedList
from ledger.records import OrderOwner
from ledger.repository import Ledger

LAG_MAX_S = 300.0


def wall_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """Everything an activity may touch. Nothing below reads environment or files.

    `entry_blocked` answers why no increasing order may go out whatever the ledger says (a kill
    that waits in the local journal); empty = none. `failpoint` is called at the named durable
    steps (faults.md §2.1) and does nothing outside of crash tests. `broker_name` is the venue's
    name in the ledger; `peers` are the other accounts of a process that serves several;
    `market` is the market-data stream, None where the venue's adapter has none;
    `universe` are the symbols whose data must be fresh as a batch (requirement 181). For
    `lag_max_s` a venue that promises nothing may show no trace of an order that it has (C5).
    """

    ledger: Ledger
    broker: Broker
    account: str
    broker_name: str
    installation: str
    limits: Limits
    restricted: RestrictedList
    config_hash: str = ""
    build_id: str = ""
    allow_market_exits: bool = True
    live: bool = False
    universe: tuple[str, ...] = ()
    disallow_market_orders: bool = True
    fees: FeeRates = field(default_factory=FeeRates)
    request_timeout_s: float = 3.0
    settle_window_s: float = 2.0
    lag_max_s: float = LAG_MAX_S
    failpoint: Callable[[str], None] = field(default=lambda name: None)
    entry_blocked: Callable[[], str] = field(default=lambda: "")
    meter: Meter = field(default_factory=NoMeter)
    alert_sinks: tuple[Callable[[AlertMessage], None], ...] = ()
    market: MarketParts | None = None
    peers: Mapping[str, Services] = field(default_factory=dict, repr=False)
    now: Callable[[], datetime] = wall_now
    monotonic: Callable[[], float] = time.monotonic

    def of(self, account: str) -> Services:
        """The services of this account, for activities on a queue that several accounts share.

        Raises:
            Transient: ACCOUNT_NOT_SERVED: another worker has it, and Temporal asks again.
        """
        if account == self.account:
            return self
        if account not in self.peers:
            text = f"account was {account}, served here: {self.account}"
            raise Transient(text, code="ACCOUNT_NOT_SERVED")
        return self.peers[account]


class TradeRef(Frozen):
    """Which trade asks: the owner that a kill scope is matched against.

    `stage` and `protection` are the trade's at the moment of asking; steps that talk to the
    broker write them to its row, so that a stage change costs no step of its own.
    `reopened_at`: an end that was booked until then is none, for the trade holds something.
    """

    trade_id: str
    account: str
    strategy: str
    symbols: tuple[str, ...]
    clock: ClockMap
    stage: str = ""
    protection: str = ""
    session: str = ""
    signal_id: str = ""
    reopened_at: AwareDatetime | None = None

    @property
    def owner(self) -> OrderOwner:
        return OrderOwner(
            account=self.account,
            strategy=self.strategy,
            symbols=self.symbols,
            trade_id=self.trade_id,
        )

    @classmethod
    def of(cls, plan: TradePlan, clock: ClockMap) -> TradeRef:
        symbols = tuple(leg.instrument.symbol for leg in plan.legs)
        return cls(
            trade_id=plan.trade_id,
            account=plan.account,
            strategy=plan.strategy,
            symbols=symbols if plan.symbol in symbols else (plan.symbol, *symbols),
            clock=clock,
            session=plan.session,
            signal_id=plan.signal_id,
        )


class AlertMessage(Frozen):
    """An alert as it leaves the system."""

    trade_id: str
    account: str
    alert: Alert


class ReserveInput(Frozen):
    trade: TradeRef
    plan: TradePlan
    build_id: str = ""


class PlaceInput(Frozen):
    trade: TradeRef
    command: PlaceOrder


class ReplaceInput(Frozen):
    trade: TradeRef
    command: ReplaceOrder


class WalkInput(Frozen):
    trade: TradeRef
    command: WalkStep


class CancelInput(Frozen):
    trade: TradeRef
    command: CancelOrder


class ResolveInput(Frozen):
    trade: TradeRef
    command: ResolveOrder


class ReadInput(Frozen):
    trade: TradeRef
    command: ReadBroker


class QuoteInput(Frozen):
    trade: TradeRef
    command: ReadQuote


class WatchInput(Frozen):
    trade: TradeRef
    command: WatchExits


class AlertInput(Frozen):
    trade: TradeRef
    command: Alert


class SettleInput(Frozen):
    trade: TradeRef
    plan: TradePlan
    command: Settle
    stage: str
    story: str = ""
    known: TradeKnowledge | None = None


class StreamInput(Frozen):
    """What to stream of which account, in wall seconds.

    The defaults spend 36 of the 40 requests a minute that are 20 % of the budget of 200
    (architecture §4); quotes are a budget of their own at the venue. `trade_queue` is where a
    reopened trade runs.
    """

    account: str
    trade_queue: str = TRADE_QUEUE
    compare_interval_s: float = 10.0
    clock_interval_s: float = 5.0
    quote_interval_s: float = 1.0


def attempt_token() -> str:
    """Names this attempt for the fence: one execution of one activity (C8).

    By its start too: a store that lost its last moments gives the same attempt out again (H3).
    """
    info = activity.info()
    began = info.started_time.isoformat()
    return f"{info.workflow_run_id}/{info.activity_id}/{info.attempt}/{began}"


async def note_stage(services: Services, trade: TradeRef) -> None:
    """Writes the trade's stage to its row; a ledger that is down costs nothing here."""
    if not trade.stage:
        return
    try:
        await services.ledger.update_trade(
            trade.trade_id,
            stage=trade.stage,
            protection=trade.protection or None,
            reopened_at=trade.reopened_at,
        )
    except HoldfastError as error:
        activity.logger.warning("stage of %s not noted: %s", trade.trade_id, error.code)
