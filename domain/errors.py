"""The error tree. The `code` is the contract; the text is for people.

HoldfastError
├── BadInput          refused at the edge before any durable effect (faults.md §3)
├── IllegalTransition a (state, event) pair that is not in the order table
├── Transient         may be repeated as it is
├── Refused           the venue or a limit said no; will not change by asking again
├── Uncertain         sent, no answer: look up by client id, never resend blindly
└── Broken            our bug or an impossible state: page a person
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from decimal import Decimal
from enum import Enum

NO_DEFAULT = "a value: there is no default"


class HoldfastError(Exception):
    """Base of every error that Holdfast raises on purpose."""

    code = "HOLDFAST"

    def __init__(self, text: str, *, code: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        if code is not None:
            self.code = code


class BadInput(HoldfastError):
    """A value from outside was refused.

    Carries the machine code, the path of the field, the shortened escaped value and the allowed
    range, so that one line tells a person what to change: `CODE field: value was …, allowed …`.
    """

    code = "BAD_INPUT"

    def __init__(self, code: str, field: str, value: object = "", allowed: str = "") -> None:
        value = value.value if isinstance(value, Enum) else value
        shown = f"{value:f}" if isinstance(value, Decimal) else ascii(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        allowed_text = f", allowed {allowed}" if allowed else ""
        super().__init__(f"{code} {field}: value was {shown}{allowed_text}", code=code)
        self.field = field
        self.value = shown
        self.allowed = allowed


def allowed_by(kind: str, message: str) -> str:
    """What a validator of pydantic allows, from its error's type and message."""
    words = {"missing": "a value", "extra_forbidden": "a field that is known"}
    said = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return words.get(kind, said)


def file_to(verb: str, error: OSError) -> str:
    """What is allowed where a file could not be `read` or written: the system's reason with it."""
    return f"a file to {verb} ({error.strerror or type(error).__name__})"


def nearest_name(name: str, known: Iterable[str]) -> str:
    """For an unknown name: the known one that is spelled most alike."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"{near[0]} (the nearest name)" if near else "a known name"


class IllegalTransition(HoldfastError):
    code = "ILLEGAL_TRANSITION"


class Transient(HoldfastError):
    """May be repeated. `retry_after_s` is the venue's wish, if it gave one."""

    code = "TRANSIENT"

    def __init__(
        self, text: str, *, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(text, code=code)
        self.retry_after_s = retry_after_s


class Refused(HoldfastError):
    code = "REFUSED"


class Uncertain(HoldfastError):
    code = "UNCERTAIN"


class Broken(HoldfastError):
    code = "BROKEN"


class PriceUnavailable(Refused):
    """No valid price. There is no fallback price, ever (requirements #167)."""

    code = "PRICE_UNAVAILABLE"
