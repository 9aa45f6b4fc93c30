"""`init` and `config`: a file that loads back, and no secret on any screen (faults.md §3 48-51)."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail
from typer.testing import CliRunner, Result

from cli.config_file import check_file, rendered, sections, toml_value
from cli.context import default_config
from domain.errors import BadInput
from domain.risk.limits import Limits
from keyring_store import service_name
from settings_file import load_settings
from starter import app

ROOT = Path(__file__).resolve().parents[2]
CANARY = "canary-value"
KEYS = {"HOLDFAST_BROKER_KEY_ID": "PKTEST", "HOLDFAST_BROKER_SECRET": CANARY}


class MemoryKeyring(KeyringBackend):
    """The smallest keyring that there is; the library's own way to plug one in."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with nothing of ours in the environment."""
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ring() -> Iterator[MemoryKeyring]:
    before, made = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


@pytest.fixture
def no_ring() -> Iterator[None]:
    before = keyring.get_keyring()
    keyring.set_keyring(fail.Keyring())  # type: ignore[no-untyped-call]
    yield
    keyring.set_keyring(before)


def limit_flags(**changes: str) -> list[str]:
    """Every limit with its example, changed where asked for; an empty text leaves it out."""
    values = {n: str((info.examples or [""])[0]) for n, info in Limits.model_fields.items()}
    values |= changes
    return [
        part for name, value in values.items() if value for part in ("--limit", f"{name}={value}")
    ]


def init(*flags: str, limits: list[str] | None = None, mode: str = "simulator") -> Result:
    told = ["--mode", mode, "--account", "mine", "--restricted", "GME, amc"]
    data = ["--data", str(Path.cwd() / "stack")]
    every = limit_flags() if limits is None else limits
    return CliRunner().invoke(app, [*data, "init", *told, *flags, *every])


def refused(result: Result) -> str:
    """The one line of a refusal."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output.splitlines()[-1]


def test_init_writes_a_file_that_loads_back_and_ends_disarmed(folder: Path) -> None:
    result = init("--currency", "EUR", "--time-zone", "Europe/Berlin")
    assert result.exit_code == 0, result.output
    settings = load_settings(folder / "holdfast.toml", {})
    assert settings.account.name == "mine"
    assert (settings.account.currency, settings.account.time_zone) == ("EUR", "Europe/Berlin")
    assert settings.restricted.symbols == ("GME", "AMC")
    assert settings.limits.max_order_notional == 1000
    assert "DISARMED" in result.output
    assert "up --detach --exchange-config " in result.output
    assert "doctor" not in result.stderr
    assert default_config() == Path("holdfast.toml"), "commands in this folder use it from now on"


@pytest.mark.parametrize("config", [(), ("--config", "my settings/mine.toml")])
def test_next_lines_work_as_they_are_pasted(folder: Path, config: tuple[str, ...]) -> None:
    """They left `--config` and `--data` out: `up` started the demonstration's account instead."""
    data, told = folder / "stack", ["--mode", "simulator", "--account", "mine"]
    flags = ["--data", str(data), "init", *told, "--restricted", "", *limit_flags()]
    result = CliRunner().invoke(app, [*config, *flags])
    assert result.exit_code == 0, result.output
    _, after = result.output.split("Next:\n")
    lines = [shlex.split(line) for line in after.splitlines()]
    assert [line[len(config) + 4] for line in lines] == ["up", "preflight", "arm"]
    for python, script, *options in lines:
        assert os.access(python, os.X_OK)
        assert Path(script).samefile(ROOT / "starter.py")
        stack = options[: len(config) + 2]
        assert Path(stack[-1]).resolve() == data, "the stack that init was told"
        good = CliRunner().invoke(app, [*stack, "config", "check"])
        assert good.output.endswith("good, simulator account mine\n")
    assert Path(lines[0][lines[0].index("--exchange-config") + 1]).is_file()


def test_every_key_of_the_file_is_explained_and_stands_once(folder: Path) -> None:
    assert init().exit_code == 0
    text = (folder / "holdfast.toml").read_text()
    written = tomllib.loads(text)
    for name, model in sections().items():
        for key, info in model.model_fields.items():
            assert info.description, f"{name}.{key} has no description in settings.py"
            assert info.description in text, f"{name}.{key}"
            told = key in written[name] or f"# {key} = " in text
            assert told, f"{name}.{key} is not in the file"


def test_first_file_is_not_replaced_without_force_and_its_installation_is_kept(
    folder: Path,
) -> None:
    assert init().exit_code == 0
    before = (folder / "holdfast.toml").read_text()
    assert refused(init()).startswith("FILE_EXISTS config")
    assert (folder / "holdfast.toml").read_text() == before
    assert init("--force", "--calendar", "24/7").exit_code == 0
    after = tomllib.loads((folder / "holdfast.toml").read_text())["account"]
    assert after["calendar"] == "24/7"
    assert after["installation"] == tomllib.loads(before)["account"]["installation"]


def test_without_a_terminal_every_missing_answer_is_named_and_nothing_is_written(
    folder: Path,
) -> None:
    result = init(limits=limit_flags(collar_fraction="", allow_short=""))
    assert refused(result).startswith("INIT_MISSING flags")
    for name in ("collar_fraction", "allow_short"):
        meaning = Limits.model_fields[name].description
        assert meaning is not None
        assert f"--limit {name}=" in result.output
        assert meaning in result.output
    assert "max_order_notional=" not in result.output
    assert list(folder.iterdir()) == []


BAD: tuple[tuple[dict[str, str], tuple[str, ...], str, str], ...] = (
    # limits and flags, code, field
    ({"max_order_notional": "5001"}, (), "CONFIG_CONTRADICTION", "limits"),
    ({"max_messages_per_minute": "201"}, (), "CONFIG_CONTRADICTION", "limits.max_messages"),
    ({"collar_fraction": "5.0"}, (), "CONFIG_COLLAR_RANGE", "limits"),
    ({"max_open_positions": "0"}, (), "CONFIG_RANGE", "limits"),
    ({"max_open_positions": "2.5"}, (), "CONFIG_TYPE", "limits.max_open_positions"),
    ({"allow_short": "no"}, (), "CONFIG_TYPE", "limits.allow_short"),
    ({"quote_max_age_s": "1e3"}, (), "CONFIG_TYPE", "limits.quote_max_age_s"),
    ({"quote_max_age": "5"}, (), "CONFIG_UNKNOWN_KEY", "limits.quote_max_age"),
    ({}, ("--limit", "collar_fraction=0.1"), "CONFIG_CONTRADICTION", "limits.collar_fraction"),
    ({}, ("--limit", "collar_fraction"), "CONFIG_TYPE", "limit"),
    ({}, ("--mode", "real"), "CONFIG_TYPE", "mode"),
    ({}, ("--broker", "acme"), "CONFIG_TYPE", "broker"),
    ({}, ("--time-zone", "Mars/Base"), "TZ_UNKNOWN", "account.time_zone"),
    ({}, ("--calendar", "XMARS"), "CALENDAR_UNKNOWN", "calendar"),
    ({}, ("--currency", "dollars"), "CONFIG_TYPE", "account.currency"),
    ({}, ("--account", "a b"), "CONFIG_TYPE", "account.name"),
    ({}, ("--account", 'x"\n[limits]'), "CONFIG_TYPE", "text"),
    ({}, ("--mode", "live"), "CONFIG_ENV_MISMATCH", "broker.allow_live"),
    ({}, ("--mode", "paper", "--secrets", "vault"), "CONFIG_TYPE", "secrets"),
)  # fmt: skip


@pytest.mark.parametrize(("limits", "flags", "code", "field"), BAD)
def test_bad_answer_is_refused_with_its_code_and_no_file_is_left(
    folder: Path, limits: dict[str, str], flags: tuple[str, ...], code: str, field: str
) -> None:
    line = refused(init(*flags, limits=limit_flags(**limits)))
    assert re.match(rf"{code} {re.escape(field)}\S*: value was ", line), line
    assert list(folder.iterdir()) == []


def test_paper_key_in_the_environment_is_named_and_never_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = init("--mode", "paper")
    assert result.exit_code == 0, result.output
    assert "export HOLDFAST_BROKER_KEY_ID=..." in result.output
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    result = init("--mode", "paper", "--force")
    assert "export HOLDFAST_BROKER_SECRET=... (is set)" in result.output
    assert CANARY not in result.output
    assert CANARY not in (folder / "holdfast.toml").read_text()


def test_key_goes_to_the_keyring_and_is_read_from_there(
    folder: Path, ring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(init("--mode", "paper", "--secrets", "keyring"))
    assert line.startswith("INIT_MISSING HOLDFAST_BROKER_KEY_ID and HOLDFAST_BROKER_SECRET")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    result = init("--mode", "paper", "--secrets", "keyring")
    assert result.exit_code == 0, result.output
    assert CANARY not in result.output
    assert ring.entries[service_name("mine"), "broker_secret"] == CANARY

    settings = load_settings(folder / "holdfast.toml", {})
    assert settings.alpaca().secret.get_secret_value() == CANARY
    over = load_settings(folder / "holdfast.toml", {**KEYS, "HOLDFAST_BROKER_KEY_ID": "PKOTHER"})
    assert over.alpaca().key_id == "PKOTHER", "the environment wins"
    ring.entries.clear()
    with pytest.raises(BadInput) as missing:
        load_settings(folder / "holdfast.toml", {})
    assert (missing.value.code, missing.value.field) == ("CONFIG_MISSING", "broker_key_id")


@pytest.mark.usefixtures("no_ring")
def test_without_a_keyring_the_two_other_ways_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    line = refused(init("--mode", "paper", "--secrets", "keyring"))
    assert line.startswith("CONFIG_KEYRING broker.secrets")
    assert "HOLDFAST_BROKER_KEY_ID" in line
    assert "key_file of mode 0600" in line
    assert list(folder.iterdir()) == []


def test_key_file_is_for_its_owner_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    result = init("--mode", "paper", "--secrets", "key_file")
    assert result.exit_code == 0, result.output
    kept = folder / "holdfast-keys.toml"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert load_settings(folder / "holdfast.toml", {}).alpaca().key_id == "PKTEST"
    assert CANARY not in result.output


def test_person_is_asked_and_a_bad_answer_is_asked_for_again(folder: Path) -> None:
    """On a real terminal: no default for a limit, so an empty line is asked again, too."""
    limits = [str((info.examples or [""])[0]) for info in Limits.model_fields.values()]
    answers = ["", "simulator", "mine", "", "Mars/Base", "", "", "GME", "", *limits]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "starter.py"), "--data", str(folder / "stack"), "init"],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, "".join(f"{each}\n" for each in answers).encode())
    shown, deadline = b"", time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    shown += os.read(ours, 65536)
                except OSError:
                    break
            elif process.poll() is not None:
                break
        assert process.wait(timeout=10) == 0, shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"TZ_UNKNOWN" in shown
    assert load_settings(folder / "holdfast.toml", {}).limits.max_total_notional == 5000


def test_config_check_says_file_line_and_reason(folder: Path) -> None:
    assert init("--mode", "paper").exit_code == 0
    good = CliRunner().invoke(app, ["config", "check"])
    assert (
        good.output
        == "holdfast.toml: good, paper account mine; the broker's key is not there yet\n"
    )
    text = (folder / "holdfast.toml").read_text()
    (folder / "bad.toml").write_text(text.replace("dry_run = true", "dryrun = true"))
    line = refused(CliRunner().invoke(app, ["config", "check", "bad.toml"]))
    number = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith("dry_run"))
    assert f"bad.toml:{number}: CONFIG_UNKNOWN_KEY safety.dryrun" in line
    assert "allowed dry_run (the nearest name)" in line
    missing = refused(CliRunner().invoke(app, ["config", "check", "nowhere.toml"]))
    assert "CONFIG_FILE file" in missing


def test_config_show_tells_origins_and_masks_secrets(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert init("--mode", "paper").exit_code == 0
    for name, value in {**KEYS, "HOLDFAST_LOG_LEVEL": "DEBUG"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", f"postgresql://me:{CANARY}@127.0.0.1:1/x")
    shown = CliRunner().invoke(app, ["config", "show", "--json"])
    assert shown.exit_code == 0, shown.output
    assert CANARY not in shown.output
    rows = {row["setting"]: row for row in json.loads(shown.output)}
    assert rows["observability.log_level"]["from"] == "environment HOLDFAST_LOG_LEVEL"
    assert rows["account.name"]["from"] == "holdfast.toml:7"
    assert rows["broker_secret"] == {
        "setting": "broker_secret",
        "value": "***",
        "from": "environment HOLDFAST_BROKER_SECRET",
    }
    assert rows["ledger.dsn"]["value"] == "***"


def test_schema_knows_every_key_and_no_secret(folder: Path) -> None:
    del folder
    found = json.loads(CliRunner().invoke(app, ["config", "schema"]).output)
    assert set(found["properties"]) == set(sections())
    assert set(found["$defs"]["Limits"]["required"]) == set(Limits.model_fields)
    assert "broker_secret" not in json.dumps(found["required"])


def test_samples_pass_the_same_check() -> None:
    for name in ("demo", "paper"):
        settings, _ = check_file(ROOT / "config" / f"{name}.toml", {})
        assert settings.limits.max_open_positions == 5


def test_values_that_cannot_stand_in_the_file_are_left_to_a_comment() -> None:
    assert toml_value(None) is None
    assert toml_value(("A", 'B"')) == '["A", "B\\""]'
    text = rendered({"account": {"name": "a", "installation": "0000"}})
    assert "# dsn = ..." in text
