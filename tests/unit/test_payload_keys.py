"""Where payload keys live, the commands around them, and the server that opens for the Web UI."""

from __future__ import annotations

import base64
import json
import re
import stat
from pathlib import Path

import httpx
import pytest
from google.protobuf.json_format import MessageToDict, Parse
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.client import WorkflowSerializationContext
from typer.testing import CliRunner

import starter
from cli.codec_server import codec_app
from cli.context import Target
from cli.flatten import ledger_if_up
from observability.payload_codec import HoldfastCodec, KeyRing, PayloadKey
from payload_keys import payload_codec, payload_keys
from settings import ConfigError
from settings_file import load_settings
from tests.unit.test_settings import DEMO
from wiring import config_hash

KEY = PayloadKey("2026-01", bytes(range(32)))
KEYS_FILE = "payload-keys"
UI = "http://127.0.0.1:8233"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of an account whose payload keys are in a file beside them."""
    text = DEMO.replace('secrets = "off"', 'secrets = "key_file"', 1)
    text, count = re.subn(
        r'(?s)(\[encryption\].*?)key_file = ""', rf'\1key_file = "{KEYS_FILE}"', text
    )
    assert count == 1
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def run(config: Path, *words: str) -> tuple[int, str]:
    named = ["--config", str(config), "--data", str(config.parent / "data")]
    done = CliRunner().invoke(starter.app, [*named, *words])
    return done.exit_code, done.output


def written(config: Path) -> KeyRing:
    return KeyRing.parse((config.parent / KEYS_FILE).read_text())


def test_first_key_writes_a_second_one_reads_until_it_is_used(config: Path) -> None:
    assert run(config, "key", "new", "--id", "a")[0] == 0
    code, told = run(config, "key", "new", "--id", "b")
    assert (code, "key use b" in told) == (0, True)
    assert [key.key_id for key in written(config).keys] == ["a", "b"]
    assert run(config, "key", "use", "b")[0] == 0
    assert [key.key_id for key in written(config).keys] == ["b", "a"]
    assert stat.S_IMODE((config.parent / KEYS_FILE).stat().st_mode) == 0o600
    rows = json.loads(run(config, "key", "list", "--json")[1])
    assert [(row["key"], row["does"]) for row in rows] == [("b", "writes"), ("a", "reads")]
    assert payload_keys(load_settings(config, {})) == written(config)


def test_two_keys_of_one_day_have_different_ids(config: Path) -> None:
    for _ in range(2):
        assert run(config, "key", "new")[0] == 0
    first, second = written(config).keys
    assert second.key_id == f"{first.key_id}.2"


def test_no_command_shows_a_key(config: Path) -> None:
    told = "".join(
        run(config, *words)[1]
        for words in (
            ("key", "new", "--id", "a"),
            ("key", "new", "--id", "b"),
            ("key", "use", "b"),
            ("key", "list"),
            ("config", "show"),
            ("config", "check"),
        )
    )
    keys = written(config).keys
    assert len(keys) == 2
    for key in keys:
        assert base64.b64encode(key.secret).decode() not in told


def test_key_that_writes_is_not_dropped_and_an_unknown_one_is_named(config: Path) -> None:
    run(config, "key", "new", "--id", "a")
    run(config, "key", "new", "--id", "b")
    assert "PAYLOAD_KEY_ID" in run(config, "key", "drop", "a", "--force")[1]
    assert "PAYLOAD_KEY_ID" in run(config, "key", "use", "c")[1]
    assert "PAYLOAD_KEY_ID" in run(config, "key", "new", "--id", "b")[1]
    code, told = run(config, "key", "drop", "b")
    assert (code != 0, "TEMPORAL_DOWN" in told) == (True, True), "who needs it cannot be asked"
    assert run(config, "key", "drop", "b", "--force")[0] == 0
    assert [key.key_id for key in written(config).keys] == ["a"]


def test_keys_that_are_not_there_are_refused_with_the_command_that_makes_one(config: Path) -> None:
    code, told = run(config, "key", "list")
    assert (code, "CONFIG_MISSING" in told, "starter.py key new" in told) == (2, True, True)


def test_refused_start_moves_no_earlier_data(config: Path) -> None:
    ledger = config.parent / "data" / "postgres"
    ledger.mkdir(parents=True)
    code, told = run(config, "up")
    assert (code, "CONFIG_MISSING" in told) == (2, True)
    assert ledger.is_dir()


def test_doctor_tells_which_key_writes_or_that_there_is_none(config: Path) -> None:
    def row() -> tuple[str, str]:
        rows = json.loads(run(config, "doctor", "--json")[1])
        return next((r["verdict"], r["text"]) for r in rows if r["check"] == "encryption")

    assert row()[0] == "wrong"
    run(config, "key", "new", "--id", "a")
    assert row() == ("ok", "key a writes, 1 read")


def test_file_that_others_may_read_is_refused(config: Path) -> None:
    run(config, "key", "new")
    (config.parent / KEYS_FILE).chmod(0o644)
    assert "FILE_MODE" in run(config, "key", "list")[1]


def test_where_encryption_is_off_no_key_is_made(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(DEMO)
    code, told = run(path, "key", "new")
    assert (code, "PAYLOAD_KEY_SOURCE" in told) == (2, True)
    assert not payload_codec(load_settings(path, {})).seals


def test_keys_of_the_environment_are_read_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(DEMO.replace('secrets = "off"', 'secrets = "environment"', 1))
    settings = load_settings(path, {"HOLDFAST_PAYLOAD_KEYS": KEY.line})
    assert payload_keys(settings) == KeyRing((KEY,))
    assert KEY.line not in repr(settings)
    assert "PAYLOAD_KEY_SOURCE" in run(path, "key", "new")[1]


def test_keys_that_nothing_uses_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(DEMO)
    with pytest.raises(ConfigError, match="CONFIG_CONTRADICTION") as refused:
        load_settings(path, {"HOLDFAST_PAYLOAD_KEYS": KEY.line})
    assert KEY.line not in str(refused.value)


def test_key_in_the_settings_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(DEMO.replace('secrets = "off"', f'secrets = "{KEY.line}"', 1))
    with pytest.raises(ConfigError, match="CONFIG_SECRET_INLINE") as refused:
        load_settings(path, {})
    assert KEY.line not in str(refused.value)


def test_encryption_does_not_make_a_worker_stale(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text(DEMO)
    assert config_hash(load_settings(config, {})) == config_hash(load_settings(path, {}))


async def test_command_without_its_keys_is_refused_before_it_talks_to_temporal(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_TEMPORAL_ADDRESS", "127.0.0.1:1")
    target = Target(config, config.parent / "data")
    with pytest.raises(Exception, match="CONFIG_MISSING"):
        await target.temporal()
    async with ledger_if_up(target) as ledger:
        assert ledger is None, "the kill goes on without anything"


# --- codec server -------------------------------------------------------------------------------


async def posted(
    path: str, payloads: Payloads, *, headers: dict[str, str] | None = None, host: str = "127.0.0.1"
) -> httpx.Response:
    app = codec_app(KeyRing((KEY,)), "default", "token", [UI])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url=f"http://{host}:8234"
    ) as client:
        body = MessageToDict(payloads)
        return await client.post(path, json=body, headers={"Origin": UI, **(headers or {})})


async def sealed() -> tuple[Payload, Payload]:
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b'"CANARY"')
    context = WorkflowSerializationContext(namespace="default", workflow_id="trade/a")
    [done] = await HoldfastCodec(KeyRing((KEY,))).with_context(context).encode([plain])
    return plain, done


async def test_web_ui_reads_what_is_sealed_and_what_is_not() -> None:
    plain, done = await sealed()
    answer = await posted("/token/decode", Payloads(payloads=[done, plain]))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == UI
    assert list(Parse(answer.content, Payloads()).payloads) == [plain, plain]


async def test_nobody_else_is_answered() -> None:
    _plain, done = await sealed()
    whole = Payloads(payloads=[done])
    assert (await posted("/decode", whole)).status_code == 404
    assert (await posted("/other/decode", whole)).status_code == 404
    assert (await posted("/token/decode", whole, host="evil.example")).status_code == 400
    assert (await posted("/token/decode", whole, headers={"X-Namespace": "b"})).status_code == 400
    foreign = await posted("/token/decode", whole, headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in foreign.headers


async def test_server_says_why_it_does_not_open_and_never_seals() -> None:
    plain, done = await sealed()
    done.metadata["encryption-scope"] = b"trade/b"
    refused = await posted("/token/decode", Payloads(payloads=[done]))
    assert (refused.status_code, refused.json()["code"]) == (400, "PAYLOAD_CHANGED")
    encoding = await posted("/token/encode", Payloads(payloads=[plain]))
    assert (encoding.status_code, encoding.json()["code"]) == (400, "PAYLOAD_CONTEXT")
    assert "CANARY" not in encoding.text


async def test_body_that_is_none_is_refused() -> None:
    app = codec_app(KeyRing((KEY,)), "default", "token", [UI])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8234"
    ) as client:
        for body in (b"", b"[1]", b"\xff", b'{"payloads": 3}'):
            answer = await client.post("/token/decode", content=body)
            assert (answer.status_code, answer.json()["code"]) == (400, "BODY"), body
