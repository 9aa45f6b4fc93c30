"""Ids are derived, legal at every broker, and map back with an empty store (faults.md row 35)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadInput
from domain.ids import (
    IntentKey,
    Purpose,
    check_id,
    client_order_id,
    parse_client_order_id,
    trade_digest,
    trade_prefix,
)

keys = st.builds(
    IntentKey,
    trade_id=st.from_regex(r"[A-Za-z0-9-]{1,48}", fullmatch=True),
    leg=st.integers(0, 255),
    purpose=st.sampled_from(list(Purpose)),
    sequence=st.integers(0, 65_535),
)
checksums = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)


@given(keys, checksums)
def test_client_id_maps_back_to_its_trade(key: IntentKey, checksum: str) -> None:
    client_id = client_order_id("a1b2", key, checksum)
    parts = parse_client_order_id(client_id)
    assert parts is not None
    assert client_id[:16] == trade_prefix("a1b2", key.trade_id)
    assert (parts.installation, parts.trade_digest) == ("a1b2", trade_digest(key.trade_id))
    assert (parts.leg, parts.purpose, parts.sequence) == (key.leg, key.purpose, key.sequence)
    assert parts.checksum == checksum


@given(keys, keys, checksums)
def test_different_intents_have_different_ids(
    first: IntentKey, second: IntentKey, checksum: str
) -> None:
    ids = {client_order_id("a1b2", key, checksum) for key in (first, second)}
    assert len(ids) == len({first.text, second.text})


def test_the_same_intent_with_another_body_has_another_id() -> None:
    key = IntentKey(trade_id="t-1", purpose=Purpose.ENTRY, sequence=1)
    assert client_order_id("a1b2", key, "00000000") != client_order_id("a1b2", key, "00000001")


@pytest.mark.parametrize("foreign", ["", "abc", "x" * 32, "A" * 32, "a1b2" + "0" * 28, "0" * 33])
def test_foreign_ids_have_no_parts(foreign: str) -> None:
    assert parse_client_order_id(foreign) is None


@pytest.mark.parametrize(
    "bad", ["", "a" * 49, "a" * 10_000, "a\nb", "a b", "a_b", "ä", "a/b", None]
)
def test_ids_that_a_broker_would_refuse_are_refused_here(bad: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_id(bad, "trade_id")
    assert (caught.value.code, caught.value.field) == ("ID_FORMAT", "trade_id")


@pytest.mark.parametrize("good", ["a", "a" * 48, "demo-20261120-1"])
def test_ids_inside_the_limit_pass(good: str) -> None:
    assert check_id(good, "trade_id") == good


@pytest.mark.parametrize(
    ("installation", "leg", "sequence", "checksum"),
    [
        ("A1B2", 0, 0, "00000000"),
        ("a1b", 0, 0, "00000000"),
        ("a1b2", 256, 0, "00000000"),
        ("a1b2", -1, 0, "00000000"),
        ("a1b2", 0, 65_536, "00000000"),
        ("a1b2", 0, 0, "xyz"),
    ],
)
def test_parts_outside_their_range_are_refused(
    installation: str, leg: int, sequence: int, checksum: str
) -> None:
    key = IntentKey(trade_id="t-1", leg=leg, purpose=Purpose.STOP, sequence=sequence)
    with pytest.raises(BadInput):
        client_order_id(installation, key, checksum)
