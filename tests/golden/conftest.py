"""Plays the golden trades of a test file a few at a time: each of them mostly waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from temporalio.client import Client

from ledger.migrate import upgrade
from ledger.repository import Ledger
from observability.plugin import holdfast_plugin
from simulator.config import WireFace
from tests.conftest import TEST_MODULES, TemporalServer
from tests.fixtures_postgres import dsn_of, run_as_superuser
from tests.golden.catalogue import CATALOGUE, Golden, deviations, perform, violations
from tests.golden.playing import Play
from tests.rig import running_rig
from tests.workflow.test_kill import sweeping

AT_ONCE = 3
TRIES_MAX = 3
ALONE = ("gt12",)
"""Kills every account of the ledger."""
LONG = ("gt04", "gt03", "gt06")
"""End by the clock, so they start first."""
Verdicts = dict[str, list[str] | BaseException]


@pytest.fixture(scope="module")
def verdicts(
    request: pytest.FixtureRequest, postgres_dsn: str, temporal_server: TemporalServer
) -> Iterator[Verdicts]:
    """What was wrong with each selected trade at the broker of this file (its `FACE`)."""
    mine = [item for item in request.session.items if item.path == request.path]
    functions = [item for item in mine if isinstance(item, pytest.Function)]
    selected = {str(item.callspec.params["name"]) for item in functions}
    face: WireFace = request.module.FACE
    database = f"golden_{face}"
    dsn = dsn_of(postgres_dsn, database)
    names = sorted(selected, key=lambda name: (name in ALONE, name not in LONG, name))
    yield asyncio.run(_play_all(names, face, postgres_dsn, dsn, database, temporal_server))
    asyncio.run(run_as_superuser(postgres_dsn, f"DROP DATABASE {database} WITH (FORCE)"))


async def _play_all(
    names: Sequence[str],
    face: WireFace,
    postgres_dsn: str,
    dsn: str,
    database: str,
    temporal: TemporalServer,
) -> Verdicts:
    await run_as_superuser(postgres_dsn, f"CREATE DATABASE {database}")
    await upgrade(dsn)
    client = await Client.connect(
        temporal.address,
        namespace=temporal.namespace,
        plugins=[holdfast_plugin(sandboxed_for=TEST_MODULES)],
    )
    places = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> list[str]:
        async with places:
            return await play_one(CATALOGUE[name], face, client, dsn)

    together = [name for name in names if name not in ALONE]
    played: list[list[str] | BaseException] = await asyncio.gather(
        *(one(name) for name in together), return_exceptions=True
    )
    for name in names:
        if name in ALONE:
            played += await asyncio.gather(one(name), return_exceptions=True)
    return dict(zip(names, played, strict=True))


async def play_one(golden: Golden, face: WireFace, client: Client, dsn: str) -> list[str]:
    """What is wrong with a golden trade: a broken invariant, or no run that goes as written.

    A machine that stalls for seconds makes a walk skip a step or a quote too old, so the least
    disturbed of three runs tells; an invariant may be broken in none of them.
    """
    deviating: list[str] = []
    for number in range(TRIES_MAX):
        found, deviating = await _run_once(golden, face, client, dsn, number)
        if found or not deviating:
            return found
    return deviating


async def _run_once(
    golden: Golden, face: WireFace, client: Client, dsn: str, number: int
) -> tuple[list[str], list[str]]:
    """Violations and deviations of one run, with a ledger connection of its own."""
    ledger = await Ledger.connect(dsn)
    try:
        async with (
            running_rig(
                client,
                ledger,
                f"{golden.name}-{face}-{number}",
                config=golden.config(face),
                limits=golden.limits,
                with_wall_times=True,
            ) as rig,
            sweeping(rig),
        ):
            golden.prepare(rig)
            play = Play(rig, kill_all=golden.name in ALONE)
            results = await perform(golden, play)
            found = await violations(play, results)
            return found, await deviations(golden, play, results)
    finally:
        await ledger.aclose()


def names_at(face: WireFace) -> list[str]:
    """Golden trades that this broker can do."""
    return [name for name, golden in CATALOGUE.items() if face in golden.brokers]


def assert_clean(verdicts: Verdicts, name: str) -> None:
    """The verdict on one trade; its own error comes out here."""
    verdict = verdicts[name]
    if isinstance(verdict, BaseException):
        raise verdict
    assert not verdict, f"{CATALOGUE[name].title}: {verdict}"
