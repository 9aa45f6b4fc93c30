"""Every class of difference with its detection, action, alert, owner and deadline: one table.

Reconciliation acts by it, `docs/discrepancies.md` is written from it, and each row has a test of
the same name in `tests/workflow/test_discrepancies.py`. A cycle is one reconcile pass, every five
minutes; the fast loop of the streams finds what stands in brackets within seconds.
"""

from __future__ import annotations

from enum import StrEnum

from domain.base import Frozen
from domain.commands import AlertSeverity
from domain.recon.classify import DiscrepancyKind

MISSED_FILL = "missed_fill"
LATE_ORDER = "late_order"
_CRITICAL, _WARNING = AlertSeverity.CRITICAL, AlertSeverity.WARNING


class Owner(StrEnum):
    """Who has to act until the difference is gone."""

    RECONCILE = "reconcile"
    TRADE = "its trade"
    PERSON = "a person"


class DiscrepancyClass(Frozen):
    """One row. `alert` None: no alarm. `settled_in` cycles it is mended or quarantined."""

    name: str
    detection: str
    action: str
    alert: AlertSeverity | None
    owner: Owner
    settled_in: int = 1
    rows: str


def _row(
    name: str,
    rows: str,
    detection: str,
    action: str,
    owner: Owner,
    alert: AlertSeverity | None = _CRITICAL,
    settled_in: int = 1,
) -> DiscrepancyClass:
    return DiscrepancyClass(
        name=name,
        rows=rows,
        detection=detection,
        action=action,
        alert=alert,
        owner=owner,
        settled_in=settled_in,
    )


_ORDERS = (
    _row(
        MISSED_FILL,
        "F1",
        "execution or order end at the broker that no frame told (fast loop: 10 s)",
        "booked once, the trade is told and protects or closes",
        Owner.TRADE,
        None,
    ),
    _row(
        LATE_ORDER,
        "C5",
        "order that works although its trade has ended (fast loop: 10 s)",
        "its trade is started again and takes it back: an entry at once, an exit when it is flat",
        Owner.TRADE,
    ),
    _row(
        DiscrepancyKind.ORPHAN_ENTRY,
        "R1",
        "live entry with our id that the ledger does not know",
        "cancelled",
        Owner.RECONCILE,
    ),
    _row(
        DiscrepancyKind.ORPHAN_EXIT,
        "R1",
        "live exit with our id that the ledger does not know",
        "its open trade looks at it; without one it is cancelled, but stays while it guards a "
        "position of no trade",
        Owner.TRADE,
    ),
    _row(
        DiscrepancyKind.FOREIGN_ORDER,
        "R1",
        "live order without our id",
        "told once, never touched",
        Owner.PERSON,
    ),
    _row(
        DiscrepancyKind.INTENT_STUCK,
        "I10",
        "order without an answer for 30 s",
        "late senders are barred, the next pass books it or proves it absent; what cannot be "
        "proven its trade, then a person answers with evidence",
        Owner.RECONCILE,
        settled_in=2,
    ),
)
_POSITIONS = (
    _row(
        DiscrepancyKind.POSITION_MISMATCH,
        "R2, I20",
        "orphan position: more than trades and EXTERNAL explain, or the other side",
        "the difference goes to EXTERNAL: entries in the symbol stop; adopt, ignore or flatten it",
        Owner.PERSON,
    ),
    _row(
        DiscrepancyKind.POSITION_VANISHED,
        "R3",
        "less than the only owner has, and nothing says why",
        "booked to the trade at the quote's mid; its exits are cancelled, it closes",
        Owner.TRADE,
    ),
    _row(
        DiscrepancyKind.POSITIONS_UNTRUSTED,
        "R6",
        "empty position list while we hold something and the account's equity is not its cash",
        "nothing is booked, cancelled or sent",
        Owner.PERSON,
    ),
    _row(
        DiscrepancyKind.EXTERNAL_TRADE,
        "R2, R3",
        "executions of orders that are not ours took what a trade holds (a person, a margin call)",
        "booked to the trade at their price, its exits are cancelled; with several owners of a "
        "part only told",
        Owner.TRADE,
    ),
    _row(
        DiscrepancyKind.LIQUIDATION,
        "R3",
        "the statement says that the venue took the position",
        "booked to the trade at the venue's price; its exits are cancelled, it closes",
        Owner.TRADE,
    ),
)
_EVENTS = (
    _row(
        DiscrepancyKind.ASSIGNMENT,
        "R4",
        "short option gone and its shares there: by `OPASN`, without rows by the pair",
        "option leaves at its premium, shares at strike and premium to EXTERNAL; the trade ends "
        "`assignment`",
        Owner.PERSON,
    ),
    _row(
        DiscrepancyKind.EXERCISE,
        "R4",
        "long option gone and its shares there: by `OPEXC`, without rows by the pair",
        "as assignment; the trade ends `exercise`",
        Owner.PERSON,
    ),
    _row(
        DiscrepancyKind.EXPIRY,
        "R4",
        "option gone: by `OPEXP`, without rows the day after expiry and no shares came",
        "booked at zero, the trade ends `expiry`",
        Owner.TRADE,
        _WARNING,
    ),
    _row(
        DiscrepancyKind.OPTION_GONE,
        "R4",
        "option gone on or after its expiry, or its shares there, and no row of it yet",
        "nothing is booked; waits for the row, the shares are not judged meanwhile",
        Owner.PERSON,
        _WARNING,
        settled_in=3,
    ),
    _row(
        DiscrepancyKind.SPLIT,
        "R5",
        "`SPLIT` rows that are exactly the change, also if EXTERNAL had it before",
        "every owner in new shares; the trade scales plan, stop and targets, reads its orders and "
        "puts protection right",
        Owner.TRADE,
    ),
    _row(
        DiscrepancyKind.SYMBOL_CHANGE,
        "R5",
        "a whole position gone and the same quantity of a new symbol: by `NC`, without rows by "
        "the only pair",
        "parked: the trade ends at cost, EXTERNAL holds the new symbol until a person adopts it",
        Owner.PERSON,
    ),
)
_MONEY = (
    _row(
        DiscrepancyKind.FEE_MISMATCH,
        "R9",
        "fee row whose amount is not what we booked (a row that we lack is booked silently)",
        "the broker's amount wins by a correcting row",
        Owner.RECONCILE,
        _WARNING,
    ),
    _row(
        DiscrepancyKind.CASH_DIFFERENCE,
        "R9, I5",
        "broker's cash less ours beyond 0.01, unmoved in both looks, no answer open",
        "told once; from 1,000 on critical and the risk breaker trips (entries stop)",
        Owner.PERSON,
        _WARNING,
    ),
)

CLASSES = (*_ORDERS, *_POSITIONS, *_EVENTS, *_MONEY)
"""Every class; the order of the document."""


def severity_of(kind: DiscrepancyKind) -> AlertSeverity:
    """How loud a finding of this class is."""
    found = next(each for each in CLASSES if each.name == kind)
    assert found.alert is not None, "a finding has an alert"
    return found.alert
