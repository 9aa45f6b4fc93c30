"""The strategies of a session: which file runs under which name, each in its own process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Protocol

from domain.bar import Bar
from domain.base import Frozen
from domain.session import SessionSpec
from domain.session_day import SessionDay
from domain.signal import Decision, StrategyContext
from ledger.repository import Ledger


class StrategyHost(Protocol):
    """A loaded strategy in a process of its own (`strategies.registry.StrategyProcess`)."""

    name: str

    def load(self) -> object: ...

    def decide(self, bars: Sequence[Bar], context: StrategyContext) -> Decision: ...

    def close(self) -> None: ...


class Configured(Frozen):
    """One strategy of a session: a stored configuration, or a plain file under its own name.

    `disabled` says why it may not enter; empty: it may.
    """

    name: str
    file: str
    parameters: dict[str, str]
    disabled: str = ""


class StrategyHosts:
    """Processes by session and file, opened once and kept."""

    def __init__(self, open_strategy: Callable[[str], StrategyHost]) -> None:
        self._open_strategy = open_strategy
        self._hosts: dict[tuple[str, str, str], StrategyHost] = {}
        # A strategy process answers one question at a time; two strategies do not wait.
        self._asking: dict[tuple[str, str, str], asyncio.Lock] = {}

    async def host(self, session: str, strategy: Configured) -> StrategyHost:
        """The strategy's process, started before its first bar: loading takes a second or two."""
        key = (session, strategy.name, strategy.file)
        async with self._asking.setdefault(key, asyncio.Lock()):
            host = self._hosts.get(key)
            if host is None:
                host = self._hosts.setdefault(key, self._open_strategy(strategy.file))
                await asyncio.to_thread(host.load)
        return host

    async def ask(
        self,
        spec: SessionSpec,
        day: SessionDay,
        strategy: Configured,
        bar: Bar,
        history: Sequence[Bar],
    ) -> Decision:
        """The strategy's decision about the bar; never raises for what the strategy does."""
        host = await self.host(spec.name, strategy)
        context = context_of(spec, day, strategy, bar)
        key = (spec.name, strategy.name, strategy.file)
        async with self._asking.setdefault(key, asyncio.Lock()):
            return await asyncio.to_thread(host.decide, history, context)

    async def close(self, session: str) -> None:
        """Ends the processes of the session that run in this worker."""
        for key in [key for key in self._hosts if key[0] == session]:
            self._asking.pop(key, None)
            await asyncio.to_thread(self._hosts.pop(key).close)


async def configured(ledger: Ledger, spec: SessionSpec) -> tuple[Configured, ...]:
    """The session's strategies as the ledger has them now; a change holds from the next look."""
    stored = {row.name: row for row in await ledger.strategies()}
    found = []
    for name in spec.strategies:
        row = stored.get(name)
        if row is None:
            plain = Configured(name=PurePath(name).stem, file=name, parameters=spec.parameters)
            found.append(plain)
            continue
        found.append(
            Configured(
                name=row.name,
                file=row.strategy,
                parameters={**spec.parameters, **row.parameters},
                disabled="" if row.enabled else row.reason or "disabled",
            )
        )
    return tuple(found)


def context_of(
    spec: SessionSpec, day: SessionDay, strategy: Configured, bar: Bar
) -> StrategyContext:
    """What the strategy may know when it is asked about the bar."""
    return StrategyContext(
        session=spec.name,
        strategy=strategy.name,
        instrument=next(i for i in spec.universe if i.symbol == bar.symbol),
        now=bar.end,
        session_open=day.opens_at,
        session_close=day.closes_at,
        parameters=strategy.parameters,
    )
