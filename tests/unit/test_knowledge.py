"""What a trade lacks of what the ledger knows (faults.md H3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from domain.ids import DIRECT_SEQUENCE_FIRST, Purpose, client_id_of_prefix, trade_prefix
from domain.knowledge import Lack, TradeKnowledge, lack_of

PREFIX = trade_prefix("abcd", "trade-1")


def own(purpose: Purpose, sequence: int, leg: int = 0, body: str = "0" * 8) -> str:
    return client_id_of_prefix(PREFIX, leg, purpose, sequence, body)


ENTRY, STOP, MOVED = own(Purpose.ENTRY, 1), own(Purpose.STOP, 1), own(Purpose.STOP, 2)
DIRECT = own(Purpose.FLATTEN, DIRECT_SEQUENCE_FIRST)
ENDED = datetime(2026, 3, 2, 15, tzinfo=UTC)
KNOWN = TradeKnowledge(orders=(ENTRY, STOP), fills=("f1", "f2"))


@pytest.mark.parametrize(
    ("sent", "filled", "ended_at", "lack"),
    [
        ([ENTRY, STOP], ["f1", "f2"], None, Lack.NOTHING),
        ([ENTRY], ["f1"], None, Lack.NOTHING),
        ([ENTRY, STOP, MOVED], ["f1", "f2"], None, Lack.ORDERS),
        ([ENTRY, STOP, own(Purpose.STOP, 1, leg=1)], ["f1"], None, Lack.ORDERS),
        ([ENTRY, STOP, DIRECT, "somebody-else"], ["f1"], None, Lack.NOTHING),
        ([ENTRY, STOP], ["f1", "f2", "f3"], None, Lack.FILLS),
        ([ENTRY, STOP, MOVED], ["f3"], None, Lack.ORDERS),
        ([ENTRY, STOP], ["f1", "f2"], ENDED, Lack.END),
    ],
    ids=[
        "the same",
        "an older copy of the ledger",
        "its stop was moved",
        "another leg's order",
        "a flatten past the workflow, a foreign order",
        "a fill",
        "an order outweighs a fill",
        "its end is booked",
    ],
)
def test_a_trade_lacks_what_only_the_ledger_knows(
    sent: list[str], filled: list[str], ended_at: datetime | None, lack: Lack
) -> None:
    assert lack_of(KNOWN, sent=sent, filled=filled, ended_at=ended_at) is lack


def test_a_trade_that_forgot_dead_orders_lacks_nothing_while_it_knows_the_last_of_a_kind() -> None:
    """I16: a long trade carries the newest of each kind only."""
    known = TradeKnowledge(orders=(ENTRY, own(Purpose.STOP, 90)))
    sent = [ENTRY, *(own(Purpose.STOP, number) for number in range(1, 91))]
    assert lack_of(known, sent=sent, filled=[]) is Lack.NOTHING


def test_a_trade_that_forgot_what_it_sent_before_an_order_that_never_went_out_lacks_nothing() -> (
    None
):
    """It could never end: each settlement gave it up, and the rebuilt one had forgotten the same
    orders (`forget` keeps the last intent of a kind, here one that the lane took too long for)."""
    known = TradeKnowledge(orders=(ENTRY,), unsent=(own(Purpose.STOP, 30),))
    sent = [ENTRY, *(own(Purpose.STOP, number) for number in range(1, 30))]
    assert lack_of(known, sent=sent, filled=[]) is Lack.NOTHING


def test_a_trade_that_was_set_back_into_a_step_lacks_the_order_that_it_believes_unsent() -> None:
    known = TradeKnowledge(orders=(ENTRY,), unsent=(STOP,))
    assert lack_of(known, sent=[ENTRY, STOP], filled=[]) is Lack.ORDERS


def test_an_order_whose_row_nobody_could_close_is_no_lack_of_who_knows_that_it_was_unsent() -> None:
    """The gate's commit lost its answer, the row stayed open: reconcile finds it absent (I10)."""
    known = TradeKnowledge(orders=(ENTRY,), unsent=(STOP,))
    sent = [ENTRY, STOP]
    assert lack_of(known, sent=sent, in_doubt=[STOP], filled=[]) is Lack.NOTHING
    never_heard = TradeKnowledge(orders=(ENTRY,))
    assert lack_of(never_heard, sent=sent, in_doubt=[STOP], filled=[]) is Lack.ORDERS


@pytest.mark.parametrize("later", [(), (MOVED,)], ids=["its last", "another went out behind it"])
def test_a_trade_that_decided_otherwise_after_it_was_set_back_lacks_the_order_in_that_place(
    later: tuple[str, ...],
) -> None:
    """The gate refuses the other body, and the next sequence went past what the ledger has."""
    other = own(Purpose.STOP, 1, body="f" * 8)
    known = TradeKnowledge(orders=(ENTRY, *later), unsent=(other,))
    assert lack_of(known, sent=[ENTRY, STOP], filled=[]) is Lack.ORDERS


def test_a_fill_that_was_taken_back_before_the_trade_heard_of_it_is_no_lack() -> None:
    known = KNOWN.model_copy(update={"busted": ()})
    found = lack_of(known, sent=[ENTRY, STOP], filled=["f1", "f2", "f3"], taken_back=["f3"])
    assert found is Lack.NOTHING


@pytest.mark.parametrize(
    ("busted", "lack"),
    [((), Lack.FILLS), (("f2",), Lack.NOTHING), (None, Lack.NOTHING)],
    ids=["it believes to hold it", "it knows", "a build that does not tell"],
)
def test_a_trade_set_back_behind_a_bust_lacks_it(
    busted: tuple[str, ...] | None, lack: Lack
) -> None:
    known = KNOWN.model_copy(update={"busted": busted})
    found = lack_of(known, sent=[ENTRY, STOP], filled=["f1", "f2"], taken_back=["f2"])
    assert found is lack


def test_a_reopened_trade_whose_row_still_shows_the_old_end_lacks_nothing() -> None:
    known = KNOWN.model_copy(update={"ended_at": ENDED})
    assert lack_of(known, sent=[], filled=[], ended_at=ENDED) is Lack.NOTHING
    later = ENDED + timedelta(seconds=1)
    assert lack_of(known, sent=[], filled=[], ended_at=later) is Lack.END


@pytest.mark.parametrize(
    ("commands", "lack"),
    [(("p1",), Lack.WORDS), (("p1", "p2"), Lack.NOTHING), (None, Lack.NOTHING)],
    ids=["it lacks one", "it knows", "it does not tell"],
)
def test_a_trade_lacks_what_a_person_told_it(commands: tuple[str, ...] | None, lack: Lack) -> None:
    known = KNOWN.model_copy(update={"commands": commands})
    assert lack_of(known, sent=[ENTRY, STOP], filled=["f1"], told=["p1", "p2"]) is lack
