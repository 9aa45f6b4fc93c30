"""Which rows the exit watch goes on with, and which it takes anew (I8, H3)."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from activities.exit_watch import ExitWatch
from activities.services import Services, StreamInput
from domain.clock import ClockMap
from domain.plan import ExitRule, RuleKind
from ledger.records import WatchRecord
from tests.ledger.samples import plan

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
KEY = ("trade-1", "stop")


def row(threshold: str, asked_at: str = "first") -> WatchRecord:
    rule = ExitRule(rule_id="stop", kind=RuleKind.LOSS_AMOUNT, threshold=Decimal(threshold))
    document: dict[str, Any] = {
        "rule": rule.model_dump(mode="json"),
        "clock": ClockMap(wall0=NOW, market0=NOW).model_dump(mode="json"),
        "side": "buy",
        "units": "1",
        "average_entry": "5",
        "opened_at": NOW.isoformat(),
        "asked_at": asked_at,
    }
    return WatchRecord(
        account="acct",
        trade_id="trade-1",
        rule_id="stop",
        position_epoch=1,
        symbol="AAPL",
        document=document,
    )


class World:
    """A ledger with one row."""

    def __init__(self) -> None:
        self.row = row("100")

    async def list_watches(self, account: str) -> tuple[WatchRecord, ...]:
        return (self.row,)

    async def trade(self, trade_id: str) -> Any:
        return SimpleNamespace(plan=plan())

    def watch(self) -> ExitWatch:
        services = SimpleNamespace(ledger=self, account="acct", now=lambda: NOW)
        return ExitWatch(cast(Services, services), cast(Any, None), StreamInput(account="acct"))


@pytest.mark.parametrize("again", [row("40"), row("100", "second")], ids=["moved", "asked anew"])
async def test_rule_that_was_asked_for_again_is_watched_anew_and_keeps_its_best_mark(
    again: WatchRecord,
) -> None:
    """A stop that a person moved was watched at its old price. One that had fired for a trade
    that was then rebuilt never fired again: nothing protected its position."""
    world = World()
    watch = world.watch()
    await watch.read_list()
    before = watch._watched[KEY]
    before.state = before.state.model_copy(
        update={"triggered": True, "high_water": Decimal(7), "confirmations": 1}
    )
    world.row = again
    await watch.read_list()
    after = watch._watched[KEY]
    assert after.rule == ExitRule.model_validate(again.document["rule"])
    assert (after.state.triggered, after.state.confirmations) == (False, 0)
    assert after.state.high_water == Decimal(7)


async def test_row_that_stayed_the_same_is_gone_on_with() -> None:
    world = World()
    watch = world.watch()
    await watch.read_list()
    before = watch._watched[KEY]
    world.row = world.row.model_copy(update={"evaluated_at": NOW})
    await watch.read_list()
    assert watch._watched[KEY] is before
