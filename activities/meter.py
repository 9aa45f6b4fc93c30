"""What code counts and measures, without knowing who reads it (`observability.metrics` does)."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Counters, gauges and durations by name; every name stands in `observability.metrics`."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

    def set(self, name: str, value: float, **labels: str) -> None: ...

    def observe(self, name: str, seconds: float, **labels: str) -> None: ...


class NoMeter:
    """Counts nothing: tests and commands."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        return

    def set(self, name: str, value: float, **labels: str) -> None:
        return

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        return
