"""The command line: parsing, exit codes, JSON, and a dry run that sends and writes nothing."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import cast

import pytest
from typer.testing import CliRunner

from activities.kill import covers_order, is_our_entry
from brokers.port import Broker
from cli import trade
from cli.context import Target, default_config, default_data_dir, demo_config, failed
from cli.control import _next_step, _reset_owner, _show_control
from cli.kill import kill_mode, kill_scope
from cli.output import plain, shown
from cli.plans import check_symbols
from cli.session import complete
from deploy.local.kill_journal import JournalKill, KillJournal
from domain.account import AssetInfo
from domain.control import Control, KillMode, KillScope, KillScopeKind, KillSwitch
from domain.errors import BadInput, HoldfastError, Refused, Transient
from domain.ids import IntentKey, Purpose, client_order_id
from domain.order import BrokerOrderStatus, OrderSnapshot, OrderType, Side
from domain.session import SessionSpec
from ledger.records import AccountRecord, OrderOwner, ResetRequest
from starter import app
from tests.unit import risk_world

D = Decimal
NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs a command on a data directory of its own, without anything in the environment."""
    for name in ("HOLDFAST_LEDGER_DSN", "HOLDFAST_CONFIG", "HOLDFAST_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["--data", str(tmp_path), *arguments])
        return result.exit_code, result.output

    return call


def kill_switch(scope: KillScope, mode: KillMode = KillMode.CANCEL_ENTRIES) -> KillSwitch:
    return KillSwitch(scope=scope, mode=mode, reason="r", by="ada", command_id="c", engaged_at=NOW)


def entry_order(trade_id: str = "t1", purpose: Purpose = Purpose.ENTRY) -> OrderSnapshot:
    key = IntentKey(trade_id=trade_id, purpose=purpose, sequence=1)
    return OrderSnapshot(
        broker_order_id="b1",
        client_id=client_order_id("d0d0", key, "0" * 8),
        symbol="ESX",
        side=Side.BUY,
        order_type=OrderType.LIMIT,
        status=BrokerOrderStatus.WORKING,
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "SCOPE_INVALID"),
        ("everything", "SCOPE_INVALID"),
        ("all:demo", "SCOPE_INVALID"),
        ("symbol", "SCOPE_INVALID"),
        ("symbol:", "SCOPE_INVALID"),
        ("symbol:" + "A" * 65, "SCOPE_INVALID"),
        ("symbol:A\x1b[0m", "SCOPE_INVALID"),
        ("account:other", "ACCOUNT_UNKNOWN"),
        ("trade:../x", "ID_FORMAT"),
    ],
)
def test_bad_scope_is_refused_with_its_code(text: str, code: str) -> None:
    with pytest.raises(BadInput) as refused:
        kill_scope(text, "demo")
    assert refused.value.code == code


def test_scopes_and_modes_are_read() -> None:
    assert kill_scope("all", "demo") == KillScope(kind=KillScopeKind.ALL)
    assert kill_scope("account:demo", "demo").text == "account:demo"
    assert kill_scope("symbol:BRK.B", "demo").value == "BRK.B"
    assert kill_mode("cancel-entries") is KillMode.CANCEL_ENTRIES
    assert kill_mode("flatten") is KillMode.FLATTEN
    assert kill_mode("Cancel_Entries") is KillMode.CANCEL_ENTRIES
    with pytest.raises(BadInput):
        kill_mode("stop")


def test_reset_is_for_all_an_account_or_one_scope_on_its_row() -> None:
    assert _reset_owner("all", "demo") == (None, None)
    assert _reset_owner("account:demo", "demo") == ("demo", None)
    trade_scope = KillScope(kind=KillScopeKind.TRADE, value="t1")
    assert _reset_owner("trade:t1", "demo") == ("demo", trade_scope)
    with pytest.raises(BadInput):
        _reset_owner("account:other", "demo")


@pytest.mark.covers("K8")
def test_flatten_with_the_stack_down_says_that_it_is_recorded(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """It said `NOT_CONNECTED … before anything was sent`, and ran at the next start."""
    for asked in (
        ("trade", "flatten", "t1", "--reason", "r"),
        ("kill", "--scope", "trade:t1", "--mode", "flatten", "--reason", "r"),
    ):
        code, output = run(*asked)
        assert code == 1, output
        assert "PENDING: not carried out now: NOT_CONNECTED" in output
        assert "recorded in the local journal and takes effect once a worker runs" in output
        assert "up --resume" in output
    entries = KillJournal(tmp_path).pending()
    assert [entry.kill.scope.text for entry in entries] == ["trade:t1", "trade:t1"]


@pytest.mark.covers("K8")
def test_kill_in_the_journal_alone_is_not_told_as_in_force_everywhere(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """It said `is in force (journal)`, exit 0: another machine's gateway knew nothing of it."""
    asked = ("kill", "--scope", "all", "--mode", "block", "--reason", "r")
    code, output = run(*asked)
    assert code == 1, output
    (line,) = [row for row in output.splitlines() if row.startswith("JOURNAL_ONLY")]
    assert str(tmp_path) in line
    assert "is in force (" not in output
    code, output = run(*asked, "--json")
    assert (code, json.loads(output)["engaged_in"]) == (1, "journal")
    assert len(KillJournal(tmp_path).pending()) == 2


def test_bad_command_is_one_line_with_its_code_and_exit_2(
    run: Callable[..., tuple[int, str]],
) -> None:
    code, output = run("kill", "--scope", "nothing", "--mode", "block", "--reason", "x")
    assert code == 2
    assert output.startswith("SCOPE_INVALID scope")
    assert output.count("\n") == 1


def test_status_without_a_stack_says_so_in_json_and_exits_1(
    run: Callable[..., tuple[int, str]],
) -> None:
    code, output = run("status", "--json")
    shown_status = json.loads(output)
    assert code == 1
    assert shown_status["up"] is False
    assert shown_status["ledger"].startswith("NO_STACK")
    assert datetime.fromisoformat(shown_status["at"]).tzinfo is not None


def test_status_with_a_mistyped_settings_file_is_bad_input(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """It said `CONFIG_FILE` behind `ledger`, of whatever account, and exit 0 where a stack ran."""
    code, output = run("--config", str(tmp_path / "holdfsat.toml"), "status", "--json")
    shown_status = json.loads(output)
    assert code == 2
    assert shown_status["settings"].startswith("CONFIG_FILE")
    assert "account" not in shown_status


@pytest.mark.parametrize("command", ["doctor", "preflight"])
def test_hints_of_the_checks_name_the_settings_and_data_that_were_given(
    run: Callable[..., tuple[int, str]], tmp_path: Path, command: str
) -> None:
    """`run: starter.py up`, pasted, started another account on another folder."""
    config = tmp_path / "mine.toml"
    config.write_text(demo_config().read_text(encoding="utf-8"), encoding="utf-8")
    _, output = run("--config", str(config), command, "--json")
    hints = [row["text"] for row in json.loads(output) if "starter.py " in row["text"]]
    assert hints
    for text in hints:
        assert f"starter.py --config {config} --data {tmp_path} up" in text


def test_hints_on_the_usual_stack_stay_short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOLDFAST_CONFIG", "HOLDFAST_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    usual = Target(config=default_config(), data_dir=default_data_dir().resolve())
    assert usual.named("run: starter.py up") == "run: starter.py up"


def test_listing_without_a_stack_is_not_yet_and_no_bad_input(
    run: Callable[..., tuple[int, str]],
) -> None:
    code, output = run("trade", "list", "--json")
    assert code == 1, "as status: it is right once the stack is up"
    assert output.startswith("NO_STACK data")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "BAD_JSON"),
        (b"{", "BAD_JSON"),
        (b'{"trade_id": 1, "trade_id": 2}', "DUPLICATE_KEY"),
        (b'{"trade_idd": "x"}', "UNKNOWN_FIELD"),
        (b'{"size": NaN}', "NOT_FINITE"),
    ],
)
def test_bad_plan_file_is_refused_before_anything_is_sent(
    run: Callable[..., tuple[int, str]], tmp_path: Path, body: bytes, code: str
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_bytes(body)
    exit_code, output = run("trade", "submit", str(plan))
    assert exit_code == 2
    assert output.startswith(code)


def test_missing_plan_file_is_refused(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, output = run("trade", "submit", str(tmp_path / "none.json"))
    assert code == 2
    assert output.startswith("PLAN_FILE plan: value was ")
    assert output.endswith(", allowed a file to read (No such file or directory)\n")


class OneAsset:
    """The port's `asset` alone: what a venue answers, or how it fails."""

    def __init__(self, answer: AssetInfo | HoldfastError) -> None:
        self._answer = answer

    async def asset(self, _symbol: str) -> AssetInfo:
        if isinstance(self._answer, HoldfastError):
            raise self._answer
        return self._answer


UNKNOWN = Refused("the venue does not know 'NOPE'", code="SYMBOL_UNKNOWN")
HALTED_FOR_GOOD = AssetInfo(instrument=risk_world.plan().legs[0].instrument, tradable=False)


@pytest.mark.parametrize("answer", [UNKNOWN, HALTED_FOR_GOOD])
def test_symbol_that_the_venue_does_not_trade_is_bad_input_before_a_trade_starts(
    answer: AssetInfo | HoldfastError,
) -> None:
    with pytest.raises(HoldfastError) as refused:
        asyncio.run(check_symbols(cast(Broker, OneAsset(answer)), risk_world.plan()))
    assert refused.value.code == "SYMBOL_UNKNOWN"
    assert failed(refused.value).exit_code == 2


def test_several_symbols_in_one_option_are_refused_with_a_hint() -> None:
    """`--universe AAPL,MSFT` was one symbol that the venue had never heard of."""
    spec = cast(SessionSpec, None)
    with pytest.raises(BadInput, match="--universe AAPL --universe MSFT") as refused:
        asyncio.run(complete(spec, ["AAPL,MSFT"], cast(Broker, None)))
    assert refused.value.code == "SYMBOL_UNKNOWN"


def test_symbols_are_left_to_the_gate_where_the_venue_does_not_answer() -> None:
    broker = cast(Broker, OneAsset(Transient("away")))
    asyncio.run(check_symbols(broker, risk_world.plan()))


def test_entry_refused_at_once_is_exit_1(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> tuple[dict[str, object], bool]:
        return {"trade_id": "t1"}, True

    monkeypatch.setattr(trade, "_submit", refused)
    assert run("trade", "submit", "plan.json")[0] == 1


@pytest.mark.parametrize(
    ("needed", "operators", "told", "by"),
    [
        (2, ("ada", "bob", "cy d"), "another operator than ada:", ["bob", "cy d"]),
        (1, ("ada",), "on (if a second operator is registered until then", ["ada"]),
    ],
)
def test_reset_request_ends_with_the_commands_of_those_who_may_confirm_it(
    tmp_path: Path, needed: int, operators: tuple[str, ...], told: str, by: list[str]
) -> None:
    """With two operators it was `--by NAME (another …)`, which no shell takes."""
    asked = ResetRequest(
        request_id="0a1b",
        account="*",
        command_ids=("c",),
        requested_by="ada",
        reason="r",
        approvals_needed=needed,
        requested_at=NOW,
        confirmable_at=NOW,
        expires_at=NOW,
    )
    first, *commands = _next_step(Target(demo_config(), tmp_path), asked, operators)
    assert told in first
    for command, name in zip(commands, by, strict=True):
        words = shlex.split(command)
        assert words[-5:] == ["reset", "confirm", "0a1b", "--by", name]
        assert words[words.index("--data") + 1] == str(tmp_path)


def test_reset_of_all_names_every_account_with_its_own_switch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    accounts = [
        AccountRecord(account=name, broker="alpaca", currency="USD", armed=name == "demo")
        for name in ("demo", "other")
    ]
    lifted = Control(account="*", armed=False, version=2, updated_at=NOW)
    _show_control(lifted, as_json=False, accounts=accounts)
    assert "demo yes, other no" in capsys.readouterr().out


def test_wrong_phrase_is_bad_input() -> None:
    phrase = Refused("phrase was not 'RESET ALL'", code="RESET_PHRASE")
    assert failed(phrase).exit_code == 2


def test_misspelt_setting_is_told_once_with_line_code_and_the_name_that_was(
    tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    path = tmp_path / "mine.toml"
    text = demo_config().read_text().replace("max_open_positions", "max_open_postions", 1)
    path.write_text(text)
    code, output = run("config", "check", str(path))
    number = next(n for n, line in enumerate(text.splitlines(), 1) if "postions" in line)
    assert code == 2
    assert output == (
        f"{path}:{number}: CONFIG_UNKNOWN_KEY limits.max_open_postions: value was "
        "'max_open_postions', allowed max_open_positions (the nearest name)\n"
    )


def test_numbers_and_times_leave_exact_and_with_zone() -> None:
    assert plain({"price": D("100.10"), "at": NOW}) == {
        "price": "100.10",
        "at": "2026-03-02T15:00:00+00:00",
    }
    assert shown(NOW)[-6] in "+-"
    assert shown(None) == "-"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (D("-15.050000000000"), "-15.05"),
        (D("0.000000"), "0.00"),
        (D("0.00012000"), "0.00012"),
        (D("19"), "19"),
        (D("100"), "100"),
        ({"open": 1, "unwinding": 2}, "open 1, unwinding 2"),
        ({"version": "5"}, "version 5"),
        ({}, "-"),
    ],
)
def test_people_read_plain_numbers_and_words(value: object, text: str) -> None:
    assert shown(value) == text


# --- the kill without a ledger --------------------------------------------------------------------


def test_only_our_entries_are_entries() -> None:
    assert is_our_entry(entry_order(), "d0d0")
    assert not is_our_entry(entry_order(), "0000")
    for purpose in (Purpose.STOP, Purpose.TARGET, Purpose.OCO, Purpose.EXIT, Purpose.FLATTEN):
        assert not is_our_entry(entry_order(purpose=purpose), "d0d0")
    foreign = entry_order().model_copy(update={"client_id": "by-hand"})
    assert not is_our_entry(foreign, "d0d0")


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ("all", True),
        ("account:demo", True),
        ("symbol:ESX", True),
        ("symbol:XYZ", False),
        ("trade:t1", True),
        ("trade:t2", False),
        ("strategy:any", True),
    ],
)
def test_scope_is_told_from_the_order_alone(scope: str, covered: bool) -> None:
    assert covers_order(kill_scope(scope, "demo"), "demo", entry_order(), None) is covered


def test_strategy_is_told_by_its_owner_when_the_ledger_is_there() -> None:
    owner = OrderOwner(account="demo", strategy="alpha", symbols=("ESX",), trade_id="t1")
    scope = KillScope(kind=KillScopeKind.STRATEGY, value="beta")
    assert not covers_order(scope, "demo", entry_order(), owner)


def test_kill_journal_keeps_order_and_blocks_until_it_is_put_aside(tmp_path: Path) -> None:
    journal = KillJournal(tmp_path)
    assert not journal.is_pending()
    first = JournalKill(account=None, kill=kill_switch(KillScope(kind=KillScopeKind.ALL)))
    second = first.model_copy(update={"account": "demo"})
    journal.append(first)
    journal.append(second)
    assert journal.is_pending()
    assert journal.pending() == (first, second)
    journal.put_aside(1)
    assert journal.pending() == (second,)
    journal.put_aside(1)
    assert not journal.is_pending()


def test_kill_journal_line_that_cannot_be_read_stays_in_the_way(tmp_path: Path) -> None:
    journal = KillJournal(tmp_path)
    journal.path.write_text("{half a line\n")
    assert journal.is_pending()
    with pytest.raises(ValueError, match="could not be read"):
        journal.pending()
