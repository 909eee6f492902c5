"""Proportional rate reduction: the window of a recovery, whatever is acknowledged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ntmpatch.packet.stack.tcp.prr import Prr

MSS = 1000
sizes = st.integers(0, 100_000)


@given(st.integers(MSS, 100_000), sizes, st.lists(st.tuples(sizes, sizes, sizes, st.booleans())))
def test_there_is_always_room_for_a_segment_when_nothing_is_under_way(
    flight: int, ssthresh: int, acks: list[tuple[int, int, int, bool]]
) -> None:
    prr = Prr()
    prr.start(flight)
    for delivered, pipe, sent, safe in acks:
        window = prr.window(delivered, pipe, max(ssthresh, 2 * MSS), MSS, safe=safe)
        assert window >= max(pipe, MSS)
        prr.out += sent
