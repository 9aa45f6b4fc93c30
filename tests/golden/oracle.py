"""What must hold at the exchange whatever failed: the invariants of faults.md §2.2.

Judged from the exchange's journal alone, after every row of it; what our own ledger has to say is
in `tests/golden/books.py`. Every function answers violations in words, none is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from domain.ids import Purpose, trade_prefix
from domain.order import Side
from domain.plan import FixedSize, TradePlan
from domain.walk import ENTRY_ATTEMPTS_MAX
from tests.golden.seen import ZERO, Row, Seen, SeenOrder

EXIT_COLLARS = 4
"""Rungs of a reducing exit widen the collar so many times at most (architecture §6)."""
Window = tuple[datetime, datetime]


@dataclass(frozen=True)
class Rules:
    """What the trades of one exchange had promised. `multipliers` by symbol, 1 where not named."""

    installation: str
    plans: Sequence[TradePlan]
    collar_fraction: Decimal = Decimal("0.02")
    multipliers: Mapping[str, Decimal] = field(default_factory=dict)

    def owners(self) -> dict[str, TradePlan]:
        """The plan behind every prefix of client order ids."""
        return {trade_prefix(self.installation, plan.trade_id): plan for plan in self.plans}


# --- all of them ----------------------------------------------------------------------------------


def broken(rows: Sequence[Row], rules: Rules, *, at_end: bool = True) -> list[str]:
    """Every violation of a journal, oldest first; `at_end` when all trades have ended."""
    seen, found = Seen(), list[str]()
    for row in rows:
        if row["kind"] in _OCCASIONS:
            found += (f"{text} (row {row['seq']})" for text in at_rest(seen, rules))
        seen.feed((row,))
        found += (f"{text} (row {row['seq']})" for text in _after_row(row, seen, rules))
    found += at_rest(seen, rules)
    if at_end:
        found += nothing_left(seen)
    found += cash_is_conserved(seen, rules)
    found += executions_are_unique(seen)
    found += few_orders_per_signal(seen, rules)
    return list(dict.fromkeys(found))


def _after_row(row: Row, seen: Seen, rules: Rules) -> list[str]:
    """What one row can break; checks that only some rows can break look at no others."""
    kind = row["kind"]
    found: list[str] = []
    if kind == "accepted":
        order = seen.orders[str(row["order_id"])]
        for check in _OF_ORDER:
            found += check(order, seen, rules)
    if kind == "position":
        found += owners_add_up(seen, str(row["symbol"]))
    return found


_OCCASIONS = frozenset({"request", "quote", "clock", "halted", "resumed"})
"""Before these rows the exchange has finished what came before: a pair is a pair again."""


def at_rest(seen: Seen, rules: Rules) -> list[str]:
    """What holds whenever the exchange is not in the middle of one event."""
    return [*never_too_much(seen, rules), *no_crossing(seen)]


# --- one accepted order ---------------------------------------------------------------------------


def one_order_per_intent(order: SeenOrder, seen: Seen, _rules: Rules) -> list[str]:
    """I1: an intent has one accepted order, and of its changes only one lives.

    Where the venue keeps the client id over a change, each change is an order of the exchange.
    """
    if order.parts is None:
        return []
    key = order.client_id[:24]
    same = [o for o in seen.orders.values() if o.client_id[:24] == key and o.parts is not None]
    roots = [o for o in same if o.replaces is None or not _names_same_intent(seen, o)]
    found = [f"I1 intent {key} was accepted {len(roots)} times"] if len(roots) > 1 else []
    return found


def _names_same_intent(seen: Seen, order: SeenOrder) -> bool:
    old = seen.orders.get(str(order.replaces))
    return old is not None and old.client_id[:24] == order.client_id[:24]


def stop_only_tightens(order: SeenOrder, seen: Seen, _rules: Rules) -> list[str]:
    """I8: no stop of a trade is accepted looser than one that it had before."""
    if order.stop_price is None or not order.owner:
        return []
    before = [
        other.stop_price
        for other in seen.orders.values()
        if other.owner == order.owner
        and other.symbol == order.symbol
        and other.stop_price is not None
        and other.seq < order.seq
    ]
    tightest = _tightest(before, order.side)
    if tightest is None or (order.stop_price - tightest) * -order.sign >= 0:
        return []
    return [f"I8 stop of {order.symbol} went from {tightest} to {order.stop_price}"]


def _tightest(prices: Sequence[Decimal], side: str) -> Decimal | None:
    if not prices:
        return None
    return max(prices) if side == "sell" else min(prices)


def limit_is_inside_a_collar(order: SeenOrder, seen: Seen, rules: Rules) -> list[str]:
    """I13: entries and exits carry a limit near a valid quote; resting targets may be far away."""
    parts, limit = order.parts, order.limit_price
    if parts is None or limit is None or order.legs:
        return []
    if parts.purpose not in (Purpose.ENTRY, Purpose.EXIT, Purpose.FLATTEN):
        return []
    entering = parts.purpose is Purpose.ENTRY
    width = rules.collar_fraction * (1 if entering else EXIT_COLLARS)
    mids = [mid for mid in (_mid(row, order.symbol) for row in seen.quotes) if mid is not None]
    # Half a tick of rounding may lie beyond the bare product.
    if any(abs(limit - mid) <= mid * width + Decimal("0.01") for mid in mids):
        return []
    return [f"I13 {parts.purpose} of {order.symbol} at {limit} is near no quote"]


def _mid(row: Row, symbol: str) -> Decimal | None:
    """The middle of a valid quote of this symbol."""
    if row["symbol"] != symbol or row.get("bid") is None or row.get("ask") is None:
        return None
    bid, ask = Decimal(row["bid"]), Decimal(row["ask"])
    return (bid + ask) / 2 if 0 < bid <= ask else None


def entry_is_wanted(order: SeenOrder, seen: Seen, rules: Rules) -> list[str]:
    """I15: entries belong to a plan, go in its direction, and one of them works at a time."""
    parts = order.parts
    if parts is None or parts.purpose is not Purpose.ENTRY:
        return []
    plan = rules.owners().get(order.owner)
    if plan is None:
        return [f"I15 entry {order.client_id} belongs to no plan"]
    found = []
    if not order.legs and order.side != plan.side:
        found.append(f"I15 entry of {plan.trade_id} was a {order.side}")
    working = [o for o in seen.live(owner=order.owner) if _is_entry(o)]
    if len(working) > 1 and not _is_doubled(seen, working):
        found.append(f"I15 {len(working)} entries of {plan.trade_id} work at once")
    return found


def _is_doubled(seen: Seen, working: Sequence[SeenOrder]) -> bool:
    """The venue let an order and its replacement live both (D1): not our doing."""
    ids = {order.order_id for order in working}
    return any(order.replaces in ids for order in working)


def _is_entry(order: SeenOrder) -> bool:
    return order.parts is not None and order.parts.purpose is Purpose.ENTRY


_OF_ORDER: tuple[Callable[[SeenOrder, Seen, Rules], list[str]], ...] = (
    one_order_per_intent,
    stop_only_tightens,
    limit_is_inside_a_collar,
    entry_is_wanted,
)


# --- positions, at every moment -------------------------------------------------------------------


def never_too_much(seen: Seen, rules: Rules) -> list[str]:
    """I4, I2: what works can never buy more than planned nor sell more than is held.

    Of orders in one group only one can fill whole, so the largest counts.
    """
    found: list[str] = []
    for owner, plan in rules.owners().items():
        symbol = plan.instrument.symbol
        if plan.is_combo or not isinstance(plan.size, FixedSize):
            continue
        held = seen.owned.get((owner, symbol), ZERO) * plan.side.sign
        planned = plan.size.quantity * seen.ratios.get(symbol, Decimal(1))
        if held < 0:
            found.append(f"I4 {plan.trade_id} turned its position round: {held}")
        if held > planned:
            found.append(f"I2 {plan.trade_id} holds {held} of {planned} planned")
        leaving = reducing(seen, owner, symbol, plan.side)
        if leaving > max(held, ZERO):
            found.append(f"I4 exits of {plan.trade_id} could sell {leaving}, it holds {held}")
    return found


def reducing(seen: Seen, owner: str, symbol: str, side: Side) -> Decimal:
    """Quantity that live exits of a trade could take off together; none that the venue left."""
    by_group: dict[str, Decimal] = {}
    for order in seen.live(owner=owner, symbol=symbol):
        if order.side != side and not order.sleeps and order.seq > seen.taken.get(symbol, 0):
            by_group[order.group] = max(by_group.get(order.group, ZERO), order.remaining)
    return sum(by_group.values(), ZERO)


def stopped_units(seen: Seen, owner: str, symbol: str) -> Decimal:
    """Quantity that has a live stop of this trade."""
    stops = [o for o in seen.live(owner=owner, symbol=symbol) if o.is_stop and not o.sleeps]
    return sum((order.remaining for order in stops), ZERO)


def owners_add_up(seen: Seen, symbol: str) -> list[str]:
    """I20: what the trades own is what the account holds."""
    owned = sum((units for (_, name), units in seen.owned.items() if name == symbol), ZERO)
    if owned == seen.position(symbol):
        return []
    return [f"I20 trades own {owned} {symbol}, the account holds {seen.position(symbol)}"]


def no_crossing(seen: Seen) -> list[str]:
    """I20: no two trades of ours have limits that could meet each other."""
    limits = [o for o in seen.live() if o.owner and not o.legs and o.limit_price is not None]
    buys = [o for o in limits if o.side == "buy" and not o.sleeps and not o.is_stop]
    sells = [o for o in limits if o.side == "sell" and not o.sleeps and not o.is_stop]
    return [
        f"I20 {buy.client_id} and {sell.client_id} can meet"
        for buy in buys
        for sell in sells
        if buy.symbol == sell.symbol
        and buy.owner != sell.owner
        and (buy.limit_price or ZERO) >= (sell.limit_price or ZERO)
    ]


# --- the whole journal ----------------------------------------------------------------------------


def nothing_left(seen: Seen) -> list[str]:
    """I3: when the trades have ended none of their orders works and nothing of theirs is held."""
    found = [f"I3 {o.client_id} still works" for o in seen.live() if o.owner]
    held = {key: units for key, units in seen.owned.items() if key[0] and units != 0}
    return found + [f"I3 {units} {symbol} are left" for (_, symbol), units in held.items()]


def cash_is_conserved(seen: Seen, rules: Rules) -> list[str]:
    """I5: the exchange's cash moved by fills, fees and what the venue books by itself alone."""
    moved = seen.moved
    for row in seen.fills:
        sign = 1 if row["side"] == "buy" else -1
        multiplier = rules.multipliers.get(row["symbol"], Decimal(1))
        change = -sign * Decimal(row["quantity"]) * Decimal(row["price"]) * multiplier
        if change != Decimal(row["cash_change"]):
            return [f"I5 fill {row['execution_id']} moved {row['cash_change']}, not {change}"]
        moved += change
    difference = seen.start_cash + moved - seen.fees - seen.cash
    return [f"I5 cash is off by {difference}"] if difference else []


def executions_are_unique(seen: Seen) -> list[str]:
    """I7: every execution has an id of its own."""
    counts = Counter(str(row["execution_id"]) for row in seen.fills)
    return [f"I7 execution {name} came {n} times" for name, n in counts.items() if n > 1]


def few_orders_per_signal(seen: Seen, rules: Rules) -> list[str]:
    """I15: orders out per plan stay below what its ladder, tranches and ratchet can need."""
    found: list[str] = []
    for owner, plan in rules.owners().items():
        own = [o for o in seen.orders.values() if o.owner == owner and o.parts is not None]
        first = [o for o in own if _is_entry(o) and o.replaces is None]
        if len(first) > ENTRY_ATTEMPTS_MAX:
            found.append(f"I15 {plan.trade_id} sent {len(first)} first entries")
        if len(own) > orders_max(plan):
            found.append(f"I15 {plan.trade_id} sent {len(own)} orders, {orders_max(plan)} allowed")
    return found


def orders_max(plan: TradePlan) -> int:
    """Walk, tranches with every ratchet step, each placed again once, and the exit's rungs."""
    walk = plan.walk.steps_max + ENTRY_ATTEMPTS_MAX
    tranches = max(len(plan.targets), 1)
    exits = 2 * tranches * (2 + len(plan.ratchet))
    return walk + exits + 2 * (EXIT_COLLARS + len(plan.legs))


# --- time without a stop --------------------------------------------------------------------------


@dataclass(frozen=True)
class Bare:
    """A span of wall time in which a trade held something that no stop covered (I4)."""

    trade_id: str
    begin: datetime
    end: datetime

    def seconds(self, away: Sequence[Window] = ()) -> float:
        """Its length without the windows in which no process could act."""
        left = self.end - self.begin
        for begin, end in away:
            left -= max(min(end, self.end) - max(begin, self.begin), timedelta(0))
        return max(left, timedelta(0)).total_seconds()


def bare_spans(rows: Sequence[Row], rules: Rules) -> list[Bare]:
    """Spans without full stop cover, of trades whose plan has a stop and one leg.

    The journal must have been written with wall times. A span whose position grows goes on; what
    is on its way out by a working exit counts as bare, too: only a stop is protection.
    """
    seen, open_since, found = Seen(), dict[str, datetime](), list[Bare]()
    plans = {o: p for o, p in rules.owners().items() if p.stop is not None and not p.is_combo}
    last = None
    for row in rows:
        seen.feed((row,))
        last = datetime.fromisoformat(row["wall"])
        for owner, plan in plans.items():
            symbol = plan.instrument.symbol
            held = abs(seen.owned.get((owner, symbol), ZERO))
            is_bare = held > stopped_units(seen, owner, symbol)
            if is_bare and owner not in open_since:
                open_since[owner] = last
            elif not is_bare and owner in open_since:
                found.append(Bare(plan.trade_id, open_since.pop(owner), last))
    if last is not None:
        found += (Bare(plans[owner].trade_id, since, last) for owner, since in open_since.items())
    return found
