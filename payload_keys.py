"""The keys of the payloads: read from where the settings say, and stored there again.

Composition code beside `settings`, light: a kill waits for its imports.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from domain.errors import BadInput, file_to
from keyring_store import read_keyring, write_keyring
from observability.payload_codec import HoldfastCodec, KeyRing, PayloadRefused
from settings import PayloadKeySource, Settings
from settings_file import check_key_file_mode

if TYPE_CHECKING:
    from ledger.repository import Ledger

NAMES_MAX = 1_000
KEYRING_ENTRY = "payload_keys"
VARIABLE = "HOLDFAST_PAYLOAD_KEYS"


def payload_codec(
    settings: Settings, on_refusal: Callable[[PayloadRefused], None] | None = None
) -> HoldfastCodec:
    """The codec of every client, worker and replay of these settings.

    Raises:
        BadInput: as `payload_keys`.
    """
    dsn = settings.ledger.dsn.get_secret_value()
    return HoldfastCodec(
        payload_keys(settings),
        accept_plain=settings.encryption.accept_plain,
        on_refusal=on_refusal,
        register=LedgerKeyRegister(dsn, settings.temporal.namespace) if dsn else None,
    )


def register_cursor(namespace: str) -> str:
    """The cursor that holds `id:check` of every key that ever wrote in the namespace."""
    return f"payload-keys/{namespace}"


class LedgerKeyRegister:
    """The register in the ledger. A connection is made where it is asked, which is hardly ever.

    Args:
        dsn: Of the ledger.
        namespace: The Temporal namespace in which the payloads are.
    """

    def __init__(self, dsn: str, namespace: str) -> None:
        self._dsn, self._cursor = dsn, register_cursor(namespace)
        # Both answers last: a key is added before its first payload is, so nobody can have
        # forged its check before that, and it is never taken off.
        self._known: dict[str, bool] = {}

    async def add(self, name: str) -> None:
        """Once in a process.

        Raises:
            LedgerDown: see `Ledger.connect`.
        """
        if self._known.get(name):
            return
        async with self._ledger() as ledger:
            await ledger.add_to_cursor(self._cursor, name)
        self._known[name] = True

    async def has(self, name: str) -> bool:
        """Read once for each name.

        Raises:
            LedgerDown: see `Ledger.connect`.
        """
        if name not in self._known:
            async with self._ledger() as ledger:
                words = (await ledger.get_cursor(self._cursor) or "").split()
            if len(self._known) >= NAMES_MAX:
                self._known.clear()
            self._known[name] = name in words
        return self._known[name]

    @asynccontextmanager
    async def _ledger(self) -> AsyncIterator[Ledger]:
        from ledger.repository import Ledger  # heavy; most processes never need it

        made = await Ledger.connect(self._dsn, pool_size=1)
        try:
            yield made
        finally:
            await made.aclose()


def payload_keys(settings: Settings) -> KeyRing:
    """The keys, read now; none where encryption is off.

    Raises:
        BadInput: CONFIG_MISSING, CONFIG_KEYRING, FILE_MODE, PAYLOAD_KEY_FORMAT.
    """
    match settings.encryption.secrets:
        case PayloadKeySource.OFF:
            return KeyRing()
        case PayloadKeySource.ENVIRONMENT:
            text = settings.payload_keys.get_secret_value()
            missing = f"{VARIABLE} in the environment"
        case PayloadKeySource.KEYRING:
            text = read_keyring(settings.account.name, KEYRING_ENTRY)
            missing = "starter.py key new"
        case PayloadKeySource.KEY_FILE:
            text = _file_text(key_file(settings))
            missing = "starter.py key new"
    ring = KeyRing.parse(text)
    if not ring.keys:
        raise BadInput("CONFIG_MISSING", "encryption.secrets", "no key", missing)
    return ring


def key_file(settings: Settings) -> Path:
    """Where the keys are, or will be.

    Raises:
        BadInput: CONFIG_MISSING: the settings name no file.
    """
    if not settings.encryption.key_file:
        raise BadInput("CONFIG_MISSING", "encryption.key_file", "", "a file of mode 0600")
    return Path(settings.source).parent / settings.encryption.key_file


def _file_text(path: Path) -> str:
    try:
        check_key_file_mode(path, "encryption.key_file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        allowed = f"{file_to('read', error)}: starter.py key new"
        raise BadInput("CONFIG_MISSING", "encryption.key_file", str(path), allowed) from None
    except UnicodeDecodeError:
        raise BadInput("PAYLOAD_KEY_FORMAT", str(path), "***", "UTF-8") from None


def stored_keys(settings: Settings) -> KeyRing:
    """The keys that `key new` and `key use` change; empty where none are yet.

    Raises:
        BadInput: PAYLOAD_KEY_SOURCE: the settings name no place that can be written; else as
            `payload_keys`.
    """
    if settings.encryption.secrets in (PayloadKeySource.OFF, PayloadKeySource.ENVIRONMENT):
        allowed = "keyring or key_file; for the environment: openssl rand -base64 32"
        where = settings.encryption.secrets.value
        raise BadInput("PAYLOAD_KEY_SOURCE", "encryption.secrets", where, allowed)
    try:
        return payload_keys(settings)
    except BadInput as error:
        if error.code == "CONFIG_MISSING" and _is_new(settings):
            return KeyRing()
        raise


def _is_new(settings: Settings) -> bool:
    if settings.encryption.secrets is PayloadKeySource.KEYRING:
        return True
    path = key_file(settings)
    return not path.exists() or not path.read_text(encoding="utf-8").strip()


def store_keys(settings: Settings, ring: KeyRing) -> str:
    """Writes the keys back; returns where they are now.

    Raises:
        BadInput: CONFIG_KEYRING, or CONFIG_MISSING where the file cannot be written.
    """
    if settings.encryption.secrets is PayloadKeySource.KEYRING:
        write_keyring(settings.account.name, KEYRING_ENTRY, ring.text)
        return "keyring"
    path = key_file(settings)
    beside = path.with_name(path.name + ".new")
    try:
        # Whole or not at all: half a file of keys would be half of the trades.
        beside.unlink(missing_ok=True)
        made = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(made, "w", encoding="utf-8") as file:
            file.write(ring.text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        allowed = file_to("write", error)
        raise BadInput("CONFIG_MISSING", "encryption.key_file", str(path), allowed) from None
    return str(path)
