"""Copies the audit chain to a file, row by row, behind everything that matters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from domain.errors import HoldfastError
from ledger.records import AuditRow
from ledger.repository import Ledger

POLL_S = 1.0
ROWS_AT_ONCE = 500

_log = logging.getLogger(__name__)


class AuditSink(Protocol):
    """`observability.audit_file.AuditFile`."""

    sequence: int

    def append(self, sequence: int, row: dict[str, object]) -> None: ...


class AuditExport:
    """Reads what the file does not have yet, once a second; one per installation is enough."""

    def __init__(self, ledger: Ledger, file: AuditSink) -> None:
        self._ledger = ledger
        self._file = file

    async def run(self) -> None:
        """Copies until cancelled; a ledger that is away or a full disk is told and asked again."""
        while True:
            copied = 0
            try:
                copied = await self.copy()
            except HoldfastError as error:
                _log.warning("the audit was not read: %s", error.code)
            except OSError as error:
                _log.error("the audit file was not written: %s", error)
            if copied < ROWS_AT_ONCE:
                await asyncio.sleep(POLL_S)

    async def copy(self) -> int:
        """One page; returns how many rows were new."""
        rows = await self._ledger.list_audit(after=self._file.sequence, limit=ROWS_AT_ONCE)
        if rows:
            await asyncio.to_thread(self._append, rows)
        return len(rows)

    def _append(self, rows: Sequence[AuditRow]) -> None:
        for row in rows:
            self._file.append(row.sequence, row.model_dump(mode="json"))
