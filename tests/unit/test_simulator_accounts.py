"""Several accounts on one simulated market: nothing of one reaches another (issue 3, contest)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from simulator.app import AlpacaFace
from simulator.config import AccountConfig, ApiKey, ExchangeConfig
from simulator.refusals import Refusal
from simulator.server import SimulatorServer
from simulator.tape import TapeEvent, TapeKind
from simulator.venue import Venue
from tests.unit.simulator_rig import ALWAYS, START, SYMBOL, equity, order

D = Decimal
FIRST = {"APCA-API-KEY-ID": "SIM-PAPER-KEY", "APCA-API-SECRET-KEY": "sim-paper-secret"}
ONE = {"APCA-API-KEY-ID": "ONE", "APCA-API-SECRET-KEY": "secret-one"}
TWO = {"APCA-API-KEY-ID": "TWO", "APCA-API-SECRET-KEY": "secret-two"}


def quotes(*prices: tuple[str, str]) -> list[TapeEvent]:
    return [
        TapeEvent(
            time=START + timedelta(seconds=number),
            symbol=SYMBOL,
            kind=TapeKind.QUOTE,
            bid=D(bid),
            ask=D(ask),
            bid_size=D(10),
            ask_size=D(10),
        )
        for number, (bid, ask) in enumerate(prices)
    ]


def venue(*prices: tuple[str, str], **config: Any) -> Venue:
    """The first account with 100,000, and `one` and `two` with 100 each."""
    settings = ExchangeConfig(
        listings=(equity(fractional=True),),
        calendar=ALWAYS,
        start=START,
        accounts=(
            AccountConfig("one", ApiKey("ONE", "secret-one"), D(100)),
            AccountConfig("two", ApiKey("TWO", "secret-two"), D(100)),
        ),
        **config,
    )
    made = Venue.open(settings, quotes(*prices or [("100.00", "100.25")]))
    made.advance_to(START + timedelta(seconds=len(prices)))
    return made


@pytest_asyncio.fixture
async def server() -> AsyncIterator[SimulatorServer]:
    async with SimulatorServer(venue()) as running:
        yield running


def test_opposite_orders_of_two_accounts_never_meet() -> None:
    """A buy at the price of another account's sell would trade at a real venue; here it rests."""
    market = venue(("100.00", "101.00"))
    one, two = market.account("one"), market.account("two")
    one.state.account.set_quantity(SYMBOL, D("0.5"), D(100))
    sell = one.submit(order("sell", "0.5", "100.50"))
    buy = two.submit(order("buy", "0.5", "100.50", tif="day"))
    assert sell.filled == buy.filled == D(0)
    assert len(one.open_orders) == len(two.open_orders) == 1
    assert not market.first.open_orders


def test_displayed_size_is_there_for_every_account() -> None:
    """What one account takes is not missing to the other: both see the tape alone."""
    market = venue(("100.00", "100.25"))
    for name in ("one", "two"):
        bought = market.account(name).submit(order("buy", "0.9", "100.25"))
        assert bought.filled == D("0.9"), name
    assert market.account("one").state.account.cash == D("100") - D("0.9") * D("100.25")


def test_same_client_id_and_script_give_ids_of_their_own() -> None:
    market = venue()
    made = [market.account(n).submit(order("buy", "0.5", client_id="x")) for n in ("one", "two")]
    assert made[0].id != made[1].id
    executions = [
        row["execution_id"] for n in ("one", "two") for row in market.account(n).journal.of("fill")
    ]
    assert len(set(executions)) == 2


def test_tape_is_the_same_for_all_and_journals_are_apart() -> None:
    market = venue(("100.00", "100.25"), ("101.00", "101.25"))
    assert {e.book(SYMBOL).bid for e in market.exchanges} == {D("101.00")}
    market.account("one").submit(order("buy", "0.5"))
    assert len(market.account("one").journal.of("fill")) == 1
    assert not market.account("two").journal.of("fill")
    assert not market.first.journal.of("fill")
    with pytest.raises(Refusal):
        market.account("three")


def test_two_accounts_of_one_name_or_key_are_refused() -> None:
    twice = ExchangeConfig(accounts=(AccountConfig("one", ApiKey(), D(1)),))
    with pytest.raises(ValueError, match="same name or key"):
        Venue.open(twice)


async def test_key_tells_which_account_is_asked(server: SimulatorServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=5) as client:
        cash = {}
        for headers in (FIRST, ONE, TWO):
            shown = (await client.get("/v2/account", headers=headers)).json()
            cash[shown["account_number"]] = shown["cash"]
        assert sorted(cash.values()) == ["100", "100", "100000"]
        body = {"symbol": SYMBOL, "qty": "0.5", "side": "buy", "type": "market"}
        body |= {"time_in_force": "day", "client_order_id": "x"}
        placed = await client.post("/v2/orders", json=body, headers=ONE)
        assert placed.status_code == 200, placed.text
        hidden = await client.get(f"/v2/orders/{placed.json()['id']}", headers=TWO)
        assert hidden.status_code == 404
        assert (await client.get("/v2/positions", headers=TWO)).json() == []
        mixed = {**ONE, "APCA-API-SECRET-KEY": "secret-two"}
        assert (await client.get("/v2/account", headers=mixed)).status_code == 401


async def test_control_plane_names_the_account(server: SimulatorServer) -> None:
    async with httpx.AsyncClient(base_url=server.control_url, timeout=5) as client:
        body = {"symbol": SYMBOL, "bid": "50", "ask": "50.25"}
        assert (await client.post("/sim/quote", json=body)).status_code == 200
        for name, cash in (("", "100000"), ("one", "100"), ("two", "100")):
            shown = (await client.get("/sim/state", params={"account": name})).json()
            assert (shown["cash"], shown["quotes"][SYMBOL]["bid"]) == (cash, "50"), name
            rows = (await client.get("/sim/journal", params={"account": name})).text.splitlines()
            assert json.loads(rows[0]).get("account", "") == name
        unknown = await client.get("/sim/state", params={"account": "three"})
        assert unknown.status_code == 422
        fault = {"kind": "reject", "match": {}, "params": {}}
        await client.post("/sim/faults", json=fault, params={"account": "one"})
    with pytest.raises(Refusal):
        server.venue.account("one").submit(order("buy", "0.5"))
    assert server.venue.account("two").submit(order("buy", "0.5")).filled == D("0.5")


async def test_stream_tells_an_account_its_own_orders_only() -> None:
    market = venue()
    face = AlpacaFace(market)
    async with face.hub.connect() as one, face.hub.connect() as two:
        for session, key, secret in ((one, "ONE", "secret-one"), (two, "TWO", "secret-two")):
            hello = {"action": "auth", "key": key, "secret": secret}
            await session.send(json.dumps(hello))
            assert json.loads(await session.recv())["data"]["status"] == "authorized"
            listen = {"action": "listen", "data": {"streams": ["trade_updates"]}}
            await session.send(json.dumps(listen))
            await session.recv()
        market.account("one").submit(order("buy", "0.5", client_id="of-one"))
        told = json.loads(await asyncio.wait_for(one.recv(), 5))
        assert told["data"]["order"]["client_order_id"] == "of-one"
        market.account("two").submit(order("buy", "0.5", client_id="of-two"))
        told = json.loads(await asyncio.wait_for(two.recv(), 5))
        assert told["data"]["order"]["client_order_id"] == "of-two"


def test_accounts_are_read_from_the_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "exchange.json"
    row = {"name": "one", "cash": "100", "key": {"key": "ONE", "secret": "s", "mode": "paper"}}
    path.write_text(json.dumps({"accounts": [row]}))
    found = ExchangeConfig.from_json(path).accounts
    assert found == (AccountConfig("one", ApiKey("ONE", "s", "paper"), D(100)),)
