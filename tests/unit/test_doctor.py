"""`doctor`: what its lines conclude from what they read."""

from __future__ import annotations

import pytest

from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig
from brokers.port import TellsBudget
from brokers.tradier.client import TradierBroker
from brokers.tradier.config import TradierConfig
from cli.checks import OK, WRONG
from cli.doctor import request_budget


@pytest.mark.parametrize(("ours", "verdict"), [(199, OK), (200, OK), (201, WRONG), (30_000, WRONG)])
def test_settings_that_promise_more_requests_than_the_broker_takes_are_wrong(
    ours: int, verdict: str
) -> None:
    found = request_budget(ours, 200)
    assert found.verdict == verdict
    assert found.text == f"requests_per_minute {ours}, the broker takes 200"


def test_every_adapter_tells_its_request_limit() -> None:
    alpaca = AlpacaBroker(AlpacaConfig(key_id="k", secret="s", trading_url="http://a.test"))
    tradier = TradierBroker(TradierConfig(key_id="VA1", secret="s", trading_url="http://b.test"))
    for broker in (alpaca, tradier):
        assert isinstance(broker, TellsBudget)
        assert broker.told_requests_per_minute is None
