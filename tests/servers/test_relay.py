"""The relay: whoever bound a side may send to the other side, and nobody else to anybody."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.servers.relay.table import (
    BIND_TIMEOUT,
    IDLE_TIMEOUT,
    MIN_BURST,
    Forwarded,
    ForwardingTable,
    Grant,
    RelayLimits,
)
from ntmpatch.wire.relay import bind_frame, data_header, decode_bind_untrusted

A, B, STRANGER = "endpoint of A", "endpoint of B", "somewhere else"


class Relay:
    """A table with one session, whose sides are bound as far as asked."""

    def __init__(
        self,
        *,
        byte_quota: int = 0,
        lifetime: float = 100.0,
        bound: str = "AB",
        limits: RelayLimits | None = None,
    ) -> None:
        self.drops = DropCounter()
        self.table: ForwardingTable[str] = ForwardingTable(
            entropy=random.Random(1).randbytes, drops=self.drops, limits=limits
        )
        self.grant = self.new_grant(lifetime=lifetime, byte_quota=byte_quota)
        for side, endpoint in enumerate((A, B)):
            if endpoint[-1] in bound:
                assert self.bind(endpoint, side)

    def new_grant(self, *, lifetime: float = 100.0, byte_quota: int = 0, now: float = 0.0) -> Grant:
        grant = self.table.grant(lifetime=lifetime, byte_quota=byte_quota, now=now)
        assert grant is not None
        return grant

    def bind(
        self, source: str, side: int, *, counter: int = 1, now: float = 0.0, key: bytes = b""
    ) -> bytes | None:
        capability = key or self.grant.capabilities[side]
        frame = bind_frame(self.grant.session_id, side, capability, counter)
        return self.table.bind(source, frame, now)

    def packet(self, payload: bytes = b"sealed", *, session_id: int | None = None) -> bytes:
        return data_header(self.grant.session_id if session_id is None else session_id) + payload

    def forward(
        self, source: str, data: bytes, segment_size: int = 0, now: float = 1.0
    ) -> list[Forwarded[str]]:
        return self.table.forward(source, memoryview(data), segment_size or len(data), now)

    def only_drop(self) -> Drop:
        (drop,) = [reason for reason, count in self.drops.items() if count]
        return drop


def test_packets_pass_both_ways_unchanged() -> None:
    relay = Relay()
    packet = relay.packet()
    assert relay.forward(A, packet) == [Forwarded(B, memoryview(packet), len(packet))]
    assert relay.forward(B, packet) == [Forwarded(A, memoryview(packet), len(packet))]
    assert not +relay.drops


def test_a_batch_of_one_session_is_passed_on_whole() -> None:
    relay = Relay()
    full, short = relay.packet(b"x" * 92), relay.packet(b"y")
    (onward,) = relay.forward(A, full * 3 + short, segment_size=100)
    assert (onward.destination, onward.segment_size, len(onward.buffer)) == (B, 100, 309)


def test_a_batch_of_several_sessions_is_cut_where_they_change() -> None:
    relay = Relay()
    first = relay.packet(b"1" * 92)
    relay.grant = relay.new_grant()
    relay.bind(A, 0)
    relay.bind("third", 1)
    second = relay.packet(b"2" * 92)
    onward = relay.forward(A, first * 2 + second + b"\xc1\x00\x00\x00", segment_size=100)
    assert [(f.destination, len(f.buffer)) for f in onward] == [(B, 200), ("third", 100)]
    assert relay.only_drop() is Drop.RELAY_RUNT


def test_the_answer_to_a_bind_is_as_long_as_the_bind_and_proves_the_relay() -> None:
    relay = Relay(bound="")
    answer = relay.bind(A, 0, counter=7)
    assert answer is not None
    assert len(answer) == len(bind_frame(0, 0, bytes(32), 0))
    bound = decode_bind_untrusted(answer)
    assert (bound.bound, bound.counter) == (True, 7)
    assert bound.is_genuine(relay.grant.capabilities[0])
    assert not bound.is_genuine(relay.grant.capabilities[1])
    # Nobody can turn the answer round and bind with it.
    assert relay.table.bind(STRANGER, answer, 0.0) is None
    assert relay.only_drop() is Drop.RELAY_BAD_CAPABILITY


def test_a_side_that_binds_from_elsewhere_has_moved() -> None:
    relay = Relay()
    assert relay.bind("new place", 0, counter=2)
    assert relay.forward(B, relay.packet())[0].destination == "new place"
    assert relay.forward(A, relay.packet()) == []
    assert relay.only_drop() is Drop.RELAY_WRONG_SOURCE


def test_a_replayed_bind_moves_nobody() -> None:
    relay = Relay()
    assert relay.bind(STRANGER, 0, counter=1) is None
    assert relay.only_drop() is Drop.RELAY_REPLAYED_BIND
    assert relay.forward(B, relay.packet())[0].destination == A


@pytest.mark.parametrize(
    ("source", "data", "drop"),
    [
        (STRANGER, data_header(0), Drop.RELAY_RUNT),
        (STRANGER, b"\xc1", Drop.RELAY_RUNT),
        (STRANGER, b"\x01" * 20, Drop.RELAY_UNKNOWN_FRAME),
        (STRANGER, b"\xc1\x09" + bytes(20), Drop.RELAY_UNKNOWN_FRAME),
        (A, data_header(12345) + b"sealed", Drop.RELAY_UNKNOWN_SESSION),
    ],
)
def test_other_frames_are_dropped_by_name(source: str, data: bytes, drop: Drop) -> None:
    relay = Relay()
    assert relay.forward(source, data) == []
    assert relay.only_drop() is drop


def test_nothing_passes_to_a_side_that_has_not_bound() -> None:
    relay = Relay(bound="A")
    assert relay.forward(A, relay.packet()) == []
    assert relay.only_drop() is Drop.RELAY_UNBOUND


def test_a_session_ends_with_its_bytes_and_with_its_time() -> None:
    relay = Relay(byte_quota=30)
    assert relay.forward(A, relay.packet())
    assert relay.forward(A, relay.packet())
    assert relay.forward(A, relay.packet()) == []
    assert relay.only_drop() is Drop.RELAY_QUOTA
    relay = Relay(lifetime=50.0)
    assert relay.forward(A, relay.packet(), now=50.0) == []
    assert relay.bind(A, 0, counter=2, now=50.0) is None
    assert relay.only_drop() is Drop.RELAY_EXPIRED
    relay.table.expire(50.0)
    assert len(relay.table) == 0


def test_sessions_that_nobody_uses_make_room() -> None:
    relay = Relay(lifetime=10_000.0)
    relay.new_grant(lifetime=10_000.0)
    relay.table.expire(BIND_TIMEOUT)
    assert len(relay.table) == 1
    relay.table.expire(IDLE_TIMEOUT)
    assert len(relay.table) == 0


def pass_on(relay: Relay, now: float, count: int = 40, size: int = 1000) -> int:
    """Bytes that pass of one batch of ``count`` datagrams."""
    batch = relay.packet(bytes(size - 8)) * count
    return sum(len(onward.buffer) for onward in relay.forward(A, batch, size, now=now))


@pytest.mark.parametrize(
    "limits", [RelayLimits(session_rate=1e6), RelayLimits(capacity=1e6)], ids=["session", "relay"]
)
def test_a_rate_is_kept_and_the_excess_named(limits: RelayLimits) -> None:
    relay = Relay(limits=limits)
    sent = passed = 0
    for tick in range(1, 1000):
        now = tick * 0.01
        sent += 40_000
        passed += pass_on(relay, now)
    assert 0.99 * 1e6 * now <= passed <= 1e6 * now + MIN_BURST
    assert relay.only_drop() is Drop.RELAY_RATE
    assert relay.drops[Drop.RELAY_RATE] * 1000 == sent - passed


def test_of_a_batch_beyond_the_rate_the_beginning_passes() -> None:
    relay = Relay(limits=RelayLimits(session_rate=1.0))
    assert pass_on(relay, 1.0, count=60) == 60_000
    assert pass_on(relay, 1.0, count=60) == 60_000
    assert pass_on(relay, 1.0, count=60) == MIN_BURST // 1000 * 1000 - 120_000
    assert pass_on(relay, 1.0, count=60) == 0


def test_one_session_beyond_its_rate_costs_the_others_nothing() -> None:
    relay = Relay(limits=RelayLimits(session_rate=1e5, capacity=1e6))
    greedy = relay.grant
    modest = relay.new_grant()
    for step in range(100):
        now = 1.0 + step / 10
        relay.grant = greedy
        pass_on(relay, now, count=60)
        relay.grant = modest
        if not step:
            assert relay.bind(A, 0, now=now)
            assert relay.bind(B, 1, now=now)
        assert pass_on(relay, now, count=5) == 5000


def test_the_lower_of_what_a_coordinator_asks_and_the_limits_counts() -> None:
    relay = Relay(limits=RelayLimits(max_lifetime=10.0, session_bytes=50, session_rate=1e6))
    grant = relay.table.grant(lifetime=100.0, byte_quota=1000, rate=10.0, now=0.0)
    assert grant is not None
    assert grant.lifetime == 10.0
    relay.grant = grant
    for side, endpoint in enumerate((A, B)):
        relay.bind(endpoint, side)
    assert len(relay.forward(A, relay.packet(bytes(40)))) == 1
    assert relay.forward(A, relay.packet(bytes(40))) == []
    assert relay.only_drop() is Drop.RELAY_QUOTA
    relay = Relay(byte_quota=1 << 30, limits=RelayLimits(session_rate=1e6))
    relay.table.limit(RelayLimits(session_rate=10.0), 1.0)
    assert pass_on(relay, 1.0, count=60) + pass_on(relay, 1.0, count=60) == 120_000
    assert pass_on(relay, 2.0, count=60) < 20_000


def test_load_is_the_scarcer_of_sessions_and_bandwidth() -> None:
    relay = Relay(limits=RelayLimits(max_sessions=10, capacity=1e5))
    assert relay.table.load(0.0) == pytest.approx(0.1)
    pass_on(relay, 1.0, count=50)
    assert relay.table.load(1.0) == pytest.approx(0.5)
    assert relay.table.load(1.1) == pytest.approx(0.5), "measured over a second at least"
    assert relay.table.load(5.0) == pytest.approx(0.1)
    relay.table.limit(RelayLimits(max_sessions=10, capacity=1e3), 5.0)
    pass_on(relay, 5.5, count=50)
    assert relay.table.load(6.0) == 0.99, "used up, but it may be the only one"
    while len(relay.table) < 10:
        relay.new_grant(now=6.0)
    assert relay.table.load(6.0) == 1.0
    assert relay.table.grant(lifetime=9.0, byte_quota=0, now=6.0) is None


def test_sessions_in_reserve_are_granted_up_to_half_and_needed_while_they_carry_something() -> None:
    relay = Relay(limits=RelayLimits(max_sessions=4))
    relay.grant = reserve = relay.table.grant(lifetime=99.0, byte_quota=0, now=0.0, reserve=True)
    assert reserve is not None
    assert relay.table.grant(lifetime=99.0, byte_quota=0, now=0.0, reserve=True) is None
    relay.new_grant()
    relay = Relay()
    relay.table.expire(100.0)
    relay.grant = reserve = relay.table.grant(lifetime=999.0, byte_quota=0, now=0.0, reserve=True)
    assert reserve is not None
    for side, endpoint in enumerate((A, B)):
        relay.bind(endpoint, side)
    for second in range(100):  # does it work?
        relay.forward(A, relay.packet(bytes(80)), now=float(second))
        assert not relay.table.is_needed(float(second))
    for second in range(100, 200):  # it does, and the ends have nothing else
        relay.forward(A, relay.packet(bytes(200)), now=float(second))
        assert relay.table.is_needed(float(second)) == (second >= 104)
    assert not relay.table.is_needed(210.0)


@given(st.binary(max_size=200), st.integers(1, 64))
def test_any_bytes_from_a_stranger_go_nowhere(data: bytes, segment_size: int) -> None:
    relay = Relay()
    assert relay.forward(STRANGER, data, segment_size) == []
    assert relay.table.bind(STRANGER, data, 0.0) is None
    assert sum(relay.drops.values())
