"""The data converter: pydantic, and the place where a forged payload is refused.

A codec sees all payloads of a workflow task at once and fails all of it. The converter sees one
signal: the SDK drops one that it cannot convert and the trade goes on. So the codec hands forged
payloads on and this converter refuses them; every other one (an input, a result, a failure) fails
the workflow task here as it would in the codec (ADR 0019).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverter,
    EncodingPayloadConverter,
    PayloadConverter,
    SerializationContext,
)

from observability.payload_codec import REFUSED, PayloadRefused, forged_in, scope_of

CONVERTERS_KEPT_MAX = 1_024


class RefusedConverter(EncodingPayloadConverter):
    """Raises what the codec found."""

    @property
    def encoding(self) -> str:
        """The mark of the codec."""
        return REFUSED.decode()

    def to_payload(self, value: Any) -> Payload | None:
        """Never writes."""
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """Raises PayloadRefused, always."""
        raise forged_in(payload) or PayloadRefused("PAYLOAD_CHANGED", "a mark was damaged", "")


_CONVERTERS = CompositePayloadConverter(
    *PydanticPayloadConverter().converters.values(), RefusedConverter()
).converters


class HoldfastPayloadConverter(CompositePayloadConverter):
    """Pydantic's, which refuses what the codec marked as forged.

    The SDK makes one for every activation and every run; all share their parts and the type
    adapters in them.
    """

    def __init__(self) -> None:
        self.converters = _CONVERTERS


class HoldfastFailureConverter(DefaultFailureConverter):
    """Raises where the SDK's would pass over a sealed text that cannot be read."""

    def from_failure(self, failure: Failure, payload_converter: PayloadConverter) -> BaseException:
        """As the SDK's.

        Raises:
            PayloadRefused: the text and stack are forged.
        """
        if failure.HasField("encoded_attributes"):
            refused = forged_in(failure.encoded_attributes)
            if refused is not None:
                raise refused
        return super().from_failure(failure, payload_converter)


class SealingFailureConverter(HoldfastFailureConverter):
    """The same, and texts and stacks of our own failures are sealed."""

    def __init__(self) -> None:
        super().__init__(encode_common_attributes=True)


@dataclass(frozen=True)
class HoldfastDataConverter(DataConverter):
    """Keeps the converters that it made for workflows.

    The SDK asks for one three times per payload, and each made two more on the way: a quarter of
    the processor time of a cold replay. Only the codec looks at a context, and there at the
    scope alone: what is kept for a scope holds for the workflow and for all its activities.
    """

    _by_scope: dict[tuple[str, str] | None, Self] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def with_context(self, context: SerializationContext) -> Self:
        """The converter of the workflow or activity."""
        scope = scope_of(context)
        kept = self._by_scope.get(scope)
        if kept is None:
            kept = super().with_context(context)
            if len(self._by_scope) >= CONVERTERS_KEPT_MAX:
                self._by_scope.clear()
            self._by_scope[scope] = kept
        return kept
