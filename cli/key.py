"""`key new|use|list|drop`: the keys of the payloads. Their bytes are never shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import typer

from cli.context import Target, execute, failed, target_of
from cli.output import print_rows
from deploy.temporal.payload_needs import keys_needed
from domain.errors import BadInput, HoldfastError, Refused
from observability.payload_codec import KeyRing, PayloadKey, new_key
from payload_keys import payload_keys, store_keys, stored_keys

app = typer.Typer(no_args_is_help=True, help="Keys of the payloads in Temporal (encryption).")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def new(
    context: typer.Context,
    key_id: Annotated[str, typer.Option("--id", help="default: today's date")] = "",
) -> None:
    """Makes a key. The first one writes; a further one reads until `key use` names it."""
    try:
        settings = target_of(context).settings()
        ring = stored_keys(settings)
        made = new_key(key_id or _free_id(ring))
        if ring.of(made.key_id) is not None:
            raise BadInput("PAYLOAD_KEY_ID", "key_id", made.key_id, "an id that is not there yet")
        where = store_keys(settings, KeyRing((*ring.keys, made)))
    except HoldfastError as error:
        raise failed(error) from None
    typer.echo(f"key {made.key_id} was made in {where}; back it up apart from the data")
    if ring.keys:
        typer.echo(f"it reads; restart the workers (deploy), then: key use {made.key_id}")


def _free_id(ring: KeyRing) -> str:
    day, number = f"{datetime.now(UTC):%Y-%m-%d}", 1
    key_id = day
    while ring.of(key_id) is not None:
        number += 1
        key_id = f"{day}.{number}"
    return key_id


@app.command()
def use(context: typer.Context, key_id: str) -> None:
    """Lets this key write from the next start on; the others go on reading."""
    try:
        settings = target_of(context).settings()
        ring = stored_keys(settings)
        chosen = _known(ring, key_id)
        others = [key for key in ring.keys if key != chosen]
        store_keys(settings, KeyRing((chosen, *others)))
    except HoldfastError as error:
        raise failed(error) from None
    typer.echo(f"key {key_id} writes after a restart of the workers (deploy)")


@app.command("list")
def list_keys(
    context: typer.Context,
    needed: Annotated[bool, typer.Option("--needed", help="ask Temporal who needs them")] = False,
    as_json: Json = False,
) -> None:
    """Ids of the keys; with --needed how many open workflows need each, missing ones too."""
    target = target_of(context)
    try:
        ring = payload_keys(target.settings())
        counts = execute(lambda: _needed(target)) if needed else {}
    except HoldfastError as error:
        raise failed(error) from None
    rows: list[dict[str, object]] = []
    for number, key in enumerate(ring.keys):
        rows.append(
            {"key": key.key_id, "check": key.check, "does": "reads" if number else "writes"}
        )
    here = {key.name for key in ring.keys}
    for name in sorted(counts.keys() - here):
        key_id, _, check = name.partition(":")
        rows.append({"key": key_id, "check": check, "does": "MISSING"})
    for row in rows if needed else ():
        row["open workflows"] = counts.get(f"{row['key']}:{row['check']}", 0)
    columns = ("key", "check", "does", *(("open workflows",) if needed else ()))
    print_rows(rows, columns, as_json=as_json)


@app.command()
def drop(
    context: typer.Context,
    key_id: str,
    force: Annotated[bool, typer.Option("--force", help="although open workflows need it")] = False,
) -> None:
    """Takes a key away for ever; what it sealed can never be read again, closed trades too."""
    target = target_of(context)
    try:
        settings = target.settings()
        ring = stored_keys(settings)
        chosen = _known(ring, key_id)
        if chosen == ring.keys[0]:
            raise BadInput("PAYLOAD_KEY_ID", "key_id", key_id, "one that does not write (key use)")
        count = 0 if force else execute(lambda: _needed(target)).get(chosen.name, 0)
        if count:
            text = f"{count} open workflows need key {key_id}"
            raise Refused(text, code="PAYLOAD_KEY_NEEDED")
        store_keys(settings, KeyRing(tuple(key for key in ring.keys if key != chosen)))
    except HoldfastError as error:
        raise failed(error) from None
    typer.echo(f"key {key_id} is gone")


def _known(ring: KeyRing, key_id: str) -> PayloadKey:
    key = ring.of(key_id)
    if key is None:
        known = ", ".join(key.key_id for key in ring.keys) or "none yet: key new"
        raise BadInput("PAYLOAD_KEY_ID", "key_id", key_id, known)
    return key


async def _needed(target: Target) -> Mapping[str, int]:
    return await keys_needed(await target.temporal())
