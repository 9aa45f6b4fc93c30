"""Bracket, OCO, OTO: who sleeps, who wakes, who dies with whom (alpaca.md §2, §3)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from simulator.config import MatchingConfig, ReplaceQuantity
from simulator.orders import ReplaceRequest, SimOrder, Status
from simulator.refusals import Reason, Refusal
from tests.unit.simulator_rig import SYMBOL, bracket, exchange, hold, oco, order, quote

D = Decimal


def legs_of(parent: SimOrder) -> tuple[SimOrder, SimOrder]:
    assert parent.group is not None
    target, stop = parent.group.take_profit, parent.group.stop_loss
    assert target is not None
    assert stop is not None
    return target, stop


def test_bracket_children_sleep_until_the_entry_is_filled_completely() -> None:
    venue = exchange()
    quote(venue, "100.00", "100.25", size=6)
    entry = venue.submit(bracket(10, "100.25", "105.00", "95.00"))
    target, stop = legs_of(entry)
    assert entry.filled == 6
    assert (target.status, stop.status) == (Status.HELD, Status.HELD)
    quote(venue, "94.00", "100.50", size=6)
    assert stop.status is Status.HELD, "a sleeping stop does not trigger"
    quote(venue, "100.00", "100.25", size=6)
    assert entry.status is Status.FILLED
    assert (target.status, stop.status) == (Status.NEW, Status.HELD)


def test_cancelling_a_part_filled_entry_takes_its_children_with_it() -> None:
    venue = exchange()
    quote(venue, "100.00", "100.25", size=6)
    entry = venue.submit(bracket(10, "100.25", "105.00", "95.00"))
    venue.cancel(entry.id)
    assert entry.group is not None
    assert [member.status for member in entry.group.members] == [Status.CANCELED] * 3
    assert venue.state.account.quantity(SYMBOL) == 6


def test_partly_filled_target_shrinks_the_stop() -> None:
    venue = exchange()
    hold(venue, 10)
    target = venue.submit(oco(10, "105.00", "95.00"))
    stop = legs_of(target)[1]
    quote(venue, "105.00", "105.25", size=4)
    assert (target.filled, stop.remaining) == (D(4), D(6))
    quote(venue, "105.00", "105.25", size=100)
    assert (target.status, stop.status) == (Status.FILLED, Status.CANCELED)


def test_triggered_stop_cancels_the_target_first() -> None:
    venue = exchange()
    hold(venue, 10)
    target = venue.submit(oco(10, "105.00", "95.00"))
    stop = legs_of(target)[1]
    quote(venue, "94.50", "94.75", size=3)
    assert (target.status, stop.filled) == (Status.CANCELED, D(3))
    quote(venue, "94.25", "94.50", size=100)
    assert stop.status is Status.FILLED
    assert venue.holdings() == []


def test_cancelling_one_member_of_a_pair_cancels_the_other() -> None:
    venue = exchange()
    hold(venue, 10)
    target = venue.submit(oco(10, "105.00", "95.00"))
    venue.cancel(legs_of(target)[1].id)
    assert target.status is Status.CANCELED


def test_stop_that_outlived_its_replace_is_cancelled_by_itself() -> None:
    """D1: it has left the pair; asking for its cancel took the pair down and left it at work."""
    venue = exchange()
    hold(venue, 10)
    target = venue.submit(oco(10, "105.00", "95.00"))
    old = legs_of(target)[1]
    venue.state.faults.add({"kind": "replace_doubles"})
    new = venue.replace(old.id, ReplaceRequest(stop_price=D("96.00")))
    venue.cancel(old.id)
    assert (old.status, target.is_done, new.is_done) == (Status.CANCELED, False, False)


def test_oto_wakes_its_only_exit() -> None:
    venue = exchange()
    entry = venue.submit(order("buy", 10, "100.25", stop_loss="95.00", order_class="oto"))
    assert entry.group is not None
    stop = entry.group.stop_loss
    assert stop is not None
    assert (entry.status, stop.status) == (Status.FILLED, Status.NEW)


def test_ratchet_replaces_the_stop_leg_inside_its_pair() -> None:
    venue = exchange()
    hold(venue, 10)
    target = venue.submit(oco(10, "105.00", "95.00"))
    old = legs_of(target)[1]
    new = venue.replace(old.id, ReplaceRequest(stop_price=D("99.00"), client_id="ratchet-1"))
    assert (old.status, old.replaced_by, new.replaces) == (Status.REPLACED, new.id, old.id)
    assert (new.status, new.client_id) == (Status.HELD, "ratchet-1")
    quote(venue, "98.75", "99.00")
    assert (new.status, target.status) == (Status.FILLED, Status.CANCELED)
    assert venue.holdings() == []


def test_exits_reserve_the_position() -> None:
    venue = exchange()
    hold(venue, 10)
    venue.submit(oco(6, "105.00", "95.00"))
    assert venue.available(SYMBOL) == 4
    with pytest.raises(Refusal) as refused:
        venue.submit(order("sell", 5, stop="95.00"))
    assert refused.value.reason is Reason.QUANTITY_HELD
    assert refused.value.extra["available"] == 4
    assert refused.value.extra["held_for_orders"] == 6


def test_pair_without_a_position_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        exchange().submit(oco(10, "105.00", "95.00"))
    assert refused.value.reason is Reason.QUANTITY_HELD


def test_replace_is_refused_before_the_order_is_live() -> None:
    venue = exchange(matching=MatchingConfig(accept_latency_s=D(1)))
    placed = venue.submit(order("buy", 10, "99.00"))
    with pytest.raises(Refusal) as refused:
        venue.replace(placed.id, ReplaceRequest(limit_price=D("99.25")))
    assert refused.value.text == "cannot replace order in pending_new status"


def test_replace_without_a_change_or_of_a_replaced_order_is_refused() -> None:
    venue = exchange()
    placed = venue.submit(order("buy", 10, "99.00"))
    with pytest.raises(Refusal, match="not changed"):
        venue.replace(placed.id, ReplaceRequest(limit_price=D("99.00")))
    venue.replace(placed.id, ReplaceRequest(limit_price=D("99.25")))
    with pytest.raises(Refusal, match="already replaced"):
        venue.replace(placed.id, ReplaceRequest(limit_price=D("99.50")))


@pytest.mark.parametrize(
    ("meaning", "shown", "can_still_fill"),
    [
        (ReplaceQuantity.TOTAL, (D(10), D(4)), 6),
        (ReplaceQuantity.REST, (D(6), D(0)), 6),
        (ReplaceQuantity.FRESH, (D(10), D(0)), 10),
    ],
)
def test_replace_of_a_part_filled_order_means_what_the_venue_says(
    meaning: ReplaceQuantity, shown: tuple[Decimal, Decimal], can_still_fill: int
) -> None:
    """D2: total or remaining."""
    venue = exchange(matching=MatchingConfig(replace_quantity=meaning))
    quote(venue, "100.00", "100.25", size=4)
    old = venue.submit(order("buy", 10, "100.25"))
    quote(venue, "101.00", "101.25")
    new = venue.replace(old.id, ReplaceRequest(limit_price=D("100.50")))
    assert (new.quantity, new.filled) == shown
    quote(venue, "100.25", "100.50")
    assert venue.state.account.quantity(SYMBOL) == 4 + can_still_fill
    with pytest.raises(Refusal):
        venue.replace(new.id, ReplaceRequest(quantity=D(20)))


def test_replacing_a_bracket_entry_keeps_its_children() -> None:
    venue = exchange()
    entry = venue.submit(bracket(10, "99.00", "105.00", "95.00"))
    target, stop = legs_of(entry)
    new = venue.replace(entry.id, ReplaceRequest(limit_price=D("100.25"), quantity=D(8)))
    assert new.status is Status.FILLED
    assert (target.status, target.quantity, stop.quantity) == (Status.NEW, D(8), D(8))
