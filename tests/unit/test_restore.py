"""A trade rebuilt from the ledger's records knows what the living one knew (D9, H-rows)."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import trade_state as ts
from domain.entry import EntryTicket
from domain.facts import FillReported
from domain.order import OrderIntent, OrderState, OrderType
from domain.restore import KnownOrder, SendState, rebuild
from domain.steps import decide
from domain.trade_state import TradeState
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan, start
from tests.unit.toy_broker import ToyBroker, Trade

D = Decimal


def known_orders(trade: Trade, broker: ToyBroker) -> list[KnownOrder]:
    """What the ledger would hold of the trade's intents."""
    found = []
    for record in trade.state.orders:
        if record.intent is None:
            continue
        order = broker.by_client(record.client_id)
        send = SendState.OPEN if order is None else SendState.ACCEPTED
        if record.state in (OrderState.NOT_SENT, OrderState.REJECTED) and order is None:
            send = SendState(record.state.value)
        found.append(
            KnownOrder(
                intent=record.intent,
                send=send,
                snapshot=None if order is None else broker.snapshot(order),
            )
        )
    return found


def predecessors(state: TradeState) -> dict[str | None, str | None]:
    """Broker's id of each order that took over from another, and of that one."""
    moved = [o for o in state.orders if o.replaces is not None]
    before = {o.broker_order_id: state.order(o.replaces or "") for o in moved}
    return {each: None if old is None else old.broker_order_id for each, old in before.items()}


def rebuilt(
    trade: Trade,
    broker: ToyBroker,
    ticket: EntryTicket | None,
    settled: bool,
    listed: Callable[[KnownOrder], KnownOrder] = lambda known: known,
) -> TradeState:
    state = trade.state
    return rebuild(
        state.plan,
        state.installation,
        state.clock,
        ticket=ticket,
        orders=[listed(known) for known in known_orders(trade, broker)],
        fills=broker.fills,
        now=trade.now,
        settled=settled,
    )


def orders_of(state: TradeState) -> list[tuple[object, ...]]:
    return sorted(
        (o.broker_order_id or "", o.role, o.state, o.quantity, ts.filled_quantity(state, o))
        for o in state.orders
    )


def walked(three: bool) -> tuple[Trade, ToyBroker]:
    plan = make_plan(targets=THREE, ratchet=RATCHET) if three else make_plan()
    return start(plan)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), three=st.booleans())
def test_finished_trade_rebuilds_to_the_same_position_orders_and_stage(
    seed: int, three: bool
) -> None:
    rng = random.Random(seed)
    trade, broker = walked(three)
    for _ in range(40):
        bid = D(rng.randrange(380, 440)) / 4
        broker.move(bid, bid + D("0.25"))
        trade.deliver()
        trade.settle_down()
        if ts.is_final(trade.state):
            break
        trade.pass_time(1)
    else:
        broker.move(D(90), D("90.25"))
        trade.deliver()
        trade.settle_down()
    assert ts.is_final(trade.state)

    state = rebuilt(trade, broker, trade.state.ticket, settled=True)

    assert ts.stage(state) == ts.stage(trade.state)
    assert ts.leg_units(state) == ts.leg_units(trade.state)
    assert orders_of(state) == orders_of(trade.state)
    assert ts.entry_quantity(state) == ts.entry_quantity(trade.state)


def test_open_trade_rebuilds_protected_and_goes_on_to_its_end() -> None:
    trade, broker = walked(three=True)
    trade.pass_time(25)
    assert ts.stage(trade.state) == ts.Stage.OPEN
    accepted = [line for line in broker.journal if line.startswith("accept")]

    trade.state = rebuilt(trade, broker, trade.state.ticket, settled=False)
    trade.settle_down()

    assert ts.protection(trade.state) == ts.Protection.RESTING
    again = [line for line in broker.journal if line.startswith("accept")]
    assert again == accepted, "a restored trade sends nothing that already stands"
    broker.move(D(90), D("90.25"))
    trade.pass_time(25)
    assert broker.position == 0
    assert ts.stage(trade.state) == ts.Stage.CLOSED


@pytest.mark.covers("H3")
def test_target_that_filled_before_the_rebuild_still_moves_the_stops() -> None:
    """I8: killed between the fill and the move, the rebuilt trade believed the resting stop and
    left it below break-even for good."""
    trade, broker = walked(three=True)
    trade.pass_time(25)
    first = trade.state.stop_price
    assert first is not None
    target = ts.target_price(trade.state, 0)
    assert target is not None
    broker.move(target, target + D("0.25"))

    trade.state = rebuilt(trade, broker, trade.state.ticket, settled=False)
    trade.settle_down()

    wanted = ts.average_price(trade.state, ts.Role.ENTRY)
    assert wanted is not None
    assert wanted > first
    assert [stop.stop_price for stop in trade.state.live(ts.Role.STOP)] == [wanted, wanted]


@pytest.mark.covers("H3")
def test_rebuilt_trade_leaves_its_stop_where_it_rests_although_its_entry_filled_in_parts() -> None:
    """Its stop was counted from the first execution alone: dearer than the average, it came out
    tighter than the one that rests, and that one was moved towards the market."""
    trade, broker = walked(three=True)
    trade.pass_time(25)
    (bought,) = broker.fills
    half = bought.model_copy(update={"quantity": bought.quantity / 2})
    broker.fills[:] = [
        half.model_copy(update={"price": bought.price + 1, "fill_key": "first"}),
        half.model_copy(update={"price": bought.price - 1, "fill_key": "second"}),
    ]

    state = rebuilt(trade, broker, trade.state.ticket, settled=False)

    assert state.stop_price == trade.state.stop_price


@pytest.mark.covers("D9")
def test_rebuild_ties_a_moved_stop_to_the_one_it_took_over_from_however_the_group_is_listed() -> (
    None
):
    """I11: seed 85570; it carries fills of the old one, which counted as missing for ever."""
    trade, broker = walked(three=True)
    broker.replace_mode = "total"
    trade.pass_time(25)
    filled = next(o for o in broker.orders if o.live and o.order_type is OrderType.STOP)
    broker._fill(filled, D(1))
    trade.settle_down()
    broker.move(D("104.50"), D("104.75"))
    trade.settle_down()
    moved = [o for o in trade.state.orders if o.replaces is not None]
    assert moved

    def newest_first(known: KnownOrder) -> KnownOrder:
        if known.snapshot is None:
            return known
        legs = known.snapshot.legs[::-1]
        return known.model_copy(
            update={"snapshot": known.snapshot.model_copy(update={"legs": legs})}
        )

    state = rebuilt(trade, broker, trade.state.ticket, settled=False, listed=newest_first)
    assert predecessors(state) == predecessors(trade.state)
    assert ts.missing_fills(state) == ()


@pytest.mark.covers("D9")
@pytest.mark.covers("K8")
def test_rebuilt_trade_numbers_its_orders_behind_its_own_not_those_of_a_flatten_past_it() -> None:
    """In the range of direct orders its own would count as such; behind the last there is none."""
    trade, broker = walked(three=False)
    trade.pass_time(25)
    *_, own = (o.intent for o in trade.state.orders if o.intent and o.role is not ts.Role.ENTRY)
    key = own.key.model_copy(update={"sequence": 0xFFFF})
    direct = OrderIntent.derive(trade.state.installation, key, own.body, increasing=False)
    state = rebuild(
        trade.state.plan,
        trade.state.installation,
        trade.state.clock,
        ticket=trade.state.ticket,
        orders=[
            *known_orders(trade, broker),
            KnownOrder(intent=direct, send=SendState.REJECTED),
        ],
        fills=broker.fills,
        now=trade.now,
    )
    assert state.order(direct.client_id) is not None
    assert state.next_key(key.purpose).sequence == own.key.sequence + 1


def test_late_fill_of_a_trade_that_ended_unfilled_is_protected_after_the_rebuild() -> None:
    """D9: reopened, bare for one look, then behind its stop."""
    trade, broker = walked(three=False)
    broker.move(D("101.20"), D("101.40"))
    for _ in range(60):
        trade.settle_down()
        trade.pass_time(5)
        if ts.is_final(trade.state):
            break
    assert ts.stage(trade.state) == ts.Stage.NOT_FILLED
    entry = broker.by_client(trade.state.orders[-1].client_id)
    assert entry is not None
    broker._fill(entry, D(10))

    trade.state = rebuilt(trade, broker, trade.state.ticket, settled=False)
    assert ts.protection(trade.state) == ts.Protection.NAKED
    trade.tell(FillReported(at=trade.now, fill=broker.fills[-1]))
    trade.settle_down()

    assert ts.held_units(trade.state) == 10
    assert ts.protection(trade.state) == ts.Protection.RESTING


def test_rebuild_without_any_intent_never_enters() -> None:
    trade, broker = walked(three=False)
    _state, commands = decide(trade.state, trade.now)
    trade.tell(*trade.answer(commands[0]))

    trade.state = rebuilt(trade, broker, trade.state.ticket, settled=False)
    trade.settle_down()

    assert broker.journal == []
    assert ts.stage(trade.state) == ts.Stage.NOT_FILLED
