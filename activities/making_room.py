"""Room for an exit that the venue refused: what lowers risk goes before what adds it."""

from __future__ import annotations

from temporalio import activity

from activities.services import Services
from domain.errors import HoldfastError
from domain.ids import Purpose, parse_client_order_id
from domain.order import OrderIntent, OrderSnapshot


async def cancel_entries_against(services: Services, intent: OrderIntent) -> None:
    """Cancels entries of ours that work on the other side of a refused exit (I4, I20).

    Some venues refuse an order that could meet one of the same account. Another trade's walk
    would then keep this position bare for as long as it lasts. That trade sees its entry
    cancelled and ends; the exit is tried again a second later. Never raises.
    """
    try:
        for order in await services.broker.open_orders():
            if _stands_against(services, intent, order):
                outcome = await services.broker.cancel(order.broker_order_id)
                activity.logger.warning(
                    "entry %s makes room for %s: %s",
                    order.client_id,
                    intent.client_id,
                    type(outcome).__name__,
                )
    except HoldfastError as error:
        activity.logger.warning("no room made for %s: %s", intent.client_id, error.code)


def _stands_against(services: Services, intent: OrderIntent, order: OrderSnapshot) -> bool:
    body = intent.body
    if order.symbol != body.symbol or order.side is not body.side.opposite:
        return False
    parts = parse_client_order_id(order.client_id or "")
    ours = parts is not None and parts.installation == services.installation
    return ours and parts is not None and parts.purpose is Purpose.ENTRY
