"""What `trade submit` is told of the gate before it answers (faults.md §3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from temporalio.client import Client

from cli.context import demo_config
from cli.trade import gate_word
from domain.messages import OperatorSignal
from domain.plan import FixedSize
from ledger.repository import Ledger
from tests.rig import DEADLINE_S, Rig, roomy_limits, running_rig
from tests.rig_target import RigTarget
from tests.trade_scenarios import plan_of


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    limits = roomy_limits(max_order_notional="2000")
    async with running_rig(temporal_client, ledger, f"acct-{unique}", limits=limits) as made:
        made.quote("ESX", "99.75", "100.25")
        yield made


async def test_refusal_of_the_gate_is_told_at_once_with_its_code(rig: Rig, tmp_path: Path) -> None:
    """NOTIONAL_ABOVE_MAX was exit code 0 and no word."""
    target = RigTarget(demo_config(), tmp_path, rig)
    size = FixedSize(quantity=Decimal(100))
    big = await rig.start_trade(plan_of(rig, "big", size=size))
    said, is_refused = await gate_word(target, big.id.partition("/")[2], DEADLINE_S)
    assert said.startswith("REFUSED NOTIONAL_ABOVE_MAX quantity=100, notional=")
    assert is_refused
    await big.result()
    fits = await rig.start_trade(plan_of(rig, "fits"))
    word = await gate_word(target, fits.id.partition("/")[2], DEADLINE_S)
    assert word == ("passed", False)
    await fits.signal("flatten", OperatorSignal(by="test"))
    await fits.result()


async def test_gate_that_has_not_spoken_is_not_taken_for_a_yes(rig: Rig, tmp_path: Path) -> None:
    line = f"not decided yet: starter.py --data {tmp_path} trade show nobody"
    undecided = (line, False)
    assert await gate_word(RigTarget(demo_config(), tmp_path, rig), "nobody", 0.0) == undecided
    away = RigTarget(demo_config(), tmp_path, rig, ledger_is_up=False)
    assert await gate_word(away, "nobody") == undecided
