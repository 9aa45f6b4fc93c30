"""Ctrl-C ends a command with one line, also while its libraries are still being imported."""

from __future__ import annotations

import signal
import subprocess
import sys

from observability.build import repository_root


def test_interrupt_during_the_imports_is_one_line_and_130() -> None:
    command = [sys.executable, "-X", "importtime", "starter.py", "status"]
    with subprocess.Popen(
        command, cwd=repository_root(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        # The interpreter names every import as it ends: the handler stands before this one.
        assert any("typer" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest = [line for line in process.stderr if not line.startswith("import time:")]
    assert (process.returncode, rest) == (130, ["interrupted\n"])
