"""`verify` where the venue has taken fees that it tells nobody yet (docs/money.md, issue 4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest
from temporalio.client import Client

from cli.context import demo_config
from cli.verify import compared
from deploy.local.runfile import ProcessEntry, RunInfo
from domain.instrument import Instrument
from ledger.repository import Ledger
from report.verify import DifferenceKind
from simulator.config import ExchangeConfig, FeeSchedule, Listing, WireFace
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig
from tests.rig_target import RigTarget

D = Decimal
FEES = FeeSchedule(per_unit=D("0.01"))


@dataclass(frozen=True)
class ExchangeTarget(RigTarget):
    """The rig with the control plane of its exchange, as `up` writes it into the run file."""

    @property
    def run_info(self) -> RunInfo:
        me = ProcessEntry(name="supervisor", pid=1, started="")
        url = self.rig.server.control_url
        return RunInfo(data_dir=str(self.data_dir), supervisor=me, exchange_control_url=url)


@pytest.fixture(params=["tradier", "alpaca"])
async def rig(
    request: pytest.FixtureRequest, temporal_client: Client, ledger: Ledger, unique: str
) -> AsyncIterator[Rig]:
    """Tradier tells no fees at all, Alpaca those of a day in its evening."""
    listing = Listing(Instrument(symbol=play.SYMBOL), fees=FEES)
    face = WireFace(request.param)
    config = ExchangeConfig(
        requests_per_minute=None,
        face=face,
        listings=(listing,),
        daily_fees=face is WireFace.ALPACA,
    )
    async with running_rig(temporal_client, ledger, f"acct-{unique}", config=config) as made:
        play.calm_market(made)
        yield made


async def test_fees_that_the_venue_tells_later_are_shown_and_are_no_difference(
    rig: Rig, tmp_path: Path
) -> None:
    """It ended with exit code 1, `cash USD: ledger 99975.00, journal 99974.80`."""
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    play.fall(rig)
    await handle.result()
    target = ExchangeTarget(demo_config(), tmp_path, rig)
    paid = rig.exchange.state.account.fees_paid
    assert paid == D("0.20")

    found, _ = await compared(target)
    assert found.items == ()
    assert found.untold_fees == {"USD": paid}
    assert found.line().endswith("; fees of 0.20 USD are taken and not (yet) told by the broker")

    # Nothing else hides behind them.
    rig.exchange.state.account.cash -= D("0.01")
    found, _ = await compared(target)
    assert [item.kind for item in found.items] == [DifferenceKind.CASH]
