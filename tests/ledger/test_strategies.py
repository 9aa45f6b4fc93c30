"""Stored configurations of strategies: versions, audit, and the rule of losses in a row."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from domain.errors import Refused
from ledger.errors import VersionConflict
from ledger.records import StrategyRecord
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, plan


def wanted(name: str, **changes: object) -> StrategyRecord:
    row: dict[str, object] = {"name": name, "strategy": "opening_breakout"}
    return StrategyRecord.model_validate(row | changes)


async def settle(ledger: Ledger, unique: str, number: int, realised: str) -> None:
    trade = plan(f"t-{unique}-{number}").model_copy(update={"strategy": unique})
    await ledger.create_trade(trade)
    await ledger.settle_trade(trade.trade_id, Decimal(realised), Decimal(0), fees_estimated=False)


async def test_configuration_comes_back_as_it_was_stored(ledger: Ledger, unique: str) -> None:
    row = wanted(
        unique, parameters={"lookback": "20"}, capital=Decimal("100.50"), losses_max=3, enabled=True
    )
    stored = await ledger.add_strategy(row, "alice", "first")

    assert await ledger.strategy(unique) == stored
    assert stored in await ledger.strategies()
    assert (stored.parameters, stored.capital, stored.losses_max) == (
        {"lookback": "20"},
        Decimal("100.50"),
        3,
    )
    assert (stored.version, stored.reason, stored.updated_by) == (1, "first", "alice")
    with pytest.raises(Refused) as raised:
        await ledger.add_strategy(row, "bob", "again")
    assert raised.value.code == "STRATEGY_EXISTS"


async def test_change_on_a_stale_version_is_refused_and_every_change_is_audited(
    ledger: Ledger, unique: str
) -> None:
    """I17: who saw the old row does not overwrite the new one."""
    await ledger.add_strategy(wanted(unique), "alice", "first")
    changed = await ledger.change_strategy(unique, {"capital": Decimal(50)}, "bob", "less")
    assert (changed.version, changed.capital, changed.enabled) == (2, Decimal(50), True)
    with pytest.raises(VersionConflict):
        await ledger.change_strategy(unique, {"enabled": False}, "carol", "old", version=1)
    await ledger.change_strategy(unique, {"enabled": False}, "carol", "new", version=2)
    with pytest.raises(Refused) as raised:
        await ledger.change_strategy(f"{unique}-not", {"enabled": False}, "carol", "typo")

    assert raised.value.code == "STRATEGY_UNKNOWN"
    rows = [row for row in await ledger.list_audit(limit=10_000) if row.subject == unique]
    assert [(row.actor, row.action) for row in rows] == [
        ("alice", "strategy.add"),
        ("bob", "strategy.set"),
        ("carol", "strategy.disable"),
    ]


async def test_change_says_who_and_why_and_begins_a_count_only_when_it_enables(
    ledger: Ledger, unique: str
) -> None:
    first = await ledger.add_strategy(wanted(unique, capital=Decimal(7)), "alice", "first")
    less = await ledger.change_strategy(unique, {"capital": Decimal(5)}, "bob", "less")
    assert (less.reason, less.updated_by, less.capital) == ("less", "bob", Decimal(5))
    assert less.enabled_at == first.enabled_at
    assert less.updated_at is not None
    assert first.updated_at is not None
    assert less.updated_at > first.updated_at
    still = await ledger.change_strategy(unique, {"enabled": True}, "bob", "is on", version=2)
    assert still.enabled_at == first.enabled_at
    off = await ledger.change_strategy(unique, {"enabled": False}, "bob", "off")
    assert (off.enabled, off.enabled_at) == (False, first.enabled_at)
    on = await ledger.change_strategy(unique, {"enabled": True}, "bob", "on")
    assert on.enabled
    assert on.enabled_at is not None
    assert first.enabled_at is not None
    assert on.enabled_at > first.enabled_at
    assert await ledger.strategy(unique) == on
    rows = [row for row in await ledger.list_audit(limit=10_000) if row.subject == unique]
    assert [row.action for row in rows] == [
        "strategy.add",
        "strategy.set",
        "strategy.enable",
        "strategy.disable",
        "strategy.enable",
    ]
    assert json.loads(rows[0].details) == {
        "name": unique,
        "strategy": "opening_breakout",
        "parameters": {},
        "enabled": True,
        "capital": "7",
        "losses_max": None,
        "reason": "first",
        "updated_by": "alice",
    }
    assert json.loads(rows[1].details) == {"capital": "5", "version": 2, "reason": "less"}


async def test_configuration_that_lost_too_often_is_told_with_its_reason(
    ledger: Ledger, unique: str
) -> None:
    await ledger.ensure_account(ACCOUNT, "alpaca")
    await ledger.add_strategy(wanted(unique, losses_max=1), "alice", "first")
    await settle(ledger, f"{unique}-other", 0, "-9")
    await ledger.create_trade(plan(f"open-{unique}").model_copy(update={"strategy": unique}))
    assert await ledger.disable_after_losses(unique, ACCOUNT) is None
    await settle(ledger, unique, 1, "-0.5")
    disabled = await ledger.disable_after_losses(unique, ACCOUNT)
    assert disabled is not None
    told = [a for a in await ledger.list_alerts() if a.code == "STRATEGY_DISABLED"]
    assert [(a.account, a.severity, a.text) for a in told] == [
        (ACCOUNT, "warning", f"{unique}: LOSSES_IN_A_ROW: the last 1 trades lost 0.5")
    ]


async def test_losses_in_a_row_disable_once_and_enabling_begins_a_new_count(
    ledger: Ledger, unique: str
) -> None:
    await ledger.ensure_account(ACCOUNT, "alpaca")
    await ledger.add_strategy(wanted(unique, losses_max=2), "alice", "first")
    for number, realised in enumerate(("-5", "3", "-1")):
        await settle(ledger, unique, number, realised)
    assert await ledger.disable_after_losses(unique, ACCOUNT) is None
    await settle(ledger, unique, 3, "0")
    await settle(ledger, unique, 4, "-2.5")

    disabled = await ledger.disable_after_losses(unique, ACCOUNT)
    assert disabled is not None
    assert (disabled.enabled, disabled.updated_by) == (False, "rule")
    assert disabled.reason == "LOSSES_IN_A_ROW: the last 2 trades lost 3.5"
    assert await ledger.disable_after_losses(unique, ACCOUNT) is None
    await ledger.change_strategy(unique, {"enabled": True}, "alice", "looked at it")
    await settle(ledger, unique, 5, "-1")
    assert await ledger.disable_after_losses(unique, ACCOUNT) is None


async def test_without_a_rule_no_number_of_losses_disables(ledger: Ledger, unique: str) -> None:
    await ledger.ensure_account(ACCOUNT, "alpaca")
    await ledger.add_strategy(wanted(unique), "alice", "no rule")
    for number in range(3):
        await settle(ledger, unique, number, "-1")
    assert await ledger.disable_after_losses(unique, ACCOUNT) is None
    assert await ledger.disable_after_losses(f"{unique}-not", ACCOUNT) is None
