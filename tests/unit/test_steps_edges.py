"""The instants and sizes at which the next step changes, one before, on, and one after (M5)."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from domain import doubts
from domain import trade_state as ts
from domain.commands import (
    Alert,
    AlertSeverity,
    CancelOrder,
    Command,
    ReadBroker,
    ReserveRisk,
    ResolveOrder,
    Settle,
    Urgency,
)
from domain.facts import AdjustmentKind, FlattenRequested, PositionAdjusted
from domain.order import OrderState
from domain.plan import TradePlan
from domain.steps import decide, next_deadline, settle_command
from domain.trade_state import (
    ExitProgress,
    NakedClock,
    OrderRecord,
    Outcome,
    Role,
    TradeState,
    WalkProgress,
)
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan, start
from tests.unit.toy_broker import Trade

D = Decimal
TICK = timedelta(microseconds=1)
BARE = WalkProgress(ended="filled")


def opened(plan: TradePlan | None = None) -> Trade:
    """Ten shares bought at 100.30, target and stop resting."""
    trade, _ = start(plan)
    trade.pass_time(25)
    assert ts.protection(trade.state) is ts.Protection.RESTING
    return trade


def with_order(trade: Trade, which: Role, **update: object) -> TradeState:
    record = order_of(trade.state, which)
    return trade.state.with_order(record.model_copy(update=update))


def order_of(state: TradeState, role: Role) -> OrderRecord:
    return next(o for o in state.orders if o.role is role and o.intent is not None)


def taken_away(trade: Trade, quantity: Decimal) -> PositionAdjusted:
    return PositionAdjusted(
        at=trade.now,
        adjustment_id="a-1",
        adjustment=AdjustmentKind.ASSIGNMENT,
        symbol="AAPL",
        quantity=-quantity,
    )


def alerts(commands: tuple[Command, ...]) -> list[tuple[str, AlertSeverity, str]]:
    return [(c.code, c.severity, c.text) for c in commands if isinstance(c, Alert)]


def told(state: TradeState, now: datetime) -> list[tuple[str, AlertSeverity, str]]:
    """What the next look but one tells: alerts leave with the decision after them."""
    state, commands = decide(state, now)
    return alerts(commands)


def asked(state: TradeState, now: datetime) -> list[ResolveOrder]:
    return [c for c in decide(state, now)[1] if isinstance(c, ResolveOrder)]


# --- unknown orders ---------------------------------------------------------------------------


@pytest.mark.covers("E1")
@pytest.mark.parametrize(("after", "is_told"), [(-TICK, False), (0 * TICK, True), (TICK, True)])
def test_unknown_protection_is_told_as_critical_after_three_seconds(
    after: timedelta, is_told: bool
) -> None:
    trade = opened()
    state = with_order(trade, Role.TARGET, state=OrderState.UNKNOWN, changed_at=trade.now)
    at = trade.now + timedelta(seconds=3)
    name = order_of(state, Role.TARGET).client_id
    wished = [("PROTECTION_UNKNOWN", AlertSeverity.CRITICAL, name)] if is_told else []
    assert told(state, at + after) == wished


@pytest.mark.parametrize(("after", "is_parked"), [(-TICK, False), (0 * TICK, True), (TICK, True)])
def test_order_unknown_for_half_a_minute_parks_the_trade_once(
    after: timedelta, is_parked: bool
) -> None:
    """I10: a person is asked, by the name of the order."""
    trade = opened()
    state = with_order(trade, Role.ENTRY, state=OrderState.UNKNOWN, changed_at=trade.now)
    at = trade.now + timedelta(seconds=30) + after
    name = order_of(state, Role.ENTRY).client_id
    decided, commands = decide(state, at)
    assert (decided.needs_operator == doubts.unknown(name)) is is_parked
    parked = [("ORDER_UNKNOWN_PARKED", AlertSeverity.CRITICAL, name)] if is_parked else []
    assert alerts(commands) == parked
    if is_parked:
        assert alerts(decide(decided, at + TICK)[1]) == []


def test_time_alone_wakes_a_trade_with_an_unknown_order_at_three_and_thirty_seconds() -> None:
    trade = opened()
    state = with_order(trade, Role.TARGET, state=OrderState.UNKNOWN, changed_at=trade.now)
    first = next_deadline(state, trade.now)
    assert first == trade.now + timedelta(seconds=3)
    second = next_deadline(state, trade.now + timedelta(seconds=3))
    assert second == trade.now + timedelta(seconds=30)


def test_unknown_replacement_is_asked_after_with_the_order_that_it_took_over_from() -> None:
    """D2: the broker's list tells a replacement by what it replaced."""
    trade = opened()
    entry = order_of(trade.state, Role.ENTRY)
    state = with_order(
        trade, Role.TARGET, state=OrderState.UNKNOWN, changed_at=trade.now, replaces=entry.client_id
    )
    (command,) = asked(state, trade.now)
    assert command.replaces_broker_id == entry.broker_order_id is not None
    assert (command.sent_at, command.intent) == (
        trade.now,
        order_of(state, Role.TARGET).intent,
    )
    alone = state.with_order(order_of(state, Role.TARGET).model_copy(update={"replaces": None}))
    assert [c.replaces_broker_id for c in asked(alone, trade.now)] == [None]


def test_unknown_order_is_not_asked_after_twice_nor_before_its_retry() -> None:
    trade = opened()
    state = with_order(trade, Role.TARGET, state=OrderState.UNKNOWN, changed_at=trade.now)
    (command,) = asked(state, trade.now)
    _, commands = decide(state, trade.now, [command.key])
    assert not [c for c in commands if isinstance(c, ResolveOrder)]
    later = order_of(state, Role.TARGET).model_copy(
        update={"retry_at": trade.now + timedelta(seconds=1)}
    )
    assert asked(state.with_order(later), trade.now) == []
    assert asked(state.with_order(later), trade.now + timedelta(seconds=1)) != []


@pytest.mark.parametrize(
    ("change", "may"),
    [
        ({}, True),
        ({"paused": True}, False),
        ({"taken_over": True}, False),
        ({"walk": BARE}, False),
    ],
)
def test_unknown_entry_is_posted_again_only_while_the_trade_still_walks(
    change: dict[str, object], may: bool
) -> None:
    """C6: nobody buys what was wished for before the outage."""
    trade, _ = start()
    trade.pass_time(1)
    state = with_order(trade, Role.ENTRY, state=OrderState.UNKNOWN, changed_at=trade.now)
    assert [c.may_repost for c in asked(state.changed(**change), trade.now)] == [may]


@pytest.mark.parametrize("is_bare", [False, True])
def test_unknown_entry_tells_whether_exits_wait_for_it(is_bare: bool) -> None:
    """I4: with nothing held it may stay in doubt for all that a venue's lists may lag."""
    trade = opened() if is_bare else start()[0]
    trade.pass_time(0 if is_bare else 1)
    state = with_order(trade, Role.ENTRY, state=OrderState.UNKNOWN, changed_at=trade.now)
    (found,) = asked(state.changed(walk=BARE), trade.now)
    assert (found.may_repost, found.is_bare) == (False, is_bare)


@pytest.mark.parametrize(("quantity", "may"), [("9", True), ("10", True), ("11", False)])
def test_unknown_protection_is_posted_again_up_to_what_is_held(quantity: str, may: bool) -> None:
    """I2: beyond it the exit would open a position the other way round."""
    trade = opened()
    state = with_order(
        trade,
        Role.TARGET,
        state=OrderState.UNKNOWN,
        changed_at=trade.now,
        quantity=D(quantity),
    )
    assert [c.may_repost for c in asked(state, trade.now)] == [may]


@pytest.mark.parametrize("change", [{"replaces": "old"}, {"leg": 1}])
@pytest.mark.parametrize("is_flat", [True, False])
def test_unknown_replacement_or_leg_is_posted_again_while_anything_is_held(
    change: dict[str, object], is_flat: bool
) -> None:
    """What it may sell was settled with the order it follows; nothing is left once it is flat."""
    trade = opened()
    update = {"state": OrderState.UNKNOWN, "changed_at": trade.now, "quantity": D(11)}
    state = with_order(trade, Role.TARGET, **update, **change)
    if is_flat:
        state = state.changed(adjustments=(taken_away(trade, D(10)),))
    assert [c.may_repost for c in asked(state, trade.now)] == [not is_flat]


@pytest.mark.parametrize(
    ("reason", "keep", "quantity", "may"),
    [
        ("flatten", "0", "10", True),
        ("flatten", "0", "11", False),
        ("part", "4", "6", True),
        ("part", "4", "7", False),
        ("", "0", "10", False),
    ],
)
def test_unknown_exit_is_posted_again_up_to_what_shall_go(
    reason: str, keep: str, quantity: str, may: bool
) -> None:
    trade = opened()
    state = with_order(
        trade,
        Role.TARGET,
        role=Role.EXIT,
        state=OrderState.UNKNOWN,
        changed_at=trade.now,
        quantity=D(quantity),
    ).changed(exit=ExitProgress(reason=reason, keep=D(keep)))
    assert [c.may_repost for c in asked(state, trade.now)] == [may]


def test_unknown_order_behind_a_working_one_is_asked_after_too() -> None:
    trade = opened(make_plan(targets=THREE, ratchet=RATCHET))
    targets = [o for o in trade.state.orders if o.role is Role.TARGET and o.intent is not None]
    first, *others = targets
    state = trade.state
    for record in others:
        update = {"state": OrderState.UNKNOWN, "changed_at": trade.now}
        state = state.with_order(record.model_copy(update=update))
    names = {c.intent.client_id for c in asked(state, trade.now)}
    assert names == {record.client_id for record in others}
    assert first.client_id not in names


# --- what is wrong ----------------------------------------------------------------------------


@pytest.mark.covers("E4")
@pytest.mark.parametrize(("after", "is_told"), [(-TICK, False), (0 * TICK, True), (TICK, True)])
def test_legs_out_of_balance_for_five_seconds_are_told_and_closed_once(
    after: timedelta, is_told: bool
) -> None:
    trade = opened()
    state = trade.state.changed(imbalance_since=trade.now)
    at = trade.now + timedelta(seconds=5)
    assert next_deadline(state, trade.now) == at
    decided, commands = decide(state, at + after)
    naked = [c for c in alerts(commands) if c[0] == "NAKED_LEG"]
    assert naked == ([("NAKED_LEG", AlertSeverity.CRITICAL, "10 AAPL")] if is_told else [])
    assert decided.exit.reason == ("leg_imbalance" if is_told else "")
    again = [code for code, _, _ in alerts(decide(decided, at + after + TICK)[1])]
    assert not is_told or "NAKED_LEG" not in again


def test_position_of_the_other_sign_is_told_as_critical_and_closed() -> None:
    """I2: nobody asked for a short."""
    trade = opened()
    sold = taken_away(trade, D(11))
    decided, commands = decide(trade.state.changed(adjustments=(sold,)), trade.now)
    assert ("POSITION_FLIPPED", AlertSeverity.CRITICAL, "-1 units") in alerts(commands)
    assert decided.exit.reason == "flipped"
    again = [code for code, _, _ in alerts(decide(decided, trade.now + TICK)[1])]
    assert "POSITION_FLIPPED" not in again


@pytest.mark.parametrize(("after", "is_told"), [(-TICK, False), (0 * TICK, True), (TICK, True)])
def test_stop_that_triggered_and_fills_nothing_for_five_seconds_is_told_and_closed_once(
    after: timedelta, is_told: bool
) -> None:
    """I4: a stop-limit behind the market protects nothing."""
    plan = make_plan()
    assert plan.stop is not None
    stop = plan.stop.model_copy(update={"limit_offset": D("0.50")})
    trade = opened(plan.model_copy(update={"stop": stop}))
    state = trade.state.changed(stop_reached_at=trade.now)
    at = trade.now + timedelta(seconds=5)
    assert next_deadline(state, trade.now) == at
    decided, commands = decide(state, at + after)
    text = f"stop {state.stop_price} triggered and 10 are still held"
    unfilled = [("STOP_LIMIT_UNFILLED", AlertSeverity.CRITICAL, text)]
    assert alerts(commands) == (unfilled if is_told else [])
    assert decided.exit.reason == ("stop_unfilled" if is_told else "")
    going = state.changed(exit=ExitProgress(reason="flatten"))
    assert next_deadline(going, trade.now) != at
    assert decide(going, at)[0].exit.reason == "flatten"


@pytest.mark.covers("D1")
@pytest.mark.parametrize(
    ("replaced_ago", "read_ago", "doubled"),
    [(2.0, -0.1, True), (1.9, -0.1, False), (3.0, 1.0, False), (3.0, 0.9, True)],
)
def test_order_that_outlives_its_replacement_is_cancelled_after_a_later_read(
    replaced_ago: float, read_ago: float, doubled: bool
) -> None:
    """Two live orders until each is proven dead: what a read two seconds later still shows."""
    trade = opened()
    target = order_of(trade.state, Role.TARGET)
    old = target.model_copy(
        update={
            "client_id": "old",
            "broker_order_id": "b-old",
            "state": OrderState.PENDING_REPLACE,
            "changed_at": trade.now - timedelta(seconds=replaced_ago),
        }
    )
    new = target.model_copy(update={"replaces": "old"})
    state = trade.state.with_order(old).with_order(new)
    state = state.changed(
        knowledge_at=trade.now - timedelta(seconds=read_ago),
        read_after=trade.now + timedelta(seconds=9),
    )
    _, commands = decide(state, trade.now)
    cancels = [c for c in commands if isinstance(c, CancelOrder) and c.client_id == "old"]
    assert bool(cancels) is doubled
    told_of = [c for c in alerts(commands) if c[0] == "REPLACE_DOUBLED"]
    assert told_of == ([("REPLACE_DOUBLED", AlertSeverity.CRITICAL, "old")] if doubled else [])
    if doubled:
        assert (cancels[0].broker_order_id, cancels[0].urgency) == ("b-old", Urgency.EXIT)
        busy = decide(state, trade.now, ["order/old"])[1]
        assert not [c for c in busy if isinstance(c, CancelOrder)]


@pytest.mark.parametrize(("ago", "reads"), [(0.699999, False), (0.7, True)])
def test_cancel_without_an_answer_is_looked_at_soon(ago: float, reads: bool) -> None:
    """D4, I4: its frame may be lost, and what it leaves is bare."""
    trade = opened()
    asked_at = trade.now - timedelta(seconds=ago)
    state = with_order(trade, Role.TARGET, state=OrderState.PENDING_CANCEL, changed_at=asked_at)
    state = state.changed(read_after=None)
    found = [c for c in decide(state, trade.now)[1] if isinstance(c, ReadBroker)]
    assert [c.reason for c in found] == (["an order is in between"] if reads else [])
    if not reads:
        assert next_deadline(state, trade.now) == asked_at + timedelta(seconds=0.7)
    name = order_of(state, Role.TARGET).client_id
    in_flight = decide(state, trade.now, [f"order/{name}"])[1]
    assert not [c for c in in_flight if isinstance(c, ReadBroker)]


@pytest.mark.parametrize(("ago", "reads"), [(1.999999, False), (2.0, True)])
def test_cancel_that_was_looked_at_once_is_looked_at_again_after_two_seconds(
    ago: float, reads: bool
) -> None:
    """D4: only what a later look shows lets the cancel be asked for anew."""
    trade = opened()
    asked_at = trade.now - timedelta(seconds=ago)
    state = with_order(trade, Role.TARGET, state=OrderState.PENDING_CANCEL, changed_at=asked_at)
    looked_at = asked_at + timedelta(seconds=0.7)
    state = state.changed(read_after=None, knowledge_at=looked_at)
    found = [c for c in decide(state, trade.now)[1] if isinstance(c, ReadBroker)]
    assert [c.reason for c in found] == (["an order is in between"] if reads else [])
    if not reads:
        assert next_deadline(state, trade.now) == asked_at + timedelta(seconds=2)


def test_look_that_began_a_moment_too_soon_is_followed_by_another() -> None:
    """D4, I11: two lost cancels some ms apart. The look for the first came just before it was the
    second's turn, and with the pause of reads nothing woke the trade again: it stood half flattened
    and bare until somebody else had news (three of eight runs under load)."""
    trade = opened()
    asked_at = trade.now - timedelta(seconds=2.01)
    state = with_order(trade, Role.TARGET, state=OrderState.PENDING_CANCEL, changed_at=asked_at)
    next_read = trade.now + timedelta(seconds=0.5)
    looked_at = asked_at + timedelta(seconds=1.99)
    state = state.changed(read_needed="", read_after=next_read, knowledge_at=looked_at)
    assert next_deadline(state, trade.now) == next_read
    found = [c for c in decide(state, next_read)[1] if isinstance(c, ReadBroker)]
    assert [c.reason for c in found] == ["an order is in between"]


# --- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "goes"), [(-TICK, False), (0 * TICK, True), (TICK, True)])
def test_time_stop_counts_from_the_first_fill_to_the_microsecond(
    after: timedelta, goes: bool
) -> None:
    trade = opened(make_plan(time_stop_s=D("120.5")))
    assert trade.state.first_fill_at is not None
    at = trade.state.first_fill_at + timedelta(seconds=120.5)
    assert next_deadline(trade.state, at - TICK) == at
    decided, _ = decide(trade.state, at + after)
    assert decided.exit.reason == ("time_stop" if goes else "")


@pytest.mark.parametrize(("after", "goes"), [(-TICK, False), (0 * TICK, True), (TICK, True)])
def test_flat_by_ends_position_and_walk_at_its_instant(after: timedelta, goes: bool) -> None:
    trade, _ = start(make_plan(time_stop_s=D(9000)))
    trade.pass_time(3)
    at = trade.now + timedelta(minutes=30)
    state = trade.state.changed(plan=trade.state.plan.model_copy(update={"flat_by": at}))
    decided, _ = decide(state.changed(walk=WalkProgress()), at + after)
    assert decided.exit.reason == ("flat_by" if goes else "")
    if goes:
        assert decided.walk.ended == "flat_by"


def test_trade_in_a_persons_hands_lets_its_deadlines_pass() -> None:
    trade = opened(make_plan(time_stop_s=D(120)))
    state = trade.state.changed(taken_over=True)
    late = trade.now + timedelta(hours=2)
    decided, _ = decide(state, late)
    assert decided.exit.reason == ""
    assert next_deadline(state, late) is None


@pytest.mark.parametrize("role", [Role.TARGET, Role.ENTRY])
def test_refused_exit_wakes_the_trade_for_its_retry_and_an_old_refused_entry_does_not(
    role: Role,
) -> None:
    trade = opened()
    at = trade.now + timedelta(seconds=7)
    state = with_order(trade, role, state=OrderState.REJECTED, retry_at=at)
    assert next_deadline(state, trade.now) == (at if role is Role.TARGET else None)


def test_final_or_rewound_trade_waits_for_nothing_and_asks_for_nothing() -> None:
    trade = opened(make_plan(time_stop_s=D(120)))
    rewound = trade.state.changed(rewound=True)
    assert next_deadline(rewound, trade.now) is None
    assert decide(rewound, trade.now + timedelta(hours=1))[1] == ()


@pytest.mark.parametrize("change", [{"paused": True}, {"needs_operator": "a question"}])
def test_paused_or_parked_trade_takes_no_step_and_still_ends_its_walk(
    change: dict[str, object],
) -> None:
    """I11: an entry may not work for ever because nobody looks."""
    trade, _ = start()
    trade.pass_time(1)
    state = trade.state.changed(**change)
    due = next_deadline(trade.state, trade.now)
    assert due is not None
    assert [c.kind for c in decide(trade.state, due)[1]] == ["walk_step"]
    assert decide(state, due)[1] == ()
    over, _ = decide(state, trade.now + timedelta(seconds=61))
    assert over.walk.ended


# --- begin and end ----------------------------------------------------------------------------


def test_planned_trade_reserves_its_risk_once_and_nothing_else() -> None:
    trade, _ = start()
    _, commands = decide(trade.state, trade.now)
    assert [type(c) for c in commands] == [ReserveRisk]
    assert decide(trade.state, trade.now, [c.key for c in commands])[1] == ()


def test_settlement_tells_what_the_trade_came_to() -> None:
    trade = opened()
    trade.broker.move(D("105.40"), D("105.60"))
    trade.settle_down()
    (settle,) = [c for c in trade.commands if isinstance(c, Settle)]
    assert (settle.outcome, settle.exit_reason) == (Outcome.CLOSED, "target")
    assert (settle.entry_quantity, settle.average_entry) == (D(10), D("100.30"))
    assert settle.average_exit == D("105.40")
    assert trade.state.ticket is not None
    assert settle.arrival_mid == trade.state.ticket.arrival.mid


def test_settlement_after_the_stop_tells_the_price_that_the_stop_got() -> None:
    trade = opened()
    trade.broker.move(D("95.40"), D("95.60"))
    trade.settle_down()
    (settle,) = [c for c in trade.commands if isinstance(c, Settle)]
    assert (settle.exit_reason, settle.average_exit) == ("stop", D("95.40"))


def test_settlement_after_a_flatten_tells_the_price_of_the_exit_and_is_asked_once() -> None:
    trade = opened()
    trade.tell(FlattenRequested(at=trade.now, command_id="f-1", by="alice", reason="test"))
    trade.settle_down()
    (settle,) = [c for c in trade.commands if isinstance(c, Settle)]
    assert (settle.exit_reason, settle.average_exit) == ("flatten", trade.broker.bid)
    unsettled = trade.state.changed(settled=False)
    assert decide(unsettled, trade.now)[1] == (settle,)
    assert decide(unsettled, trade.now, [settle.key])[1] == ()


@pytest.mark.covers("E5")
def test_stop_whose_target_filled_is_looked_at_after_five_seconds() -> None:
    trade = opened()
    state = with_order(trade, Role.TARGET, state=OrderState.FILLED, changed_at=trade.now)
    assert next_deadline(state, trade.now) == trade.now + timedelta(seconds=5)


def test_settlement_of_a_trade_that_was_let_go_says_released() -> None:
    trade = opened()
    clock = NakedClock(total_s=1.23456)
    state = trade.state.changed(naked=clock)
    assert settle_command(state).naked_s == 1.235
    assert settle_command(state).outcome == Outcome.CLOSED
    fresh, _ = start()
    nothing = settle_command(fresh.state)
    assert (nothing.outcome, nothing.entry_quantity) == (Outcome.NOT_FILLED, D(0))
    assert (nothing.average_entry, nothing.average_exit, nothing.arrival_mid) == (None, None, None)


@pytest.mark.parametrize(
    ("change", "wakes"),
    [
        ({}, False),
        ({"read_needed": "a doubt"}, True),
        ({"releasing": True}, True),
        ({"needs_operator": "a person"}, False),
        ({"needs_operator": "a person", "exit": ExitProgress(reason="flatten")}, True),
    ],
)
def test_next_read_wakes_the_trade_only_while_something_is_to_be_read(
    change: dict[str, object], wakes: bool
) -> None:
    trade = opened()
    at = trade.now + timedelta(seconds=4)
    state = trade.state.changed(read_after=at, **change)
    assert (next_deadline(state, trade.now) == at) is wakes


@pytest.mark.parametrize(
    ("left", "walk", "wakes"),
    [
        ("1", BARE, False),
        ("0.5", BARE, True),
        ("0", BARE, True),
        ("0.5", WalkProgress(), False),
        ("0", WalkProgress(), False),
    ],
)
def test_next_read_wakes_a_trade_that_has_only_dust_or_nothing_left_to_end(
    left: str, walk: WalkProgress, wakes: bool
) -> None:
    """E9, I20: what closes the trade is a read after its last order; until then it stays open."""
    trade = opened()
    at = trade.now + timedelta(seconds=4)
    gone = taken_away(trade, D(10) - D(left))
    state = trade.state.changed(read_after=at, adjustments=(gone,), walk=walk)
    assert (next_deadline(state, trade.now) == at) is wakes
