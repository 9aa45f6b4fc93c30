"""The audit's copy on disk: nothing twice, nothing left out, packed when full (requirement 120)."""

from __future__ import annotations

import gzip
import json
import stat
from pathlib import Path

from activities.audit_export import AuditExport
from ledger.repository import Ledger
from observability.audit_file import ROTATE_AT_BYTES, AuditFile


def sequences(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text().splitlines() if line]


def packed(path: Path) -> list[int]:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return [json.loads(line)["sequence"] for line in lines if line]


async def test_rows_are_copied_once_across_restarts(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "audit.jsonl"
    for number in range(3):
        await ledger.append_audit("alice", "test", f"s-{number}", {"text": 'a\n"b"'})
    file = AuditFile(path)
    assert await AuditExport(ledger, file).copy() == 3
    assert await AuditExport(ledger, file).copy() == 0
    file.close()

    await ledger.append_audit("bob", "test", "s-3", {})
    again = AuditFile(path)
    assert await AuditExport(ledger, again).copy() == 1
    again.close()
    rows = await ledger.list_audit()
    assert sequences(path) == [row.sequence for row in rows]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    last = json.loads(path.read_text().splitlines()[-1])
    assert (last["actor"], last["hash"]) == ("bob", rows[-1].hash)


def test_line_that_a_crash_cut_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path)
    file.append(1, {"sequence": 1})
    file.close()
    with path.open("a") as torn:
        torn.write('{"sequence": 2, "act')
    again = AuditFile(path)
    assert again.sequence == 1
    again.append(2, {"sequence": 2})
    again.close()
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"sequence": 1}
    assert json.loads(lines[-1]) == {"sequence": 2}
    third = AuditFile(path)
    third.close()
    assert third.sequence == 2


def test_full_file_is_packed_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, rotate_at_bytes=200, files_kept=2)
    for number in range(1, 31):
        file.append(number, {"sequence": number, "text": "x" * 20})
    file.close()
    names = sorted(each.name for each in tmp_path.iterdir())
    assert names == ["audit.jsonl", "audit.jsonl.1.gz", "audit.jsonl.2.gz"]
    kept = packed(tmp_path / "audit.jsonl.2.gz") + packed(tmp_path / "audit.jsonl.1.gz")
    kept += sequences(path)
    assert kept == list(range(kept[0], 31)), "no gap where files meet"
    assert stat.S_IMODE((tmp_path / "audit.jsonl.1.gz").stat().st_mode) == 0o600
    assert ROTATE_AT_BYTES == 50 * 1024 * 1024


def test_restart_right_after_a_rotation_goes_on_after_the_packed_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path)
    file.append(7, {"sequence": 7})
    file.close()
    (tmp_path / "audit.jsonl.1.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.write_text("")
    again = AuditFile(path)
    assert again.sequence == 7
    again.close()
