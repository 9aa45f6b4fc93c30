"""Same id, same effect: tells a repeated command from another one under its id (row 37, I17)."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any

from domain.errors import BadInput


def body_hash(body: object) -> str:
    """SHA-256 of the canonical JSON: key order and number spelling do not matter."""
    text = json.dumps(_canonical(body), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: object) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | Decimal):
        return {"number": format(Decimal(value).normalize(), "f")}
    raise BadInput("BAD_JSON", "body", type(value).__name__, "JSON values, numbers exact")
