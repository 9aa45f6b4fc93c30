"""What a scrape shows of the ledger, against the documented table (requirement 71)."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from deploy.local.processes import free_port
from docs import metric_table
from domain.alerts import AlertDraft
from domain.commands import AlertSeverity
from domain.control import ConditionKind, KillMode, KillScope, KillScopeKind, KillSwitch
from ledger.records import IntentState
from ledger.repository import Ledger
from observability.metrics import (
    LEDGER_METRICS,
    PROCESS_METRICS,
    LedgerMetrics,
    MetricKind,
    ProcessMeter,
    serve_metrics,
)
from observing import read_ledger
from tests.ledger.samples import (
    ACCOUNT,
    NOW,
    decide,
    fill,
    intent,
    owner,
    plan,
    request,
    snapshot,
)

UNBOUNDED = {"trade_id", "client_id", "order_id", "alert_id", "run_id", "signal_id", "symbol"}
UNITS = ("seconds", "amount")


def since() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


async def readings(ledger: Ledger) -> dict[tuple[str, str], float]:
    return {(one.name, one.label): one.value for one in await ledger.measure(ACCOUNT, since())}


async def test_numbers_follow_the_life_of_a_trade(armed: Ledger) -> None:
    await armed.create_trade(plan())
    await armed.open_gate(intent(), owner(), "t1", NOW)
    first = await readings(armed)
    assert first["trades_open", "planned"] == 1
    assert first["orders_unknown", ""] == 1, "a send of long ago without an answer"

    await armed.record_answer(
        intent().client_id, "t1", IntentState.ACCEPTED, snapshot=snapshot(), at=NOW
    )
    await armed.record_fill(ACCOUNT, fill())
    await armed.update_trade("trade-1", stage="open", protection="resting")
    held = await readings(armed)
    assert held["trades_open", "open"] == 1
    assert held["trades_protected", "resting"] == 1
    assert held["orders_working", "entry"] == 1
    assert held["orders_unknown", ""] == 0
    assert held["positions_open", "trade"] == 1
    assert held["positions_open", "external"] == 0
    assert held["fills_untold", ""] == 1

    await armed.update_trade("trade-1", stage="closed", document={"naked_s": 2.5})
    await armed.settle_trade("trade-1", Decimal("-12.34"), Decimal("1.5"), fees_estimated=False)
    ended = await readings(armed)
    assert ended["trades_closed_today", "lost"] == 1
    assert ended["realised_today_amount", ""] == -12.34
    assert ended["fees_today_amount", ""] == 1.5
    assert ended["naked_today_seconds", ""] == 2.5
    assert ("trades_open", "open") not in ended


async def test_switches_show_and_what_is_missing_shows_as_bad(armed: Ledger) -> None:
    nobody = {(m.name, m.label): m.value for m in await armed.measure("nobody", since())}
    assert nobody["risk_breaker_tripped", ""] == 1
    assert nobody["api_breaker_open", ""] == 1
    assert nobody["account_armed", ""] == 0
    kill = KillSwitch(
        command_id="k-1",
        scope=KillScope(kind=KillScopeKind.ALL),
        mode=KillMode.BLOCK,
        by="alice",
        reason="drill",
        engaged_at=NOW,
    )
    await armed.engage_kill(None, kill)
    await armed.set_condition(ACCOUNT, next(iter(ConditionKind)), text="drill")
    await armed.set_cursor(
        f"reconcile/{ACCOUNT}", (datetime.now(UTC) - timedelta(seconds=30)).isoformat()
    )
    await armed.raise_alert(
        AlertDraft.of(ACCOUNT, "", "CODE", AlertSeverity.WARNING, "text"), "test"
    )
    shown = await readings(armed)
    assert shown["kills_engaged", "all"] == 1
    assert shown["conditions_active", next(iter(ConditionKind)).value] == 1
    assert shown["account_armed", ""] == 1
    assert shown["risk_breaker_tripped", ""] == 0
    assert 29 < shown["reconcile_age_seconds", ""] < 60
    assert shown["alerts_unacknowledged", ""] == 1, "the kill"
    assert shown["alerts_today", "warning"] == 1


async def test_reservations_are_summed_while_they_are_held(armed: Ledger) -> None:
    await armed.reserve(request(), decide, NOW)
    held = await readings(armed)
    assert held["reservations_held", ""] == 1
    assert held["reserved_notional_amount", ""] > 0
    assert held["reserved_loss_amount", ""] > 0
    await armed.release_reservation("trade-1", "closed")
    assert (await readings(armed))["reservations_held", ""] == 0


async def test_scrape_shows_declared_metrics_only_and_survives_a_restart(armed: Ledger) -> None:
    async def scrape() -> str:
        meter, port = ProcessMeter("streams"), free_port()
        loop = asyncio.get_running_loop()
        collector = LedgerMetrics({ACCOUNT: lambda: read_ledger(armed, ACCOUNT)}, loop, "streams")
        stop = serve_metrics(port, meter, collector)
        try:
            return await asyncio.to_thread(_get, port)
        finally:
            await asyncio.to_thread(stop)

    await armed.create_trade(plan())
    text = await scrape()
    declared = {spec.shown_name.removesuffix("_total") for spec in PROCESS_METRICS}
    declared |= {spec.shown_name for spec in LEDGER_METRICS}
    shown = set(re.findall(r"^# HELP (\S+)", text, re.MULTILINE))
    shown = {name.removesuffix("_total").removesuffix("_created") for name in shown}
    assert shown <= declared, shown - declared
    assert {"holdfast_trades_open", "holdfast_audit_rows", "holdfast_ledger_up"} <= shown
    # Another process knows the same: state is the ledger's.
    again = await scrape()
    assert _line(again, "holdfast_trades_open") == _line(text, "holdfast_trades_open") != ""


def _get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def _line(text: str, name: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(name)), "")


def test_documented_table_is_what_is_declared() -> None:
    text = metric_table.METRICS.read_text()
    assert metric_table.refreshed(text) == text, "stale: run python -m docs.metric_table"
    assert len(PROCESS_METRICS) + len(LEDGER_METRICS) >= 25


def test_names_carry_units_and_labels_are_few() -> None:
    every = (*PROCESS_METRICS, *LEDGER_METRICS)
    assert len({spec.name for spec in every}) == len(every)
    for spec in every:
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", spec.name), spec.name
        assert not UNBOUNDED & set(spec.labels), spec.name
        assert len(spec.labels) <= 3, spec.name
        if spec.kind is MetricKind.HISTOGRAM or spec.name.startswith(("realised", "equity")):
            assert spec.name.endswith(UNITS), spec.name
