"""Every decoder of bytes from outside: what is encoded comes back, and damage is a named drop.

``python tests/fuzz/fuzz_decoders.py`` plays the same for as long as one likes.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec
import pytest
from decoder_fuzz import fuzz
from decoder_targets import all_targets
from message_samples import MESSAGE_TYPES, sample

from ntmpatch.wire.control import Envelope, Kind, UnknownMessage, decode_untrusted, encode

if TYPE_CHECKING:
    from ntmpatch.wire.control_messages import Message

INPUTS = 15_000
SAMPLES = 60
TRANSACTION = b"12345678"


def test_no_damage_makes_any_decoder_raise_what_it_must_not() -> None:
    targets = all_targets()
    counts, findings = fuzz(targets, INPUTS, seed=7)
    assert not findings, "python tests/fuzz/fuzz_decoders.py " + findings[0]
    outcomes = defaultdict(set)
    for name, outcome in counts:
        outcomes[name].add(outcome)
    assert outcomes.keys() == {target.name for target in targets}
    # Damage is reached only if what is not damaged is read: every type of message was.
    assert {kind.__name__ for kind in MESSAGE_TYPES} <= outcomes["control messages"]


@pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=lambda kind: kind.__name__)
def test_what_is_encoded_comes_back_and_what_later_versions_add_is_skipped(
    kind: type[Message],
) -> None:
    rng = random.Random(kind.__name__)
    tried = 0
    for _ in range(SAMPLES):
        message = sample(rng, kind)
        envelope = Envelope(TRANSACTION, rng.choice(list(Kind)), "3.8", message)
        try:
            payload = encode(envelope)
        except ValueError:
            continue  # all fields at their largest: more than a datagram
        tried += 1
        assert decode_untrusted(payload) == envelope
        fields = msgspec.msgpack.decode(payload[16:])
        every = len(fields) == len(kind.__struct_fields__) + 1
        later = msgspec.msgpack.encode([*fields, {"new": [1, b"x"]}, "x"])
        if every and len(later) < 1000:
            header = payload[:6] + len(later).to_bytes(2) + payload[8:16]
            assert decode_untrusted(header + later).message == message
    assert tried > SAMPLES / 2


def test_a_type_of_a_later_version_is_told_from_a_broken_one() -> None:
    known = {kind.__struct_config__.tag for kind in MESSAGE_TYPES}
    for tag in set(range(300)) - known:
        body = msgspec.msgpack.encode([tag, "whatever"])
        header = bytes((0xC0, 1, Kind.REQUEST, 0, 0, 0)) + len(body).to_bytes(2) + TRANSACTION
        assert decode_untrusted(header + body).message == UnknownMessage(tag)
