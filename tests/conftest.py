"""Fixtures that several test folders share.

One real Temporal dev server per test process, with the flags of the product (architecture §11).
Tests keep apart by workflow ids and task queues of their own, not by servers.
"""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import TimeSkipper, TimeSkippingConfig

from deploy.local.processes import Child, free_port
from deploy.local.temporal import NAMESPACE, server_spec
from observability.plugin import holdfast_plugin

TESTS = Path(__file__).resolve().parent
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "open"
# Imported by test files that define a workflow of their own.
TEST_MODULES = (
    *("_pytest", "pytest", "pytest_asyncio", "hypothesis", "pluggy", "iniconfig"),
    *("deploy", "observability", "tests"),
)
SHARED_DATA_MISSING = "../shared/data/open is not there: tests on recorded market data left out"


# The longest files, longest first: a worker that begins one of them when nothing else is left runs
# on alone. Those that play several trades at once stand apart, so that they meet less.
LONGEST_FIRST = (
    "simulation/test_tradier_second_seeds.py",
    "simulation/test_tradier_first_seeds.py",
    "simulation/test_alpaca_second_seeds.py",
    "simulation/test_alpaca_first_seeds.py",
    "e2e/test_crash_resumption.py",
    "e2e/test_demo.py",
    "workflow/test_discrepancies.py",
    "chaos/test_chaos_slice.py",
    "workflow/test_trade_scenarios.py",
    "workflow/test_session_days.py",
    "golden/test_at_alpaca.py",
    "workflow/test_combo_trades.py",
    "workflow/test_adversary.py",
    "golden/test_at_tradier.py",
    "workflow/test_fault_rows.py",
    "workflow/test_deploy.py",
    "e2e/test_session_crash.py",
    "workflow/test_server_away.py",
    "e2e/test_starved_worker.py",
    "e2e/test_supervisor.py",
)


@dataclass(frozen=True)
class TemporalServer:
    """Where the session's dev server answers."""

    address: str
    namespace: str


def pytest_report_header() -> list[str]:
    return [] if SHARED_DATA.is_dir() else [f"NOTE: {SHARED_DATA_MISSING}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {TESTS / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    if SHARED_DATA.is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared") is not None:
            item.add_marker(pytest.mark.skip(reason=SHARED_DATA_MISSING))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of recorded market data; tests that use it carry the marker `shared`."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporalServer]:
    """A real dev server with an on-disk store, ended with the session (or killed with it)."""
    folder = tmp_path_factory.mktemp("temporal")
    port = free_port()
    spec = server_spec(port=port, ui_port=None, database=folder / "temporal.db")
    child = Child(spec, folder / "temporal.log")
    try:
        child.wait_until_ready()
        server = TemporalServer(f"127.0.0.1:{port}", NAMESPACE)
        asyncio.run(_wait_until_it_serves(server))
        yield server
    finally:
        child.send_stop()
        child.wait_stopped()


async def _wait_until_it_serves(server: TemporalServer) -> None:
    """The port opens before the namespace can be used."""
    for _ in range(200):
        try:
            client = await Client.connect(server.address, namespace=server.namespace)
            async for _execution in client.list_workflows(page_size=1):
                break
            return
        except (RPCError, RuntimeError):
            await asyncio.sleep(0.05)
    raise TimeoutError(f"Temporal at {server.address} did not serve its namespace in 10 s")


def pytest_collection_finish() -> None:
    """Thousands of collected tests are looked through by every full collection else: a pause of
    seconds in a process that plays worker and exchange at once."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def temporal_client(temporal_server: TemporalServer) -> Client:
    """A client with the one runtime plugin; workers made from it inherit the plugin."""
    return await Client.connect(
        temporal_server.address,
        namespace=temporal_server.namespace,
        plugins=[holdfast_plugin(sandboxed_for=TEST_MODULES)],
    )


@pytest.fixture
def virtual_time(temporal_client: Client) -> TimeSkipper:
    """Virtual time per workflow on the same real server.

    Start workflows through `virtual_time.client`, then `await virtual_time.fast_forward(handle,
    duration)` in lockstep with the exchange's clock. Nothing skips by itself: automatic skipping
    would fire a six-hour time stop before an outside fill arrives (architecture §11). Where all
    facts come from own timers and activities, set `virtual_time.config = TimeSkippingConfig()`.
    """
    return TimeSkipper(temporal_client, config=TimeSkippingConfig(enabled=False))


@pytest.fixture
def unique() -> str:
    """A name of this test alone, for workflow ids and task queues."""
    return uuid.uuid4().hex[:12]
