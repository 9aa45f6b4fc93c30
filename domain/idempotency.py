"""Same id, same effect: what to do with a command that was seen before (rows 36-39, I17)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Any

from domain.base import Frozen
from domain.errors import BadInput, Refused


class CommandState(StrEnum):
    RUNNING = "running"
    DONE = "done"


class SeenCommand(Frozen):
    """A command that the ledger knows; `result` is what the first caller was told."""

    command_id: str
    body_hash: str
    state: CommandState
    result: str = ""


def body_hash(body: object) -> str:
    """SHA-256 of the canonical JSON: key order and number spelling do not matter."""
    text = json.dumps(_canonical(body), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: object) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | Decimal):
        return {"number": format(Decimal(value).normalize(), "f")}
    raise BadInput("BAD_JSON", "body", type(value).__name__, "JSON values, numbers exact")


def check_repeat(seen: SeenCommand | None, incoming_hash: str) -> SeenCommand | None:
    """None: run it. A value: replay that first result.

    Raises:
        Refused: `IDEMPOTENCY_MISMATCH` for another body under the same id, `IN_PROGRESS` while
            the first is running; both are HTTP 409.
    """
    if seen is None:
        return None
    if seen.body_hash != incoming_hash:
        raise Refused(
            f"command {seen.command_id} was sent with another body", code="IDEMPOTENCY_MISMATCH"
        )
    if seen.state is CommandState.RUNNING:
        raise Refused(f"command {seen.command_id} is still running", code="IN_PROGRESS")
    return seen


def check_no_collision(ids: Iterable[str], *, length_max: int, folds_case: bool) -> None:
    """Two of our ids may not become one at the broker (row 39).

    Raises:
        BadInput: `ID_COLLISION` naming both.
    """
    owner: dict[str, str] = {}
    for given in ids:
        stored = given[:length_max]
        stored = stored.casefold() if folds_case else stored
        first = owner.setdefault(stored, given)
        if first != given:
            raise BadInput("ID_COLLISION", "id", f"{first} and {given}", f"<= {length_max}")
