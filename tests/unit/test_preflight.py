"""`preflight`: what is read is judged line by line; what is not read is never green."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from activities.streams import StreamHeard
from cli import preflight_day
from cli import preflight_lines as lines
from cli.checks import NOTE, OK, UNKNOWN, WRONG, Finding, clock_offset, disk
from domain.account import AccountSnapshot, MarketClock
from domain.clock import ClockMap, real_time
from domain.control import (
    ApiBreakerState,
    BreakerState,
    ConditionKind,
    Control,
    KillMode,
    KillScope,
    KillScopeKind,
    KillSwitch,
)
from domain.ids import IntentKey, Purpose
from domain.instrument import Instrument
from domain.order import (
    BrokerOrderStatus,
    OrderBody,
    OrderIntent,
    OrderSnapshot,
    OrderType,
    Quote,
    Side,
)
from domain.plan import PlanLeg, PlanPrice, StopPlan
from domain.recon.classify import Discrepancy, DiscrepancyKind
from ledger.records import (
    EXTERNAL,
    ApiBreakerRecord,
    BreakerRecord,
    ConditionRecord,
    IntentRecord,
    IntentState,
    TradePosition,
    TradeRecord,
)
from starter import app
from tests.ledger.samples import owner, plan
from tests.rig import roomy_limits

D = Decimal
NOW = datetime(2026, 11, 27, 15, 0, tzinfo=UTC)


def reading(**changes: Any) -> lines.LedgerReading:
    """An armed account with nothing wrong."""
    healthy = lines.LedgerReading(
        control=Control(account="a", armed=True, version=1, updated_at=NOW, updated_by="ada"),
        conditions=(),
        risk=BreakerRecord(account="a", state=BreakerState.NORMAL),
        api=ApiBreakerRecord(broker="alpaca", state=ApiBreakerState.CLOSED),
        trades=(),
        owned=(),
        intents=(),
        children=(),
        heard=StreamHeard(connected=True, frame_at=NOW, compared_at=NOW),
        streamer="me",
        reconciled_at=NOW,
    )
    return replace(healthy, **changes)


def verdicts(found: list[Finding]) -> dict[str, str]:
    return {each.check: each.verdict for each in found}


def kill(kind: KillScopeKind, value: str = "") -> Control:
    switch = KillSwitch(
        scope=KillScope(kind=kind, value=value),
        mode=KillMode.BLOCK,
        reason="fat finger",
        by="ada",
        command_id="c",
        engaged_at=NOW,
    )
    return reading().control.model_copy(update={"kills": (switch,)})


def test_healthy_account_is_green_on_every_line() -> None:
    found = lines.switches(reading(), ["ESX"], want_armed=True) + lines.stream(reading(), NOW)
    assert set(verdicts(found).values()) == {OK}


def test_disarmed_is_told_and_red_only_when_armed_is_asked_for() -> None:
    control = reading().control.model_copy(update={"armed": False})
    told = lines.switches(reading(control=control), [], want_armed=False)[0]
    assert (told.verdict, told.is_bad) == (NOTE, False)
    assert lines.switches(reading(control=control), [], want_armed=True)[0].verdict == WRONG


@pytest.mark.parametrize(
    ("kind", "value", "verdict"),
    [
        (KillScopeKind.ALL, "", WRONG),
        (KillScopeKind.ACCOUNT, "a", WRONG),
        (KillScopeKind.SYMBOL, "ESX", WRONG),
        (KillScopeKind.SYMBOL, "GME", NOTE),
        (KillScopeKind.TRADE, "t1", NOTE),
    ],
)
def test_kill_is_red_where_it_stops_what_is_watched(
    kind: KillScopeKind, value: str, verdict: str
) -> None:
    found = lines.switches(reading(control=kill(kind, value)), ["ESX"], want_armed=True)
    line = next(each for each in found if each.check == "kill")
    assert line.verdict == verdict
    assert "fat finger" in line.text
    assert "ada" in line.text


def test_conditions_and_breakers_are_red_with_their_reasons() -> None:
    condition = ConditionRecord(
        account="a", kind=ConditionKind.MACRO_WINDOW, text="FOMC", since=NOW
    )
    found = lines.switches(
        reading(
            conditions=(condition,),
            risk=BreakerRecord(account="a", state=BreakerState.TRIPPED, reason="DAILY_LOSS"),
            api=ApiBreakerRecord(broker="alpaca", state=ApiBreakerState.OPEN, failures=5),
        ),
        [],
        want_armed=True,
    )
    wrong = {each.check: each.text for each in found if each.verdict == WRONG}
    assert set(wrong) == {"conditions", "risk breaker", "api breaker"}
    assert "FOMC" in wrong["conditions"]
    assert "DAILY_LOSS" in wrong["risk breaker"]
    elsewhere = condition.model_copy(update={"symbol": "GME"})
    found = lines.switches(reading(conditions=(elsewhere,)), ["ESX"], want_armed=True)
    assert verdicts(found)["conditions"] == NOTE


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"streamer": ""}, WRONG),
        ({"heard": None}, UNKNOWN),
        ({"heard": StreamHeard(connected=False, frame_at=NOW, compared_at=NOW)}, WRONG),
        (
            {
                "heard": StreamHeard(
                    connected=True, frame_at=NOW, compared_at=NOW - timedelta(minutes=1)
                )
            },
            WRONG,
        ),
        (
            {
                "heard": StreamHeard(
                    connected=True, frame_at=NOW - timedelta(hours=3), compared_at=NOW
                )
            },
            OK,
        ),
    ],
    ids=["nobody", "not told", "cut", "stuck", "quiet"],
)
def test_stream_is_green_only_while_somebody_listens_and_compares(
    changes: dict[str, Any], verdict: str
) -> None:
    line = lines.stream(reading(**changes), NOW)[0]
    assert line.verdict == verdict
    assert line.is_bad is (verdict != OK)


def snapshot(**changes: Any) -> AccountSnapshot:
    values: dict[str, Any] = {
        "account_id": "a",
        "equity": D(30_000),
        "buying_power": D(60_000),
        "status": "ACTIVE",
        "read_at": NOW,
    }
    return AccountSnapshot(**values | changes)


@pytest.mark.parametrize(
    ("changes", "check", "text"),
    [
        ({"trading_blocked": True, "blocks": ("account_blocked",)}, "broker account", "account_bl"),
        ({"status": "ACCOUNT_CLOSED"}, "broker account", "ACCOUNT_CLOSED"),
        ({"currency": "EUR"}, "currency", "EUR"),
        ({"pattern_day_trader": True, "equity": D(24_999), "day_trades": 4}, "day trades", "4 in"),
        ({"buying_power": None}, "buying power", "did not say"),
        ({"equity": None}, "buying power", "did not say"),
        ({"buying_power": D(0)}, "buying power", "0 USD"),
    ],
)
def test_account_that_cannot_trade_is_red_with_the_reason(
    changes: dict[str, Any], check: str, text: str
) -> None:
    found = lines.account(snapshot(**changes), "USD", roomy_limits())
    bad = {each.check: each.text for each in found if each.is_bad}
    assert list(bad) == [check]
    assert text in bad[check]


def test_account_that_can_trade_is_green() -> None:
    marked = snapshot(pattern_day_trader=True, day_trades=4)
    assert not any(each.is_bad for each in lines.account(marked, "USD", roomy_limits()))


@pytest.mark.parametrize(
    ("age_s", "is_open", "verdict", "is_bad"),
    [(5, True, OK, False), (6, True, WRONG, True), (9999, False, UNKNOWN, False)],
)
def test_quote_is_judged_by_its_age_while_the_market_is_open(
    age_s: int, is_open: bool, verdict: str, is_bad: bool
) -> None:
    quote = Quote(symbol="ESX", bid=D(1), ask=D(2), venue_time=NOW - timedelta(seconds=age_s))
    limits = roomy_limits(quote_max_age_s="5")

    def line_of(symbol: str) -> Finding:
        known = {"ESX": quote}
        return lines.quotes([symbol], known, real_time(NOW), NOW, limits=limits, is_open=is_open)[0]

    line = line_of("ESX")
    assert (line.verdict, line.is_bad) == (verdict, is_bad)
    missing = line_of("NQX")
    assert (missing.verdict, missing.is_bad) == (UNKNOWN, is_open)


def test_age_of_a_quote_is_wall_time_on_a_fast_exchange() -> None:
    fast = ClockMap(wall0=NOW, market0=NOW, speed=D(150))
    quote = Quote(symbol="ESX", bid=D(1), ask=D(2), venue_time=NOW)
    line = lines.quotes(
        ["ESX"],
        {"ESX": quote},
        fast,
        NOW + timedelta(seconds=4),
        limits=roomy_limits(),
        is_open=True,
    )[0]
    assert line.text.startswith("4.0 s")


def finding(kind: DiscrepancyKind, symbol: str = "ESX") -> Discrepancy:
    return Discrepancy(kind=kind, key="k", symbol=symbol, text="sell 1 ESX id x")


def test_orders_and_positions_without_owner_are_red_unless_a_person_knows_them() -> None:
    every = [finding(kind) for kind in DiscrepancyKind]
    held = (
        TradePosition(trade_id=EXTERNAL, symbol="GME", quantity=D(5)),
        TradePosition(trade_id="t1", symbol="ESX", quantity=D(1)),
    )
    found = lines.books(every, held, frozenset())
    assert set(verdicts(found).values()) == {WRONG}
    assert "5 GME" in found[2].text
    known = lines.books([finding(DiscrepancyKind.FOREIGN_ORDER)], held, frozenset({"ESX", "GME"}))
    assert set(verdicts(known).values()) == {OK}
    stuck = lines.books([finding(DiscrepancyKind.INTENT_STUCK)], (), frozenset({"ESX"}))
    assert verdicts(stuck)["orders without answer"] == WRONG


def test_restricted_list_is_red_after_a_day() -> None:
    fresh = lines.restricted(NOW - timedelta(hours=23), 1, NOW)
    old = lines.restricted(NOW - timedelta(hours=25), 1, NOW)
    assert (fresh.verdict, old.verdict) == (OK, WRONG)


@pytest.mark.parametrize(("off_s", "verdict"), [(1.9, OK), (-1.9, OK), (2.2, WRONG), (-60, WRONG)])
def test_clock_is_measured_in_the_middle_of_the_request(off_s: float, verdict: str) -> None:
    told = MarketClock(market_now=NOW + timedelta(seconds=off_s), is_open=True)
    before, after = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
    assert clock_offset(told, before, after, real_time(NOW)).verdict == verdict


def test_disk_is_looked_at_also_where_the_folder_is_not_there_yet(tmp_path: Path) -> None:
    assert disk(tmp_path / "not" / "yet").verdict == OK


def clock(at: datetime, is_open: bool) -> MarketClock:
    day = timedelta(days=1)
    return MarketClock(market_now=at, is_open=is_open, next_open=at + day, next_close=at + day)


@pytest.mark.parametrize(
    ("day", "kind"),
    [
        (date(2026, 11, 25), "full day"),
        (date(2026, 11, 26), "holiday"),
        (date(2026, 11, 27), "half day"),
        (date(2026, 11, 28), "weekend"),
    ],
)
def test_thanksgiving_week_is_told_day_by_day(day: date, kind: str) -> None:
    from marketdata.calendars import calendar_for

    assert preflight_day.day_kind(calendar_for("XNYS", NOW), day) == kind


def test_half_day_is_named_with_its_close_and_a_contradiction_is_red() -> None:
    told = preflight_day.findings(clock(NOW, True), "XNYS", "America/New_York", simulated=False)[1]
    assert told.verdict == NOTE
    assert "HALF DAY, Fri 09:30 EST to Fri 13:00 EST" in told.text
    late = NOW + timedelta(hours=4)
    against = preflight_day.findings(clock(late, True), "XNYS", "UTC", simulated=False)[1]
    assert (against.verdict, "broker says open" in against.text) == (WRONG, True)
    own_hours = preflight_day.findings(clock(late, True), "XNYS", "UTC", simulated=True)[1]
    assert own_hours.verdict == NOTE
    unknown = preflight_day.findings(clock(NOW, True), "XMARS", "UTC", simulated=True)[1]
    assert unknown.verdict == WRONG


@pytest.mark.parametrize(("left_s", "is_told"), [(1801, False), (1800, False), (1799, True)])
def test_the_last_minutes_without_entries_are_told(left_s: int, is_told: bool) -> None:
    """It was READY, `market open`, and each entry was ENTRY_TOO_LATE."""
    ends = MarketClock(market_now=NOW, is_open=True, next_close=NOW + timedelta(seconds=left_s))
    (market, _) = preflight_day.findings(
        ends, "XNYS", "UTC", simulated=False, blocked_last_s=D(1800)
    )
    assert market.verdict == (NOTE if is_told else OK)
    assert ("no entries in the last 1800 s" in market.text) is is_told


@pytest.mark.parametrize("closes_h", [12, 36])
def test_exchange_that_stays_open_is_not_told_to_close(closes_h: int) -> None:
    """It said `open, closes Sun 19:00` beside `weekend`: the simulated exchange does neither."""
    sunday = datetime(2026, 11, 29, 12, tzinfo=UTC)
    midnight = sunday + timedelta(hours=12)
    open_on = MarketClock(
        market_now=sunday,
        is_open=True,
        next_open=midnight,
        next_close=sunday + timedelta(hours=closes_h),
    )
    market, calendar = preflight_day.findings(open_on, "XNYS", "UTC", simulated=True)
    assert (market.verdict, market.text) == (OK, "open, and stays open: this venue has no close")
    assert calendar.verdict == NOTE
    assert calendar.text == (
        "XNYS: 2026-11-29 weekend; the simulated exchange has hours of its own: open now"
    )


def test_with_every_part_down_each_has_its_line_and_nothing_is_green_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOLDFAST_BROKER_TRADING_URL", "http://127.0.0.1:9")
    result = CliRunner().invoke(app, ["--data", str(tmp_path), "preflight", "--json"])
    assert result.exit_code == 1
    rows = {row["check"]: row["colour"] for row in json.loads(result.output)}
    red = {"stack", "database", "temporal", "broker"}
    assert {check for check, colour in rows.items() if colour == "red"} == red
    unread = {"armed", "kill", "risk breaker", "buying power", "clock", "data age", "workers"}
    assert unread <= {check for check, colour in rows.items() if colour == "unknown"}
    table = CliRunner().invoke(app, ["--data", str(tmp_path), "preflight"])
    assert table.exit_code == 1
    assert "NOT READY: stack" in table.output


def test_bad_settings_are_one_red_line(tmp_path: Path) -> None:
    broken = tmp_path / "holdfast.toml"
    broken.write_text("[account]\nname = 7\n")
    arguments = ["--data", str(tmp_path), "--config", str(broken), "preflight", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    last = json.loads(result.output)[-1]
    assert (last["check"], last["colour"]) == ("settings", "red")
    assert "CONFIG_MISSING" in last["text"]


def stop(quantity: int, tranche: int = 0, **changes: Any) -> IntentRecord:
    """A working OCO that sells; `changes` are those of its body, or of the record itself."""
    body = OrderBody(
        symbol="AAPL",
        side=Side.SELL,
        quantity=D(quantity),
        order_type=OrderType.LIMIT,
        limit_price=D(110),
        stop_loss_price=D(95),
        intent_date=NOW.date(),
    )
    of_body = {name: changes.pop(name) for name in list(changes) if name in OrderBody.model_fields}
    key = IntentKey(trade_id="trade-1", purpose=Purpose.OCO, sequence=tranche)
    body = body.model_copy(update=of_body)
    known = {
        "intent": OrderIntent.derive("ab12", key, body, increasing=False, tranche=tranche),
        "owner": owner(),
        "state": IntentState.ACCEPTED,
        "attempt_token": "t",
        "attempts": 1,
        "gate_at": NOW,
        "filled_quantity": D(0),
    }
    return IntentRecord.model_validate(known | changes)


def pair(*stops: BrokerOrderStatus) -> OrderSnapshot:
    """A target of ten that works, with stops behind it."""
    shown = OrderSnapshot(
        broker_order_id="b", quantity=D(10), status=BrokerOrderStatus.WORKING, stop_price=D(95)
    )
    legs = tuple(shown.model_copy(update={"status": status}) for status in stops)
    return shown.model_copy(update={"legs": legs, "stop_price": None})


def held(
    told: str, quantities: dict[str, int], *stops: IntentRecord, **changes: Any
) -> lines.LedgerReading:
    """A trade whose row says `told`; `changes` are those of its plan."""
    trade = TradeRecord(
        trade_id="trade-1",
        account="a",
        session="s",
        strategy="s",
        symbol="AAPL",
        plan=plan().model_copy(update=changes),
        stage="open",
        protection=told,
        created_at=NOW,
        updated_at=NOW,
    )
    mine = (
        TradePosition(trade_id="trade-1", symbol=symbol, quantity=D(quantity))
        for symbol, quantity in quantities.items()
    )
    other = TradePosition(trade_id="trade-2", symbol="AAPL", quantity=D(-70))
    return reading(trades=(trade,), owned=(*mine, other), intents=stops)


LONG: dict[str, int] = {"AAPL": 10}
SHORT: dict[str, int] = {"AAPL": -10}
LIMITED: dict[str, Any] = {"stop_loss_limit_price": D(94)}
MOVED: dict[str, Any] = {"limit_price": None, "stop_loss_price": None, "stop_price": D(99)}
STOP = StopPlan(price=PlanPrice(absolute=D(95)))
SPREAD: dict[str, Any] = {
    "legs": (
        PlanLeg(instrument=Instrument(symbol="C600"), side=Side.BUY),
        PlanLeg(instrument=Instrument(symbol="C610"), side=Side.SELL, ratio=2),
    ),
    "max_loss": D(500),
}


@pytest.mark.parametrize(
    ("given", "protection"),
    [
        # The row was written before the step that placed its stop (seen in the soak, 30 of 30).
        (held("naked", LONG, stop(10)), "resting"),
        (held("naked", SHORT, stop(10, side=Side.BUY)), "resting"),
        (held("none", LONG, stop(4), stop(6, tranche=1)), "resting"),
        (held("dormant", LONG, stop(10)), "dormant"),
        (held("naked", LONG, stop(9)), "naked"),
        (held("naked", LONG), "naked"),
        # A stop of the other side makes it larger: the position was flipped.
        (held("naked", SHORT, stop(10)), "naked"),
        (held("resting", SHORT, stop(10)), "unknown"),
        # The row was written before the stop died, or before more was filled.
        (held("resting", LONG), "unknown"),
        (held("dormant", LONG), "unknown"),
        (held("resting", LONG, stop(5)), "unknown"),
        (held("resting", LONG, stop(10, filled_quantity=D(5))), "unknown"),
        (held("none", LONG), "unknown"),
        (held("", LONG), "unknown"),
        # One of two symbols is bare.
        (held("resting", LONG | {"MSFT": 1}, stop(10)), "unknown"),
        # A stop-limit that triggered; one that did not.
        (held("naked", LONG, stop(10, **LIMITED)), "naked"),
        (held("resting", LONG, stop(10, **LIMITED)), "resting"),
        # Nobody knows whether it is at the broker.
        (held("resting", LONG, stop(10, state=IntentState.UNKNOWN)), "unknown"),
        # It is on its way out, and would still sell.
        (held("naked", LONG, stop(10, status=BrokerOrderStatus.PENDING_CANCEL)), "resting"),
        # A stop that was moved away from its target: one tranche is covered, the other is bare.
        (held("resting", LONG, stop(5), stop(5, **MOVED)), "unknown"),
        (held("resting", LONG, stop(5), stop(5, **MOVED), stop(5, tranche=1)), "resting"),
        # The move has no answer yet: the old stop stands until it has.
        (held("resting", LONG, stop(10), stop(10, state=IntentState.SENDING, **MOVED)), "resting"),
        # The stop of the pair is dead, its target works on.
        (held("naked", LONG, stop(10, snapshot=pair(BrokerOrderStatus.CANCELED))), "naked"),
        (held("naked", LONG, stop(10, snapshot=pair(BrokerOrderStatus.HELD))), "resting"),
        # No order tells these: the trade's word counts, and for a bound its legs.
        (held("monitored", LONG), "monitored"),
        (held("none", {"C600": 3, "C610": -6}, **SPREAD), "defined"),
        (held("naked", {"C600": 3, "C610": -6}, **SPREAD), "defined"),
        (held("defined", {"C600": 3, "C610": -7}, **SPREAD), "unknown"),
        (held("defined", {"C610": -6}, **SPREAD), "unknown"),
        (held("defined", {"C600": -3, "C610": 6}, **SPREAD), "unknown"),
        (held("naked", {"C610": -6}, **SPREAD), "naked"),
        (held("none", LONG, max_loss=D(500), stop=None), "defined"),
        (held("naked", LONG, max_loss=D(500), stop=STOP), "naked"),
        # Nothing is held by the ledger; the trade may know of a fill that is not booked yet.
        (held("none", {}), "none"),
        (held("resting", {}), "none"),
        (held("naked", {}), "naked"),
    ],
)
def test_open_trade_is_shown_as_the_ledger_proves_it_protected(
    given: lines.LedgerReading, protection: str
) -> None:
    verdict = {"naked": WRONG, "unknown": UNKNOWN}.get(protection, OK)
    found = lines.open_trades(given)
    assert verdicts(found) == {f"open trades {protection}": verdict}
    assert found[0].is_bad is (protection in ("naked", "unknown"))
