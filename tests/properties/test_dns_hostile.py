"""Any bytes to the DNS service: a small answer or a named drop, and nothing is remembered."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING

import dns.flags
import dns.message
from hypothesis import given
from hypothesis import strategies as st
from name_server import CLIENT, Asked

if TYPE_CHECKING:
    from ntmpatch.servers.direction.nameserver import NameServer

DNS_HEADER = struct.Struct("!HHHHHH")


def make_server() -> NameServer:
    return Asked().server


NEARLY_QUERIES = st.builds(
    lambda numbers, rest: DNS_HEADER.pack(*numbers) + rest,
    st.tuples(*[st.integers(0, 0xFFFF)] * 2, *[st.integers(0, 2)] * 4),
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [
                    b"\4home\7example\0\0\1\0\1",
                    b"\0\0\x29\4\xd0\0\0\0\0\0\0",
                    b"\0\0\x29\4\xd0\0\0\0\0\0\x0c\0\x0a\0\x08clientxx",
                    b"\xc0\x0c",
                ]
            ),
        )
    ).map(b"".join),
)


@given(st.one_of(st.binary(max_size=600), NEARLY_QUERIES))
def test_any_bytes_give_an_answer_or_a_named_drop(query: bytes) -> None:
    for tcp in (False, True):
        server = make_server()
        answer = server.answer_untrusted(query, CLIENT, 1000.0, tcp=tcp)
        if answer is None:
            assert sum(server.drops.values()) == 1
        else:
            message = dns.message.from_wire(answer)
            assert message.id == int.from_bytes(query[:2])
            assert message.flags & dns.flags.QR
            assert len(answer) <= 1232


def test_no_combination_that_strangers_make_up_is_remembered() -> None:
    """Flags, and types and classes of records, which a library may want to keep in tables."""
    server = make_server()

    def ask(number: int) -> None:
        question = b"\1a\0" + struct.pack("!HH", number * 5 & 0xFFFF, number * 7 & 0xFFFF)
        kind = 41 if number % 2 else number * 11 & 0xFFFF
        record = b"\0" + struct.pack("!HHIH", kind, number * 13 & 0xFFFF, number << 12, 0)
        header = DNS_HEADER.pack(number, number * 3 & 0x7FFF, 1, 0, 0, 1)
        server.answer_untrusted(
            header + question + record, f"192.0.{number >> 8 & 255}.1", 1000.0, tcp=False
        )

    # The few combinations that exist, and modules imported at first use, are met by then.
    for number in range(12_000):
        ask(number)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(12_000, 17_000):
            ask(number)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10_000, "2 bytes a query"
