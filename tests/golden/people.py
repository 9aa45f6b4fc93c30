"""Scripts of the golden trades in which the gate or a person has the last word."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from activities.kill import engage
from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from domain.errors import Refused
from domain.plan import FixedSize
from ledger.reset_store import reset_phrase
from tests import trade_scenarios as standard
from tests.golden import equities
from tests.golden.playing import Play

D = Decimal
SECRETS = {"ann": "correct horse battery", "bob": "staple and a longer word"}


async def too_large(play: Play) -> None:
    """GT8: a million in one order, ten times what is allowed."""
    await play.start(equities.simple_plan(play, size=FixedSize(quantity=D(10_000))))


def asked_for_nothing(play: Play) -> list[str]:
    return [f"the venue was asked: {row}" for row in play.seen.requests]


async def flattened_while_walking(play: Play) -> None:
    """GT11."""
    plan = await play.start(equities.plan_of(play))
    await play.when(plan, lambda: len(play.entries(plan)) >= 2, "the walk has made a step")
    await play.command(plan, "request_flatten")


async def killed_and_reset(play: Play) -> None:
    """GT12: killed flat, refused while killed, traded again after two people agreed."""
    first = await play.start(equities.simple_plan(play, "1"))
    await equities.hold_protected(play, first)
    await _kill(play)
    await play.ended(first)
    await play.ended(await play.start(equities.simple_plan(play, "2")))
    await _reset(play)
    standard.calm_market(play.rig)
    third = await play.start(equities.simple_plan(play, "3"))
    await equities.hold_protected(play, third)
    play.quote(equities.SYMBOL, "101.50", "101.75")


async def _kill(play: Play) -> None:
    account = play.rig.services.account
    scope = KillScope(kind=KillScopeKind.ACCOUNT, value=account)
    if play.kill_all:
        scope = KillScope(kind=KillScopeKind.ALL)
    kill = KillSwitch(
        scope=scope,
        mode=KillMode.FLATTEN,
        reason="golden trade",
        by="ann",
        command_id=f"gt12-{account}"[-48:],
        engaged_at=datetime.now(UTC),
    )
    await engage(play.rig.ledger, account, kill)


async def _reset(play: Play) -> None:
    """One person asks and may not confirm; the other one confirms."""
    ledger, account = play.rig.ledger, None if play.kill_all else play.rig.services.account
    for name, secret in SECRETS.items():
        await ledger.add_operator(name, secret)
    now = datetime.now(UTC)
    asked = await ledger.request_reset(account, "ann", "all is well", reset_phrase(account), now)
    with pytest.raises(Refused, match="second person") as refused:
        await ledger.confirm_reset(asked.request_id, "ann", now)
    assert refused.value.code == "SAME_PERSON"
    await ledger.confirm_reset(asked.request_id, "bob", datetime.now(UTC))
