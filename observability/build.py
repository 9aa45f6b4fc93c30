"""The build id: which code decides about a trade (architecture §4, Versions)."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

DEPLOYMENT_NAME = "holdfast"
DECIDING_FOLDERS = ("domain", "workflows")
LOCK_FILE = "requirements.lock"
BUILD_ID_LENGTH = 16


def repository_root() -> Path:
    return Path(__file__).resolve().parent.parent


def build_id(root: Path | None = None) -> str:
    """First 16 hex characters of SHA-256 over `domain/`, `workflows/` and the lock file.

    Only what decides counts: a changed adapter or text must not make open trades hand over.
    Paths are part of the hash and sorted, so two checkouts of one commit agree.
    """
    base = repository_root() if root is None else root
    files = [base / LOCK_FILE]
    for folder in DECIDING_FOLDERS:
        files.extend((base / folder).rglob("*.py"))
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda each: each.relative_to(base).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(base).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:BUILD_ID_LENGTH]


def commit(root: Path | None = None) -> str:
    """The checkout's commit with `-dirty` where files differ from it; empty outside of a checkout.

    For reports: a person wants to find the code again. What decides about trades is `build_id`.
    """
    base = repository_root() if root is None else root
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        told = subprocess.run(  # noqa: S603  fixed words, no shell
            asked, cwd=base, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()
