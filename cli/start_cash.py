"""What an account began with, where a simulated exchange tells it."""

from __future__ import annotations

from decimal import Decimal

import httpx

from cli.context import Target


async def start_cash(target: Target, account: str) -> Decimal | None:
    """Cash before the first trade, where the simulated exchange tells it; a broker does not."""
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
        return Decimal(str(answer.raise_for_status().json()["start_cash"]))
    except (httpx.HTTPError, KeyError, ValueError, ArithmeticError):
        return None
