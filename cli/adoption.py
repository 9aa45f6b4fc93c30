"""`adopt`: a position that no order of ours explains becomes a trade, after a preview."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from activities.adoption import EXTERNAL_MOVED, Adoption, adopt, carry_on, prepare
from activities.restore import Restorer
from cli.context import Target, execute, operator_name, target_of
from cli.hand import check_words, number_of
from cli.output import print_fields, print_json, print_rows
from cli.recovery import services_of
from cli.trade import command_id_of
from domain.adoption import AdoptionRequest, orders_to_come
from domain.errors import Refused
from domain.ids import check_id
from domain.operator_checks import IDEMPOTENCY_MISMATCH
from ledger.records import TradeRecord

app = typer.Typer()


@app.command("adopt")
def adopt_position(
    context: typer.Context,
    symbol: str,
    stop: Annotated[str, typer.Option(help="price of the protective stop")],
    reason: Annotated[str, typer.Option(help="why; goes into the audit")],
    target: Annotated[list[str] | None, typer.Option(help="target price; repeatable")] = None,
    qty: Annotated[str | None, typer.Option(help="units; default: all without owner")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do it; without it only the preview")] = False,
    by: Annotated[str | None, typer.Option("--by", help="operator; default: login name")] = None,
    command_id: Annotated[
        str | None, typer.Option("--command-id", help="repeat of an earlier command")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Makes a trade of a position without owner; shows the orders first, acts with --yes."""
    stack, who = target_of(context), operator_name(by)

    async def run() -> dict[str, Any]:
        check_words("reason", reason)
        targets = tuple(number_of("target", text) for text in target or [])
        named = command_id or command_id_of("adopt", symbol, who, stop, qty or "", *(target or []))
        request = AdoptionRequest(
            symbol=symbol,
            account=stack.settings().account.name,
            trade_id=f"adopted-{check_id(named, 'command_id')[:24].lower()}",
            command_id=named,
            stop=number_of("stop", stop),
            targets=targets,
            quantity=None if qty is None else number_of("qty", qty),
        )
        return await _adopt(stack, request, who, reason, yes)

    shown = execute(run)
    if as_json:
        print_json(shown)
        return
    orders = shown.pop("orders")
    print_fields(shown, as_json=False)
    print_rows(orders, ("side", "quantity", "symbol", "target", "stop"), as_json=False)
    if not yes:
        typer.echo("Nothing was done: this is the preview. Add --yes to adopt.")


async def _adopt(
    target: Target, request: AdoptionRequest, by: str, reason: str, yes: bool
) -> dict[str, Any]:
    clock = await target.clock_map()
    async with services_of(target) as services:
        known = await services.ledger.trade(request.trade_id)
        if known is not None and known.result != EXTERNAL_MOVED:
            _check_same(known, request)
            if known.closed_at is None:
                restorer = Restorer(services, await target.temporal())
                await carry_on(services, restorer, known, clock)
            said = {"trade_id": known.trade_id, "position": known.plan.note}
            return said | {"adopted": True, "orders": []}
        adoption = await prepare(services, request, clock)
        shown = _shown(adoption) | {"adopted": False}
        if not yes:
            return shown
        details: dict[str, object] = {"reason": reason, "command_id": request.command_id}
        details |= {"symbol": request.symbol, "quantity": str(adoption.fact.quantity)}
        details |= {"stop": str(request.stop), "targets": [str(t) for t in request.targets]}
        await services.ledger.append_audit(by, "adopt", adoption.plan.trade_id, details)
        restorer = Restorer(services, await target.temporal())
        await adopt(services, restorer, adoption, clock)
        return shown | {"adopted": True}


def _check_same(known: TradeRecord, request: AdoptionRequest) -> None:
    """The same command again means the trade that it made (I17).

    Raises:
        Refused: `IDEMPOTENCY_MISMATCH`, the id belongs to another adoption.
    """
    plan = known.plan
    stop = None if plan.stop is None else plan.stop.price.absolute
    prices = tuple(t.price.absolute for t in plan.targets if t.price is not None)
    if (plan.symbol, stop, prices) != (request.symbol, request.stop, request.targets):
        text = f"{IDEMPOTENCY_MISMATCH} command_id: {request.command_id} adopted {plan.note}"
        raise Refused(text, code=IDEMPOTENCY_MISMATCH)


def _shown(adoption: Adoption) -> dict[str, Any]:
    plan, foreign = adoption.plan, adoption.foreign
    rows = [
        {
            "side": plan.side.opposite.value,
            "quantity": each.quantity,
            "symbol": plan.symbol,
            "target": each.target_price,
            "stop": each.stop_price,
        }
        for each in orders_to_come(adoption.state)
    ]
    return {
        "trade_id": plan.trade_id,
        "position": f"{adoption.fact.quantity} {plan.symbol} @ {foreign.average_price}",
        "external": foreign.external,
        "market": f"{foreign.quote.bid} / {foreign.quote.ask}",
        "loss_at_stop": adoption.ticket.approved.reserved_loss,
        "orders": rows,
    }
