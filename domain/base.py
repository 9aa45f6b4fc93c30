"""The one base class of everything that travels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict


def storable(text: str) -> str:
    """The text without what PostgreSQL or UTF-8 cannot hold: NUL and lone surrogates become `?`."""
    return text.replace("\x00", "?").encode("utf-8", errors="replace").decode("utf-8")


FreeText = Annotated[str, AfterValidator(storable)]
"""Words of a person or a strategy: shown, never compared. They must not stop a trade's booking."""
_set = object.__setattr__


class Frozen(BaseModel):
    """Immutable value that may enter a Temporal payload.

    `extra="ignore"`: an old worker must be able to read a field that a newer one added
    (style.md rule 29). Payload models only grow; new fields have defaults.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, at a third of its cost: there are no extra or private attributes here."""
        if deep:
            return super().model_copy(update=update, deep=True)
        made = self.__class__.__new__(self.__class__)
        names = self.__pydantic_fields_set__
        _set(made, "__dict__", {**self.__dict__, **update} if update else {**self.__dict__})
        _set(made, "__pydantic_fields_set__", {*names, *update} if update else {*names})
        _set(made, "__pydantic_extra__", None)
        _set(made, "__pydantic_private__", None)
        return made
