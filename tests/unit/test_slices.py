"""The sliced entry: exact sums, protection between slices, never more than approved (req. 177)."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.rehearsal import play
from domain import trade_state as ts
from domain.commands import PlaceOrder
from domain.control import KillMode
from domain.facts import (
    CloseRequested,
    FillReported,
    FlattenRequested,
    KillEngaged,
    OperatorCommand,
    OperatorVerb,
    OrderReported,
    TradingHalted,
    TradingResumed,
)
from domain.ids import Purpose
from domain.instrument import Instrument, InstrumentKind
from domain.order import OrderState, OrderType, Side, TimeInForce
from domain.plan import EntryStyle, SlicePlan, TargetPlan, TradePlan, WalkStart
from domain.plan_context import PlanContext
from domain.plan_rules import rule_faults
from domain.signal import PlanDraft, Signal, plan_of
from domain.slices import slice_sizes
from domain.story import story_of
from domain.trade_state import Stage
from tests.unit.test_restore import rebuilt
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan
from tests.unit.test_trade_properties import PRICES, Checked, mischief_of
from tests.unit.toy_broker import (
    ALPACA_LIKE,
    START,
    ToyBroker,
    ToyOrder,
    Trade,
    live_exit_quantity,
)

D = Decimal
SHARE = Instrument(symbol="AAPL")
WINDOW_S = 60


def sliced(plan: TradePlan | None = None, *, count: int = 5, tif: str = "day") -> TradePlan:
    """A plan over one minute, slices at the far side."""
    plan = plan or make_plan(targets=THREE, ratchet=RATCHET)
    walk = plan.walk.model_copy(update={"start": WalkStart.FAR, "time_in_force": TimeInForce(tif)})
    slices = SlicePlan(count=count, window_s=D(WINDOW_S))
    return plan.model_copy(update={"entry_style": EntryStyle.TWAP, "slices": slices, "walk": walk})


def start(
    plan: TradePlan | None = None, *, allows_opposite: bool = False, **kwargs: object
) -> tuple[Trade, ToyBroker]:
    broker = ToyBroker(symbol="AAPL", bid=D("99.75"), ask=D(100), allows_opposite=allows_opposite)
    capabilities = ALPACA_LIKE.model_copy(
        update={"opposite_side_while_entry_works": allows_opposite}
    )
    chosen = plan or sliced()
    values: dict[str, Any] = kwargs
    return Trade(chosen, broker, capabilities=capabilities, **values), broker


def slices_of(trade: Trade) -> list[Decimal]:
    return [
        c.intent.body.quantity
        for c in trade.commands
        if isinstance(c, PlaceOrder) and c.intent.increasing
    ]


def entries(broker: ToyBroker) -> list[ToyOrder]:
    return [o for o in broker.orders if o.live and o.intent is not None and o.intent.increasing]


# --- the sizes ------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    trade_id=st.text("abcdef0123456789-", min_size=1, max_size=20),
    lots=st.integers(1, 5000),
    count=st.integers(2, 100),
    lot=st.sampled_from(["1", "0.001", "100"]),
    least=st.sampled_from([1, 3]),
)
def test_slices_add_up_exactly_whatever_the_size(
    trade_id: str, lots: int, count: int, lot: str, least: int
) -> None:
    """Requirement 177: whole lots, at most one apart, never below the smallest size, sum exact."""
    instrument = Instrument(
        symbol="X", kind=InstrumentKind.CRYPTO, lot_size=D(lot), min_quantity=D(lot) * least
    )
    quantity = D(lot) * lots
    sizes = slice_sizes(trade_id, quantity, count, instrument)
    assert sum(sizes, D(0)) == quantity
    assert len(sizes) <= count
    assert all(size % D(lot) == 0 for size in sizes)
    assert max(sizes) - min(sizes) <= D(lot)
    if lots >= least:
        assert min(sizes) >= instrument.min_quantity
    if lots >= count * least:
        assert len(sizes) == count, "fewer slices only where a slice would be too small"


def test_remainder_goes_to_slices_drawn_from_the_trade_id() -> None:
    """The same in every process, spread like at random: not always the first slices."""
    assert slice_sizes("t-1", D(13), 5, SHARE) == slice_sizes("t-1", D(13), 5, SHARE)
    drawn = {
        index
        for number in range(40)
        for index, size in enumerate(slice_sizes(f"t-{number}", D(13), 5, SHARE))
        if size == 3
    }
    assert drawn == {0, 1, 2, 3, 4}
    assert slice_sizes("t-1", D(13), 5, SHARE) == (D(3), D(2), D(3), D(2), D(3))


def test_good_sliced_plan_is_taken_and_a_draft_carries_its_slices() -> None:
    built = sliced(make_plan())
    context = PlanContext(market_now=START, session_date=START.date())
    assert rule_faults(built, context) == ()
    assert TradePlan.model_validate_json(built.model_dump_json()) == built
    draft = PlanDraft(
        size=built.size, walk=built.walk, entry_style=EntryStyle.TWAP, slices=built.slices
    )
    signal = Signal(
        signal_id="s-1",
        session="s",
        strategy="test",
        symbol="AAPL",
        side=Side.BUY,
        bar_time=START,
        draft=draft,
    )
    assert plan_of(signal, SHARE, "paper").slices == built.slices


# --- the course -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tif", ["day", "ioc"])
def test_slices_fill_over_the_window_and_full_protection_follows(tif: str) -> None:
    trade, broker = start(sliced(tif=tif))
    held: list[Decimal] = []
    for _ in range(5):
        trade.pass_time(11)
        held.append(broker.position)
        if not ts.entry_is_dead(trade.state):
            assert live_exit_quantity(broker, Side.SELL) == broker.position, "between slices"
            assert not entries(broker)
        trade.pass_time(1)
    assert held == [2, 4, 6, 8, 10]
    assert trade.state.walk.ended == "filled"
    assert [o.rest for o in broker.orders if o.live and o.stop_price] == [3, 3, 4]
    assert ts.protection(trade.state) is ts.Protection.RESTING
    broker.move(D("94.00"), D("94.25"))
    trade.settle_down()
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED


def test_plan_with_one_target_swaps_the_bare_stop_for_the_pair() -> None:
    trade, broker = start(sliced(make_plan()))
    trade.pass_time(70)
    live = [(o.order_type, o.rest) for o in broker.orders if o.live]
    assert live == [(OrderType.LIMIT, D(10)), (OrderType.STOP, D(10))]


def test_second_slice_costs_three_order_requests_one_quote_and_one_read() -> None:
    """ADR 0016: the figures of one slice at a venue that refuses opposite sides."""
    trade, broker = start(sliced(tif="ioc"))
    kinds: list[str] = []
    while trade.now < START + timedelta(seconds=22):
        told = len(trade.commands)
        trade.deliver()
        trade.look()
        if trade.now > START + timedelta(seconds=11):
            kinds += [c.kind for c in trade.commands[told:]]
        broker.now += timedelta(milliseconds=50)
    assert kinds == ["read_quote", "read_broker", "cancel_order", "place_order", "place_order"]
    assert broker.position == live_exit_quantity(broker, Side.SELL) == 4


def test_rest_of_a_slice_is_carried_into_the_next_and_the_last_rest_is_not_bought() -> None:
    trade, broker = start()
    broker.size = D(1)
    trade.pass_time(11)
    assert broker.position == 1
    assert not entries(broker), "two seconds of work, then the rest is cancelled"
    trade.pass_time(12)
    assert slices_of(trade) == [2, 3]
    assert broker.position == 2
    trade.pass_time(60)
    assert broker.position == 5
    assert trade.state.walk.ended == "partial"
    assert slices_of(trade) == [2, 3, 4, 5, 6]
    assert live_exit_quantity(broker, Side.SELL) == 5


def test_slices_never_pay_more_than_the_worst_price() -> None:
    trade, broker = start()
    broker.move(D("101.90"), D("102.00"))
    trade.pass_time(80)
    prices = {o.limit_price for o in broker.orders}
    assert prices == {D(101)}
    assert ts.stage(trade.state) is Stage.NOT_FILLED
    assert trade.state.walk.ended == "time"


def test_price_is_the_plans_start_in_the_quote_of_its_slice() -> None:
    trade, broker = start()
    trade.pass_time(5)
    broker.move(D("100.25"), D("100.50"))
    trade.pass_time(10)
    prices = [
        c.intent.body.limit_price
        for c in trade.commands
        if isinstance(c, PlaceOrder) and c.intent.increasing
    ]
    assert prices == [D("100.00"), D("100.50")]


def test_venue_that_takes_both_sides_keeps_the_stop_while_slices_work() -> None:
    trade, broker = start(allows_opposite=True)
    trade.pass_time(5)
    broker.size = D(1)
    broker.bid, broker.ask = D(101), D("101.25")
    for _ in range(16):
        trade.pass_time(0.5)
        assert live_exit_quantity(broker, Side.SELL) == 2, "nothing bought: the stop stays"
    assert entries(broker), "a slice works beside the stop"
    broker.move(D("99.75"), D(100))
    trade.pass_time(3)
    assert live_exit_quantity(broker, Side.SELL) == broker.position == 3


def test_stop_follows_the_average_entry_only_upwards() -> None:
    """I8: what rests between two slices is never looser than before."""
    trade, broker = start()
    trade.pass_time(5)
    assert trade.state.stop_price == D(96)
    broker.move(D("100.75"), D(101))
    trade.pass_time(12)
    assert trade.state.stop_price == D("96.50")
    broker.move(D("98.75"), D(99))
    trade.pass_time(12)
    assert trade.state.stop_price == D("96.50")


@pytest.mark.parametrize("seed", range(5))
def test_position_is_bare_no_longer_than_a_slice_works(seed: int) -> None:
    """I4: two seconds at most, whatever the market does and however little a slice gets."""
    rng = random.Random(seed)
    trade, broker = start()
    broker.size = D(rng.choice([1, 2]))
    for _ in range(70):
        trade.pass_time(1)
        bid = D("99.75") + rng.choice([D(0), D("0.25"), D("1.25")])
        broker.move(bid, bid + D("0.25"))
    assert ts.entry_is_dead(trade.state)
    assert live_exit_quantity(broker, Side.SELL) == broker.position > 0
    assert 0 < trade.state.naked.longest_s <= 2


# --- what ends or stops it ------------------------------------------------------------------------


def test_stop_that_fills_between_slices_ends_the_entry() -> None:
    trade, broker = start()
    trade.pass_time(5)
    broker.move(D("95.75"), D(96))
    trade.pass_time(30)
    assert trade.state.walk.ended == "protection_filled"
    assert broker.position == 0
    assert slices_of(trade) == [2]
    assert ts.stage(trade.state) is Stage.CLOSED


def test_market_beyond_the_first_target_ends_the_entry_and_takes_it() -> None:
    trade, broker = start(worst=D(110))
    trade.pass_time(5)
    broker.move(D("102.50"), D("102.75"))
    trade.pass_time(12)
    assert trade.state.walk.ended == "invalidated"
    assert slices_of(trade) == [2]


def test_unknown_slice_stops_all_others_until_it_is_resolved() -> None:
    """Never two entries that together exceed the approved size (I15)."""
    lost = {"left": 1}

    def mischief(command: object) -> str:
        if isinstance(command, PlaceOrder) and command.intent.increasing and lost["left"]:
            lost["left"] -= 1
            return "lost"
        return ""

    trade, broker = start(mischief=mischief)
    trade.look()
    trade.look()
    assert trade.state.orders[0].state is OrderState.UNKNOWN
    broker.now += timedelta(seconds=0.5)
    trade.look()
    assert slices_of(trade) == [2], "asked after, no second one"
    trade.pass_time(70)
    assert broker.position == 10
    assert slices_of(trade) == [2, 2, 2, 2, 2]


def test_pause_keeps_the_stop_and_the_time_lost_is_carried() -> None:
    trade, broker = start()
    trade.pass_time(5)
    trade.tell(
        OperatorCommand(
            at=trade.now, command_id="p", by="ann", reason="look", verb=OperatorVerb.PAUSE
        )
    )
    trade.pass_time(25)
    assert live_exit_quantity(broker, Side.SELL) == broker.position == 2
    trade.tell(
        OperatorCommand(
            at=trade.now, command_id="r", by="ann", reason="go", verb=OperatorVerb.RESUME
        )
    )
    trade.pass_time(1)
    assert slices_of(trade) == [2, 4], "two slices missed, one order"


def test_pause_while_a_slice_works_still_ends_it_in_time() -> None:
    trade, broker = start()
    broker.move(D(101), D("101.25"))
    trade.pass_time(1)
    assert len(entries(broker)) == 1
    trade.tell(
        OperatorCommand(
            at=trade.now, command_id="p", by="ann", reason="look", verb=OperatorVerb.PAUSE
        )
    )
    trade.pass_time(3)
    assert not entries(broker)


def test_halt_keeps_the_stop_and_slices_go_on_after_it() -> None:
    trade, broker = start()
    trade.pass_time(5)
    trade.tell(TradingHalted(at=trade.now, symbol="AAPL"))
    trade.pass_time(20)
    assert live_exit_quantity(broker, Side.SELL) == 2
    trade.tell(TradingResumed(at=trade.now, symbol="AAPL"))
    trade.pass_time(60)
    assert broker.position == 10


@pytest.mark.parametrize("mode", [KillMode.BLOCK, KillMode.CANCEL_ENTRIES])
def test_kill_lets_no_further_slice_out_and_protects(mode: KillMode) -> None:
    trade, broker = start()
    trade.pass_time(5)
    trade.tell(KillEngaged(at=trade.now, command_id="k", mode=mode, by="ann", reason="test"))
    trade.pass_time(70)
    assert slices_of(trade) == [2]
    assert trade.state.walk.ended == "killed"
    assert live_exit_quantity(broker, Side.SELL) == broker.position == 2


def test_flatten_in_the_window_gets_out_of_all_of_it() -> None:
    trade, broker = start()
    trade.pass_time(17)
    assert broker.position == 4
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="test"))
    trade.pass_time(10)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED


def test_entry_cancelled_by_somebody_else_ends_the_slices() -> None:
    trade, broker = start()
    trade.pass_time(5)
    broker.bid, broker.ask = D(101), D("101.25")
    trade.pass_time(8)
    (working,) = entries(broker)
    broker.cancel(working)
    trade.tell(OrderReported(at=trade.now, order=broker.snapshot(working)))
    trade.pass_time(60)
    assert trade.state.walk.ended == "canceled"
    assert live_exit_quantity(broker, Side.SELL) == broker.position == 2


def test_stop_that_cannot_stand_aside_comes_back_and_is_tried_again() -> None:
    """A slice that does not get out leaves the position bare for five seconds at most."""
    refuse = {"on": False}

    def mischief(command: object) -> str:
        is_slice = isinstance(command, PlaceOrder) and command.intent.increasing
        return "not_sent" if is_slice and refuse["on"] else ""

    trade, broker = start(mischief=mischief)
    trade.pass_time(5)
    refuse["on"] = True
    trade.pass_time(7.5)
    assert live_exit_quantity(broker, Side.SELL) == 2
    refuse["on"] = False
    trade.pass_time(60)
    assert broker.position == 10
    assert trade.state.naked.longest_s <= 5


def test_rebuilt_trade_never_sends_another_slice_and_protects_what_is_held() -> None:
    trade, broker = start()
    trade.pass_time(5)
    trade.state = rebuilt(trade, broker, trade.state.ticket, settled=False)
    trade.pass_time(60)
    assert slices_of(trade) == [2]
    assert live_exit_quantity(broker, Side.SELL) == broker.position == 2


def test_story_tells_which_slice_it_is() -> None:
    trade, _ = start()
    trade.pass_time(13)
    assert "- entry slice 2 of 5, next at 15:00:24 UTC" in story_of(trade.state)


def test_dry_run_plays_every_slice_with_its_stop_and_the_exits_after_them() -> None:
    trade, _ = start()
    trade.look()
    ticket = trade.state.ticket
    assert ticket is not None
    orders = play(trade.state.plan, "abcd", trade.state.clock, ticket, trade.now)
    slices = [o.body.quantity for o in orders if o.purpose == Purpose.ENTRY]
    stops = [o.body.quantity for o in orders if o.purpose == Purpose.STOP]
    pairs = [o.body.quantity for o in orders if o.purpose == Purpose.OCO]
    assert slices == [2, 2, 2, 2, 2]
    assert stops == [2, 4, 6, 8]
    assert pairs == [3, 3, 4]


# --- seeded lives ---------------------------------------------------------------------------------


class CheckedSlices(Checked):
    """Also: what could still fill plus what did is never more than approved."""

    def check(self) -> None:
        super().check()
        side = self.state.plan.side
        bought = sum(f.quantity for f in self.broker.fills if f.side is side)
        working = sum(o.rest for o in self.broker.orders if o.live and o.side is side)
        is_entering = not ts.wants_exit(self.state) and ts.is_slicing(self.state)
        if is_entering:
            assert bought + working <= self.ticket_values[0], "I15"


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    side=st.sampled_from(list(Side)),
    three=st.booleans(),
    rate=st.sampled_from([0.0, 0.1, 0.3]),
    size=st.sampled_from([1, 3, 100]),
    flatten_at=st.integers(0, 120),
    close_at=st.integers(0, 240),
    tif=st.sampled_from(["day", "ioc"]),
    allows_opposite=st.booleans(),
)
def test_any_seeded_life_in_slices_keeps_the_invariants_and_ends_flat(
    seed: int,
    side: Side,
    three: bool,
    rate: float,
    size: int,
    flatten_at: int,
    close_at: int,
    tif: str,
    allows_opposite: bool,
) -> None:
    """I1, I4, I11, I15 as for the walk."""
    rng = random.Random(seed)
    plan = make_plan(side=side, time_stop_s=D(300), targets=_targets(side, three))
    broker = ToyBroker(
        symbol="AAPL", bid=D("99.75"), ask=D(100), size=D(size), allows_opposite=allows_opposite
    )
    trade = CheckedSlices(
        sliced(plan, tif=tif),
        broker,
        worst=D(101) if side is Side.BUY else D(99),
        rng=rng,
        mischief=mischief_of(rng, rate),
        capabilities=ALPACA_LIKE.model_copy(
            update={"opposite_side_while_entry_works": allows_opposite}
        ),
    )
    for turn in range(120):
        if turn == flatten_at:
            trade.tell(FlattenRequested(at=trade.now, command_id="f", by="a", reason="property"))
        if turn == close_at:
            half = CloseRequested(
                at=trade.now, command_id="c", by="a", reason="property", fraction=D("0.5")
            )
            trade.tell(half)
        if rng.random() < 0.3:
            bid = rng.choice(PRICES[16:40])
            broker.move(bid, bid + D("0.25"))
            trade.check()
        if rng.random() < 0.6 and broker.undelivered:
            fill = broker.undelivered.pop(rng.randrange(len(broker.undelivered)))
            trade.tell(FillReported(at=trade.now, fill=fill))
        trade.look()
        trade.check()
        broker.now += timedelta(seconds=rng.choice([0, 0.2, 1, 4]))
    trade.comes_to_its_end()


def _targets(side: Side, three: bool) -> tuple[TargetPlan, ...]:
    chosen = THREE if three else THREE[:1]
    if not three:
        chosen = (chosen[0].model_copy(update={"fraction": D(1)}),)
    if side is Side.BUY:
        return chosen
    return tuple(
        t.model_copy(update={"price": t.price.model_copy(update={"offset": -t.price.offset})})
        for t in chosen
        if t.price is not None and t.price.offset is not None
    )
