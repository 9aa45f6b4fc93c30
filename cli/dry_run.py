"""`trade submit --dry-run`: what the trade would do, worked out by the very code that trades.

Nothing is sent and nothing is written. The gate is the one of the reservation; the orders come
from the fold (`domain.steps.decide`), played against a broker that says yes to everything and
fills the entry at the last rung of the ladder.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from pydantic import Field

from activities.risk import MarketView, judge_plan, last_roll, look_back_s, read_market
from activities.services import Services
from brokers.port import Broker
from cli.context import Target
from cli.output import print_fields, print_json, print_rows
from cli.plans import read_plan
from cli.rehearsal import RehearsedOrder, play
from domain.base import Frozen
from domain.clock import ClockMap
from domain.entry import EntryTicket, is_late, ladder
from domain.money import ZERO, Amount, NetPrice, Quantity
from domain.plan import TradePlan
from domain.slices import slice_sizes
from ledger.records import EquityBaseline, RiskBook
from ledger.repository import Ledger
from settings import Settings
from wiring import config_hash


class VerdictRow(Frozen):
    """One check of the gate in gate order."""

    check: str
    verdict: str
    code: str = ""
    facts: dict[str, str] = Field(default_factory=dict)


class Rehearsal(Frozen):
    """Everything that --dry-run shows. Amounts are account currency."""

    trade_id: str
    approved: bool
    code: str = ""
    text: str = ""
    quantity: Quantity = ZERO
    ladder: tuple[NetPrice, ...] = ()
    slices: tuple[Quantity, ...] = ()
    worst_price: NetPrice | None = None
    worst_cost: Amount = ZERO
    maximum_loss: Amount = ZERO
    fees: str = "not told by this broker before the fill"
    buying_power_before: Amount | None = None
    buying_power_after: Amount | None = None
    verdicts: tuple[VerdictRow, ...] = ()
    orders: tuple[RehearsedOrder, ...] = ()
    market_faults: tuple[str, ...] = ()
    at: datetime


async def rehearse(target: Target, plan_file: Path) -> Rehearsal:
    """Reads broker and ledger, judges the plan and plays it."""
    settings, clock = target.settings(), await target.clock_map()
    plan = read_plan(plan_file, settings, clock)
    async with target.ledger() as ledger, target.broker() as broker:
        services = _services(settings, ledger, broker)
        market = await read_market(services.broker, plan, services.universe)
        now = datetime.now(UTC)
        book = await ledger.risk_book(
            services.account,
            now,
            strategy=plan.strategy,
            look_back_s=look_back_s(services.limits, clock),
        )
        book = _with_baseline(book, market, now)
    return judged(services, plan, clock, market, book, now)


def judged(
    services: Services,
    plan: TradePlan,
    clock: ClockMap,
    market: MarketView,
    book: RiskBook,
    now: datetime,
) -> Rehearsal:
    """The rehearsal from what was read; pure but for its inputs."""
    judgement = judge_plan(services, plan, clock, market, book, now)
    decision, ticket, sized = judgement.decision, judgement.ticket, judgement.sized
    before = None if market.account is None else market.account.buying_power
    worst_cost = decision.order_notional
    # The gate judges the market and the account; the age of the signal is the trade's own check.
    late = is_late(plan.signal_time, clock.market(now), plan.signal_max_age_s)
    late_text = f"the signal is older than {plan.signal_max_age_s} s" if late else ""
    supposed = ticket
    if supposed is None:
        # Accounts start disarmed: what the trade would do is worth seeing before one arms.
        armed = book.control.model_copy(update={"armed": True, "kills": ()})
        open_book = book.model_copy(update={"control": armed})
        supposed = judge_plan(services, plan, clock, market, open_book, now).ticket
    orders: tuple[RehearsedOrder, ...] = ()
    if supposed is not None:
        orders = play(plan, services.installation, clock, supposed, now)
    return Rehearsal(
        trade_id=plan.trade_id,
        approved=ticket is not None and not late,
        code=judgement.refusal_code or ("SIGNAL_EXPIRED" if late else ""),
        text=judgement.refusal_text or late_text,
        quantity=judgement.gate_input.quantity,
        ladder=() if supposed is None else _ladder(plan, supposed),
        slices=() if supposed is None else _slices(plan, supposed),
        worst_price=None if sized is None else sized.prices.worst,
        worst_cost=worst_cost,
        maximum_loss=decision.order_loss,
        buying_power_before=before,
        buying_power_after=None if before is None else before - worst_cost,
        verdicts=tuple(
            VerdictRow(check=v.name, verdict=v.outcome.value, code=v.code, facts=v.facts)
            for v in decision.verdicts
        ),
        orders=orders,
        market_faults=market.faults,
        at=now,
    )


def _slices(plan: TradePlan, ticket: EntryTicket) -> tuple[Decimal, ...]:
    if plan.slices is None:
        return ()
    quantity = ticket.approved.quantity
    return slice_sizes(plan.trade_id, quantity, plan.slices.count, plan.instrument)


def _ladder(plan: TradePlan, ticket: EntryTicket) -> tuple[Decimal, ...]:
    if plan.slices is not None:
        return ()
    return ladder(
        plan.side,
        ticket.start_price,
        plan.walk.step,
        ticket.approved.worst_price,
        plan.walk.steps_max,
        plan.instrument,
    )


def _services(settings: Settings, ledger: Ledger, broker: Broker) -> Services:
    """Ports of this command alone; unlike the worker's they make no rows."""
    return Services(
        ledger=ledger,
        broker=broker,
        account=settings.account.name,
        broker_name=settings.broker.venue.value,
        installation=settings.account.installation,
        limits=settings.limits,
        restricted=settings.restricted_list(),
        config_hash=config_hash(settings),
        fees=settings.fee_rates(),
    )


def _with_baseline(book: RiskBook, market: MarketView, now: datetime) -> RiskBook:
    """The day's first trade stores the baseline; a dry run only supposes it."""
    account, clock = market.account, market.clock
    if account is None or account.equity is None or clock is None:
        return book
    roll = last_roll(clock.market_now)
    if book.baseline is not None and book.baseline.roll >= roll:
        return book
    supposed = EquityBaseline(
        account=book.account, roll=roll, equity=account.equity, read_at=now - timedelta(0)
    )
    return book.model_copy(update={"baseline": supposed})


def show_rehearsal(rehearsal: Rehearsal, *, as_json: bool) -> None:
    """Prints it; nothing was sent and nothing was written."""
    if as_json:
        print_json(rehearsal)
        return
    print_fields(
        {
            "trade": rehearsal.trade_id,
            "verdict": "approved" if rehearsal.approved else f"REFUSED {rehearsal.code}",
            "why": rehearsal.text or "-",
            "quantity": rehearsal.quantity,
            "ladder": rehearsal.ladder,
            "slices": rehearsal.slices,
            "worst price": rehearsal.worst_price,
            "worst cost": rehearsal.worst_cost,
            "maximum loss": rehearsal.maximum_loss,
            "fees": rehearsal.fees,
            "buying power before": rehearsal.buying_power_before,
            "buying power after": rehearsal.buying_power_after,
            "at": rehearsal.at,
        },
        as_json=False,
    )
    checks = [row.model_dump() for row in rehearsal.verdicts]
    print_rows(checks, ("check", "verdict", "code", "facts"), as_json=False)
    for order in rehearsal.orders:
        body = order.body.model_dump(mode="json", exclude_defaults=True)
        print(f"{order.client_id} {order.why}: {json.dumps(body, ensure_ascii=False)}")
    print("dry run: nothing was sent, nothing was written")
