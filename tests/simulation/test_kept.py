"""Every scenario that once failed, and the shrinker and oracle that would find it again."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from unittest import mock

import pytest

from activities import absence
from activities.order_resolving import OrderResolver
from activities.order_sending import REPOST_REFUSED, OrderSender
from ledger.records import DUPLICATE
from simulator.checks import Checks
from tests.simulation import kept
from tests.simulation.bare import MAX_S
from tests.simulation.campaign import names
from tests.simulation.options import contracts_of
from tests.simulation.scenario import Mishap, Scenario, stormy
from tests.simulation.shrinking import shrunk
from tests.simulation.world import LAG_MAX_S, RECONCILE_EVERY_S, run_scenario

LEFT_BEHIND = "liquidation-behind-a-lost-commit"
QUEUED_MOVE = "exit-behind-a-stops-move-in-a-slow-lane"
PARKED = "cancels-refused-by-a-network-that-was-away"
HIDDEN = "protection-that-rests-listed-twelve-seconds-late"
REFUSED_ONCE = "refused-once-and-hidden-beyond-the-settle-window"
GIVEN_UP = "entry-given-up-while-no-list-shows-it"
REJECTED = "protection-rejected-while-the-ledger-was-away"
BARE_FOR_A_MOMENT = (
    "cancel-told-with-what-it-had-filled",
    "exit-behind-a-slow-line",
    "refusal-that-the-answer-explains",
    "walk-that-died-before-its-gate",
)


@pytest.mark.parametrize("path", kept.every(), ids=lambda path: path.stem)
def test_kept_scenario_violates_nothing_any_more(path: Path) -> None:
    assert run_scenario(kept.read(path)).violations == ()


@pytest.mark.parametrize("broker", ["alpaca", "tradier"])
def test_order_left_behind_by_a_process_that_died_is_closed_by_reconcile(broker: str) -> None:
    """I10: who knew that nothing was sent is gone; of an order, and of a change in place."""

    async def died(*_given: object) -> None:
        return None

    scenario = replace(kept.read(kept.FOLDER / f"{LEFT_BEHIND}.json"), broker=broker)
    with mock.patch.object(OrderSender, "_book_unsent", died):
        outcome = run_scenario(scenario)
    assert outcome.violations == ()
    passes = 3 if broker == "tradier" else LAG_MAX_S / RECONCILE_EVERY_S
    assert 1 <= outcome.happened["found/intent_stuck"] <= passes
    assert outcome.happened["intent/PROVEN_ABSENT"] == 1


def test_end_is_judged_when_a_pass_has_looked_behind_the_last_doubt() -> None:
    """R7: while a row is open no difference in its symbol is believed, nor told to a person."""

    async def died(*_given: object) -> None:
        return None

    lost = Mishap(2.3, "commit_lost", (("nth", 1),))
    liquidated = Mishap(14.6, "event", (("what", "liquidation"),))
    scenario = replace(stormy(172), mishaps=(lost, liquidated), reconciles=True)
    with mock.patch.object(OrderSender, "_book_unsent", died):
        outcome = run_scenario(scenario)
    assert outcome.violations == ()
    assert outcome.happened["intent/PROVEN_ABSENT"] == 1


def test_rejected_protection_is_missed_by_the_first_pass_that_can_read() -> None:
    """I4: its read broke off with the ledger, and was not repeated for a minute (48.8 s bare)."""
    outcome = run_scenario(kept.read(kept.FOLDER / f"{REJECTED}.json"))
    assert max(span.counted_s for span in outcome.bare) <= MAX_S


@pytest.mark.parametrize("name", BARE_FOR_A_MOMENT)
def test_position_that_once_waited_bare_is_bare_for_a_moment(name: str) -> None:
    """I4, M8: each of them was bare for two to four seconds."""
    outcome = run_scenario(kept.read(kept.FOLDER / f"{name}.json"))
    assert max(span.beyond_entry_s for span in outcome.bare) <= 1.0


def test_exit_does_not_wait_for_a_stops_move_that_waits_in_a_slow_lane() -> None:
    """I4, K3: 56 s bare at 60 requests a minute, behind a step that everything else passed."""
    outcome = run_scenario(kept.read(kept.FOLDER / f"{QUEUED_MOVE}.json"))
    assert max(span.counted_s for span in outcome.bare) <= 20.0


def test_hidden_exit_that_rests_is_doubled_but_for_the_venues_refusal() -> None:
    """I2, C5: what ADR 0020 leaves to a venue that reserves the position for working exits."""

    def mutant() -> AbstractContextManager[object]:
        return mock.patch.object(Checks, "held_for", return_value=Decimal(0))

    scenario = kept.read(kept.FOLDER / f"{HIDDEN}.json")
    assert run_scenario(scenario).violations == ()
    assert "I2" in names(run_scenario(scenario, mutant=mutant))


def test_order_in_no_list_is_found_because_it_is_posted_after_a_refusal_too() -> None:
    """I2, C5: one refusal ended the asking and the next exit turned the position round. What the
    hidden one executed would keep it from being called absent as well."""

    async def refused_or_there(self: OrderResolver, client_id: str) -> bool:
        record = await self._services.ledger.intent(client_id)
        return record is not None and record.code.startswith((DUPLICATE, REPOST_REFUSED))

    async def nothing_hides(*_given: object) -> bool:
        return False

    def mutant() -> AbstractContextManager[object]:
        both = ExitStack()
        both.enter_context(mock.patch.object(OrderResolver, "_is_at_venue", refused_or_there))
        both.enter_context(mock.patch.object(absence, "_hidden_one_fills", nothing_hides))
        return both

    scenario = kept.read(kept.FOLDER / f"{REFUSED_ONCE}.json")
    assert run_scenario(scenario).violations == ()
    assert "I2" in names(run_scenario(scenario, mutant=mutant))


@pytest.mark.parametrize("hidden_s", [12.0, 40.0])
def test_entry_that_nobody_may_post_again_is_not_absent_while_lists_may_lag(
    hidden_s: float,
) -> None:
    """I3, I10, C5: its time was over, it was absent after 5 s, and worked for an ended trade."""
    scenario = kept.read(kept.FOLDER / f"{GIVEN_UP}.json")
    lag, *others = scenario.mishaps
    params = (("lag_s", hidden_s), ("lists", True))
    values = tuple((name, params if name == "params" else of) for name, of in lag.values)
    scenario = replace(scenario, mishaps=(replace(lag, values=values), *others))
    assert run_scenario(scenario).violations == ()
    with mock.patch.object(OrderResolver, "_waits_for_lists", return_value=False):
        assert "I3" in names(run_scenario(scenario))


def test_scenario_survives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "FOLDER", tmp_path)
    for seed in range(1, 12):
        scenario = stormy(seed, "tradier")
        again = kept.read(kept.write("same", scenario, "nothing"))
        assert again == scenario


def test_trade_that_is_left_alone_by_the_shrinker_has_its_own_market_only() -> None:
    """Quotes of contracts that nobody lists any more would be another failure."""
    scenario = stormy(19490)
    assert len(contracts_of(scenario.plans)) > len(contracts_of(scenario.plans[1:])) > 0
    alone = shrunk(scenario, lambda smaller: smaller.plans != scenario.plans[:1])
    assert alone.plans == scenario.plans[1:]
    assert run_scenario(alone).violations == ()


def test_planted_bug_is_found_and_shrunk_to_its_cause() -> None:
    """The oracle bites: without the mend of I11 the kept scenario fails again, and mishaps that
    have nothing to do with it are left out."""
    noise = stormy(5).mishaps
    scenario = kept.read(kept.FOLDER / f"{PARKED}.json")
    noisy = replace(scenario, mishaps=(*scenario.mishaps, *noise))

    def mutant() -> AbstractContextManager[object]:
        return mock.patch("domain.fold.lift_answered", lambda state: state)

    def still_fails(smaller: Scenario) -> bool:
        return "I11" in names(run_scenario(smaller, mutant=mutant))

    assert still_fails(scenario)
    assert {m.kind for m in shrunk(noisy, still_fails).mishaps} == {"fault", "no_network"}
