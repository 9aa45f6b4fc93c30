"""What a person did to a trade survives a lost Temporal store (architecture §5, K6)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from activities.restore_hand import hand_in
from domain import trade_state as ts
from domain.facts import FlattenRequested, OperatorCommand, OperatorVerb
from domain.order import Side
from domain.restore import rebuild
from domain.restore_hand import Hand, standing_flattens, standing_words
from domain.trade_state import Role
from ledger.records import AuditRow
from tests.unit.test_part_close import entered
from tests.unit.test_restore import known_orders
from tests.unit.toy_broker import ToyBroker, Trade, live_exit_quantity

D = Decimal
AT = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)


def row(verb: str, command_id: str, what: str, **details: Any) -> AuditRow:
    """A row of the audit as the command line writes it."""
    told = {"command_id": command_id, "what": what, **details}
    return AuditRow(
        sequence=1,
        at=AT,
        actor="ann",
        action=f"trade.{verb}",
        subject="t",
        details=json.dumps(told),
        previous_hash="",
        hash="",
    )


def command(
    verb: str, command_id: str | None = None, end: str | None = "done", **details: Any
) -> list[AuditRow]:
    """Asked with these words and answered so; `end` None: nobody knows what came of it."""
    name = command_id or verb
    rows = [row(verb, name, "asked", reason="why", version=3, **details)]
    if end == "refused_at_once":
        return [*rows, row(verb, name, "refused", code="NO")]
    return rows if end is None else [*rows, row(verb, name, "answered", progress=end)]


def again(trade: Trade, broker: ToyBroker, *rows: list[AuditRow]) -> Trade:
    """The trade rebuilt from its orders and these rows."""
    hand = hand_in([each for group in rows for each in group])
    trade.state = rebuild(
        trade.state.plan,
        trade.state.installation,
        trade.state.clock,
        ticket=trade.state.ticket,
        orders=known_orders(trade, broker),
        fills=broker.fills,
        now=trade.now,
        hand=hand,
    )
    trade.books_at_once = True
    return trade


@pytest.mark.parametrize(
    ("rows", "hand"),
    [
        ([command("pause")], "paused"),
        ([command("pause"), command("resume")], ""),
        ([command("pause", end="refused")], ""),
        ([command("pause", end="refused_at_once")], ""),
        ([command("pause", end=None)], "paused"),
        ([command("take_over")], "taken_over"),
        ([command("take_over"), command("pause")], "taken_over"),
        ([command("take_over"), command("resume", end=None)], "taken_over"),
        ([command("pause"), command("resume", end=None)], "taken_over"),
        ([command("dance")], "taken_over"),
        ([command("move_stop", price={"no": "price"})], "taken_over"),
        ([], ""),
    ],
)
def test_rebuilt_trade_is_in_the_hand_that_it_was_in(rows: list[list[AuditRow]], hand: str) -> None:
    """What is not known for certain leaves it with the person."""
    trade, broker = entered()
    again(trade, broker, *rows)
    assert ts.hand(trade.state) == hand


def test_taken_over_trade_keeps_what_rests_and_touches_nothing() -> None:
    trade, broker = entered()
    resting = live_exit_quantity(broker, Side.SELL)
    again(trade, broker, command("take_over"))
    since = len(broker.journal)
    trade.pass_time(30)
    assert broker.journal[since:] == []
    assert live_exit_quantity(broker, Side.SELL) == resting


def test_withdrawn_orders_stay_withdrawn() -> None:
    trade, broker = entered()
    again(trade, broker, command("take_over", release_orders=True))
    trade.pass_time(10)
    assert live_exit_quantity(broker, Side.SELL) == 0


def test_resumed_trade_looks_at_the_broker_before_automation_goes_on() -> None:
    trade, broker = entered()
    again(trade, broker, command("take_over"), command("resume"))
    assert ts.hand(trade.state) == "taken_over"
    trade.pass_time(5)
    assert ts.hand(trade.state) == ""
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_moved_target_is_moved_again_and_a_moved_stop_that_was_not_done_too() -> None:
    trade, broker = entered()
    moved = command("move_target", target=1, price="106")
    again(trade, broker, moved, command("move_stop", end="running", price="98"))
    trade.pass_time(10)
    assert ts.target_price(trade.state, 0) == D("106")
    assert [o.limit_price for o in trade.state.live(Role.TARGET)] == [D("106")]
    assert trade.state.stop_price == 98


def test_stop_that_rests_is_believed_and_not_what_was_asked_of_it_once() -> None:
    """It was moved there by hand, and the ratchet may have moved it since."""
    trade, broker = entered()
    rests = trade.state.stop_price
    again(trade, broker, command("move_stop", price="95", widen=True))
    assert trade.state.stop_price == rests


def test_part_that_was_sold_is_not_sold_again_and_a_whole_close_goes_on() -> None:
    trade, broker = entered()
    again(trade, broker, command("close", quantity="4"))
    trade.pass_time(10)
    assert broker.position == 10
    again(trade, broker, command("close", "c2", end="running", fraction="1"))
    trade.pass_time(10)
    assert broker.position == 0


def test_released_trade_goes_on_letting_go() -> None:
    trade, broker = entered()
    again(trade, broker, command("release", end="running"))
    trade.pass_time(30)
    assert ts.stage(trade.state) is ts.Stage.RELEASED
    assert not trade.state.live()


def test_flatten_that_a_release_ended_does_not_begin_again() -> None:
    """It was held back (`NOT_REDUCING`), and the person took the position for themselves."""
    trade, broker = entered()
    again(trade, broker, command("flatten"), command("release", end="running"))
    trade.pass_time(30)
    assert ts.stage(trade.state) is ts.Stage.RELEASED
    assert broker.position == 10


@pytest.mark.parametrize("end", [None, "unknown"])
def test_release_that_nobody_answered_ends_no_flatten(end: str | None) -> None:
    """It may have been refused: the flatten was the stronger word."""
    trade, broker = entered()
    again(trade, broker, command("flatten"), command("release", end=end))
    trade.pass_time(30)
    assert broker.position == 0


def test_flatten_of_a_trade_in_a_persons_hand_still_works_after_the_rebuild() -> None:
    trade, broker = entered()
    again(trade, broker, command("take_over"))
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="out"))
    trade.pass_time(10)
    assert broker.position == 0


def test_flatten_that_waits_for_the_open_is_not_forgotten() -> None:
    """It had sent no exit yet, so no order shows it."""
    trade, broker = entered()
    again(trade, broker, command("flatten", end=None))
    assert ts.wants_exit(trade.state)
    trade.pass_time(10)
    assert broker.position == 0
    assert ts.exit_reason(trade.state) == "flatten"


def test_rebuilt_trade_in_a_closed_market_keeps_its_stop() -> None:
    """G2, I4: its entry's hours passed for just read; the stop was released for an exit."""
    trade, broker = entered()
    broker.open_session = False
    again(trade, broker, command("flatten", end=None))
    least = live_exit_quantity(broker, Side.SELL)
    sent = len(broker.orders)
    for _ in range(100):
        trade.pass_time(0.1)
        least = min(least, live_exit_quantity(broker, Side.SELL))
    assert least > 0
    assert len(broker.orders) == sent, "no exit went to the closed market"


def test_rebuilt_trade_prices_its_exit_from_the_market_of_now() -> None:
    """I13: the quote of its entry passed for just read; the exit stood above the market."""
    trade, broker = entered()
    broker.bid, broker.ask = D("96.75"), D("97.00")  # lower than at the entry, above the stop
    again(trade, broker, command("flatten", end=None))
    trade.pass_time(0.5)
    exits = [o.limit_price for o in trade.state.orders if o.role is Role.EXIT]
    assert exits
    assert all(price is not None and price <= D("96.75") for price in exits)


def test_rows_become_commands_in_the_order_in_which_they_were_asked() -> None:
    hand = hand_in([*command("pause"), *command("close", fraction="1"), *command("resume")])
    verbs = [
        each.command.verb if isinstance(each.command, OperatorCommand) else "close"
        for each in hand.told
    ]
    assert verbs == [OperatorVerb.PAUSE, "close", OperatorVerb.RESUME]
    assert {each.command.by for each in hand.told} == {"ann"}
    assert hand.unsure == ""
    assert hand_in([]) == Hand()
    assert hand.told[0].command.at == AT


@pytest.mark.covers("H3")
@pytest.mark.parametrize(
    "rows",
    [
        [command("pause"), command("resume"), command("take_over")],
        [command("flatten"), command("take_over"), command("resume", "r2")],
        [command("take_over"), command("release"), command("pause")],
        [command("move_stop", price="98"), command("move_target", target=1, price="120")],
        [command("pause", end="running"), command("close", fraction="0.5")],
    ],
    ids=["hands", "a flatten before", "a release", "prices", "a part"],
)
def test_rebuilt_trade_has_heard_every_word_that_the_health_watch_asks_for(
    rows: list[list[AuditRow]],
) -> None:
    """Else it would be given up again and again for what it lacks."""
    trade, broker = entered()
    again(trade, broker, *rows)
    hand = hand_in([each for group in rows for each in group])
    words = standing_words(hand)
    assert set(words) <= set(trade.state.seen_commands)
    assert words


def test_flatten_stands_until_another_command_was_taken() -> None:
    """One that was asked before the person took the trade over is theirs no more."""
    asked = command("flatten", end=None)
    (fact,) = standing_flattens(hand_in(asked))
    assert fact.command_id == "flatten"
    assert standing_flattens(hand_in([*asked, *command("take_over")])) == ()
    assert standing_flattens(hand_in([*command("take_over"), *asked])) == (fact,)
    assert standing_flattens(hand_in(asked), since=fact.at) == ()
