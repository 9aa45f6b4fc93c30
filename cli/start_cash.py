"""What an account began with and what was taken in silence, where a simulated exchange tells it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import httpx

from cli.context import Target
from domain.base import Frozen
from domain.money import Number


class ExchangeCash(Frozen):
    """The exchange's own figures of one account; `fees_paid` have left its cash so far."""

    start: Number
    fees_paid: Number


async def start_cash(target: Target, account: str) -> Decimal | None:
    """Cash before the first trade, where the simulated exchange tells it; a broker does not."""
    told = await exchange_cash(target, account)
    return None if told is None else told.start


async def exchange_cash(target: Target, account: str) -> ExchangeCash | None:
    """The figures of the simulated exchange; None at a broker, or where it does not answer."""
    info = target.run_info
    if info is None or not info.exchange_control_url:
        return None
    own = target.settings().account.name == account
    url = f"{info.exchange_control_url}/sim/state"
    try:
        async with httpx.AsyncClient(timeout=3, trust_env=False) as control:
            answer = await control.get(url, params={"account": account})
            if answer.is_error and own:
                answer = await control.get(url)
        state: dict[str, Any] = answer.raise_for_status().json()
        return ExchangeCash(
            start=Decimal(str(state["start_cash"])),
            fees_paid=Decimal(str(state["fees_paid"])),
        )
    except (httpx.HTTPError, KeyError, ValueError, ArithmeticError):
        return None
