"""The golden trades of faults.md §2.4: one definition for clean runs, replay corpus and chaos.

    play = Play(rig)                      # the rig runs `golden.config(face)` and `golden.limits`
    golden.prepare(rig)                   # opening market and planted faults, before any trade
    results = await perform(golden, play)
    assert not await judge(golden, play, results)

Where something is killed on the way `judge(..., is_disturbed=True)` asks for the invariants and
for an end that the trade may have, not for the one of the clean run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from domain.messages import TradeResult
from simulator.config import ExchangeConfig, WireFace
from tests import trade_scenarios as standard
from tests.golden import books, equities, happenings, options, people
from tests.golden.oracle import broken
from tests.golden.playing import EndedEarlyError, Play
from tests.golden.seen import ZERO
from tests.rig import Rig, roomy_limits

D = Decimal
BOTH = (WireFace.ALPACA, WireFace.TRADIER)
DISTURBED_ENDS = frozenset({"closed", "not_filled", "refused"})
"""A trade that lost time may end before it began; it may not fail or stay."""


@dataclass(frozen=True)
class Ending:
    """How a trade of the clean run ends; `realised` is before fees."""

    outcome: str
    exit_reason: str = ""
    quantity: Decimal = ZERO
    realised: Decimal | None = None


@dataclass(frozen=True)
class Golden:
    """One golden trade, or several that belong together.

    `script` starts the trades and moves the market; `fills` are the executions of the clean run
    as side, quantity and price, in any order, `alerts` all that a person is told in it; `check`
    looks at what only the clean run shows.
    """

    name: str
    title: str
    script: Callable[[Play], Awaitable[None]]
    endings: tuple[Ending, ...]
    fills: tuple[tuple[str, str, str], ...] = ()
    prepare: Callable[[Rig], None] = standard.calm_market
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    brokers: tuple[WireFace, ...] = BOTH
    limit_changes: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Play], list[str]] = lambda _play: []
    alerts: frozenset[str] = frozenset()

    def config(self, face: WireFace) -> ExchangeConfig:
        """The exchange of this trade, with this broker's protocol and rules."""
        return replace(self.exchange, face=face, requests_per_minute=None)

    @property
    def limits(self) -> Any:
        """Limits for a run that may stand still for a minute."""
        ages = {"quote_max_age_s": "600", "account_max_age_s": "600"}
        return roomy_limits(**(ages | dict(self.limit_changes)))


async def perform(golden: Golden, play: Play) -> tuple[TradeResult, ...]:
    """Plays the script to its end and waits for every trade.

    Raises:
        AssertionError: the script or a trade did not get on within the rig's deadline.
    """
    try:
        try:
            await golden.script(play)
        except EndedEarlyError:
            await play.bring_home()
        return await play.finish()
    finally:
        await play.aclose()


async def judge(
    golden: Golden,
    play: Play,
    results: Sequence[TradeResult],
    *,
    is_disturbed: bool = False,
    is_ledger_disturbed: bool = False,
) -> list[str]:
    """Everything that was not as it should be, in words; empty if all is well."""
    found = await violations(play, results, is_ledger_disturbed=is_ledger_disturbed)
    if is_disturbed:
        return found + [
            f"end of {r.trade_id}: {r}" for r in results if r.outcome not in DISTURBED_ENDS
        ]
    return found + await deviations(golden, play, results)


async def violations(
    play: Play, results: Sequence[TradeResult], *, is_ledger_disturbed: bool = False
) -> list[str]:
    """Broken invariants, of the exchange's journal and of our ledger beside it."""
    rows, rules = play.journal, play.rules()
    ledger, account = play.rig.ledger, play.rig.services.account
    return broken(rows, rules) + await books.differences(
        ledger, account, rows, rules, results, is_ledger_disturbed=is_ledger_disturbed
    )


async def deviations(golden: Golden, play: Play, results: Sequence[TradeResult]) -> list[str]:
    """How a clean run differs from what is written down; a stalled machine is reason enough."""
    found = [f"script ended at: {play.cut_short}"] if play.cut_short else []
    told = await _alerts(play)
    if told != golden.alerts:
        found.append(f"alerts were {sorted(told)}")
    return found + _unlike(golden, play, results) + golden.check(play)


async def _alerts(play: Play) -> set[str]:
    """Codes of everything that the trades told a person (I18: no noise either)."""
    found: set[str] = set()
    for plan in play.plans:
        rows = await play.rig.ledger.find_audit(
            since=play.rig.clock.wall0 - timedelta(minutes=1),
            action="alert.",
            subject=plan.trade_id,
        )
        found |= {row.action.removeprefix("alert.") for row in rows}
    return found


def _unlike(golden: Golden, play: Play, results: Sequence[TradeResult]) -> list[str]:
    """How a clean run differs from what is written down."""
    ends = tuple(
        Ending(r.outcome, r.exit_reason, r.quantity, r.realised if r.quantity else None)
        for r in results
    )
    found = [] if ends == golden.endings else [f"endings were {ends}"]
    fills = [(row["side"], row["quantity"], row["price"]) for row in play.seen.fills]
    if sorted(fills) != sorted(golden.fills):
        found.append(f"fills were {fills}")
    return found


CATALOGUE: dict[str, Golden] = {
    golden.name: golden
    for golden in (
        Golden(
            "gt01",
            "long equity, filled at the first limit, out at the target",
            equities.target_at_first_limit,
            (Ending("closed", "target", D(10), D("10.00")),),
            (("buy", "10", "100.5"), ("sell", "10", "101.5")),
            check=equities.one_entry_order,
        ),
        Golden(
            "gt02",
            "short equity, three walk steps, filled in parts, stopped",
            equities.short_in_parts,
            (Ending("closed", "stop", D(10), D("-25.00")),),
            (
                ("sell", "3", "99.75"),
                ("sell", "2", "99.75"),
                ("sell", "5", "99.75"),
                ("buy", "3", "102.25"),
                ("buy", "3", "102.25"),
                ("buy", "4", "102.25"),
            ),
            check=equities.walked_down,
        ),
        Golden(
            "gt03",
            "never filled: the walk stops at the collar",
            equities.never_filled,
            (Ending("not_filled", "time"),),
            prepare=equities.wide_market,
            check=equities.stopped_at_the_collar,
        ),
        Golden(
            "gt04",
            "filled in part, the rest cancelled, the part protected, out by time",
            equities.part_until_time,
            (Ending("closed", "time_stop", D(4), D("-6.00")),),
            (("buy", "4", "100.5"), ("sell", "4", "99")),
            prepare=equities.four_at_most,
            check=equities.pair_on_the_part,
        ),
        Golden(
            "gt05",
            "three tranches, break-even, trailing stop, the last tranche stopped",
            equities.ratcheted,
            (Ending("closed", "ratcheted_stop", D(10), D("13.00")),),
            (
                ("buy", "10", "101.25"),
                ("sell", "3", "102.25"),
                ("sell", "3", "103.25"),
                ("sell", "4", "102.25"),
            ),
        ),
        Golden(
            "gt06",
            "single option with a target, closed before its expiry cutoff",
            options.closed_before_cutoff,
            (Ending("closed", "flat_by", D(2), D("-20.00")),),
            (("buy", "2", "12.1"), ("sell", "2", "12")),
            prepare=options.open_market,
            exchange=options.TODAY,
        ),
        Golden(
            "gt07",
            "vertical spread, one leg late, flattened",
            options.one_leg_late,
            (Ending("closed", "flatten", D(2), D("-40.00")),),
            (
                ("buy", "2", "12.12"),
                ("sell", "2", "8.07"),
                ("sell", "2", "12"),
                ("buy", "2", "8.15"),
            ),
            prepare=options.open_market,
            exchange=options.TODAY,
        ),
        Golden(
            "gt08",
            "refused by the risk gate",
            people.too_large,
            (Ending("refused"),),
            check=people.asked_for_nothing,
        ),
        Golden(
            "gt09",
            "accepted, then rejected by the broker",
            equities.rejected_late,
            (Ending("not_filled", "rejected"),),
            prepare=equities.reject_late,
        ),
        Golden(
            "gt10",
            "halted, held overnight, out at the gap of the open",
            equities.gap_after_halt,
            (Ending("closed", "stop", D(10), D("-45.00")),),
            (("buy", "10", "100.5"), ("sell", "10", "96")),
        ),
        Golden(
            "gt11",
            "flattened by an operator while the entry walks",
            people.flattened_while_walking,
            (Ending("not_filled", "flatten"),),
        ),
        Golden(
            "gt12",
            "everything killed with a position open, reset by two people, traded again",
            people.killed_and_reset,
            (
                Ending("closed", "flatten", D(10), D("-2.50")),
                Ending("refused"),
                Ending("closed", "target", D(10), D("10.00")),
            ),
            (
                ("buy", "10", "100.5"),
                ("sell", "10", "100.25"),
                ("buy", "10", "100.5"),
                ("sell", "10", "101.5"),
            ),
        ),
        Golden(
            "gt13",
            "entry of unknown outcome, found by a look at the broker",
            equities.target_at_first_limit,
            (Ending("closed", "target", D(10), D("10.00")),),
            (("buy", "10", "100.5"), ("sell", "10", "101.5")),
            prepare=equities.lose_the_reply,
            check=equities.one_entry_order,
        ),
        Golden(
            "gt14",
            "three weeks, handed over to a new run in each",
            equities.three_weeks,
            (Ending("closed", "target", D(10), D("21.00")),),
            (
                ("buy", "10", "100.5"),
                ("sell", "3", "101.5"),
                ("sell", "3", "102.5"),
                ("sell", "4", "103.5"),
            ),
        ),
        Golden(
            "gt15",
            "short sale that waits for shares to borrow, restricted, out at the target",
            happenings.located_short,
            (Ending("closed", "target", D(10), D("30.00")),),
            (("sell", "10", "100.25"), ("buy", "10", "97.25")),
            prepare=happenings.restricted_market,
            exchange=happenings.TO_LOCATE,
            check=happenings.found_and_lifted,
        ),
        Golden(
            "gt16",
            "leveraged perpetual, funding paid, liquidated above its stop",
            happenings.liquidated,
            (Ending("closed", "liquidation", D(10), D("-101.00")),),
            (("buy", "10", "100.1"),),
            prepare=happenings.leveraged_market,
            exchange=happenings.LEVERAGED,
            # There is no perpetual at Tradier.
            brokers=(WireFace.ALPACA,),
            check=happenings.funding_was_paid,
            alerts=frozenset({"POSITION_ADJUSTED"}),
        ),
        Golden(
            "gt17",
            "cash-secured put, assigned, the shares taken over by a person, out at the target",
            happenings.assigned,
            (
                Ending("closed", "assignment", D(1), D(0)),
                Ending("closed", "target", D(100), D("599.00")),
            ),
            (("sell", "1", "1.99"), ("sell", "100", "104")),
            prepare=happenings.market_with_put,
            exchange=happenings.WITH_PUT,
            # Tradier tells no statement rows: there an assignment is parked for a person
            # (tests/workflow/test_discrepancies.py).
            brokers=(WireFace.ALPACA,),
            alerts=frozenset({"POSITION_ADJUSTED", "TRADE_RESTORED"}),
        ),
        Golden(
            "gt18",
            "two strategies in one symbol, one stopped, one at its target",
            equities.two_strategies,
            (
                Ending("closed", "stop", D(10), D("-22.50")),
                Ending("closed", "target", D(6), D("6.00")),
            ),
            (
                ("buy", "10", "100.5"),
                ("buy", "6", "100.5"),
                ("sell", "10", "98.25"),
                ("sell", "6", "101.5"),
            ),
        ),
        Golden(
            "gt19",
            "held over a split that takes the orders away, out at the target in new shares",
            happenings.split_overnight,
            (Ending("closed", "target", D(20), D("97.50")),),
            (("buy", "10", "100.25"), ("sell", "20", "55")),
            prepare=happenings.before_split,
            # As with gt17: Tradier tells no split, it is parked for a person.
            brokers=(WireFace.ALPACA,),
            alerts=frozenset({"SPLIT"}),
        ),
        Golden(
            "gt20",
            "filled in part where shares are held and opposite orders refused, and filled late",
            equities.part_and_late_fill,
            (Ending("closed", "target", D(6), D("6.00")),),
            (
                ("buy", "4", "100.5"),
                ("buy", "2", "100.5"),
                ("sell", "4", "101.5"),
                ("sell", "2", "101.5"),
            ),
            prepare=equities.four_at_most_and_two_late,
            check=equities.no_order_refused,
            alerts=frozenset({"LATE_FILL"}),
        ),
    )
}
