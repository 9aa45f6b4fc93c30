"""Which builds and settings are deployed on an account: others open no position (H13)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from domain.alerts import AlertDraft
from domain.base import Frozen
from domain.commands import AlertSeverity
from ledger.connection import LedgerConnection
from ledger.tables import deployments


class Deployment(Frozen):
    """What may open positions on the account; two of a kind while a deploy goes on."""

    account: str
    build_ids: tuple[str, ...]
    config_hashes: tuple[str, ...]
    deployed_by: str
    deployed_at: datetime

    def why_not(self, build_id: str, config_hash: str) -> str:
        """Why a worker of this build and these settings may not; empty if it may."""
        if build_id not in self.build_ids:
            return f"build was {build_id or 'unknown'}, deployed: {', '.join(self.build_ids)}"
        if config_hash not in self.config_hashes:
            known = ", ".join(self.config_hashes)
            return f"settings were {config_hash or 'unknown'}, deployed: {known}"
        return ""


def stale_alert(account: str, build_id: str, config_hash: str, why: str) -> AlertDraft:
    """Told once per worker version: a process was missed by a deploy, or its file was changed."""
    return AlertDraft(
        key=f"worker-stale/{account}/{build_id}/{config_hash}",
        account=account,
        code="WORKER_STALE",
        severity=AlertSeverity.CRITICAL,
        text=f"{why}; it sends no entries. Run deploy, or put its code or settings back",
    )


class DeploymentStore(LedgerConnection):
    """One row an account. An account without one is not held against anything."""

    async def set_deployed(
        self, account: str, build_ids: Sequence[str], config_hashes: Sequence[str], by: str
    ) -> None:
        """From here on only these builds under these settings send entries of the account."""
        row = {
            "build_ids": list(dict.fromkeys(build_ids)),
            "config_hashes": list(dict.fromkeys(config_hashes)),
            "deployed_by": by,
            "deployed_at": func.clock_timestamp(),
        }
        statement = upsert(deployments).values(account=account, **row)
        statement = statement.on_conflict_do_update(index_elements=["account"], set_=row)
        async with self._statement() as connection:
            await connection.execute(statement)

    async def deployed(self, account: str) -> Deployment | None:
        """What is deployed on the account; None if nobody ever said."""
        query = select(deployments).where(deployments.c.account == account)
        async with self._statement() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else Deployment.model_validate(dict(row))
