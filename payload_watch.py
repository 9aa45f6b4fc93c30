"""Who misses a payload key: open workflows at a start, and every payload that was refused since.

Composition code of worker and `up`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from temporalio.client import Client
from temporalio.service import RPCError

from activities.reporting import report_draft
from activities.services import Services
from deploy.temporal.payload_needs import keys_needed
from domain.alerts import AlertDraft
from domain.commands import AlertSeverity
from domain.errors import HoldfastError
from ledger.repository import Ledger
from observability.payload_codec import HoldfastCodec, PayloadRefused
from payload_keys import register_cursor

LOOK_EVERY_S = 2.0
REFUSALS_MAX = 100
KEY_MISSING = "PAYLOAD_KEY"

_log = logging.getLogger(__name__)


async def missing_keys(
    ledger: Ledger, namespace: str, codec: HoldfastCodec, client: Callable[[], Awaitable[Client]]
) -> Mapping[str, int]:
    """Open workflows by key id that is not here and that they need.

    The ledger remembers which keys ever wrote in this namespace; Temporal is asked only if one of
    them is not here, so an installation without encryption pays one read.
    """
    cursor = register_cursor(namespace)
    known = set((await ledger.get_cursor(cursor) or "").split())
    here = {key.name for key in codec.ring.keys}
    if codec.seals and codec.ring.keys[0].name not in known:
        await ledger.add_to_cursor(cursor, codec.ring.keys[0].name)
    gone = known - here
    if not gone:
        return {}
    needed = await keys_needed(await client())
    # A key that never wrote here was made up by who forged a payload; nobody waits for it.
    return {name.partition(":")[0]: count for name, count in needed.items() if name in gone}


def missing_line(missing: Mapping[str, int]) -> str:
    """One line for people and alerts; empty if nothing is missing."""
    if not missing:
        return ""
    named = ", ".join(f"{key_id} ({count})" for key_id, count in sorted(missing.items()))
    return (
        f"open workflows or schedules need payload keys that are not here: {named}. They stand "
        "still until it is back and the workers restarted; stops rest at the broker, kill works"
    )


def missing_alert(account: str, missing: Mapping[str, int]) -> AlertDraft:
    """Told once for each set of keys, and again after the ledger's repeat window."""
    return AlertDraft(
        key=f"payload-key/{account}/{'/'.join(sorted(missing))}",
        account=account,
        code=KEY_MISSING,
        severity=AlertSeverity.CRITICAL,
        text=missing_line(missing),
    )


def refusal_alert(account: str, refused: PayloadRefused) -> AlertDraft:
    """A missing key is told once a key; what was changed or moved once a workflow."""
    about = refused.key_id if refused.code == KEY_MISSING else refused.scope
    return AlertDraft(
        key=f"payload/{account}/{refused.code}/{about}"[:200],
        account=account,
        code=refused.code,
        severity=AlertSeverity.CRITICAL,
        text=f"{refused.scope or 'a payload'} was refused: {refused.text}",
    )


class PayloadWatch:
    """Tells of keys that open trades miss, and of every payload that was refused."""

    def __init__(self) -> None:
        self._refused: dict[str, PayloadRefused] = {}

    def note(self, refused: PayloadRefused) -> None:
        """For `payload_codec`; repeats of one refusal until the next look are one."""
        if len(self._refused) < REFUSALS_MAX:
            self._refused.setdefault(f"{refused.code}/{refused.scope}", refused)

    async def run(self, services: Services, client: Client, codec: HoldfastCodec) -> None:
        """Says once what is missing, then for ever what is refused."""
        is_told = False
        while True:
            try:
                if not is_told:
                    await self.tell_missing(services, client, codec)
                    is_told = True
                await self.look(services)
            except (HoldfastError, RPCError, RuntimeError) as error:
                _log.warning("payload keys were not looked at: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, services: Services) -> None:
        """Raises the alerts of what was refused since the last look."""
        refused, self._refused = self._refused, {}
        for each in _one_a_key(list(refused.values())):
            await report_draft(services, refusal_alert(services.account, each))

    async def tell_missing(self, services: Services, client: Client, codec: HoldfastCodec) -> None:
        """One alert if open workflows need keys that are not here."""

        async def connected() -> Client:
            return client

        missing = await missing_keys(services.ledger, client.namespace, codec, connected)
        if missing:
            await report_draft(services, missing_alert(services.account, missing))


def _one_a_key(refused: Sequence[PayloadRefused]) -> list[PayloadRefused]:
    found = {
        (each.code, each.key_id if each.code == KEY_MISSING else each.scope): each
        for each in refused
    }
    return list(found.values())
