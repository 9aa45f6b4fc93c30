"""The operator's hand on one trade: `trade pause` to `trade release`, `order resolve`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.as_flat import check_as_flat
from cli.context import (
    EXIT_FAILED,
    Target,
    execute,
    failed,
    operator_name,
    target_of,
)
from cli.hand import Hand, ask_outcome, check_words, command_trade, number_of, quantity_of
from cli.output import print_fields
from cli.trade import command_id_of
from domain.errors import BadInput, Refused
from domain.ids import check_id
from domain.messages import CommandAnswer, OperatorRequest
from domain.outcomes import Progress

app = typer.Typer()
order_app = typer.Typer(no_args_is_help=True, help="Answer for orders that nobody knows of.")

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
By = Annotated[str | None, typer.Option("--by", help="operator; default: login name")]
Reason = Annotated[str, typer.Option("--reason", help="why; goes into the audit")]
Version = Annotated[
    int | None, typer.Option(help="the trade's version you saw (trade show); another one refuses")
]
CommandId = Annotated[str | None, typer.Option("--command-id", help="repeat of an earlier command")]
Wait = Annotated[float, typer.Option(help="seconds to wait for what becomes of it")]
WAIT_S = 15.0


def _run(
    context: typer.Context,
    trade_id: str,
    verb: str,
    common: tuple[str, str | None, int | None, str | None, float, bool],
    **values: Any,
) -> None:
    """Gives the command and shows the answer; exit 0 only when it is done."""
    reason, by, version, command_id, wait_s, as_json = common
    target, who = target_of(context), operator_name(by)

    async def run() -> dict[str, Any]:
        words = [str(values[name]) for name in sorted(values)]
        request = OperatorRequest(
            command_id=command_id or command_id_of(verb, trade_id, who, *words),
            by=who,
            reason=check_words("reason", reason),
            version=version,
            **values,
        )
        return await command_trade(target, Hand(trade_id, verb, request, wait_s))

    shown = execute(run)
    print_fields(shown, as_json=as_json)
    if shown["progress"] == Progress.REFUSED:
        text = str(shown["text"])
        raise failed(Refused(text, code=text.split(" ", 1)[0]))
    if shown["progress"] != Progress.DONE:
        hint = f"not done yet; ask again: starter.py trade outcome {trade_id}"
        typer.echo(f"{target.named(hint)} {shown['command_id']}", err=True)
        raise typer.Exit(EXIT_FAILED)


@app.command()
def pause(
    context: typer.Context,
    trade_id: str,
    reason: Reason,
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """No new entry order and no walk; a working entry stays, protection goes on."""
    _run(context, trade_id, "pause", (reason, by, version, command_id, wait_s, as_json))


@app.command()
def resume(
    context: typer.Context,
    trade_id: str,
    reason: Reason,
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Ends a pause or a parking; gives a trade taken over back after a look at the broker."""
    _run(context, trade_id, "resume", (reason, by, version, command_id, wait_s, as_json))


@app.command("take-over")
def take_over(
    context: typer.Context,
    trade_id: str,
    reason: Reason,
    release_orders: Annotated[
        bool, typer.Option("--release-orders", help="take stops and targets down too")
    ] = False,
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """You trade it by hand: entries end, resting protection stays and is named."""
    common = (reason, by, version, command_id, wait_s, as_json)
    _run(context, trade_id, "take_over", common, release_orders=release_orders)


@app.command("cancel-entry")
def cancel_entry(
    context: typer.Context,
    trade_id: str,
    reason: Reason,
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """The entry dies; what it has filled is protected."""
    _run(context, trade_id, "cancel_entry", (reason, by, version, command_id, wait_s, as_json))


@app.command()
def close(
    context: typer.Context,
    trade_id: str,
    reason: Reason,
    qty: Annotated[str | None, typer.Option(help="units to close")] = None,
    fraction: Annotated[str | None, typer.Option(help="share of what is open, 0 < f <= 1")] = None,
    as_flat: Annotated[
        bool, typer.Option("--as-flat", help="the broker has forgotten it: no order, no position")
    ] = False,
    evidence: Annotated[str, typer.Option(help="of --as-flat: where you saw it; kept")] = "",
    approver: Annotated[
        str | None, typer.Option(help="of --as-flat with real money: the second person")
    ] = None,
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Closes a part at the market; the rest keeps its stop and its nearest targets.

    With --as-flat it sends nothing: you say that the broker has none of it any more.
    """
    common = (reason, by, version, command_id, wait_s, as_json)
    try:
        if as_flat:
            said = check_words("evidence", evidence)
            if qty is not None or fraction is not None:
                raise BadInput("CLOSE_SIZE", "as-flat", "", "no --qty and no --fraction with it")
        else:
            size = _size_of(qty, fraction)
    except BadInput as error:
        raise failed(error) from None
    if not as_flat:
        _run(context, trade_id, "close", common, **size)
        return
    target, who = target_of(context), operator_name(by)
    execute(lambda: check_as_flat(target, trade_id, who, approver))
    approved = f"{said} (approved by {approver})" if approver else said
    _run(context, trade_id, "close_as_flat", common, evidence=approved)


def _size_of(qty: str | None, fraction: str | None) -> dict[str, Any]:
    if (qty is None) == (fraction is None):
        raise BadInput("CLOSE_SIZE", "qty", qty or "", "one of --qty and --fraction")
    if qty is None:
        share = number_of("fraction", fraction or "")
        if not 0 < share <= 1:
            raise BadInput("FRACTION_RANGE", "fraction", fraction, "0 < f <= 1")
        return {"fraction": share}
    return {"quantity": quantity_of(qty)}


Widen = Annotated[bool, typer.Option("--widen", help="yes, risk more than before")]
Marketable = Annotated[bool, typer.Option("--marketable", help="yes, it may fill at once")]


@app.command("move-stop")
def move_stop(
    context: typer.Context,
    trade_id: str,
    price: str,
    reason: Reason,
    widen: Widen = False,
    marketable: Marketable = False,
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Moves the protective stop, rounded to the tick that protects more."""
    common = (reason, by, version, command_id, wait_s, as_json)
    values = {"price": _price(price), "widen": widen, "marketable": marketable}
    _run(context, trade_id, "move_stop", common, **values)


@app.command("move-target")
def move_target(
    context: typer.Context,
    trade_id: str,
    number: Annotated[int, typer.Argument(help="which target, from 1")],
    price: str,
    reason: Reason,
    marketable: Marketable = False,
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Moves one target; its stop goes with it and comes back beside it."""
    common = (reason, by, version, command_id, wait_s, as_json)
    values = {"target": number, "price": _price(price), "marketable": marketable}
    if number < 1:
        raise failed(BadInput("TARGET_UNKNOWN", "target", number, "a target's number, from 1"))
    _run(context, trade_id, "move_target", common, **values)


def _price(text: str) -> Any:
    try:
        price = number_of("price", text)
        if price <= 0:
            raise BadInput("PRICE_NOT_POSITIVE", "price", text, "> 0")
    except BadInput as error:
        raise failed(error) from None
    return price


@app.command()
def release(
    context: typer.Context,
    trade_id: str,
    reason: Reason,
    yes: Annotated[bool, typer.Option("--yes", help="do it; without it nothing happens")] = False,
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Lets the position go to EXTERNAL: all of its orders are cancelled and the trade ends."""
    if not yes:
        text = "all orders of the trade are cancelled; its position stays, without any stop"
        raise failed(Refused(f"{text}; say --yes", code="CONFIRM"))
    _run(context, trade_id, "release", (reason, by, version, command_id, wait_s, as_json))


@app.command()
def outcome(context: typer.Context, trade_id: str, command_id: str, as_json: Json = False) -> None:
    """What became of an earlier command."""
    target = target_of(context)
    answer = execute(lambda: _outcome(target, trade_id, command_id))
    print_fields(answer.model_dump(), as_json=as_json)
    if answer.progress != Progress.DONE:
        raise typer.Exit(EXIT_FAILED)


async def _outcome(target: Target, trade_id: str, command_id: str) -> CommandAnswer:
    return await ask_outcome(await target.temporal(), trade_id, command_id)


@order_app.command("resolve")
def resolve(
    context: typer.Context,
    client_id: Annotated[str, typer.Argument(help="the order's id in trade show")],
    resolution: Annotated[str, typer.Option("--as", help="filled or dead")],
    evidence: Annotated[str, typer.Option(help="where you saw it; kept in the audit")],
    qty: Annotated[str | None, typer.Option(help="units filled")] = None,
    price: Annotated[str | None, typer.Option(help="price of the fill")] = None,
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """You answer for an order that is UNKNOWN; what the broker tells later still wins."""
    try:
        values = _resolution_of(resolution, evidence, qty, price)
    except BadInput as error:
        raise failed(error) from None
    target = target_of(context)
    trade_id = execute(lambda: _trade_of(target, client_id))
    common = (evidence, by, version, command_id, wait_s, as_json)
    _run(context, trade_id, "resolve_order", common, client_id=client_id, **values)


async def _trade_of(target: Target, client_id: str) -> str:
    check_id(client_id, "client_id")
    async with target.ledger() as ledger:
        known = await ledger.intent(client_id)
    if known is None:
        allowed = "an order of the ledger; one that only trade show has: look at the broker"
        raise BadInput("ORDER_NOT_FOUND", "client_id", client_id, allowed)
    return known.intent.key.trade_id


def _resolution_of(
    resolution: str, evidence: str, qty: str | None, price: str | None
) -> dict[str, Any]:
    if resolution not in ("filled", "dead"):
        raise BadInput("RESOLUTION_INVALID", "as", resolution, "filled, dead")
    values: dict[str, Any] = {
        "resolution": resolution,
        "evidence": check_words("evidence", evidence),
    }
    if resolution == "dead":
        return values
    if qty is None or price is None:
        raise BadInput("FIELD_REQUIRED", "qty, price", "", "both, for --as filled")
    return values | {"quantity": quantity_of(qty), "price": number_of("price", price)}
