"""A permit that was long on its way is looked at again before the send (C8, I9, H5)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from domain.facts import OrderAccepted, OrderNotSent
from ledger.repository import Ledger
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import ACCOUNT, kill

Between = Callable[[], Awaitable[Any]]


async def nothing() -> None:
    """Between the gate's answer and the look nothing comes."""


@dataclass
class SlowLedger:
    """The real ledger whose gate and looks take their time on a clock of the test."""

    lane: Lane
    monkeypatch: pytest.MonkeyPatch
    now_s: float = 0.0
    looks: int = 0

    def slow_down(self, *, look_s: float, between: Between = nothing) -> None:
        ledger = self.lane.ledger
        gate, look = ledger.open_gate, ledger.may_still_send

        async def open_gate(*given: Any, **named: Any) -> Any:
            answer = await gate(*given, **named)
            await between()
            self.now_s += 0.4
            return answer

        async def may_still_send(*given: Any, **named: Any) -> bool:
            self.looks += 1
            self.now_s += look_s
            return await look(*given, **named)

        self.monkeypatch.setattr(ledger, "open_gate", open_gate)
        self.monkeypatch.setattr(ledger, "may_still_send", may_still_send)
        self.lane.services = replace(self.lane.services, monotonic=lambda: self.now_s)


@pytest.fixture
async def slow(armed: Ledger, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlowLedger]:
    async with order_lane(armed) as lane:
        await lane.open_trade()
        yield SlowLedger(lane, monkeypatch)


async def test_entry_goes_out_behind_a_slow_gate_once_a_quick_look_agrees(
    slow: SlowLedger,
) -> None:
    slow.slow_down(look_s=0.05)
    facts = await slow.lane.place(order(sequence=2, quantity="1"))
    assert isinstance(facts[0], OrderAccepted)
    assert slow.looks == 1


@pytest.mark.covers("K5")
async def test_kill_that_came_while_the_permit_was_on_its_way_stops_the_entry(
    slow: SlowLedger,
) -> None:
    async def killed() -> None:
        await slow.lane.ledger.engage_kill(ACCOUNT, kill())

    slow.slow_down(look_s=0.05, between=killed)
    before = slow.lane.requests()
    (fact,) = await slow.lane.place(order(sequence=2, quantity="1"))
    assert isinstance(fact, OrderNotSent)
    assert (fact.code, slow.lane.requests() - before) == ("STALE_GATE", 0)


@pytest.mark.covers("C8")
async def test_resolver_that_took_the_row_over_stops_the_attempt(slow: SlowLedger) -> None:
    intent = order(sequence=2, quantity="1")

    async def claimed() -> None:
        await slow.lane.ledger.claim_intent(intent.client_id, "resolver")

    slow.slow_down(look_s=0.05, between=claimed)
    before = slow.lane.requests()
    await slow.lane.place(intent)
    assert slow.lane.requests() == before


async def test_entry_stays_in_when_every_look_is_slow_too(slow: SlowLedger) -> None:
    slow.slow_down(look_s=0.3)
    (fact,) = await slow.lane.place(order(sequence=2, quantity="1"))
    assert isinstance(fact, OrderNotSent)
    assert (fact.code, slow.looks) == ("STALE_GATE", 5)
