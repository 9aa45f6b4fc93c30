"""`init`: asks what an account needs, writes its settings file, looks at the installation.

Without a terminal nothing is asked: what is missing is named, all of it at once. Secrets never
go into the settings file, onto the command line or the screen.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from brokers.alpaca.config import AlpacaMode
from cli.config_file import KEY_VARIABLES, check_file, limit_value, rendered
from cli.context import LOCAL_CONFIG, Target, execute, failed, operator_name, target_of
from cli.doctor import examine
from cli.exchange_check import market_options
from cli.output import print_rows
from domain.errors import BadInput, HoldfastError, file_to
from domain.risk.limits import Limits
from keyring_store import KEYRING_KEYS, service_name, write_keyring
from marketdata.zones import zone
from settings import ConfigError, SecretSource, Settings, Venue

app = typer.Typer()
REQUESTS_PER_MINUTE = {Venue.ALPACA: 200, Venue.TRADIER: 60}
EXCHANGE_URL = "http://127.0.0.1:8100"
KEY_FILE = "holdfast-keys.toml"
KEY_FILE_MODE = 0o600


@dataclass(frozen=True)
class Question:
    """One thing to know: its flag, what it means, an answer to offer, how to read it."""

    flag: str
    meaning: str
    read: Callable[[str], object]
    offered: str = ""
    given: str | None = None


@dataclass
class Keys:
    """The broker's key on its way to where it is kept; never printed."""

    key_id: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)

    @property
    def are_there(self) -> bool:
        return bool(self.key_id and self.secret)


@app.command()
def init(
    context: typer.Context,
    broker: Annotated[str | None, typer.Option(help="alpaca or tradier")] = None,
    mode: Annotated[str | None, typer.Option(help="simulator, paper or live")] = None,
    account: Annotated[str | None, typer.Option(help="our name of the account")] = None,
    currency: Annotated[str | None, typer.Option(help="the account's currency")] = None,
    time_zone: Annotated[str | None, typer.Option(help="IANA zone for times on screen")] = None,
    calendar: Annotated[
        str | None, typer.Option(help="ISO 10383 code such as XNYS, or 24/7")
    ] = None,
    restricted: Annotated[
        str | None, typer.Option(help="symbols not to be entered, by comma; none: ''")
    ] = None,
    limit: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, once per limit")] = None,
    secrets_in: Annotated[
        str | None, typer.Option("--secrets", help="environment, keyring or key_file")
    ] = None,
    allow_live: Annotated[bool, typer.Option("--allow-live", help="mode live needs it")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Writes holdfast.toml: asks on a terminal, else takes flags. Ends with doctor, disarmed.

    Limits have no default: each must be given. Secrets are never flags.
    """
    config = None if context.parent is None else context.parent.params.get("config")
    path = LOCAL_CONFIG if config is None else Path(config)
    given = {
        "broker": broker,
        "mode": mode,
        "account": account,
        "currency": currency,
        "time-zone": time_zone,
        "calendar": calendar,
        "restricted": restricted,
        "secrets": secrets_in,
    }
    try:
        if path.exists() and not force:
            raise BadInput("FILE_EXISTS", "config", str(path), "another --config, or --force")
        answers = answered(questions(given, limits_given(limit or [])), is_terminal())
        values = as_values(answers, earlier_installation(path), allow_live=allow_live)
        keys = keys_at_hand(values)
        write_settings(path, values, keys, force=force)
    except HoldfastError as error:
        raise failed(error) from None
    typer.echo(f"\n{path} is written; every key is explained in it.")
    _say_where_keys_are(values, keys)
    target = Target(path, target_of(context).data_dir)
    _finish(target, is_simulated=values["broker"]["mode"] == AlpacaMode.SIMULATOR)


def is_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def limits_given(pairs: list[str]) -> dict[str, str]:
    """`NAME=VALUE` pairs.

    Raises:
        BadInput: CONFIG_TYPE, CONFIG_UNKNOWN_KEY, CONFIG_CONTRADICTION (the same one twice).
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise BadInput("CONFIG_TYPE", "limit", pair, "NAME=VALUE")
        if name in found:
            raise BadInput("CONFIG_CONTRADICTION", f"limits.{name}", text, "one value")
        limit_value(name, text)
        found[name] = text
    return found


def questions(given: Mapping[str, str | None], limits: Mapping[str, str]) -> list[Question]:
    """Everything there is to know, in the order in which it is asked."""
    asked = [
        Question("broker", "the broker", _one_of("broker", Venue), "alpaca"),
        Question("mode", "simulator, paper or live", _one_of("mode", AlpacaMode)),
        Question("account", "our name of the account, A-Z a-z 0-9 and -", str),
        Question("currency", "the account's currency", str, "USD"),
        Question("time-zone", "zone in which you read times", _zone, "America/New_York"),
        Question("calendar", "trading calendar, or 24/7", str, "XNYS"),
        Question("restricted", "symbols that may not be entered, by comma", _symbols),
        Question(
            "secrets",
            "where the broker's key is kept: environment, keyring or key_file",
            _one_of("secrets", SecretSource),
            "environment",
        ),
    ]
    found = [Question(q.flag, q.meaning, q.read, q.offered, given.get(q.flag)) for q in asked]
    for name, info in Limits.model_fields.items():
        example = (info.examples or [""])[0]
        meaning = f"{info.description} (for example {example})"
        found.append(
            Question(f"limit {name}", meaning, _limit_reader(name), given=limits.get(name))
        )
    return found


def _one_of(name: str, kind: type[StrEnum]) -> Callable[[str], object]:
    allowed = tuple(each.value for each in kind)

    def read(text: str) -> str:
        if text not in allowed:
            raise BadInput("CONFIG_TYPE", name, text, "|".join(allowed))
        return text

    return read


def _limit_reader(name: str) -> Callable[[str], object]:
    return lambda text: limit_value(name, text)


def _zone(text: str) -> str:
    zone(text, "account.time_zone")
    return text


def _symbols(text: str) -> tuple[str, ...]:
    return tuple(part.strip().upper() for part in text.split(",") if part.strip())


def answered(asked: list[Question], can_ask: bool) -> dict[str, object]:
    """An answer to each question: as given, as offered, or from the person.

    Raises:
        BadInput: INIT_MISSING names every answer that is missing where nobody can be asked.
    """
    open_ones = [q for q in asked if q.given is None and not (q.offered and not can_ask)]
    if open_ones and not can_ask:
        for question in open_ones:
            value = "=..." if question.flag.startswith("limit ") else " ..."
            typer.echo(f"  --{question.flag + value:38} {question.meaning}", err=True)
        flags = ", ".join(f"--{question.flag}" for question in open_ones[:3])
        more = f" and {len(open_ones) - 3} more" if len(open_ones) > 3 else ""
        raise BadInput("INIT_MISSING", "flags", flags + more, "a terminal, or each flag above")
    return {
        question.flag: question.read(question.given)
        if question.given is not None
        else _asked(question, can_ask)
        for question in asked
    }


def _asked(question: Question, can_ask: bool) -> object:
    """The offered answer, or the person's; a bad one is told and asked for again."""
    if not can_ask:
        return question.read(question.offered)
    wants_none = question.flag == "restricted"
    while True:
        text = typer.prompt(
            f"{question.flag.removeprefix('limit ')}: {question.meaning}",
            default="" if wants_none else question.offered or None,
            show_default=bool(question.offered),
            err=True,
        )
        try:
            return question.read(str(text).strip())
        except BadInput as error:
            typer.echo(f"  {error.text}", err=True)


def earlier_installation(path: Path) -> str:
    """The id in a file that is to be replaced: client order ids of its orders begin with it."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))["account"]["installation"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) else ""


def as_values(
    answers: Mapping[str, object], installation: str, *, allow_live: bool
) -> dict[str, dict[str, object]]:
    """The answers as tables of the settings file."""
    mode, venue = AlpacaMode(str(answers["mode"])), Venue(str(answers["broker"]))
    simulated = mode is AlpacaMode.SIMULATOR
    source = str(answers["secrets"])
    return {
        "account": {
            "name": answers["account"],
            "installation": installation or secrets.token_hex(2),
            "currency": answers["currency"],
            "time_zone": answers["time-zone"],
            "calendar": answers["calendar"],
        },
        "broker": {
            "venue": venue.value,
            "mode": mode.value,
            "allow_live": allow_live,
            "trading_url": EXCHANGE_URL if simulated else "",
            "secrets": source,
            "key_file": KEY_FILE if source == SecretSource.KEY_FILE and not simulated else "",
            "requests_per_minute": REQUESTS_PER_MINUTE[venue],
        },
        # A simulation sends nothing to anybody; for a real account a person says so later.
        "safety": {"dry_run": not simulated},
        "restricted": {"symbols": answers["restricted"]},
        "limits": {name: answers[f"limit {name}"] for name in Limits.model_fields},
    }


def keys_at_hand(values: Mapping[str, Mapping[str, object]]) -> Keys:
    """The broker's key, where it must be stored now: from the environment, or asked unseen.

    Raises:
        BadInput: INIT_MISSING where it is to be stored and nobody can be asked.
    """
    broker = values["broker"]
    is_kept = broker["secrets"] in (SecretSource.KEYRING, SecretSource.KEY_FILE)
    if broker["mode"] == AlpacaMode.SIMULATOR or not is_kept:
        return Keys()
    found = [os.environ.get(name, "") for name in KEY_VARIABLES]
    for index, name in enumerate(KEY_VARIABLES):
        if not found[index] and is_terminal():
            label = name.removeprefix("HOLDFAST_BROKER_").replace("_", " ").lower()
            found[index] = typer.prompt(
                f"the broker's {label} (not shown)", hide_input=True, err=True
            )
    keys = Keys(*found)
    if not keys.are_there:
        allowed = f"both to store them as {broker['secrets']}, or --secrets environment"
        raise BadInput("INIT_MISSING", " and ".join(KEY_VARIABLES), "", allowed)
    return keys


def write_settings(
    path: Path, values: Mapping[str, Mapping[str, object]], keys: Keys, *, force: bool
) -> Settings:
    """Keeps the key, writes the file beside its place, loads it back, moves it there.

    Raises:
        BadInput: the file would be refused, a file is in the way, or no keyring answers.
    """
    account, broker = str(values["account"]["name"]), values["broker"]
    if keys.are_there and broker["secrets"] == SecretSource.KEYRING:
        for name, value in zip(KEYRING_KEYS, (keys.key_id, keys.secret), strict=True):
            write_keyring(account, name, value)
    if keys.are_there and broker["secrets"] == SecretSource.KEY_FILE:
        _write_key_file(path.parent / KEY_FILE, keys, force=force)
    fresh = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(rendered(values), encoding="utf-8")
        settings, _ = check_file(fresh)
        fresh.replace(path)
    except OSError as error:
        raise BadInput("CONFIG_FILE", "config", str(path), file_to("write", error)) from None
    except ConfigError as error:
        # Its line is one of a file that is not kept.
        error.text = error.text.removeprefix(f"{error.location}: ")
        raise
    finally:
        fresh.unlink(missing_ok=True)
    return settings


def _write_key_file(path: Path, keys: Keys, *, force: bool) -> None:
    if path.exists() and not force:
        raise BadInput("FILE_EXISTS", "broker.key_file", str(path), "--force to replace it")
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, KEY_FILE_MODE)
    with os.fdopen(handle, "w", encoding="utf-8") as target:
        for name, value in (("key_id", keys.key_id), ("secret", keys.secret)):
            if '"' in value or "\\" in value or not value.isprintable():
                raise BadInput("CONFIG_TYPE", name, "***", "printable, no quotes")
            target.write(f'{name} = "{value}"\n')


def _say_where_keys_are(values: Mapping[str, Mapping[str, object]], keys: Keys) -> None:
    broker = values["broker"]
    if broker["mode"] == AlpacaMode.SIMULATOR:
        typer.echo("The simulated exchange needs no key.")
    elif broker["secrets"] == SecretSource.KEYRING:
        typer.echo(f"The key is in the keyring as {service_name(str(values['account']['name']))}.")
    elif keys.are_there:
        typer.echo(f"The key is in {KEY_FILE}, readable by you alone. Never commit it.")
    else:
        typer.echo("Put the broker's key into the environment of every process:")
        for name in KEY_VARIABLES:
            there = " (is set)" if os.environ.get(name) else ""
            typer.echo(f"  export {name}=...{there}")


def _finish(target: Target, *, is_simulated: bool) -> None:
    """Doctor's findings; the account ends disarmed."""
    findings = asyncio.run(examine(target, before_up=target.run_info is None))
    rows = [each.model_dump() for each in findings]
    print_rows(rows, ("check", "verdict", "text"), as_json=False)
    if target.run_info is not None:
        execute(lambda: _disarm(target))
    typer.echo("The account is DISARMED: nothing is entered before you arm it. Next:")
    up = f"up --detach {market_options()}" if is_simulated else "up --detach"
    for words in (up, "preflight", 'arm --reason "first morning"'):
        typer.echo(f"  {target.command(words)}")


async def _disarm(target: Target) -> None:
    """A stack runs already: what was armed under other settings is armed no more."""
    account = target.settings().account.name
    async with target.ledger() as ledger:
        if account in {row.account for row in await ledger.accounts() if row.armed}:
            await ledger.disarm(account, operator_name(None), "init wrote new settings")
