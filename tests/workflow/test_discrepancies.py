"""One test per row of `domain.discrepancies`: found, acted on, told, and told only once.

Real ledger, adapter and exchange; what the trade would hear is caught at the doorbell. What the
trade makes of it is in `test_reconcile.py` and `tests/golden/test_events.py`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import Client

from activities.reconcile import ReconcileInput, ReconcilePass, ReconcileReport
from docs import discrepancy_table
from domain.commands import AlertSeverity
from domain.discrepancies import CLASSES, LATE_ORDER, MISSED_FILL
from domain.errors import Transient
from domain.facts import (
    AdjustmentKind,
    DiscrepancyFound,
    Fact,
    FactEnvelope,
    FundingPaid,
    OrderReported,
    PositionAdjusted,
)
from domain.fold_orders import PROVEN_ABSENT
from domain.ids import IntentKey, Purpose
from domain.instrument import Instrument
from domain.occ import option_instrument
from domain.order import OrderBody, OrderIntent, OrderType, Position, Side
from domain.recon.classify import DiscrepancyKind
from ledger.records import EXTERNAL, AdjustmentRecord, FeeRecord, IntentState, OrderOwner
from ledger.repository import Ledger
from simulator.config import ExchangeConfig, Listing, WireFace
from simulator.events import OrdersOnSplit
from simulator.orders import Kind, OrderRequest
from simulator.orders import Side as SimSide
from tests.rig import Rig, running_rig
from tests.workflow.test_trade_thread import plan_of

D = Decimal
KIND = DiscrepancyKind
PUT, CALL = "ESX130920P00095000", "ESX130920C00105000"
TRADE = "t1"


@dataclass
class Desk:
    """An account with a rig behind it; `heard` is what trades were told."""

    rig: Rig
    heard: list[tuple[str, Fact]] = field(default_factory=list)

    async def send(self, trade_id: str, _signal: str, envelope: FactEnvelope) -> bool:
        now = self.rig.services.now()
        self.heard += [(trade_id, fact) for fact in envelope.as_facts(now)]
        return True

    async def reconcile(self, **changes: Any) -> ReconcileReport:
        """One pass; the second look comes at once because nothing is in flight here."""
        services = replace(self.rig.services, **changes)
        one = ReconcilePass(services, self.send)
        try:
            report = await one.run(ReconcileInput(account=services.account, settle_s=0.01))
            await one.told()
            return report
        finally:
            await one.aclose()

    async def hold(self, symbol: str, quantity: int, price: str, trade_id: str = TRADE) -> None:
        """A position as an adoption leaves it: at the broker, and the trade's in the ledger."""
        amount, cost = D(quantity), D(price)
        side = SimSide.BUY if amount > 0 else SimSide.SELL
        self.rig.exchange.events.trade_by_hand(symbol, side, abs(amount), cost)
        await self.reconcile()
        own = self._adoption(symbol, amount, cost, trade_id)
        update = {
            "adjustment_id": f"{own.adjustment_id}/external",
            "trade_id": None,
            "quantity": -amount,
        }
        rows = (own, own.model_copy(update=update))
        await self.rig.ledger.move_positions(own.account, rows, takes={symbol: amount})

    def _adoption(
        self, symbol: str, amount: Decimal, cost: Decimal, trade_id: str
    ) -> AdjustmentRecord:
        return AdjustmentRecord(
            adjustment_id=f"adopt/{trade_id}/{symbol}",
            account=self.rig.services.account,
            trade_id=trade_id,
            symbol=symbol,
            quantity=amount,
            price=cost,
            kind=AdjustmentKind.ADOPTED,
            at=self.rig.exchange.now,
        )

    async def owned(self) -> dict[tuple[str, str], Decimal]:
        rows = await self.rig.ledger.positions_by_trade(self.rig.services.account)
        return {(row.trade_id, row.symbol): row.quantity for row in rows}

    async def alerts(self, kind: str) -> list[AlertSeverity]:
        rows = await self.rig.ledger.list_alerts(account=self.rig.services.account)
        return [row.severity for row in rows if row.code == kind.upper()]

    @property
    def adjusted(self) -> list[PositionAdjusted]:
        return [fact for _, fact in self.heard if isinstance(fact, PositionAdjusted)]


def listings() -> tuple[Listing, ...]:
    share = Instrument(symbol="ESX")
    options = [option_instrument(symbol) for symbol in (PUT, CALL)]
    return tuple(Listing(each) for each in (share, *options))


@pytest.fixture(params=[WireFace.ALPACA])
async def desk(
    temporal_client: Client, ledger: Ledger, unique: str, request: pytest.FixtureRequest
) -> AsyncIterator[Desk]:
    config = ExchangeConfig(
        listings=listings(), requests_per_minute=None, wash_trade_check=False, face=request.param
    )
    account = f"acct-{unique}"
    async with running_rig(
        temporal_client, ledger, account, config=config, workers=False, streams=False
    ) as rig:
        rig.quote("ESX", "99.75", "100.25")
        rig.quote(PUT, "1.95", "2.05")
        rig.quote(CALL, "1.95", "2.05")
        made = Desk(rig)
        await made.reconcile()
        yield made


def kinds(report: ReconcileReport) -> list[str]:
    return sorted(str(finding.kind) for finding in report.findings)


async def only(desk: Desk, kind: DiscrepancyKind) -> ReconcileReport:
    """The pass finds exactly this class, alerts as its row says, and the next pass nothing."""
    report = await desk.reconcile()
    assert kinds(report) == [str(kind)]
    row = next(each for each in CLASSES if each.name == kind)
    assert await desk.alerts(kind) == [row.alert]
    assert kinds(await desk.reconcile()) == []
    assert len(await desk.alerts(kind)) == 1
    return report


def order_of(rig: Rig, purpose: Purpose) -> OrderIntent:
    """An order under our id that no row of the ledger knows."""
    body = OrderBody(
        symbol="ESX",
        side=Side.BUY,
        quantity=D(3),
        order_type=OrderType.LIMIT,
        limit_price=D(90),
        intent_date=date(2013, 9, 3),
    )
    key = IntentKey(trade_id="nobody", purpose=purpose, sequence=1)
    increasing = purpose is Purpose.ENTRY
    return OrderIntent.derive(rig.services.installation, key, body, increasing=increasing)


# --- the table -----------------------------------------------------------------------------------


def test_every_row_has_its_test_and_every_class_its_row() -> None:
    names = {name for name, _ in inspect.getmembers(sys.modules[__name__], inspect.isfunction)}
    rows = [each.name for each in CLASSES]
    assert sorted(rows) == sorted([MISSED_FILL, LATE_ORDER, *map(str, KIND)])
    assert [row for row in rows if not any(n.startswith(f"test_{row}_") for n in names)] == []
    assert all(each.settled_in <= 3 for each in CLASSES)


def test_document_is_what_the_code_says() -> None:
    text = discrepancy_table.DISCREPANCIES.read_text()
    assert discrepancy_table.refreshed(text) == text, "stale: run python -m docs.discrepancy_table"


# --- orders --------------------------------------------------------------------------------------


async def test_missed_fill_is_booked_without_an_alarm(desk: Desk) -> None:
    """F1: an execution that no frame told."""
    desk.rig.exchange.events.trade_by_hand("ESX", SimSide.BUY, D(5), D(100))
    report = await desk.reconcile()
    assert kinds(report) == []
    assert await desk.owned() == {(EXTERNAL, "ESX"): D(5)}


@pytest.mark.covers("C5")
async def test_late_order_is_told_to_its_trade(desk: Desk) -> None:
    """C5: it was called absent, and its trade has ended; what the trade does: `test_restore.py`."""
    rig, plan = desk.rig, plan_of(desk.rig)
    await rig.ledger.create_trade(plan, stage="open")
    key = IntentKey(trade_id=plan.trade_id, purpose=Purpose.ENTRY, sequence=1)
    body = order_of(rig, Purpose.ENTRY).body
    entry = OrderIntent.derive(rig.services.installation, key, body, increasing=True)
    owner = OrderOwner(
        account=plan.account, strategy=plan.strategy, symbols=("ESX",), trade_id=plan.trade_id
    )
    at = rig.services.now() - timedelta(seconds=5)
    await rig.ledger.open_gate(entry, owner, "attempt", at)
    await rig.ledger.record_answer(
        entry.client_id, None, IntentState.NOT_SENT, code=PROVEN_ABSENT, at=at
    )
    await rig.ledger.update_trade(plan.trade_id, stage="not_filled", closed=True)
    await rig.broker.place(entry)
    assert kinds(await desk.reconcile()) == []
    told = [(each, f.order) for each, f in desk.heard if isinstance(f, OrderReported)]
    (works,) = await rig.broker.open_orders()
    assert told
    assert all(each == (plan.trade_id, works) for each in told)


@pytest.mark.covers("R1")
async def test_orphan_entry_is_cancelled(desk: Desk) -> None:
    """R1."""
    await desk.rig.broker.place(order_of(desk.rig, Purpose.ENTRY))
    await only(desk, KIND.ORPHAN_ENTRY)
    assert desk.rig.exchange.open_orders == []


async def test_orphan_exit_without_a_trade_is_cancelled(desk: Desk) -> None:
    """R1."""
    await desk.rig.broker.place(order_of(desk.rig, Purpose.STOP))
    await only(desk, KIND.ORPHAN_EXIT)
    assert desk.rig.exchange.open_orders == []


@pytest.mark.covers("R1", "H3")
async def test_orphan_exit_stays_while_it_guards_a_position_of_no_trade(desk: Desk) -> None:
    """I4: the ledger forgot a trade (an older copy was put back); its stop was taken away."""
    stop = order_of(desk.rig, Purpose.STOP)
    side = SimSide.BUY if stop.body.side is Side.SELL else SimSide.SELL
    back = SimSide.SELL if side is SimSide.BUY else SimSide.BUY
    desk.rig.exchange.events.trade_by_hand("ESX", side, stop.body.quantity, D(100))
    await desk.rig.broker.place(stop)
    for _ in range(2):
        assert "orphan_exit" in kinds(await desk.reconcile())
    assert len(desk.rig.exchange.open_orders) == 1
    assert await desk.alerts(KIND.ORPHAN_EXIT) == [AlertSeverity.CRITICAL]
    desk.rig.exchange.events.trade_by_hand("ESX", back, stop.body.quantity, D(100))
    await desk.reconcile()
    assert desk.rig.exchange.open_orders == []


@pytest.mark.covers("R1")
async def test_foreign_order_is_told_once_and_never_touched(desk: Desk) -> None:
    """R1."""
    wish = OrderRequest(
        symbol="ESX", side=SimSide.BUY, quantity=D(1), kind=Kind.LIMIT, limit_price=D(90)
    )
    desk.rig.exchange.submit(wish)
    for _ in range(2):
        assert kinds(await desk.reconcile()) == ["foreign_order"]
    assert len(await desk.alerts(KIND.FOREIGN_ORDER)) == 1
    assert len(desk.rig.exchange.open_orders) == 1


async def test_intent_stuck_is_told_and_closed_by_the_next_pass(desk: Desk) -> None:
    """I10: half a minute without an answer; its trade hears of it, the next pass has the proof."""
    rig = desk.rig
    owner = OrderOwner(
        account=rig.services.account, strategy="s", symbols=("ESX",), trade_id="nobody"
    )
    await rig.ledger.open_gate(order_of(rig, Purpose.STOP), owner, "attempt", rig.services.now())
    assert kinds(await desk.reconcile()) == []
    later = rig.services.now() + timedelta(seconds=31)
    assert kinds(await desk.reconcile(now=lambda: later)) == ["intent_stuck"]
    assert await desk.alerts(KIND.INTENT_STUCK) == [AlertSeverity.CRITICAL]
    told = {(trade, fact.code) for trade, fact in desk.heard if isinstance(fact, DiscrepancyFound)}
    assert told == {("nobody", "INTENT_STUCK")}
    settled = later + timedelta(seconds=30)
    assert kinds(await desk.reconcile(now=lambda: settled)) == []
    assert await rig.ledger.unresolved_intents(rig.services.account) == ()


# --- positions -----------------------------------------------------------------------------------


@pytest.mark.covers("R2")
async def test_position_mismatch_goes_to_external(desk: Desk) -> None:
    """R2, I20: five that nothing explains; the trade's ten stay its own."""
    await desk.hold("ESX", 10, "100")
    desk.rig.exchange.set_position("ESX", D(15), "MANUAL", D(100))
    await only(desk, KIND.POSITION_MISMATCH)
    assert await desk.owned() == {(TRADE, "ESX"): D(10), (EXTERNAL, "ESX"): D(5)}
    assert desk.adjusted == []


@pytest.mark.covers("R3")
async def test_position_vanished_is_booked_to_its_trade(desk: Desk) -> None:
    """R3: gone for the market's money, and nothing says why."""
    await desk.hold("ESX", 10, "100")
    desk.rig.exchange.set_position("ESX", D(0), "VANISHED", D(100))
    desk.rig.exchange.events.cash("", D(1000))
    await only(desk, KIND.POSITION_VANISHED)
    assert await desk.owned() == {}
    assert [(f.quantity, f.price) for f in desk.adjusted] == [(D(-10), D(100))]


class Emptied:
    """The broker of the desk in an outage: its lists are empty, everything else answers (R6)."""

    def __init__(self, broker: Any, *names: str) -> None:
        self._broker = broker
        self._names = names

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def positions(self) -> tuple[Position, ...]:
        return () if "positions" in self._names else await self._broker.positions()

    async def open_orders(self) -> tuple[Any, ...]:
        return () if "open_orders" in self._names else await self._broker.open_orders()


@pytest.mark.covers("R6")
async def test_positions_untrusted_repairs_nothing(desk: Desk) -> None:
    """R6: missing is not flat, three times in a row."""
    await desk.hold("ESX", 10, "100")
    before = await desk.rig.ledger.adjustments(desk.rig.services.account)
    broker = Emptied(desk.rig.broker, "positions", "open_orders")
    for _ in range(3):
        assert kinds(await desk.reconcile(broker=broker)) == ["positions_untrusted"]
    assert await desk.rig.ledger.adjustments(desk.rig.services.account) == before
    assert desk.heard == []
    assert len(await desk.alerts(KIND.POSITIONS_UNTRUSTED)) == 1


async def test_external_trade_takes_from_the_trade_at_its_price(desk: Desk) -> None:
    """R3: a person, or the broker's margin desk, sells what the trade holds."""
    await desk.hold("ESX", 10, "100")
    desk.rig.exchange.events.trade_by_hand("ESX", SimSide.SELL, D(10), D("97.50"))
    await only(desk, KIND.EXTERNAL_TRADE)
    assert await desk.owned() == {}
    (fact,) = desk.adjusted
    assert (fact.quantity, fact.price) == (D(-10), D("97.50"))
    assert fact.adjustment is AdjustmentKind.CLOSED_OUTSIDE


async def test_external_trade_of_a_part_leaves_the_rest_to_the_trade(desk: Desk) -> None:
    await desk.hold("ESX", 10, "100")
    desk.rig.exchange.events.trade_by_hand("ESX", SimSide.SELL, D(4), D("97.50"))
    await only(desk, KIND.EXTERNAL_TRADE)
    assert await desk.owned() == {(TRADE, "ESX"): D(6)}


async def test_external_trade_with_two_owners_is_only_told(desk: Desk) -> None:
    """Whose six were sold cannot be told: quarantined, nothing is booked."""
    await desk.hold("ESX", 6, "100")
    await desk.hold("ESX", 4, "100", "t2")
    desk.rig.exchange.events.trade_by_hand("ESX", SimSide.SELL, D(3), D("97.50"))
    assert kinds(await desk.reconcile()) == ["external_trade"]
    owned = {(TRADE, "ESX"): D(6), ("t2", "ESX"): D(4), (EXTERNAL, "ESX"): D(-3)}
    assert await desk.owned() == owned
    assert desk.adjusted == []


@pytest.mark.covers("R3")
async def test_liquidation_is_booked_at_the_venues_price(desk: Desk) -> None:
    """R3: the statement says what it took, and at what."""
    await desk.hold("ESX", 10, "100")
    desk.rig.exchange.events.liquidate("ESX", D("91.25"))
    await only(desk, KIND.LIQUIDATION)
    (fact,) = desk.adjusted
    assert (fact.quantity, fact.price) == (D(-10), D("91.25"))
    assert await desk.owned() == {}


# --- options and shares --------------------------------------------------------------------------


@pytest.mark.covers("R4")
async def test_assignment_moves_the_premium_into_the_shares(desk: Desk) -> None:
    """R4: cash and shares booked to the cent, the shares at strike less premium."""
    await desk.hold(PUT, -1, "2")
    desk.rig.exchange.events.assign(PUT)
    await only(desk, KIND.ASSIGNMENT)
    assert await desk.owned() == {(EXTERNAL, "ESX"): D(100)}
    rows = await desk.rig.ledger.adjustments(desk.rig.services.account)
    (shares,) = [row for row in rows if row.symbol == "ESX"]
    assert shares.price == D(95)
    (fact,) = desk.adjusted
    assert (fact.quantity, fact.adjustment) == (D(1), AdjustmentKind.ASSIGNMENT)


@pytest.mark.covers("R4")
async def test_assignment_waits_for_the_next_morning(desk: Desk) -> None:
    """R4: the venue books at night; before that there is nothing to see."""
    await desk.hold(PUT, -1, "2")
    exchange = desk.rig.exchange
    exchange.events.assign_overnight(PUT)
    exchange.advance_to(exchange.now + timedelta(hours=8))
    assert kinds(await desk.reconcile()) == []
    exchange.advance_to(exchange.now + timedelta(hours=11))
    await only(desk, KIND.ASSIGNMENT)


@pytest.mark.covers("R4")
async def test_exercise_delivers_the_shares_of_a_call(desk: Desk) -> None:
    """R4."""
    await desk.hold(CALL, 1, "2")
    desk.rig.exchange.events.exercise(CALL)
    await only(desk, KIND.EXERCISE)
    assert await desk.owned() == {(EXTERNAL, "ESX"): D(100)}


@pytest.mark.covers("R4")
async def test_expiry_is_worthless_the_next_morning(desk: Desk) -> None:
    """R4: out of the money at the close of the expiry day."""
    await desk.hold(CALL, 1, "2")
    desk.rig.exchange.advance_to(desk.rig.exchange.now + timedelta(days=20))
    await only(desk, KIND.EXPIRY)
    assert await desk.owned() == {}
    assert [(f.quantity, f.price) for f in desk.adjusted] == [(D(-1), D(0))]


async def test_option_gone_without_a_row_waits(desk: Desk) -> None:
    """R4: the contract is gone, the shares are there, the statement is silent: hands off."""
    await desk.hold(PUT, -1, "2")
    exchange = desk.rig.exchange
    exchange.set_position(PUT, D(0), "SILENT", D(0))
    exchange.set_position("ESX", D(100), "SILENT", D(95))
    for _ in range(3):
        assert kinds(await desk.reconcile()) == ["option_gone"]
    assert await desk.owned() == {(TRADE, PUT): D(-1)}
    assert await desk.alerts(KIND.OPTION_GONE) == [AlertSeverity.WARNING]


@pytest.mark.covers("R5")
async def test_split_gives_every_owner_new_shares(desk: Desk) -> None:
    """R5: the trade's and nobody's alike."""
    await desk.hold("ESX", 10, "100")
    desk.rig.exchange.events.trade_by_hand("ESX", SimSide.BUY, D(3), D(100))
    await desk.reconcile()
    desk.rig.exchange.events.split("ESX", 2, orders=OrdersOnSplit.CANCEL)
    await only(desk, KIND.SPLIT)
    assert await desk.owned() == {(TRADE, "ESX"): D(20), (EXTERNAL, "ESX"): D(6)}
    (fact,) = desk.adjusted
    assert (fact.quantity, fact.ratio) == (D(10), D(2))


async def test_split_told_late_is_taken_back_from_external(desk: Desk) -> None:
    """R5: the position was there first and went to EXTERNAL; its row explains it afterwards."""
    await desk.hold("ESX", 10, "100")
    exchange = desk.rig.exchange
    exchange.set_position("ESX", D(20), "SILENT", D(50))
    assert kinds(await desk.reconcile()) == ["position_mismatch"]
    exchange.state.add_activity("SPLIT", symbol="ESX", quantity=D(10), net_amount=D(0))
    await only(desk, KIND.SPLIT)
    assert await desk.owned() == {(TRADE, "ESX"): D(20)}


@pytest.mark.covers("R5")
async def test_symbol_change_parks_the_position(desk: Desk) -> None:
    """R5: the plan is of the old symbol; nobody trades the new one until a person adopts it."""
    await desk.hold("ESX", 10, "100")
    desk.rig.exchange.events.change_symbol("ESX", "ESY")
    await only(desk, KIND.SYMBOL_CHANGE)
    assert await desk.owned() == {(EXTERNAL, "ESY"): D(10)}
    assert [(f.symbol, f.quantity) for f in desk.adjusted] == [("ESX", D(-10))]


# --- money ---------------------------------------------------------------------------------------


@pytest.mark.covers("R9")
async def test_fee_mismatch_is_corrected_by_a_row(desk: Desk) -> None:
    """R9: what the broker says now is what it costs."""
    exchange, account = desk.rig.exchange, desk.rig.services.account
    exchange.events.cash("FEE", D("-1.25"), "ESX", "regulatory fee")
    (row,) = [a for a in exchange.state.account.activities if a.kind == "FEE"]
    wrong = FeeRecord(
        activity_id=row.id, account=account, amount=D("1.00"), venue_time=exchange.now
    )
    await desk.rig.ledger.record_fee(wrong)
    report = await desk.reconcile()
    assert "fee_mismatch" in kinds(report)
    fees = await desk.rig.ledger.fees(account)
    assert sum(fee.amount for fee in fees) == D("1.25")
    assert await desk.alerts(KIND.FEE_MISMATCH) == [AlertSeverity.WARNING]
    assert "fee_mismatch" not in kinds(await desk.reconcile())


@pytest.mark.covers("R9")
@pytest.mark.parametrize(
    ("amount", "severity", "is_tripped"),
    [
        ("0.01", None, False),
        ("0.02", AlertSeverity.WARNING, False),
        ("-999.99", AlertSeverity.WARNING, False),
        ("-1000", AlertSeverity.CRITICAL, True),
    ],
)
async def test_cash_difference_is_told_and_a_large_one_stops_entries(
    desk: Desk, amount: str, severity: AlertSeverity | None, is_tripped: bool
) -> None:
    """R9: boundary values around rounding and around 1,000."""
    desk.rig.exchange.events.cash("", D(amount))
    report = await desk.reconcile()
    assert kinds(report) == ([] if severity is None else ["cash_difference"])
    told = [] if severity is None else [severity]
    assert await desk.alerts(KIND.CASH_DIFFERENCE) == told
    breaker = await desk.rig.ledger.risk_breaker(desk.rig.services.account)
    assert (breaker.reason == "CASH_DIFFERENCE") is is_tripped
    assert kinds(await desk.reconcile()) == []


async def test_cash_difference_is_none_for_money_that_the_statement_tells(desk: Desk) -> None:
    """Deposit, dividend, interest and funding are booked under their own ids, once."""
    await desk.hold("ESX", 10, "100")
    events = desk.rig.exchange.events
    events.cash("CSD", D(500))
    events.cash("DIV", D("12.50"), "ESX")
    events.cash("INT", D("-3.10"))
    events.cash("FUND", D("-0.75"), "ESX")
    for _ in range(2):
        assert kinds(await desk.reconcile()) == []
    account = desk.rig.services.account
    (deposit,) = await desk.rig.ledger.cash_movements(account)
    assert deposit.amount == 500
    costs = {fee.text.split()[0]: fee.amount for fee in await desk.rig.ledger.fees(account)}
    assert costs == {"DIV": D("-12.50"), "INT": D("3.10"), "FUND": D("0.75")}
    assert [f.amount for _, f in desk.heard if isinstance(f, FundingPaid)].count(D("0.75")) == 1


# --- repeated and broken passes ------------------------------------------------------------------


async def test_pass_that_dies_before_it_tells_is_made_good_by_the_next(desk: Desk) -> None:
    """R8: the row was booked, the trade never heard of it; two passes book it once."""
    rig = desk.rig
    plan = plan_of(rig)
    await rig.ledger.create_trade(plan, stage="open")
    await desk.hold("ESX", 10, "100", plan.trade_id)
    rig.exchange.events.liquidate("ESX", D("91.25"))

    async def nobody_listens(*_: Any) -> bool:
        raise Transient("the server is away", code="AWAY")

    dying = ReconcilePass(rig.services, nobody_listens)
    await dying.run(ReconcileInput(account=rig.services.account, settle_s=0.01))
    await dying.aclose()
    assert desk.adjusted == []
    assert await desk.owned() == {}

    for _ in range(2):
        assert kinds(await desk.reconcile()) == []
    assert [(f.quantity, f.price) for f in desk.adjusted] == [(D(-10), D("91.25"))]
    rows = await rig.ledger.adjustments(rig.services.account, plan.trade_id)
    assert len([row for row in rows if row.kind is AdjustmentKind.LIQUIDATION]) == 1


# --- at a broker that tells no rows --------------------------------------------------------------

at_tradier = pytest.mark.parametrize("desk", [WireFace.TRADIER], indirect=True)


@at_tradier
async def test_assignment_is_seen_by_option_and_shares_alone(desk: Desk) -> None:
    """R4: the pair is the proof; the day after expiry an option without shares was worthless."""
    await desk.hold(PUT, -1, "2")
    await desk.hold(CALL, 1, "2")
    desk.rig.exchange.events.assign(PUT)
    await only(desk, KIND.ASSIGNMENT)
    assert await desk.owned() == {(TRADE, CALL): D(1), (EXTERNAL, "ESX"): D(100)}
    desk.rig.exchange.advance_to(desk.rig.exchange.now + timedelta(days=20))
    await only(desk, KIND.EXPIRY)
    assert await desk.owned() == {(EXTERNAL, "ESX"): D(100)}


@at_tradier
async def test_split_without_a_row_is_parked(desk: Desk) -> None:
    """R5: twice as many shares are nobody's until a person says so; entries in them stop."""
    await desk.hold("ESX", 10, "100")
    desk.rig.exchange.events.split("ESX", 2)
    await only(desk, KIND.POSITION_MISMATCH)
    assert await desk.owned() == {(TRADE, "ESX"): D(10), (EXTERNAL, "ESX"): D(10)}


@at_tradier
async def test_cash_difference_of_fees_that_nobody_tells_is_no_finding(desk: Desk) -> None:
    """R9: small sums say nothing where fees have no rows; a large one does."""
    desk.rig.exchange.events.cash("", D("-35.10"))
    assert kinds(await desk.reconcile()) == []
    desk.rig.exchange.events.cash("", D("-1000"))
    assert kinds(await desk.reconcile()) == ["cash_difference"]
    assert await desk.alerts(KIND.CASH_DIFFERENCE) == [AlertSeverity.CRITICAL]
