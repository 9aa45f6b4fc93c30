"""The data converter: pydantic, and the place where a forged payload is refused.

A codec sees all payloads of a workflow task at once and fails all of it. The converter sees one
signal: the SDK drops one that it cannot convert and the trade goes on. So the codec hands forged
payloads on and this converter refuses them; every other one (an input, a result, a failure) fails
the workflow task here as it would in the codec (ADR 0019).
"""

from __future__ import annotations

from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    DefaultFailureConverter,
    EncodingPayloadConverter,
    PayloadConverter,
)

from observability.payload_codec import REFUSED, PayloadRefused, forged_in


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


class HoldfastPayloadConverter(PydanticPayloadConverter):
    """Pydantic's, which refuses what the codec marked as forged."""

    def __init__(self) -> None:
        super().__init__()
        self._set_converters(*self.converters.values(), RefusedConverter())


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
