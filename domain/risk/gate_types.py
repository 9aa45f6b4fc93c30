"""What the risk gate reads and what it says: frozen values, one for each question.

The activity gathers a `GateInput` inside its transaction; `domain.risk.gate` only judges it.
`None` always means "could not be read" and refuses entries; it never means zero.
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum

from pydantic import AwareDatetime, Field

from domain.account import AccountSnapshot, AssetInfo, MarketClock
from domain.base import Frozen
from domain.control import ConditionKind, Control
from domain.money import ZERO, Amount, NetPrice, Number, Price, Quantity, SignedQuantity
from domain.order import Quote, Side
from domain.plan import TradePlan
from domain.risk.breakers import ApiBreaker, RiskBreaker
from domain.risk.daily_loss import DailyLoss
from domain.risk.limits import Limits, RestrictedList


class Outcome(StrEnum):
    """`not_applicable` carries its reason in the code and is shown, never skipped silently."""

    PASSED = "passed"
    REFUSED = "refused"
    NOT_APPLICABLE = "not_applicable"


class Verdict(Frozen):
    """What one check said and the numbers it looked at; stored for every trade."""

    name: str
    outcome: Outcome
    code: str = ""
    facts: dict[str, str] = Field(default_factory=dict)


class ActiveCondition(Frozen):
    """A market condition that blocks entries while it holds and clears itself."""

    kind: ConditionKind
    text: str = ""
    since: AwareDatetime | None = None


class AgedQuote(Frozen):
    """A quote and its age in wall seconds at `GateInput.wall_now`; < 0: from the future."""

    quote: Quote
    age_s: Number


class SymbolAge(Frozen):
    """Age of the newest data of one symbol of the universe; None: there is none at all."""

    symbol: str
    age_s: Number | None


class OwnWorkingOrder(Frozen):
    """One of our orders that may still fill, whatever trade it belongs to.

    A market or stop order has no limit price and may cross anything on the other side.
    """

    trade_id: str
    client_id: str = ""
    symbol: str
    side: Side
    remaining_quantity: Quantity
    limit_price: NetPrice | None = None
    stop_price: Price | None = None


class OpenLeg(Frozen):
    """A leg that an open trade holds or may yet enter: the gate let it through (I20)."""

    trade_id: str
    symbol: str
    side: Side


class SymbolExposure(Frozen):
    """What other trades hold, have reserved and have working in one symbol (control 4).

    `quantity` is the signed sum of the open trades; `notional` >= 0 counts positions,
    reservations and working orders together, each once, in account currency. Options count
    under their own symbol and under their underlying as well, so that its budget holds for both.
    """

    symbol: str
    quantity: SignedQuantity = ZERO
    notional: Amount = ZERO


class Portfolio(Frozen):
    """Everything else that is open on the account, without the trade under judgement.

    `open_positions` counts open trades, reservations that may become one, and symbols of owner
    EXTERNAL (control 18). `total_notional` likewise. `reserved_cash` is what reservations will
    take from the buying power and the broker does not know of yet. `frozen_symbols` hold an
    unexplained quantity. `open_legs` are of every reservation, its order sent or not.
    """

    open_positions: int
    total_notional: Amount
    reserved_cash: Amount = ZERO
    exposures: tuple[SymbolExposure, ...] = ()
    frozen_symbols: tuple[str, ...] = ()
    open_legs: tuple[OpenLeg, ...] = ()

    def exposure(self, symbol: str) -> SymbolExposure:
        """What is open in the symbol; an empty exposure if nothing is."""
        for exposure in self.exposures:
            if exposure.symbol == symbol:
                return exposure
        return SymbolExposure(symbol=symbol)


class StrategyBook(Frozen):
    """The stored configuration of the plan's strategy and what its other trades have reserved."""

    enabled: bool
    reason: str = ""
    capital: Amount | None = None
    open_notional: Amount = ZERO


class RecentEntry(Frozen):
    """An entry that the gate let through a short while ago, whatever became of it.

    `idea` says what it wanted (`domain.risk.repeats.idea_of`), `age_s` how long ago, market time.
    """

    trade_id: str
    strategy: str
    idea: str
    age_s: Number


class GateInput(Frozen):
    """All that one risk decision depends on, read inside one transaction.

    `arrival` is the net quote of one trade unit; `leg_quotes` hold every leg (for one leg the
    same quote); `jumped` are symbols whose quote nothing confirms yet. `start_price` and
    `worst_price` are signed net prices from `domain.risk.sizing`. `batch` is the universe of the
    session; None for a single plan, which has none, and an empty one counts as unreadable.
    `session_date` is the trading date at the instrument's exchange, `session_opened_at` the market
    instant of the open. `unread` says of
    clock, account, quote and asset, where one could not be read, why: in words. `strategy` None:
    the plan's strategy has no stored configuration, and so no rules of its own. `round_the_clock`
    marks calendars without a close. `recent_entries` are the account's, other trades only, as far
    back as the limits look, and since the last reset of the strategy. `fee_estimate` is the worst
    entry fee in account currency.
    """

    plan: TradePlan
    quantity: Quantity
    start_price: NetPrice | None
    worst_price: NetPrice | None
    limits: Limits | None
    wall_now: AwareDatetime
    market_now: AwareDatetime
    control: Control | None
    conditions: tuple[ActiveCondition, ...] | None
    risk_breaker: RiskBreaker | None
    api_breaker: ApiBreaker | None
    market_clock: MarketClock | None
    unread: dict[str, str] = Field(default_factory=dict)
    session_opened_at: AwareDatetime | None = None
    session_date: date | None = None
    round_the_clock: bool = False
    arrival: AgedQuote | None
    leg_quotes: tuple[AgedQuote, ...] = ()
    jumped: tuple[str, ...] = ()
    batch: tuple[SymbolAge, ...] | None = None
    restricted: RestrictedList | None
    assets: tuple[AssetInfo, ...] | None
    working_orders: tuple[OwnWorkingOrder, ...] | None
    account: AccountSnapshot | None
    portfolio: Portfolio | None
    strategy: StrategyBook | None = None
    daily_loss: DailyLoss | None
    messages_last_minute: int | None
    recent_entries: tuple[RecentEntry, ...] | None = ()
    fee_estimate: Amount = ZERO
    short_sale_restricted_symbols: tuple[str, ...] = ()

    def why_unread(self, name: str, shown: str = "") -> dict[str, str]:
        """A fact of the verdict on what could not be read; none where the cause is not known."""
        cause = self.unread.get(name)
        return {"why": f"{shown or name} not read: {cause}"} if cause else {}


class GateDecision(Frozen):
    """Every verdict in gate order. `order_notional` and `order_loss` are what will be reserved.

    A decision without a refusal is not yet an approval: `domain.risk.gate.approve` mints that.
    """

    trade_id: str
    verdicts: tuple[Verdict, ...]
    order_notional: Amount = ZERO
    order_loss: Amount = ZERO
    cash_needed: Amount = ZERO

    @property
    def first_refusal(self) -> Verdict | None:
        for verdict in self.verdicts:
            if verdict.outcome is Outcome.REFUSED:
                return verdict
        return None

    @property
    def allowed(self) -> bool:
        return bool(self.verdicts) and self.first_refusal is None


class RiskRefusal(Frozen):
    """The gate said no: the first refusing verdict, for the trade's fact and its story."""

    trade_id: str
    check: str
    code: str
    text: str = ""
    facts: dict[str, str] = Field(default_factory=dict)
