"""The money law: what a trade earned, to the cent. docs/money.md works every rule by hand.

Positions go by average cost, statements by FIFO lots; both give the same sum once flat. Money is
in the instrument's settlement currency: the quote currency, or the base coin of an inverse
contract. Nothing is rounded before it is shown; `domain.money.round_to_cent` does that once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from pydantic import Field

from domain.base import Frozen
from domain.errors import PriceUnavailable
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.money import (
    CTX,
    ONE,
    ZERO,
    Calculated,
    divide,
    multiply,
    round_to_cent,
    total,
)
from domain.order import Fill, Quote, Side


class CostPosition(Frozen):
    """A position by average cost. `average_price` is None when flat.

    `realised` is gross of fees. The average of an inverse contract is harmonic.
    """

    quantity: Calculated = ZERO
    average_price: Calculated | None = None
    realised: Calculated = ZERO


class Lot(Frozen):
    """One open FIFO lot; `quantity` is signed."""

    fill_key: str
    quantity: Calculated
    price: Calculated


class LotMatch(Frozen):
    """One closed piece of a lot, as a statement lists it; `realised` is gross of fees."""

    opened_by: str
    closed_by: str
    quantity: Calculated
    side: Side
    entry_price: Calculated
    exit_price: Calculated
    realised: Calculated


class LotLedger(Frozen):
    """FIFO result of a list of fills: what is still open and what was closed."""

    open_lots: tuple[Lot, ...] = ()
    matches: tuple[LotMatch, ...] = ()

    @property
    def realised(self) -> Decimal:
        return total(match.realised for match in self.matches)


class TradeResult(Frozen):
    """What a trade made in account currency.

    `gross` excludes fees, `fees` > 0 is cost, `net` = gross - fees. `fees_estimated` is True
    while any fill's fee is not booked yet. `entry_slippage` > 0 is money lost against the
    arrival mid. `open_quantities` names what is not flat.
    """

    gross: Calculated
    fees: Calculated
    fees_estimated: bool
    net: Calculated
    entry_slippage: Calculated | None = None
    open_quantities: dict[str, Calculated] = Field(default_factory=dict)
    rates: dict[str, Calculated] = Field(default_factory=dict)

    @property
    def net_cents(self) -> Decimal:
        return round_to_cent(self.net)


def realised_pnl(
    instrument: Instrument, side: Side, quantity: Decimal, entry: Decimal, exit_price: Decimal
) -> Decimal:
    """side x (exit - entry) x quantity x multiplier; `side` is the side of the entry.

    Inverse: side x quantity x multiplier x (1/entry - 1/exit), in the base coin. Fees are kept
    apart.

    Raises:
        PriceUnavailable: an inverse contract with a price that is not above zero.
    """
    if not instrument.inverse:
        return multiply(
            CTX.subtract(exit_price, entry) * side.sign, quantity, instrument.multiplier
        )
    if entry <= 0 or exit_price <= 0:
        raise PriceUnavailable(f"inverse prices were {entry} and {exit_price}")
    # One division keeps the result exact to 34 digits: (exit - entry) / (entry x exit).
    moved = CTX.subtract(exit_price, entry) * side.sign
    sized = multiply(quantity, instrument.multiplier, moved)
    return divide(sized, multiply(entry, exit_price))


def apply_fill(position: CostPosition, instrument: Instrument, fill: Fill) -> CostPosition:
    """Average-cost fold: adding moves the average, reducing realises against it.

    A fill that crosses zero closes all of the old side and opens the rest at its own price.
    """
    signed = fill.signed_quantity
    if signed == 0:
        return position
    held, average = position.quantity, position.average_price
    if held == 0 or average is None:
        return CostPosition(quantity=signed, average_price=fill.price, realised=position.realised)
    if (held > 0) == (signed > 0):
        new_average = _average(instrument, abs(held), average, abs(signed), fill.price)
        return CostPosition(
            quantity=held + signed, average_price=new_average, realised=position.realised
        )
    closed = min(abs(held), abs(signed))
    side = Side.BUY if held > 0 else Side.SELL
    realised = position.realised + realised_pnl(instrument, side, closed, average, fill.price)
    rest = held + signed
    if rest == 0:
        return CostPosition(realised=realised)
    flipped = (rest > 0) != (held > 0)
    return CostPosition(
        quantity=rest, average_price=fill.price if flipped else average, realised=realised
    )


def average_cost(instrument: Instrument, fills: Iterable[Fill]) -> CostPosition:
    """Folds fills of one instrument in the order given."""
    position = CostPosition()
    for fill in fills:
        position = apply_fill(position, instrument, fill)
    return position


def _average(
    instrument: Instrument, held: Decimal, average: Decimal, added: Decimal, price: Decimal
) -> Decimal:
    """Quantity-weighted mean; harmonic for inverse contracts, which keeps the coin exact."""
    if instrument.inverse:
        coins = CTX.add(divide(held, average), divide(added, price))
        return divide(held + added, coins)
    cost = CTX.add(multiply(held, average), multiply(added, price))
    return divide(cost, held + added)


def close_lots(lots: deque[Lot], signed: Decimal) -> tuple[list[tuple[Lot, Decimal]], Decimal]:
    """Takes a signed quantity off the oldest lots of the other side, in place.

    Returns the pieces taken (lot as it was, quantity > 0), and the signed rest that opens a lot.
    """
    pieces: list[tuple[Lot, Decimal]] = []
    left = signed
    while left != 0 and lots and (lots[0].quantity > 0) != (left > 0):
        oldest = lots.popleft()
        matched = min(abs(oldest.quantity), abs(left))
        pieces.append((oldest, matched))
        sign = 1 if oldest.quantity > 0 else -1
        remaining = oldest.quantity - sign * matched
        if remaining != 0:
            lots.appendleft(oldest.model_copy(update={"quantity": remaining}))
        left += sign * matched
    return pieces, left


def fifo_lots(instrument: Instrument, fills: Iterable[Fill]) -> LotLedger:
    """Matches closing fills against the oldest open lots, for statements."""
    open_lots: deque[Lot] = deque()
    matches: list[LotMatch] = []
    for fill in fills:
        pieces, left = close_lots(open_lots, fill.signed_quantity)
        matches += [_match(instrument, lot, fill, matched) for lot, matched in pieces]
        if left != 0:
            open_lots.append(Lot(fill_key=fill.fill_key, quantity=left, price=fill.price))
    return LotLedger(open_lots=tuple(open_lots), matches=tuple(matches))


def _match(instrument: Instrument, lot: Lot, fill: Fill, quantity: Decimal) -> LotMatch:
    side = Side.BUY if lot.quantity > 0 else Side.SELL
    return LotMatch(
        opened_by=lot.fill_key,
        closed_by=fill.fill_key,
        quantity=quantity,
        side=side,
        entry_price=lot.price,
        exit_price=fill.price,
        realised=realised_pnl(instrument, side, quantity, lot.price, fill.price),
    )


def unrealised(
    instrument: Instrument, position: CostPosition, quote: Quote, mark: Decimal | None = None
) -> Decimal:
    """Open profit at the price at which one could get out now.

    A long is valued at the bid, a short at the ask; futures and perpetuals at the mark.

    Raises:
        PriceUnavailable: that price is not there. No fallback price, ever.
    """
    if position.quantity == 0 or position.average_price is None:
        return ZERO
    side = Side.BUY if position.quantity > 0 else Side.SELL
    if instrument.kind in (InstrumentKind.FUTURE, InstrumentKind.PERPETUAL):
        price = mark
    else:
        price = quote.bid if side is Side.BUY else quote.ask
    if price is None:
        raise PriceUnavailable(f"no price to value {position.quantity} {instrument.symbol}")
    return realised_pnl(instrument, side, abs(position.quantity), position.average_price, price)


def unrealised_at_mid(instrument: Instrument, position: CostPosition, quote: Quote) -> Decimal:
    """The same at the mid; shown beside, never used for a decision.

    Raises:
        PriceUnavailable: a side of the quote is missing.
    """
    if position.quantity == 0 or position.average_price is None:
        return ZERO
    if quote.mid is None:
        raise PriceUnavailable(f"no mid of {instrument.symbol}")
    side = Side.BUY if position.quantity > 0 else Side.SELL
    return realised_pnl(instrument, side, abs(position.quantity), position.average_price, quote.mid)


def slippage(
    instrument: Instrument, side: Side, quantity: Decimal, average: Decimal, arrival_mid: Decimal
) -> Decimal:
    """Signed cost of execution against the arrival mid: > 0 lost money, < 0 gained some."""
    return -realised_pnl(instrument, side, quantity, average, arrival_mid) + ZERO


def net_unit_price(legs: Sequence[tuple[Side, int, Decimal]]) -> Decimal:
    """Net price of one combo unit from (side, ratio, leg price): debit > 0, credit < 0."""
    return total(side.sign * ratio * price for side, ratio, price in legs)


def fees_of(
    fills: Iterable[Fill], estimates: Mapping[str, Decimal] | None = None
) -> tuple[Decimal, bool]:
    """Sum of fees and whether any of it is an estimate.

    A booked fee always wins. A fill without one takes the estimate for its fill_key, or zero,
    and either way the sum counts as estimated.
    """
    guesses = estimates or {}
    amount, estimated = ZERO, False
    for fill in fills:
        if fill.fee is not None:
            amount += fill.fee
        else:
            amount += guesses.get(fill.fill_key, ZERO)
            estimated = True
    return amount, estimated


def trade_result(
    instruments: Sequence[Instrument],
    fills: Sequence[Fill],
    *,
    rates: Mapping[str, Decimal] | None = None,
    fee_estimates: Mapping[str, Decimal] | None = None,
    other_fees: Decimal = ZERO,
    account_currency: str = "USD",
) -> TradeResult:
    """A trade is the sum of its legs in account currency, with the rates used.

    `rates` maps an instrument's symbol to account currency per unit of its settlement currency;
    needed where those differ (inverse contracts settle in coin). `other_fees` are fees that the
    broker booked on rows of their own.

    Raises:
        ValueError: a fill belongs to no instrument given.
        PriceUnavailable: a rate is needed and missing.
    """
    known = {instrument.symbol: instrument for instrument in instruments}
    strange = [fill.symbol for fill in fills if fill.symbol not in known]
    if strange:
        raise ValueError(f"fills of {strange[0]} belong to no leg")
    gross, still_open, used = ZERO, {}, {}
    for symbol, instrument in known.items():
        position = average_cost(instrument, [fill for fill in fills if fill.symbol == symbol])
        rate = _rate(instrument, account_currency, rates or {})
        gross += multiply(position.realised, rate)
        if rate != ONE:
            used[symbol] = rate
        if position.quantity != 0:
            still_open[symbol] = position.quantity
    fees, estimated = fees_of(fills, fee_estimates)
    fees += other_fees
    return TradeResult(
        gross=gross,
        fees=fees,
        fees_estimated=estimated,
        net=gross - fees,
        open_quantities=still_open,
        rates=used,
    )


def _rate(instrument: Instrument, account: str, rates: Mapping[str, Decimal]) -> Decimal:
    if instrument.symbol in rates:
        return rates[instrument.symbol]
    if instrument.inverse or instrument.currency != account:
        raise PriceUnavailable(f"no rate to {account} for {instrument.symbol}")
    return ONE


class AssignedShares(Frozen):
    """What an assignment or exercise leaves: signed shares at a basis that holds the premium."""

    quantity: Calculated
    basis_price: Calculated


def assigned_shares(option: Instrument, contracts: Decimal, premium: Decimal) -> AssignedShares:
    """Shares from assignment (contracts < 0, we were short) or exercise (contracts > 0).

    The premium moves into the share basis and the option itself realises nothing:
    short put assigned buys at strike - premium, short call sells at strike + premium,
    long call exercised buys at strike + premium, long put sells at strike - premium.

    Raises:
        ValueError: the instrument is no option with strike and right.
    """
    if option.strike is None or option.right is None:
        raise ValueError(f"{option.symbol} has no strike or right")
    is_call = option.right is OptionRight.CALL
    buys = (contracts > 0) == is_call
    shares = multiply(abs(contracts), option.multiplier) * (1 if buys else -1)
    basis = option.strike + premium if is_call else option.strike - premium
    return AssignedShares(quantity=shares, basis_price=basis)
