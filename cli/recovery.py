"""`restore`: starts open trades again from the ledger after a lost or rewound Temporal store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from activities.restore import Restorer, restore_lost
from activities.services import Services
from cli.context import Target, execute, target_of
from cli.output import print_rows
from wiring import config_hash

app = typer.Typer()


@app.command()
def restore(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Rebuilds every open trade whose workflow is gone; lists the ones that were started."""
    target = target_of(context)
    rows = [{"trade_id": trade_id} for trade_id in execute(lambda: _restore(target))]
    print_rows(rows, ("trade_id",), as_json=as_json)


async def _restore(target: Target) -> tuple[str, ...]:
    async with services_of(target) as services:
        return await restore_lost(Restorer(services, await target.temporal()), services)


@asynccontextmanager
async def services_of(target: Target) -> AsyncIterator[Services]:
    """Ledger and broker of the account, for commands that do a worker's step themselves."""
    settings = target.settings()
    async with target.ledger() as ledger, target.broker() as broker:
        yield Services(
            ledger=ledger,
            broker=broker,
            account=settings.account.name,
            broker_name=settings.broker.venue.value,
            installation=settings.account.installation,
            limits=settings.limits,
            restricted=settings.restricted_list(),
            config_hash=config_hash(settings),
        )
