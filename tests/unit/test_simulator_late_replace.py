"""A replacement that takes the venue a while: what fills meanwhile counts (faults.md D2, D3)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from simulator.config import MatchingConfig, ReplaceQuantity
from simulator.orders import ReplaceRequest, Status
from simulator.state import Notice
from tests.unit.simulator_rig import advance_s, exchange, oco, order, quote

D = Decimal


@pytest.mark.covers("D2", "D3")
@pytest.mark.parametrize(
    ("meaning", "remaining"),
    [(ReplaceQuantity.TOTAL, 60), (ReplaceQuantity.REST, 60), (ReplaceQuantity.FRESH, 100)],
)
def test_fills_during_a_slow_replace_count_as_the_venue_counts(
    meaning: ReplaceQuantity, remaining: int
) -> None:
    """Found by the simulation: a part fill during the latency bought the whole quantity again."""
    slow = MatchingConfig(replace_latency_s=D("0.3"), replace_quantity=meaning)
    venue = exchange(matching=slow)
    quote(venue, "99.00", "101.00")
    old = venue.submit(order("buy", 100, limit="100.00"))
    new = venue.replace(old.id, ReplaceRequest(limit_price=D("100.25")))
    venue.set_quote("ESX", D("99.00"), D("100.00"), D(40), D(40))
    venue.set_quote("ESX", D("99.00"), D("101.00"))
    advance_s(venue, 1)
    assert old.filled == 40
    assert (old.status, new.remaining) == (Status.REPLACED, D(remaining))


def test_replacement_that_meanwhile_has_nothing_left_is_rejected() -> None:
    venue = exchange(matching=MatchingConfig(replace_latency_s=D("0.3")))
    quote(venue, "99.00", "101.00")
    old = venue.submit(order("buy", 100, limit="100.00"))
    new = venue.replace(old.id, ReplaceRequest(quantity=D(40)))
    venue.set_quote("ESX", D("99.00"), D("100.00"), D(40), D(40))
    venue.set_quote("ESX", D("99.00"), D("101.00"))
    advance_s(venue, 1)
    assert (old.status, old.remaining) == (Status.PARTIALLY_FILLED, D(60))
    assert new.status is Status.REJECTED


@pytest.mark.parametrize("filled_first", [True, False])
def test_replacement_cancelled_before_it_took_over_never_works(filled_first: bool) -> None:
    """Found by the simulation: the cancelled order came back and worked for ever."""
    venue = exchange(matching=MatchingConfig(replace_latency_s=D("0.3")))
    quote(venue, "99.00", "101.00")
    old = venue.submit(order("buy", 100, limit="100.00"))
    new = venue.replace(old.id, ReplaceRequest(limit_price=D("100.25")))
    if filled_first:
        quote(venue, "99.00", "100.00")
    venue.cancel(new.id)
    advance_s(venue, 1)
    assert new.status is Status.CANCELED
    assert old.status is (Status.FILLED if filled_first else Status.NEW)
    assert new not in venue.open_orders


def test_first_frame_of_a_pair_shows_its_partner_held() -> None:
    """A frame that showed the stop as pending was newer than the answer that showed it held."""
    venue = exchange()
    quote(venue, "99.00", "99.25")
    venue.submit(order("buy", 10))
    shown: list[str] = []

    def see(notice: Notice) -> None:
        group = notice.order.group
        assert group is not None
        assert group.stop_loss is not None
        shown.append(group.stop_loss.status)

    venue.subscribe(see)
    venue.submit(oco(10, "105.00", "95.00"))
    assert shown == [Status.HELD]


@pytest.mark.covers("D2", "D3")
@pytest.mark.parametrize("meaning", list(ReplaceQuantity))
def test_pair_does_not_grow_when_its_target_fills_during_a_slow_replace_of_its_stop(
    meaning: ReplaceQuantity,
) -> None:
    """I2, I4: the new stop was for all four again, and the target grew with it to six."""
    venue = exchange(matching=MatchingConfig(replace_latency_s=D("0.3"), replace_quantity=meaning))
    quote(venue, "99.00", "99.25")
    venue.submit(order("buy", 4))
    target = venue.submit(oco(4, "105.00", "95.00"))
    assert target.group is not None
    stop = target.group.stop_loss
    assert stop is not None
    new = venue.replace(stop.id, ReplaceRequest(stop_price=D("96.00")))
    quote(venue, "105.00", "105.25", size=2)
    assert (target.filled, target.remaining, stop.remaining) == (D(2), D(2), D(2))
    advance_s(venue, 1)
    assert (stop.status, target.group.stop_loss) == (Status.REPLACED, new)
    assert (target.quantity, target.remaining, new.remaining) == (D(4), D(2), D(2))


def test_smaller_stop_that_its_target_has_filled_meanwhile_is_rejected() -> None:
    venue = exchange(matching=MatchingConfig(replace_latency_s=D("0.3")))
    quote(venue, "99.00", "99.25")
    venue.submit(order("buy", 4))
    target = venue.submit(oco(4, "105.00", "95.00"))
    assert target.group is not None
    stop = target.group.stop_loss
    assert stop is not None
    new = venue.replace(stop.id, ReplaceRequest(quantity=D(2)))
    quote(venue, "105.00", "105.25", size=2)
    advance_s(venue, 1)
    assert new.status is Status.REJECTED
    assert (stop.remaining, target.remaining) == (D(2), D(2))
