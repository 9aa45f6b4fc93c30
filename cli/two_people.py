"""A second pair of eyes: what one person asks for, another one with a secret must approve."""

from __future__ import annotations

import os

import typer

from domain.errors import Refused
from ledger.repository import Ledger

APPROVER_VARIABLE = "HOLDFAST_APPROVER_SECRET"


async def check_second_person(ledger: Ledger, by: str, approver: str | None) -> None:
    """The approver is a registered operator, proves it by a secret, and is somebody else.

    The secret comes from HOLDFAST_APPROVER_SECRET, else it is asked for. Audited either way.

    Raises:
        Refused: `SECOND_PERSON`, `SAME_PERSON`, `OPERATOR_REFUSED`.
    """
    if approver is None:
        raise Refused("with real money a second person approves: --approver", code="SECOND_PERSON")
    if approver == by:
        raise Refused(f"{by} asks and cannot approve as well", code="SAME_PERSON")
    secret = os.environ.get(APPROVER_VARIABLE) or typer.prompt(
        f"secret of {approver}", hide_input=True
    )
    if not await ledger.check_operator(approver, secret):
        text = f"the secret of {approver} was not accepted, or no operator has this name"
        raise Refused(text, code="OPERATOR_REFUSED")
