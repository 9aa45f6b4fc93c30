"""One event of the venue or of other people, as the control plane is asked for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from domain.money import ZERO, exact
from simulator.events import OrdersOnSplit
from simulator.exchange import Exchange
from simulator.orders import Side

Body = Mapping[str, Any]


def happen(exchange: Exchange, body: Body) -> None:
    """Makes it happen now. `kind` and its fields, all text or numbers:

    - `position` symbol, quantity, reason?, price?: it is so, without an order
    - `bust` execution_id; `correct` execution_id, price
    - `assign`, `assign_overnight`, `exercise` symbol, contracts?; `expire` symbol
    - `split` symbol, new, old?, orders? (rescale, cancel, keep); `symbol` symbol, new
    - `liquidate` symbol, price; `funding` symbol, rate
    - `hand` symbol, side, quantity, price: a person trades in the account
    - `cash` amount, row? (`CSD`, `DIV`, ...; none: untold), symbol?
    - `short_sales` symbol, restricted

    Raises:
        ValueError: the kind is unknown. KeyError: a field is missing. Refusal: it cannot be.
    """
    kind = str(body["kind"])
    events = exchange.events
    verbs: dict[str, Callable[[], object]] = {
        "position": lambda: exchange.set_position(
            str(body["symbol"]),
            exact(body["quantity"]),
            str(body.get("reason", "VANISHED")),
            _number(body, "price") or ZERO,
        ),
        "bust": lambda: exchange.bust(str(body["execution_id"])),
        "correct": lambda: exchange.correct(str(body["execution_id"]), exact(body["price"])),
        "assign": lambda: events.assign(str(body["symbol"]), _number(body, "contracts")),
        "assign_overnight": lambda: events.assign_overnight(
            str(body["symbol"]), _number(body, "contracts")
        ),
        "exercise": lambda: events.exercise(str(body["symbol"]), _number(body, "contracts")),
        "expire": lambda: events.expire(str(body["symbol"])),
        "split": lambda: events.split(
            str(body["symbol"]),
            int(body["new"]),
            int(body.get("old", 1)),
            OrdersOnSplit(body.get("orders", "rescale")),
        ),
        "symbol": lambda: events.change_symbol(str(body["symbol"]), str(body["new"])),
        "liquidate": lambda: events.liquidate(str(body["symbol"]), exact(body["price"])),
        "funding": lambda: events.pay_funding(str(body["symbol"]), exact(body["rate"])),
        "hand": lambda: events.trade_by_hand(
            str(body["symbol"]), Side(body["side"]), exact(body["quantity"]), exact(body["price"])
        ),
        "cash": lambda: events.cash(
            str(body.get("row", "")), exact(body["amount"]), str(body.get("symbol", ""))
        ),
        "short_sales": lambda: exchange.restrict_short_sales(
            str(body["symbol"]), on=bool(body.get("restricted", True))
        ),
    }
    if kind not in verbs:
        raise ValueError(f"kind was {kind}, allowed: {', '.join(sorted(verbs))}")
    verbs[kind]()


def _number(body: Body, name: str) -> Decimal | None:
    value = body.get(name)
    return None if value is None else exact(value)
