"""A kill stops the account that it was given to: names of another one are not known there (K8)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from cli.context import Target
from cli.known_names import nothing_known_by
from domain.control import KillScope, KillScopeKind
from ledger.repository import Ledger
from tests.ledger.order_lane import order, order_lane
from tests.ledger.samples import ACCOUNT, INSTALLATION, NOW, owner, plan

OTHER = "other"


def target_of(account: str) -> Target:
    names = SimpleNamespace(name=account, installation=INSTALLATION)
    return cast(Target, SimpleNamespace(settings=lambda: SimpleNamespace(account=names)))


@pytest.mark.covers("K8")
async def test_kill_of_a_trade_of_another_account_says_whose_it_is(armed: Ledger) -> None:
    """`kill trade:ID` with the wrong configuration said exit 0, and the trade went on entering."""
    await armed.ensure_account(OTHER, "alpaca")
    await armed.create_trade(plan().model_copy(update={"account": OTHER}))
    await armed.open_gate(order(), owner(account=OTHER), "t", NOW)
    trade = KillScope(kind=KillScopeKind.TRADE, value="trade-1")
    entry = KillScope(kind=KillScopeKind.ORDER, value=order().client_id)
    async with order_lane(armed) as lane:
        for scope in (trade, entry):
            here = await nothing_known_by(target_of(ACCOUNT), armed, lane.services.broker, scope)
            assert f"{scope.text} is of account {OTHER}" in here
            there = await nothing_known_by(target_of(OTHER), armed, lane.services.broker, scope)
            assert there == ""
