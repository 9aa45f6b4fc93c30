"""The kill from the command line: control row or journal first, then whoever is nearest sweeps."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable
from datetime import datetime

from pydantic import AwareDatetime

from activities.flatten import FlattenReceipt
from activities.gateway import RECEIPT_ACTION, sweeper_lease
from activities.kill import (
    SECOND_SWEEP_AFTER_S,
    Engaged,
    EntrySweep,
    KillReceipt,
    engage,
    known_entries,
    owner_by_ledger,
    receipt_of,
)
from brokers.port import Broker
from cli.context import Target
from cli.flatten import JOURNAL, close_or_tell, flatten_scope, ledger_if_up, utc_now
from cli.known_names import nothing_known_by
from deploy.local.kill_journal import JournalKill
from domain.base import Frozen
from domain.control import (
    KILL_MODES,
    KillMode,
    KillScope,
    KillScopeKind,
    KillSwitch,
    kill_mode_of,
)
from domain.errors import BadInput, HoldfastError
from domain.ids import check_id
from ledger.repository import Ledger

GATEWAY_HEAD_START_S = 1.0
RECEIPT_WAIT_S = 8.0
RECEIPT_POLL_S = 0.2
LEDGER, JOURNAL_ALONE = "ledger", "journal"
VALUE_MAX = 64


class KillOutcome(Frozen):
    """What the operator is told. `engaged_in` is `ledger` or `journal`.

    In the journal it is known on this machine alone: no gateway on another data directory hears
    of it. `unknown_name`: the kill is in force, but its name is known to nobody.
    """

    engaged_in: str
    engaged_at: AwareDatetime
    swept_by: str
    in_flight: tuple[str, ...] = ()
    receipt: KillReceipt
    flatten: FlattenReceipt | None = None
    unknown_name: str = ""

    @property
    def is_clean(self) -> bool:
        """True if it is in force everywhere, nothing may still add risk or has to be closed."""
        is_flat = self.flatten is None or self.flatten.is_flat
        is_dead = not self.receipt.open_ends and not self.receipt.faults
        return self.engaged_in == LEDGER and is_dead and is_flat and not self.unknown_name


def kill_scope(text: str, account: str) -> KillScope:
    """`all` or `kind:value`.

    Raises:
        BadInput: `SCOPE_INVALID`, `ACCOUNT_UNKNOWN`, `ID_FORMAT`.
    """
    allowed = "all or account|strategy|symbol|trade|order:VALUE"
    kind, _, value = text.partition(":")
    if kind not in list(KillScopeKind):
        raise BadInput("SCOPE_INVALID", "scope", text, allowed)
    chosen = KillScopeKind(kind)
    if (chosen is KillScopeKind.ALL) != (value == ""):
        raise BadInput("SCOPE_INVALID", "scope", text, allowed)
    if len(value) > VALUE_MAX or not value.isprintable():
        raise BadInput("SCOPE_INVALID", "scope", text, f"<= {VALUE_MAX} printable characters")
    if chosen is KillScopeKind.ACCOUNT and value != account:
        raise BadInput("ACCOUNT_UNKNOWN", "scope", value, account)
    if chosen is KillScopeKind.TRADE:
        check_id(value, "scope")
    return KillScope(kind=chosen, value=value)


def kill_mode(text: str) -> KillMode:
    """`block`, `cancel-entries` or `flatten`.

    Raises:
        BadInput: `MODE_INVALID`.
    """
    mode = kill_mode_of(text)
    if mode is None:
        raise BadInput("MODE_INVALID", "mode", text, KILL_MODES)
    return mode


async def kill_now(
    target: Target,
    scope: KillScope,
    mode: KillMode,
    *,
    by: str,
    reason: str,
    command_id: str | None,
    expected_version: int | None,
    wait_s: float,
    say: Callable[[str], None],
) -> KillOutcome:
    """Engages, sees that the entries die, and answers only with what is proven.

    Raises:
        VersionConflict: exit code 4; somebody else changed the row first.
        BadInput: the reason is empty.
    """
    if not reason.strip():
        raise BadInput("REASON_MISSING", "reason", reason, "why, in words")
    now = utc_now()
    kill = KillSwitch(
        scope=scope,
        mode=mode,
        reason=reason[:500],
        by=by,
        command_id=command_id or _command_id(scope, mode, by, now),
        engaged_at=now,
    )
    settings = target.settings()
    account = settings.account.name
    owner = None if scope.kind is KillScopeKind.ALL else account
    entry = JournalKill(account=owner, kill=kill)
    async with ledger_if_up(target) as ledger, target.broker(reserved=True) as broker:
        engaged = await engage(
            ledger,
            account,
            kill,
            journal=lambda: target.kill_journal.append(entry),
            expected_version=expected_version,
        )
        in_flight = _in_flight(engaged)
        where = JOURNAL_ALONE if engaged.answer is None else LEDGER
        known = "in force (ledger)" if where == LEDGER else "in the journal of this machine alone"
        say(f"kill {kill.command_id} is {known}; in flight: {', '.join(in_flight) or 0}")
        book = ledger if engaged.answer is not None else None
        sweeping = Sweeping(target, broker, book, kill)
        receipt, swept_by = await sweeping.run()
        flatten: FlattenReceipt | None = None
        if mode is KillMode.FLATTEN:
            if book is None:
                flatten = await close_or_tell(broker, None, settings, kill, JOURNAL)
            else:
                flatten = await flatten_scope(
                    target, scope, kill.command_id, by=by, reason=reason, wait_s=wait_s
                )
        unknown = "" if book is None else await nothing_known_by(target, book, broker, scope)
    if unknown and flatten is not None:
        # Nothing was found because nothing was looked for: that is not the broker saying flat.
        flatten = flatten.model_copy(update={"done": False, "pending": unknown})
    return KillOutcome(
        engaged_in=where,
        engaged_at=kill.engaged_at,
        swept_by=swept_by,
        in_flight=in_flight,
        receipt=receipt,
        flatten=flatten,
        unknown_name=unknown,
    )


def _command_id(scope: KillScope, mode: KillMode, by: str, at: datetime) -> str:
    text = f"kill|{scope.text}|{mode}|{by}|{at.isoformat()}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _in_flight(engaged: Engaged) -> tuple[str, ...]:
    if engaged.answer is None:
        return ()
    return tuple(
        each.intent.client_id for each in engaged.answer.in_flight if each.intent.increasing
    )


class Sweeping:
    """The gateway gets a moment's head start where one lives; this process makes sure."""

    def __init__(
        self, target: Target, broker: Broker, ledger: Ledger | None, kill: KillSwitch
    ) -> None:
        settings = target.settings()
        self._account = settings.account.name
        self._broker = broker
        self._ledger = ledger
        self._kill = kill
        installation = settings.account.installation
        if ledger is None:
            self._sweep = EntrySweep(broker, self._account, installation, kill)
        else:
            owner_of = owner_by_ledger(ledger)
            self._sweep = EntrySweep(broker, self._account, installation, kill, owner_of=owner_of)

    async def run(self) -> tuple[KillReceipt, str]:
        """The final receipt and who made it: `gateway` or `command line`."""
        loop = asyncio.get_running_loop()
        second_at = loop.time() + SECOND_SWEEP_AFTER_S
        has_gateway = await self._gateway_lives()
        if has_gateway:
            await asyncio.sleep(GATEWAY_HEAD_START_S)
        # What the gateway has cancelled is no longer open; anything left is ours to cancel.
        await self._sweep_once()
        receipt = await self._gateway_receipt() if has_gateway else None
        if receipt is not None and not self._sweep.orders:
            return receipt, "gateway"
        await asyncio.sleep(max(0.0, second_at - loop.time()))
        await self._sweep_once()
        return await self._own_receipt(), "command line"

    async def _sweep_once(self) -> None:
        if self._kill.mode is KillMode.BLOCK:
            return
        await self._sweep.run_once()

    async def _gateway_lives(self) -> bool:
        if self._ledger is None:
            return False
        try:
            lease = await self._ledger.lease(sweeper_lease(self._account))
        except HoldfastError:
            return False
        return lease is not None and lease.expires_at > utc_now()

    async def _gateway_receipt(self) -> KillReceipt | None:
        """The gateway's own final receipt out of the audit, if it comes in time."""
        assert self._ledger is not None
        seen = 0
        with contextlib.suppress(TimeoutError, HoldfastError):
            async with asyncio.timeout(RECEIPT_WAIT_S):
                while True:
                    rows = await self._ledger.list_audit(after=seen)
                    for row in rows:
                        seen = row.sequence
                        if (row.action, row.subject) == (RECEIPT_ACTION, self._kill.command_id):
                            return KillReceipt.model_validate(json.loads(row.details))
                    if not rows:
                        await asyncio.sleep(RECEIPT_POLL_S)
        return None

    async def _own_receipt(self) -> KillReceipt:
        in_flight: tuple[str, ...] = ()
        if self._ledger is not None:
            with contextlib.suppress(HoldfastError):
                for swept in self._sweep.orders:
                    order = await self._broker.order(swept.broker_order_id)
                    if order is not None:
                        await self._ledger.record_snapshot(self._account, order)
                entries = await known_entries(self._ledger, self._account, self._kill.scope)
                in_flight = tuple(e.intent.client_id for e in entries if e.answered_at is None)
        receipt = receipt_of(self._sweep, self._kill, self._account, utc_now(), in_flight=in_flight)
        if self._ledger is not None:
            with contextlib.suppress(HoldfastError):
                await self._ledger.append_audit(
                    self._kill.by,
                    RECEIPT_ACTION,
                    self._kill.command_id,
                    receipt.model_dump(mode="json"),
                )
        return receipt
