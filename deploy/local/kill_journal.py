"""`<data>/kill-journal.ndjson`: kills that were engaged while the ledger was away.

The line is on disk before the first cancel goes out. As long as a line waits here, no gateway on
this data directory sends an increasing order (K9): the ledger that comes back does not know of
the kill yet. `up` and the gateway copy the lines into the ledger and put the file aside.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import ValidationError

from domain.base import Frozen
from domain.control import KillSwitch

JOURNAL_FILE = "kill-journal.ndjson"
COPIED_FILE = "kill-journal.copied.ndjson"


class JournalKill(Frozen):
    """One kill with the account it was meant for; None means every account."""

    account: str | None
    kill: KillSwitch


class KillJournal:
    """The file of one data directory; safe to use from several processes at once."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / JOURNAL_FILE
        self._copied = data_dir / COPIED_FILE

    @property
    def path(self) -> Path:
        return self._path

    def append(self, entry: JournalKill) -> None:
        """Writes one line and waits until the disk has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
        with os.fdopen(os.open(self._path, flags, 0o600), "ab") as target:
            target.write(entry.model_dump_json().encode() + b"\n")
            target.flush()
            os.fsync(target.fileno())

    def is_pending(self) -> bool:
        """True while a kill waits; a file that cannot be looked at counts as one."""
        try:
            return self._path.stat().st_size > 0
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def pending(self) -> tuple[JournalKill, ...]:
        """The kills that wait, oldest first.

        Raises:
            ValueError: a line is not one of ours; a person must look, nothing is passed over.
        """
        if not self.is_pending():
            return ()
        entries: list[JournalKill] = []
        for number, line in enumerate(self._path.read_text().splitlines(), start=1):
            try:
                entries.append(JournalKill.model_validate(json.loads(line)))
            except (ValidationError, json.JSONDecodeError) as error:
                raise ValueError(f"{self._path}:{number} could not be read") from error
        return tuple(entries)

    def put_aside(self, copied: int) -> None:
        """Moves the first `copied` lines behind the file of copied ones; later lines stay."""
        lines = self._path.read_text().splitlines(keepends=True)
        with self._copied.open("a") as target:
            target.writelines(lines[:copied])
            target.flush()
            os.fsync(target.fileno())
        rest = lines[copied:]
        if not rest:
            self._path.unlink()
            return
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        fresh.write_text("".join(rest))
        fresh.replace(self._path)
