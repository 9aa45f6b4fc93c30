"""`strategy list|show|add|set|enable|disable`: which strategies run, with what and how much."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from cli.context import Target, execute, failed, in_words, operator_name, target_of
from cli.output import print_fields, print_rows
from cli.session import check_strategy
from domain.edge import read_json_object
from domain.errors import BadInput, Refused
from domain.ids import check_id
from domain.money import Amount
from ledger.records import StrategyRecord
from ledger.repository import Ledger
from strategies.registry import Listing, StrategyProcess, find_strategy, strategy_files

app = typer.Typer(no_args_is_help=True, help="Stored configurations of strategies.")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
By = Annotated[str | None, typer.Option("--by", help="operator; default: login name")]
Reason = Annotated[str, typer.Option(help="why; goes into the audit", callback=in_words)]
Version = Annotated[int | None, typer.Option("--version", help="refused if it changed; exit 4")]
Parameters = Annotated[str | None, typer.Option(help='JSON object, such as {"fast": 10}')]
Capital = Annotated[str | None, typer.Option(help="account currency; none: the account's equity")]
Losses = Annotated[str | None, typer.Option(help="losing trades in a row until disabled; none")]
NO_LIMIT = "none"
PARAMETERS_MAX = 100
_AMOUNT: TypeAdapter[Amount] = TypeAdapter(Amount)


@app.command("list")
def list_strategies(context: typer.Context, as_json: Json = False) -> None:
    """Configurations, and the files of strategies/ that run under their own name."""
    target = target_of(context)

    async def run() -> list[dict[str, Any]]:
        rows = [_row(stored) for stored in await _stored(target)]
        used = {row["name"] for row in rows}
        files = [path.stem for path in strategy_files() if path.stem not in used]
        return rows + [{"name": name, "strategy": name, "state": "file"} for name in files]

    columns = ("name", "strategy", "state", "capital", "losses_max", "version", "reason")
    print_rows(execute(run), columns, as_json=as_json)


@app.command()
def show(context: typer.Context, name: str, as_json: Json = False) -> None:
    """One configuration, or a plain file, with every parameter that holds."""
    target = target_of(context)

    async def run() -> dict[str, Any]:
        stored = next((row for row in await _stored(target) if row.name == name), None)
        file = check_strategy(Path(name)) if stored is None else stored.strategy
        listing = listed(file, _given(stored))
        row: dict[str, Any] = {"name": name, "strategy": listing.name, "state": "file"}
        row = row if stored is None else _row(stored)
        fault = {} if listing.usable else {"code": listing.code, "text": listing.text}
        return row | {"parameters": listing.parameters or row.get("parameters", {})} | fault

    _print(execute(run), as_json=as_json)


@app.command()
def add(
    context: typer.Context,
    name: str,
    strategy: Annotated[Path, typer.Option(help="strategy file or name")],
    reason: Reason,
    parameters: Parameters = None,
    capital: Capital = None,
    losses_max: Losses = None,
    disabled: Annotated[bool, typer.Option(help="do not enable it yet")] = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Stores a configuration; `session start --strategy NAME` runs it."""
    target = target_of(context)

    async def run() -> dict[str, Any]:
        wanted = StrategyRecord(
            name=check_id(name, "name"),
            strategy=check_strategy(strategy),
            parameters=read_parameters(parameters or "{}"),
            enabled=not disabled,
            capital=read_capital(capital or NO_LIMIT),
            losses_max=read_losses(losses_max or NO_LIMIT),
        )
        check_parameters(wanted)
        async with target.ledger() as ledger:
            return _row(await ledger.add_strategy(wanted, operator_name(by), reason))

    _print(execute(run), as_json=as_json)


@app.command("set")
def change(
    context: typer.Context,
    name: str,
    reason: Reason,
    parameters: Parameters = None,
    capital: Capital = None,
    losses_max: Losses = None,
    version: Version = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Changes what is given; running sessions see it at their next bar.

    Parameters that are not named stay as they are; null takes one back to the file's default.
    """
    changes: dict[str, Any] = {}
    try:
        if parameters is not None:
            changes["parameters"] = read_changes(parameters)
        if capital is not None:
            changes["capital"] = read_capital(capital)
        if losses_max is not None:
            changes["losses_max"] = read_losses(losses_max)
        if not changes:
            raise BadInput("NOTHING_TO_CHANGE", "options", "", "parameters, capital or losses-max")
    except BadInput as error:
        raise failed(error) from None
    _change(target_of(context), name, changes, operator_name(by), reason, version, as_json)


@app.command()
def enable(
    context: typer.Context,
    name: str,
    reason: Reason,
    version: Version = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Lets it enter again; the count of losses in a row begins anew."""
    changes = {"enabled": True}
    _change(target_of(context), name, changes, operator_name(by), reason, version, as_json)


@app.command()
def disable(
    context: typer.Context,
    name: str,
    reason: Reason,
    version: Version = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Enters nothing from the next bar on; open trades keep their exits and its exit signals."""
    changes = {"enabled": False}
    _change(target_of(context), name, changes, operator_name(by), reason, version, as_json)


def read_parameters(text: str) -> dict[str, str]:
    """Parameters as text by name; what the values mean is the strategy's business.

    Raises:
        BadInput: not a JSON object, a name twice, PARAMETER_TYPE, PARAMETERS_TOO_MANY.
    """
    return _as_text(read_json_object(text.encode(), where="parameters"))


def read_changes(text: str) -> dict[str, str | None]:
    """As `read_parameters`, of some of them; None takes one away.

    Raises:
        BadInput: as there.
    """
    given = read_json_object(text.encode(), where="parameters")
    return dict.fromkeys(given) | _as_text({n: v for n, v in given.items() if v is not None})


def _as_text(given: Mapping[str, Any]) -> dict[str, str]:
    if len(given) > PARAMETERS_MAX:
        raise BadInput("PARAMETERS_TOO_MANY", "parameters", len(given), f"<= {PARAMETERS_MAX}")
    found = {}
    for name, value in given.items():
        if not isinstance(value, str | int | Decimal):
            allowed = "text, number, true or false"
            raise BadInput("PARAMETER_TYPE", f"parameters.{name}", value, allowed)
        found[name] = str(value)
    return found


def read_capital(text: str) -> Decimal | None:
    """A positive amount, or None for `none`.

    Raises:
        BadInput: CAPITAL_INVALID.
    """
    if text == NO_LIMIT:
        return None
    try:
        amount = _AMOUNT.validate_python(text)
    except ValidationError:
        amount = Decimal(0)
    if amount <= 0:
        raise BadInput("CAPITAL_INVALID", "capital", text, "> 0, or none")
    return amount


def read_losses(text: str) -> int | None:
    """A number of trades, or None for `none`.

    Raises:
        BadInput: LOSSES_INVALID.
    """
    if text == NO_LIMIT:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise BadInput("LOSSES_INVALID", "losses-max", text, "1..1000, or none")
    return int(text)


def listed(strategy: str, parameters: dict[str, str]) -> Listing:
    """The file in its own process, with these parameters."""
    with StrategyProcess(find_strategy(strategy) or Path(strategy)) as process:
        return process.check(parameters)


def check_parameters(wanted: StrategyRecord) -> None:
    """Asks the file itself.

    Raises:
        BadInput: PARAMETER_UNKNOWN, PARAMETER_INVALID, or the code with which it does not load.
    """
    listing = listed(wanted.strategy, wanted.parameters)
    if not listing.usable:
        raise listing.refusal


async def _stored(target: Target) -> tuple[StrategyRecord, ...]:
    """Configurations of the stack; none where no stack is: files can be looked at without one."""
    try:
        async with target.ledger() as ledger:
            return await ledger.strategies()
    except BadInput as error:
        if error.code != "NO_STACK":
            raise
        return ()


def _change(
    target: Target,
    name: str,
    changes: dict[str, Any],
    by: str,
    reason: str,
    version: int | None,
    as_json: bool,
) -> None:
    async def run() -> dict[str, Any]:
        async with target.ledger() as ledger:
            wanted, expected = dict(changes), version
            if "parameters" in changes:
                known = await _known(ledger, name, changes["parameters"])
                check_parameters(known)
                wanted["parameters"] = known.parameters
                # Made out of this row: what somebody else changes meanwhile must not be lost.
                expected = known.version if version is None else version
            row = await ledger.change_strategy(name, wanted, by, reason, version=expected)
        return _row(row)

    _print(execute(run), as_json=as_json)


async def _known(ledger: Ledger, name: str, changed: Mapping[str, str | None]) -> StrategyRecord:
    """The configuration as it would be with these parameters changed."""
    row = await ledger.strategy(name)
    if row is None:
        raise Refused(f"configuration was {name}", code="STRATEGY_UNKNOWN")
    merged: dict[str, str | None] = {**row.parameters, **changed}
    held = {name: value for name, value in merged.items() if value is not None}
    return row.model_copy(update={"parameters": held})


def _given(stored: StrategyRecord | None) -> dict[str, str]:
    return {} if stored is None else stored.parameters


def _row(stored: StrategyRecord) -> dict[str, Any]:
    row = stored.model_dump(exclude={"enabled"})
    return {"name": stored.name, "state": "enabled" if stored.enabled else "disabled"} | row


def _print(row: dict[str, Any], *, as_json: bool) -> None:
    if not as_json:
        held = row.get("parameters", {})
        row = row | {"parameters": [f"{name}={value}" for name, value in held.items()]}
    print_fields(row, as_json=as_json)
