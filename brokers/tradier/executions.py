"""Where reading executions stands at a venue that names none. Pure.

Only the orders of today are listed. Orders that worked at the last look and are not in the list
any more, because a day has ended since, are asked for one by one: the cursor remembers their ids.
Few of them in one call, or many stops left overnight would use up the request budget (F8); the
cursor has first who was not asked for longest.
"""

from __future__ import annotations

import re

from brokers.port import ExecutionPage, FrameProblem
from brokers.tradier.mapping import fills_of, snapshot_of
from brokers.tradier.wire import WireOrder
from domain.errors import BadInput
from domain.order import Fill

REMEMBERED_MAX = 500
OLDER_READS_MAX = 10
_CURSOR = re.compile(r"o\|(?:[0-9]+(?:,[0-9]+)*)?")


def remembered_ids(cursor: str | None) -> tuple[str, ...]:
    """Ids of the orders that worked at the last look.

    Raises:
        BadInput: `PAGE_INVALID` for a cursor that this adapter did not make (row 46).
    """
    if cursor is None:
        return ()
    if _CURSOR.fullmatch(cursor) is None:
        raise BadInput("PAGE_INVALID", "cursor", cursor, "a cursor of this adapter")
    return tuple(filter(None, cursor.removeprefix("o|").split(",")))


def execution_page(
    orders: tuple[WireOrder, ...],
    problems: tuple[FrameProblem, ...] = (),
    unread: tuple[str, ...] = (),
) -> ExecutionPage:
    """What these orders have filled, oldest first, and the cursor that remembers the open ones.

    `unread` are ids that were remembered and not asked for this time: the next call begins there.
    """
    found = [item for order in orders for item in fills_of(order)]
    fills = [item for item in found if isinstance(item, Fill)]
    told = tuple(item for item in found if isinstance(item, FrameProblem))
    working = [*unread, *(order.id for order in orders if is_open(order))]
    return ExecutionPage(
        fills=tuple(sorted(fills, key=lambda fill: fill.venue_time)),
        problems=(*problems, *told),
        cursor=f"o|{','.join(working[-REMEMBERED_MAX:])}",
    )


def is_open(order: WireOrder) -> bool:
    """True if the order, or a member of its group, may still fill."""
    seen = snapshot_of(order)
    return not seen.is_terminal or any(not leg.is_terminal for leg in seen.legs)
