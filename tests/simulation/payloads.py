"""Payloads of the simulated Temporal server: by reference, which is quick, or as real JSON.

Everything that travels is a frozen model, so a reference is as good as a copy. Some seeds use the
real converter instead and so prove that every value survives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import temporalio.converter
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.contrib.pydantic import pydantic_data_converter


class ByReference(temporalio.converter.PayloadConverter):
    """Keeps the objects and sends their numbers."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def to_payloads(self, values: Sequence[Any]) -> list[Payload]:
        payloads = []
        for value in values:
            if isinstance(value, RawValue):
                payloads.append(value.payload)
                continue
            self._kept.append(value)
            number = str(len(self._kept) - 1).encode()
            payloads.append(Payload(data=number))
        return payloads

    def from_payloads(
        self, payloads: Sequence[Payload], type_hints: list[type] | None = None
    ) -> list[Any]:
        hints: Sequence[Any] = type_hints or [None] * len(payloads)
        return [
            RawValue(payload) if hint is RawValue else self._kept[int(payload.data)]
            for payload, hint in zip(payloads, hints, strict=False)
        ]


def json_payloads() -> temporalio.converter.PayloadConverter:
    """The converter of the real workers."""
    return pydantic_data_converter.payload_converter
