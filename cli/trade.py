"""`trade submit|list|show|flatten`; the operator's hand on a trade is in `cli.trade_hand`."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from temporalio.service import RPCError

from activities.protective_orders import protective_orders
from cli.context import (
    EXIT_FAILED,
    Target,
    execute,
    in_words,
    line_of,
    operator_name,
    target_of,
)
from cli.dry_run import rehearse, show_rehearsal
from cli.flatten import flatten_scope, show_receipt
from cli.open_trades import live_statuses
from cli.output import print_fields, print_json, print_rows, shown
from cli.plans import check_symbols, read_plan, start_trade
from domain.control import KillScope, KillScopeKind
from domain.errors import BadInput, HoldfastError
from domain.ids import check_id, trade_workflow_id
from domain.plan import TradePlan
from domain.trade_state import Outcome, Stage
from ledger.records import EXTERNAL, TradeRecord
from ledger.repository import Ledger

app = typer.Typer(no_args_is_help=True, help="Submit, see and steer single trades.")
# The gate reads the market first; longer than this it is told of as not decided.
GATE_WORD_S = 5.0
GATE_LOOK_S = 0.2
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
By = Annotated[str | None, typer.Option("--by", help="operator; default: login name")]


@app.command()
def submit(
    context: typer.Context,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN.json")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="send and write nothing")] = False,
    wait: Annotated[bool, typer.Option(help="wait for the trade's end")] = False,
    as_json: Json = False,
) -> None:
    """Starts a trade from a plan file, or shows with --dry-run what it would do.

    Exit 1: a kill, a disarmed account or the gate refuses its entry. The gate gets a few seconds
    to say so; after them the trade is told of as not decided yet.
    """
    target = target_of(context)
    if dry_run:
        rehearsal = execute(lambda: rehearse(target, plan_file))
        show_rehearsal(rehearsal, as_json=as_json)
        if not rehearsal.approved:
            raise typer.Exit(EXIT_FAILED)
        return
    told, is_refused = execute(lambda: _submit(target, plan_file, wait))
    print_fields(told, as_json=as_json)
    if is_refused:
        raise typer.Exit(EXIT_FAILED)


async def _submit(target: Target, plan_file: Path, wait: bool) -> tuple[dict[str, Any], bool]:
    """What was started, and whether its entry is known to be refused."""
    settings, clock = target.settings(), await target.clock_map()
    plan = read_plan(plan_file, settings, clock)
    client = await target.temporal()
    async with target.broker() as broker:
        await check_symbols(broker, plan)
    workflow_id = await start_trade(client, plan, settings, clock)
    blocked = await why_blocked(target, plan)
    if blocked:
        typer.echo(f"{blocked}; the trade has started, its entry is refused", err=True)
    shown: dict[str, Any] = {
        "trade_id": plan.trade_id,
        "workflow": workflow_id,
        "at": datetime.now(UTC),
    }
    info = target.run_info
    if info is not None and info.web_ui_url:
        place = f"namespaces/{client.namespace}/workflows/{workflow_id.replace('/', '%2F')}"
        shown["web_ui"] = f"{info.web_ui_url}/{place}"
    if wait:
        shown |= await client.get_workflow_handle(workflow_id).result()
    elif not blocked:
        shown["gate"], is_refused = await gate_word(target, plan.trade_id)
        return shown, is_refused
    return shown, bool(blocked) or shown.get("outcome") == Outcome.REFUSED


async def gate_word(target: Target, trade_id: str, wait_s: float = GATE_WORD_S) -> tuple[str, bool]:
    """What the risk gate said of the entry, and whether it refused; it gets a moment to say it."""
    until = asyncio.get_running_loop().time() + wait_s
    undecided = target.named(f"not decided yet: starter.py trade show {trade_id}"), False
    try:
        async with target.ledger() as ledger:
            while True:
                decision = await ledger.reserved_decision(trade_id)
                if decision is not None and decision.approved:
                    return "passed", False
                if decision is not None:
                    why = decision.text.removeprefix(decision.code).strip()
                    return f"REFUSED {decision.code} {why}".strip(), True
                row = await ledger.trade(trade_id)
                if row is not None and row.stage == Stage.REFUSED:
                    return f"REFUSED {row.result}", True  # by the trade's own look, such as its age
                if asyncio.get_running_loop().time() >= until:
                    return undecided
                await asyncio.sleep(GATE_LOOK_S)
    except HoldfastError:
        return undecided


async def why_blocked(target: Target, plan: TradePlan) -> str:
    """The gate's code and why nothing may be entered now; empty if the switches let it through."""
    if target.kill_journal.is_pending():
        return "KILLED a kill waits in the local journal until the ledger has it"
    symbols = {plan.symbol, *(leg.instrument.symbol for leg in plan.legs)}
    symbols |= {leg.instrument.underlying or plan.symbol for leg in plan.legs}
    try:
        async with target.ledger() as ledger:
            control = await ledger.read_control(plan.account)
    except HoldfastError as error:
        return f"CONTROL_UNREADABLE {line_of(error)}"
    kill = control.kill_for(strategy=plan.strategy, symbols=tuple(symbols), trade_id=plan.trade_id)
    if kill is not None:
        return f"KILLED {kill.mode} {kill.scope.text} by {kill.by}: {kill.reason}"
    disarmed = target.named(f"NOT_ARMED account {plan.account}: starter.py arm --reason WHY")
    return "" if control.armed else disarmed


@app.command("list")
def list_trades(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="closed ones too")] = False,
    symbol: Annotated[str | None, typer.Option(help="only this symbol")] = None,
    strategy: Annotated[str | None, typer.Option(help="only this strategy")] = None,
    as_json: Json = False,
) -> None:
    """Trades of the account; open ones as their workflow sees them, else marked with a `?`."""
    target = target_of(context)

    async def read() -> list[dict[str, object]]:
        async with target.ledger() as ledger:
            trades = await ledger.list_trades(
                account=target.settings().account.name,
                strategy=strategy,
                symbol=symbol,
                open_only=not every,
            )
            resting = await protective_orders(ledger, target.settings().account.name)
        open_ones = [each for each in trades if each.closed_at is None]
        now = await live_statuses(target, open_ones, resting)
        return [_row(trade) | now.get(trade.trade_id, {}) for trade in trades]

    columns = ("trade_id", "symbol", "side", "stage", "protection", "result", "realised", "fees")
    print_rows(execute(read), (*columns, "created_at"), as_json=as_json)


def _row(trade: TradeRecord) -> dict[str, object]:
    return {
        "trade_id": trade.trade_id,
        "account": trade.account,
        "session": trade.session,
        "strategy": trade.strategy,
        "symbol": trade.symbol,
        "side": trade.plan.side.value,
        "stage": trade.stage,
        "protection": trade.protection,
        "result": trade.result,
        "realised": trade.realised,
        "fees": trade.fees,
        "fees_estimated": trade.fees_estimated,
        "build_id": trade.build_id,
        "created_at": trade.created_at,
        "closed_at": trade.closed_at,
        "settled_at": trade.settled_at,
    }


@app.command()
def show(context: typer.Context, trade_id: str, as_json: Json = False) -> None:
    """One trade: its story, orders, fills and gate verdicts. Works for ever, also when closed."""
    target = target_of(context)
    found = execute(lambda: _show(target, trade_id))
    if as_json:
        print_json(found)
        return
    typer.echo(found["story"])
    typer.echo("")
    print_fields(_with_words(found["trade"]), as_json=False)
    print_rows(found["orders"], ORDER_COLUMNS, as_json=False)
    print_rows(found["fills"], ("venue_time", "side", "quantity", "symbol", "price"), as_json=False)
    refused = [row for row in found["verdicts"] if row["verdict"] != "passed"]
    print_rows(refused, ("check", "verdict", "code", "facts"), as_json=False)


def _with_words(row: dict[str, object]) -> dict[str, object]:
    """The row for people: what is not the broker's last word on fees says so."""
    if row["closed_at"] is None or not row["fees_estimated"]:
        return row
    words = {"fees": f"{shown(row['fees'])} {FEES_SO_FAR}", "settled_at": f"- {SETTLED_LATER}"}
    return row | words


FEES_SO_FAR = "(told so far)"
SETTLED_LATER = "(when its fees are whole: noon in New York of the day after; never at Tradier)"
KNOWN_TRADES = "a trade of `starter.py trade list --all`"
ORDER_COLUMNS = ("client_id", "purpose", "side", "quantity", "limit", "stop", "state", "filled")


async def _show(target: Target, trade_id: str) -> dict[str, Any]:
    check_id(trade_id, "trade_id")
    async with target.ledger() as ledger:
        trade = await ledger.trade(trade_id)
        if trade is None:
            raise BadInput("TRADE_UNKNOWN", "trade_id", trade_id, KNOWN_TRADES)
        orders = await ledger.orders_of_trade(trade_id)
        fills = await ledger.fills_of_trade(trade_id)
        verdicts = await ledger.verdicts(trade_id)
        resting = await protective_orders(ledger, trade.account)
    # The ledger's row is as old as the last step at the broker: the workflow's own words win.
    now = {} if trade.closed_at is not None else await live_statuses(target, [trade], resting)
    return {
        "trade": _row(trade) | now.get(trade_id, {}),
        "story": await _live_story(target, trade) or trade.story,
        "orders": [
            {
                "client_id": each.intent.client_id,
                "broker_order_id": each.broker_order_id,
                "purpose": each.intent.key.purpose.value,
                "side": each.intent.body.side.value,
                "quantity": each.intent.body.quantity,
                "symbol": each.intent.body.symbol,
                "limit": each.intent.body.limit_price,
                "stop": each.intent.body.stop_price,
                "state": each.status.value if each.status is not None else each.state.value,
                "filled": each.filled_quantity,
                "at": each.gate_at,
            }
            for each in orders
        ],
        "fills": [row.fill.model_dump() | {"reverses": row.reverses} for row in fills],
        "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts],
    }


async def _live_story(target: Target, trade: TradeRecord) -> str:
    """The running workflow's own words; empty when it has ended or the server is away."""
    if trade.closed_at is not None:
        return ""
    try:
        client = await target.temporal()
        handle = client.get_workflow_handle(trade_workflow_id(trade.trade_id))
        told: str = await handle.query("story")
    except (HoldfastError, RPCError):
        return ""
    return told


@app.command()
def flatten(
    context: typer.Context,
    trade_id: str,
    reason: Annotated[str, typer.Option(help="why; goes into the audit", callback=in_words)],
    by: By = None,
    wait_s: Annotated[float, typer.Option(help="how long to wait for the receipt")] = 30.0,
    as_json: Json = False,
) -> None:
    """Gets out of one trade. Works with Temporal or PostgreSQL away. Exit 1 until it is flat."""
    target = target_of(context)
    check, ended, bare = execute(lambda: _checked(target, trade_id))
    if ended:
        # Nothing to get out of: no alert, no workflow (faults.md §3 row 65).
        told = {"done": not bare, "code": "ALREADY_CLOSED", "text": ended}
        if bare:
            told["left"] = f"NOT FLAT: {bare} of no trade, without a stop of ours"
            told["next"] = "`starter.py adopt` it or close it at the broker"
        print_fields(told, as_json=as_json)
        if bare:
            raise typer.Exit(EXIT_FAILED)
        return
    scope = KillScope(kind=KillScopeKind.TRADE, value=check)
    who = operator_name(by)
    command_id = command_id_of("flatten", trade_id, who, reason)
    receipt = execute(
        lambda: flatten_scope(target, scope, command_id, by=who, reason=reason, wait_s=wait_s)
    )
    show_receipt(receipt, as_json=as_json)
    if not receipt.is_flat:
        raise typer.Exit(EXIT_FAILED)


async def _checked(target: Target, trade_id: str) -> tuple[str, str, str]:
    """The id; if the trade is over, how it ended; if it was released, what lies bare of it.

    Refused if a ledger that answers has never heard of it, or has it under another account:
    nothing found is not flat.

    Raises:
        BadInput: ID_FORMAT, `TRADE_UNKNOWN`.
    """
    check_id(trade_id, "trade_id")
    try:
        async with target.ledger() as ledger:
            known = await ledger.trade(trade_id)
            bare = "" if known is None else await _bare_of(ledger, known)
            holds = known is not None and await _holds(ledger, known)
    except HoldfastError:
        return trade_id, "", ""
    if known is not None and known.closed_at is not None and not holds:
        return trade_id, f"trade {trade_id} ended: {known.result}", bare
    if known is None:
        raise BadInput("TRADE_UNKNOWN", "trade_id", trade_id, KNOWN_TRADES)
    if known.account != target.settings().account.name:
        text = f"a trade of the configured account; it is of account {known.account}"
        raise BadInput("TRADE_UNKNOWN", "trade_id", trade_id, text)
    return trade_id, "", ""


async def _holds(ledger: Ledger, trade: TradeRecord) -> bool:
    """True of an ended trade, too, until its late fill has restarted it (D9)."""
    owned = await ledger.positions_by_trade(trade.account)
    return any(each.trade_id == trade.trade_id for each in owned)


async def _bare_of(ledger: Ledger, trade: TradeRecord) -> str:
    """What is held of no trade in the symbols of a released one: nobody guards it (K6)."""
    if trade.stage != Stage.RELEASED:
        return ""
    symbols = {leg.instrument.symbol for leg in trade.plan.legs}
    return ", ".join(
        f"{shown(each.quantity)} {each.symbol}"
        for each in await ledger.positions_by_trade(trade.account)
        if each.trade_id == EXTERNAL and each.symbol in symbols
    )


def command_id_of(*parts: str) -> str:
    """One id per order of a person: the same words within the same second are one command."""
    second = datetime.now(UTC).isoformat(timespec="seconds")
    return hashlib.sha256("|".join((*parts, second)).encode()).hexdigest()[:24]
