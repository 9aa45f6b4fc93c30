"""Trades at a broker without ids that are unique, executions or replaced orders.

The golden trades run there, too (tests/golden); here is what is Tradier's own. The exchange
speaks Tradier, and its journal is the oracle (issue 4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from temporalio.client import Client

from domain.plan import EntryStyle
from ledger.repository import Ledger
from simulator.config import ExchangeConfig, WireFace
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig

D = Decimal


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    config = ExchangeConfig(requests_per_minute=None, face=WireFace.TRADIER)
    async with running_rig(temporal_client, ledger, f"acct-{unique}", config=config) as made:
        play.calm_market(made)
        yield made


def assert_each_tag_once(rig: Rig) -> None:
    """I1 where nobody but us keeps it: a change is an order of the exchange, not of the venue."""
    sent = Counter(row["client_id"] for row in play.own_orders(rig) if not row.get("replaces"))
    assert max(sent.values(), default=0) <= 1, sent


@pytest.mark.covers("D1", "C2")
async def test_lost_reply_of_a_change_is_known_by_the_prices_of_the_order(rig: Rig) -> None:
    """C2, C11, D1: the order itself tells whether it was changed; GT13 is the lost entry."""
    match = {"method": "PUT", "path": "*/orders*", "client_id": play.ENTRY_IDS}
    play.fault(rig, "drop_reply", match)
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    play.fall(rig)
    result = await handle.result()
    assert result.outcome == "closed"
    assert_each_tag_once(rig)
    play.assert_nothing_left(rig)


@pytest.mark.covers("C10")
async def test_exit_that_is_rejected_after_its_ok_is_placed_again(rig: Rig) -> None:
    """C10: usual at this venue; the position does not stay bare."""
    play.fault(rig, "late_reject", {"client_id": play.OCO_IDS}, delay_s=0)
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.fill_entry(rig)
    rig.server.step_s(0.1)
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 3, "three tranches are protected")
    play.fall(rig)
    await handle.result()
    play.assert_nothing_left(rig)


async def test_bracket_goes_out_as_one_otoco(rig: Rig) -> None:
    targets = play.plan_of(rig, "0").targets[:1]
    whole = (targets[0].model_copy(update={"fraction": D(1)}),)
    plan = play.plan_of(
        rig, "1", entry_style=EntryStyle.ONCE, targets=whole, ratchet=(), walk=play.walk_of("30")
    )
    handle = await rig.start_trade(plan)
    await rig.until(lambda: bool(play.accepted(rig, order_class="bracket")), "it is sent")
    rig.quote(play.SYMBOL, "100.00", "100.50")
    await rig.until(lambda: play.position(rig) == 10, "the entry fills")
    rig.quote(play.SYMBOL, "97.00", "97.25")
    result = await handle.result()
    assert result.outcome == "closed"
    assert_each_tag_once(rig)
    play.assert_nothing_left(rig)
