"""`record start|stop|list`: keep a session's ticks as files that play as a tape."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from activities.market_parts import MarketHeard, market_cursor
from cli.context import execute, operator_name, target_of
from cli.output import print_fields, print_rows
from domain.errors import BadInput, Refused
from domain.ids import check_id
from domain.occ import looks_like_option
from domain.symbols import check_symbol
from ledger.records import RecordingRecord
from ledger.repository import Ledger

app = typer.Typer(no_args_is_help=True, help="Record ticks and quotes; they play as a tape.")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
By = Annotated[str | None, typer.Option("--by", help="operator; default: login name")]
MINUTES_MAX = 7 * 24 * 60
WORKER_AWAY_S = 15.0
COLUMNS = ("recording", "state", "symbols", "trades", "quotes", "gaps", "size", "last tick", "note")


@app.command()
def start(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="name of the recording and of its folder")],
    symbol: Annotated[list[str], typer.Option(help="stock symbol; repeatable")],
    minutes: Annotated[int, typer.Option(help="wall minutes; 0: until `record stop`")] = 0,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Records trades and quotes from the market-data stream; goes on over restarts."""
    target = target_of(context)

    async def run() -> dict[str, object]:
        check_id(name, "name")
        symbols = tuple(dict.fromkeys(_stock(each) for each in symbol))
        if not 0 <= minutes <= MINUTES_MAX:
            raise BadInput("DURATION_TOO_LONG", "minutes", minutes, f"0..{MINUTES_MAX}")
        settings, now = target.settings(), datetime.now(UTC)
        async with target.broker() as broker:
            for each in symbols:
                await broker.asset(each)
        row = RecordingRecord(
            name=name,
            account=settings.account.name,
            symbols=symbols,
            started_by=operator_name(by),
            started_at=now,
            ends_at=now + timedelta(minutes=minutes) if minutes else None,
        )
        async with target.ledger() as ledger:
            if not await ledger.start_recording(row):
                raise Refused(f"a recording {name} exists already", code="RECORDING_EXISTS")
            await _audit(ledger, row.started_by, "start", name, {"symbols": ",".join(symbols)})
            note = await _worker_note(ledger, row.account, now)
        return {
            "recording": name,
            "symbols": symbols,
            "ends": row.ends_at or "at record stop",
            "note": note,
        }

    print_fields(execute(run), as_json=as_json)


@app.command()
def stop(
    context: typer.Context,
    name: str,
    reason: Annotated[str, typer.Option(help="for the audit")] = "",
    by: By = None,
) -> None:
    """Ends a recording; the worker writes what it still holds within a second or two."""
    target = target_of(context)

    async def run() -> None:
        async with target.ledger() as ledger:
            if not await ledger.stop_recording(check_id(name, "name"), reason):
                raise Refused(f"no recording {name} runs", code="RECORDING_UNKNOWN")
            await _audit(ledger, operator_name(by), "stop", name, {"reason": reason})

    execute(run)
    typer.echo(f"stop of recording {name} is recorded")


@app.command("list")
def list_recordings(context: typer.Context, as_json: Json = False) -> None:
    """Shows recordings, newest first: counts, gaps, size, where the files are."""
    target = target_of(context)

    async def run() -> list[dict[str, Any]]:
        account, now = target.settings().account.name, datetime.now(UTC)
        async with target.ledger() as ledger:
            note = await _worker_note(ledger, account, now)
            return [_row(each, note) for each in await ledger.recordings(account)]

    print_rows(execute(run), COLUMNS, as_json=as_json)


def _row(record: RecordingRecord, worker_note: str) -> dict[str, Any]:
    """One recording; the JSON form has every gap and the folder."""
    counts = record.counts
    missing = sum((end - begin for begin, end in counts.gaps), timedelta())
    gaps = len(counts.gaps) + counts.gaps_left_out
    return {
        "recording": record.name,
        "state": record.state.value,
        "symbols": record.symbols,
        "trades": counts.trades,
        "quotes": counts.quotes,
        "gaps": f"{gaps} ({missing.total_seconds():.0f} s)" if gaps else "none",
        "size": f"{counts.size_bytes / 1_000_000:.2f} MB",
        "last tick": counts.last_at,
        "note": record.reason if record.ended_at is not None else worker_note or counts.folder,
        "folder": counts.folder,
        "size_bytes": counts.size_bytes,
        "parts": counts.parts,
        "gap_list": counts.gaps,
        "first tick": counts.first_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "started_by": record.started_by,
    }


async def _worker_note(ledger: Ledger, account: str, now: datetime) -> str:
    """What a person must know: who records, and what is wrong with the stream."""
    told = await ledger.get_cursor(market_cursor(account))
    heard = None if told is None else MarketHeard.model_validate_json(told)
    if heard is None or (now - heard.told_at).total_seconds() > WORKER_AWAY_S:
        return "no streams worker runs now; recording goes on when one does"
    if not heard.connected:
        codes = ", ".join(sorted(heard.problems)) or "connecting"
        return f"the market-data stream is not connected ({codes})"
    return "the market-data stream is silent" if heard.is_silent else ""


def _stock(symbol: str) -> str:
    """The symbol, if the stock stream can send it.

    Raises:
        BadInput: SYMBOL_FORMAT, SYMBOL_NON_ASCII, SYMBOL_NOT_STREAMED.
    """
    checked = check_symbol(symbol)
    if looks_like_option(checked) or "/" in checked:
        raise BadInput("SYMBOL_NOT_STREAMED", "symbol", symbol, "a stock")
    return checked


async def _audit(
    ledger: Ledger, actor: str, action: str, name: str, details: dict[str, str]
) -> None:
    await ledger.append_audit(actor, f"recording.{action}", name, details)
