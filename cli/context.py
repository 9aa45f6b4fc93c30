"""What every command needs: which stack, its settings, and open lines to its parts.

Everything is found from `--config` and `--data` (or HOLDFAST_CONFIG, HOLDFAST_DATA_DIR); the
addresses of a running stack come from its run file, the environment wins over it.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import httpx
import typer
from temporalio.client import Client
from temporalio.service import RPCError

from brokers.port import Broker
from deploy.local.kill_journal import KillJournal
from deploy.local.runfile import RunInfo, read_run_file
from deploy.local.stack import stack_environment
from domain.clock import ClockMap, real_time
from domain.errors import BadInput, HoldfastError, Refused, Transient
from ledger.errors import VersionConflict
from ledger.repository import Ledger
from observability.build import repository_root
from observability.plugin import holdfast_plugin
from payload_keys import payload_codec
from settings import Settings, TemporalSection
from settings_file import load_settings
from wiring import broker_of

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_CONFLICT = 1, 2, 4
CONFLICT_CODES = (
    "CASH_DIFFERS",
    "COMMAND_ID_USED",
    "EXTERNAL_MOVED",
    "IDEMPOTENCY_MISMATCH",
    "SESSION_RUNS",
    "STALE_VERSION",
    "TRADE_EXISTS",
    "VERSION_CONFLICT",
)
# What a person typed can never be right, whoever found it; a no of the trade's state is another.
INPUT_CODES = (
    "CLOSE_SIZE",
    "COMMAND_INVALID",
    "FIELD_REQUIRED",
    "FRACTION_RANGE",
    "PRICE_NOT_POSITIVE",
    "QTY_ABOVE_MAX",
    "QTY_NOT_POSITIVE",
    "QTY_NOT_WHOLE",
    "REASON_TOO_LONG",
    "RESET_PHRASE",
    "RESET_REASON",
    "SECRET_TOO_SHORT",
    "SESSION_UNKNOWN",
    "SYMBOL_UNKNOWN",
    "TARGET_UNKNOWN",
    "TRADE_UNKNOWN",
)
# Right as typed, and right again once the stack is up.
NOT_YET_CODES = ("NO_STACK",)
TEMPORAL_TIMEOUT_S = 2.0
OPERATOR_VARIABLE = "HOLDFAST_OPERATOR"

T = TypeVar("T")


class TemporalDown(Transient):
    """The Temporal server did not answer in time."""

    code = "TEMPORAL_DOWN"


@dataclass(frozen=True)
class Target:
    """The stack that a command is about."""

    config: Path
    data_dir: Path

    @property
    def run_info(self) -> RunInfo | None:
        return read_run_file(self.data_dir)

    @property
    def kill_journal(self) -> KillJournal:
        return KillJournal(self.data_dir)

    def environment(self) -> dict[str, str]:
        """What settings are read with: addresses of the running stack, the shell's win."""
        return {**self.stack_environment(), **os.environ}

    def stack_environment(self) -> dict[str, str]:
        """Variables of the running stack; empty when none runs."""
        info = self.run_info
        return {} if info is None else stack_environment(info)

    def settings(self) -> Settings:
        """The settings with the addresses of the running stack."""
        return load_settings(self.config, self.environment())

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        """A small connection to the ledger.

        Raises:
            LedgerDown, Broken: see `Ledger.connect`.
        """
        made = await Ledger.connect(self._dsn(), pool_size=3)
        try:
            yield made
        finally:
            await made.aclose()

    def _dsn(self) -> str:
        dsn = self.settings().ledger.dsn.get_secret_value()
        if not dsn:
            allowed = "a running stack (starter.py up) or HOLDFAST_LEDGER_DSN"
            raise BadInput("NO_STACK", "data", str(self.data_dir), allowed)
        return dsn

    @asynccontextmanager
    async def broker(self, *, reserved: bool = False) -> AsyncIterator[Broker]:
        """The account's adapter; `reserved` for the kill."""
        made = broker_of(self.settings(), reserved=reserved)
        try:
            yield made
        finally:
            await made.aclose()

    async def temporal(self, timeout_s: float = TEMPORAL_TIMEOUT_S) -> Client:
        """A client of the running server.

        Raises:
            TemporalDown: it did not answer within `timeout_s`.
            BadInput: the keys of the payloads are not there; see `payload_keys`.
        """
        everything = self.settings()
        settings = everything.temporal
        if self.run_info is None and settings.address == TemporalSection().address:
            raise TemporalDown("no stack runs here: starter.py up")
        plugin = holdfast_plugin(codec=payload_codec(everything))
        try:
            async with asyncio.timeout(timeout_s):
                client = await Client.connect(
                    settings.address, namespace=settings.namespace, plugins=[plugin]
                )
                await client.count_workflows()
        except (RuntimeError, RPCError, TimeoutError) as error:
            text = f"Temporal at {settings.address} did not answer ({type(error).__name__})"
            raise TemporalDown(text) from error
        return client

    async def clock_map(self) -> ClockMap:
        """Wall to market time: the simulated exchange's own map, otherwise real time."""
        now = datetime.now(UTC)
        info = self.run_info
        if info is None or not info.exchange_control_url:
            return real_time(now)
        try:
            async with httpx.AsyncClient(timeout=2, trust_env=False) as control:
                answer = await control.get(f"{info.exchange_control_url}/sim/clock")
            told: dict[str, Any] = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            text = f"the exchange's clock was not read: {error!r}"
            raise Transient(text, code="CLOCK") from error
        if told["speed"] is None:
            return ClockMap(wall0=now, market0=told["market_time"])
        return ClockMap(
            wall0=told["wall0"], market0=told["market0"], speed=Decimal(str(told["speed"]))
        )

    def command(self, words: str) -> str:
        """A command on this very stack, to be pasted into the shell that ran ours."""
        python, script = Path(sys.executable), repository_root() / "starter.py"
        return f"{shlex.join([from_here(python), from_here(script), *self.options()])} {words}"

    def options(self) -> list[str]:
        """`--config` and `--data`, where they are not the usual ones."""
        given = [] if self.config == default_config() else ["--config", str(self.config)]
        if self.data_dir != default_data_dir().resolve():
            given += ["--data", from_here(self.data_dir)]
        return given

    def named(self, text: str) -> str:
        """The text, its commands of ours with the options that make them act on this stack."""
        return text.replace("starter.py ", shlex.join(["starter.py", *self.options()]) + " ")


LOCAL_CONFIG = Path("holdfast.toml")


def from_here(path: Path) -> str:
    """The shortest way to write it in this folder that is still right."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def demo_config() -> Path:
    """The settings of `make run`."""
    return repository_root() / "config" / "demo.toml"


def default_config() -> Path:
    """HOLDFAST_CONFIG, else what `init` wrote into this folder, else the demonstration's."""
    named = os.environ.get("HOLDFAST_CONFIG")
    if named:
        return Path(named)
    return LOCAL_CONFIG if LOCAL_CONFIG.is_file() else demo_config()


def default_data_dir() -> Path:
    return Path(os.environ.get("HOLDFAST_DATA_DIR") or repository_root() / ".holdfast" / "stack")


def target_of(context: typer.Context) -> Target:
    """What the root command's options named."""
    found = context.find_object(Target)
    return found if found is not None else Target(default_config(), default_data_dir())


def operator_name(given: str | None) -> str:
    """Who acts: the option, HOLDFAST_OPERATOR, or the login name."""
    return given or os.environ.get(OPERATOR_VARIABLE) or getpass.getuser()


def execute(step: Callable[[], Awaitable[T]]) -> T:
    """Runs an async command; an expected error becomes one line and an exit code."""

    async def run() -> T:
        return await step()

    try:
        return asyncio.run(run())
    except HoldfastError as error:
        raise failed(error) from None
    except ExceptionGroup as group:
        known = group.subgroup(HoldfastError)
        if known is None:
            raise
        first: BaseException = known
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        assert isinstance(first, HoldfastError)
        raise failed(first) from None


def line_of(error: HoldfastError) -> str:
    """The error as one line that begins with its code, behind `file:line: ` where it has one."""
    location = getattr(error, "location", "")
    said = error.text.removeprefix(f"{location}: ")
    text = error.text if said.startswith(error.code) else f"{error.code} {error.text}"
    return " ".join(text.split())


def in_words(reason: str) -> str:
    """For `--reason`: what goes into the audit must say something."""
    if not reason.strip():
        raise failed(BadInput("REASON_MISSING", "reason", reason, "why, in words"))
    return reason


def positive(field: str, text: str) -> Decimal:
    """The number of an option.

    Raises:
        BadInput: NUMBER_INVALID if it is none, or not above zero.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number <= 0:
        raise BadInput("NUMBER_INVALID", field, text, "> 0")
    return number


def failed(error: HoldfastError) -> typer.Exit:
    """One line on stderr, beginning with the code; the exit code tells the class."""
    typer.echo(line_of(error), err=True)
    if isinstance(error, VersionConflict):
        return typer.Exit(EXIT_CONFLICT)
    is_input = isinstance(error, BadInput) or error.code in INPUT_CODES
    is_input = is_input and error.code not in NOT_YET_CODES
    if isinstance(error, Refused) and error.code in CONFLICT_CODES:
        return typer.Exit(EXIT_CONFLICT)
    return typer.Exit(EXIT_BAD_INPUT if is_input else EXIT_FAILED)
