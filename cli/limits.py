"""`limits`: what changed against the limits in force; looser ones by two people (row 52)."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import typer

from cli.context import Target, execute, in_words, operator_name, target_of
from cli.control import By, Json, Secret
from cli.flatten import utc_now
from cli.output import print_fields, print_rows
from domain.errors import Refused
from domain.risk.limit_changes import LimitProposal, changes
from ledger.repository import Ledger
from wiring import limit_proposal, limits_known, proposal_cursor

app = typer.Typer(no_args_is_help=True, help="Limits in force; looser ones want two people.")

Reason = Annotated[str, typer.Option(help="why; goes into the audit", callback=in_words)]


@app.command()
def diff(context: typer.Context, as_json: Json = False) -> None:
    """Limits of the settings file that differ from those in force."""
    target = target_of(context)

    async def read() -> list[dict[str, Any]]:
        async with target.ledger() as ledger:
            return await _differences(target, ledger)

    print_rows(execute(read), ("limit", "in_force", "settings", "looser"), as_json=as_json)


async def _differences(target: Target, ledger: Ledger) -> list[dict[str, Any]]:
    settings = target.settings()
    known = await limits_known(ledger, settings.account.name, settings.limits)
    return [
        {"limit": c.name, "in_force": c.before, "settings": c.after, "looser": c.looser}
        for c in changes(known, settings.limits)
    ]


@app.command()
def propose(
    context: typer.Context, reason: Reason, secret: Secret, by: By = None, as_json: Json = False
) -> None:
    """Asks for the limits of the settings file although trades are open; good for 30 minutes."""
    target, who = target_of(context), operator_name(by)

    async def ask() -> LimitProposal:
        settings, now = target.settings(), utc_now()
        account = settings.account.name
        async with target.ledger() as ledger:
            await _check_operator(ledger, who, secret)
            found = await _differences(target, ledger)
            if not any(row["looser"] for row in found):
                raise Refused("no limit of the file is looser than before", code="NOT_LOOSER")
            identity = f"{account}|{who}|{now.isoformat()}"
            proposal = LimitProposal(
                proposal_id=hashlib.sha256(identity.encode()).hexdigest()[:16],
                account=account,
                limits=settings.limits,
                by=who,
                reason=reason,
                at=now,
            )
            await ledger.set_cursor(proposal_cursor(account), proposal.model_dump_json())
            told = {r["limit"]: f"{r['in_force']} -> {r['settings']}" for r in found}
            details = {"proposal_id": proposal.proposal_id, "reason": reason, **told}
            await ledger.append_audit(who, "limits_proposed", account, details)
        return proposal

    print_fields(execute(ask).model_dump(exclude={"limits"}), as_json=as_json)


@app.command()
def approve(
    context: typer.Context, proposal_id: str, secret: Secret, by: By = None, as_json: Json = False
) -> None:
    """Agrees to a proposal of another person; the workers' next start takes it over."""
    target, who = target_of(context), operator_name(by)

    async def agree() -> LimitProposal:
        settings, now = target.settings(), utc_now()
        account = settings.account.name
        async with target.ledger() as ledger:
            await _check_operator(ledger, who, secret)
            found = await limit_proposal(ledger, account)
            if found is None or found.proposal_id != proposal_id:
                raise Refused(f"proposal was {proposal_id}", code="PROPOSAL_UNKNOWN")
            refusal = found.why_not_approve(who, settings.limits, now)
            details = {"proposal_id": proposal_id, "proposed_by": found.by, "refusal": refusal}
            action = "limits_refused" if refusal else "limits_approved"
            await ledger.append_audit(who, action, account, details)
            if refusal:
                code, _, text = refusal.partition(" ")
                raise Refused(text, code=code)
            agreed = found.model_copy(update={"approved_by": who, "approved_at": now})
            await ledger.set_cursor(proposal_cursor(account), agreed.model_dump_json())
        return agreed

    print_fields(execute(agree).model_dump(exclude={"limits"}), as_json=as_json)


async def _check_operator(ledger: Ledger, who: str, secret: str) -> None:
    if not await ledger.check_operator(who, secret):
        raise Refused(f"operator was {who}", code="OPERATOR_REFUSED")
