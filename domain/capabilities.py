"""What a broker can do and refuses. Exit layouts are chosen from this table (architecture §6)."""

from __future__ import annotations

from enum import StrEnum

from domain.base import Frozen


class BracketChildren(StrEnum):
    """When the exits of a native bracket start to work."""

    ON_FULL_FILL = "on_full_fill"
    PER_FILL = "per_fill"
    NONE = "none"


class Capabilities(Frozen):
    """What this broker can do and refuses; one row of brokers/index §3.

    `answers_with_id_only`: "ok" to an order says that it will be looked at, so it is read once
    right afterwards. `lists_orders_of_today_only`: an absent order of an earlier exchange day is
    no proof of anything. `orders_listed_within_s`: sooner after a send an order that no list shows
    may still be there (C5), in wall seconds. `tells_account_events`: assignments, splits, fees and
    money come as rows.
    """

    broker: str
    bracket_children: BracketChildren = BracketChildren.NONE
    oco: bool = False
    oto: bool = False
    combo_legs_max: int = 0
    combo_stop: bool = False
    opposite_side_while_entry_works: bool = False
    exits_reserve_position: bool = True
    reduce_only: bool = False
    replace: bool = True
    replace_makes_new_id: bool = True
    replace_changes_quantity: bool = True
    client_id_unique_for_ever: bool = False
    executions_have_ids: bool = True
    lists_orders_of_today_only: bool = False
    orders_listed_within_s: int = 2
    answers_with_id_only: bool = False
    option_stop_orders: bool = False
    fractional: bool = False
    tells_account_events: bool = False
    requests_per_minute: int = 200
