"""Who hears an alert, quiet hours by zone, the channels' test command, the documented codes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

import starter
from domain.alerts import AlertChannel, QuietHours, receivers
from domain.commands import AlertSeverity
from observability.apprise_channel import masked
from settings_file import load_settings
from wiring import alert_policy

ROOT = Path(__file__).resolve().parents[2]
DEMO = (ROOT / "config" / "demo.toml").read_text()
# One of Apprise's services imports a module of the standard library that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
CHANNELS = (
    AlertChannel(name="all"),
    AlertChannel(name="bad", minimum=AlertSeverity.WARNING),
    AlertChannel(name="duty", escalation=True),
)


@pytest.mark.parametrize(
    ("severity", "is_escalation", "heard"),
    [
        (AlertSeverity.INFO, False, ["all"]),
        (AlertSeverity.WARNING, False, ["all", "bad"]),
        (AlertSeverity.CRITICAL, False, ["all", "bad"]),
        (AlertSeverity.CRITICAL, True, ["all", "bad", "duty"]),
    ],
)
def test_channels_hear_their_severity_and_duty_only_escalations(
    severity: AlertSeverity, is_escalation: bool, heard: list[str]
) -> None:
    found = receivers(severity, CHANNELS, is_escalation=is_escalation)
    assert [each.channel for each in found] == heard


@pytest.mark.parametrize("severity", AlertSeverity)
def test_quiet_hours_mute_everything_but_critical(severity: AlertSeverity) -> None:
    found = receivers(severity, CHANNELS, is_quiet=True)
    assert {each.is_muted for each in found} == {severity is not AlertSeverity.CRITICAL}


@pytest.mark.parametrize(
    ("start", "end", "local", "quiet"),
    [
        ("22:00", "07:00", "21:59", False),
        ("22:00", "07:00", "22:00", True),
        ("22:00", "07:00", "06:59", True),
        ("22:00", "07:00", "07:00", False),
        ("12:00", "13:00", "12:30", True),
        ("12:00", "13:00", "13:00", False),
        ("12:00", "12:00", "12:00", False),
    ],
)
def test_quiet_hours_go_over_midnight_and_end_exclusively(
    start: str, end: str, local: str, quiet: bool
) -> None:
    hours = QuietHours(start=time.fromisoformat(start), end=time.fromisoformat(end))
    assert hours.contains(time.fromisoformat(local)) is quiet


def test_quiet_hours_are_those_of_their_zone_in_summer_and_winter(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    hours = '\n[alerts.quiet_hours]\nstart = "22:00"\nend = "07:00"\nzone = "Europe/Berlin"\n'
    path.write_text(DEMO + hours)
    is_quiet = alert_policy(load_settings(path, {})).is_quiet
    # 06:30 in Berlin is 05:30 UTC in winter and 04:30 UTC in summer.
    assert is_quiet(datetime(2026, 1, 15, 5, 30, tzinfo=UTC))
    assert not is_quiet(datetime(2026, 7, 15, 5, 30, tzinfo=UTC))


@contextmanager
def webhook(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"json://holdfast:canary-token@127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_channels_are_tried_one_by_one_and_a_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.toml"
    tables = "".join(
        f'\n[[alerts.channels]]\nname = "{name}"\n' for name in ("good", "bad", "gone")
    )
    path.write_text(DEMO + tables)
    command = ["--config", str(path), "--data", str(tmp_path), "alert", "test"]
    with webhook(200) as good, webhook(403) as bad:
        monkeypatch.setenv("HOLDFAST_ALERT_URL_GOOD", good)
        monkeypatch.setenv("HOLDFAST_ALERT_URL_BAD", bad)
        answer = CliRunner().invoke(starter.app, command)
        only_good = CliRunner().invoke(starter.app, [*command, "--channel", "good"])
    lines = {line.split()[0]: line for line in answer.output.splitlines()[1:]}
    assert answer.exit_code == 1, answer.output
    assert lines["good"].split() == ["good", "delivered"]
    assert "403" in lines["bad"]
    assert "HOLDFAST_ALERT_URL_GONE" in lines["gone"]
    assert "canary" not in answer.output
    assert only_good.exit_code == 0
    unknown = CliRunner().invoke(starter.app, [*command, "--channel", "pager"])
    assert unknown.exit_code == 2
    assert "ALERT_CHANNEL" in unknown.output


def test_no_part_of_a_url_that_may_be_a_token_is_told() -> None:
    url = "tgram://123456789:AAE-canary-token/4455667788?silent=yes"
    told = masked("refused 123456789 and AAE-canary-token at 4455667788, error=401", url)
    assert told == "refused *** and *** at ***, error=401"


def test_every_alert_of_the_code_is_documented() -> None:
    """A code that wakes somebody at night must be found in the documents."""
    code = "\n".join(
        path.read_text()
        for folder in ("domain", "activities", "ledger")
        for path in (ROOT / folder).rglob("*.py")
    )
    raised = set(re.findall(r"\balert\(\s*\w+(?:\.\w+)*,\s*\"([A-Z_]+)\"", code))
    raised |= set(re.findall(r"\breport\(\s*[\w.]+,\s*\"([A-Z_]+)\"", code))
    raised |= set(re.findall(r"code=\"([A-Z_]+)\",\n\s*severity=", code))
    assert {"KILL", "NAKED_LEG", "EXIT_WATCH_LATE", "TRADE_OPENED", "TRADE_STUCK"} <= raised
    texts = [(ROOT / "docs" / name).read_text() for name in ("alerts.md", "operator.md")]
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", "\n".join(texts)))
    assert raised <= documented, sorted(raised - documented)
