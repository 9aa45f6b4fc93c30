"""Equity, buying power and what an order would need of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from domain.instrument import Instrument, OptionRight
from domain.money import ZERO, divide
from simulator.orders import Kind, Side, SimOrder
from simulator.state import State

MARKET_ORDER_MARKUP = Decimal("1.03")


@dataclass(frozen=True, slots=True)
class OptionLine:
    """A signed number of one option contract."""

    instrument: Instrument
    quantity: Decimal


class Margin:
    """A simple Reg-T like model: leverage on shares, full premium or maximum loss on options."""

    def __init__(self, state: State) -> None:
        self._state = state

    def market_value(self, symbol: str) -> Decimal:
        """Signed value of the position at the mark; at cost where the market never showed one."""
        holding = self._state.account.holdings.get(symbol)
        if holding is None:
            return ZERO
        mark = self._state.books[symbol].mark
        price = holding.average_price if mark is None else mark
        return holding.quantity * price * self._state.account.multiplier(symbol)

    def equity(self) -> Decimal:
        account = self._state.account
        return account.cash + sum((self.market_value(s) for s in account.holdings), ZERO)

    def long_value(self) -> Decimal:
        values = (self.market_value(s) for s in self._state.account.holdings)
        return sum((value for value in values if value > 0), ZERO)

    def short_value(self) -> Decimal:
        values = (self.market_value(s) for s in self._state.account.holdings)
        return sum((value for value in values if value < 0), ZERO)

    def buying_power(self) -> Decimal:
        """What new shares may cost; never below zero."""
        return max(ZERO, self._free() * self._state.config.multiplier - self._share_use())

    def options_buying_power(self) -> Decimal:
        """Options are not leveraged: what is free divided by the leverage."""
        return divide(self.buying_power(), self._state.config.multiplier)

    def needed(self, order: SimOrder) -> Decimal:
        """Buying power that an opening order reserves; zero for an exit."""
        if order.legs:
            return self._combo_needs(order) * self._state.config.multiplier
        opening = self.opening_quantity(order)
        if opening <= 0:
            return ZERO
        listing = self._state.listings[order.symbol]
        if listing.is_option and order.side is Side.SELL:
            return self._short_option_needs(order) * self._state.config.multiplier
        price = self._worst_price(order)
        value = price * opening * listing.instrument.multiplier
        return value * self._state.config.multiplier if listing.is_option else value

    def opening_quantity(self, order: SimOrder) -> Decimal:
        """The part of the rest that would open or add to a position."""
        position = self._state.account.quantity(order.symbol)
        if order.waits_for_entry or position * order.side.sign < 0:
            return ZERO
        group = order.group
        if group is not None and order is not group.entry:
            return ZERO
        return order.remaining

    def initial_margin(self) -> Decimal:
        held = sum((abs(self.market_value(s)) for s in self._state.account.holdings), ZERO)
        return divide(held, self._state.config.multiplier)

    # --- private ------------------------------------------------------------------------------

    def _free(self) -> Decimal:
        options = self._option_lines()
        value = sum(
            (self.market_value(line.instrument.symbol) for line in options),
            ZERO,
        )
        return self.equity() - value - portfolio_loss(options)

    def _share_use(self) -> Decimal:
        state = self._state
        shares = sum(
            (
                abs(self.market_value(symbol))
                for symbol in state.account.holdings
                if not state.listings[symbol].is_option
            ),
            ZERO,
        )
        orders = (o for o in state.open_orders.values() if o.combo is None)
        return shares + sum((self.needed(order) for order in orders), ZERO)

    def _option_lines(self) -> list[OptionLine]:
        state = self._state
        lines = [
            OptionLine(state.listings[symbol].instrument, holding.quantity)
            for symbol, holding in state.account.holdings.items()
            if state.listings[symbol].is_option
        ]
        return self.without_covered(lines)

    def without_covered(self, lines: Iterable[OptionLine]) -> list[OptionLine]:
        """The lines less the short calls that shares in the account stand for (level 1)."""
        shares = {symbol: h.quantity for symbol, h in self._state.account.holdings.items()}
        left: list[OptionLine] = []
        for line in lines:
            instrument, quantity = line.instrument, line.quantity
            root = instrument.underlying or ""
            if instrument.right is OptionRight.CALL and quantity < 0:
                covered = min(-quantity, max(ZERO, shares.get(root, ZERO) // instrument.multiplier))
                quantity += covered
                shares[root] = shares.get(root, ZERO) - covered * instrument.multiplier
            left.append(OptionLine(instrument, quantity))
        return left

    def _worst_price(self, order: SimOrder) -> Decimal:
        """Limit price where there is one; else far touch or stop plus 3 %."""
        book = self._state.books[order.symbol]
        base = order.stop_price or book.touch(Side.BUY) or book.mark or ZERO
        if order.side is Side.SELL and order.limit_price is not None:
            return max(order.limit_price, base * MARKET_ORDER_MARKUP)
        if order.kind in (Kind.LIMIT, Kind.STOP_LIMIT) and order.limit_price is not None:
            return order.limit_price
        return base * MARKET_ORDER_MARKUP

    def _short_option_needs(self, order: SimOrder) -> Decimal:
        """What more could be lost: the strike of a put; nothing for a call over shares."""
        instrument = self._state.listings[order.symbol].instrument
        before = self._option_lines()
        after = self.without_covered([*before, OptionLine(instrument, -order.remaining)])
        return max(ZERO, portfolio_loss(after) - portfolio_loss(before))

    def _combo_needs(self, order: SimOrder) -> Decimal:
        """Maximum loss of the position after the combo, minus that before, plus the net debit."""
        state = self._state
        before = self._option_lines()
        lines = [
            OptionLine(
                state.listings[leg.symbol].instrument,
                order.remaining * leg.ratio * leg.side.sign,
            )
            for leg in order.legs
        ]
        multiplier = lines[0].instrument.multiplier
        net = order.limit_price
        if net is None:
            net = sum(
                (
                    (state.books[leg.symbol].touch(leg.side) or ZERO) * leg.ratio * leg.side.sign
                    for leg in order.legs
                ),
                ZERO,
            )
        extra = portfolio_loss([*before, *lines]) - portfolio_loss(before)
        return max(ZERO, extra + net * order.remaining * multiplier)


def portfolio_loss(lines: Iterable[OptionLine]) -> Decimal:
    """Largest loss at expiry, premiums aside, summed over (underlying, expiry); >= 0.

    Uncovered short calls have no largest loss; the level check refuses them before, so the
    grid's end stands for them here.
    """
    groups: dict[tuple[str, str], list[OptionLine]] = defaultdict(list)
    for line in lines:
        key = (line.instrument.underlying or "", str(line.instrument.expiry))
        groups[key].append(line)
    loss = ZERO
    for members in groups.values():
        strikes = [line.instrument.strike or ZERO for line in members]
        grid = (ZERO, *strikes, 2 * max(strikes))
        loss += max(ZERO, -min(_payoff(members, price) for price in grid))
    return loss


def uncovered_calls(lines: Iterable[OptionLine]) -> Decimal:
    """Short calls beyond the long calls, per account; > 0 means an unlimited loss."""
    calls = (line for line in lines if line.instrument.right is OptionRight.CALL)
    return max(ZERO, -sum((line.quantity for line in calls), ZERO))


def _payoff(lines: Iterable[OptionLine], price: Decimal) -> Decimal:
    total = ZERO
    for line in lines:
        strike = line.instrument.strike or ZERO
        sign = 1 if line.instrument.right is OptionRight.CALL else -1
        total += max(ZERO, (price - strike) * sign) * line.quantity * line.instrument.multiplier
    return total
