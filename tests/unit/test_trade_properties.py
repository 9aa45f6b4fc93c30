"""Safety and liveness of `decide` under random orderings, faults and market moves."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from domain import trade_state as ts
from domain.commands import CancelOrder, Command, PlaceOrder, ReplaceOrder, WalkStep
from domain.facts import FillReported, FlattenRequested
from domain.order import Side
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan
from tests.unit.toy_broker import Mischief, ToyBroker, Trade, live_exit_quantity

D = Decimal
PRICES = [D(n) / 4 for n in range(372, 436)]


class Checked(Trade):
    """A trade whose invariants are checked after every answer."""

    def check(self) -> None:
        broker = self.broker
        side = self.state.plan.side
        opposite = side.opposite
        held = broker.position * side.sign
        bought = sum(f.quantity for f in broker.fills if f.side is side)
        assert bought <= self.ticket_values[0] + max(-held, D(0)), "I15: more than approved"
        assert live_exit_quantity(broker, opposite) <= max(held, D(0)), "I4: exits beyond position"
        assert held >= 0, "no flip without mischief of the broker"
        accepted = [line.split()[1] for line in broker.journal if line.startswith("accept")]
        assert len(accepted) == len(set(accepted)), "I1"

    def comes_to_its_end(self) -> None:
        """With the mischief over it ends, flat and with nothing at work (I3, I11)."""
        self.mischief, self.broker.size = lambda command: "", D(10**6)
        for _ in range(40):
            self.pass_time(10)
            self.check()
            if ts.is_final(self.state):
                break
        assert ts.is_final(self.state), ts.stage(self.state)
        assert self.broker.position == 0
        assert not [order for order in self.broker.orders if order.live], "I3"


def mischief_of(rng: random.Random, rate: float) -> Mischief:
    def choose(command: Command) -> str:
        if not isinstance(command, PlaceOrder | ReplaceOrder | WalkStep | CancelOrder):
            return ""
        if rng.random() >= rate:
            return ""
        return rng.choice(["lost", "lost", "not_sent", "reject", "race"])

    return choose


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    side=st.sampled_from(list(Side)),
    three=st.booleans(),
    rate=st.sampled_from([0.0, 0.1, 0.3]),
    size=st.sampled_from([1, 3, 100]),
    flatten_at=st.integers(0, 40),
    replace_mode=st.sampled_from(["total", "rest"]),
)
def test_any_seeded_life_keeps_the_invariants_and_ends_flat(
    seed: int, side: Side, three: bool, rate: float, size: int, flatten_at: int, replace_mode: str
) -> None:
    """I1, I4, I11, I15: safety after every answer, liveness after the faults stop."""
    rng = random.Random(seed)
    targets = (
        THREE
        if side is Side.BUY
        else tuple(
            t.model_copy(update={"price": t.price.model_copy(update={"offset": -t.price.offset})})
            for t in THREE
            if t.price is not None and t.price.offset is not None
        )
    )
    plan = make_plan(
        side=side,
        time_stop_s=D(300),
        **({"targets": targets, "ratchet": RATCHET} if three else {"targets": targets[:1]}),
    )
    broker = ToyBroker(
        symbol="AAPL", bid=D("99.75"), ask=D(100), size=D(size), replace_mode=replace_mode
    )
    worst = D(101) if side is Side.BUY else D(99)
    trade = Checked(plan, broker, worst=worst, rng=rng, mischief=mischief_of(rng, rate))
    for turn in range(60):
        if turn == flatten_at:
            trade.tell(FlattenRequested(at=trade.now, command_id="f", by="a", reason="property"))
        if rng.random() < 0.4:
            bid = rng.choice(PRICES)
            broker.move(bid, bid + D("0.25"))
            trade.check()
        if rng.random() < 0.5 and broker.undelivered:
            fill = broker.undelivered.pop(rng.randrange(len(broker.undelivered)))
            trade.tell(FillReported(at=trade.now, fill=fill))
            if rng.random() < 0.3:
                trade.tell(FillReported(at=trade.now, fill=fill))
        trade.look()
        trade.check()
        broker.now += timedelta(seconds=rng.choice([0, 0.2, 1, 4]))
    trade.comes_to_its_end()
