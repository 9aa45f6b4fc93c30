"""Two `up` on one data directory: one owner, and the other is told so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cli.context import Target, demo_config
from cli.stack import LEDGER_FOLDER, set_aside_simulation
from deploy.local.control import start_detached
from deploy.local.supervisor import StackFailed, lock


def target_with_data(data_dir: Path) -> Target:
    (data_dir / LEDGER_FOLDER).mkdir(parents=True)
    return Target(demo_config(), data_dir)


def test_data_of_a_supervisor_that_is_starting_stays_where_it_is(tmp_path: Path) -> None:
    target = target_with_data(tmp_path / "data")
    with lock(target.data_dir), pytest.raises(StackFailed) as raised:
        set_aside_simulation(target, target.settings())
    assert raised.value.code == "ALREADY_RUNNING"
    assert (target.data_dir / LEDGER_FOLDER).exists()


def test_data_that_nobody_owns_is_moved_once(tmp_path: Path) -> None:
    target = target_with_data(tmp_path / "data")
    aside = set_aside_simulation(target, target.settings())
    assert aside is not None
    assert (aside / LEDGER_FOLDER).exists()
    assert set_aside_simulation(target, target.settings()) is None


@pytest.mark.parametrize(
    ("says", "code", "told"),
    [
        ("", "STACK_FAILED", "up ended with exit code 3:\nit wrote nothing to "),
        ("ALREADY_RUNNING by another", "ALREADY_RUNNING", "ALREADY_RUNNING by another"),
        ("no room", "STACK_FAILED", "up ended with exit code 3:\nno room"),
    ],
)
def test_detached_start_that_ends_says_why(tmp_path: Path, says: str, code: str, told: str) -> None:
    program = f"import sys; sys.stderr.write({says!r}); sys.exit(3)"
    with pytest.raises(StackFailed) as raised:
        start_detached([sys.executable, "-c", program], tmp_path)
    assert raised.value.code == code
    assert raised.value.text.startswith(told)
