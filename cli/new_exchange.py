"""The warning that a simulated exchange started anew under a ledger that remembers the old one."""

from __future__ import annotations

from ledger.repository import Ledger


async def what_a_new_exchange_forgot(ledger: Ledger, account: str) -> str:
    """What the ledger still has and a new, empty exchange has not; empty if nothing.

    A simulated exchange keeps nothing over a restart (R6). The trades are served on, but the
    exchange does not know their orders: they are parked, and no command can close them.
    """
    held = await ledger.positions_by_trade(account)
    owners = {position.trade_id for position in held}
    found = [f"{p.symbol} ({p.trade_id} holds {p.quantity})" for p in held]
    trades = await ledger.list_trades(account=account, open_only=True)
    found += [f"{t.symbol} ({t.trade_id} is open)" for t in trades if t.trade_id not in owners]
    if not found:
        return ""
    return (
        f"EXCHANGE_NEW account {account}: the simulated exchange is new and empty, the ledger is "
        f"not. Orders and positions are gone there of: {', '.join(sorted(found))}. These trades "
        "need an operator (`trade close ID --as-flat --evidence TEXT --reason TEXT`); `down`, then "
        "`up` without --resume starts with an empty ledger and moves this one aside"
    )
