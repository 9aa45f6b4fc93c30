"""A worker that a deploy missed, or whose settings changed, opens nothing (H13, Knight ¶15)."""

from __future__ import annotations

import pytest

from domain.ids import Purpose
from ledger.records import GateAnswer, GateCode, GatePermit, GateRefused
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, NOW, intent, owner

OLD, NEXT = "old-build", "next-build"


async def knock(
    ledger: Ledger, build: str, config: str, purpose: Purpose = Purpose.ENTRY
) -> GateAnswer:
    asked = intent(purpose=purpose, increasing=purpose is Purpose.ENTRY)
    return await ledger.open_gate(
        asked, owner(), f"{build}/{config}", NOW, build_id=build, config_hash=config
    )


def is_stale(answer: GateAnswer) -> bool:
    return isinstance(answer, GateRefused) and answer.code is GateCode.WORKER_STALE


@pytest.mark.covers("H13")
async def test_worker_of_another_build_is_refused_named_and_told(signalled: Ledger) -> None:
    await signalled.set_deployed(ACCOUNT, [NEXT], ["c-1"], "ann")
    answer = await knock(signalled, OLD, "c-1")
    assert is_stale(answer)
    assert isinstance(answer, GateRefused)
    assert answer.text == f"build was {OLD}, deployed: {NEXT}"
    [alert] = [a for a in await signalled.list_alerts() if a.code == "WORKER_STALE"]
    assert (alert.severity, alert.account) == ("critical", ACCOUNT)
    assert isinstance(await knock(signalled, NEXT, "c-1"), GatePermit)


@pytest.mark.covers("H13")
async def test_worker_with_other_settings_is_refused(signalled: Ledger) -> None:
    await signalled.set_deployed(ACCOUNT, [NEXT], ["c-2"], "ann")
    answer = await knock(signalled, NEXT, "c-1")
    assert is_stale(answer)
    assert isinstance(answer, GateRefused)
    assert answer.text == "settings were c-1, deployed: c-2"


async def test_worker_that_cannot_say_what_it_is_is_refused(signalled: Ledger) -> None:
    await signalled.set_deployed(ACCOUNT, [NEXT], ["c-1"], "ann")
    assert is_stale(await knock(signalled, "", ""))


@pytest.mark.covers("H13")
async def test_stale_worker_still_gets_out(signalled: Ledger) -> None:
    """Entries fail closed, exits open."""
    await signalled.set_deployed(ACCOUNT, [NEXT], ["c-1"], "ann")
    for purpose in (Purpose.EXIT, Purpose.STOP, Purpose.FLATTEN):
        assert isinstance(await knock(signalled, OLD, "c-0", purpose), GatePermit)


async def test_both_builds_may_send_while_a_deploy_goes_on(signalled: Ledger) -> None:
    await signalled.set_deployed(ACCOUNT, [OLD, NEXT, NEXT], ["c-1"], "ann")
    assert isinstance(await knock(signalled, OLD, "c-1"), GatePermit)
    found = await signalled.deployed(ACCOUNT)
    assert found is not None
    assert found.build_ids == (OLD, NEXT)
    assert not found.why_not(NEXT, "c-1")


async def test_next_deploy_takes_the_place_of_the_one_before(signalled: Ledger) -> None:
    await signalled.set_deployed(ACCOUNT, [OLD, NEXT], ["c-1", "c-2", "c-1"], "ann")
    first = await signalled.deployed(ACCOUNT)
    await signalled.set_deployed(ACCOUNT, [NEXT], ["c-2"], "bob")
    second = await signalled.deployed(ACCOUNT)
    assert first is not None
    assert second is not None
    assert (first.config_hashes, first.deployed_by) == (("c-1", "c-2"), "ann")
    assert (second.build_ids, second.config_hashes) == ((NEXT,), ("c-2",))
    assert (second.account, second.deployed_by) == (ACCOUNT, "bob")
    assert second.deployed_at > first.deployed_at
    assert second.why_not("", "c-2") == f"build was unknown, deployed: {NEXT}"
    assert second.why_not(NEXT, "") == "settings were unknown, deployed: c-2"
    assert first.why_not(OLD, "c-9") == "settings were c-9, deployed: c-1, c-2"
    assert await signalled.deployed("second") is None


async def test_stale_worker_is_told_once_and_how_to_mend_it(signalled: Ledger) -> None:
    await signalled.set_deployed(ACCOUNT, [NEXT], ["c-1"], "ann")
    for _ in range(2):
        await knock(signalled, OLD, "c-1")
    (told,) = [a for a in await signalled.list_alerts() if a.code == "WORKER_STALE"]
    assert told.text == (
        f"build was {OLD}, deployed: {NEXT}; it sends no entries. "
        "Run deploy, or put its code or settings back"
    )
    await knock(signalled, "another", "c-1")
    assert len([a for a in await signalled.list_alerts() if a.code == "WORKER_STALE"]) == 2


async def test_account_that_nobody_deployed_is_held_against_nothing(signalled: Ledger) -> None:
    assert await signalled.deployed(ACCOUNT) is None
    assert isinstance(await knock(signalled, OLD, "c-0"), GatePermit)
