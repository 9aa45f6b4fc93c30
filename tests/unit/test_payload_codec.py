"""Sealed payloads: round trip, rotation, and every way in which one is refused (H14, S14-S16)."""

from __future__ import annotations

import base64
import gc
import json
import logging
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import History, HistoryEvent
from temporalio.client import WorkflowSerializationContext
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.converter import ActivitySerializationContext, SerializationContext

from domain.errors import BadInput
from ledger.errors import LedgerDown
from observability.payload_codec import (
    ENCODING,
    KEY_ID,
    SCOPE,
    HoldfastCodec,
    KeyRing,
    PayloadKey,
    PayloadRefused,
    new_key,
    payloads_in,
    sealed_payloads,
)
from observability.payload_converter import CONVERTERS_KEPT_MAX
from observability.plugin import converter_of
from observability.symbol_guard import without_symbol
from payload_watch import refusal_alert

OLD, NEW = PayloadKey("2026-01", bytes(range(32))), PayloadKey("2026-07", bytes(range(32, 64)))
CANARY = b'{"symbol":"CANARYSYM","limit":"123.45"}'


def plain(data: bytes = CANARY) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=data)


def about(workflow_id: str, namespace: str = "default") -> SerializationContext:
    return WorkflowSerializationContext(namespace=namespace, workflow_id=workflow_id)


def in_activity(workflow_id: str) -> SerializationContext:
    return ActivitySerializationContext(
        namespace="default",
        activity_id="1",
        activity_type="place_order",
        activity_task_queue="orders",
        workflow_id=workflow_id,
        workflow_type="Trade",
        is_local=False,
    )


def codec(
    *keys: PayloadKey, workflow_id: str = "trade/a", accept_plain: bool = False
) -> HoldfastCodec:
    return HoldfastCodec(KeyRing(keys), accept_plain=accept_plain).with_context(about(workflow_id))


async def refusal(opening: HoldfastCodec, payload: Payload) -> PayloadRefused:
    with pytest.raises(PayloadRefused) as refused:
        await opening.decode([payload])
    return refused.value


async def test_sealed_payload_shows_nothing_and_opens_to_the_same() -> None:
    [sealed] = await codec(OLD).encode([plain()])
    assert sealed.metadata["encoding"] == ENCODING
    assert sealed.metadata[KEY_ID] == b"2026-01"
    assert b"CANARYSYM" not in sealed.SerializeToString()
    assert await codec(OLD).decode([sealed]) == [plain()]


async def test_two_seals_of_one_payload_differ() -> None:
    first, second = await codec(OLD).encode([plain(), plain()])
    assert first.data != second.data


async def test_activity_opens_what_its_workflow_sealed() -> None:
    [sealed] = await codec(OLD).encode([plain()])
    opening = HoldfastCodec(KeyRing((OLD,))).with_context(in_activity("trade/a"))
    assert await opening.decode([sealed]) == [plain()]


async def test_run_of_a_schedule_opens_what_the_schedule_sealed() -> None:
    [sealed] = await codec(OLD, workflow_id="reconcile/demo").encode([plain()])
    run = codec(OLD, workflow_id="reconcile/demo-2026-03-02T15:05:00Z")
    assert await run.decode([sealed]) == [plain()]


async def test_rotation_writes_with_the_first_key_and_reads_with_all() -> None:
    [before] = await codec(OLD).encode([plain(b"before")])
    both = codec(NEW, OLD)
    [after] = await both.encode([plain(b"after")])
    assert after.metadata[KEY_ID] == b"2026-07"
    assert await both.decode([before, after]) == [plain(b"before"), plain(b"after")]


async def test_key_that_was_taken_away_is_named_and_no_other_is_tried() -> None:
    [sealed] = await codec(OLD).encode([plain()])
    refused = await refusal(codec(NEW), sealed)
    assert (refused.code, refused.key_id) == ("PAYLOAD_KEY", "2026-01")
    assert refused.text == "key 2026-01 was not here (keys: 2026-07)"


async def test_another_key_under_the_same_id_is_told_apart_from_a_change() -> None:
    [sealed] = await codec(OLD).encode([plain()])
    refused = await refusal(codec(PayloadKey("2026-01", NEW.secret)), sealed)
    assert refused.code == "PAYLOAD_KEY"
    assert "another one" in refused.text


async def test_worker_without_keys_refuses_what_is_sealed_instead_of_dropping_it() -> None:
    [sealed] = await codec(OLD).encode([plain()])
    refused = await refusal(codec(), sealed)
    assert refused.code == "PAYLOAD_KEY"
    assert await codec().encode([plain()]) == [plain()]
    assert await codec().decode([plain()]) == [plain()]


class Register:
    """Of one process; `ledger` is what all of them share."""

    def __init__(self, ledger: set[str] | None) -> None:
        self.ledger = ledger

    async def add(self, name: str) -> None:
        self._reached().add(name)

    async def has(self, name: str) -> bool:
        return name in self._reached()

    def _reached(self) -> set[str]:
        if self.ledger is None:
            raise LedgerDown("away")
        return self.ledger


def with_register(
    ledger: set[str] | None, *keys: PayloadKey, workflow_id: str = "trade/a"
) -> HoldfastCodec:
    return replace(codec(*keys, workflow_id=workflow_id), register=Register(ledger))


async def test_key_is_in_the_register_before_its_first_seal_and_is_missed_elsewhere() -> None:
    ledger: set[str] = set()
    [sealed] = await with_register(ledger, NEW, OLD).encode([plain()])
    assert ledger == {NEW.name}
    assert (await refusal(with_register(ledger), sealed)).code == "PAYLOAD_KEY"
    assert (await refusal(with_register(ledger, OLD), sealed)).code == "PAYLOAD_KEY"


async def test_key_that_never_wrote_is_a_forgery_and_no_missing_key() -> None:
    [made_up] = await codec(OLD).encode([plain()])
    assert (await refusal(with_register({NEW.name}), made_up)).code == "PAYLOAD_FORGED"
    under_its_id = PayloadKey(OLD.key_id, NEW.secret)
    other = await refusal(with_register({under_its_id.name}, under_its_id), made_up)
    assert other.code == "PAYLOAD_FORGED"


async def test_without_the_ledger_a_key_counts_as_missing_and_none_seals() -> None:
    [sealed] = await codec(OLD).encode([plain()])
    assert (await refusal(with_register(None), sealed)).code == "PAYLOAD_KEY"
    with pytest.raises(LedgerDown):
        await with_register(None, OLD).encode([plain()])


async def test_payload_without_the_shape_of_a_seal_is_forged_for_a_worker_without_keys() -> None:
    bare = Payload(metadata={"encoding": ENCODING, SCOPE: b"trade/a"}, data=bytes(64))
    assert (await refusal(codec(), bare)).code == "PAYLOAD_CHANGED"
    [short] = await codec(OLD).encode([plain()])
    short.data = short.data[:20]
    assert (await refusal(codec(), short)).code == "PAYLOAD_CHANGED"


async def test_moved_payload_is_forged_whether_or_not_its_key_is_here() -> None:
    [sealed] = await codec(OLD).encode([plain()])
    for opening in (codec(workflow_id="trade/b"), codec(NEW, workflow_id="trade/b")):
        assert (await refusal(opening, sealed)).code == "PAYLOAD_SWAPPED"


async def test_converter_refuses_forged_values_and_failures_by_their_code() -> None:
    """What the SDK drops of a signal raises for an input, a result and the text of a failure."""
    converter = converter_of(HoldfastCodec(KeyRing((OLD,)))).with_context(about("trade/a"))
    [sealed] = await converter.encode(["x"])
    failure = Failure()
    await converter.encode_failure(RuntimeError("no"), failure)
    for payload in (sealed, failure.encoded_attributes):
        _flipped(payload)
    with pytest.raises(PayloadRefused) as refused:
        await converter.decode([sealed], [str])
    assert (refused.value.code, refused.value.scope) == ("PAYLOAD_CHANGED", "trade/a")
    with pytest.raises(PayloadRefused):
        await converter.decode_failure(failure)


def test_converter_is_made_once_for_a_workflow_with_its_activities() -> None:
    """The SDK asks three times per payload: each new one cost the restart a quarter of its time."""
    converter = converter_of(HoldfastCodec())
    first = converter.with_context(about("trade/a"))
    assert first is converter.with_context(in_activity("trade/a"))
    assert first is not converter.with_context(about("trade/b"))
    assert first is not converter.with_context(about("trade/a", namespace="other"))
    assert isinstance(first.payload_codec, HoldfastCodec)
    assert first.payload_codec.scope == ("default", "trade/a")


def test_converters_of_workflows_long_gone_are_not_kept() -> None:
    converter = converter_of(HoldfastCodec())
    first = weakref.ref(converter.with_context(about("trade/0")))
    for number in range(1, CONVERTERS_KEPT_MAX + 1):
        converter.with_context(about(f"trade/{number}"))
    gc.collect()
    assert first() is None


async def test_codec_of_a_converter_still_fails_for_a_missing_key_and_for_plain_text() -> None:
    """Those may be readable tomorrow: nothing that was meant is dropped."""
    [sealed] = await codec(OLD).encode([plain()])
    opening = converter_of(HoldfastCodec(KeyRing((NEW,)))).with_context(about("trade/a"))
    assert opening.payload_codec is not None
    for payload, code in ((sealed, "PAYLOAD_KEY"), (plain(), "PAYLOAD_PLAIN")):
        with pytest.raises(PayloadRefused) as refused:
            await opening.payload_codec.decode([payload])
        assert refused.value.code == code


async def test_ciphertext_of_one_trade_is_refused_in_another() -> None:
    [sealed] = await codec(OLD).encode([plain()])
    refused = await refusal(codec(OLD, workflow_id="trade/b"), sealed)
    assert (refused.code, refused.scope) == ("PAYLOAD_SWAPPED", "trade/b")


def _renamed(payload: Payload) -> None:
    payload.metadata[SCOPE] = b"trade/b"


def _flipped(payload: Payload) -> None:
    payload.data = payload.data[:-1] + bytes([payload.data[-1] ^ 1])


def _shortened(payload: Payload) -> None:
    payload.data = payload.data[:5]


@pytest.mark.parametrize(
    ("change", "workflow_id"),
    [(_renamed, "trade/b"), (_flipped, "trade/a"), (_shortened, "trade/a")],
    ids=["its name too", "one bit", "cut off"],
)
async def test_changed_ciphertext_is_refused(
    change: Callable[[Payload], None], workflow_id: str
) -> None:
    [sealed] = await codec(OLD).encode([plain()])
    change(sealed)
    assert (await refusal(codec(OLD, workflow_id=workflow_id), sealed)).code == "PAYLOAD_CHANGED"


async def test_ciphertext_of_another_namespace_is_refused() -> None:
    [sealed] = await codec(OLD).encode([plain()])
    other = HoldfastCodec(KeyRing((OLD,))).with_context(about("trade/a", "other"))
    assert (await refusal(other, sealed)).code == "PAYLOAD_CHANGED"


async def test_plain_payload_is_refused_unless_the_time_before_is_open() -> None:
    assert (await refusal(codec(OLD), plain())).code == "PAYLOAD_PLAIN"
    assert await codec(OLD, accept_plain=True).decode([plain()]) == [plain()]


async def test_payload_of_no_workflow_is_neither_sealed_nor_opened() -> None:
    bare = HoldfastCodec(KeyRing((OLD,)))
    with pytest.raises(PayloadRefused) as refused:
        await bare.encode([plain()])
    assert refused.value.code == "PAYLOAD_CONTEXT"
    [sealed] = await codec(OLD).encode([plain()])
    assert (await refusal(bare, sealed)).code == "PAYLOAD_CONTEXT"


async def test_codec_server_opens_by_the_name_in_the_payload_and_only_if_it_is_the_right_one() -> (
    None
):
    server = HoldfastCodec(KeyRing((OLD,)), opens_for="default")
    [sealed] = await codec(OLD).encode([plain()])
    assert await server.decode([sealed]) == [plain()]
    _renamed(sealed)
    assert (await refusal(server, sealed)).code == "PAYLOAD_CHANGED"


async def test_text_and_stack_of_a_failure_are_sealed() -> None:
    converter = converter_of(HoldfastCodec(KeyRing((OLD,)))).with_context(about("trade/a"))
    failure = Failure()
    await converter.encode_failure(RuntimeError("CANARYSYM was refused"), failure)
    assert b"CANARYSYM" not in failure.SerializeToString()
    assert "CANARYSYM" in str(await converter.decode_failure(failure))


async def test_log_and_alert_of_a_refusal_name_the_key_and_never_its_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[PayloadRefused] = []
    [sealed] = await codec(OLD).encode([plain()])
    opening = HoldfastCodec(KeyRing((NEW,)), on_refusal=heard.append).with_context(about("trade/a"))
    with caplog.at_level(logging.DEBUG):
        refused = await refusal(opening, sealed)
    assert heard == [refused]
    told = caplog.text + refusal_alert("mine", refused).text + repr(opening) + repr(refused)
    assert "2026-01" in told
    for key in (OLD, NEW):
        assert base64.b64encode(key.secret).decode() not in told
        assert key.secret.hex() not in told
        assert repr(key.secret) not in told


def test_one_missing_key_is_one_alert_however_many_trades_miss_it() -> None:
    alerts = {
        refusal_alert("mine", PayloadRefused("PAYLOAD_KEY", "t", f"trade/{n}", "2026-01")).key
        for n in range(5)
    }
    assert len(alerts) == 1


def test_ring_is_read_as_it_is_written() -> None:
    ring = KeyRing((NEW, OLD))
    assert KeyRing.parse("# two keys\n" + ring.text) == ring
    assert KeyRing.parse(f"{NEW.line}, {OLD.line}") == ring
    assert KeyRing.parse("") == KeyRing()


@pytest.mark.parametrize(
    "text",
    [
        "no-colon",
        "id:bm90MzJieXRlcw==",
        "id:!!!!",
        "bad id:" + OLD.line.partition(":")[2],
        f"{OLD.line} {OLD.line}",
        "ü:" + OLD.line.partition(":")[2],
    ],
)
def test_bad_ring_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        KeyRing.parse(text)
    assert refused.value.code == "PAYLOAD_KEY_FORMAT"
    assert OLD.line.partition(":")[2] not in str(refused.value)


def test_new_keys_differ_and_a_bad_id_is_refused() -> None:
    assert new_key("a").secret != new_key("a").secret
    with pytest.raises(BadInput, match="PAYLOAD_KEY_ID"):
        new_key("with space")


async def test_payloads_are_found_anywhere_in_a_history_but_not_in_search_attributes() -> None:
    [sealed] = await codec(OLD).encode([plain()])
    event = HistoryEvent()
    started = event.workflow_execution_started_event_attributes
    started.input.CopyFrom(Payloads(payloads=[sealed, plain()]))
    started.memo.fields["note"].CopyFrom(plain(b"memo"))
    started.search_attributes.indexed_fields["Stage"].CopyFrom(plain(b"stage"))
    started.header.fields["trace"].CopyFrom(plain(b"trace"))
    history = History(events=[event])
    assert {p.data for p in payloads_in(history)} == {sealed.data, CANARY, b"memo"}
    assert list(sealed_payloads(history)) == [sealed]


def test_symbol_is_taken_off_the_search_attributes() -> None:
    symbol, stage = (SearchAttributeKey.for_keyword(name) for name in ("Symbol", "Stage"))
    given = TypedSearchAttributes(
        [SearchAttributePair(symbol, "CANARYSYM"), SearchAttributePair(stage, "open")]
    )
    kept = without_symbol(given)
    assert isinstance(kept, TypedSearchAttributes)
    assert [pair.key.name for pair in kept] == ["Stage"]
    assert without_symbol(None) is None


def test_kill_and_a_worker_without_encryption_do_not_import_the_cipher() -> None:
    program = (
        "import json, sys, cli.control, payload_keys, observability.plugin as p;"
        "p.holdfast_plugin(failpoints={});"
        "print(json.dumps([m for m in sys.modules if m.startswith('cryptography')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == []
