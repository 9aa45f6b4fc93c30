"""Two `up` on one data directory: one owner, and the other is told so."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.context import Target, demo_config
from cli.exchange_check import exchange_arguments
from cli.stack import LEDGER_FOLDER, set_aside_simulation
from deploy.local import control
from deploy.local.control import start_detached
from deploy.local.kill_journal import JournalKill, KillJournal
from deploy.local.supervisor import StackConfig, StackFailed, lock
from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from observability.build import repository_root
from starter import app


def target_with_data(data_dir: Path) -> Target:
    (data_dir / LEDGER_FOLDER).mkdir(parents=True)
    return Target(demo_config(), data_dir)


def test_data_of_a_supervisor_that_is_starting_stays_where_it_is(tmp_path: Path) -> None:
    target = target_with_data(tmp_path / "data")
    with lock(target.data_dir), pytest.raises(StackFailed) as raised:
        set_aside_simulation(target, target.settings())
    assert raised.value.code == "ALREADY_RUNNING"
    assert (target.data_dir / LEDGER_FOLDER).exists()


def test_data_that_nobody_owns_is_moved_once(tmp_path: Path) -> None:
    target = target_with_data(tmp_path / "data")
    aside = set_aside_simulation(target, target.settings())
    assert aside is not None
    assert (aside / LEDGER_FOLDER).exists()
    assert set_aside_simulation(target, target.settings()) is None


@pytest.mark.parametrize("waits", [True, False])
def test_a_plain_up_keeps_the_data_of_a_kill_that_waits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """A kill is latched: it must not be moved aside with the ledger that is to get it (I9)."""

    class NoSupervisor:
        def __init__(self, config: StackConfig) -> None:
            self.config = config

        def run(self) -> None:
            """Nothing is started."""

    monkeypatch.setattr("cli.stack.Supervisor", NoSupervisor)
    data_dir = target_with_data(tmp_path / "data").data_dir
    if waits:
        scope = KillScope(kind=KillScopeKind.ALL)
        now = datetime(2026, 3, 2, tzinfo=UTC)
        kill = KillSwitch(
            scope=scope, mode=KillMode.BLOCK, reason="r", by="ada", command_id="c", engaged_at=now
        )
        KillJournal(data_dir).append(JournalKill(account=None, kill=kill))
    given = ["--config", str(demo_config()), "--data", str(data_dir), "up"]
    answer = CliRunner().invoke(app, given)
    assert answer.exit_code == 0
    assert ("KILL_WAITS" in answer.output) is waits
    assert (data_dir / LEDGER_FOLDER).exists() is waits
    assert ("earlier data is in" in answer.output) is not waits


@pytest.mark.parametrize(
    ("says", "code", "told"),
    [
        ("", "STACK_FAILED", "up ended with exit code 3:\nit wrote nothing to "),
        ("ALREADY_RUNNING by another", "ALREADY_RUNNING", "ALREADY_RUNNING by another"),
        ("LOG: ready\nBUILD_MISSING trade/a on b", "BUILD_MISSING", "BUILD_MISSING trade/a on b"),
        (
            "NO_ALERT_CHANNEL nobody\nno room",
            "STACK_FAILED",
            "up ended with exit code 3:\nNO_ALERT",
        ),
        ("no room", "STACK_FAILED", "up ended with exit code 3:\nno room"),
    ],
)
def test_detached_start_that_ends_says_why(tmp_path: Path, says: str, code: str, told: str) -> None:
    """Its own refusal and nothing of an earlier start: PostgreSQL's log of an hour ago hid it."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "supervisor.log").write_text("of the start before\n")
    program = f"import sys; sys.stderr.write({says!r}); sys.exit(3)"
    with pytest.raises(StackFailed) as raised:
        start_detached([sys.executable, "-c", program], tmp_path)
    assert raised.value.code == code
    assert raised.value.text.startswith(told)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--exchange-config", "none.json"), "EXCHANGE_FILE exchange-config"),
        (("--exchange-config", "list.json"), "EXCHANGE_CONFIG exchange-config"),
        (("--exchange-config", "unknown.json"), "unknown keys were ['nosuch']"),
        (("--exchange-config", "text.json"), "JSONDecodeError"),
        (("--exchange-start", "yesterday"), "DATE_INVALID exchange-start"),
        (("--exchange-start", "2026-03-02T15:00:00"), "DATE_INVALID exchange-start"),
        (("--tape", "none.csv"), "EXCHANGE_FILE tape"),
        (("--speed", "fast"), "NUMBER_INVALID speed"),
    ],
)
def test_bad_option_of_the_exchange_is_refused_before_earlier_data_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str], told: str
) -> None:
    """It was the last line of a traceback, and ledger and kills were aside already."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("list", "[1]"), ("unknown", '{"nosuch": 1}'), ("text", "seed = 1")):
        (tmp_path / f"{name}.json").write_text(text)
    target = target_with_data(tmp_path / "data")
    asked = ["--data", str(target.data_dir), "up", "--detach", *options]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2, result.output
    assert told in result.output
    assert result.output.count("\n") == 1
    assert (target.data_dir / LEDGER_FOLDER).exists()


@pytest.mark.parametrize("given", [False, True])
def test_start_without_a_market_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, given: bool
) -> None:
    """Else preflight is ready, and the first session hears SYMBOL_UNKNOWN of every symbol."""

    def no_stack(*_: object) -> None:
        raise StackFailed("not in this test", code="STACK_FAILED")

    monkeypatch.setattr(control, "start_detached", no_stack)
    example = repository_root() / "docs" / "examples" / "exchange.json"
    market = ["--exchange-config", str(example)] if given else []
    result = CliRunner().invoke(app, ["--data", str(tmp_path / "data"), "up", "--detach", *market])
    assert "STACK_FAILED" in result.output
    assert ("NO_MARKET" in result.output) is not given


@pytest.mark.parametrize("has_channel", [False, True])
def test_start_without_an_alert_channel_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_channel: bool
) -> None:
    """Nobody would have been called for a position without its stop, and nothing said so."""

    def no_stack(*_: object) -> None:
        raise StackFailed("not in this test", code="STACK_FAILED")

    monkeypatch.setattr(control, "start_detached", no_stack)
    config = tmp_path / "mine.toml"
    channel = '\n[[alerts.channels]]\nname = "chat"\n' if has_channel else ""
    config.write_text(demo_config().read_text() + channel)
    asked = ["--config", str(config), "--data", str(tmp_path / "data"), "up", "--detach"]
    output = CliRunner().invoke(app, asked).output
    told = [line for line in output.splitlines() if line.startswith("NO_ALERT_CHANNEL")]
    assert len(told) == (0 if has_channel else 1)
    for line in told:
        assert str(config) in line
        _, _, section = line.rpartition("docs/operator.md#")
        text = (repository_root() / "docs" / "operator.md").read_text()
        titles = [t.removeprefix("## ") for t in text.splitlines() if t.startswith("## ")]
        assert section in [title.lower().replace(" ", "-") for title in titles]


def test_options_of_the_exchange_are_handed_on_as_it_reads_them() -> None:
    example = repository_root() / "docs" / "examples" / "exchange.json"
    found = exchange_arguments(example, None, "2", "2026-03-02T15:00:00Z")
    assert found == [
        *("--config", str(example), "--speed", "2", "--start", "2026-03-02T15:00:00+00:00")
    ]
    assert exchange_arguments(None, None, "", "") == []
    # As `init` and `up` print it.
    _, start = exchange_arguments(None, None, "", "NOW")
    assert abs(datetime.fromisoformat(start) - datetime.now(UTC)) < timedelta(minutes=1)
