"""The fee of an entry is part of what it costs (architecture §7, buying power at the worst)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from domain.instrument import OptionRight
from domain.order import Side
from domain.plan import PlanLeg
from domain.risk.fees import FeeRates, entry_fee
from domain.risk.gate import evaluate
from tests.unit.risk_world import account, gate_input, option, plan

RATES = FeeRates(per_share=Decimal("0.005"), per_contract=Decimal("0.65"))
CALL, FAR = option(OptionRight.CALL, 100), option(OptionRight.CALL, 105)


def test_each_leg_costs_the_rate_of_its_kind() -> None:
    assert entry_fee(plan(), Decimal(100), RATES) == Decimal("0.500")
    legs = (
        PlanLeg(instrument=CALL, side=Side.BUY, ratio=1),
        PlanLeg(instrument=FAR, side=Side.SELL, ratio=2),
    )
    assert entry_fee(plan(legs=legs), Decimal(3), RATES) == Decimal("5.85")
    assert entry_fee(plan(), Decimal(100), FeeRates()) == 0


@pytest.mark.parametrize(("free", "code"), [("500.75", ""), ("500.74", "BUYING_POWER")])
def test_buying_power_must_cover_the_fee_too(free: str, code: str) -> None:
    given = gate_input(account=account(buying_power=Decimal(free)), fee_estimate=Decimal("0.50"))
    verdicts = {verdict.name: verdict.code for verdict in evaluate(given).verdicts}
    assert verdicts["buying_power"] == code
