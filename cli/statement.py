"""`statement daily|monthly|book`: an account's money as CSV files that tie out."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, TextIO
from zoneinfo import ZoneInfo

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from activities.account_books import known_account, read_account_book
from cli.context import Target, execute, in_words, operator_name, target_of
from cli.dates import bounds, day_of, instant_of, month_of, next_month
from cli.output import print_fields, print_rows
from cli.start_cash import start_cash
from domain.account_book import Charge, Move
from domain.errors import BadInput
from domain.ids import check_id
from domain.lots import ClosedLot, OpenLot
from domain.money import Amount, total
from domain.statement import CashKind, CashRow, Statement, statement_of
from ledger.records import CashMovement

app = typer.Typer(no_args_is_help=True, help="Statements as CSV: cash, fills, fees, FIFO lots.")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Account = Annotated[str | None, typer.Option(help="default: the account of the settings")]
Out = Annotated[Path, typer.Option(help="folder for the files")]
Periods = Callable[[], list[tuple[str, date, date]]]
DAYS_MAX = 366
FILES: dict[str, type[BaseModel]] = {
    "cash": CashRow,
    "fills": Move,
    "fees": Charge,
    "realised": ClosedLot,
    "open-lots": OpenLot,
}
SHOWN = (
    "period",
    "opening_cash",
    "deposits",
    "withdrawals",
    "realised_gross",
    "fees",
    "closing_cash",
    "open_lots",
)
# A spreadsheet would run it.
_FORMULA = re.compile(r"^[=+@\-\t]")


@app.command()
def daily(
    context: typer.Context,
    first: Annotated[str, typer.Option("--from", help="day, YYYY-MM-DD in the account's zone")],
    last: Annotated[str | None, typer.Option("--to", help="last day; default: the first")] = None,
    account: Account = None,
    out: Out = Path("statements"),
    as_json: Json = False,
) -> None:
    """Writes five CSV files for each day from --from to --to."""

    def periods() -> list[tuple[str, date, date]]:
        begin = day_of(first, "from")
        end = begin if last is None else day_of(last, "to")
        if not begin <= end < begin + timedelta(days=DAYS_MAX):
            raise BadInput("DATE_INVALID", "to", last, f"from .. from + {DAYS_MAX - 1} days")
        days = [begin + timedelta(days=number) for number in range((end - begin).days + 1)]
        return [(day.isoformat(), day, day + timedelta(days=1)) for day in days]

    _write(context, periods, account, out, as_json=as_json)


@app.command()
def monthly(
    context: typer.Context,
    month: Annotated[str, typer.Option("--month", help="YYYY-MM in the account's zone")],
    account: Account = None,
    out: Out = Path("statements"),
    as_json: Json = False,
) -> None:
    """Writes five CSV files for the month."""

    def periods() -> list[tuple[str, date, date]]:
        begin = month_of(month, "month")
        return [(f"{begin:%Y-%m}", begin, next_month(begin))]

    _write(context, periods, account, out, as_json=as_json)


@app.command()
def book(
    context: typer.Context,
    amount: Annotated[str, typer.Option(help="> 0 deposit, < 0 withdrawal, account currency")],
    movement: Annotated[str, typer.Option("--id", help="the bank's or broker's id; counts once")],
    on: Annotated[str, typer.Option("--at", help="day, or instant with its offset")],
    reason: Annotated[str, typer.Option(help="why; audited")],
    account: Account = None,
    by: Annotated[str | None, typer.Option("--by", help="operator; default: login name")] = None,
    as_json: Json = False,
) -> None:
    """Books money that the owner put in or took out: a row of the cash journal, never P&L.

    The broker's own list of transfers is not read. The first deposit is what the account began
    with; the simulated exchange's start cash is known without.
    """
    target, text = target_of(context), in_words(reason)

    async def run() -> dict[str, object]:
        settings = target.settings()
        name = account or settings.account.name
        row = CashMovement(
            movement_id=check_id(movement, "id"),
            account=name,
            amount=_amount(amount),
            text=text,
            at=instant_of(on, "at", ZoneInfo(settings.account.time_zone)),
            booked_by=operator_name(by),
        )
        async with target.ledger() as ledger:
            await known_account(ledger, name)
            is_new = await ledger.book_cash(row)
        return {**row.model_dump(), "booked": "now" if is_new else "before"}

    print_fields(execute(run), as_json=as_json)


def _amount(text: str) -> Decimal:
    try:
        number: Decimal = TypeAdapter(Amount).validate_python(text)
    except ValidationError:
        number = Decimal(0)
    if number == 0:
        raise BadInput("AMOUNT_INVALID", "amount", text, "a plain number other than 0")
    return number


def _write(
    context: typer.Context, periods: Periods, account: str | None, out: Path, *, as_json: bool
) -> None:
    target = target_of(context)
    rows = execute(lambda: _statements(target, periods, account, out))
    print_rows(rows, SHOWN, as_json=as_json)
    if not as_json:
        typer.echo(f"files: {out}")


async def _statements(
    target: Target, periods: Periods, account: str | None, out: Path
) -> list[dict[str, object]]:
    wanted = periods()
    settings = target.settings()
    name, zone = account or settings.account.name, ZoneInfo(settings.account.time_zone)
    async with target.ledger() as ledger:
        record = await known_account(ledger, name)
        book = await read_account_book(ledger, record, await start_cash(target, name))
    shown = []
    for label, first, after in wanted:
        made = statement_of(book, *bounds(first, after, zone))
        files = write_files(made, out, f"{name}-{label}")
        shown.append(summary(made, label) | {"files": files})
    return shown


def summary(made: Statement, label: str) -> dict[str, object]:
    """What the period comes to; `realised_unknown` counts lots whose price nobody knows."""
    known = [lot.gross for lot in made.realised if lot.gross is not None]
    return {
        "period": label,
        "begin": made.begin,
        "end": made.end,
        "opening_cash": made.opening_cash,
        "deposits": made.cash_of(CashKind.DEPOSIT),
        "withdrawals": made.cash_of(CashKind.WITHDRAWAL),
        "realised_gross": total(known),
        "realised_unknown": len(made.realised) - len(known),
        "fees": -made.cash_of(CashKind.FEE),
        "closing_cash": made.closing_cash,
        "open_lots": len(made.open_lots),
    }


def write_files(made: Statement, folder: Path, name: str) -> list[str]:
    """Writes the five files and answers their paths; an empty list is a file with its header."""
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, Sequence[BaseModel]] = {
        "cash": made.cash,
        "fills": made.moves,
        "fees": made.charges,
        "realised": made.realised,
        "open-lots": made.open_lots,
    }
    paths = []
    for kind, rows in contents.items():
        path = folder / f"{name}-{kind}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            write_csv(file, list(FILES[kind].model_fields), rows)
        paths.append(str(path))
    return paths


def write_csv(file: TextIO, columns: Sequence[str], rows: Iterable[BaseModel]) -> None:
    """Rows in the order of the columns. Numbers keep every digit; an unknown one is `unknown`."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_cell(getattr(row, column)) for column in columns)


def _cell(value: object) -> str:
    match value:
        case None:
            return "unknown"
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.astimezone(UTC).isoformat()
        case _:
            text = str(value)
            return f"'{text}" if _FORMULA.match(text) else text
