"""A person's hand on a trade: each command has one outcome, told as it is (I10, I17, K6)."""

from __future__ import annotations

import random
import re
from datetime import timedelta
from decimal import Decimal
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import trade_state as ts
from domain.commands import Alert, BookByHand, CancelOrder, Command, PlaceOrder, ResolveOrder
from domain.control import KillMode
from domain.facts import (
    BookedByHand,
    BrokerSnapshot,
    ExitTriggered,
    Fact,
    FillReported,
    FlattenRequested,
    KillEngaged,
    OperatorCommand,
    OperatorVerb,
    OrderNotSent,
    OrderReported,
    OrderUnknown,
)
from domain.ids import Purpose
from domain.messages import OperatorRequest
from domain.operator_checks import body_of, why_not
from domain.order import (
    BrokerOrderStatus,
    Fill,
    OrderIntent,
    OrderSnapshot,
    OrderState,
    Position,
    Side,
)
from domain.outcomes import Progress, progress_of
from domain.steps import decide, next_deadline
from domain.story import story_of
from domain.trade_state import Role, Stage
from tests.unit.test_part_close import close_fact, entered
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan, start
from tests.unit.test_trade_properties import PRICES, Checked, mischief_of
from tests.unit.toy_broker import ToyBroker, Trade, live_exit_quantity

D = Decimal


def told(trade: Trade, verb: str, command_id: str = "x", **values: object) -> OperatorCommand:
    return OperatorCommand.model_validate(
        {"at": trade.now, "command_id": command_id, "by": "ann", "verb": verb, **values}
    )


def order(trade: Trade, verb: str, command_id: str = "x", **values: object) -> str:
    """Gives the command and lets the trade act; the word of what became of it."""
    trade.tell(told(trade, verb, command_id, **values))
    trade.pass_time(5)
    booked(trade)
    return " ".join(progress_of(trade.state, command_id))


def booked(trade: Trade) -> None:
    """The ledger answers what it was asked to book."""
    for command in [c for c in trade.waiting if isinstance(c, BookByHand)]:
        trade.waiting.remove(command)
    trade.tell(
        BookedByHand(
            at=trade.now,
            adjustment_ids=tuple(a.adjustment_id for a in trade.state.booking),
            client_ids=tuple(a.client_id for a in trade.state.answers),
        )
    )


def refusal(trade: Trade, verb: str, command_id: str = "x", **values: object) -> str:
    return why_not(trade.state, told(trade, verb, command_id, **values)).split(" ")[0]


# --- versions and repeats -------------------------------------------------------------------------


@pytest.mark.covers("K6")
def test_stale_version_is_refused_and_the_shown_one_taken() -> None:
    """K6: two operators, one winner."""
    trade, _ = entered()
    seen = trade.state.version
    assert order(trade, "pause", "a", version=seen).startswith("done")
    assert order(trade, "take_over", "b", version=seen).startswith("refused STALE_VERSION")
    assert not trade.state.taken_over
    assert order(trade, "take_over", "c", version=trade.state.version).startswith("done")


def test_version_stands_still_while_only_quotes_and_reads_come() -> None:
    trade, broker = entered()
    seen = trade.state.version
    broker.move(D("99.80"), D("100.05"))
    trade.pass_time(30)
    assert trade.state.version == seen
    broker.move(D("105.10"), D("105.30"))
    trade.pass_time(1)
    assert trade.state.version > seen


def test_same_id_with_another_body_is_a_mismatch_and_a_repeat_is_not() -> None:
    """I17, faults.md §3 rows 36-37; also when the version has moved on."""
    trade, _ = entered()
    seen = trade.state.version
    order(trade, "move_stop", price="97", version=seen)
    again = told(trade, "move_stop", price="97", version=seen)
    assert why_not(trade.state, again) == ""
    other = told(trade, "move_stop", price="98")
    assert why_not(trade.state, other).startswith("IDEMPOTENCY_MISMATCH")


def test_request_and_fact_have_one_body_whoever_sends_it() -> None:
    trade, _ = entered()
    request = OperatorRequest(command_id="x", by="bob", price=D("97"), version=3)
    assert body_of(request.fact("move_stop", trade.now)) == body_of(
        told(trade, "move_stop", price="97", reason="else")
    )
    with pytest.raises(ValueError, match="fly"):
        request.fact("fly", trade.now)


# --- pause, take over, resume ---------------------------------------------------------------------


def test_paused_trade_names_the_entry_that_still_works() -> None:
    trade, _ = start()
    trade.pass_time(1)
    answer = order(trade, "pause")
    assert answer.startswith("done no new entry order; the working entry stays: entry buy 10 @ 100")


def test_taken_over_trade_takes_its_entry_back_and_leaves_protection() -> None:
    trade, broker = start()
    trade.pass_time(1)
    assert order(trade, "take_over").startswith("done yours now; held 0")
    assert not [o for o in broker.orders if o.live]
    trade, broker = entered()
    assert "left resting: target sell 10 @ 105, stop sell 10 @ 96" in order(trade, "take_over")
    assert live_exit_quantity(broker, Side.SELL) == 10


def test_taken_over_trade_ignores_rules_and_time_and_sends_nothing() -> None:
    trade, _ = entered(time_stop_s=D(60))
    order(trade, "take_over")
    epoch = trade.state.position_epoch
    trade.tell(ExitTriggered(at=trade.now, rule_id="r", position_epoch=epoch))
    before = len(trade.commands)
    trade.pass_time(120)
    assert [c for c in trade.commands[before:] if isinstance(c, PlaceOrder | CancelOrder)] == []
    assert order(trade, "resume", "r").startswith("done automation goes on")
    trade.pass_time(10)
    assert ts.exit_reason(trade.state) == "time_stop"


def test_take_over_that_releases_orders_leaves_nothing_and_resume_protects_again() -> None:
    trade, broker = entered(targets=THREE)
    assert order(trade, "take_over", release_orders=True).endswith("left resting: nothing")
    assert live_exit_quantity(broker, Side.SELL) == 0
    order(trade, "resume", "r")
    assert live_exit_quantity(broker, Side.SELL) == 10


def test_taken_over_trade_whose_stop_fills_settles() -> None:
    trade, broker = entered()
    order(trade, "take_over")
    broker.move(D("95"), D("95.25"))
    trade.pass_time(20)
    assert ts.stage(trade.state) is Stage.CLOSED


def test_resume_is_refused_when_the_broker_holds_less_than_the_trade() -> None:
    """I2: protecting what a person sold by hand would open a position the other way round."""
    trade, broker = entered()
    order(trade, "take_over", release_orders=True)
    answer = trade.answer

    def less(command: Command) -> list[object]:
        facts = answer(command)
        position = Position(symbol="AAPL", quantity=D(4))
        return [
            f.model_copy(update={"positions": (position,)}) if isinstance(f, BrokerSnapshot) else f
            for f in facts
        ]

    trade.answer = less  # type: ignore[method-assign, assignment]
    assert order(trade, "resume", "r").startswith("refused POSITION_DIFFERS AAPL")
    assert trade.state.taken_over
    assert live_exit_quantity(broker, Side.SELL) == 0


# --- stop and target ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "values", "code"),
    [
        ("move_stop", {"price": "0"}, "PRICE_NOT_POSITIVE"),
        ("move_stop", {"price": "95"}, "STOP_WIDER"),
        ("move_stop", {"price": "99.75", "reference": "99.75"}, "STOP_BEYOND_MARKET"),
        ("move_target", {"target": 2, "price": "104"}, "TARGET_UNKNOWN"),
        ("move_target", {"target": 1, "price": "96"}, "TARGETS_INVALID"),
        ("move_target", {"target": 1, "price": "99", "reference": "100"}, "TARGET_BEYOND_MARKET"),
        ("cancel_entry", {}, "ENTRY_OVER"),
        ("resolve_order", {"client_id": "nobody"}, "ORDER_NOT_FOUND"),
    ],
)
def test_bad_command_is_named_and_nothing_moves(
    verb: str, values: dict[str, object], code: str
) -> None:
    trade, _ = entered()
    assert refusal(trade, verb, "x", **values) == code
    assert order(trade, verb, "x", **values).startswith(f"refused {code}")
    assert trade.state.stop_price == 96
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_plan_without_a_stop_says_so() -> None:
    trade, _ = entered()
    trade.state = trade.state.changed(plan=trade.state.plan.model_copy(update={"stop": None}))
    assert refusal(trade, "move_stop", price="97") == "STOP_MISSING"


def test_stop_moves_to_the_tick_that_protects_more_and_wider_only_if_meant() -> None:
    trade, _ = entered()
    assert order(trade, "move_stop", "a", price="97.001").startswith("done stop rests at 97.01")
    assert order(trade, "move_stop", "b", price="95", widen=True).startswith(
        "done stop rests at 95"
    )


def test_target_moves_with_its_stop_beside_it() -> None:
    trade, broker = entered(targets=THREE)
    answer = order(trade, "move_target", target=2, price="103")
    assert answer.startswith("done working:")
    assert sorted(o.limit_price for o in trade.state.live(Role.TARGET) if o.limit_price) == [
        102,
        103,
        106,
    ]
    assert live_exit_quantity(broker, Side.SELL) == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING


# --- unknown orders -------------------------------------------------------------------------------


def unknown_stop() -> tuple[Trade, ToyBroker, str]:
    """A trade whose protective order never got an answer and cannot be found."""
    trade, broker = start()

    def lost(command: Command) -> str:
        is_exit = isinstance(command, PlaceOrder) and not command.intent.increasing
        return "lost" if is_exit else ""

    trade.mischief = lost
    hidden = broker.by_client
    broker.by_client = lambda client_id: None  # type: ignore[method-assign]
    resolved = trade._resolved
    trade._resolved = lambda command: []  # type: ignore[method-assign]
    broker.move(D("99.75"), D(100))
    for _ in range(8):
        trade.deliver()
        trade.look()
    unknown = [o for o in trade.state.orders if o.state is OrderState.UNKNOWN]
    assert len(unknown) == 1
    broker.by_client, trade._resolved = hidden, resolved  # type: ignore[method-assign]
    trade.mischief = lambda command: ""
    return trade, broker, unknown[0].client_id


def test_known_order_cannot_be_resolved_and_evidence_is_needed() -> None:
    """I10."""
    trade, _broker, client_id = unknown_stop()
    asked = {"client_id": client_id, "resolution": "dead"}
    assert refusal(trade, "resolve_order", **asked) == "EVIDENCE_REQUIRED"
    known = trade.state.orders[0].client_id
    asked = {"client_id": known, "resolution": "dead", "evidence": "screen"}
    assert refusal(trade, "resolve_order", **asked) == "ORDER_IS_KNOWN"
    asked = {"client_id": client_id, "resolution": "filled", "evidence": "s", "quantity": "11"}
    assert refusal(trade, "resolve_order", **asked) == "QTY_RANGE"


def test_order_filled_by_hand_moves_the_position_and_the_brokers_own_fill_takes_its_place() -> None:
    """A contradiction is told and the broker wins; nothing is counted twice."""
    trade, _broker, client_id = unknown_stop()
    trade.tell(
        told(
            trade,
            "resolve_order",
            client_id=client_id,
            resolution="filled",
            quantity="10",
            price="96.5",
            evidence="broker's screen, order 4711",
        )
    )
    assert ts.is_flat(trade.state)
    assert [a.quantity for a in trade.state.booking] == [-10]
    booked(trade)
    assert not trade.state.booking
    fill = Fill(
        fill_key="late",
        broker_order_id="b-late",
        client_id=client_id,
        symbol="AAPL",
        side=Side.SELL,
        quantity=D(4),
        price=D("96.4"),
        venue_time=trade.now,
    )
    trade.tell(FillReported(at=trade.now, fill=fill))
    assert ts.held_units(trade.state) == 6
    assert [a.quantity for a in trade.state.booking] == [10]
    assert [a.code for a in trade.state.alerts].count("RESOLUTION_CONTRADICTED") == 1


def test_order_said_dead_that_shows_up_working_is_known_again() -> None:
    trade, _broker, client_id = unknown_stop()
    trade.tell(
        told(trade, "resolve_order", client_id=client_id, resolution="dead", evidence="screen")
    )
    record = trade.state.order(client_id)
    assert record is not None
    assert record.state is OrderState.CANCELED
    assert [a.client_id for a in trade.state.answers] == [client_id]
    shown = OrderSnapshot(
        broker_order_id="b9",
        client_id=client_id,
        symbol="AAPL",
        quantity=D(10),
        status=BrokerOrderStatus.WORKING,
    )
    trade.tell(OrderReported(at=trade.now, order=shown))
    record = trade.state.order(client_id)
    assert record is not None
    assert record.state is OrderState.WORKING
    assert "RESOLUTION_CONTRADICTED" in [a.code for a in trade.state.alerts]


# --- release --------------------------------------------------------------------------------------


def test_released_trade_withdraws_its_orders_gives_the_position_away_and_ends() -> None:
    """I3, I20: nothing of ours works any more; the quantity has another owner."""
    trade, broker = entered(targets=THREE)
    trade.tell(told(trade, "release"))
    for _ in range(20):
        trade.look()
    assert not [o for o in broker.orders if o.live]
    assert [a.quantity for a in trade.state.booking] == [D(-10)]
    assert progress_of(trade.state, "x")[0] is Progress.RUNNING
    booked(trade)
    trade.pass_time(10)
    assert ts.stage(trade.state) is Stage.RELEASED
    assert broker.position == 10
    assert progress_of(trade.state, "x")[0] is Progress.DONE
    assert refusal(trade, "pause", command_id="y") == "ALREADY_CLOSED"


def test_release_right_after_a_read_waits_for_the_next_one_and_goes_on_by_itself() -> None:
    """I11: found on the real stack, where no other deadline woke the trade."""
    trade, _ = entered()
    trade.tell(told(trade, "resume", "r"))
    for _ in range(3):
        trade.broker.now += timedelta(milliseconds=50)
        trade.look()
    trade.tell(told(trade, "release"))
    for _ in range(20):
        trade.broker.now += timedelta(milliseconds=50)
        if not trade.state.booking and not trade.look():
            at = next_deadline(trade.state, trade.now)
            assert at is not None, "nothing would wake the trade any more"
            trade.broker.now = at
    assert [a.quantity for a in trade.state.booking] == [D(-10)]


def test_release_refuses_every_other_command_meanwhile() -> None:
    trade, _ = entered()
    trade.tell(told(trade, "release"))
    assert refusal(trade, "resume", command_id="r") == "RELEASING"
    assert why_not(trade.state, close_fact(trade, "c", quantity="1")).startswith("RELEASING")


def not_reducing(trade: Trade, command: Command) -> list[Fact] | None:
    """The last hop holds an exit back: the broker's account does not hold what it would sell."""
    if not isinstance(command, PlaceOrder) or command.intent.key.purpose is not Purpose.FLATTEN:
        return None
    client_id, text = command.intent.client_id, "the broker holds 0"
    code = "NOT_REDUCING"
    return [OrderNotSent(at=trade.now, client_id=client_id, code=code, text=text, retry_after_s=30)]


@pytest.mark.covers("E8")
def test_flatten_that_was_held_back_as_not_reducing_can_be_released() -> None:
    """The runbook sends people there: its stop is gone and no exit will ever be sent (I4, I11)."""
    trade, broker = entered()
    trade.books_at_once = True
    answer = trade.answer
    with patch.object(trade, "answer", lambda c: not_reducing(trade, c) or answer(c)):
        trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="drill"))
        trade.pass_time(5)
        assert trade.state.needs_operator.startswith("NOT_REDUCING")
        assert refusal(trade, "take_over", "t") == "ALREADY_CLOSING"
        trade.tell(told(trade, "release"))
        before = len(trade.commands)
        trade.pass_time(60)
    assert ts.stage(trade.state) is Stage.RELEASED
    assert not [c for c in trade.commands[before:] if isinstance(c, PlaceOrder)]
    assert not [o for o in broker.orders if o.live], "I3"


def test_exit_on_its_way_in_doubt_is_resolved_before_a_release_lets_the_position_go() -> None:
    """I1, I10: an exit without an answer keeps its owner until the broker has told of it."""
    trade, broker = entered(time_stop_s=D(60))
    trade.books_at_once, broker.size = True, D(4)
    answer = trade.answer
    on_the_wire: list[OrderIntent] = []

    def without_an_answer(command: Command) -> list[Fact]:
        if isinstance(command, PlaceOrder) and command.intent.key.purpose is Purpose.EXIT:
            on_the_wire.append(command.intent)
        elif not isinstance(command, ResolveOrder):
            return answer(command)
        client_id = command.intent.client_id
        return [OrderUnknown(at=trade.now, client_id=client_id, reason="no answer")]

    with patch.object(trade, "answer", without_an_answer):
        trade.pass_time(62)
        assert ts.exit_reason(trade.state) == "time_stop"
        trade.tell(told(trade, "release"))
        trade.pass_time(20)
        assert trade.state.releasing
        assert not trade.state.adjustments, "the exit may still arrive"
    [late] = on_the_wire
    broker.place(late)
    trade.pass_time(60)
    assert ts.stage(trade.state) is Stage.RELEASED
    assert broker.position == 6
    assert [a.quantity for a in trade.state.adjustments] == [D(-6)]
    assert not [o for o in broker.orders if o.live], "I3"


@pytest.mark.parametrize("reason", ["flatten", "kill"])
def test_flatten_that_can_sell_is_not_ended_by_a_release(reason: str) -> None:
    trade, broker = entered()
    broker.open_session = False
    fact: Fact = FlattenRequested(at=trade.now, command_id="f", by="ann", reason="out")
    if reason == "kill":
        mode = KillMode.FLATTEN
        fact = KillEngaged(at=trade.now, command_id="k", by="ann", reason="out", mode=mode)
    trade.tell(fact)
    trade.pass_time(5)
    assert refusal(trade, "release") == "ALREADY_CLOSING"


# --- answers --------------------------------------------------------------------------------------


def test_close_answers_running_until_the_part_is_gone() -> None:
    trade, broker = entered()
    broker.open_session = False
    trade.tell(close_fact(trade, "c", quantity="4"))
    trade.pass_time(10)
    progress, text = progress_of(trade.state, "c")
    assert (progress, "6 stay; pending: session closed" in text) == (Progress.RUNNING, True)
    broker.open_session = True
    trade.pass_time(10)
    assert progress_of(trade.state, "c") == (Progress.DONE, "held 6, protection resting")


def test_cancelled_entry_is_done_when_what_filled_is_protected() -> None:
    trade, broker = start()
    trade.pass_time(1)
    broker.size = D(4)
    broker.move(D("99.75"), D(100))
    broker.move(D("101"), D("101.25"))
    answer = order(trade, "cancel_entry")
    assert answer == "done entry is dead; held 4, protection resting"


def test_every_verb_has_its_progress_and_unknown_ids_say_so() -> None:
    trade, _ = entered()
    assert progress_of(trade.state, "never") == (Progress.UNKNOWN, "")
    for number, verb in enumerate(OperatorVerb):
        trade.tell(told(trade, verb, f"v{number}"))
        assert progress_of(trade.state, f"v{number}")[0] is not Progress.UNKNOWN
    _, commands = decide(trade.state, trade.now)
    assert any(isinstance(c, Alert) for c in commands)


# --- all of it at any time ------------------------------------------------------------------------

COMMANDS: tuple[tuple[str, dict[str, object]], ...] = (
    ("pause", {}),
    ("resume", {}),
    ("take_over", {}),
    ("take_over", {"release_orders": True}),
    ("cancel_entry", {}),
    ("move_stop", {"price": "98", "widen": True}),
    ("move_target", {"target": 1, "price": "103"}),
    ("close", {"fraction": "0.5"}),
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    rate=st.sampled_from([0.0, 0.2]),
    size=st.sampled_from([3, 100]),
    given_at=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(COMMANDS)), max_size=4),
)
def test_any_commands_at_any_time_keep_the_invariants_and_flatten_still_ends_it(
    seed: int,
    rate: float,
    size: int,
    given_at: list[tuple[int, tuple[str, dict[str, object]]]],
) -> None:
    """I1, I4, I15; I11: after resume and flatten the trade ends flat, whatever was ordered."""
    rng = random.Random(seed)
    broker = ToyBroker(symbol="AAPL", bid=D("99.75"), ask=D(100), size=D(size))
    plan = make_plan(targets=THREE, ratchet=RATCHET)
    trade = Checked(plan, broker, rng=rng, mischief=mischief_of(rng, rate))
    for turn in range(50):
        for number, (at, (verb, values)) in enumerate(given_at):
            if turn == at:
                request = OperatorRequest.model_validate(
                    {"command_id": f"c{number}", "by": "ann"} | values
                )
                trade.tell(request.fact(verb, trade.now))
        if rng.random() < 0.4:
            bid = rng.choice(PRICES)
            broker.move(bid, bid + D("0.25"))
            trade.check()
        trade.deliver()
        trade.look()
        trade.check()
        broker.now += timedelta(seconds=rng.choice([0, 0.2, 1, 4]))
    trade.mischief = lambda command: ""
    broker.size = D(10**6)
    trade.tell(told(trade, "resume", "last"))
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="end of test"))
    for _ in range(40):
        trade.pass_time(10)
        trade.check()
        if ts.is_final(trade.state):
            break
    assert ts.is_final(trade.state), ts.stage(trade.state)
    assert broker.position == 0
    assert not [o for o in broker.orders if o.live], "I3"


# --- answers that once were not true --------------------------------------------------------------


def answer_of(trade: Trade, command_id: str) -> str:
    return " ".join(progress_of(trade.state, command_id))


def test_first_of_two_closes_runs_until_both_are_done() -> None:
    trade, broker = entered()
    broker.open_session = False
    trade.tell(close_fact(trade, "c1", quantity="4"))
    trade.tell(close_fact(trade, "c2", quantity="2"))
    trade.pass_time(10)
    assert answer_of(trade, "c1").startswith("running held 10, protection")
    broker.open_session = True
    trade.pass_time(20)
    assert broker.position == 4
    assert answer_of(trade, "c1").startswith("done held 4")


def test_commands_that_a_take_over_ends_say_so() -> None:
    trade, broker = entered(targets=THREE)
    broker.open_session = False
    trade.tell(close_fact(trade, "c", quantity="4"))
    trade.pass_time(10)
    trade.tell(told(trade, "move_target", "m", target=3, price="103"))
    assert order(trade, "take_over", "t", release_orders=True).startswith("done")
    assert answer_of(trade, "c").startswith("refused SUPERSEDED")
    assert answer_of(trade, "m").startswith("refused SUPERSEDED")


@pytest.mark.parametrize("others", [1, 70])
def test_refused_resume_is_told_to_the_one_that_was_taken(others: int) -> None:
    """Also after so many commands that nobody remembers it: the fold never raises."""
    trade, _broker = entered()
    order(trade, "take_over")
    trade.tell(told(trade, "resume", "taken"))
    for number in range(others):
        trade.tell(told(trade, "resume", f"stale-{number}", version=0))
    trade.tell(
        BrokerSnapshot(at=trade.now, started_at=trade.now, orders=(), positions=(), fills=())
    )
    assert trade.state.taken_over
    assert "RESUME_REFUSED" in [alert.code for alert in trade.state.alerts]
    told_so = "refused POSITION_DIFFERS" if others == 1 else "unknown"
    assert answer_of(trade, "taken").startswith(told_so)
    assert answer_of(trade, f"stale-{others - 1}").startswith("refused STALE_VERSION")


def test_resume_of_a_trade_that_ended_is_done() -> None:
    trade, broker = entered()
    broker.move(D("95"), D("95.25"))
    trade.pass_time(1)
    trade.tell(told(trade, "resume", "r"))
    trade.pass_time(20)
    assert ts.is_final(trade.state)
    assert answer_of(trade, "r").startswith(("done", "refused ALREADY_CLOSED"))


# --- a trade that the broker has forgotten --------------------------------------------------------


def forgotten() -> tuple[Trade, ToyBroker]:
    """Flattened at an exchange that began anew: cancels are refused, nothing ever settles it."""
    trade, broker = entered()
    trade.books_at_once = True
    broker.orders.clear()
    broker.fills.clear()
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="enough"))
    trade.pass_time(60)
    assert ts.stage(trade.state) is Stage.NEEDS_OPERATOR
    return trade, broker


def test_trade_that_the_broker_forgot_is_closed_by_a_persons_evidence() -> None:
    """I10: every order and the position are answered for; the broker is read once more."""
    trade, _ = forgotten()
    assert refusal(trade, "close_as_flat") == "EVIDENCE_REQUIRED"
    order(trade, "close_as_flat", evidence="the broker's screen shows nothing")
    trade.pass_time(5)
    assert ts.stage(trade.state) is Stage.CLOSED
    assert ts.is_flat(trade.state)
    assert not trade.state.live()
    assert "done" in " ".join(progress_of(trade.state, "x"))
    assert ts.exit_reason(trade.state) == "as-flat"


def test_answer_for_a_forgotten_trade_is_booked_for_each_order_and_the_position() -> None:
    trade, _ = forgotten()
    live = {o.client_id for o in trade.state.live() if o.intent is not None}
    order(trade, "close_as_flat", evidence="seen")
    (command,) = [c for c in trade.commands if isinstance(c, BookByHand)]
    assert {answer.client_id for answer in command.answers} == live
    (moved,) = command.adjustments
    assert (moved.quantity, moved.price) == (D(-10), None)


def test_order_that_is_alive_after_all_takes_the_persons_answer_back() -> None:
    """The broker's own facts win: nothing is cancelled, the position is held again."""
    trade, broker = entered()
    trade.books_at_once = True
    answer = order(trade, "close_as_flat", evidence="I thought so")
    assert answer.startswith("refused RESOLUTION_CONTRADICTED")
    assert not [c for c in trade.commands if isinstance(c, CancelOrder)]
    assert ts.held_units(trade.state) == broker.position == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING
    assert live_exit_quantity(broker, Side.SELL) == 10


# --- small truths ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_is", [OrderState.PENDING_NEW, OrderState.UNKNOWN, None])
def test_part_close_is_done_only_when_the_rest_has_its_stop(stop_is: OrderState | None) -> None:
    """Nobody is told `done` while the smaller stop is on its way, in doubt or missing."""
    trade, broker = entered()
    trade.tell(close_fact(trade, quantity="4"))
    trade.pass_time(5)
    assert progress_of(trade.state, "c")[0] is Progress.DONE
    assert live_exit_quantity(broker, Side.SELL) == 6
    state = trade.state
    for stop in state.live(Role.STOP):
        update = {"state": stop_is or OrderState.CANCELED}
        state = state.with_order(stop.model_copy(update=update))
    assert progress_of(state, "c")[0] is Progress.RUNNING
    assert progress_of(state.changed(taken_over=True), "c")[0] is Progress.DONE


def test_trade_that_has_ended_is_in_nobodys_hand() -> None:
    trade, broker = entered()
    trade.tell(told(trade, "pause", "p"))
    assert ts.hand(trade.state) == "paused"
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="out"))
    trade.pass_time(10)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    assert ts.hand(trade.state) == ""
    assert "paused" not in story_of(trade.state)


def test_story_writes_numbers_as_people_do() -> None:
    """No exponent and no zeros behind the last digit that counts."""
    trade, _ = entered()
    state = trade.state.changed(
        stop_price=D("1E+2"), realised=D("-1.250000"), fees=D("0E-10"), settled=True
    )
    text = story_of(state)
    assert "stop 100" in text
    assert "realised -1.25 after fees 0" in text
    assert not re.search(r"\dE[+-]", text)
    assert not re.search(r"\.\d*0\b", text), text
