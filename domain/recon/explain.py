"""What explains that the broker holds another quantity than we do: its own rows, or a pattern.

A row of the statement explains a difference only if it has exactly its quantity. Where a venue
tells no rows, the pair of an option that is gone and the shares that it becomes explains both.
Nothing here guesses: what fits nothing stays a difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from itertools import combinations

from domain.account_events import AccountEvent, EventKind
from domain.base import Frozen
from domain.errors import BadInput
from domain.instrument import Instrument
from domain.money import ZERO, Calculated, NetPrice, SignedQuantity, divide, total
from domain.money_law import assigned_shares
from domain.occ import looks_like_option, option_instrument
from domain.split_math import PRICE_STEP

PATTERN_OPTIONS_MAX = 8
_RATIO = re.compile(r"\b(\d{1,4})(?::| for )(\d{1,4})\b")
_ENDS = (EventKind.ASSIGNMENT, EventKind.EXERCISE, EventKind.EXPIRY)


class Explanation(Frozen):
    """Why `symbol` changed by `quantity`. `delivered` are the shares of an option that ended, or
    the position under its new symbol; `ratio` that of a split; `is_late`: the change was booked to
    EXTERNAL before its reason came. `is_waiting`: the reason is still to come, touch nothing.
    `is_doubtful`: a fraction may have been paid out, so that the ratio is not the split's."""

    kind: EventKind
    symbol: str
    quantity: SignedQuantity
    price: NetPrice | None = None
    delivered_symbol: str = ""
    delivered: SignedQuantity = ZERO
    ratio: Calculated | None = None
    event_ids: tuple[str, ...] = ()
    is_late: bool = False
    is_waiting: bool = False
    is_doubtful: bool = False


class Holdings(Frozen):
    """Both sides per symbol: what the broker holds, what trades and EXTERNAL have of it."""

    held: dict[str, SignedQuantity]
    owned: dict[str, SignedQuantity]
    external: dict[str, SignedQuantity]

    def difference(self, symbol: str) -> Decimal:
        return self.held.get(symbol, ZERO) - self.owned.get(symbol, ZERO)

    @property
    def symbols(self) -> list[str]:
        return sorted({*self.held, *self.owned})


def explain(
    holdings: Holdings,
    events: Sequence[AccountEvent],
    *,
    tells_events: bool,
    today: date | None,
) -> tuple[Explanation, ...]:
    """Every difference that has a reason. `events` are rows that are not booked yet; `today` is
    the market's date, without it nothing is concluded from an expiry."""
    rows: dict[str, list[AccountEvent]] = {}
    for event in events:
        rows.setdefault(event.symbol, []).append(event)
    # What the venue says it took ended in no other way, on an option's last day neither (R3).
    liquidated = [
        explanation
        for symbol in filter(looks_like_option, holdings.symbols)
        if (explanation := _liquidation(holdings, symbol, rows)) is not None
    ]
    sold = frozenset(each.symbol for each in liquidated)
    options = tuple(_options(holdings, rows, sold, tells_events=tells_events, today=today))
    found = [*liquidated, *options]
    taken = {e.symbol for e in found} | {e.delivered_symbol for e in options}
    for symbol in holdings.symbols:
        if symbol in taken:
            continue
        explanation = _split(holdings, symbol, rows) or _liquidation(holdings, symbol, rows)
        if explanation is not None:
            found.append(explanation)
            taken.add(symbol)
    found += _new_symbols(holdings, rows, taken, tells_events=tells_events)
    return tuple(found)


# --- options ------------------------------------------------------------------------------------


def _options(
    holdings: Holdings,
    rows: Mapping[str, Sequence[AccountEvent]],
    sold: frozenset[str],
    *,
    tells_events: bool,
    today: date | None,
) -> Iterator[Explanation]:
    """Options that ended, by underlying: their shares must be there too, to the share. Those of
    `sold` left otherwise and bring none."""
    for root, options in _gone_by_underlying(holdings, sold).items():
        if tells_events:
            ended = [_told(holdings, option, rows.get(option.symbol, ())) for option in options]
        else:
            ended = _pattern(holdings, root, options, today)
        told = [each for each in ended if each is not None]
        shares = total(each.delivered for each in told)
        if len(told) == len(options) and shares == holdings.difference(root):
            yield from told
            continue
        for option in options:
            quantity = holdings.difference(option.symbol)
            expected = _delivery(option, quantity)
            is_over = option.expiry is not None and today is not None and today >= option.expiry
            if is_over or told or expected == holdings.difference(root):
                yield Explanation(
                    kind=EventKind.EXPIRY,
                    symbol=option.symbol,
                    quantity=quantity,
                    delivered_symbol=root,
                    is_waiting=True,
                )


def _gone_by_underlying(holdings: Holdings, sold: frozenset[str]) -> dict[str, list[Instrument]]:
    """Standard options, but those of `sold`, of which the broker holds less than we do."""
    found: dict[str, list[Instrument]] = {}
    for symbol in holdings.symbols:
        held, ours = holdings.held.get(symbol, ZERO), holdings.owned.get(symbol, ZERO)
        if symbol in sold or not looks_like_option(symbol):
            continue
        if held * ours < 0 or abs(held) >= abs(ours):
            continue
        try:
            option = option_instrument(symbol)
        except BadInput:
            continue  # an adjusted contract: its deliverable is not known here
        found.setdefault(option.underlying or "", []).append(option)
    return found


def _told(
    holdings: Holdings, option: Instrument, rows: Sequence[AccountEvent]
) -> Explanation | None:
    """What the statement says of this option, if it says exactly the difference."""
    ends = [row for row in rows if row.kind in _ENDS]
    quantity = holdings.difference(option.symbol)
    if not ends or total(row.quantity for row in ends) != quantity:
        return None
    return _end(option, quantity, ends[0].kind, tuple(row.event_id for row in ends))


def _end(
    option: Instrument, quantity: Decimal, kind: EventKind, event_ids: tuple[str, ...] = ()
) -> Explanation:
    is_worthless = kind is EventKind.EXPIRY
    return Explanation(
        kind=kind,
        symbol=option.symbol,
        quantity=quantity,
        price=ZERO if is_worthless else option.strike,
        delivered_symbol=option.underlying or "",
        delivered=ZERO if is_worthless else _delivery(option, quantity),
        event_ids=event_ids,
    )


def _delivery(option: Instrument, quantity: Decimal) -> Decimal:
    """Signed shares for a change of the option by `quantity`: short contracts come back up."""
    return assigned_shares(option, -quantity, ZERO).quantity


def _pattern(
    holdings: Holdings, root: str, options: Sequence[Instrument], today: date | None
) -> list[Explanation | None]:
    """Without rows: the one choice of options whose shares are the change of the underlying.

    What is left of them must have expired before today: the shares come the next morning.
    """
    if len(options) > PATTERN_OPTIONS_MAX:
        return []
    change, fits = holdings.difference(root), []
    for count in range(len(options) + 1):
        for chosen in combinations(options, count):
            shares = total(_delivery(o, holdings.difference(o.symbol)) for o in chosen)
            rest = [option for option in options if option not in chosen]
            if shares == change and all(_is_expired(option, today) for option in rest):
                fits.append(chosen)
    if len(fits) != 1:
        return []
    ended: list[Explanation | None] = []
    for option in options:
        quantity = holdings.difference(option.symbol)
        kind = EventKind.ASSIGNMENT if quantity > 0 else EventKind.EXERCISE
        ended.append(_end(option, quantity, kind if option in fits[0] else EventKind.EXPIRY))
    return ended


def _is_expired(option: Instrument, today: date | None) -> bool:
    return today is not None and option.expiry is not None and option.expiry < today


# --- shares -------------------------------------------------------------------------------------


def _split(
    holdings: Holdings, symbol: str, rows: Mapping[str, Sequence[AccountEvent]]
) -> Explanation | None:
    """A split keeps the sign; its rows add up to the change, booked to EXTERNAL before or not."""
    splits = [row for row in rows.get(symbol, ()) if row.kind is EventKind.SPLIT]
    change = total(row.quantity for row in splits)
    held, difference = holdings.held.get(symbol, ZERO), holdings.difference(symbol)
    is_late = difference == 0 and holdings.external.get(symbol, ZERO) == change
    before = held - change
    if not splits or change == 0 or before * held <= 0 or not (is_late or difference == change):
        return None
    return Explanation(
        kind=EventKind.SPLIT,
        symbol=symbol,
        quantity=change,
        ratio=divide(held, before),
        event_ids=tuple(row.event_id for row in splits),
        is_late=is_late,
        is_doubtful=not _is_clean(splits, before, held),
    )


def _is_clean(splits: Sequence[AccountEvent], before: Decimal, held: Decimal) -> bool:
    """True if the row names just this ratio (`1:10`), or it is a whole number of new shares."""
    named = [match for row in splits if (match := _RATIO.search(row.text)) is not None]
    if named:
        new, old = map(Decimal, named[0].groups())
        return before * new == held * old
    return held % before == 0


def _liquidation(
    holdings: Holdings, symbol: str, rows: Mapping[str, Sequence[AccountEvent]]
) -> Explanation | None:
    told = [row for row in rows.get(symbol, ()) if row.kind is EventKind.LIQUIDATION]
    quantity = total(row.quantity for row in told)
    if not told or quantity == 0 or quantity != holdings.difference(symbol):
        return None
    priced = [row for row in told if row.price is not None]
    weight = total(row.quantity for row in priced)
    value = total(row.quantity * (row.price or ZERO) for row in priced)
    return Explanation(
        kind=EventKind.LIQUIDATION,
        symbol=symbol,
        quantity=quantity,
        price=divide(value, weight).quantize(PRICE_STEP) if weight else None,
        event_ids=tuple(row.event_id for row in told),
    )


def _new_symbols(
    holdings: Holdings,
    rows: Mapping[str, Sequence[AccountEvent]],
    taken: Iterable[str],
    *,
    tells_events: bool,
) -> Iterator[Explanation]:
    """A whole position that is gone, and the same quantity of a symbol that nobody owned."""
    known = frozenset(taken)
    free = tuple(s for s in holdings.symbols if s not in known and not looks_like_option(s))
    moved = tuple(s for s in free if holdings.difference(s) != 0)
    gone = tuple(s for s in moved if holdings.held.get(s, ZERO) == 0)
    come = tuple(s for s in moved if holdings.owned.get(s, ZERO) == 0)
    for old in gone:
        quantity = holdings.difference(old)
        named = [row for row in rows.get(old, ()) if row.kind is EventKind.SYMBOL_CHANGE]
        fits = [new for new in come if holdings.difference(new) == -quantity]
        if tells_events:
            is_told = total(row.quantity for row in named) == quantity
            fits = [n for n in fits if is_told and _is_told_new(rows.get(n, ()), -quantity)]
        if len(fits) == 1 and (tells_events or len(gone) == len(come) == 1):
            told = [*named, *rows.get(fits[0], ())] if named else []
            yield Explanation(
                kind=EventKind.SYMBOL_CHANGE,
                symbol=old,
                quantity=quantity,
                delivered_symbol=fits[0],
                delivered=-quantity,
                event_ids=tuple(row.event_id for row in told),
            )


def _is_told_new(rows: Sequence[AccountEvent], quantity: Decimal) -> bool:
    changes = [row for row in rows if row.kind is EventKind.SYMBOL_CHANGE]
    return total(row.quantity for row in changes) == quantity
