"""`arm`, `disarm`, `kill`, `reset request|confirm`, `operator add|list`: the latched switches."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated

import typer

from activities.kill import KillReceipt
from cli.context import (
    EXIT_FAILED,
    Target,
    execute,
    failed,
    in_words,
    operator_name,
    target_of,
)
from cli.flatten import show_receipt, utc_now
from cli.kill import LEDGER, KillOutcome, kill_mode, kill_now, kill_scope
from cli.output import print_fields, print_json, print_rows, shown
from domain.control import Control, KillScope, KillScopeKind
from domain.errors import BadInput, HoldfastError, Refused
from ledger.records import ALL_ACCOUNTS, AccountRecord, BreakerRecord, ResetRequest
from ledger.repository import Ledger

app = typer.Typer()
reset_app = typer.Typer(no_args_is_help=True, help="Lifting a kill: slow on purpose.")
operator_app = typer.Typer(no_args_is_help=True, help="Who may lift a kill.")
breaker_app = typer.Typer(no_args_is_help=True, help="The risk breaker of the account.")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
By = Annotated[str | None, typer.Option("--by", help="operator; default: login name")]
Reason = Annotated[str, typer.Option(help="why; goes into the audit", callback=in_words)]
Secret = Annotated[
    str,
    typer.Option(envvar="HOLDFAST_OPERATOR_SECRET", prompt=True, hide_input=True, help="secret"),
]
JOURNAL_ONLY = (
    "JOURNAL_ONLY the ledger did not answer: the kill is recorded in {path} of this machine and "
    "blocks entries of the stack on it. Workers elsewhere hear of it once `up` or the gateway here "
    "has copied it into the ledger"
)
UNKNOWN_NAME_NEXT = "The kill is in force all the same; give the right name, and `reset` this one"


@app.command()
def arm(context: typer.Context, reason: Reason, by: By = None, as_json: Json = False) -> None:
    """Allows entries on the account; kills, conditions and breakers stay as they are."""
    _show_control(execute(lambda: _set_armed(target_of(context), True, by, reason)), as_json)


@app.command()
def disarm(context: typer.Context, reason: Reason, by: By = None, as_json: Json = False) -> None:
    """Refuses entries from now on; working orders and exits stay."""
    _show_control(execute(lambda: _set_armed(target_of(context), False, by, reason)), as_json)


async def _set_armed(target: Target, armed: bool, by: str | None, reason: str) -> Control:
    account = target.settings().account.name
    async with target.ledger() as ledger:
        change = ledger.arm if armed else ledger.disarm
        return await change(account, operator_name(by), reason)


@breaker_app.command("show")
def show_breaker(context: typer.Context, as_json: Json = False) -> None:
    """State, reason and who changed it last; a missing row reads as tripped."""
    _show_breaker(execute(lambda: _breaker(target_of(context), None)), as_json)


@breaker_app.command("reset")
def reset_breaker(
    context: typer.Context, reason: Reason, by: By = None, as_json: Json = False
) -> None:
    """Sets a tripped risk breaker back to normal; audited under a named person."""
    change = (operator_name(by), reason)
    _show_breaker(execute(lambda: _breaker(target_of(context), change)), as_json)


async def _breaker(target: Target, change: tuple[str, str] | None) -> BreakerRecord:
    account = target.settings().account.name
    async with target.ledger() as ledger:
        if change is not None:
            await ledger.reset_breaker(account, *change)
        return await ledger.risk_breaker(account)


def _show_breaker(breaker: BreakerRecord, as_json: bool) -> None:
    if as_json:
        print_json(breaker)
        return
    print_fields(
        {
            "account": breaker.account,
            "state": breaker.state,
            "reason": breaker.reason,
            "text": breaker.text,
            "changed": breaker.changed_at,
            "by": breaker.changed_by,
        },
        as_json=False,
    )


def _show_control(control: Control, as_json: bool, accounts: Sequence[AccountRecord] = ()) -> None:
    """The switches; where they are those of all, each of the `accounts` with its own `armed`."""
    if as_json:
        print_json(control)
        return
    kills = [f"{kill.mode} {kill.scope.text} by {kill.by}: {kill.reason}" for kill in control.kills]
    print_fields(
        {
            "account": control.account,
            "armed": {each.account: each.armed for each in accounts} or control.armed,
            "kills": kills,
            "version": control.version,
            "updated": control.updated_at,
            "by": control.updated_by,
        },
        as_json=False,
    )


@app.command()
def kill(
    context: typer.Context,
    scope: Annotated[str, typer.Option(help="all, or account|strategy|symbol|trade|order:VALUE")],
    mode: Annotated[str, typer.Option(help="block, cancel-entries or flatten")],
    reason: Reason,
    by: By = None,
    version: Annotated[int | None, typer.Option(help="only if the control row has it")] = None,
    command_id: Annotated[str | None, typer.Option(help="repeat of an earlier kill")] = None,
    wait_s: Annotated[float, typer.Option(help="how long to wait for a flatten")] = 30.0,
    as_json: Json = False,
) -> None:
    """Stops new risk now. Never needs approval; works with any server away. Latched.

    Exit 0: in force everywhere, and everything is proven dead (and flat). 1: the receipt has open
    ends, the scope names nothing that is known, or the kill is in the local journal alone
    (`engaged in journal`). 4: conflict.
    """
    target = target_of(context)
    say = (lambda _line: None) if as_json else (lambda line: typer.echo(line, err=True))
    try:
        wanted, how = kill_scope(scope, target.settings().account.name), kill_mode(mode)
    except HoldfastError as error:
        raise failed(error) from None
    outcome: KillOutcome = execute(
        lambda: kill_now(
            target,
            wanted,
            how,
            by=operator_name(by),
            reason=reason,
            command_id=command_id,
            expected_version=version,
            wait_s=wait_s,
            say=say,
        )
    )
    if as_json:
        print_json(outcome)
    else:
        _show_kill(outcome, target)
    if not outcome.is_clean:
        raise typer.Exit(EXIT_FAILED)


def _show_kill(outcome: KillOutcome, target: Target) -> None:
    receipt: KillReceipt = outcome.receipt
    columns = ("client_id", "symbol", "fate", "filled", "text")
    print_rows([each.model_dump() for each in receipt.orders], columns, as_json=False)
    print_fields(
        {
            "kill": f"{receipt.mode} {receipt.scope} by {receipt.by}",
            "command": receipt.command_id,
            "engaged in": outcome.engaged_in,
            "swept by": outcome.swept_by,
            "in flight": outcome.in_flight,
            "trades told": receipt.trades_told,
            "trades not told": receipt.trades_not_told,
            "not read": receipt.faults,
            "final at": receipt.at,
        },
        as_json=False,
    )
    if outcome.engaged_in != LEDGER:
        typer.echo(JOURNAL_ONLY.format(path=target.kill_journal.path))
    if outcome.unknown_name:
        typer.echo(f"NAME_UNKNOWN {outcome.unknown_name}. {UNKNOWN_NAME_NEXT}")
    elif outcome.flatten is not None:
        show_receipt(outcome.flatten, as_json=False)


# --- reset --------------------------------------------------------------------------------------


@reset_app.command("request")
def request_reset(
    context: typer.Context,
    scope: Annotated[str, typer.Option(help="all, account:NAME, or one such as trade:ID")],
    phrase: Annotated[str, typer.Option(help="RESET ALL, RESET <account> or RESET trade:ID")],
    reason: Reason,
    secret: Secret,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Asks to lift the kills that are engaged now."""
    target, who = target_of(context), operator_name(by)

    async def ask() -> tuple[ResetRequest, tuple[str, ...]]:
        async with target.ledger() as ledger:
            await _check_operator(ledger, who, secret)
            account, only = _reset_owner(scope, target.settings().account.name)
            asked = await ledger.request_reset(account, who, reason, phrase, utc_now(), scope=only)
            return asked, await ledger.operators()

    asked, operators = execute(ask)
    print_fields(asked.model_dump(), as_json=as_json)
    if not as_json:
        typer.echo("\n".join(_next_step(target, asked, operators)))


def _next_step(target: Target, asked: ResetRequest, operators: Sequence[str]) -> list[str]:
    """Who may confirm what was asked, and the command of each."""
    asker = asked.requested_by
    who = [name for name in operators if name != asker]
    told = f"next, by another operator than {asker}:"
    if asked.approvals_needed == 1:
        who = [asker]
        told = (
            f"next, from {shown(asked.confirmable_at)} on (if a second operator is registered "
            f"until then, that one confirms, not {asker}):"
        )
    confirm = f"reset confirm {asked.request_id} --by"
    return [told, *(f"  {target.command(f'{confirm} {shlex.quote(name)}')}" for name in who)]


@reset_app.command("confirm")
def confirm_reset(
    context: typer.Context, request_id: str, secret: Secret, by: By = None, as_json: Json = False
) -> None:
    """Lifts the kills of a request: a second person, or the same one after five minutes."""
    target, who = target_of(context), operator_name(by)

    async def confirm() -> tuple[Control, tuple[AccountRecord, ...]]:
        async with target.ledger() as ledger:
            await _check_operator(ledger, who, secret)
            lifted = await ledger.confirm_reset(request_id, who, utc_now())
            accounts = await ledger.accounts() if lifted.account == ALL_ACCOUNTS else ()
            # What is engaged on the accounts' own rows stays: without it `kills -` would be said.
            left = [await ledger.read_control(each.account) for each in accounts]
            kills = {kill.command_id: kill for each in (lifted, *left) for kill in each.kills}
            return lifted.model_copy(update={"kills": tuple(kills.values())}), accounts

    lifted, accounts = execute(confirm)
    _show_control(lifted, as_json, accounts)


async def _check_operator(ledger: Ledger, who: str, secret: str) -> None:
    """Raises Refused: `OPERATOR_REFUSED`; which of the two is wrong is nobody's business."""
    if not await ledger.check_operator(who, secret):
        text = f"the secret of {who} was not accepted, or no operator has this name"
        raise Refused(text, code="OPERATOR_REFUSED")


def _reset_owner(scope: str, account: str) -> tuple[str | None, KillScope | None]:
    """The owner of the control row, and the one scope on it that is meant; None: all of them."""
    wanted = kill_scope(scope, account)
    match wanted.kind:
        case KillScopeKind.ALL:
            return None, None
        case KillScopeKind.ACCOUNT:
            return wanted.value, None
        case _:
            return account, wanted


# --- operators ----------------------------------------------------------------------------------


@operator_app.command("add")
def add_operator(context: typer.Context, name: str, secret: Secret) -> None:
    """Registers an operator; only a hash of the secret is stored."""
    target = target_of(context)

    async def add() -> bool:
        async with target.ledger() as ledger:
            return await ledger.add_operator(name, secret)

    if not execute(add):
        raise failed(BadInput("OPERATOR_EXISTS", "name", name, "a name that is not registered"))
    typer.echo(f"operator {name} was added")


@operator_app.command("list")
def list_operators(context: typer.Context, as_json: Json = False) -> None:
    """Names of all operators."""
    target = target_of(context)

    async def read() -> tuple[str, ...]:
        async with target.ledger() as ledger:
            return await ledger.operators()

    print_rows([{"operator": name} for name in execute(read)], ("operator",), as_json=as_json)
