"""The line to PostgreSQL: pools, time limits, and one place that names what went wrong.

Every limit is short, so that a caller learns within seconds that the ledger is away and can fail
closed for entries and open for exits (H5). The kill path has a pool of its own (F5).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from domain.errors import Transient
from ledger.errors import LedgerDown, LockBusy

COMMAND_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 4.0
LISTEN_PING_S = 5.0
_SERVER_SETTINGS = {
    "application_name": "holdfast",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "statement_timeout": "4500",
    "lock_timeout": "2000",
    # A frozen process must not hold locks for ever.
    "idle_in_transaction_session_timeout": "5000",
}
_LOCK_STATES = frozenset({"55P03"})
_AGAIN_STATES = frozenset({"40001", "40P01"})
# No connection, no room (disk, memory), a broken machine, a broken store: nothing can be booked.
_DOWN_CLASSES = ("08", "53", "58", "XX")
_DOWN_STATES = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25006", "57014"})


def plain_dsn(dsn: str) -> str:
    """`postgresql://…` as asyncpg takes it."""
    return dsn.replace("postgresql+asyncpg://", "postgresql://", 1)


def async_url(dsn: str) -> str:
    """The same as SQLAlchemy takes it."""
    return plain_dsn(dsn).replace("postgresql://", "postgresql+asyncpg://", 1)


@contextmanager
def ledger_errors() -> Iterator[None]:
    """Turns driver errors into LedgerDown, LockBusy or Transient; lets real bugs through."""
    try:
        yield
    except exc.DBAPIError as error:
        cause = error.orig
        state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""
        known = _named(state, error.connection_invalidated or cause is None)
        if known is None and isinstance(error, exc.InterfaceError):
            known = LedgerDown("the connection to PostgreSQL was lost")
        if known is None:
            raise
        raise known from error
    except exc.TimeoutError as error:
        raise LedgerDown("no connection was free in time") from error
    except asyncpg.PostgresError as error:
        known = _named(error.sqlstate or "", False)
        if known is None:
            raise
        raise known from error
    except (asyncpg.InterfaceError, OSError) as error:
        # TimeoutError and ConnectionError are OSErrors.
        raise LedgerDown(f"PostgreSQL did not answer ({type(error).__name__})") from error


def _named(state: str, invalidated: bool) -> Transient | None:
    if state in _LOCK_STATES:
        return LockBusy("a row was locked longer than the lock timeout")
    if state in _AGAIN_STATES:
        return Transient(f"the transaction lost a race (SQLSTATE {state})", code="LEDGER_RACE")
    if invalidated or state in _DOWN_STATES or state.startswith(_DOWN_CLASSES):
        return LedgerDown(f"PostgreSQL was not usable (SQLSTATE {state or 'none'})")
    return None


class LedgerConnection:
    """Two pools on one database. Stores are built on `_work`, `_statement` and `_control_work`."""

    def __init__(
        self,
        dsn: str,
        *,
        pool_size: int = 10,
        connect_timeout_s: float = 2.0,
    ) -> None:
        self._dsn = dsn
        self._connect_timeout_s = connect_timeout_s
        self._engine = self._make_engine(pool_size)
        self._one_by_one = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._control_engine = self._make_engine(2)
        self._installation: str | None = None
        # How often a line that listens was lost: the server may have come back with less.
        self.losses = 0
        # Seconds and `done` or `failed`, after each transaction; for metrics.
        self.on_transaction: Callable[[float, str], None] | None = None

    def _make_engine(self, pool_size: int) -> AsyncEngine:
        return create_async_engine(
            async_url(self._dsn),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            connect_args={
                "timeout": self._connect_timeout_s,
                "command_timeout": COMMAND_TIMEOUT_S,
                "server_settings": _SERVER_SETTINGS,
            },
        )

    async def aclose(self) -> None:
        """Closes both pools; safe to call twice."""
        await self._engine.dispose()
        await self._control_engine.dispose()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Tells `on_transaction` how long the block took, waiting for a connection included."""
        if self.on_transaction is None:
            yield
            return
        began_s, outcome = time.perf_counter(), "failed"
        try:
            yield
            outcome = "done"
        finally:
            self.on_transaction(time.perf_counter() - began_s, outcome)

    @asynccontextmanager
    async def _work(self) -> AsyncIterator[AsyncConnection]:
        """One transaction; commit at the end of the block, rollback on any error."""
        with self._timed(), ledger_errors():
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def _statement(self) -> AsyncIterator[AsyncConnection]:
        """For exactly one statement: a transaction by itself, one round trip and not three."""
        with self._timed(), ledger_errors():
            async with self._one_by_one.connect() as connection:
                yield connection

    @asynccontextmanager
    async def _control_work(self) -> AsyncIterator[AsyncConnection]:
        """A transaction on the pool that work load cannot use up (F5)."""
        with self._timed(), ledger_errors():
            async with self._control_engine.begin() as connection:
                yield connection

    async def listen(self, *channels: str) -> AsyncGenerator[tuple[str, str], None]:
        """Yields (channel, payload) of every NOTIFY, ("ready", "") first.

        Read the state after "ready" and after each message: a message is a doorbell, and those
        sent before "ready" are lost. Ends only by an error or by closing the iterator.

        Raises:
            LedgerDown: the line was lost; read everything again after the next "ready".
        """
        messages: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

        def arrived(_connection: object, _pid: int, channel: str, payload: object) -> None:
            messages.put_nowait((channel, str(payload)))

        with ledger_errors():
            line = await asyncpg.connect(
                plain_dsn(self._dsn),
                timeout=self._connect_timeout_s,
                command_timeout=COMMAND_TIMEOUT_S,
                server_settings={"application_name": "holdfast-listen"},
            )
        line.add_termination_listener(lambda _connection: messages.put_nowait(("lost", "")))
        try:
            with ledger_errors():
                for channel in channels:
                    await line.add_listener(channel, arrived)
            yield "ready", ""
            while True:
                yield await self._next_message(line, messages)
        except LedgerDown:
            self.losses += 1
            raise
        finally:
            line.terminate()

    async def _next_message(
        self, line: asyncpg.Connection, messages: asyncio.Queue[tuple[str, str]]
    ) -> tuple[str, str]:
        while True:
            try:
                async with asyncio.timeout(LISTEN_PING_S):
                    channel, payload = await messages.get()
            except TimeoutError:
                # A half-open connection never speaks again: ask it.
                with ledger_errors():
                    await line.execute("SELECT 1")
                continue
            if channel == "lost":
                raise LedgerDown("the listening connection was lost")
            return channel, payload


async def lock_shared(connection: AsyncConnection, *names: str) -> None:
    """Shared advisory locks until the end of the transaction, in one round trip."""
    given = {f"name{number}": name for number, name in enumerate(names)}
    locks = (f"pg_advisory_xact_lock_shared(hashtextextended(:{key}, 0))" for key in given)
    await connection.execute(text("SELECT " + ", ".join(locks)), given)


async def lock_exclusive(connection: AsyncConnection, name: str) -> None:
    """Exclusive advisory lock until the end of the transaction; later sharers queue behind it."""
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name}
    )


async def limit_waits(connection: AsyncConnection, *, lock_ms: int, idle_ms: int) -> None:
    """For this transaction: how long to wait for locks, and how long it may sit idle."""
    await connection.execute(
        text(
            "SELECT set_config('lock_timeout', :lock, true), "
            "set_config('idle_in_transaction_session_timeout', :idle, true)"
        ),
        {"lock": str(lock_ms), "idle": str(idle_ms)},
    )


async def notify(connection: AsyncConnection, channel: str, payload: str) -> None:
    """Sent to listeners when this transaction commits."""
    await connection.execute(
        text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload}
    )
