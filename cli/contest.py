"""`contest start|status|stop`: every strategy against the others, each with its own account.

The contest has a stack of its own on `--data`: the simulated exchange plays a tape, and each
strategy trades it alone on $100. Accounts and history go on as long as the stack runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from temporalio.client import Schedule

from activities.reconcile import ReconcileInput
from cli.contest_files import Contest, ContestFiles, add_to_exchange, contest_template, entrants
from cli.contest_run import ContestView, open_round, stop_sessions
from cli.context import Target, execute, failed, operator_name, positive, target_of
from cli.demo_stack import DemoFiles, demo_stack, make_build_current, prepare_tape
from cli.output import print_json
from deploy.local import control
from deploy.local.stack import stack_environment
from deploy.local.supervisor import Supervisor
from deploy.temporal.schedules import reconcile_schedule, reconcile_schedule_id
from domain.clock import ClockMap
from domain.errors import BadInput, HoldfastError, Refused
from observability.build import repository_root
from report.portfolio import Standing, leaderboard_rows
from report.session import leaderboard_table
from settings import Settings

app = typer.Typer(no_args_is_help=True, help="Strategies against each other, an account each.")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
By = Annotated[str | None, typer.Option("--by", help="operator; default: login name")]
SPEED = "60"
CLOCK_TIMEOUT_S = 10.0


@app.command()
def start(
    context: typer.Context,
    strategy: Annotated[
        list[str] | None, typer.Option(help="entrant; repeatable; default: all that load")
    ] = None,
    cash: Annotated[str, typer.Option(help="start cash of each portfolio")] = "100",
    tape: Annotated[list[Path] | None, typer.Option(help="files that it plays; repeatable")] = None,
    speed: Annotated[str, typer.Option(help="market seconds per wall second")] = SPEED,
    fresh: Annotated[bool, typer.Option("--fresh", help="start from nothing")] = False,
    by: By = None,
) -> None:
    """Opens the accounts and starts one session per strategy.

    A contest that is up goes on with its accounts and history; --fresh moves all of it aside.
    """
    target = target_of(context)
    try:
        money, pace = positive("cash", cash), positive("speed", speed)
        is_up = control.status(target.data_dir).is_up
        if is_up and not ContestFiles(target.data_dir).record.is_file():
            allowed = "--data OTHER: this directory has a stack of its own, without a contest"
            raise BadInput("STACK_RUNS", "data", str(target.data_dir), allowed)
        if fresh or not is_up:
            _begin_anew(target, strategy or [], money, tape or [], fresh=fresh)
        elif strategy or tape:
            allowed = "--fresh: entrants and tape of a running contest stay"
            given = ", ".join(strategy or map(str, tape or ()))
            raise BadInput("CONTEST_RUNS", "strategy" if strategy else "tape", given, allowed)
    except HoldfastError as error:
        raise failed(error) from None

    async def run() -> Contest:
        files = ContestFiles(target.data_dir)
        contest, settings = files.load(), _settings(target, files.load())
        info = target.run_info
        assert info is not None, "the stack is up"
        client = await make_build_current(info, next(iter(settings.values())))
        clock = await _running_clock(info.exchange_control_url, pace)
        async with target.ledger() as ledger:
            opened = await open_round(client, ledger, contest, settings, clock, operator_name(by))
        files.save(opened)
        return opened

    contest = execute(run)
    names = ", ".join(portfolio.strategy for portfolio in contest.portfolios)
    typer.echo(f"round {contest.rounds} has started: {names}")


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """The leaderboard now; brings the JSON Lines files of all portfolios up to date."""
    target = target_of(context)

    async def run() -> tuple[Standing, ...]:
        files = ContestFiles(target.data_dir)
        contest = files.load()
        clock = await target.clock_map()
        now = min(clock.market(datetime.now(UTC)), contest.tape.end)
        async with target.ledger() as ledger:
            view = ContestView(files, contest)
            await view.write(ledger, now)
            return await view.look(ledger, now)

    standings = execute(run)
    if as_json:
        print_json([_shown(each) for each in standings])
        return
    console = Console()
    console.print(leaderboard_table(leaderboard_rows(standings), console.width))
    streams = ContestFiles(target.data_dir).folder / "streams"
    console.print(f"JSON Lines: {streams}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def stop(
    context: typer.Context,
    reason: Annotated[str, typer.Option("--reason", help="for the audit")] = "contest stop",
    by: By = None,
) -> None:
    """Ends the sessions: entries that work die, positions keep their exits; `down` stops all."""
    target = target_of(context)

    async def run() -> tuple[str, ...]:
        contest = ContestFiles(target.data_dir).load()
        client = await target.temporal()
        return await stop_sessions(client, contest, operator_name(by), reason)

    told = execute(run)
    typer.echo(f"told to stop: {', '.join(told)}" if told else "no session was running")


@app.command(hidden=True)
def stack(context: typer.Context) -> None:
    """The contest's stack in the foreground; `start` runs this detached."""
    target = target_of(context)
    try:
        contest = ContestFiles(target.data_dir).load()
        settings = [portfolio.read({}) for portfolio in contest.portfolios]
        config = demo_stack(
            DemoFiles(target.data_dir),
            settings,
            lambda line: print(line, file=sys.stderr, flush=True),
            _schedules(settings),
        )
        Supervisor(config).run()
    except HoldfastError as error:
        raise failed(error) from None


def _begin_anew(
    target: Target, strategies: list[str], cash: Decimal, tapes: list[Path], *, fresh: bool
) -> None:
    """Portfolios, tape and a detached stack on an empty data directory.

    Raises:
        BadInput: as `entrants`, `ContestFiles.enter` and `prepare_tape`.
        Refused: CONTEST_DOWN: there was one, its exchange is gone, and nobody said --fresh.
        StackFailed: it did not come up.
    """
    wanted = entrants(strategies)
    data_dir = target.data_dir
    if data_dir.exists() and any(data_dir.iterdir()):
        if not fresh:
            text = f"{data_dir} has the data of a stack that is down; --fresh moves it aside"
            raise Refused(text, code="CONTEST_DOWN")
        control.down(data_dir)
        aside = data_dir.with_name(f"{data_dir.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}")
        data_dir.rename(aside)
        typer.echo(f"the earlier data is in {aside}")
    data_dir.mkdir(parents=True, exist_ok=True)
    demo_files = DemoFiles(data_dir)
    market = prepare_tape(demo_files, tapes)
    files = ContestFiles(data_dir)
    portfolios = files.enter(contest_template(), wanted, cash)
    add_to_exchange(demo_files.exchange_config, portfolios)
    files.save(Contest(tape=market, portfolios=portfolios))
    starter = str(repository_root() / "starter.py")
    command = [sys.executable, starter, "--data", str(data_dir), "contest", "stack"]
    info = control.start_detached(command, data_dir)
    typer.echo(f"Web UI: {info.web_ui_url}")


def _settings(target: Target, contest: Contest) -> dict[str, Settings]:
    info = target.run_info
    environment: Mapping[str, str] = {} if info is None else stack_environment(info)
    return {p.account: p.read({**environment, **_addresses()}) for p in contest.portfolios}


def _addresses() -> dict[str, str]:
    """What the caller's shell may say about a stack; keys of real accounts stay outside."""
    named = ("HOLDFAST_LEDGER_DSN", "HOLDFAST_TEMPORAL_ADDRESS", "HOLDFAST_TEMPORAL_NAMESPACE")
    return {name: os.environ[name] for name in named if name in os.environ}


def _schedules(settings: list[Settings]) -> dict[str, Schedule]:
    """Broker truth against ledger for every account, every five minutes."""
    return {
        reconcile_schedule_id(each.account.name): reconcile_schedule(
            each.account.name, [ReconcileInput(account=each.account.name)]
        )
        for each in settings
    }


async def _running_clock(control_url: str, speed: Decimal) -> ClockMap:
    """The market's clock; one that stands still yet runs from here on at this speed."""
    async with httpx.AsyncClient(timeout=CLOCK_TIMEOUT_S, trust_env=False) as client:
        answer = await client.get(f"{control_url}/sim/clock")
        if answer.raise_for_status().json()["speed"] is None:
            answer = await client.post(f"{control_url}/sim/clock", json={"speed": str(speed)})
    shown = answer.raise_for_status().json()
    return ClockMap(wall0=shown["wall0"], market0=shown["market0"], speed=shown["speed"])


def _shown(standing: Standing) -> dict[str, Any]:
    computed = ("equity", "return_fraction", "drawdown_fraction", "win_rate")
    return {**standing.model_dump(), **{name: getattr(standing, name) for name in computed}}
