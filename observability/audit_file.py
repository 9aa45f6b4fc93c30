"""The audit once more as JSON lines in a file, for eyes and for shipping off the machine (S26).

The chain in the ledger is the record; this file is a copy that may lie on another disk. It goes on
after its own last line, so a restart repeats nothing and leaves nothing out. At 50 MB the file
is packed to `.1.gz`, older ones move up (requirement 120).
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path

ROTATE_AT_BYTES = 50 * 1024 * 1024
FILES_KEPT = 20
FILE_MODE = 0o600
_TAIL_BYTES = 1024 * 1024


class AuditFile:
    """Appends rows; blocks on the disk, so call it from a thread."""

    def __init__(
        self, path: Path, *, rotate_at_bytes: int = ROTATE_AT_BYTES, files_kept: int = FILES_KEPT
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.sequence = _last_sequence(path)
        # A line that a crash cut is closed, so that the next one stands by itself.
        cut = path.exists() and path.stat().st_size > 0 and _tail(path)[-1:] != b"\n"
        self._handler = RotatingFileHandler(
            path, maxBytes=rotate_at_bytes, backupCount=files_kept, encoding="utf-8"
        )
        os.chmod(path, FILE_MODE)
        self._handler.namer = lambda name: f"{name}.gz"
        self._handler.rotator = _pack
        if cut:
            self._write("")

    def append(self, sequence: int, row: Mapping[str, object]) -> None:
        """Writes one row of the chain; rows that are in the file already are left out."""
        if sequence > self.sequence:
            self._write(json.dumps(row, default=str, sort_keys=True))
            self.sequence = sequence

    def _write(self, line: str) -> None:
        # The handler only: no logger, no level, no other place where it could go.
        record = logging.LogRecord("audit", logging.INFO, "", 0, "%s", (line,), None)
        self._handler.handle(record)

    def close(self) -> None:
        self._handler.close()


def _pack(source: str, target: str) -> None:
    """The full file becomes a packed one; nothing is removed before it is written."""
    with (
        open(source, "rb") as plain,
        os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb") as packed,
    ):
        shutil.copyfileobj(plain, packed)
    os.remove(source)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read()


def _last_sequence(path: Path) -> int:
    """The number of the newest whole line; the packed file's if the plain one is empty."""
    packed = Path(f"{path}.1.gz")
    plain = _tail(path) if path.exists() else b""
    for lines in (plain, gzip.decompress(packed.read_bytes()) if packed.exists() else b""):
        for line in reversed(lines.splitlines()):
            try:
                return int(json.loads(line)["sequence"])
            except (ValueError, KeyError, TypeError):
                continue
    return 0
