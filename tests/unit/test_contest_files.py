"""A contest on disk: portfolios with settings and keys of their own, one worker for all."""

from __future__ import annotations

import json
import os
import stat
from decimal import Decimal
from pathlib import Path

import pytest

from cli.contest_files import (
    ContestFiles,
    Portfolio,
    add_to_exchange,
    contest_template,
    exchange_accounts,
    fractional,
)
from cli.demo_stack import exchange_config
from domain.errors import BadInput
from marketdata.demo_tape import DEMO_BEGIN, DEMO_END, demo_instrument
from marketdata.session_tape import SessionTape
from simulator.config import ExchangeConfig
from simulator.venue import Venue
from strategies.registry import Listing
from worker import accounts_of

D = Decimal
TREND = Listing(name="my_trend", usable=True, parameters={"long_only": "False", "fast": "8"})
PLAIN = Listing(name="plain", usable=True)


@pytest.fixture
def portfolios(tmp_path: Path) -> tuple[Portfolio, ...]:
    return ContestFiles(tmp_path).enter(contest_template(), (TREND, PLAIN))


def test_each_entrant_gets_an_account_with_its_own_key_and_only_what_it_declares(
    portfolios: tuple[Portfolio, ...],
) -> None:
    trend, plain = portfolios
    assert (trend.account, plain.account) == ("contest-my-trend", "contest-plain")
    assert trend.cash == D(100)
    assert (trend.parameters, plain.parameters) == ({"long_only": "true"}, {})
    pairs = [each.read({}).alpaca() for each in portfolios]
    assert len({pair.key_id for pair in pairs}) == 2
    assert len({pair.secret.get_secret_value() for pair in pairs}) == 2
    for each in portfolios:
        mode = stat.S_IMODE(os.stat(Path(each.settings).with_suffix(".key")).st_mode)
        assert mode == 0o600
        assert each.read({}).account.name == each.account


@pytest.mark.parametrize("cash", [D(100), D("2500.50"), D(100_000)])
def test_a_portfolio_may_spend_what_cash_it_was_given(tmp_path: Path, cash: Decimal) -> None:
    """With `--cash 100000` every order above 100 was refused: NOTIONAL_ABOVE_MAX."""
    (only,) = ContestFiles(tmp_path).enter(contest_template(), (PLAIN,), cash)
    limits = only.read({}).limits
    assert (limits.max_order_notional, limits.max_total_notional) == (cash, cash)


def test_exchange_opens_the_accounts_of_the_portfolios(
    portfolios: tuple[Portfolio, ...], tmp_path: Path
) -> None:
    tape = SessionTape(
        path="",
        instruments=(demo_instrument(),),
        calendar="ESX",
        hours=(),
        begin=DEMO_BEGIN,
        end=DEMO_END,
        events=0,
        synthetic_quotes=True,
        label="",
    )
    path = tmp_path / "exchange.json"
    path.write_text(json.dumps(exchange_config(tape)))
    add_to_exchange(path, portfolios)
    venue = Venue.open(ExchangeConfig.from_json(path))
    for portfolio, row in zip(portfolios, exchange_accounts(portfolios), strict=True):
        exchange = venue.account(portfolio.account)
        assert exchange.config.cash == D(100)
        assert exchange.config.keys[0].secret == row["key"]["secret"]
        assert exchange.state.listings["ESX"].fractional
    (instrument,) = fractional(tape.instruments)
    assert (instrument.lot_size, instrument.min_quantity) == (D("0.001"), D("0.001"))


def test_data_directory_without_a_contest_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="CONTEST_UNKNOWN"):
        ContestFiles(tmp_path).load()


@pytest.mark.parametrize(
    ("strategies", "cash", "code"),
    [
        ((), D(100), "CONTEST_EMPTY"),
        ((PLAIN,), D(0), "CASH_INVALID"),
        ((PLAIN,), D("NaN"), "CASH_INVALID"),
        ((Listing(name="x" * 40, usable=True),), D(100), "ID_FORMAT"),
    ],
)
def test_bad_entry_is_refused_by_name(
    tmp_path: Path, strategies: tuple[Listing, ...], cash: Decimal, code: str
) -> None:
    with pytest.raises(BadInput, match=code):
        ContestFiles(tmp_path).enter(contest_template(), strategies, cash)


def test_template_of_a_real_broker_is_refused(tmp_path: Path) -> None:
    """No portfolio of $100 is ever opened in somebody's real account."""
    text = contest_template().read_text()
    real = tmp_path / "paper.toml"
    urls = 'trading_url = "http://127.0.0.1:8100"'
    real.write_text(
        text.replace('mode = "simulator"', 'mode = "paper"').replace(urls, 'trading_url = ""')
    )
    with pytest.raises(BadInput, match="CONFIG"):
        ContestFiles(tmp_path).enter(real, (PLAIN,))


def test_one_worker_serves_accounts_in_the_order_of_their_files(
    portfolios: tuple[Portfolio, ...],
) -> None:
    found = accounts_of([each.read({}) for each in portfolios])
    assert list(found) == ["contest-my-trend", "contest-plain"]


def test_accounts_that_would_be_one_at_the_broker_are_refused(
    portfolios: tuple[Portfolio, ...],
) -> None:
    trend, plain = portfolios
    one_key = {"HOLDFAST_BROKER_KEY_ID": "SAME", "HOLDFAST_BROKER_SECRET": "same"}
    with pytest.raises(BadInput, match=r"broker\.key_file"):
        accounts_of([trend.read(one_key), plain.read(one_key)])
    with pytest.raises(BadInput, match=r"account\.name"):
        accounts_of([trend.read({}), trend.read({})])
    elsewhere = {"HOLDFAST_TEMPORAL_NAMESPACE": "other"}
    with pytest.raises(BadInput, match=r"temporal\.namespace"):
        accounts_of([trend.read({}), plain.read(elsewhere)])


def test_round_has_its_number_in_the_session_name() -> None:
    portfolio = Portfolio(account="a", strategy="s", session="contest-s")
    assert [portfolio.session_of(n) for n in (1, 2)] == ["contest-s", "contest-s-2"]
