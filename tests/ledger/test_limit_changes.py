"""Limits that change while trades are open: stricter at once, looser not (faults.md §3 row 52)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.risk.limit_changes import LimitProposal, changes, strictest
from domain.risk.limits import Limits
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, plan
from tests.rig import roomy_limits
from wiring import limits_in_force, proposal_cursor

LOOSER: dict[str, Any] = {
    "max_order_notional": "100001",
    "collar_fraction": "0.03",
    "max_open_positions": 51,
    "quote_max_age_s": "61",
    "batch_fresh_fraction_min": "0.8",
    "options_level_min": 1,
}
STRICTER: dict[str, Any] = {
    "max_order_notional": "99999",
    "max_daily_loss_fraction": "0.01",
    "entry_blocked_last_s": "600",
    "exit_time_min_s": "60",
    "allow_short": False,
    "expiry_days_min": 1,
}


@pytest.mark.parametrize(("changed", "looser"), [(LOOSER, True), (STRICTER, False)])
def test_each_change_is_named_and_the_stricter_side_is_chosen(
    changed: dict[str, Any], looser: bool
) -> None:
    before, after = roomy_limits(), roomy_limits(**changed)
    found = changes(before, after)
    assert {each.name: each.looser for each in found} == dict.fromkeys(changed, looser)
    assert strictest(before, after) == (before if looser else after)
    assert strictest(after, before) == strictest(before, after)


def test_every_limit_has_a_stricter_side() -> None:
    for name, info in Limits.model_fields.items():
        before = roomy_limits()
        value = getattr(before, name)
        other = (not value) if info.annotation is bool else value + Decimal("0.001")
        if info.annotation is int:
            other = value + 1
        after = before.model_copy(update={name: other})
        there, back = changes(before, after), changes(after, before)
        assert [there[0].looser, back[0].looser] in ([True, False], [False, True]), name


async def audited(ledger: Ledger) -> list[tuple[str, dict[str, str]]]:
    rows = await ledger.list_audit()
    return [(r.action, json.loads(r.details)) for r in rows if r.action.startswith("limits_")]


@pytest.mark.covers("B5")
async def test_looser_limit_waits_until_nothing_is_open_and_each_difference_is_audited(
    armed: Ledger,
) -> None:
    ledger, account = armed, ACCOUNT
    first, looser = roomy_limits(), roomy_limits(max_open_positions=60, quote_max_age_s="30")
    assert await limits_in_force(ledger, account, first) == first
    assert await audited(ledger) == []

    trade = await ledger.create_trade(plan())
    mixed = await limits_in_force(ledger, account, looser)
    assert mixed.max_open_positions == 50
    assert mixed.quote_max_age_s == 30
    assert await audited(ledger) == [
        ("limits_held", {"max_open_positions": "50 -> 60", "quote_max_age_s": "60 -> 30"})
    ]

    await ledger.update_trade(trade.trade_id, stage="closed", closed=True)
    assert await limits_in_force(ledger, account, looser) == looser
    assert await limits_in_force(ledger, account, looser) == looser, "told once"
    assert (await audited(ledger))[1:] == [("limits_changed", {"max_open_positions": "50 -> 60"})]


async def test_limits_that_another_build_stored_are_read_by_name(ledger: Ledger) -> None:
    """H12: a limit that is new or gone in this build must not keep its worker from starting."""
    stored = json.loads(roomy_limits().model_dump_json())
    del stored["allow_short"]
    stored["limit_of_yesterday"] = "7"
    await ledger.set_cursor(f"limits/{ACCOUNT}", json.dumps(stored))
    wanted = roomy_limits(max_order_notional="99999")
    assert await limits_in_force(ledger, ACCOUNT, wanted) == wanted
    kept = await ledger.get_cursor(f"limits/{ACCOUNT}")
    assert kept is not None
    assert Limits.model_validate_json(kept) == wanted


def proposed(**changed: Any) -> LimitProposal:
    return LimitProposal(
        proposal_id="p-1",
        account=ACCOUNT,
        limits=roomy_limits(**changed),
        by="alice",
        reason="quiet day",
        at=datetime.now(UTC),
    )


@pytest.mark.parametrize(
    ("by", "minutes", "changed", "code"),
    [
        ("bob", 1, LOOSER, ""),
        ("bob", 30, LOOSER, ""),
        ("bob", 30.01, LOOSER, "PROPOSAL_EXPIRED"),
        ("bob", -1, LOOSER, "PROPOSAL_EXPIRED"),
        ("alice", 1, LOOSER, "SAME_PERSON"),
        ("bob", 1, LOOSER | {"max_open_positions": 52}, "LIMITS_DIFFER"),
    ],
)
def test_another_person_approves_exactly_these_limits_in_time(
    by: str, minutes: float, changed: dict[str, Any], code: str
) -> None:
    """Row 52: who proposed is not who approved; it expires."""
    proposal = proposed(**LOOSER)
    refusal = proposal.why_not_approve(
        by, roomy_limits(**changed), proposal.at + timedelta(minutes=minutes)
    )
    assert refusal.partition(" ")[0] == code


def test_proposal_is_approved_once() -> None:
    proposal = proposed(**LOOSER)
    done = proposal.model_copy(update={"approved_by": "bob", "approved_at": proposal.at})
    assert done.why_not_approve("carol", done.limits, done.at).startswith("PROPOSAL_DONE")


@pytest.mark.parametrize(
    ("approved_minutes_ago", "file", "taken"),
    [
        (1.0, {"max_open_positions": 60}, True),
        (31.0, {"max_open_positions": 60}, False),
        (1.0, {"max_open_positions": 61}, False),
        (None, {"max_open_positions": 60}, False),
    ],
)
async def test_looser_limits_are_taken_over_beside_open_trades_if_two_people_agreed(
    armed: Ledger, approved_minutes_ago: float | None, file: dict[str, Any], taken: bool
) -> None:
    await limits_in_force(armed, ACCOUNT, roomy_limits())
    await armed.create_trade(plan())
    proposal = proposed(max_open_positions=60)
    if approved_minutes_ago is not None:
        at = datetime.now(UTC) - timedelta(minutes=approved_minutes_ago)
        proposal = proposal.model_copy(update={"approved_by": "bob", "approved_at": at})
    await armed.set_cursor(proposal_cursor(ACCOUNT), proposal.model_dump_json())
    wanted = roomy_limits(**file)
    in_force = await limits_in_force(armed, ACCOUNT, wanted)
    assert (in_force == wanted) is taken
    ((action, details),) = await audited(armed)
    assert action == ("limits_changed" if taken else "limits_held")
    people = {"proposed_by": "alice", "approved_by": "bob"}
    assert (people.items() <= details.items()) is taken
