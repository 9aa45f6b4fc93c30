"""`alert list|ack|test`: what was told, who takes it over, whether the channels work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Annotated, Any

import typer

from cli.context import EXIT_FAILED, execute, failed, operator_name, target_of
from cli.output import print_fields, print_rows
from domain.alerts import AlertText
from domain.commands import AlertSeverity
from domain.errors import BadInput, HoldfastError
from ledger.records import AlertRecord, DeliveryRecord
from wiring import alert_sends

app = typer.Typer(no_args_is_help=True, help="See alerts, take one over, try the channels.")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
SEND_TIMEOUT_S = 15.0
LIST_COLUMNS = ("id", "raised", "severity", "code", "trade", "count", "state", "delivered", "text")


@app.command("list")
def list_alerts(
    context: typer.Context,
    open_only: Annotated[bool, typer.Option("--open", help="not acknowledged ones")] = False,
    trade: Annotated[str | None, typer.Option(help="of this trade")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="how many, newest first")] = 50,
    as_json: Json = False,
) -> None:
    """Shows alerts, newest first, with what became of them on each channel."""
    target = target_of(context)

    async def run() -> list[dict[str, object]]:
        account = target.settings().account.name
        async with target.ledger() as ledger:
            found = await ledger.list_alerts(
                account=account, trade_id=trade, open_only=open_only, limit=limit
            )
            deliveries = await ledger.deliveries_of([alert.alert_id for alert in found])
        return [_row(alert, deliveries) for alert in found]

    print_rows(execute(run), LIST_COLUMNS, as_json=as_json)


@app.command()
def ack(
    context: typer.Context,
    alert_id: Annotated[int, typer.Argument(help="number from `alert list` or the message")],
    note: Annotated[str, typer.Option(help="what is being done about it")] = "",
    by: Annotated[str | None, typer.Option("--by", help="operator; default: login name")] = None,
    as_json: Json = False,
) -> None:
    """Takes an alert over: it is not repeated and not escalated any more. Audited."""
    target = target_of(context)

    async def run() -> AlertRecord:
        async with target.ledger() as ledger:
            return await ledger.acknowledge_alert(alert_id, operator_name(by), note)

    told = execute(run)
    print_fields(
        {
            "alert": told.alert_id,
            "code": told.code,
            "acknowledged by": told.acknowledged_by,
            "at": told.acknowledged_at,
            "note": told.note,
        },
        as_json=as_json,
    )


@app.command("test")
def try_channels(
    context: typer.Context,
    channel: Annotated[str | None, typer.Option(help="only this channel")] = None,
    as_json: Json = False,
) -> None:
    """Sends one message to each channel and tells what came of it; needs no running stack.

    The exit code is 1 if any channel failed. The URL is taken from this shell's environment or
    the keyring, as the worker takes it from its own.
    """
    try:
        settings = target_of(context).settings()
        sends = alert_sends(settings)
        if channel is not None and channel not in sends:
            raise BadInput("ALERT_CHANNEL", "channel", channel, ", ".join(sends) or "none is set")
        if not sends:
            allowed = "a [[alerts.channels]] table (docs/alerts.md)"
            raise BadInput("ALERT_CHANNEL", "alerts.channels", "", allowed)
    except HoldfastError as error:
        raise failed(error) from None
    text = AlertText(
        title=f"[TEST] {settings.account.name}",
        body="This is a test of Holdfast's alerts. Nothing happened.",
        severity=AlertSeverity.INFO,
    )
    wanted = {name: send for name, send in sends.items() if channel in (None, name)}
    outcomes = _try_all(wanted, text)
    rows: list[dict[str, Any]] = [
        {"channel": name, "outcome": f"failed: {error}" if error else "delivered"}
        for name, error in outcomes.items()
    ]
    print_rows(rows, ("channel", "outcome"), as_json=as_json)
    if any(outcomes.values()):
        raise typer.Exit(EXIT_FAILED)


def _try_all(sends: dict[str, Callable[[AlertText], str]], text: AlertText) -> dict[str, str]:
    """All channels at once; one that hangs is told as such and left behind."""
    threads = ThreadPoolExecutor(max_workers=len(sends))
    waiting = {name: threads.submit(send, text) for name, send in sends.items()}
    outcomes: dict[str, str] = {}
    for name, answer in waiting.items():
        try:
            outcomes[name] = answer.result(SEND_TIMEOUT_S)
        except FutureTimeout:
            outcomes[name] = f"no answer within {SEND_TIMEOUT_S:g} s"
    threads.shutdown(wait=False, cancel_futures=True)
    return outcomes


def _row(alert: AlertRecord, deliveries: tuple[DeliveryRecord, ...]) -> dict[str, object]:
    mine = [each for each in deliveries if each.alert_id == alert.alert_id]
    last = {each.channel: each for each in mine}
    by = alert.acknowledged_by
    return {
        "id": alert.alert_id,
        "raised": alert.raised_at,
        "severity": alert.severity.value,
        "code": alert.code,
        "trade": alert.trade_id,
        "count": alert.occurrences,
        "state": f"taken by {by}" if by else "open",
        "escalations": alert.escalations,
        "delivered": [f"{name} {each.state.value}" for name, each in last.items()],
        "errors": {name: each.last_error for name, each in last.items() if each.last_error},
        "text": alert.text,
        "note": alert.note,
    }
