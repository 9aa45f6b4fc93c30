"""`preflight` on the real parts: PostgreSQL, Temporal, the simulated exchange, a worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from activities.streams import heard_cursor
from cli.checks import OK, WRONG, Finding
from cli.context import Target
from cli.preflight import examine
from deploy.local.processes import start_time
from deploy.local.runfile import ProcessEntry, RunInfo, StackState, write_run_file
from domain.ids import Purpose
from domain.order import Side
from tests.conftest import TemporalServer
from tests.rig import Rig
from tests.workflow.test_reconcile import order_of


@pytest.fixture
def target(
    rig: Rig,
    temporal_server: TemporalServer,
    ledger_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Target:
    """Settings and run file as `init` and `up` leave them, of this rig."""
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)
    key = rig.exchange.config.keys[0]
    monkeypatch.setenv("HOLDFAST_BROKER_KEY_ID", key.key)
    monkeypatch.setenv("HOLDFAST_BROKER_SECRET", key.secret)
    sample = Path(__file__).resolve().parents[2] / "config" / "demo.toml"
    text = sample.read_text().replace('name = "demo"', f'name = "{rig.services.account}"')
    text = text.replace('installation = "d0d0"', f'installation = "{rig.services.installation}"')
    config = tmp_path / "holdfast.toml"
    config.write_text(text)
    me = ProcessEntry(name="supervisor", pid=os.getpid(), started=start_time(os.getpid()))
    write_run_file(
        RunInfo(
            data_dir=str(tmp_path),
            state=StackState.READY,
            supervisor=me,
            ledger_dsn=ledger_dsn,
            temporal_address=temporal_server.address,
            temporal_namespace=temporal_server.namespace,
            exchange_url=rig.server.url,
            exchange_control_url=rig.server.control_url,
        )
    )
    (tmp_path / "worker-all.ready").touch()
    return Target(config, tmp_path)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {each.check: each for each in findings}


async def test_what_is_there_is_green_and_each_trouble_turns_its_own_line_red(
    rig: Rig, target: Target
) -> None:
    async def is_compared() -> bool:
        return await rig.ledger.get_cursor(heard_cursor(rig.services.account)) is not None

    await rig.until_async(is_compared, "the order stream told how it is")
    found = by_name(await examine(target, ["ESX"], want_armed=True))
    # The rig has a trade queue and a build of its own, the test server a short retention.
    ours = {"temporal", "build", "workers: trade workflows", "workers: trade bookkeeping"}
    red = {name: each.text for name, each in found.items() if each.is_bad and name not in ours}
    assert red == {}
    assert found["workers: order lane"].verdict == OK
    assert found["database"].text == "reachable, migrations current"
    assert found["clock"].verdict == OK

    # An order of ours that nobody knows.
    rig.quote("ESX", "99.75", "100.25")
    await rig.broker.place(order_of(rig, "nobody", Purpose.ENTRY, Side.BUY))
    found = by_name(await examine(target, ["ESX", "NQX"]))
    assert found["data age NQX"].is_bad
    assert found["orders without owner"].verdict == WRONG
    assert "orphan_entry" in found["orders without owner"].text
