"""Cash, fees, combos, sessions and the journal add up (I5; architecture §9)."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from simulator.clock import SimClock
from simulator.config import (
    BookConfig,
    CalendarConfig,
    ExchangeConfig,
    FeeSchedule,
    Listing,
    MatchingConfig,
)
from simulator.exchange import Exchange
from simulator.journal import Journal
from simulator.orders import ReplaceRequest, Status
from simulator.refusals import Refusal
from simulator.tape import TapeError, TapeEvent, TapeKind, read_tape, write_tape
from tests.unit.simulator_rig import (
    ALWAYS,
    CALL_600,
    CALL_610,
    PUT_490,
    PUT_500,
    START,
    SYMBOL,
    advance_s,
    bracket,
    combo,
    equity,
    exchange,
    hold,
    oco,
    order,
    quote,
)

D = Decimal


ORDER_FAULTS = (
    "late_reject",
    "partial_fill",
    "late_fill",
    "cancel_lost",
    "replace_doubles",
    "oco_both",
    "halt",
)


def random_script(seed: int, faults: tuple[str, ...] = ()) -> Exchange:
    """A seeded mess of orders, cancels and replaces on a generated book."""
    dice = random.Random(seed)
    listing = equity(fees=FeeSchedule(per_unit=D("0.0125"), minimum=D("0.35")))
    venue = Exchange(
        ExchangeConfig(
            listings=(listing,),
            calendar=ALWAYS,
            generated=(BookConfig(SYMBOL, D(100), size_max=60),),
            start=START,
            seed=seed,
        )
    )
    for kind in faults:
        rule = {"kind": kind, "match": {"probability": 0.3, "count": None}}
        venue.state.faults.add({**rule, "params": {"duration_s": 2}})
    advance_s(venue, 1)
    for _ in range(120):
        advance_s(venue, dice.choice((0.5, 1, 3)))
        last = venue.book(SYMBOL).last or D(100)
        size = dice.randint(1, 40)
        up, down = str(last + 2), str(last - 2)
        wish = dice.choice(
            (
                order("buy", size),
                order("buy", size, str(last)),
                order("sell", size, str(last)),
                order("sell", size, stop=down),
                bracket(size, str(last), up, down),
                oco(size, up, down),
            )
        )
        try:
            venue.submit(wish)
            open_orders = venue.open_orders
            if open_orders and dice.random() < 0.4:
                venue.cancel(dice.choice(open_orders).id)
            elif open_orders and dice.random() < 0.4:
                venue.replace(dice.choice(open_orders).id, ReplaceRequest(limit_price=last))
        except Refusal:
            continue
    return venue


@pytest.mark.parametrize("faults", [(), ORDER_FAULTS])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cash_and_positions_equal_the_journal_after_a_random_day(
    seed: int, faults: tuple[str, ...]
) -> None:
    """I2, I5: the change of cash is the sum of fills and fees, the position the sum of fills."""
    venue = random_script(seed, faults)
    assert len(venue.state.faults.fired) >= min(4, len(faults)), "the faults really struck"
    cash = D(100_000)
    positions: dict[str, Decimal] = defaultdict(Decimal)
    executions = set()
    for row in venue.journal.of("fill"):
        signed = D(row["quantity"]) * (1 if row["side"] == "buy" else -1)
        cash -= signed * D(row["price"])
        positions[row["symbol"]] += signed
        executions.add(row["execution_id"])
    cash -= sum((D(row["amount"]) for row in venue.journal.of("fee")), D(0))
    assert len(executions) == len(venue.journal.of("fill")) > 20
    assert venue.state.account.cash == cash
    assert venue.state.account.quantity(SYMBOL) == positions[SYMBOL]
    for placed in venue.state.orders.values():
        rows = [r for r in venue.journal.of("fill") if r["order_id"] == placed.id]
        assert sum((D(r["quantity"]) for r in rows), D(0)) <= placed.filled <= placed.quantity


def test_same_script_gives_the_same_journal() -> None:
    first, second, other = random_script(5), random_script(5), random_script(6)
    assert first.journal.rows == second.journal.rows
    assert first.journal.rows != other.journal.rows


def test_fee_is_booked_per_execution_to_the_cent() -> None:
    fees = FeeSchedule(per_unit=D("0.005"), rate=D("0.0001"), minimum=D("0.10"))
    venue = exchange(listings=(equity(fees=fees),))
    venue.submit(order("buy", 30))
    venue.submit(order("buy", 1))
    amounts = [row["amount"] for row in venue.journal.of("fee")]
    assert amounts == ["0.45", "0.1"]
    assert venue.state.account.cash == D(100_000) - 31 * D("100.25") - D("0.55")
    kinds = [row.kind for row in venue.state.account.activities]
    assert kinds == ["FILL", "FEE", "FILL", "FEE"]


def test_two_leg_combo_fills_whole_units_and_keeps_the_rest() -> None:
    venue = exchange()
    quote(venue, "12.00", "12.20", size=3, symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", size=7, symbol=CALL_610.symbol)
    request = combo(
        5, "4.20", (CALL_600, "buy", 1, "buy_to_open"), (CALL_610, "sell", 2, "sell_to_open")
    )
    with pytest.raises(Refusal):
        venue.submit(request)
    spread = venue.submit(
        combo(5, "4.20", (CALL_600, "buy", 1, "buy_to_open"), (CALL_610, "sell", 1, "sell_to_open"))
    )
    assert (spread.status, spread.filled, spread.average_price) == (
        Status.PARTIALLY_FILLED,
        D(3),
        D("4.20"),
    )
    assert [leg.filled for leg in spread.legs] == [D(3), D(3)]
    assert venue.state.account.cash == D(100_000) - 3 * 420
    venue.cancel(spread.id)
    assert [leg.status for leg in spread.legs] == [Status.CANCELED] * 2


def test_four_leg_credit_combo_reserves_its_largest_loss_and_closes_flat() -> None:
    venue = exchange(cash=D(5_000), multiplier=D(1))
    for listing, bid, ask in (
        (CALL_600, "5.00", "5.10"),
        (CALL_610, "3.00", "3.10"),
        (PUT_500, "4.00", "4.10"),
        (PUT_490, "2.50", "2.60"),
    ):
        quote(venue, bid, ask, symbol=listing.symbol)
    opening = (
        (CALL_600, "sell", 1, "sell_to_open"),
        (CALL_610, "buy", 1, "buy_to_open"),
        (PUT_500, "sell", 1, "sell_to_open"),
        (PUT_490, "buy", 1, "buy_to_open"),
    )
    condor = venue.submit(combo(2, "-3.20", *opening))
    assert condor.status is Status.FILLED
    assert venue.state.account.cash == D(5_000) + 660
    assert venue.margin.options_buying_power() == D(5_000) + 660 - 2 * 1000
    closing = tuple(
        (listing, "buy" if side == "sell" else "sell", 1, intent.replace("open", "close"))
        for listing, side, _, intent in opening
        for intent in [f"{'buy' if side == 'sell' else 'sell'}_to_close"]
    )
    unwound = venue.submit(combo(2, None, *closing))
    assert unwound.status is Status.FILLED
    assert venue.holdings() == []


def test_combo_waits_until_its_net_price_is_there() -> None:
    venue = exchange()
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", symbol=CALL_610.symbol)
    legs = ((CALL_600, "buy", 1, "buy_to_open"), (CALL_610, "sell", 1, "sell_to_open"))
    spread = venue.submit(combo(1, "4.00", *legs))
    assert spread.filled == 0
    new = venue.replace(spread.id, ReplaceRequest(limit_price=D("4.20")))
    assert new.status is Status.FILLED
    assert new.legs[0].id != spread.legs[0].id


def test_leg_that_traded_alone_is_not_filled_again_while_the_other_is_late() -> None:
    """GT7: the market does not take the combo whole any more."""
    venue = exchange()
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", symbol=CALL_610.symbol)
    legs = ((CALL_600, "buy", 1, "buy_to_open"), (CALL_610, "sell", 1, "sell_to_open"))
    spread = venue.submit(combo(2, "4.00", *legs))
    venue.lifecycle.fill_leg(spread.legs[0], D(2), D("12.00"))
    quote(venue, "11.90", "12.00", symbol=CALL_600.symbol)
    assert venue.state.account.quantity(CALL_600.symbol) == 2
    venue.lifecycle.fill_leg(spread.legs[1], D(2), D("8.00"))
    assert spread.status is Status.FILLED
    assert venue.state.account.quantity(CALL_610.symbol) == -2


@pytest.mark.parametrize("latency_s", ["0", "1"])
def test_combo_is_not_replaced_while_a_leg_is_ahead(latency_s: str) -> None:
    """GT7, D2: the new order would buy the leg a second time."""
    venue = exchange(matching=MatchingConfig(replace_latency_s=D(latency_s)))
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", symbol=CALL_610.symbol)
    legs = ((CALL_600, "buy", 1, "buy_to_open"), (CALL_610, "sell", 1, "sell_to_open"))
    spread = venue.submit(combo(2, "4.00", *legs))
    if latency_s == "0":
        venue.lifecycle.fill_leg(spread.legs[0], D(2), D("12.00"))
        with pytest.raises(Refusal, match="a leg of the order is being executed"):
            venue.replace(spread.id, ReplaceRequest(limit_price=D("4.20")))
    else:
        venue.replace(spread.id, ReplaceRequest(limit_price=D("4.20")))
        venue.lifecycle.fill_leg(spread.legs[0], D(2), D("12.00"))
        advance_s(venue, 2)
    assert venue.state.account.quantity(CALL_600.symbol) == 2
    venue.lifecycle.fill_leg(spread.legs[1], D(2), D("8.00"))
    assert spread.status is Status.FILLED
    assert venue.open_orders == []


NEW_YORK = CalendarConfig(holidays=(datetime(2026, 3, 5, tzinfo=UTC).date(),))


def test_day_orders_expire_at_the_close_and_gtc_orders_live_on() -> None:
    venue = exchange(calendar=NEW_YORK)
    day = venue.submit(order("buy", 1, "99.00"))
    gtc = venue.submit(order("buy", 1, "98.00", tif="gtc"))
    venue.advance_to(datetime(2026, 3, 4, 21, 0, tzinfo=UTC))
    assert not venue.state.is_open()
    assert (day.status, gtc.status) == (Status.EXPIRED, Status.NEW)


def test_order_after_the_close_waits_for_the_next_session_over_a_holiday() -> None:
    venue = exchange(calendar=NEW_YORK)
    venue.advance_to(datetime(2026, 3, 4, 22, 0, tzinfo=UTC))
    placed = venue.submit(order("buy", 1, "101.00"))
    assert placed.status.value == "accepted"
    assert venue.state.calendar.next_open(venue.now) == datetime(2026, 3, 6, 14, 30, tzinfo=UTC)
    venue.advance_to(datetime(2026, 3, 6, 14, 30, tzinfo=UTC))
    assert placed.filled == 0, "yesterday's quote gives no fill"
    quote(venue, "100.00", "100.25")
    assert placed.status is Status.FILLED


def test_half_day_and_summer_time_move_the_close() -> None:
    config = CalendarConfig(half_days=(datetime(2026, 3, 4, tzinfo=UTC).date(),))
    calendar = exchange(calendar=config).state.calendar
    assert calendar.next_close(START) == datetime(2026, 3, 4, 18, 0, tzinfo=UTC)
    assert calendar.next_open(datetime(2026, 3, 8, tzinfo=UTC)) == datetime(
        2026, 3, 9, 13, 30, tzinfo=UTC
    )


def test_stepped_clock_stands_and_a_running_one_is_linear() -> None:
    wall_s = [10.0]
    running = SimClock(START, D(20), wall_s=lambda: wall_s[0])
    stepped = SimClock(START)
    wall_s[0] += 3
    assert running.now() - START == timedelta(seconds=60)
    assert stepped.now() == START
    stepped.step_to(START + timedelta(seconds=5))
    with pytest.raises(ValueError, match="not before"):
        stepped.step_to(START)


def test_tape_file_round_trips_and_bad_rows_name_their_line(tmp_path: Path) -> None:
    events = [
        TapeEvent(START, "A", TapeKind.QUOTE, bid=D("1.10"), bid_size=D(3)),
        TapeEvent(START, "B", TapeKind.TRADE, price=D("2"), size=D(1)),
        TapeEvent(START, "A", TapeKind.BAR, open=D(1), high=D(3), low=D(1), close=D(2)),
    ]
    for name in ("tape.csv", "tape.csv.gz"):
        path = tmp_path / name
        assert write_tape(path, events) == 3
        assert list(read_tape(path)) == events
    path = tmp_path / "bad.csv"
    for row in (
        "2026-03-04T15:00:00,A,trade,1,1",
        "2026-03-04T15:00:00Z,A,trade,NaN,1",
        "2026-03-04T15:00:00Z,A,trade,,1",
        "2026-03-04T15:00:00Z,A,sale,1,1",
        "2026-03-04T15:00:00Z,,trade,1,1",
    ):
        path.write_text(f"time_utc,symbol,kind,price,size\n{row}\n", encoding="utf-8")
        with pytest.raises(TapeError, match="line 2"):
            list(read_tape(path))


def test_journal_file_has_every_row_as_it_happens(tmp_path: Path) -> None:
    path = tmp_path / "journal.ndjson"
    venue = Exchange(ExchangeConfig(listings=(equity(),), calendar=ALWAYS), journal=Journal(path))
    quote(venue, "100.00", "100.25")
    hold(venue, 5)
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert written == venue.journal.rows
    assert [row["seq"] for row in written] == list(range(1, len(written) + 1))
    venue.journal.close()


def test_config_file_is_read_exactly_and_unknown_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "exchange.json"
    raw = {
        "listings": [{"symbol": "ESX", "tick_size": "0.25", "fees": {"per_unit": "0.01"}}],
        "calendar": {
            "zone": "America/Chicago",
            "sessions": [
                {
                    "day": "2013-09-03",
                    "open": "2013-09-03T13:30:00Z",
                    "close": "2013-09-03T18:51:00Z",
                }
            ],
        },
        "cash": 50000.10,
        "start": "2013-09-03T08:30:00-05:00",
    }
    path.write_text(json.dumps(raw), encoding="utf-8")
    config = ExchangeConfig.from_json(path)
    assert config.cash == D("50000.1")
    assert config.start == datetime(2013, 9, 3, 13, 30, tzinfo=UTC)
    assert isinstance(config.listings[0], Listing)
    venue = Exchange(config)
    assert venue.state.is_open()
    venue.advance_to(datetime(2013, 9, 3, 18, 51, tzinfo=UTC))
    assert not venue.state.is_open()
    assert venue.state.calendar.next_open(venue.now) is None
    path.write_text(json.dumps({**raw, "surprise": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match="surprise"):
        ExchangeConfig.from_json(path)
