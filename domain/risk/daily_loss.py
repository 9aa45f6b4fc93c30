"""Daily loss of an account: equity now against equity at its roll, transfers taken out.

The roll instant (17:00 New York for securities, 00:00 UTC for crypto) arrives as an argument,
because time-zone arithmetic is not for the domain. The baseline is stored once per roll, so a
restart changes nothing. A roll starts a new day; it never clears a kill.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from pydantic import AwareDatetime

from domain.account import AccountSnapshot
from domain.base import Frozen
from domain.errors import BadInput
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


def choose_baseline(
    stored: DailyBaseline | None, account: AccountSnapshot, roll_at: datetime
) -> DailyBaseline | None:
    """The baseline that counts for the day that began at `roll_at`.

    The stored one if it belongs to this roll (restart-proof); else a new one from the account
    as read now, provided the read lies after the roll; None if equity cannot be believed.

    Raises:
        BadInput: the stored baseline belongs to another account.
    """
    if stored is not None:
        if stored.account_id != account.account_id:
            raise BadInput("ACCOUNT_INVALID", "baseline.account_id", stored.account_id)
        if stored.roll_at >= roll_at:
            return stored
    if account.equity is None or account.equity <= 0 or account.read_at < roll_at:
        return None
    return DailyBaseline(
        account_id=account.account_id,
        roll_at=roll_at,
        equity=account.equity,
        read_at=account.read_at,
    )


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
