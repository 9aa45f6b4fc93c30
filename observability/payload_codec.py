"""Payloads sealed with AES-256-GCM before they reach the Temporal server (ADR 0019).

A sealed payload names its key and is bound to namespace and workflow id: one that was moved to
another workflow, changed, or sent in plain text is refused (faults.md H14, S14-S16). A codec
without keys seals nothing and still refuses what it cannot read, so that a signal of a client with
keys fails the workflow task of a worker without them instead of being dropped by the SDK.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    ActivitySerializationContext,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)

from domain.errors import BadInput, Refused

ENCODING = b"binary/encrypted"
KEY_ID, KEY_CHECK, SCOPE = "encryption-key-id", "encryption-key-check", "encryption-scope"
KEY_BYTES, NONCE_BYTES = 32, 12
KEY_FORMAT = "id:base64 of 32 bytes, one a line; the first writes, all read; each id once"
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)
# A schedule seals with the id that it was given; the server adds the time of each run to it.
_RUN_OF_A_SCHEDULE = re.compile(r"-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", re.ASCII)

_log = logging.getLogger(__name__)


class Cipher(Protocol):
    """What the codec uses of AES-GCM; the library is imported where the first key is used."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...


class PayloadRefused(Refused):
    """A payload was not opened: key missing or another's, changed, moved, or not sealed at all."""

    def __init__(self, code: str, text: str, scope: str, key_id: str = "") -> None:
        super().__init__(text, code=code)
        self.scope = scope
        self.key_id = key_id


@dataclass(frozen=True)
class PayloadKey:
    """One key and the id under which payloads name it."""

    key_id: str
    secret: bytes = field(repr=False)

    @property
    def check(self) -> str:
        """Tells another key of the same id apart; says nothing about the key's bytes."""
        return hashlib.sha256(b"holdfast payload key\0" + self.secret).hexdigest()[:8]

    @property
    def line(self) -> str:
        """As it stands in the key file. Secret."""
        return f"{self.key_id}:{base64.b64encode(self.secret).decode()}"


@dataclass(frozen=True)
class KeyRing:
    """All keys that read; the first one writes. Empty: payloads are not sealed."""

    keys: tuple[PayloadKey, ...] = ()

    def of(self, key_id: str) -> PayloadKey | None:
        """The key of this id."""
        return next((key for key in self.keys if key.key_id == key_id), None)

    @property
    def text(self) -> str:
        """As it is stored. Secret."""
        return "".join(f"{key.line}\n" for key in self.keys)

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Keys out of `id:base64` words; lines that begin with # are passed over.

        Raises:
            BadInput: PAYLOAD_KEY_FORMAT; the text itself is never told.
        """
        keys: list[PayloadKey] = []
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        for word in " ".join(lines).replace(",", " ").split():
            key_id, _, encoded = word.partition(":")
            try:
                secret = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                secret = b""
            is_twice = any(key.key_id == key_id for key in keys)
            if len(secret) != KEY_BYTES or is_twice or _KEY_ID.fullmatch(key_id) is None:
                where = f"encryption.keys[{len(keys)}]"
                raise BadInput("PAYLOAD_KEY_FORMAT", where, "***", KEY_FORMAT)
            keys.append(PayloadKey(key_id, secret))
        return cls(tuple(keys))


def new_key(key_id: str) -> PayloadKey:
    """A fresh key from the system's source of chance.

    Raises:
        BadInput: PAYLOAD_KEY_ID.
    """
    if _KEY_ID.fullmatch(key_id) is None:
        raise BadInput("PAYLOAD_KEY_ID", "key_id", key_id, "1 to 32 of A-Z a-z 0-9 . _ -")
    return PayloadKey(key_id, os.urandom(KEY_BYTES))


def scope_of(context: SerializationContext | None) -> tuple[str, str] | None:
    """Namespace and workflow id to which a payload of this context is bound."""
    if isinstance(context, WorkflowSerializationContext | ActivitySerializationContext):
        workflow_id = context.workflow_id
        if workflow_id:
            return context.namespace, _RUN_OF_A_SCHEDULE.sub("", workflow_id)
    return None


@dataclass(frozen=True)
class HoldfastCodec(PayloadCodec, WithSerializationContext):
    """Seals and opens the payloads of one workflow; `with_context` says of which.

    Args:
        ring: The keys; empty seals nothing.
        accept_plain: Opens what is not sealed too: while trades of the time before are open.
        opens_for: A namespace in which payloads are opened by the workflow id that they name
            themselves; for the codec server, which is not told of which workflow they are.
        on_refusal: Hears of every refusal beside the log.
    """

    ring: KeyRing = KeyRing()
    accept_plain: bool = False
    opens_for: str = ""
    on_refusal: Callable[[PayloadRefused], None] | None = field(default=None, compare=False)
    scope: tuple[str, str] | None = None
    ciphers: dict[str, Cipher] = field(default_factory=dict, repr=False, compare=False)

    @property
    def seals(self) -> bool:
        """True if there is a key to write with."""
        return bool(self.ring.keys)

    def with_context(self, context: SerializationContext) -> HoldfastCodec:
        """The same keys for the payloads of one workflow."""
        return replace(self, scope=scope_of(context))

    def knows(self, payload: Payload) -> bool:
        """True if it has the key, or may read plain text; the seal itself is not looked at."""
        if payload.metadata.get("encoding") != ENCODING:
            return self.accept_plain or not self.seals
        key_id, check = key_named(payload)
        key = self.ring.of(key_id)
        return key is not None and key.check == check

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Sealed copies, in order.

        Raises:
            PayloadRefused: PAYLOAD_CONTEXT: it is not known for which workflow.
        """
        return [self._sealed(payload) for payload in payloads] if self.seals else list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Opened copies, in order.

        Raises:
            PayloadRefused: PAYLOAD_KEY, PAYLOAD_SWAPPED, PAYLOAD_CHANGED, PAYLOAD_PLAIN,
                PAYLOAD_CONTEXT.
        """
        return [self._opened(payload) for payload in payloads]

    def _sealed(self, payload: Payload) -> Payload:
        if self.scope is None:
            raise self._refusal("PAYLOAD_CONTEXT", "a payload was for no workflow")
        key, nonce = self.ring.keys[0], os.urandom(NONCE_BYTES)
        sealed = self._cipher(key).encrypt(
            nonce, payload.SerializeToString(), _bound(*self.scope, key)
        )
        metadata = {
            "encoding": ENCODING,
            KEY_ID: key.key_id.encode(),
            KEY_CHECK: key.check.encode(),
            SCOPE: self.scope[1].encode(),
        }
        return Payload(metadata=metadata, data=nonce + sealed)

    def _opened(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            if self.seals and not self.accept_plain:
                raise self._refusal("PAYLOAD_PLAIN", "a payload was not encrypted")
            return payload
        key = self._key_of(payload)
        named = payload.metadata.get(SCOPE, b"").decode(errors="replace")
        scope = (self.opens_for, named) if self.opens_for else self.scope
        if scope is None:
            raise self._refusal("PAYLOAD_CONTEXT", f"a payload of {named} was of no workflow here")
        if named != scope[1]:
            text = f"a payload of {named[:200]} was found in {scope[1]}"
            raise self._refusal("PAYLOAD_SWAPPED", text, key.key_id)
        from cryptography.exceptions import InvalidTag

        nonce, sealed = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
        try:
            opened = self._cipher(key).decrypt(nonce, sealed, _bound(*scope, key))
        except (InvalidTag, ValueError):
            text = f"a payload of {scope[1]} was changed, or sealed in another namespace"
            raise self._refusal("PAYLOAD_CHANGED", text, key.key_id) from None
        return Payload.FromString(opened)

    def _key_of(self, payload: Payload) -> PayloadKey:
        key_id, check = key_named(payload)
        key = self.ring.of(key_id)
        if key is None:
            known = ", ".join(key.key_id for key in self.ring.keys) or "none"
            text = f"key {key_id} was not here (keys: {known})"
            raise self._refusal("PAYLOAD_KEY", text, key_id)
        if key.check != check:
            text = f"key {key_id} was another one than the one that wrote ({check}, {key.check})"
            raise self._refusal("PAYLOAD_KEY", text, key_id)
        return key

    def _cipher(self, key: PayloadKey) -> Cipher:
        if key.key_id not in self.ciphers:
            # Late: most processes never need it, and a kill waits for imports.
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self.ciphers[key.key_id] = AESGCM(key.secret)
        return self.ciphers[key.key_id]

    def _refusal(self, code: str, text: str, key_id: str = "") -> PayloadRefused:
        where = "" if self.scope is None else self.scope[1]
        refused = PayloadRefused(code, text, where, key_id)
        _log.error("%s workflow=%s key=%s: %s", code, where, key_id, text)
        if self.on_refusal is not None:
            self.on_refusal(refused)
        return refused


def key_named(payload: Payload) -> tuple[str, str]:
    """Id and check of the key that sealed the payload."""
    found = payload.metadata.get(KEY_ID, b""), payload.metadata.get(KEY_CHECK, b"")
    key_id, check = (text.decode(errors="replace")[:40] for text in found)
    return key_id, check


def _bound(namespace: str, workflow_id: str, key: PayloadKey) -> bytes:
    """What the seal holds besides the content."""
    return json.dumps(["holdfast/1", namespace, workflow_id, key.key_id]).encode()


def sealed_payloads(message: object) -> Iterator[Payload]:
    """Every sealed payload anywhere in a message of the Temporal API."""
    for payload in payloads_in(message):
        if payload.metadata.get("encoding") == ENCODING:
            yield payload


def payloads_in(message: object) -> Iterator[Payload]:
    """Every payload in a message of the Temporal API that goes through a codec.

    Search attributes and headers do not: the server reads the ones, tracing the others.
    """
    if isinstance(message, Payload):
        yield message
        return
    for described, value in message.ListFields():  # type: ignore[attr-defined]
        if described.message_type is None or described.name in ("search_attributes", "header"):
            continue
        if described.message_type.GetOptions().map_entry:
            parts = [each for each in value.values() if hasattr(each, "ListFields")]
        else:
            parts = [value] if hasattr(value, "ListFields") else list(value)
        for part in parts:
            yield from payloads_in(part)
