"""SIGKILL of the only worker at named points changes nothing about a trade's outcome.

faults.md C7, B2, I1, I2, I12: for every point the accepted orders (id, side, quantity, prices),
the fills, the exit reason and the P&L equal those of the uncrashed run of the same script. The
cases run a few at a time before the first test, because each of them mostly waits for timeouts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.client import Client

from ledger.migrate import upgrade
from observability.plugin import holdfast_plugin
from tests import trade_scenarios as play
from tests.conftest import TemporalServer
from tests.e2e.crash_play import Case, Grounds, Outcome, play_case
from tests.fixtures_postgres import dsn_of, run_as_superuser

pytestmark = pytest.mark.timeout(420)

# More at once stall each other for longer than an entry may wait in its queue.
AT_ONCE = 4
DATABASE = "ledger_crash"
# How an OCO is written in a client id, behind its leg.
OCO = "04"

RATCHET_POINTS = (
    "reserve_risk.enter:1",
    "reserve_risk.exit:1",
    "place_order.enter:1",
    "place_order.exit:3",
    "walk_step.enter:1",
    "walk_step.exit:2",
    "replace_order.enter:1",
    "replace_order.exit:3",
    "read_broker.exit:1",
    "settle_trade.enter:1",
    "settle_trade.exit:1",
    "before_intent_row:2",
    "after_intent_row:1",
    "after_response:1",
    "after_response:6",
    "after_ledger:5",
    "activation:3",
    "activation:10",
    "activation:18",
)
FLATTEN_POINTS = ("cancel_order.enter:1", "cancel_order.exit:2", "read_quote.exit:1")
PARTIAL_POINTS = ("cancel_order.exit:1",)
LOST_ENTRY = ("drop_reply", "POST", play.ENTRY_IDS)

BASELINES = tuple(Case("", script) for script in ("ratchet", "flatten", "partial"))
CASES = (
    *(Case(point) for point in RATCHET_POINTS),
    *(Case(point, "flatten") for point in FLATTEN_POINTS),
    *(Case(point, "partial") for point in PARTIAL_POINTS),
    Case("resolve_order.enter:1", fault=LOST_ENTRY),
    Case("resolve_order.exit:1", fault=LOST_ENTRY),
)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    postgres_dsn: str,
    temporal_server: TemporalServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[Case, Outcome | BaseException]]:
    """Every selected case, played once; a case that failed holds its error."""
    mine = [item for item in request.session.items if item.path == request.path]
    selected = {item.callspec.params["case"] for item in mine if isinstance(item, pytest.Function)}
    cases = [case for case in (*BASELINES, *CASES) if case in selected or case in BASELINES]
    dsn = dsn_of(postgres_dsn, DATABASE)
    folder = tmp_path_factory.mktemp("crash")
    yield asyncio.run(_play_all(cases, postgres_dsn, dsn, temporal_server, folder))
    asyncio.run(run_as_superuser(postgres_dsn, f"DROP DATABASE {DATABASE} WITH (FORCE)"))


async def _play_all(
    cases: list[Case], postgres_dsn: str, dsn: str, temporal: TemporalServer, folder: Path
) -> dict[Case, Outcome | BaseException]:
    await run_as_superuser(postgres_dsn, f"CREATE DATABASE {DATABASE}")
    await upgrade(dsn)
    client = await Client.connect(
        temporal.address,
        namespace=temporal.namespace,
        plugins=[holdfast_plugin()],
    )
    grounds, places = Grounds(client, temporal, dsn, folder), asyncio.Semaphore(AT_ONCE)

    async def one(number: int, case: Case) -> Outcome:
        async with places:
            return await play_case(grounds, case, number)

    played = await asyncio.gather(
        *(one(number, case) for number, case in enumerate(cases)), return_exceptions=True
    )
    return dict(zip(cases, played, strict=True))


def outcome_of(outcomes: dict[Case, Outcome | BaseException], case: Case) -> Outcome:
    found = outcomes[case]
    if isinstance(found, BaseException):
        raise found
    return found


@pytest.mark.parametrize("case", BASELINES, ids=lambda case: case.name)
def test_uncrashed_run_closes_and_leaves_nothing(
    outcomes: dict[Case, Outcome | BaseException], case: Case
) -> None:
    outcome = outcome_of(outcomes, case)
    assert outcome.deaths == 0
    assert outcome.left == ()
    assert len(outcome.fills) >= 2
    assert outcome.exit_reason


@pytest.mark.covers("C7", "E1", "E6")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_worker_changes_nothing_about_the_outcome(
    outcomes: dict[Case, Outcome | BaseException], case: Case
) -> None:
    outcome = outcome_of(outcomes, case)
    assert outcome.deaths == 1, f"the worker never passed {case.failpoint}"
    uncrashed = outcome_of(outcomes, Case("", case.script))
    if case.script == "flatten":
        outcome, uncrashed = _without_returns(outcome), _without_returns(uncrashed)
    assert outcome == uncrashed


def _without_returns(outcome: Outcome) -> Outcome:
    """Protection that came back with the same body, while nobody could send the exit (K3), once.

    Whether it does hangs on how long the next worker takes to start.
    """
    back = {order for order in outcome.accepted if order[0][2:4] == OCO}
    rest = [order for order in outcome.accepted if order not in back]
    return replace(outcome, accepted=tuple(sorted((*rest, *back))))
