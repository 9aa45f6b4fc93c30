"""`report day` and `report session`: the evening of an account, and any session's page."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.table import Table
from rich.text import Text

from activities.day_reading import DayWanted, read_day
from activities.day_report import day_bounds
from cli.context import Target, execute, failed, target_of
from cli.dates import day_of
from cli.output import console, print_json, print_rows
from cli.session_report import read_session
from cli.start_cash import start_cash
from domain.day_report import DayReport
from domain.errors import BadInput
from domain.money import Number, divide
from marketdata.zones import zone
from report.day import html_of, lines, parts
from report.page import write_page
from report.session import build, print_report

LISTED = ("name", "account", "first_at", "last_at", "decisions", "taken", "trades")
app = typer.Typer(no_args_is_help=True, help="Reports: the evening of an account, any session.")


@app.callback()
def reports() -> None:
    """Reports."""


@app.command()
def day(
    context: typer.Context,
    on: Annotated[str | None, typer.Option("--date", help="YYYY-MM-DD; default: today")] = None,
    account: Annotated[str | None, typer.Option(help="default: that of the settings")] = None,
    gap: Annotated[str, typer.Option(help="gap against us, per cent")] = "5",
    html: Annotated[Path | None, typer.Option(help="write the page to this file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """What is open tonight, gap risk, dormant stops, the day's money and its troubles.

    Positions, orders and prices are those of now; money, signals and troubles those of the day.
    """
    target = target_of(context)
    made = execute(lambda: examine(target, on, account, gap))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(html_of(made), encoding="utf-8")
    if as_json:
        print_json(made)
        return
    show(made)
    if html is not None:
        typer.echo(f"page: {html}")


@app.command()
def session(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="name of the session")] = None,
    html: Annotated[Path | None, typer.Option(help="write the page to this file")] = None,
    listed: Annotated[bool, typer.Option("--list", help="the sessions that are known")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """What a session did, out of the ledger: signals, trades, refusals, equity, prices, stops.

    Any session, one that runs as well. What is not known is called unknown. The page has charts,
    and beside it stands a file of the same name with `.json`.
    """
    target = target_of(context)
    if listed:
        rows = execute(lambda: list_sessions(target))
        print_rows(rows, LISTED, as_json=as_json)
        return
    if not name:
        raise failed(BadInput("NAME_MISSING", "name", "", "a session; --list names them"))
    facts, differences = execute(lambda: read_session(target, name))
    if html is not None:
        write_page(facts, differences, html)
    if as_json:
        print_json({"facts": facts, "books": differences})
        return
    print_report(build(facts, differences), console())
    if html is not None:
        typer.echo(f"page: {html}")


async def list_sessions(target: Target) -> list[dict[str, object]]:
    """Every session of the ledger, newest first."""
    async with target.ledger() as ledger:
        return [each.model_dump() for each in await ledger.sessions()]


async def examine(target: Target, on: str | None, account: str | None, gap: str) -> DayReport:
    """Reads the evening from the stack that the target names."""
    settings = target.settings()
    asked, now = None if on is None else day_of(on, "date"), datetime.now(UTC)
    fraction = _fraction(gap)
    name = account or settings.account.name
    if name != settings.account.name:
        # The settings hold the key of one account; positions of another would be a wrong answer.
        raise BadInput("ACCOUNT_DIFFERS", "account", name, f"{settings.account.name}, or --config")
    clock = await target.clock_map()
    shown = zone(settings.account.time_zone, "account.time_zone")
    found, begin, end = day_bounds(asked, clock.market(now), shown)
    wanted = DayWanted(
        account=name,
        installation=settings.account.installation,
        venue=settings.broker.venue.value,
        day=found,
        begin=begin,
        end=end,
        clock=clock,
        now=now,
        max_daily_loss_fraction=settings.limits.max_daily_loss_fraction,
        gap_fraction=fraction,
        start_cash=await start_cash(target, name),
    )
    async with target.ledger() as ledger, target.broker() as broker:
        return await read_day(ledger, broker, wanted)


def show(made: DayReport) -> None:
    """The report in a terminal."""
    printer = console()
    for line in lines(made):
        printer.print(line, markup=False, soft_wrap=True)
    for part in parts(made):
        printer.print(f"\n[bold]{part.title}[/bold]" + ("" if part.rows else ": none"))
        if part.rows:
            has_head = bool(part.columns)
            table = Table(*part.columns, box=None, pad_edge=False, show_header=has_head)
            for row in part.rows:
                table.add_row(*(Text(cell, overflow="fold") for cell in row))
            printer.print(table)
        if part.hint:
            printer.print(f"[dim]{part.hint}[/dim]", soft_wrap=True)


def _fraction(text: str) -> Decimal:
    """Per cent as a fraction, above 0 and up to 100."""
    try:
        number: Decimal = TypeAdapter(Number).validate_python(text)
    except ValidationError:
        number = Decimal(0)
    if not 0 < number <= 100:
        raise BadInput("GAP_INVALID", "gap", text, "per cent, 0 < x <= 100")
    return divide(number, Decimal(100))
