"""Trades, signals, exit watches, leases, cursors, breakers (A1, D9, I17, R8)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.control import BreakerState, ConditionKind, TripReason
from domain.errors import Refused
from domain.facts import AdjustmentKind
from domain.ids import trade_prefix
from domain.order import Side
from ledger.records import AdjustmentRecord, SignalRecord, WatchRecord
from ledger.repository import Ledger
from tests.fixtures_postgres import run_as_superuser
from tests.ledger.samples import ACCOUNT, NOW, fill, intent, owner, plan, snapshot


async def test_plan_comes_back_equal_and_a_double_is_refused(armed: Ledger) -> None:
    created = await armed.create_trade(plan(), build_id="build-7")
    assert created.plan == plan()
    assert (created.stage, created.build_id) == ("planned", "build-7")
    await armed.update_trade("trade-1", stage="entering")
    assert (await armed.create_trade(plan())).stage == "entering"
    with pytest.raises(Refused) as raised:
        await armed.create_trade(plan(note="other"))
    assert raised.value.code == "TRADE_EXISTS"
    prefix = trade_prefix(await armed.installation_id(), "trade-1")
    assert await armed.trade_of_prefix(prefix) == await armed.trade("trade-1")


async def test_closing_stamps_once_and_a_late_fill_reopens(armed: Ledger) -> None:
    """D9."""
    await armed.create_trade(plan())
    closed = await armed.update_trade("trade-1", stage="closed", closed=True, result="target")
    again = await armed.update_trade("trade-1", closed=True)
    assert closed.closed_at is not None
    assert again.closed_at == closed.closed_at
    assert again.result == "target"
    assert await armed.list_trades(open_only=True) == ()
    reopened = await armed.update_trade("trade-1", stage="recovery", closed=False)
    assert reopened.closed_at is None
    assert [one.trade_id for one in await armed.list_trades(open_only=True)] == ["trade-1"]


async def test_end_that_a_fill_overtook_is_taken_back_once_and_a_later_one_stands(
    armed: Ledger,
) -> None:
    """D9: the trade goes on and says until when an end was booked; an old writer says it again."""
    await armed.create_trade(plan())
    first = await armed.update_trade("trade-1", stage="closed", closed=True)
    reopened = await armed.update_trade("trade-1", stage="open", reopened_at=first.closed_at)
    assert reopened.closed_at is None
    second = await armed.update_trade("trade-1", stage="closed", closed=True)
    late = await armed.update_trade("trade-1", stage="open", reopened_at=first.closed_at)
    assert late.closed_at == second.closed_at


async def test_update_changes_what_is_given_and_nothing_else(armed: Ledger) -> None:
    await armed.create_trade(plan(), stage="born", build_id="b-1", config_hash="c-1")
    given: dict[str, Any] = {
        "stage": "open",
        "protection": "resting",
        "result": "target",
        "story": "once upon a time",
        "build_id": "b-2",
        "document": {"number": "1"},
    }
    for name, value in given.items():
        before = await armed.trade("trade-1")
        after = await armed.update_trade("trade-1", **{name: value})
        assert before is not None
        assert getattr(after, name) == value
        assert after.updated_at > before.updated_at
        left = {name: value, "updated_at": after.updated_at}
        assert after == before.model_copy(update=left)
        assert await armed.trade("trade-1") == after
    assert (after.config_hash, after.closed_at, after.settled_at) == ("c-1", None, None)


@pytest.mark.parametrize(("estimated", "words"), [(True, "fees estimated"), (False, "after fees")])
async def test_close_is_told_with_its_result_and_whose_fees(
    armed: Ledger, estimated: bool, words: str
) -> None:
    await armed.create_trade(plan())
    await armed.open_gate(intent(), owner(), "t1", NOW)
    await armed.record_snapshot(ACCOUNT, snapshot(client_id=intent().client_id))
    await armed.record_fill(ACCOUNT, fill())
    settled = await armed.settle_trade(
        "trade-1", Decimal("1.500000"), Decimal("0.1"), fees_estimated=estimated, result="target"
    )
    assert (settled.result, settled.fees_estimated) == ("target", estimated)
    told, _ = await armed.list_alerts()
    assert (told.code, told.account, told.trade_id) == ("TRADE_CLOSED", ACCOUNT, "trade-1")
    assert told.text == f"AAPL sma: target, +1.50 {words}"
    again = await armed.settle_trade("trade-1", Decimal(2), Decimal(0), fees_estimated=False)
    assert (again.result, again.realised) == ("target", Decimal(2))
    assert again.closed_at == settled.closed_at
    assert again.settled_at is not None
    assert estimated or again.settled_at == settled.settled_at


async def test_settlement_is_exact_and_final_when_fees_are_booked(armed: Ledger) -> None:
    await armed.create_trade(plan())
    estimated = await armed.settle_trade(
        "trade-1", Decimal("125.50"), Decimal("0.10"), fees_estimated=True
    )
    assert estimated.settled_at is None
    final = await armed.settle_trade(
        "trade-1", Decimal("125.50"), Decimal("0.12"), fees_estimated=False, result="target"
    )
    assert final.settled_at is not None
    assert final.closed_at == estimated.closed_at
    assert (str(final.realised), str(final.fees)) == ("125.50", "0.12")


async def test_unknown_trade_is_refused_by_name(armed: Ledger) -> None:
    with pytest.raises(Refused, match="nothing") as raised:
        await armed.update_trade("nothing", stage="x")
    assert raised.value.code == "TRADE_UNKNOWN"
    assert await armed.trade("nothing") is None


async def test_trades_are_listed_by_every_filter(armed: Ledger) -> None:
    for number in range(3):
        await armed.create_trade(plan(f"trade-{number}"))
    assert len(await armed.list_trades(session="s-1", account=ACCOUNT)) == 3
    assert await armed.list_trades(strategy="other") == ()
    assert len(await armed.list_trades(symbol="AAPL", limit=2)) == 2


async def test_every_trade_and_signal_is_listed_beyond_a_thousand(
    armed: Ledger, ledger_dsn: str
) -> None:
    """H3: a restore, a kill or a flatten that stopped at the oldest thousand left the rest."""
    await armed.create_trade(plan("trade-0"))
    await run_as_superuser(
        ledger_dsn,
        "INSERT INTO trades SELECT (jsonb_populate_record(t, jsonb_build_object("
        "'trade_id', 'trade-' || n, 'client_prefix', 'prefix-' || n))).*"
        " FROM trades t, generate_series(1, 1100) n",
        "INSERT INTO signals (signal_id, session, account, strategy, symbol, decision,"
        " signal_time, recorded_at) SELECT 'signal-' || n, 's-1', account, strategy, symbol,"
        " 'taken', now(), now() FROM trades t, generate_series(1, 1100) n"
        " WHERE t.trade_id = 'trade-0'",
    )
    listed = {each.trade_id for each in await armed.list_trades(account=ACCOUNT, open_only=True)}
    assert listed == {f"trade-{n}" for n in range(1101)}
    assert len(await armed.list_signals(session="s-1")) == 1100


@pytest.mark.covers("A1")
async def test_signal_told_fifty_times_is_one_signal(armed: Ledger) -> None:
    """A1."""
    signal = SignalRecord(
        signal_id="sig-1",
        session="s-1",
        account=ACCOUNT,
        strategy="sma",
        symbol="AAPL",
        decision="taken",
        signal_time=NOW,
        recorded_at=NOW,
        document={"confidence": "0.7"},
    )
    told = await asyncio.gather(*(armed.record_signal(signal) for _ in range(50)))
    assert sum(told) == 1
    assert await armed.list_signals(session="s-1") == (signal,)
    assert await armed.decide_signal("sig-1", "refused", code="KILLED", trade_id="trade-1")
    (decided,) = await armed.list_signals()
    assert (decided.decision, decided.code, decided.trade_id) == ("refused", "KILLED", "trade-1")


def _signal(number: int, decision: str = "taken", session: str = "s-1") -> SignalRecord:
    return SignalRecord(
        signal_id=f"{session}/{number}",
        session=session,
        account=ACCOUNT,
        strategy="sma",
        symbol="AAPL",
        side=Side.SELL,
        decision=decision,
        signal_time=NOW + timedelta(seconds=number),
        recorded_at=NOW + timedelta(minutes=1),
    )


async def test_signals_are_found_by_id_session_account_and_time(armed: Ledger) -> None:
    told = [_signal(number) for number in range(4)]
    for each in (*reversed(told), _signal(9, session="s-2")):
        assert await armed.record_signal(each)
    assert await armed.signal("s-1/2") == told[2]
    assert await armed.signal("nothing") is None
    assert await armed.list_signals(session="s-1", account=ACCOUNT) == tuple(told)
    assert await armed.list_signals(account="nobody") == ()
    since, until = told[1].signal_time, told[3].signal_time
    assert await armed.list_signals(since=since, until=until) == (told[1], told[2])
    assert await armed.list_signals(limit=2) == (told[0], told[1])
    assert not await armed.decide_signal("nothing", "refused")


async def test_signals_are_counted_by_session_and_decision(armed: Ledger) -> None:
    for each in (_signal(1), _signal(2), _signal(3, "late"), _signal(4, session="s-2")):
        await armed.record_signal(each)
    assert await armed.count_signals("s-1", "taken") == 2
    assert await armed.count_signals("s-1", "late") == 1
    assert await armed.count_signals("s-3", "taken") == 0


async def test_sessions_join_signals_and_trades_newest_first(armed: Ledger) -> None:
    """A session without a trade is one too: its signals say when it ran."""
    for each in (_signal(1), _signal(5, "late"), _signal(2), _signal(0, "late", "s-0")):
        await armed.record_signal(each)
    await armed.create_trade(plan())
    await armed.create_trade(plan("trade-2").model_copy(update={"session": "s-9"}))
    last, first, before = await armed.sessions()
    assert (last.name, last.trades, last.decisions) == ("s-9", 1, 0)
    assert (first.name, first.account) == ("s-1", ACCOUNT)
    assert (first.trades, first.decisions, first.taken) == (1, 3, 2)
    assert (first.first_at, first.last_at) == (_signal(1).signal_time, _signal(5).signal_time)
    assert (before.name, before.trades, before.decisions, before.taken) == ("s-0", 0, 1, 0)


async def test_book_of_a_trade_is_its_own_rows_in_their_order(armed: Ledger) -> None:
    """What a restore and a person read: I13, R6."""
    assert await armed.trade_book("trade-1") is None
    for number, name in enumerate(("trade-1", "trade-2")):
        record = await armed.create_trade(plan(name))
        for sequence in range(2):
            sent = intent(name, sequence=sequence)
            await armed.open_gate(sent, owner(name), "t1", NOW)
            broker_id = f"b-{number}-{sequence}"
            await armed.record_snapshot(ACCOUNT, snapshot(broker_id, client_id=sent.client_id))
            await armed.record_fill(ACCOUNT, fill(broker_id, broker_order_id=broker_id))
        for later in (1, 0):
            await armed.record_adjustment(_moved(name, later))
    book = await armed.trade_book("trade-1")
    assert book is not None
    first = await armed.trade("trade-1")
    assert book.trade == first != record
    assert [o.intent.key.sequence for o in book.orders] == [0, 1]
    assert [row.fill.fill_key for row in book.fills] == ["b-0-0", "b-0-1"]
    assert book.adjustments == (_moved("trade-1", 0), _moved("trade-1", 1))
    assert book.position("AAPL") == 20 + 2
    assert book.position("MSFT") == 0


def _moved(trade_id: str, later: int) -> AdjustmentRecord:
    return AdjustmentRecord(
        adjustment_id=f"{trade_id}/{later}",
        account=ACCOUNT,
        trade_id=trade_id,
        symbol="AAPL",
        quantity=Decimal(1),
        kind=AdjustmentKind.ASSIGNMENT,
        at=NOW + timedelta(seconds=later),
    )


def _watch(epoch: int = 1, **changes: object) -> WatchRecord:
    values: dict[str, object] = {
        "account": ACCOUNT,
        "trade_id": "trade-1",
        "rule_id": "stop",
        "position_epoch": epoch,
        "symbol": "AAPL",
        "document": {"threshold": "5"},
    }
    return WatchRecord.model_validate(values | changes)


async def test_watch_keeps_progress_in_its_epoch_and_restarts_in_the_next(armed: Ledger) -> None:
    assert await armed.upsert_watch(_watch())
    progress = _watch(high_water_mark=Decimal("101.50"), confirmations=2, confirmed_at=NOW)
    assert await armed.save_watch_progress(progress)
    assert await armed.upsert_watch(_watch(document={"threshold": "4"}))
    (kept,) = await armed.list_watches(ACCOUNT)
    assert (str(kept.high_water_mark), kept.confirmations) == ("101.50", 2)
    assert kept.document == {"threshold": "4"}
    assert await armed.upsert_watch(_watch(2))
    (fresh,) = await armed.list_watches(ACCOUNT)
    assert (fresh.position_epoch, fresh.confirmations, fresh.high_water_mark) == (2, 0, None)
    assert not await armed.upsert_watch(_watch(1))
    assert not await armed.save_watch_progress(progress)
    assert await armed.list_watches(ACCOUNT) == (fresh,)


async def test_watch_progress_is_stored_whole_and_survives_the_same_rule(armed: Ledger) -> None:
    await armed.upsert_watch(_watch())
    await armed.upsert_watch(_watch(rule_id="other"))
    progress: dict[str, Any] = {
        "high_water_mark": Decimal("101.5"),
        "last_mark": Decimal("101.25"),
        "confirmations": 2,
        "confirmed_at": NOW,
        "evaluated_at": NOW + timedelta(seconds=1),
    }
    assert await armed.save_watch_progress(_watch(**progress))
    assert await armed.list_watches(ACCOUNT) == (_watch(rule_id="other"), _watch(**progress))
    # The same rule told again keeps what was seen; a new one takes it along.
    await armed.upsert_watch(_watch(symbol="MSFT", document={"threshold": "6"}))
    (_, kept) = await armed.list_watches(ACCOUNT)
    assert kept == _watch(**progress, symbol="MSFT", document={"threshold": "6"})
    for stranger in (
        _watch(2, **progress),
        _watch(**progress, rule_id="nothing"),
        _watch(**progress, trade_id="trade-9"),
    ):
        assert not await armed.save_watch_progress(stranger)
    assert await armed.list_watches("second") == ()
    assert await armed.delete_watch("trade-1") == 2
    assert await armed.delete_watch("trade-1") == 0


async def test_watch_changes_ring_the_watch_bell(armed: Ledger) -> None:
    bells = armed.listen("holdfast_watches")
    async with asyncio.timeout(5):
        await anext(bells)
        await armed.upsert_watch(_watch())
        assert await anext(bells) == ("holdfast_watches", ACCOUNT)
        await armed.upsert_watch(_watch(rule_id="target"))
        await anext(bells)
        assert await armed.delete_watch("trade-1", "stop") == 1
        assert await anext(bells) == ("holdfast_watches", ACCOUNT)
        assert await armed.delete_watch("trade-1") == 1
    await bells.aclose()
    assert await armed.list_watches(ACCOUNT) == ()


@pytest.mark.covers("R8")
async def test_lease_has_one_holder_and_a_new_epoch_per_change_of_hands(
    armed: Ledger, ledger_dsn: str
) -> None:
    """R8: two instances, one lease; the old holder cannot go on."""
    takers = [armed.take_lease("reconcile", f"worker-{number}", 30) for number in range(10)]
    epochs = await asyncio.gather(*takers)
    assert sorted(epoch for epoch in epochs if epoch is not None) == [1]
    lease = await armed.lease("reconcile")
    assert lease is not None
    first = lease.holder
    assert await armed.take_lease("reconcile", first, 30) == 1
    assert await armed.renew_lease("reconcile", first, 1, 30)
    await run_as_superuser(ledger_dsn, "UPDATE leases SET expires_at = now() - interval '1 s'")
    assert not await armed.renew_lease("reconcile", first, 1, 30)
    assert await armed.take_lease("reconcile", "other", 30) == 2
    assert not await armed.renew_lease("reconcile", first, 1, 30)
    assert not await armed.release_lease("reconcile", first, 1)
    assert await armed.release_lease("reconcile", "other", 2)
    assert await armed.take_lease("reconcile", first, 30) == 3


async def test_cursor_keeps_the_last_value(armed: Ledger) -> None:
    assert await armed.get_cursor("fills") is None
    await armed.set_cursor("fills", "a")
    await armed.set_cursor("fills", "b")
    assert await armed.get_cursor("fills") == "b"


async def test_words_that_many_add_to_one_cursor_are_all_kept_once(armed: Ledger) -> None:
    words = [f"2026-{number:02}:abcdef01" for number in range(8)]
    await asyncio.gather(*(armed.add_to_cursor("keys", word) for word in words * 2))
    assert sorted((await armed.get_cursor("keys") or "").split()) == words


async def test_breaker_keeps_its_first_reason_and_needs_a_name(armed: Ledger) -> None:
    assert await armed.trip_breaker(ACCOUNT, TripReason.DATA_STALE, "no quotes", "risk")
    assert not await armed.trip_breaker(ACCOUNT, TripReason.DAILY_LOSS, "later", "risk")
    assert (await armed.risk_breaker(ACCOUNT)).reason == "DATA_STALE"
    for by, reason in (("", "why"), ("alice", " ")):
        with pytest.raises(Refused) as raised:
            await armed.reset_breaker(ACCOUNT, by, reason)
        assert raised.value.code == "BREAKER_RESET_BY"
    assert await armed.reset_breaker(ACCOUNT, "alice", "feed is back")
    assert (await armed.risk_breaker(ACCOUNT)).state is BreakerState.NORMAL
    assert (await armed.api_breaker("nobody")).state == "open"


async def test_condition_is_set_and_cleared_once_with_audit_rows(armed: Ledger) -> None:
    kind = ConditionKind.MACRO_WINDOW
    assert await armed.set_condition("*", kind, text="FOMC")
    assert not await armed.set_condition("*", kind)
    assert [one.text for one in await armed.conditions(ACCOUNT)] == ["FOMC"]
    assert await armed.clear_condition("*", kind)
    assert not await armed.clear_condition("*", kind)
    actions = [row.action for row in await armed.list_audit()]
    assert actions[-2:] == ["condition_set", "condition_cleared"]
    assert await armed.verify_audit() == ()


async def test_session_is_known_by_its_trades_with_their_number_and_times(armed: Ledger) -> None:
    for trade_id in ("trade-1", "trade-2"):
        await armed.create_trade(plan(trade_id))
    (seen,) = await armed.sessions()
    assert (seen.name, seen.account) == ("s-1", ACCOUNT)
    assert (seen.trades, seen.decisions, seen.taken) == (2, 0, 0)
    records = [await armed.trade(trade_id) for trade_id in ("trade-1", "trade-2")]
    born = [record.created_at for record in records if record is not None]
    assert (seen.first_at, seen.last_at) == (min(born), max(born))
    assert await armed.sessions("s-1") == (seen,)
    assert await armed.sessions("another") == ()
