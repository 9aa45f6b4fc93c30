"""The one base class of everything that travels."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable value that may enter a Temporal payload.

    `extra="ignore"`: an old worker must be able to read a field that a newer one added
    (style.md rule 29). Payload models only grow; new fields have defaults.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
