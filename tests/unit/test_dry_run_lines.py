"""What --dry-run prints for people can be read by programs too: an order's body is JSON."""

from __future__ import annotations

import json

import pytest

from cli.dry_run import Rehearsal, show_rehearsal
from cli.rehearsal import RehearsedOrder
from tests.ledger.samples import NOW, intent


def test_order_line_of_a_dry_run_ends_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    sent = intent()
    order = RehearsedOrder(
        client_id=sent.client_id, purpose="entry", why="first rung", body=sent.body
    )
    rehearsal = Rehearsal(trade_id="trade-1", approved=True, orders=(order,), at=NOW)
    show_rehearsal(rehearsal, as_json=False)
    (line,) = [row for row in capsys.readouterr().out.splitlines() if sent.client_id in row]
    body = json.loads(line.removeprefix(f"{sent.client_id} first rung: "))
    assert (body["symbol"], body["limit_price"]) == ("AAPL", "100.25")
