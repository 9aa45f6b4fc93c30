"""The commands of people to a trade, read back from the audit for the trade that is rebuilt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from domain.facts import FlattenRequested
from domain.messages import OperatorRequest
from domain.outcomes import Progress
from domain.restore_hand import Hand, ToldByHand
from ledger.records import AuditRow, TradeRecord
from ledger.repository import Ledger

ACTION = "trade."
FLATTEN = "flatten"
ROWS_MAX = 1000
_TAKES_BACK = ("resume", "hand_back")


async def hand_of(ledger: Ledger, trade: TradeRecord) -> Hand:
    """What people told the trade; nothing for one that had ended, its commands ended with it.

    Raises:
        LedgerDown: the audit could not be read; then nothing is rebuilt.
    """
    if trade.closed_at is not None:
        return Hand()
    rows = await ledger.find_audit(
        since=trade.created_at, action=ACTION, subject=trade.trade_id, limit=ROWS_MAX
    )
    return hand_in(rows)


def hand_in(rows: Sequence[AuditRow]) -> Hand:
    """The hand in the rows `asked`, `refused` and `answered` of each command, oldest first.

    A command that was asked and never answered may have been taken. One that gives automation
    back is not believed then, and neither is a row that this build cannot read.
    """
    asked: dict[str, tuple[str, AuditRow, dict[str, Any]]] = {}
    ends: dict[str, str] = {}
    for row in rows:
        details = json.loads(row.details)
        command_id = str(details.get("command_id", ""))
        what = details.get("what")
        if what == "asked":
            asked.setdefault(command_id, (row.action.removeprefix(ACTION), row, details))
        elif what == "refused":
            ends.setdefault(command_id, Progress.REFUSED)
        elif what == "answered":
            ends[command_id] = str(details.get("progress", ""))
    told: list[ToldByHand] = []
    unsure = f"more than {ROWS_MAX} rows of the audit" if len(rows) >= ROWS_MAX else ""
    for command_id, (verb, row, details) in asked.items():
        end = ends.get(command_id)
        if end == Progress.REFUSED:
            continue
        if end is None and verb in _TAKES_BACK:
            unsure = f"{verb} {command_id} was asked and not answered"
            continue
        try:
            request = OperatorRequest.model_validate({**details, "by": row.actor})
            command = _flatten(request, row) if verb == FLATTEN else request.fact(verb, row.at)
            done, answered = end == Progress.DONE, end in (Progress.RUNNING, Progress.DONE)
            told.append(ToldByHand(command=command, done=done, answered=answered))
        except (ValidationError, ValueError):
            unsure = f"{verb} {command_id} could not be read"
    return Hand(told=tuple(told), unsure=unsure)


def _flatten(request: OperatorRequest, row: AuditRow) -> FlattenRequested:
    return FlattenRequested(
        at=row.at, command_id=request.command_id, by=request.by, reason=request.reason
    )
