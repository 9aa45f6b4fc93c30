"""Flatten without the trade's own workflow: for wedged trades and with the servers away.

Per symbol: nothing is released while no exit can trade (closed, halted, no quote); then our exits
are cancelled and proven dead, a marketable limit is sent for what the *broker* holds, widened rung
by rung, market last. What is still held then gets its stop back (architecture §7). A command that
is carried out again, as for a wedged trade in a thin market, sends new orders: under the numbers
of its last ladder the gate would take neither an exit nor the stop.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import chain

from activities.order_facts import intent_state
from brokers.port import (
    Accepted,
    AuthNeeded,
    Broker,
    Duplicate,
    NotExecuted,
    PlaceOutcome,
    Rejected,
)
from domain.base import Frozen
from domain.errors import HoldfastError
from domain.ids import (
    DIRECT_SEQUENCE_FIRST,
    IntentKey,
    Purpose,
    client_id_of_prefix,
    parse_client_order_id,
    trade_prefix,
)
from domain.instrument import Instrument
from domain.money import ZERO, Quantity, SignedQuantity
from domain.order import (
    BrokerOrderStatus,
    OrderBody,
    OrderIntent,
    OrderSnapshot,
    OrderType,
    Quote,
    Side,
    TimeInForce,
)
from ledger.records import GatePermit, IntentRecord, IntentState, OrderOwner
from ledger.repository import Ledger

COLLAR_MULTIPLES = (1, 2, 4)
RUNG_WAIT_S = 3.0
PROOF_S = 3.0
POLL_S = 0.1
# Release, four rungs with their proofs, and the requests between them.
LEG_MAX_S = 35.0
LOOK_BACK = timedelta(days=7)
# A body names its date: an older order has another id under the same number.
SAME_BODY_BACK = timedelta(days=1)
SEQUENCES = range(DIRECT_SEQUENCE_FIRST, 0x10000)


class HeldLeg(Frozen):
    """What one trade holds in one symbol; `prefix` begins the ids of its orders.

    `owner` is None while the ledger is away: then the broker's whole position in the symbol is
    meant, because nobody can tell whose it is.
    """

    symbol: str
    quantity: SignedQuantity
    prefix: str
    leg: int = 0
    owner: OrderOwner | None = None


class FlattenLine(Frozen):
    """One symbol of a flatten receipt. `why` is empty only when nothing is left."""

    symbol: str
    found: SignedQuantity
    sent: Quantity = ZERO
    filled: Quantity = ZERO
    left: SignedQuantity
    why: str = ""
    trade_id: str = ""

    @property
    def is_flat(self) -> bool:
        return self.left == 0 and not self.why


async def held_by_us(
    broker: Broker, installation: str
) -> tuple[tuple[HeldLeg, ...], tuple[str, ...]]:
    """Positions in symbols that orders of ours traded or work in, without any ledger.

    Returns:
        What is ours, and the symbols held that no order of ours explains: never touched unnamed.
    """
    clock = await broker.market_clock()
    orders = [*await broker.open_orders(), *await broker.orders_since(clock.market_now - LOOK_BACK)]
    prefixes: dict[str, str] = {}
    for order in orders:
        parts = parse_client_order_id(order.client_id or "")
        if parts is None or parts.installation != installation:
            continue
        for symbol in (order.symbol, *(leg.symbol for leg in order.legs)):
            if symbol:
                prefixes[symbol] = (order.client_id or "")[:16]
    held, foreign = [], []
    for position in await broker.positions():
        if position.quantity == 0:
            continue
        prefix = prefixes.get(position.symbol)
        if prefix is None:
            foreign.append(position.symbol)
        else:
            held.append(HeldLeg(symbol=position.symbol, quantity=position.quantity, prefix=prefix))
    return tuple(held), tuple(foreign)


async def held_by_trades(
    ledger: Ledger, account: str, installation: str, trade_ids: Sequence[str]
) -> tuple[HeldLeg, ...]:
    """What these trades hold by their booked fills, short legs first (a combo stays covered)."""
    held: list[HeldLeg] = []
    for row in await ledger.positions_by_trade(account):
        if row.trade_id not in trade_ids:
            continue
        trade = await ledger.trade(row.trade_id)
        if trade is None:
            continue
        symbols = [leg.instrument.symbol for leg in trade.plan.legs]
        held.append(
            HeldLeg(
                symbol=row.symbol,
                quantity=row.quantity,
                prefix=trade_prefix(installation, row.trade_id),
                leg=symbols.index(row.symbol) if row.symbol in symbols else 0,
                owner=OrderOwner(
                    account=account,
                    strategy=trade.strategy,
                    symbols=tuple(dict.fromkeys((trade.symbol, *symbols))),
                    trade_id=row.trade_id,
                ),
            )
        )
    return tuple(sorted(held, key=lambda leg: (leg.quantity > 0, leg.symbol, leg.prefix)))


@dataclass
class _Sold:
    """What a ladder came to so far."""

    sent: Decimal = ZERO
    filled: Decimal = ZERO


class DirectFlatten:
    """Closes positions straight at the broker; every order id is derived from the command.

    Args:
        ledger: None while it is away; otherwise every order passes the gate as a reducing one.
        collar_fraction: width of the first rung around the far side of the quote.
    """

    def __init__(
        self,
        broker: Broker,
        installation: str,
        command_id: str,
        *,
        ledger: Ledger | None,
        collar_fraction: Decimal,
        now: Callable[[], datetime],
        allow_market: bool = True,
        rung_wait_s: float = RUNG_WAIT_S,
    ) -> None:
        self._broker = broker
        self._installation = installation
        self._command_id = command_id
        self._ledger = ledger
        self._collar = collar_fraction
        self._now = now
        self._allow_market = allow_market
        self._rung_wait_s = rung_wait_s
        digest = int(hashlib.sha256(command_id.encode()).hexdigest()[:4], 16)
        self._first_sequence = DIRECT_SEQUENCE_FIRST | (digest & 0x7FF0)
        self._taken: set[tuple[str, int, Purpose, int]] = set()

    async def run(
        self, held: Iterable[HeldLeg], time_limit_s: float = math.inf
    ) -> tuple[FlattenLine, ...]:
        """One leg after the other, in the order given.

        None is begun that the time limit might end in its ladder, its stop down (I4).
        """
        until_s = time.monotonic() + time_limit_s - LEG_MAX_S
        return tuple([await self._one(leg, until_s) for leg in held])

    async def _one(self, leg: HeldLeg, until_s: float) -> FlattenLine:
        trade_id = leg.owner.trade_id if leg.owner is not None else ""
        line = FlattenLine(
            symbol=leg.symbol, found=leg.quantity, left=leg.quantity, trade_id=trade_id
        )
        if time.monotonic() > until_s:
            return line.model_copy(update={"why": "PENDING its turn has not come"})
        try:
            pending = await self._cannot_trade(leg)
            if pending:
                return line.model_copy(update={"why": f"PENDING {pending}"})
            last_stop = await self._know_earlier_orders(leg)
            released, unproven = await self._release(leg)
            if unproven:
                text = f"PENDING exits not proven dead: {', '.join(unproven)}"
                return line.model_copy(update={"why": text})
            return await self._sell_down(leg, line, _stop_price(leg, released) or last_stop)
        except HoldfastError as error:
            return line.model_copy(update={"why": f"PENDING {error.code}"})

    async def _cannot_trade(self, leg: HeldLeg) -> str:
        clock = await self._broker.market_clock()
        if not clock.is_open:
            at = "" if clock.next_open is None else f" until {clock.next_open.isoformat()}"
            return f"MARKET_CLOSED{at}"
        if leg.symbol in clock.halted_symbols:
            return "HALTED"
        return "" if await self._body(leg.symbol, leg.quantity, 0) else "NO_QUOTE"

    async def _know_earlier_orders(self, leg: HeldLeg) -> Decimal | None:
        """Numbers that direct orders of the leg have; answers its last stop price, if known.

        Who died between release and exit has left no stop at the broker that could come back.
        """
        rows: Sequence[IntentRecord] = ()
        if self._ledger is not None and leg.owner is not None:
            rows = await self._ledger.orders_of_trade(leg.owner.trade_id)
        ids = [row.intent.client_id for row in rows]
        # The broker also has those of a flatten without the ledger. A number that is used again is
        # refused at worst; an exit must not fail for a list.
        with suppress(HoldfastError):
            clock = await self._broker.market_clock()
            shown = await self._broker.orders_since(clock.market_now - SAME_BODY_BACK)
            ids += [order.client_id or "" for order in shown]
        for parts in map(parse_client_order_id, ids):
            if parts is not None and parts.is_direct:
                prefix = f"{parts.installation}{parts.trade_digest}"
                self._taken.add((prefix, parts.leg, parts.purpose, parts.sequence))
        return _last_stop_price(leg, rows)

    async def _release(self, leg: HeldLeg) -> tuple[list[OrderSnapshot], list[str]]:
        """Cancels our exits of the symbol; answers them and the ids of those not proven dead."""
        ours = [order for order in await self._broker.open_orders() if self._is_exit_of(leg, order)]
        ours += await self._not_listed(leg, {order.broker_order_id for order in ours})
        for order in ours:
            await self._broker.cancel(order.broker_order_id)
        ids = [order.broker_order_id for order in ours]
        return ours, [each for each in ids if not await self._is_dead(each)]

    async def _not_listed(self, leg: HeldLeg, listed: set[str]) -> list[OrderSnapshot]:
        """Exits that the ledger has and the broker's list does not: a stop left overnight (G4).

        Sold against such a stop the position would be sold twice (I4). Nothing without a ledger.
        """
        if self._ledger is None or leg.owner is None:
            return []
        trade_id = leg.owner.trade_id
        rows = await self._ledger.open_orders(leg.owner.account, trade_id=trade_id)
        children = await self._ledger.children_of_trade(trade_id)
        ids = [row.broker_order_id for row in rows if row.broker_order_id is not None]
        ids += [each.parent_broker_id for each in children if not each.snapshot.is_terminal]
        found: list[OrderSnapshot] = []
        for broker_order_id in dict.fromkeys(ids):
            if broker_order_id in listed:
                continue
            order = await self._broker.order(broker_order_id)
            if order is None or all(each.is_terminal for each in (order, *order.legs)):
                continue
            if self._is_exit_of(leg, order):
                found.append(order)
        return found

    def _is_exit_of(self, leg: HeldLeg, order: OrderSnapshot) -> bool:
        parts = parse_client_order_id(order.client_id or "")
        if parts is None or parts.installation != self._installation:
            return False
        if leg.owner is not None and not (order.client_id or "").startswith(leg.prefix):
            return False
        return leg.symbol in (order.symbol, *(each.symbol for each in order.legs))

    async def _is_dead(self, broker_order_id: str) -> bool:
        order = await self._wait_for_end(broker_order_id, PROOF_S)
        return order is not None and order.is_terminal

    async def _wait_for_end(self, broker_order_id: str, wait_s: float) -> OrderSnapshot | None:
        """The order once it and its members are dead, else as it was last seen."""
        return await _look(partial(self._broker.order, broker_order_id), _is_over, wait_s)

    async def _sell_down(
        self, leg: HeldLeg, line: FlattenLine, stop_price: Decimal | None
    ) -> FlattenLine:
        """The ladder; what is still held then gets its stop back, whatever ended it (I4)."""
        sold = _Sold()
        try:
            why = await self._ladder(leg, sold)
        except HoldfastError as error:
            why = f"PENDING {error.code}"
        left = await self._left(leg, abs(leg.quantity) - sold.filled)
        if left != 0:
            why = f"{why or 'PENDING not filled'}{await self._stop_back(leg, left, stop_price)}"
        done = {"sent": sold.sent, "filled": sold.filled, "left": left}
        return line.model_copy(update=done | {"why": "" if left == 0 else why})

    async def _ladder(self, leg: HeldLeg, sold: _Sold) -> str:
        """Each rung for what the broker holds now, never across zero (I3); says what was wrong."""
        why, wanted = "", abs(leg.quantity)
        for rung in range(len(COLLAR_MULTIPLES) + int(self._allow_market)):
            left = await self._left(leg, wanted - sold.filled)
            if left == 0:
                break
            body = await self._body(leg.symbol, left, rung)
            if body is None:
                return "PENDING NO_QUOTE"
            client_id, outcome = await self._send(leg, Purpose.FLATTEN, body)
            if refused := _refusal(outcome):
                why = f"PENDING {refused}"
                continue
            order = await self._end_of(leg, client_id, outcome)
            is_over = order is not None and order.is_terminal
            if isinstance(outcome, Duplicate) and is_over:
                why = "PENDING DUPLICATE"  # An earlier one: what it sold is not held any more.
                continue
            sold.sent += body.quantity
            sold.filled += ZERO if order is None else order.filled_quantity
            if not is_over:
                # It may yet sell what the next one would sell again (I2).
                return "PENDING an exit order is not proven dead"
        return why

    async def _left(self, leg: HeldLeg, most: Decimal) -> Decimal:
        """What may still be closed: ours, and never more than the broker holds on that side."""
        held = ZERO
        for position in await self._broker.positions():
            if position.symbol == leg.symbol:
                held = position.quantity
        if held == 0 or (held > 0) != (leg.quantity > 0):
            return ZERO
        size = min(abs(held), most) if leg.owner is not None else abs(held)
        return size if held > 0 else -size

    async def _body(self, symbol: str, left: Decimal, rung: int) -> OrderBody | None:
        side = Side.SELL if left > 0 else Side.BUY
        body = OrderBody(
            symbol=symbol,
            side=side,
            quantity=abs(left),
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY,
            intent_date=self._now().date(),
        )
        if rung >= len(COLLAR_MULTIPLES):
            return body
        quote = (await self._broker.quotes([symbol])).get(symbol)
        asset = await self._broker.asset(symbol)
        price = _marketable(quote, side, self._collar * COLLAR_MULTIPLES[rung], asset.instrument)
        if price is None:
            return None
        return body.model_copy(update={"order_type": OrderType.LIMIT, "limit_price": price})

    async def _send(
        self, leg: HeldLeg, purpose: Purpose, body: OrderBody
    ) -> tuple[str, PlaceOutcome]:
        """Sends it once, under the command's next free number; its client id and what came."""
        sequence = self._next_sequence(leg, purpose)
        trade_id = leg.owner.trade_id if leg.owner is not None else f"flatten-{leg.prefix}"
        client_id = client_id_of_prefix(leg.prefix, leg.leg, purpose, sequence, body.checksum())
        intent = OrderIntent(
            key=IntentKey(trade_id=trade_id, leg=leg.leg, purpose=purpose, sequence=sequence),
            client_id=client_id,
            body=body,
            increasing=False,
            reason=f"flatten {self._command_id}",
        )
        if self._ledger is None or leg.owner is None:
            return client_id, await self._broker.place(intent)
        token = f"flatten/{self._command_id}/{sequence:x}"
        try:
            answer = await self._ledger.open_gate(intent, leg.owner, token, self._now())
        except HoldfastError:
            return client_id, await self._broker.place(intent)
        if not isinstance(answer, GatePermit):
            return client_id, Rejected(code="INTENT_EXISTS", text=answer.kind)
        outcome = await self._broker.place(intent)
        state, order, code = intent_state(outcome)
        now = self._now()
        await _book(
            self._ledger.record_answer(
                client_id, token, state, snapshot=order, code=code, at=now, sent_at=now
            )
        )
        return client_id, outcome

    def _next_sequence(self, leg: HeldLeg, purpose: Purpose) -> int:
        """The first free one from the command's own on; the gate refuses one that is taken."""
        own = self._first_sequence - SEQUENCES.start
        for sequence in chain(SEQUENCES[own:], SEQUENCES[:own]):
            number = (leg.prefix, leg.leg, purpose, sequence)
            if number not in self._taken:
                self._taken.add(number)
                return sequence
        return self._first_sequence

    async def _end_of(
        self, leg: HeldLeg, client_id: str, outcome: PlaceOutcome
    ) -> OrderSnapshot | None:
        """Waits for the fill, takes the rest back, proves the end, books it; None: in doubt."""
        sent = outcome.order if isinstance(outcome, Accepted) else None
        if sent is None:
            # Its answer named no order: looked up until it shows.
            ask = partial(self._broker.order_by_client_id, client_id)
            sent = await _look(ask, lambda order: True, PROOF_S)
        if sent is None:
            return None
        order = await self._wait_for_end(sent.broker_order_id, self._rung_wait_s)
        if order is None or not order.is_terminal:
            await self._broker.cancel(sent.broker_order_id)
            order = await self._wait_for_end(sent.broker_order_id, PROOF_S)
        if order is not None and self._ledger is not None and leg.owner is not None:
            await _book(self._ledger.record_snapshot(leg.owner.account, order))
        return order

    async def _stop_back(self, leg: HeldLeg, left: Decimal, stop_price: Decimal | None) -> str:
        """Never none: what could not be closed gets the protection back that it had.

        Answers what kept it from it, to be read behind what kept the position from being closed.
        """
        if stop_price is None:
            return ""
        for order in await self._broker.open_orders():
            stops = (each for each in (order, *order.legs) if each.stop_price is not None)
            if self._is_exit_of(leg, order) and not all(each.is_terminal for each in stops):
                return ""  # another flatten has put it back
        body = OrderBody(
            symbol=leg.symbol,
            side=Side.SELL if left > 0 else Side.BUY,
            quantity=abs(left),
            order_type=OrderType.STOP,
            time_in_force=TimeInForce.GTC,
            stop_price=stop_price,
            intent_date=self._now().date(),
        )
        _, outcome = await self._send(leg, Purpose.STOP, body)
        return "" if isinstance(outcome, Accepted) else f", its stop is not back: {outcome.kind}"


async def _look(
    ask: Callable[[], Awaitable[OrderSnapshot | None]],
    is_enough: Callable[[OrderSnapshot], bool],
    wait_s: float,
) -> OrderSnapshot | None:
    """Asks until the answer is enough or the time is over, and answers what was seen last.

    Ever more rarely: four rungs without a buyer took 127 of the 200 requests that the account has
    in a minute, and what cannot be read for that reason now may be read at the next look.
    """
    deadline_s, pause_s = time.monotonic() + wait_s, POLL_S
    seen: OrderSnapshot | None = None
    while True:
        with suppress(HoldfastError):
            seen = await ask()
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or (seen is not None and is_enough(seen)):
            return seen
        await asyncio.sleep(min(pause_s, left_s))
        pause_s *= 2


def _is_over(order: OrderSnapshot) -> bool:
    return order.is_terminal and all(leg.is_terminal for leg in order.legs)


async def _book(writing: Awaitable[object]) -> None:
    """The order is out, and its end must be seen to; what is not booked here, reconcile books."""
    with suppress(HoldfastError):
        await writing


def _refusal(outcome: PlaceOutcome) -> str:
    """Why surely no order came of it; empty if one did or may have."""
    match outcome:
        case Rejected(code=code) | NotExecuted(code=code):
            return code
        case AuthNeeded():
            return "AUTH"
    return ""


def _stop_price(leg: HeldLeg, orders: Sequence[OrderSnapshot]) -> Decimal | None:
    """The price of the nearest stop of the leg among these orders and their members."""
    prices = [
        each.stop_price
        for order in orders
        for each in (order, *order.legs)
        if each.stop_price is not None
        and each.symbol in ("", leg.symbol)
        and each.status is not BrokerOrderStatus.FILLED
    ]
    if not prices:
        return None
    return max(prices) if leg.quantity > 0 else min(prices)


def _last_stop_price(leg: HeldLeg, rows: Sequence[IntentRecord]) -> Decimal | None:
    """The price of the newest stop that the broker took for the leg, alone or in a pair."""
    for row in reversed(rows):
        body = row.intent.body
        price = body.stop_loss_price if body.stop_price is None else body.stop_price
        is_taken = row.state is IntentState.ACCEPTED and body.symbol == leg.symbol
        if price is not None and is_taken and not row.intent.increasing:
            return price
    return None


def _marketable(
    quote: Quote | None, side: Side, fraction: Decimal, instrument: Instrument
) -> Decimal | None:
    if quote is None:
        return None
    if side is Side.SELL:
        if quote.bid is None or quote.bid <= 0:
            return None
        return instrument.tick_up(max(quote.bid * (1 - fraction), instrument.tick_size))
    if quote.ask is None or quote.ask <= 0:
        return None
    return instrument.tick_down(quote.ask * (1 + fraction))
