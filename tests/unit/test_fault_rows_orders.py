"""Rows C and D of the fault matrix on the fold: sends, replaces, cancels and late news."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import pairwise

import pytest

from domain import trade_state as ts
from domain.commands import Alert, CancelOrder, Command, PlaceOrder, ResolveOrder, Settle, WalkStep
from domain.control import KillMode
from domain.facts import (
    CancelRejected,
    Fact,
    FillBusted,
    FillReported,
    FlattenRequested,
    KillEngaged,
    OrderNotSent,
    OrderReported,
    OrderUnknown,
    ReplaceConfirmed,
)
from domain.order import BrokerOrderStatus, OrderIntent, OrderSnapshot, OrderState, Side
from domain.trade_state import Stage
from tests.unit.paced import Paced, twin
from tests.unit.test_trade_fold import make_plan, start
from tests.unit.toy_broker import ALPACA_LIKE, ToyBroker, Trade, live_exit_quantity

D = Decimal
WANTED = D(10)


def kill_entries(trade: Trade) -> None:
    trade.tell(
        KillEngaged(at=trade.now, command_id="k", mode=KillMode.CANCEL_ENTRIES, by="a", reason="r")
    )


def buys(broker: ToyBroker) -> list[object]:
    return [o for o in broker.orders if o.side is Side.BUY]


def bought(broker: ToyBroker) -> Decimal:
    return sum((f.quantity for f in broker.fills if f.side is Side.BUY), D(0))


def alert_codes(trade: Trade) -> list[str]:
    return [c.code for c in trade.commands if isinstance(c, Alert)]


def assert_protected_and_known(trade: Trade, broker: ToyBroker) -> None:
    """I2 and I4 at rest: our view is the broker's, stops cover exactly what is held."""
    assert ts.held_units(trade.state) == broker.position
    assert live_exit_quantity(broker, Side.SELL) == broker.position
    assert not [o for o in broker.orders if o.live and o.side is Side.BUY]


# --- A, F ---------------------------------------------------------------------------------------


@pytest.mark.covers("A8")
@pytest.mark.parametrize("late_s", [601, 3600, 86400])
def test_signal_that_waited_too_long_ends_without_an_order_and_frees_its_limit(late_s: int) -> None:
    """It was good when it was given; the worker comes back much later."""
    plan = make_plan().model_copy(update={"signal_max_age_s": D(600)})
    trade, broker = start(plan)
    broker.now += timedelta(seconds=late_s)
    trade.pass_time(30)
    assert broker.journal == []
    assert trade.state.walk.ended == "signal_expired"
    assert ts.stage(trade.state) is Stage.NOT_FILLED
    assert len([c for c in trade.commands if isinstance(c, Settle)]) == 1, "the limit is free"


@pytest.mark.covers("A8", "K5")
@pytest.mark.parametrize("looks", [0, 1])
def test_trade_born_with_the_kill_never_sends(looks: int) -> None:
    """The kill is told before, or between, the reservation and the first order."""
    trade, broker = start()
    for _ in range(looks):
        trade.look()
    kill_entries(trade)
    trade.pass_time(30)
    assert broker.journal == []
    assert ts.stage(trade.state) is Stage.NOT_FILLED


@pytest.mark.covers("F6")
@pytest.mark.parametrize("out_s", [5, 120])
def test_keys_that_are_refused_for_a_while_stop_no_exit_and_start_no_storm(out_s: int) -> None:
    """401 in the middle of a trade: entries end, exits are tried again until the keys are good."""
    refused = {"on": False}

    class LockedOut(Trade):
        def _placed(self, intent: OrderIntent, fault: str) -> list[Fact]:
            if refused["on"]:
                return [OrderNotSent(at=self.now, client_id=intent.client_id, code="AUTH")]
            return super()._placed(intent, fault)

    market = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    trade = LockedOut(make_plan(), market)
    trade.pass_time(5)
    refused["on"] = True
    before = len(trade.commands)
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="a", reason="r"))
    trade.pass_time(out_s)
    assert market.position == 10
    assert ts.stage(trade.state) is Stage.EXITING
    sends = [c for c in trade.commands[before:] if isinstance(c, PlaceOrder)]
    assert 1 <= len(sends) <= 2 + out_s, "one a second at most (I14)"
    refused["on"] = False
    trade.pass_time(60)
    assert market.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED


@pytest.mark.covers("F6")
def test_entry_with_refused_keys_is_given_up() -> None:
    trade, broker = start()

    class LockedOut(Trade):
        def _placed(self, intent: OrderIntent, fault: str) -> list[Fact]:
            return [OrderNotSent(at=self.now, client_id=intent.client_id, code="AUTH")]

    trade = LockedOut(make_plan(), broker)
    trade.pass_time(60)
    assert len([c for c in trade.commands if isinstance(c, PlaceOrder)]) == 1
    assert ts.stage(trade.state) is Stage.NOT_FILLED


# --- C ------------------------------------------------------------------------------------------


@pytest.mark.covers("C6")
@pytest.mark.parametrize("unique_for_ever", [True, False])
def test_entry_unknown_over_a_night_is_looked_up_and_never_posted_again(
    unique_for_ever: bool,
) -> None:
    """The broker's memory of ids is over: only evidence decides, no second body leaves."""

    class Deaf(Trade):
        def _resolved(self, command: ResolveOrder) -> list[Fact]:
            return [OrderUnknown(at=self.now, client_id=command.intent.client_id, reason="404")]

    capabilities = ALPACA_LIKE.model_copy(update={"client_id_unique_for_ever": unique_for_ever})
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    trade = Deaf(make_plan(), broker, capabilities=capabilities, mischief=lambda c: "lost")
    for _ in range(2):
        trade.look()
    broker.now += timedelta(hours=12)
    before = len(trade.commands)
    trade.pass_time(120)
    later = trade.commands[before:]
    resolves = [c for c in later if isinstance(c, ResolveOrder)]
    assert resolves
    assert not any(c.may_repost for c in resolves)
    assert not [c for c in later if isinstance(c, PlaceOrder | WalkStep)]
    assert trade.state.orders[0].is_live, "I10: no end without evidence"
    assert ts.stage(trade.state) is Stage.NEEDS_OPERATOR


@pytest.mark.covers("C6")
def test_day_stop_counts_as_working_until_the_broker_says_that_it_expired() -> None:
    trade, broker = start()
    trade.pass_time(25)
    broker.now += timedelta(hours=12)
    before = len(trade.commands)
    trade.settle_down()
    assert not [c for c in trade.commands[before:] if isinstance(c, PlaceOrder)]
    pair = [o for o in broker.orders if o.live]
    for order in pair:
        order.status = BrokerOrderStatus.EXPIRED
    trade.tell(*(OrderReported(at=trade.now, order=trade._flat(order)) for order in pair))
    trade.settle_down()
    assert live_exit_quantity(broker, Side.SELL) == 10


@pytest.mark.covers("C9")
def test_broker_id_that_is_issued_again_does_not_move_a_fill_to_another_order() -> None:
    """Our own id outweighs the broker's: it is never issued twice."""
    trade, broker = start()
    trade.pass_time(25)
    entry = trade.state.orders[0]
    pair = next(o for o in trade.state.live() if o.intent is not None)
    fill = broker.fills[-1].model_copy(
        update={
            "fill_key": "later",
            "broker_order_id": pair.broker_order_id,
            "client_id": entry.client_id,
            "quantity": D(1),
        }
    )
    trade.tell(FillReported(at=trade.now, fill=fill))
    assert ts.fills_of(trade.state, entry)[-1].fill_key == "later"
    known = trade.state.order(pair.client_id)
    assert known is not None
    assert not ts.fills_of(trade.state, known)


@pytest.mark.covers("C10")
@pytest.mark.parametrize("after_s", [0.2, 5.0, 30.0])
@pytest.mark.parametrize("filled", [0, 4])
def test_entry_rejected_after_its_accept_keeps_what_filled_and_settles_once(
    after_s: float, filled: int
) -> None:
    trade, broker = start(make_plan(steps_max=0))
    trade.look()
    trade.look()
    order = broker.orders[0]
    broker.now += timedelta(seconds=after_s)
    if filled:
        broker._fill(order, D(filled))
    order.status = BrokerOrderStatus.REJECTED
    trade.tell(OrderReported(at=trade.now, order=broker.snapshot(order)))
    trade.settle_down()
    trade.pass_time(5)
    assert len(buys(broker)) == 1, "nothing is entered again"
    assert_protected_and_known(trade, broker)
    if filled:
        broker.move(D("105.40"), D("105.60"))
        trade.pass_time(10)
    assert ts.stage(trade.state) is (Stage.CLOSED if filled else Stage.NOT_FILLED)
    assert len([c for c in trade.commands if isinstance(c, Settle)]) == 1


# --- D ------------------------------------------------------------------------------------------


class Replacing(Trade):
    """A replace whose answer is lost, and which of the two orders lives on: `old`, `new`, `both`.

    `early` fills the old order between our look and the replace, `late` the new one before
    anybody hears of it. `sees_nothing`: a look at the broker shows the order not yet (C5).
    """

    branch = ""
    early = D(0)
    late = D(0)
    sees_nothing = False

    def _resolved(self, command: ResolveOrder) -> list[Fact]:
        return [self._unknown(command)] if self.sees_nothing else super()._resolved(command)

    def _replaced(self, command: Command, fault: str) -> list[Fact]:
        if not isinstance(command, WalkStep) or not (self.branch or self.early or self.late):
            return super()._replaced(command, fault)  # type: ignore[arg-type]
        branch, self.branch = self.branch, ""
        old = self.broker.by_id(command.old_broker_id)
        assert old is not None
        early, self.early = self.early, D(0)
        if early and old.live and not old.filled:
            self.broker._fill(old, early)
        if branch == "old":
            return [self._unknown(command)]
        facts = super()._replaced(command, "")
        new = self.broker.by_client(command.intent.client_id)
        late, self.late = self.late, D(0)
        if new is not None and new.live and late:
            self.broker._fill(new, min(late, new.rest))
        if branch == "both" and new is not None:
            old.status, new.quantity = BrokerOrderStatus.WORKING, old.quantity
        return [self._unknown(command)] if branch else facts

    def _unknown(self, command: WalkStep | ResolveOrder) -> Fact:
        return OrderUnknown(at=self.now, client_id=command.intent.client_id, reason="timeout")


@pytest.mark.covers("D1")
@pytest.mark.parametrize("branch", ["old", "new", "both"])
@pytest.mark.parametrize("fills", ["none", "old", "new", "both"])
def test_lost_replace_counts_both_orders_as_live_until_each_is_proven_dead(
    branch: str, fills: str
) -> None:
    """No third entry while two may live, and what is bought in the end is known and protected."""
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("103.00"))
    trade = Replacing(make_plan(), broker)
    trade.pass_time(9)
    trade.branch, trade.sees_nothing = branch, True
    trade.pass_time(1.1)
    assert len(buys(broker)) == (1 if branch == "old" else 2)
    told_dead = {o.client_id for o in trade.state.orders if not o.is_live}
    for order in broker.orders:
        if order.live:
            assert order.client_id not in told_dead, "I10"
    chosen = [o for o in broker.orders if o.live and fills in ("both", _place_of(broker, o))]
    for order in chosen:
        broker._fill(order, order.rest)
    trade.sees_nothing = False
    trade.pass_time(80)
    assert_protected_and_known(trade, broker)
    assert bought(broker) == sum((o.quantity for o in chosen), D(0))
    assert len(buys(broker)) <= 4, "two, and the two steps that were left"


def _place_of(broker: ToyBroker, order: object) -> str:
    return "old" if order is broker.orders[0] else "new"


@pytest.mark.covers("D2", "D8")
@pytest.mark.parametrize("mode", ["total", "rest"])
@pytest.mark.parametrize("lost", ["", "new"])
@pytest.mark.parametrize("early", range(10))
@pytest.mark.parametrize("marketable", [False, True])
def test_fills_around_a_replace_never_buy_more_than_was_approved(
    mode: str, lost: str, early: int, marketable: bool
) -> None:
    """Total or rest, filled before, during or after, and the new price trades at once (D8)."""
    for late in range(0, 11, 2):
        ask = D("100.20") if marketable else D("103.00")
        broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=ask, replace_mode=mode)
        trade = Replacing(make_plan(), broker)
        trade.pass_time(9)
        trade.early, trade.late, trade.branch = D(early), D(late), lost
        trade.pass_time(5)
        assert bought(broker) <= WANTED
        trade.pass_time(70)
        assert bought(broker) <= WANTED
        assert_protected_and_known(trade, broker)


@pytest.mark.covers("D3")
@pytest.mark.parametrize("filled", [3, 10])
@pytest.mark.parametrize("news_ms", [1, 70])
def test_fill_at_any_millisecond_around_a_cancel_is_kept_and_protected(
    filled: int, news_ms: int
) -> None:
    """The cancel is decided at 50 ms and reaches the venue at 70; no quantity is bought again."""
    entering, _ = start(make_plan(steps_max=0))
    entering.pass_time(1)
    for at_ms in range(101):
        trade = twin(entering)
        broker = trade.broker
        paced = Paced(trade, news_ms=news_ms)

        def fill(broker: ToyBroker = broker) -> None:
            if broker.orders[0].live:
                broker._fill(broker.orders[0], D(filled))

        paced.run(150, merged({at_ms: fill}, {50: partial(kill_entries, trade)}))
        trade.pass_time(10)
        assert broker.position == (filled if at_ms <= 70 else 0), at_ms
        assert_protected_and_known(trade, broker)
        assert len(buys(broker)) == 1, "no re-entry"


def merged(*events: dict[int, Callable[[], None]]) -> dict[int, Callable[[], None]]:
    """Events by millisecond; those of one millisecond one after the other."""
    joined: dict[int, Callable[[], None]] = {}
    for each in events:
        for at_ms, event in each.items():
            earlier = joined.get(at_ms)
            joined[at_ms] = event if earlier is None else _both(earlier, event)
    return joined


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        first()
        second()

    return run


@pytest.mark.covers("D5")
@pytest.mark.parametrize("meaning", ["filled", "cancelled", "never there", "id wrong"])
def test_refused_cancel_is_a_question_and_the_broker_answers_it(meaning: str) -> None:
    """freqtrade #1726, #5101: no loop, no guess, no local end without the broker's word."""

    class Refusing(Trade):
        refused = 0

        def _cancelled(self, command: CancelOrder, fault: str) -> list[Fact]:
            order = self.broker.by_id(command.broker_order_id)
            if order is None or not order.live or self.refused < 2:
                self.refused += 1
                if order is not None and meaning == "filled" and order.live:
                    self.broker._fill(order, order.rest)
                if order is not None and meaning == "cancelled":
                    order.status = BrokerOrderStatus.CANCELED
                return [CancelRejected(at=self.now, client_id=command.client_id, code="42210000")]
            return super()._cancelled(command, fault)

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("103.00"))
    trade = Refusing(make_plan(steps_max=0), broker)
    trade.pass_time(1)
    if meaning == "never there":
        broker.orders[0].status = BrokerOrderStatus.CANCELED
    kill_entries(trade)
    trade.look()
    assert "read_broker" in [c.kind for c in trade.commands] or trade.look()
    trade.pass_time(60)
    assert trade.refused <= 3, "no loop"
    assert_protected_and_known(trade, broker)
    assert broker.position == (10 if meaning == "filled" else 0)
    assert ts.stage(trade.state) is (Stage.OPEN if meaning == "filled" else Stage.NOT_FILLED)


@pytest.mark.covers("D6")
@pytest.mark.parametrize("ended_by", ["kill", "time", "wait"])
def test_each_part_of_an_entry_that_then_ends_is_protected_with_its_own_size(
    ended_by: str,
) -> None:
    for part in range(1, 10):
        trade, broker = start(make_plan(steps_max=0))
        trade.pass_time(1 if ended_by == "kill" else 55 if ended_by == "time" else 5)
        broker._fill(broker.orders[0], D(part))
        trade.settle_down()
        if ended_by == "kill":
            kill_entries(trade)
        trade.pass_time(10)
        assert trade.state.walk.ended, ended_by
        assert broker.position == part
        assert_protected_and_known(trade, broker)
        assert trade.state.naked.longest_s <= 5, "I4"


@pytest.mark.covers("D7")
def test_market_that_runs_away_stops_the_walk_at_its_last_price_and_its_last_step() -> None:
    trade, broker = start(make_plan(steps_max=3))
    prices = []
    for number in range(12):
        broker.move(D(101 + number), D(102 + number))
        trade.pass_time(5)
        prices += [o.limit_price for o in broker.orders if o.live and o.side is Side.BUY]
    assert len(buys(broker)) <= 4, "I14"
    assert max(p for p in prices if p is not None) <= 101, "I13"
    trade.pass_time(10)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.NOT_FILLED


@pytest.mark.covers("D9")
@pytest.mark.parametrize("after_s", [1, 60, 3600, 21600])
def test_fill_long_after_the_cancel_reopens_the_trade_and_is_protected(after_s: int) -> None:
    """The trade is still there; one that has settled comes back by `restore` (test_restore)."""
    trade, broker = start(make_plan(steps_max=0))
    trade.pass_time(1)
    kill_entries(trade)
    while broker.orders[0].live:
        assert trade.look()
    broker.now += timedelta(seconds=after_s)
    broker._fill(broker.orders[0], D(3))
    trade.pass_time(20)
    assert broker.position == 3
    assert_protected_and_known(trade, broker)
    assert "LATE_FILL" in alert_codes(trade)
    assert ts.stage(trade.state) is Stage.OPEN


@pytest.mark.covers("D9")
@pytest.mark.parametrize("bust_first", [False, True])
def test_fill_that_the_venue_takes_back_counts_in_neither_order_of_the_news(
    bust_first: bool,
) -> None:
    """nautilus #4491: the void overtakes the fill that it voids."""
    trade, broker = start(make_plan(steps_max=0))
    trade.pass_time(1)
    broker.size = D(4)
    broker.bid, broker.ask = D("99.80"), D("99.90")
    broker.match()
    broker.size = D(0)
    (fill,) = broker.undelivered
    broker.undelivered.clear()
    news: list[Fact] = [
        FillReported(at=trade.now, fill=fill),
        FillBusted(at=trade.now, fill_key=fill.fill_key),
    ]
    trade.tell(*(reversed(news) if bust_first else news))
    assert ts.held_units(trade.state) == 0
    assert [f.fill_key for f in trade.state.fills] == [fill.fill_key], "it stays on record"
    trade.tell(*news)
    assert ts.held_units(trade.state) == 0, "I7: and the same once more"
    told = "BUST_UNKNOWN" if bust_first else "FILL_BUSTED"
    assert told in [a.code for a in trade.state.alerts]


@pytest.mark.covers("D1")
def test_replaced_order_that_is_confirmed_and_lives_on_is_cancelled_with_an_alert() -> None:
    """nautilus #4564: the answer was good, the old order works all the same."""

    class Doubling(Trade):
        def _replaced(self, command: Command, fault: str) -> list[Fact]:
            facts = super()._replaced(command, fault)  # type: ignore[arg-type]
            old = self.broker.orders[0]
            if isinstance(facts[0], ReplaceConfirmed):
                old.status = BrokerOrderStatus.WORKING
            return facts[:1]

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("103.00"))
    trade = Doubling(make_plan(steps_max=1), broker)
    trade.pass_time(10)
    assert len([o for o in broker.orders if o.live]) == 2
    trade.pass_time(10)
    assert not broker.orders[0].live
    assert "REPLACE_DOUBLED" in alert_codes(trade)
    seen: OrderSnapshot = broker.snapshot(broker.orders[0])
    assert seen.status is BrokerOrderStatus.CANCELED
    assert trade.state.orders[0].state in (OrderState.CANCELED, OrderState.REPLACED)


@pytest.mark.covers("D9")
def test_late_fill_is_protected_by_an_added_order_beside_the_one_that_stands() -> None:
    """No second in which the part that had a stop has none: nothing is cancelled for it (I4)."""
    trade, broker = start(make_plan(steps_max=0))
    trade.pass_time(1)
    broker._fill(broker.orders[0], D(4))
    kill_entries(trade)
    trade.pass_time(5)
    assert_protected_and_known(trade, broker)
    before = [(o.client_id, o.quantity) for o in broker.orders if o.live]
    broker._fill(broker.orders[0], D(3))
    trade.pass_time(20)
    assert broker.position == 7
    assert_protected_and_known(trade, broker)
    after = [(o.client_id, o.quantity) for o in broker.orders if o.live]
    assert before == after[: len(before)], "what stood stands"
    assert sum(quantity for _, quantity in after[len(before) :]) == 3 * 2, "a pair for the rest"


@pytest.mark.covers("D9", "E1")
@pytest.mark.parametrize("told_first", [True, False])
def test_fill_that_overtakes_the_booking_of_the_end_keeps_the_trade_open(told_first: bool) -> None:
    """I3, I4: it was told beside the answer of the settlement; the trade ended over a bare part."""

    class Overtaken(Trade):
        def answer(self, command: Command) -> list[Fact]:
            facts = super().answer(command)
            if not isinstance(command, Settle) or self.state.closed_at is not None:
                return facts
            self.broker._fill(self.broker.orders[0], D(3))
            late = self.broker.undelivered.pop()
            told: list[Fact] = [FillReported(at=self.now, fill=late)]
            return [*told, *facts] if told_first else [*facts, *told]

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("103.00"))
    trade = Overtaken(make_plan(steps_max=0), broker)
    trade.pass_time(1)
    kill_entries(trade)
    trade.pass_time(5)
    assert broker.position == 3
    assert ts.stage(trade.state) is Stage.OPEN
    assert_protected_and_known(trade, broker)
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="a", reason="r"))
    trade.pass_time(60)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    assert len([c for c in trade.commands if isinstance(c, Settle)]) == 2, "the end is booked anew"


@pytest.mark.covers("C2")
def test_unknown_order_is_asked_after_at_once() -> None:
    """The worker that sent it may have died long ago: what it bought stands bare until then."""
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    trade = Trade(make_plan(), broker, mischief=lambda c: "lost")
    while not any(isinstance(c, PlaceOrder) for c in trade.commands):
        assert trade.look()
    sent_at = trade.now
    while not any(isinstance(c, ResolveOrder) for c in trade.commands):
        assert trade.look()
    assert trade.now == sent_at


@pytest.mark.covers("C5")
def test_unknown_order_is_looked_for_each_second_while_a_proof_of_absence_may_ripen() -> None:
    """Where ids prove nothing the settle window must pass: not a second more than that is bare."""
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    trade = Replacing(make_plan(), broker, mischief=lambda c: "lost")
    trade.sees_nothing = True
    began = trade.now
    looks: list[float] = []
    while trade.now < began + timedelta(seconds=30):
        before = len(trade.commands)
        trade.pass_time(0.5)
        asked = sum(isinstance(c, ResolveOrder) for c in trade.commands[before:])
        looks += [(trade.now - began).total_seconds()] * asked
    gaps = [later - earlier for earlier, later in pairwise(looks)]
    assert max(gaps[:5]) <= 1.5
    assert gaps[-1] > 3, "a lasting doubt is asked after more rarely"
