"""What the exchange refuses before an order exists (alpaca.md §2, §9): nothing changes then."""

from __future__ import annotations

from decimal import Decimal

from domain.instrument import Instrument
from domain.money import ZERO, divide
from simulator.lifecycle import is_grouped, is_immediate
from simulator.margin import Margin, OptionLine, portfolio_loss, uncovered_calls
from simulator.orders import (
    Kind,
    OrderClass,
    OrderRequest,
    Role,
    Side,
    SimOrder,
    Status,
    TimeInForce,
)
from simulator.refusals import Reason, Refusal
from simulator.state import State

CLIENT_ID_LENGTH_MAX = 128
FRACTION_STEP = Decimal("1e-9")
STOP_DISTANCE_MIN = Decimal("0.01")
COMBO_LEGS_MIN, COMBO_LEGS_MAX = 2, 4


class Checks:
    """Each method raises `Refusal` or returns."""

    def __init__(self, state: State, margin: Margin) -> None:
        self._state = state
        self._margin = margin

    def client_id(self, client_id: str | None) -> None:
        """Unique for ever, also after the first order has ended."""
        if client_id is None:
            return
        if not client_id or len(client_id) > CLIENT_ID_LENGTH_MAX:
            raise Refusal(Reason.INVALID, "client_order_id must be 1 to 128 characters long")
        if self._state.config.face.has_unique_ids and client_id in self._state.by_client:
            raise Refusal(Reason.DUPLICATE_CLIENT_ID, "client_order_id must be unique")

    def form(self, request: OrderRequest) -> None:
        """Shape of the request: symbol, quantity, prices, class and time in force."""
        if request.order_class is OrderClass.COMBO:
            self._combo_form(request)
            return
        listing = self._state.listing(request.symbol)
        if request.quantity is None:
            raise Refusal(Reason.INVALID, "qty is required")
        if request.quantity <= 0:
            raise Refusal(Reason.INVALID, "qty must be > 0")
        self._lot(request, listing.instrument, fractional=listing.fractional)
        self._prices(request, listing.instrument)
        if listing.is_option:
            self._option_form(request)
        if is_grouped(request.order_class):
            self._group_form(request)
        if request.extended_hours and request.kind is not Kind.LIMIT:
            raise Refusal(Reason.INVALID, "extended hours order must be DAY limit orders")

    def against_account(self, order: SimOrder) -> None:
        """Held quantity, short selling, own opposite orders and buying power."""
        if order.legs:
            self._combo_account(order)
        else:
            self._held_quantity(order)
            self._option_cover(order)
            self._wash_trade(order)
        self.buying_power(order, freed=ZERO)

    def buying_power(self, order: SimOrder, freed: Decimal) -> None:
        """`freed` is what the order that is being replaced gives back."""
        needed = self._margin.needed(order) - freed
        free = self._margin.buying_power()
        if needed <= 0 or needed <= free:
            return
        is_option = bool(order.legs) or self._state.listings[order.symbol].is_option
        if is_option:
            leverage = self._state.config.multiplier
            raise Refusal(
                Reason.BUYING_POWER,
                "insufficient options buying power",
                cost_basis=divide(needed, leverage),
                options_buying_power=divide(free, leverage),
            )
        raise Refusal(
            Reason.BUYING_POWER,
            "insufficient buying power",
            buying_power=free,
            cost_basis=needed,
        )

    def price_step(self, instrument: Instrument, name: str, price: Decimal | None) -> None:
        """A price must be above zero and on the tick."""
        if price is None:
            return
        if price <= 0:
            raise Refusal(Reason.INVALID, f"{name} must be > 0")
        if not instrument.is_on_tick(price):
            raise Refusal(
                Reason.TICK,
                f"invalid {name} {price:f}. sub-penny increment does not fulfill "
                "minimum pricing criteria",
            )

    def held_for(self, symbol: str, side: Side, without: SimOrder | None = None) -> Decimal:
        """Quantity that working exits of `side` reserve; a group counts once."""
        total = ZERO
        for order in self._state.open_orders.values():
            if order.side is not side or order.waits_for_entry:
                continue
            if without is not None and _same_reservation(order, without):
                continue
            if order.symbol == symbol and not _counted_by_sibling(order):
                total += order.remaining
        return total

    # --- private ------------------------------------------------------------------------------

    def _lot(self, request: OrderRequest, instrument: Instrument, *, fractional: bool) -> None:
        quantity = request.quantity
        assert quantity is not None, "checked before"
        if quantity % instrument.lot_size == 0:
            return
        if not fractional:
            raise Refusal(Reason.LOT, "qty must be a whole number of lots")
        if quantity % FRACTION_STEP != 0:
            raise Refusal(Reason.LOT, "qty must have at most 9 decimal places")
        if request.time_in_force is not TimeInForce.DAY:
            raise Refusal(Reason.INVALID, "fractional orders must be DAY orders")
        if request.order_class is not OrderClass.SIMPLE:
            raise Refusal(Reason.INVALID, "fractional orders must be simple orders")

    def _prices(self, request: OrderRequest, instrument: Instrument) -> None:
        needs_limit = request.kind in (Kind.LIMIT, Kind.STOP_LIMIT)
        needs_stop = request.kind in (Kind.STOP, Kind.STOP_LIMIT)
        named = (
            ("limit_price", request.limit_price, needs_limit),
            ("stop_price", request.stop_price, needs_stop),
        )
        for name, price, is_needed in named:
            if is_needed and price is None:
                raise Refusal(Reason.INVALID, f"{request.kind} orders require {name}")
            if not is_needed and price is not None:
                raise Refusal(Reason.INVALID, f"{request.kind} orders do not allow {name}")
            self.price_step(instrument, name, price)
        self.price_step(instrument, "take_profit.limit_price", request.take_profit_price)
        self.price_step(instrument, "stop_loss.stop_price", request.stop_loss_price)
        self.price_step(instrument, "stop_loss.limit_price", request.stop_loss_limit_price)

    def _option_form(self, request: OrderRequest) -> None:
        if self._state.config.face.rests_option_stops:
            return
        if request.time_in_force is not TimeInForce.DAY:
            raise Refusal(Reason.INVALID, "invalid time_in_force for options: only day is allowed")
        if request.kind not in (Kind.MARKET, Kind.LIMIT):
            raise Refusal(Reason.INVALID, "invalid order type for options trading")
        if request.order_class is not OrderClass.SIMPLE:
            raise Refusal(Reason.INVALID, "complex orders not supported for options trading")

    def _group_form(self, request: OrderRequest) -> None:
        name = request.order_class.value
        target, stop = request.take_profit_price, request.stop_loss_price
        if request.time_in_force not in (TimeInForce.DAY, TimeInForce.GTC):
            raise Refusal(Reason.INVALID, f"{name} orders must be day or gtc")
        if request.extended_hours:
            raise Refusal(Reason.INVALID, f"{name} orders do not allow extended hours")
        if request.order_class is OrderClass.OTO:
            if (target is None) == (stop is None):
                raise Refusal(Reason.INVALID, "oto orders require either take_profit or stop_loss")
        else:
            if target is None:
                raise Refusal(Reason.INVALID, f"{name} orders require take_profit.limit_price")
            if stop is None:
                raise Refusal(Reason.INVALID, f"{name} orders require stop_loss.stop_price")
        if request.order_class is OrderClass.OCO and request.kind is not Kind.LIMIT:
            raise Refusal(Reason.INVALID, "oco orders must be limit orders")
        self._group_distances(request)

    def _group_distances(self, request: OrderRequest) -> None:
        """Target and stop lie at least $0.01 on their side of the base price."""
        exits = request.order_class is OrderClass.OCO
        sign = -request.side.sign if exits else request.side.sign
        target, stop = request.take_profit_price, request.stop_loss_price
        if target is not None and stop is not None and (target - stop) * sign <= 0:
            raise Refusal(
                Reason.STOP_TOO_CLOSE,
                "take_profit.limit_price must be on the profitable side of stop_loss.stop_price",
            )
        last = self._state.books[request.symbol].last
        base = last if exits or request.limit_price is None else request.limit_price
        if base is None:
            return
        word, mark = ("<=", "-") if sign > 0 else (">=", "+")
        if stop is not None and (base - stop) * sign < STOP_DISTANCE_MIN:
            raise Refusal(
                Reason.STOP_TOO_CLOSE,
                f"stop_loss.stop_price must be {word} base_price {mark} 0.01",
                base_price=base,
            )
        if not exits and target is not None and (target - base) * sign < STOP_DISTANCE_MIN:
            word, mark = (">=", "+") if sign > 0 else ("<=", "-")
            raise Refusal(
                Reason.STOP_TOO_CLOSE,
                f"take_profit.limit_price must be {word} base_price {mark} 0.01",
                base_price=base,
            )

    def _combo_form(self, request: OrderRequest) -> None:
        symbols = [leg.symbol for leg in request.legs]
        if not COMBO_LEGS_MIN <= len(symbols) <= COMBO_LEGS_MAX:
            raise Refusal(Reason.INVALID, "mleg orders require 2 to 4 legs")
        if len(set(symbols)) != len(symbols):
            raise Refusal(Reason.INVALID, "all legs must have unique symbols")
        if request.kind not in (Kind.MARKET, Kind.LIMIT):
            raise Refusal(Reason.INVALID, "mleg orders must be market or limit orders")
        if request.time_in_force is not TimeInForce.DAY:
            raise Refusal(Reason.INVALID, "invalid time_in_force for options: only day is allowed")
        if request.quantity is None or request.quantity <= 0 or request.quantity % 1 != 0:
            raise Refusal(Reason.LOT, "qty must be a whole number > 0")
        if (request.kind is Kind.LIMIT) != (request.limit_price is not None):
            raise Refusal(Reason.INVALID, "limit orders require limit_price")
        for leg in request.legs:
            listing = self._state.listing(leg.symbol)
            if not listing.is_option:
                raise Refusal(Reason.INVALID, "mleg orders only support options")
            if leg.ratio < 1:
                raise Refusal(Reason.INVALID, "ratio_qty must be >= 1")
            if request.limit_price is not None and not listing.instrument.is_on_tick(
                request.limit_price
            ):
                raise Refusal(
                    Reason.TICK,
                    f"invalid limit_price {request.limit_price:f}. sub-penny increment does not "
                    "fulfill minimum pricing criteria",
                )

    def _held_quantity(self, order: SimOrder) -> None:
        position = self._state.account.quantity(order.symbol)
        is_exit_only = order.order_class is OrderClass.OCO
        if position * order.side.sign < 0:
            held = self.held_for(order.symbol, order.side)
            available = max(ZERO, abs(position) - held)
            if order.quantity > available:
                raise Refusal(
                    Reason.QUANTITY_HELD,
                    f"insufficient qty available for order (requested: {order.quantity:f}, "
                    f"available: {available:f})",
                    available=available,
                    existing_qty=abs(position),
                    held_for_orders=held,
                    symbol=order.symbol,
                )
            return
        if is_exit_only:
            raise Refusal(
                Reason.QUANTITY_HELD,
                f"insufficient qty available for order (requested: {order.quantity:f}, "
                "available: 0)",
                available=ZERO,
                existing_qty=ZERO,
                held_for_orders=ZERO,
                symbol=order.symbol,
            )
        if order.side is Side.SELL:
            self._opening_sale(order)

    def _option_cover(self, order: SimOrder) -> None:
        """Selling the long option under a short one would leave the short one uncovered."""
        if not self._state.listings[order.symbol].is_option or order.side is Side.BUY:
            return
        held = self._option_quantities()
        before = self._lines(held)
        held[order.symbol] = held.get(order.symbol, ZERO) - order.quantity
        after = self._lines(held)
        free = self._margin.options_buying_power()
        opens_risk = portfolio_loss(after) - portfolio_loss(before) > free
        if uncovered_calls(after) > 0 or opens_risk:
            raise Refusal(
                Reason.OPTION_LEVEL,
                "account not eligible to trade uncovered option contracts",
            )

    def _option_quantities(self) -> dict[str, Decimal]:
        state = self._state
        return {
            symbol: holding.quantity
            for symbol, holding in state.account.holdings.items()
            if state.listings[symbol].is_option
        }

    def _lines(self, held: dict[str, Decimal]) -> list[OptionLine]:
        lines = (
            OptionLine(self._state.listings[symbol].instrument, quantity)
            for symbol, quantity in held.items()
        )
        return self._margin.without_covered(lines)

    def _opening_sale(self, order: SimOrder) -> None:
        state = self._state
        listing = state.listings[order.symbol]
        if listing.is_option:
            return  # `_option_cover` asks for the cash of a put and the shares of a call
        if not listing.shortable or not state.config.shorting_enabled:
            raise Refusal(Reason.NOT_SHORTABLE, f"asset {order.symbol} cannot be sold short")
        if order.quantity % listing.instrument.lot_size != 0:
            raise Refusal(Reason.INVALID, "fractional orders cannot be sold short")

    def _wash_trade(self, order: SimOrder) -> None:
        """Opposite orders of one account that could meet (alpaca.md §2); groups are exempt."""
        if not self._state.config.wash_trade_check or is_grouped(order.order_class):
            return
        for other in self._state.open_orders.values():
            if other.symbol != order.symbol or other.side is order.side:
                continue
            if is_grouped(other.order_class) or other.combo is not None:
                continue
            if _may_meet(order, other):
                raise Refusal(
                    Reason.WASH_TRADE,
                    "potential wash trade detected. use complex orders",
                    existing_order_id=other.id,
                    reject_reason="opposite side order exists",
                )

    def _combo_account(self, order: SimOrder) -> None:
        """Closing legs need the contracts; opening legs must not leave an uncovered short."""
        state = self._state
        after = self._option_quantities()
        for leg in order.legs:
            position = after.get(leg.symbol, ZERO)
            if leg.intent in ("sell_to_close", "buy_to_close"):
                held = self.held_for(leg.symbol, leg.side)
                free = max(ZERO, -position * leg.side.sign - held)
                if leg.quantity > free:
                    raise Refusal(
                        Reason.QUANTITY_HELD,
                        f"insufficient qty available for order (requested: {leg.quantity:f}, "
                        f"available: {free:f})",
                        available=free,
                        existing_qty=abs(position),
                        held_for_orders=held,
                        symbol=leg.symbol,
                    )
            after[leg.symbol] = position + leg.quantity * leg.side.sign
        if state.config.options_level < 3 or uncovered_calls(self._lines(after)) > 0:
            raise Refusal(
                Reason.OPTION_LEVEL,
                "account not eligible to trade uncovered option contracts",
            )


def _may_meet(new: SimOrder, other: SimOrder) -> bool:
    """Two limits meet when their prices cross; anything else on the other side always may."""
    if new.kind is Kind.LIMIT and other.kind is Kind.LIMIT:
        buy, sell = (new, other) if new.side is Side.BUY else (other, new)
        assert buy.limit_price is not None
        assert sell.limit_price is not None
        return buy.limit_price >= sell.limit_price
    return True


def _counted_by_sibling(order: SimOrder) -> bool:
    """The stop of a pair reserves nothing of its own while its target is open."""
    group = order.group
    if group is None or order.role is not Role.STOP_LOSS or group.take_profit is None:
        return False
    return not group.take_profit.is_done


def _same_reservation(order: SimOrder, other: SimOrder) -> bool:
    return order is other or (order.group is not None and order.group is other.group)


def is_changeable(order: SimOrder) -> bool:
    """Statuses in which Alpaca replaces an order (alpaca.md §3)."""
    return (
        order.status in (Status.NEW, Status.PARTIALLY_FILLED, Status.HELD)
        and not is_immediate(order)
        and order.notional is None
    )
