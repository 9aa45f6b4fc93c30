"""`audit verify|show`: the hash chain of everything that people and the system decided."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from cli.context import EXIT_FAILED, execute, target_of
from cli.dates import instant_of
from cli.output import print_json, print_rows
from ledger.records import AuditProblem, AuditRow

app = typer.Typer(no_args_is_help=True, help="The audit chain: who decided what, and is it whole.")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
SHOW_COLUMNS = ("sequence", "at", "actor", "action", "subject", "details")
PROBLEMS_SHOWN_MAX = 20


@app.command("verify")
def verify_chain(context: typer.Context, as_json: Json = False) -> None:
    """Recomputes every hash. Exit 1 names the first row that was edited, deleted or moved.

    One chain covers the installation with all of its accounts.
    """
    target = target_of(context)

    async def run() -> tuple[tuple[AuditProblem, ...], tuple[int, str]]:
        async with target.ledger() as ledger:
            return await ledger.verify_audit(), await ledger.audit_head()

    problems, (rows, head) = execute(run)
    first = problems[0] if problems else None
    if as_json:
        print_json({"whole": not problems, "rows": rows, "head": head, "problems": problems})
    elif first is None:
        typer.echo(f"audit chain is whole: {rows} rows, head {head}")
    else:
        typer.echo(
            f"audit chain is BROKEN first at row {first.sequence}: {first.kind} {first.text}"
        )
        for each in problems[1:PROBLEMS_SHOWN_MAX]:
            typer.echo(f"  row {each.sequence}: {each.kind} {each.text}")
        if len(problems) > PROBLEMS_SHOWN_MAX:
            typer.echo(f"  and {len(problems) - PROBLEMS_SHOWN_MAX} more")
    if problems:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def show(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="from this day or instant on (UTC)")] = "",
    kind: Annotated[str, typer.Option(help="actions that begin so, e.g. kill, trade, alert")] = "",
    subject: Annotated[str, typer.Option(help="of this account, trade, session …")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="the newest so many")] = 100,
    as_json: Json = False,
) -> None:
    """Shows rows of the audit, oldest first. `verify` says whether they can be believed."""
    target = target_of(context)

    async def run() -> tuple[AuditRow, ...]:
        began = instant_of(since, "since") if since else datetime.min.replace(tzinfo=UTC)
        async with target.ledger() as ledger:
            return await ledger.find_audit(since=began, action=kind, subject=subject, limit=limit)

    rows = execute(run)
    print_rows([row.model_dump() for row in rows], SHOW_COLUMNS, as_json=as_json)
