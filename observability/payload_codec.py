"""Payloads sealed with AES-256-GCM before they reach the Temporal server (ADR 0019).

A sealed payload names its key and is bound to namespace and workflow id: one that was moved to
another workflow, changed, or sent in plain text is refused (faults.md H14, S14-S16). A codec
without keys seals nothing and still refuses what it cannot read, so that a signal of a client with
keys fails the workflow task of a worker without them instead of being dropped by the SDK. What no
key of this installation can ever open is forged: `observability.payload_converter` lets the SDK
drop such a signal, so that it stops nobody.
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

from domain.errors import BadInput, HoldfastError, Refused

ENCODING = b"binary/encrypted"
KEY_ID, KEY_CHECK, SCOPE = "encryption-key-id", "encryption-key-check", "encryption-scope"
# How a forged payload goes on to the converter, which refuses it there.
REFUSED, REFUSED_CODE = b"holdfast/refused", "code"
# What no key that ever wrote here can open, today or after any key was put back.
FORGED_CODES = frozenset({"PAYLOAD_SWAPPED", "PAYLOAD_CHANGED", "PAYLOAD_FORGED"})
KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
KEY_FORMAT = "id:base64 of 32 bytes, one a line; the first writes, all read; each id once"
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)
_KEY_CHECK = re.compile(r"[0-9a-f]{8}", re.ASCII)
# A schedule seals with the id that it was given; the server adds the time of each run to it.
_RUN_OF_A_SCHEDULE = re.compile(r"-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", re.ASCII)

_log = logging.getLogger(__name__)


class Cipher(Protocol):
    """What the codec uses of AES-GCM; the library is imported where the first key is used."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...


class KeyRegister(Protocol):
    """Which keys ever sealed something here, kept where who forges payloads cannot write."""

    async def add(self, name: str) -> None:
        """Before the first seal with the key `id:check`. Raises HoldfastError."""
        ...

    async def has(self, name: str) -> bool:
        """True if the key `id:check` was ever added. Raises HoldfastError."""
        ...


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
    def name(self) -> str:
        """Id and check, as payloads and the register name the key."""
        return f"{self.key_id}:{self.check}"

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
        register: Tells a key that is missing here from one that never was. Without it every
            unknown key is a missing one.
        defers: Forged payloads are handed on as refusals for the converter; see `forged_in`.
    """

    ring: KeyRing = KeyRing()
    accept_plain: bool = False
    opens_for: str = ""
    on_refusal: Callable[[PayloadRefused], None] | None = field(default=None, compare=False)
    register: KeyRegister | None = field(default=None, repr=False, compare=False)
    defers: bool = False
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
        """Sealed copies, in order; the key is in the register before the first one is.

        Raises:
            PayloadRefused: PAYLOAD_CONTEXT: it is not known for which workflow.
            HoldfastError: the register cannot be written: a seal by a key that it does not know
                would be taken for a forged one where the key is missing.
        """
        if not self.seals or not payloads:
            return list(payloads)
        if self.scope is None:
            raise self._told(PayloadRefused("PAYLOAD_CONTEXT", "a payload was for no workflow", ""))
        if self.register is not None:
            await self.register.add(self.ring.keys[0].name)
        return [self._sealed(payload, self.scope) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Opened copies, in order.

        Raises:
            PayloadRefused: PAYLOAD_KEY, PAYLOAD_PLAIN, PAYLOAD_CONTEXT; and unless it `defers`
                PAYLOAD_SWAPPED, PAYLOAD_CHANGED, PAYLOAD_FORGED.
        """
        return [await self._opened_or_forged(payload) for payload in payloads]

    async def _opened_or_forged(self, payload: Payload) -> Payload:
        try:
            return self._opened(payload)
        except PayloadRefused as found:
            refused = self._told(await self._judged(found, payload))
        if self.defers and refused.code in FORGED_CODES:
            return _forged(refused)
        raise refused

    async def _judged(self, refused: PayloadRefused, payload: Payload) -> PayloadRefused:
        """Forged rather than missing, if the key never sealed anything here."""
        if refused.code != "PAYLOAD_KEY" or self.register is None:
            return refused
        name = ":".join(key_named(payload))
        try:
            if await self.register.has(name):
                return refused
        except HoldfastError as error:
            _log.warning("whether key %s ever wrote was not read: %s", name, error)
            return refused
        text = f"key {name} was not here and never sealed anything here"
        return self._refusal("PAYLOAD_FORGED", text, refused.key_id)

    def _sealed(self, payload: Payload, scope: tuple[str, str]) -> Payload:
        key, nonce = self.ring.keys[0], os.urandom(NONCE_BYTES)
        sealed = self._cipher(key).encrypt(nonce, payload.SerializeToString(), _bound(*scope, key))
        metadata = {
            "encoding": ENCODING,
            KEY_ID: key.key_id.encode(),
            KEY_CHECK: key.check.encode(),
            SCOPE: scope[1].encode(),
        }
        return Payload(metadata=metadata, data=nonce + sealed)

    def _opened(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            if self.seals and not self.accept_plain:
                raise self._refusal("PAYLOAD_PLAIN", "a payload was not encrypted")
            return payload
        named = payload.metadata.get(SCOPE, b"").decode(errors="replace")
        scope = (self.opens_for, named) if self.opens_for else self.scope
        if scope is None:
            raise self._refusal("PAYLOAD_CONTEXT", f"a payload of {named} was of no workflow here")
        # Before the key is looked for: these no key opens, so a worker without it says the same.
        if named != scope[1]:
            text = f"a payload of {named[:200]} was found in {scope[1]}"
            raise self._refusal("PAYLOAD_SWAPPED", text, key_named(payload)[0])
        if not _has_our_shape(payload):
            text = f"a payload of {scope[1]} had not the shape of a sealed one"
            raise self._refusal("PAYLOAD_CHANGED", text)
        key = self._key_of(payload)
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
        return PayloadRefused(code, text, "" if self.scope is None else self.scope[1], key_id)

    def _told(self, refused: PayloadRefused) -> PayloadRefused:
        _log.error(
            "%s workflow=%s key=%s: %s", refused.code, refused.scope, refused.key_id, refused.text
        )
        if self.on_refusal is not None:
            self.on_refusal(refused)
        return refused


def _has_our_shape(payload: Payload) -> bool:
    """False if no `HoldfastCodec` with any key can have sealed it."""
    key_id, check = key_named(payload)
    return (
        _KEY_ID.fullmatch(key_id) is not None
        and _KEY_CHECK.fullmatch(check) is not None
        and len(payload.data) >= NONCE_BYTES + TAG_BYTES
    )


def _forged(refused: PayloadRefused) -> Payload:
    words = {REFUSED_CODE: refused.code, SCOPE: refused.scope, KEY_ID: refused.key_id}
    metadata = {"encoding": REFUSED} | {name: word.encode() for name, word in words.items()}
    return Payload(metadata=metadata, data=refused.text.encode())


def forged_in(payload: Payload) -> PayloadRefused | None:
    """The refusal that a codec which `defers` put in the place of a forged payload."""
    if payload.metadata.get("encoding") != REFUSED:
        return None
    code, scope, key_id = (
        payload.metadata.get(name, b"").decode(errors="replace")
        for name in (REFUSED_CODE, SCOPE, KEY_ID)
    )
    return PayloadRefused(code, payload.data.decode(errors="replace"), scope, key_id)


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
