"""Ids are derived, never drawn (style.md rule 10, architecture §5).

A client order id is 32 lower-case hex characters, legal at every broker of the index:
4 installation · 12 trade · 2 leg · 2 purpose · 4 sequence · 8 body checksum. The first 16 are
the trade's prefix, so that any live order maps back to its trade with an empty store
(peers.md §4 row 4).
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from functools import lru_cache

from domain.base import Frozen
from domain.errors import BadInput

_ID = re.compile(r"[A-Za-z0-9-]{1,48}")
_CLIENT_ID = re.compile(r"[0-9a-f]{32}")
_INSTALLATION = re.compile(r"[0-9a-f]{4}")
DIRECT_SEQUENCE_FIRST = 0x8000
"""Sequences from here on are of a flatten past the workflow; none of its own gets here."""


class Purpose(StrEnum):
    """Why an order exists; part of its identity."""

    ENTRY = "entry"
    STOP = "stop"
    TARGET = "target"
    OCO = "oco"
    EXIT = "exit"
    FLATTEN = "flatten"


_PURPOSE_CODE = {
    Purpose.ENTRY: "01",
    Purpose.STOP: "02",
    Purpose.TARGET: "03",
    Purpose.OCO: "04",
    Purpose.EXIT: "05",
    Purpose.FLATTEN: "06",
}
_PURPOSE_OF_CODE = {code: purpose for purpose, code in _PURPOSE_CODE.items()}


class IntentKey(Frozen):
    """UNIQUE in the ledger: one intent, one accepted order (I1)."""

    trade_id: str
    leg: int = 0
    purpose: Purpose
    sequence: int

    @property
    def text(self) -> str:
        return f"{self.trade_id}/{self.leg}/{self.purpose}/{self.sequence}"


class ClientIdParts(Frozen):
    """What a client order id tells without any store."""

    installation: str
    trade_digest: str
    leg: int
    purpose: Purpose
    sequence: int
    checksum: str

    @property
    def is_direct(self) -> bool:
        """True for an order that a flatten sent past the workflow."""
        return self.sequence >= DIRECT_SEQUENCE_FIRST


def check_id(value: str, field: str) -> str:
    """Returns `value`, or raises BadInput ID_FORMAT (faults.md §3 row 35)."""
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise BadInput("ID_FORMAT", field, value, "1..48 of A-Z a-z 0-9 -")
    return value


def trade_digest(trade_id: str) -> str:
    return hashlib.sha256(trade_id.encode()).hexdigest()[:12]


def trade_prefix(installation: str, trade_id: str) -> str:
    """First 16 characters of every client order id of the trade."""
    if _INSTALLATION.fullmatch(installation) is None:
        raise BadInput("ID_FORMAT", "installation", installation, "4 lower-case hex")
    return installation + trade_digest(trade_id)


def client_order_id(installation: str, key: IntentKey, body_checksum: str) -> str:
    """The 32-hex client order id of an intent with this frozen body."""
    if not 0 <= key.leg <= 0xFF:
        raise BadInput("ID_FORMAT", "leg", key.leg, "0..255")
    if not 0 <= key.sequence <= 0xFFFF:
        raise BadInput("ID_FORMAT", "sequence", key.sequence, "0..65535")
    client_id = (
        f"{trade_prefix(installation, key.trade_id)}{key.leg:02x}{_PURPOSE_CODE[key.purpose]}"
        f"{key.sequence:04x}{body_checksum[:8]}"
    )
    if _CLIENT_ID.fullmatch(client_id) is None:
        raise BadInput("ID_FORMAT", "client_id", client_id, "32 lower-case hex")
    return client_id


def client_id_of_prefix(
    prefix: str, leg: int, purpose: Purpose, sequence: int, body_checksum: str
) -> str:
    """The same where only the first 16 characters of the trade's ids are known (no ledger)."""
    client_id = f"{prefix}{leg:02x}{_PURPOSE_CODE[purpose]}{sequence:04x}{body_checksum[:8]}"
    if _CLIENT_ID.fullmatch(client_id) is None:
        raise BadInput("ID_FORMAT", "client_id", client_id, "32 lower-case hex")
    return client_id


@lru_cache(maxsize=4096)
def parse_client_order_id(client_id: str) -> ClientIdParts | None:
    """The parts of one of our ids, or None for a foreign one."""
    if _CLIENT_ID.fullmatch(client_id) is None:
        return None
    purpose = _PURPOSE_OF_CODE.get(client_id[18:20])
    if purpose is None:
        return None
    return ClientIdParts(
        installation=client_id[:4],
        trade_digest=client_id[4:16],
        leg=int(client_id[16:18], 16),
        purpose=purpose,
        sequence=int(client_id[20:24], 16),
        checksum=client_id[24:],
    )


def is_direct_order_id(client_id: str | None, installation: str, trade_id: str) -> bool:
    """True for an order of this trade that a flatten sent past its workflow (K8).

    The trade did not decide it, so it meets the order first in what the broker tells.
    """
    parts = parse_client_order_id(client_id or "")
    if parts is None or not parts.is_direct:
        return False
    return (client_id or "").startswith(trade_prefix(installation, trade_id))


def trade_workflow_id(trade_id: str) -> str:
    return f"trade/{trade_id}"


def session_workflow_id(name: str) -> str:
    return f"session/{name}"


def flatten_workflow_id(command_id: str) -> str:
    return f"flatten/{command_id}"


def streams_workflow_id(account: str) -> str:
    return f"streams/{account}"


def reconcile_workflow_id(account: str) -> str:
    return f"reconcile/{account}"


def day_report_workflow_id(account: str) -> str:
    return f"day-report/{account}"


def order_queue(account: str) -> str:
    """Task queue of the order lane: one per broker account (architecture §4)."""
    return f"orders-{account}"


def stream_queue(account: str) -> str:
    return f"streams-{account}"


TRADE_QUEUE = "trade"
