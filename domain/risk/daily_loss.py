"""Daily loss of an account: equity now against equity at its roll, transfers taken out.

The roll instant (17:00 New York for securities, 00:00 UTC for crypto) arrives as an argument,
because time-zone arithmetic is not for the domain. The baseline is stored once per roll, so a
restart changes nothing. A roll starts a new day; it never clears a kill.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.money import ZERO, Amount, divide


class DailyBaseline(Frozen):
    """Equity at the roll, read from the broker once; unique by (account, roll_at)."""

    account_id: str
    roll_at: AwareDatetime
    equity: Amount
    read_at: AwareDatetime


class LossState(StrEnum):
    WITHIN = "within"
    EXCEEDED = "exceeded"
    UNKNOWN = "unknown"


class DailyLoss(Frozen):
    """Where the account stands today. `loss` > 0 is money lost; None where it is unknown."""

    state: LossState
    code: str = ""
    loss: Amount | None = None
    limit: Amount | None = None
    baseline_equity: Amount | None = None
    roll_at: AwareDatetime | None = None


def judge(
    baseline: DailyBaseline | None,
    equity_now: Decimal | None,
    transfers: Decimal,
    max_loss_fraction: Decimal,
) -> DailyLoss:
    """Compares; a loss that reaches the limit exactly has exceeded it.

    `transfers` is money moved in (> 0) or out (< 0) since the baseline was read: a withdrawal is
    no loss and a deposit hides none. Missing equity or baseline is UNKNOWN, and the gate treats
    that as tripped (faults.md §3 row 63).
    """
    if baseline is None or baseline.equity <= 0:
        return DailyLoss(state=LossState.UNKNOWN, code="BASELINE_MISSING")
    limit = baseline.equity * max_loss_fraction
    if equity_now is None:
        return DailyLoss(
            state=LossState.UNKNOWN,
            code="EQUITY_MISSING",
            limit=limit,
            baseline_equity=baseline.equity,
            roll_at=baseline.roll_at,
        )
    loss = baseline.equity - (equity_now - transfers)
    exceeded = loss >= limit or equity_now <= ZERO
    return DailyLoss(
        state=LossState.EXCEEDED if exceeded else LossState.WITHIN,
        code="DAILY_LOSS" if exceeded else "",
        loss=loss,
        limit=limit,
        baseline_equity=baseline.equity,
        roll_at=baseline.roll_at,
    )


def used_fraction(daily: DailyLoss) -> Decimal | None:
    """Share of the day's loss limit that is used up; 0 in a winning day, None if unknown."""
    if daily.loss is None or daily.limit is None or daily.limit <= 0:
        return None
    return max(ZERO, divide(daily.loss, daily.limit))
