"""A refusal for hours that nobody could read says what kept them from being read (row 27, C4)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from temporalio.testing import ActivityEnvironment

from activities.risk import RiskActivities
from activities.services import ReserveInput, TradeRef
from domain.clock import ClockMap
from domain.facts import Fact, RiskRefused
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import Lane, order_lane
from tests.ledger.samples import plan
from tests.rig import roomy_limits

CLOCK_ONLY = {"path": "/v2/clock"}
EVERY_READ = {"method": "GET"}


async def asked(gate: RiskActivities, trade_id: str) -> Fact:
    clock = ClockMap(wall0=datetime.now(UTC), market0=MARKET_NOW)
    given = ReserveInput(trade=TradeRef.of(plan(trade_id), clock), plan=plan(trade_id))
    (fact,) = (await ActivityEnvironment().run(gate.reserve_risk, given)).facts
    return fact


async def refusal_of(lane: Lane) -> RiskRefused:
    """What the gate says of an entry; the ledger keeps the same words."""
    lane.services = replace(lane.services, limits=roomy_limits())
    fact = await asked(RiskActivities(lane.services), "trade-1")
    assert isinstance(fact, RiskRefused), fact
    kept = await lane.ledger.reserved_decision("trade-1")
    assert kept is not None
    assert (kept.code, kept.text) == (fact.code, fact.text)
    return fact


@pytest.mark.parametrize(
    ("kind", "match", "cause"),
    [
        ("rate_limited", CLOCK_ONLY, "the broker's rate limit (RATE_LIMITED)"),
        ("rate_limited", EVERY_READ, "the broker's rate limit (RATE_LIMITED)"),
        ("error_before", CLOCK_ONLY, "the broker answered with an error (BROKER_ERROR)"),
    ],
)
async def test_hours_that_could_not_be_read_are_refused_with_the_cause_in_words(
    armed: Ledger, kind: str, match: dict[str, str], cause: str
) -> None:
    """`REFUSED SESSION_UNKNOWN {}` sent its reader to the calendar; the broker throttled us."""
    async with order_lane(armed) as lane:
        lane.exchange.state.faults.add({"kind": kind, "match": {**match, "count": 50}})
        fact = await refusal_of(lane)
    assert fact.code == "SESSION_UNKNOWN"
    assert fact.text == f"SESSION_UNKNOWN why=market hours not read: {cause}"
    assert fact.facts == {"why": f"market hours not read: {cause}"}


@pytest.mark.parametrize(
    ("path", "code", "what"),
    [
        ("*/quotes/latest", "PRICE_UNAVAILABLE", "quote"),
        ("/v2/account", "ACCOUNT_INVALID", "account"),
        ("/v2/assets/*", "ASSET_UNREADABLE", "asset"),
    ],
)
async def test_other_reads_that_failed_are_named_with_their_cause_too(
    armed: Ledger, path: str, code: str, what: str
) -> None:
    async with order_lane(armed) as lane:
        rule = {"kind": "rate_limited", "match": {"path": path, "count": 50}}
        lane.exchange.state.faults.add(rule)
        fact = await refusal_of(lane)
    assert fact.code == code
    assert f"why={what} not read: the broker's rate limit (RATE_LIMITED)" in fact.text


async def test_halted_symbol_is_told_in_words_and_not_as_a_table(armed: Ledger) -> None:
    async with order_lane(armed) as lane:
        lane.exchange.halt("AAPL")
        fact = await refusal_of(lane)
    assert fact.text == "HALTED symbol=AAPL"


async def test_entry_behind_a_slipped_decimal_point_is_refused_until_it_is_confirmed(
    armed: Ledger,
) -> None:
    """faults.md §3 row 34: the collar cannot see it, for it is drawn around this very quote."""
    async with order_lane(armed) as lane:
        gate = RiskActivities(replace(lane.services, limits=roomy_limits()))
        lane.quote("99.99", "100.01")
        first = await asked(gate, "trade-1")
        lane.quote("0.99", "1.01")
        slipped, confirmed = await asked(gate, "trade-2"), await asked(gate, "trade-3")
    assert isinstance(slipped, RiskRefused)
    assert slipped.text == "QUOTE_JUMP symbol=AAPL, mid=1.00"
    for other in (first, confirmed):
        assert not (isinstance(other, RiskRefused) and other.code == "QUOTE_JUMP")
