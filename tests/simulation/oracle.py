"""The invariants, checked against the exchange's journal row by row (faults.md §2.2).

The ledger and the trades are subjects here, never witnesses: what counts is what the venue wrote
down. A violation is a sentence that begins with the invariant's name.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from domain.entry import entry_orders_max
from domain.fold_orders import AMENDED
from domain.ids import Purpose, parse_client_order_id, trade_prefix
from domain.money import ZERO
from domain.plan import PlanLeg, TradePlan
from ledger.records import EXTERNAL, IntentState
from simulator.exchange import Exchange
from simulator.journal import Row
from simulator.orders import SimOrder
from tests.chaos.exposure import protection_class
from tests.simulation.bare import EntryLife, Window, window_of
from tests.simulation.books import NO_CASH
from tests.simulation.ledger import MemoryLedger
from tests.simulation.wire import Call

D = Decimal
CENT = D("0.01")
KILL_LEAVES_S = 0.250
MESSAGES_PER_ORDER_MAX = 40
SPLIT_KNOWN_S = 20.0
OVERFILLS = frozenset({"replace_doubles", "late_fill", "bust", "position", "fresh", "split"})
FLIPS = OVERFILLS | {"oco_both", "foreign", "liquidation", "assign", "exercise", "expire"}
TOLD_TO_A_PERSON = frozenset({"POSITION_MISMATCH", "EXTERNAL_TRADE", "ASSIGNMENT", "EXERCISE"})
_MOVES = frozenset(
    {"accepted", "fill", "canceled", "expired", "rejected", "replaced", "resized", "activated"}
)
_CLIENT_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


class Oracle:
    """Reads every row of one exchange as it is written.

    `excused` names what the venue itself did wrong: a doubled replacement or two filled partners
    flip a position without a fault of ours; what is demanded then is that it ends flat.
    """

    def __init__(
        self,
        ledger: MemoryLedger,
        exchange: Exchange,
        plans: Sequence[TradePlan],
        later: Callable[[Callable[[], None]], object],
        excused: Callable[[], frozenset[str]],
    ) -> None:
        self._ledger = ledger
        self._exchange = exchange
        self._plans = {trade_prefix(ledger.installation, p.trade_id): p for p in plans}
        self._later = later
        self._excused = excused
        self._look_planned = False
        self._symbols = sorted({leg.instrument.symbol for p in plans for leg in p.legs})
        self._resting = frozenset(
            plan.symbol for plan in plans if protection_class(plan) == "resting"
        )
        cash = exchange.config.cash
        self.violations: list[str] = []
        self.accepted: dict[str, Row] = {}
        self.keys: dict[str, str] = {}
        self.positions: Counter[str] = Counter()
        self.cash = cash
        self.cash_moved = ZERO
        self.filled: dict[str, Decimal] = {}
        self.killed_s = math.inf
        self.rows_may_lag = False
        self.stops: dict[str, Decimal] = {}
        self.ratios: dict[str, Decimal] = {}
        self.split_s = 0.0
        self.walked: Counter[str] = Counter()
        self.entered: dict[tuple[str, str], Decimal] = {}
        self.asked: Counter[str] = Counter()
        self.naked_since: dict[str, float] = {}
        self.naked: list[Window] = []
        self.naked_waits: list[list[Window]] = []
        self.entries: dict[str, EntryLife] = {}
        self.windows: list[Window] = []

    def violated(self, invariant: str, text: str) -> None:
        self.violations.append(f"{invariant} {text}")

    def on_row(self, row: Row) -> None:
        """One event of the exchange."""
        check = getattr(self, f"_on_{row['kind']}", None)
        try:
            if check is not None:
                check(row)
        except Exception as error:
            # Raised on, it would look like a fault of the venue.
            self.violated("BROKEN", f"oracle at {row['kind']}: {error!r}")
        if row["kind"] in _MOVES and not self._look_planned:
            # Within one event the venue changes group members one after the other.
            self._look_planned = True
            self._later(self._look)

    def _on_accepted(self, row: Row) -> None:
        self._stop_seen(row)
        client_id = str(row.get("client_id", ""))
        parts = parse_client_order_id(client_id)
        if parts is None:
            return
        order_id = str(row["order_id"])
        self.accepted[order_id] = row
        key = client_id[:24]
        known = self.keys.get(key)
        # A venue that changes an order in its place keeps the id of the intent (ADR 0017).
        amended = known is not None and row.get("replaces") == known
        if known is not None and not amended:
            self.violated("I1", f"intent {key} was accepted as {known} and {order_id}")
        self.keys[key] = order_id
        no_row = client_id not in self._ledger.intents
        if no_row and (parts.purpose is Purpose.ENTRY or not self.rows_may_lag):
            # With the ledger away the durable intent of an exit is the scheduled activity.
            self.violated("I12", f"order {client_id} has no intent row")

        if parts.purpose is Purpose.ENTRY:
            now_s = asyncio.get_running_loop().time()
            self.entries[order_id] = EntryLife(str(row.get("symbol", "")), now_s)
            self._count_entry(client_id, row)

    def _on_canceled(self, row: Row) -> None:
        self._entry_ended(row)

    def _on_replaced(self, row: Row) -> None:
        self._entry_ended(row)

    def _on_expired(self, row: Row) -> None:
        self._entry_ended(row)

    def _on_rejected(self, row: Row) -> None:
        self._entry_ended(row)

    def _entry_ended(self, row: Row) -> None:
        entry = self.entries.get(str(row.get("order_id")))
        if entry is not None and entry.ended_s == math.inf:
            entry.ended_s = asyncio.get_running_loop().time()

    def _count_entry(self, client_id: str, row: Row) -> None:
        """A walk has so many steps and no more, none beyond the worst price (I13-I15)."""
        prefix = client_id[:16]
        plan = self._plans.get(prefix)
        self.walked[prefix] += 1
        if plan is not None and self.walked[prefix] > entry_orders_max(plan):
            self.violated("I15", f"{plan.trade_id} sent {self.walked[prefix]} entries")
        decision = None if plan is None else self._ledger.reservations.get(plan.trade_id)
        if plan is None or decision is None or not decision[0].approved:
            self.violated("I15", f"entry {client_id} has no approval")
            return
        approved = decision[0].document["approved"]
        assert isinstance(approved, dict)
        if prefix in self.ratios and self._is_night:
            return
        limit = D(row["limit_price"])
        bound = D(str(approved["worst_price"])) / self.ratios.get(prefix, D(1))
        if (limit - bound) * plan.side.sign > 0:
            self.violated("I13", f"entry at {limit}, allowed up to {bound}")

    def _on_request(self, row: Row) -> None:
        """Messages per order are bounded (I14)."""
        entry = self.entries.get(str(row.get("order_id")))
        if entry is not None and row.get("action") == "cancel":
            entry.asked_s = min(entry.asked_s, asyncio.get_running_loop().time())
        name = f"{row.get('action')} {row.get('order_id') or row.get('client_id')}"
        self.asked[name] += 1
        if self.asked[name] == MESSAGES_PER_ORDER_MAX + 1:
            self.violated("I14", f"{name} was asked {self.asked[name]} times")

    @property
    def _is_night(self) -> bool:
        """Nobody knows of the split yet, and nothing trades."""
        return asyncio.get_running_loop().time() < self.split_s + SPLIT_KNOWN_S

    def _stop_seen(self, row: Row) -> None:
        """A stop only ever moves in the trade's favour (I8)."""
        if "stop_price" not in row:
            return
        root = row
        if parse_client_order_id(str(row.get("client_id", ""))) is None:
            root = self.accepted.get(str(row.get("parent_id", "")), row)
        prefix = str(root.get("client_id", ""))[:16]
        plan = self._plans.get(prefix)
        if plan is None or plan.is_combo:
            return
        price, best = D(row["stop_price"]), self.stops.get(prefix)
        sign = plan.side.sign
        if prefix in self.ratios and self._is_night:
            return
        # Behind a split prices are rounded.
        slack = CENT if prefix in self.ratios else ZERO
        if best is not None and (price - best) * sign < -slack:
            self.violated("I8", f"stop of {plan.trade_id} went from {best} to {price}")
        self.stops[prefix] = price if best is None or (price - best) * sign > 0 else best

    def _on_fill(self, row: Row) -> None:
        sign = 1 if row["side"] == "buy" else -1
        quantity = D(row["quantity"])
        self.positions[row["symbol"]] += sign * quantity  # type: ignore[assignment]
        self.cash_moved += D(row["cash_change"])
        order = str(row["order_id"])
        self.filled[order] = self.filled.get(order, ZERO) + quantity
        if D(str(row.get("leaves", "1"))) == ZERO:
            self._entry_ended(row)
        client_id = str(row.get("parent_client_id") or row["client_id"])
        if purpose_of(client_id) is Purpose.ENTRY:
            self._count_entered(client_id[:16], str(row["symbol"]), quantity)

    def _count_entered(self, prefix: str, symbol: str, quantity: Decimal) -> None:
        """Never more than was approved, in each leg (D2, D8, I15)."""
        plan, key = self._plans.get(prefix), (prefix, symbol)
        entered = self.entered[key] = self.entered.get(key, ZERO) + quantity
        decision = None if plan is None else self._ledger.reservations.get(plan.trade_id)
        if plan is None or decision is None or self._excused() & OVERFILLS:
            return
        ratio = leg_of(plan, symbol).ratio
        if entered > decision[0].quantity * ratio:
            self.violated(
                "I15", f"{plan.trade_id} holds {entered}, approved {decision[0].quantity}"
            )

    def _on_bust(self, row: Row) -> None:
        self.cash_moved += D(row["cash_change"])
        order, quantity = str(row["order_id"]), D(row["quantity"])
        self.filled[order] -= quantity
        client_id = _root_of(self._exchange.state.orders[order]).client_id
        if purpose_of(client_id) is Purpose.ENTRY:
            self.entered[client_id[:16], str(row["symbol"])] -= quantity

    def _on_corrected(self, row: Row) -> None:
        self.cash_moved += D(row["cash_change"])

    def _on_fault(self, row: Row) -> None:
        """What the venue does not do now it cannot be blamed on us for."""
        rules = self._exchange.state.faults.rules
        rule = next((rule for rule in rules if rule.id == row["rule"]), None)
        window = None if rule is None else window_of(rule, asyncio.get_running_loop().time())
        if window is not None:
            self.windows.append(window)

    def _on_split(self, row: Row) -> None:
        """The same in new shares: what was filled, and how tight a stop was (R5).

        A trade that the gate judges later knows the new prices only.
        """
        ratio = D(row["new"]) / D(row["old"])
        for prefix, plan in self._plans.items():
            if plan.symbol == row["symbol"] and plan.trade_id in self._ledger.reservations:
                self.ratios[prefix] = ratio
                self.split_s = asyncio.get_running_loop().time()
                if prefix in self.stops:
                    self.stops[prefix] /= ratio
        for order_id, quantity in self.filled.items():
            if self._exchange.state.orders[order_id].symbol == row["symbol"]:
                self.filled[order_id] = quantity * ratio

    def _on_fee(self, row: Row) -> None:
        self.cash_moved -= D(row["amount"])

    def _on_cash(self, row: Row) -> None:
        if "reason" in row:
            self.cash_moved += D(row["change"])
        shown, known = D(row["cash"]), self.cash + self.cash_moved
        if "execution_id" in row and shown != known:
            self.violated("I5", f"cash was {shown}, fills and fees make {known}")

    # --- after each event -------------------------------------------------------------------------

    def _look(self) -> None:
        """What works must not exceed what is held; what is held must be protected (I4)."""
        self._look_planned = False
        for symbol in self._symbols:
            held = self._exchange.state.account.quantity(symbol)
            exits, stops = self._working_exits(symbol, held)
            if held != 0 and exits > abs(held) and not self._excused() & FLIPS:
                self.violated("I4", f"{exits} {symbol} of exits work, {held} are held")
            if symbol in self._resting:
                self._watch_naked(symbol, held != 0 and stops < abs(held))
        self._look_for_flips()

    def _working_exits(self, symbol: str, held: Decimal) -> tuple[Decimal, Decimal]:
        """Quantity that exits can sell, partners counted once, and how much of it protects."""
        exits = stops = ZERO
        orders = self._exchange.open_orders
        for order in [*orders, *(leg for combo in orders for leg in combo.legs)]:
            if order.symbol != symbol or order.side.sign * held >= 0 or order.is_done:
                continue
            if purpose_of(_root_of(order).client_id) is Purpose.ENTRY:
                continue
            group = order.group
            members = (order,) if group is None else group.members
            live = [m for m in members if not m.is_done and m.symbol == symbol]
            if order is not live[0]:
                continue
            size = max(member.remaining for member in live)
            exits += size
            is_stop = any(member.stop_price is not None for member in live)
            is_leaving = purpose_of(order.client_id) in (Purpose.EXIT, Purpose.FLATTEN)
            stops += size if is_stop or is_leaving else ZERO
        return exits, stops

    def _watch_naked(self, symbol: str, is_naked: bool) -> None:
        now_s = asyncio.get_running_loop().time()
        since = self.naked_since.get(symbol)
        if is_naked and since is None:
            self.naked_since[symbol] = now_s
        elif not is_naked and since is not None:
            self.naked.append((since, now_s))
            self.naked_waits.append(self._entry_waits(symbol, since))
            del self.naked_since[symbol]

    def _entry_waits(self, symbol: str, since_s: float) -> list[Window]:
        """When plan and venue kept an entry at work beside what was bare since then."""
        latency_s = float(self._exchange.config.matching.cancel_latency_s)
        patience_s = max(
            float(plan.walk.partial_wait_s)
            for plan in self._plans.values()
            if plan.symbol == symbol
        )
        entries = [entry for entry in self.entries.values() if entry.symbol == symbol]
        return [wait for entry in entries for wait in entry.waits(since_s, patience_s, latency_s)]

    def _look_for_flips(self) -> None:
        """No trade is ever on the other side of its plan (I2, I20)."""
        if self._excused() & FLIPS:
            return
        sums: dict[tuple[str, str], Decimal] = {}
        for order_id, quantity in self.filled.items():
            order = self._exchange.state.orders[order_id]
            key = (_root_of(order).client_id[:16], order.symbol)
            sums[key] = sums.get(key, ZERO) + order.side.sign * quantity
        for (prefix, symbol), held in sums.items():
            plan = self._plans.get(prefix)
            if plan is not None and held * leg_of(plan, symbol).side.sign < 0:
                side = leg_of(plan, symbol).side
                self.violated("I2", f"{plan.trade_id} has {held} {symbol}, its side is {side}")

    # --- what leaves us ---------------------------------------------------------------------------

    def on_sent(self, call: Call, now_s: float) -> None:
        """A writing request leaves: after an acknowledged kill none may add risk (I9)."""
        if call.method not in ("POST", "PATCH", "PUT") or now_s <= self.killed_s + KILL_LEAVES_S:
            return
        for client_id in _CLIENT_ID.findall(call.content.decode()):
            record = self._ledger.intents.get(client_id)
            if record is not None and record.intent.increasing:
                late_s = now_s - self.killed_s
                self.violated("I9", f"{client_id} left {late_s:.3f} s after the kill")

    # --- the end ----------------------------------------------------------------------------------

    def at_close(self, trade_id: str, working: list[str]) -> None:
        """A trade has ended: nothing of it works, its risk is free (I3, I6)."""
        for order in working:
            self.violated("I3", f"{trade_id} closed while {order} worked")
        decision, reservation = self._ledger.reservations.get(trade_id, (None, None))
        if decision is not None and reservation is not None and reservation.released_at is None:
            self.violated("I6", f"{trade_id} closed with its reservation")

    def is_parked(self, symbol: str) -> bool:
        """True if only a person can say whose the position is, and was told so (R2, I11)."""
        return self._given_to_a_person(symbol) != 0

    def at_end(self, account: Any, open_orders: list[Any], parked: frozenset[str]) -> None:
        """Quiescence: ledger, broker and trades agree, and nothing is left.

        In `parked` symbols a trade is still open; together with EXTERNAL it is what the broker has.
        """
        held: dict[str, Decimal] = {}
        for row in self._ledger.positions():
            held[row.symbol] = held.get(row.symbol, ZERO) + row.quantity
        for symbol in sorted({*held, *account.holdings}):
            at_broker = account.quantity(symbol)
            if at_broker != held.get(symbol, ZERO):
                self.violated(
                    "I2", f"{symbol}: broker {at_broker}, ledger {held.get(symbol, ZERO)}"
                )
            if at_broker != self._given_to_a_person(symbol) and symbol not in parked:
                self.violated("I3", f"{at_broker} {symbol} are left at the end")
        for order in [each for each in open_orders if each.symbol not in parked]:
            self.violated("I3", f"order {order.client_id} works at the end")
        for trade_id, count in self._ledger.releases.items():
            if count != 1:
                self.violated("I6", f"{trade_id} was released {count} times")
        self._compare_money()
        self._compare_intents()

    def _given_to_a_person(self, symbol: str) -> Decimal:
        """What EXTERNAL holds, of which a person was told (R2)."""
        if not any(alert.code in TOLD_TO_A_PERSON for alert in self._ledger.alerts.values()):
            return ZERO
        rows = [p for p in self._ledger.positions() if p.symbol == symbol]
        return sum((p.quantity for p in rows if p.trade_id == EXTERNAL), ZERO)

    def _compare_money(self) -> None:
        """The ledger's executions cost what the venue's did (I5, I7).

        Where the venue did not say why a position changed, its price was estimated or none.
        """
        if any(name.startswith("recon/") for name in self._ledger.moves):
            return
        alerts = {alert.code for alert in self._ledger.alerts.values()}
        if self._excused() & {"bust", "correct"} and "CASH_DIFFERENCE" in alerts:
            return  # The frame was lost, and no read tells of it: a person was told of the cash.
        legs = (leg.instrument for plan in self._plans.values() for leg in plan.legs)
        sizes = {each.symbol: each.multiplier for each in legs}
        moved = sum(
            (
                -move.quantity * move.price * sizes.get(move.symbol, D(1))
                for move in self._ledger.moves.values()
                if move.price is not None and move.kind not in NO_CASH
            ),
            ZERO,
        )
        fills = [row.fill for row in self._ledger.fills.values()]
        booked = sum(
            (-f.signed_quantity * f.price * sizes.get(f.symbol, D(1)) for f in fills), ZERO
        )
        fees = sum((D(r["amount"]) for r in self._exchange.journal.of("fee")), ZERO)
        booked += moved
        if abs(booked - (self.cash_moved + fees)) > CENT:
            self.violated("I5", f"ledger {booked}, venue {self.cash_moved + fees}")

    def _compare_intents(self) -> None:
        """What the venue took is not called unsent, and nothing is left open (I10)."""
        for row in self.accepted.values():
            record = self._ledger.intents.get(str(row["client_id"]))
            if record is None or record.code == AMENDED or "replaces" in row:
                continue
            if record.state is IntentState.NOT_SENT:
                self.violated("I10", f"{row['client_id']} was taken, the ledger says {record.code}")


def leg_of(plan: TradePlan, symbol: str) -> PlanLeg:
    """The plan's leg in this contract."""
    return next(leg for leg in plan.legs if leg.instrument.symbol == symbol)


def _root_of(order: SimOrder) -> SimOrder:
    """The order that we sent: the combo of a leg, the first of a group."""
    if order.combo is not None:
        return order.combo
    return order if order.group is None else order.group.parent


def purpose_of(client_id: str) -> Purpose | None:
    parts = parse_client_order_id(client_id)
    return None if parts is None else parts.purpose
