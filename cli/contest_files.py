"""What a strategy contest keeps on disk: portfolios, their settings and keys, the tape.

Every portfolio is an account of its own at the simulated exchange. Its settings file is the
template with another name and key file: all commands work on a portfolio with
`--config <data>/contest/<account>.toml`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import Field

from brokers.alpaca.config import AlpacaMode
from cli.session import check_session_name
from domain.base import Frozen
from domain.errors import BadInput
from domain.instrument import Instrument, InstrumentKind
from domain.money import Amount
from marketdata.session_tape import SessionTape
from observability.build import repository_root
from settings import Settings
from settings_file import load_settings
from strategies.registry import Listing, list_strategies

START_CASH = Decimal(100)
LOT = Decimal("0.001")  # of a share; Alpaca takes up to nine decimals (alpaca.md §9)
KEY_FILE_MODE = 0o600
_OF_CASH = "max_order_notional|max_total_notional"
# The demonstration's own mix of every road a trade can take; it has whole lots and no idea.
# Given to the strategies that know them: fractions cannot be sold short, a portfolio holds one
# position, and 300 s are two seconds of wall time where market time runs 150 times as fast.
PARAMETERS = {"long_only": "true", "position_fraction": "0.9", "signal_max_age_s": "900"}
NOT_IN_CONTEST = frozenset({"every_road"})


class Portfolio(Frozen):
    """One entrant: a strategy with an account of its own. `settings` is its settings file."""

    account: str
    strategy: str
    session: str
    cash: Amount = START_CASH
    settings: str = ""
    parameters: dict[str, str] = Field(default_factory=dict)

    def session_of(self, number: int) -> str:
        """Name of its session in this round, from 1."""
        return self.session if number == 1 else f"{self.session}-{number}"

    def read(self, environment: Mapping[str, str]) -> Settings:
        """Its settings with the addresses of a running stack."""
        return load_settings(Path(self.settings), environment)


class Contest(Frozen):
    """A contest as it was set up; stands in `<data>/contest/contest.json`."""

    tape: SessionTape
    portfolios: tuple[Portfolio, ...]
    rounds: int = 0


class ContestFiles:
    """The folder of a contest inside a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "contest"
        self.record = self.folder / "contest.json"

    def settings_of(self, account: str) -> Path:
        return self.folder / f"{account}.toml"

    def streams_of(self, account: str) -> Path:
        """The portfolio's JSON Lines files."""
        return self.folder / "streams" / account

    def save(self, contest: Contest) -> None:
        part = self.record.with_suffix(".part")
        part.write_text(contest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(self.record)

    def load(self) -> Contest:
        """The contest of this data directory.

        Raises:
            BadInput: CONTEST_UNKNOWN.
        """
        if not self.record.is_file():
            allowed = "a data directory on which `contest start` was run"
            raise BadInput("CONTEST_UNKNOWN", "data", str(self.folder.parent), allowed)
        return Contest.model_validate_json(self.record.read_text(encoding="utf-8"))

    def enter(
        self, template: Path, strategies: Sequence[Listing], cash: Decimal = START_CASH
    ) -> tuple[Portfolio, ...]:
        """Writes settings and a fresh key for one portfolio per strategy.

        Raises:
            BadInput: CONTEST_EMPTY; CASH_INVALID; CONFIG_CONTRADICTION if the template is not of
                the simulated exchange; ID_FORMAT for a name that is too long; ConfigError.
        """
        if not strategies:
            raise BadInput("CONTEST_EMPTY", "strategy", "", "at least one usable strategy")
        if not cash.is_finite() or cash <= 0:
            raise BadInput("CASH_INVALID", "cash", cash, "> 0")
        mode = load_settings(template, {}).broker.mode
        if mode is not AlpacaMode.SIMULATOR:
            raise BadInput("CONFIG_CONTRADICTION", "broker.mode", mode, "simulator")
        text = template.read_text(encoding="utf-8")
        self.folder.mkdir(parents=True, exist_ok=True)
        return tuple(self._enter(text, each, cash) for each in strategies)

    def _enter(self, template: str, strategy: Listing, cash: Decimal) -> Portfolio:
        account = check_session_name(f"contest-{strategy.name.replace('_', '-')}")
        settings = self.settings_of(account)
        key_file = self.folder / f"{account}.key"
        pair = {"key_id": f"SIM-{account.upper()}", "secret": secrets.token_hex(16)}
        lines = "".join(f'{name} = "{value}"\n' for name, value in pair.items())
        descriptor = os.open(key_file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, KEY_FILE_MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(lines)
        text = re.sub(r'(?m)^name = "[^"]*"', f'name = "{account}"', template, count=1)
        text = re.sub(r'(?m)^key_file = "[^"]*"', f'key_file = "{key_file.name}"', text, count=1)
        # The portfolio may put all of its cash into one order, as the template says of its $100.
        text = re.sub(rf"(?m)^({_OF_CASH}) = \d+", rf"\g<1> = {cash:f}", text)
        settings.write_text(text, encoding="utf-8")
        known = strategy.parameters
        return Portfolio(
            account=account,
            strategy=strategy.name,
            session=account,
            cash=cash,
            settings=str(settings),
            parameters={name: value for name, value in PARAMETERS.items() if name in known},
        )


def exchange_accounts(portfolios: Iterable[Portfolio]) -> list[dict[str, Any]]:
    """The portfolios as the simulated exchange's configuration names them."""
    rows = []
    for each in portfolios:
        key = each.read({}).alpaca()
        pair = {"key": key.key_id, "secret": key.secret.get_secret_value(), "mode": "paper"}
        rows.append({"name": each.account, "cash": str(each.cash), "key": pair})
    return rows


def add_to_exchange(config: Path, portfolios: Iterable[Portfolio]) -> None:
    """Adds the accounts to an exchange configuration file, and fractions to its shares."""
    known = json.loads(config.read_text(encoding="utf-8"))
    known["accounts"] = exchange_accounts(portfolios)
    for listing in known["listings"]:
        if listing.get("kind", InstrumentKind.EQUITY) == InstrumentKind.EQUITY:
            listing["fractional"] = True
    config.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    config.chmod(KEY_FILE_MODE)


def fractional(instruments: Iterable[Instrument]) -> tuple[Instrument, ...]:
    """The universe of a portfolio: shares in lots of a thousandth."""
    return tuple(
        item.model_copy(update={"lot_size": LOT, "min_quantity": LOT})
        if item.kind is InstrumentKind.EQUITY
        else item
        for item in instruments
    )


def entrants(wanted: Sequence[str] = ()) -> tuple[Listing, ...]:
    """The strategies that take part: those named, or all of `strategies/` that load.

    Raises:
        BadInput: STRATEGY_UNKNOWN, or the code with which a named one does not load.
    """
    listings = {each.name: each for each in list_strategies()}
    for name in wanted:
        if name not in listings:
            allowed = ", ".join(sorted(listings))
            raise BadInput("STRATEGY_UNKNOWN", "strategy", name, allowed)
        if not listings[name].usable:
            raise listings[name].refusal
    if wanted:
        return tuple(listings[name] for name in dict.fromkeys(wanted))
    return tuple(e for e in listings.values() if e.usable and e.name not in NOT_IN_CONTEST)


def contest_template() -> Path:
    """The settings of a portfolio."""
    return repository_root() / "config" / "contest.toml"
