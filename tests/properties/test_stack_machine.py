"""Any sequence of calls to two stacks over any wire: streams, callbacks and books stay right."""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from stack_books import check_books, check_empty
from stack_model import OWN, End, Endpoint, Wire, label, other, stream

from ntmpatch.packet.stack import Claim
from ntmpatch.packet.stack.tcp.states import State
from ntmpatch.wire import icmp, ip, tcp, udp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.packet.stack import Stack, TcpConnection, TcpListener

EXAMPLES = int(os.environ.get("NTMPATCH_EXAMPLES", "0"))
STEPS = 60
AFTERMATH = 3000.0
"""Virtual seconds in which everything ends that can: the longest wait is 924.6 s for an answer,
behind the persist timer's 60."""
PATIENCE = 200.0
"""What is being opened is open by then: a SYN is given up after 127 s."""
MAX_ENDS = 12
PORTS = (80, 81)
LOCAL_PORTS = (0, 0, 0, 5000, 80)

names = st.sampled_from(("a", "b"))
families = st.sampled_from((4, 6))
indices = st.integers(0, 63)
callbacks = st.sampled_from(("established", "deliver", "end_of_stream", "writable", "closed"))
actions = st.sampled_from(("write", "shutdown", "close", "abort", "resume"))


def address(name: str, family: int) -> bytes:
    return OWN[name][family == 6]


def expect(error: OSError, *numbers: int) -> None:
    """A call may fail so, and in no other way."""
    assert error.errno in numbers, error


class StackMachine(RuleBasedStateMachine):
    """Two stacks, all their calls, and a wire that does what it likes."""

    @initialize(verify=st.booleans(), max_mtu=st.sampled_from((None, 9000)), tight=st.booleans())
    def begin(self, verify: bool, max_mtu: int | None, tight: bool) -> None:
        self.wire = Wire(verify=verify, max_mtu=max_mtu)
        if tight:
            for stack in self.wire.stacks.values():
                stack.tcp.budget.limit = 100_000
        self.ends: list[tuple[str, End]] = []
        self.listeners: list[TcpListener] = []
        self.endpoints: list[tuple[str, Endpoint]] = []
        self.datagrams: set[bytes] = set()
        self.keys = 0
        self.converse("a", 4, 8, False, 3)
        self.bind("b", 4, False, 53, False)

    # --- helpers -----------------------------------------------------------------------------

    def stack(self, name: str) -> Stack:
        return self.wire.stacks[name]

    def clock(self) -> float:
        return self.wire.now

    def new_end(self, name: str) -> End:
        self.keys += 1
        end = End(self.keys, self.clock)
        self.ends.append((name, end))
        return end

    def peers(self, end: End) -> list[End]:
        """Who could have written what ``end`` receives."""
        local, port, remote, remote_port = end.flow
        mirrored = (remote, remote_port, local, port)
        return [each for _, each in self.ends if each.conn is not None and each.flow == mirrored]

    # --- TCP ---------------------------------------------------------------------------------

    @rule(
        name=names,
        family=families,
        port=st.sampled_from(PORTS),
        bound=st.booleans(),
        backlog=st.sampled_from((-1, 0, 1, 8)),
        reuse=st.booleans(),
        unaccepted=st.sampled_from((None, 0, 100)),
    )
    def listen(
        self,
        name: str,
        family: int,
        port: int,
        bound: bool,
        backlog: int,
        reuse: bool,
        unaccepted: int | None,
    ) -> None:
        here = address(name, family) if bound else None

        def accept(conn: TcpConnection) -> End:
            assert conn.local[1] == port
            assert here in (None, conn.local[0])
            end = self.new_end(name)
            end.conn = conn
            return end

        try:
            listener = self.stack(name).listen_tcp(
                Claim((family,), here, port, reuse_address=True, reuse_port=reuse),
                backlog=backlog,
                accept=accept,
            )
        except OSError as error:
            expect(error, errno.EADDRINUSE, errno.EADDRNOTAVAIL)
            return
        if unaccepted is not None:
            listener.count_unaccepted = lambda: unaccepted
        self.listeners.append(listener)

    @rule(index=indices)
    def close_listener(self, index: int) -> None:
        if self.listeners:
            listener = self.listeners.pop(index % len(self.listeners))
            listener.close()
            listener.close()

    @rule(
        name=names,
        family=families,
        port=st.sampled_from((*PORTS, 5000)),
        local_port=st.sampled_from(LOCAL_PORTS),
        loopback=st.sampled_from((False, False, False, True)),
    )
    def connect(self, name: str, family: int, port: int, local_port: int, loopback: bool) -> None:
        if len(self.ends) >= MAX_ENDS:
            return
        if local_port:
            # As if the lifetime of packets were over, that a port is used again: without it no
            # sequence number can tell old ones from new ones.
            for packets in self.wire.under_way.values():
                packets.clear()
            self.wire.advance(self.clock() + 1)
        remote = address(name if loopback else other(name), family)
        local = address(name, family) if local_port else None
        end = self.new_end(name)
        try:
            end.conn = self.stack(name).connect_tcp(
                remote, port, end, self.clock(), local=local, local_port=local_port
            )
        except OSError as error:
            expect(error, errno.EADDRNOTAVAIL)
            self.ends.pop()

    @rule(
        name=names,
        family=families,
        backlog=st.sampled_from((0, 8)),
        loopback=st.sampled_from((False, False, False, True)),
        rounds=st.sampled_from((0, 1, 2, 3, 3, 3)),
    )
    def converse(self, name: str, family: int, backlog: int, loopback: bool, rounds: int) -> None:
        """What rarely comes about by chance: a connection, or most of one."""
        far = name if loopback else other(name)
        for each in (name, far):
            self.add_address(each, family)
        self.wire.limit = None
        self.listen(far, family, 80, False, backlog, True, None)
        self.connect(name, family, 80, 0, loopback)
        self.wire.exchange(rounds)

    @rule(index=indices, action=actions, size=st.sampled_from((1, 500, 30_000, 400_000)))
    def act(self, index: int, action: str, size: int) -> None:
        self.on_end(index, lambda end: end.act(action, size))

    @rule(
        index=indices,
        size=st.sampled_from((1, 500, 30_000)),
        rounds=st.sampled_from((0, 0, 1, 2, 5)),
    )
    def write(self, index: int, size: int, rounds: int) -> None:
        self.on_end(index, lambda end: end.act("write", size))
        self.wire.exchange(rounds)

    @rule(index=indices, limit=st.sampled_from((0, 0, 1, 1000, None)))
    def read_only(self, index: int, limit: int | None) -> None:
        """``deliver`` takes no more than that from now on."""

        def change(end: End) -> None:
            end.take_limit = limit
            end.act("resume")

        self.on_end(index, change)

    @rule(index=indices, callback=callbacks, action=actions)
    def react(self, index: int, callback: str, action: str) -> None:
        """The program is going to call from within a callback."""
        self.on_end(index, lambda end: end.reactions.update({callback: action}))

    @rule(
        index=indices,
        option=st.sampled_from(("nodelay", "cork", "keepalive", "user timeout", "linger")),
        on=st.booleans(),
    )
    def set_option(self, index: int, option: str, on: bool) -> None:
        def change(end: End) -> None:
            assert end.conn is not None
            now = self.clock()
            if option == "nodelay":
                end.conn.set_nodelay(on=on)
            elif option == "cork":
                end.conn.set_cork(on=on)
            elif option == "keepalive":
                end.conn.set_keepalive((5.0, 1.0, 3) if on else None, now)
            elif option == "user timeout":
                end.conn.set_user_timeout(10.0 if on else None, now)
            else:
                end.conn.set_linger(0.0 if on else None)

        self.on_end(index, change)

    def on_end(self, index: int, change: object) -> None:
        if self.ends:
            assert callable(change)
            change(self.ends[index % len(self.ends)][1])

    # --- UDP ---------------------------------------------------------------------------------

    @rule(
        name=names,
        family=families,
        bound=st.booleans(),
        port=st.sampled_from((0, 53, 53)),
        share=st.booleans(),
    )
    def bind(self, name: str, family: int, bound: bool, port: int, share: bool) -> None:
        endpoint = Endpoint(self.datagrams)
        here = address(name, family) if bound else None
        try:
            endpoint.socket = self.stack(name).bind_udp(
                Claim((family,), here, port, reuse_address=share, reuse_port=share), endpoint
            )
        except OSError as error:
            expect(error, errno.EADDRINUSE, errno.EADDRNOTAVAIL)
            return
        self.endpoints.append((name, endpoint))

    @rule(
        index=indices,
        to=indices,
        size=st.sampled_from((0, 1, 1300, 1400, 9000, 65507, 65508)),
        connects=st.booleans(),
    )
    def send_datagram(self, index: int, to: int, size: int, connects: bool) -> None:
        """To another socket, or to a port at which nobody is."""
        if not self.endpoints:
            return
        name, endpoint = self.endpoints[index % len(self.endpoints)]
        far_name, far = self.endpoints[to % len(self.endpoints)]
        assert endpoint.socket is not None
        assert far.socket is not None
        (family,) = endpoint.socket.claim.families
        remote = (address(far_name, family), far.socket.port if to % 3 else 9)
        self.keys += 1
        payload = stream(self.keys, 0, size)
        try:
            if connects:
                endpoint.socket.connect(remote)
            source = endpoint.socket.address or self.stack(name).source_for(remote[0])
            self.datagrams.add(label((source, endpoint.socket.port), remote) + payload)
            endpoint.socket.send_to(payload, remote, self.clock())
        except OSError as error:
            too_large = (errno.EMSGSIZE,) if size > 65507 else ()
            expect(error, errno.EADDRNOTAVAIL, *too_large)

    @rule(index=indices)
    def close_endpoint(self, index: int) -> None:
        if self.endpoints:
            _, endpoint = self.endpoints.pop(index % len(self.endpoints))
            assert endpoint.socket is not None
            endpoint.is_closed = True
            endpoint.socket.close()
            endpoint.socket.close()

    # --- the way between them ------------------------------------------------------------------

    @rule(name=names, count=st.sampled_from((1, 2, 10, 100)))
    def deliver(self, name: str, count: int) -> None:
        self.wire.transmit()
        sent = self.wire.under_way[name]
        packets, self.wire.under_way[name] = sent[:count], sent[count:]
        self.wire.deliver(name, packets)

    @rule(rounds=st.sampled_from((1, 2, 3, 10)))
    def exchange(self, rounds: int) -> None:
        self.wire.exchange(rounds)

    @rule(
        name=names,
        index=indices,
        what=st.sampled_from(("drop", "drop all", "duplicate", "reorder", "corrupt")),
    )
    def disturb(self, name: str, index: int, what: str) -> None:
        self.wire.transmit()
        sent = self.wire.under_way[name]
        if not sent:
            return
        at = index % len(sent)
        if what == "drop all":
            sent.clear()
        elif what == "duplicate":
            sent.append(sent[at])
        elif what == "corrupt":
            # Where checksums are not verified, nothing corrupts: the tunnel authenticates.
            if self.wire.verify:
                changed = bytearray(sent[at])
                changed[index * 7 % len(changed)] ^= 1 << index % 8
                sent[at] = bytes(changed)
        else:
            packet = sent.pop(at)
            if what == "reorder":
                sent.append(packet)

    @rule(name=names, family=families, seed=st.integers(0, 1 << 16))
    def garbage(self, name: str, family: int, seed: int) -> None:
        """Of a source that may send, about nothing that exists; or no packet at all."""
        rng = random.Random(seed)
        source, destination = address(name, family), address(other(name), family)
        noise = rng.randbytes(rng.randrange(100))
        protocol = rng.choice((ip.TCP, ip.UDP, ip.ICMP, ip.ICMPV6, 99))
        if protocol == ip.TCP:
            flags = rng.getrandbits(8)
            noise = tcp.build(7, rng.choice(PORTS), seq=1, ack=2, flags=flags, window=3) + noise
        elif protocol == ip.UDP:
            noise = udp.build(7, 9, len(noise)) + noise
        elif rng.random() < 0.5:
            noise = icmp.build_echo_request(source, destination, 1, noise)
        packet = bytes(ip.build(source, destination, protocol, len(noise)) + noise)
        self.wire.deliver(name, [rng.choice((packet, noise, packet[: rng.randrange(60)]))])

    @rule(limit=st.sampled_from((None, 1280, 1400)), tells=st.booleans(), refuses=st.booleans())
    def narrow(self, limit: int | None, tells: bool, refuses: bool) -> None:
        self.wire.limit, self.wire.tells, self.wire.refuses = limit, tells, refuses

    @rule(name=names, family=families)
    def path_changed(self, name: str, family: int) -> None:
        self.stack(name).path_changed(address(other(name), family), self.clock())

    @rule(name=names, family=families)
    def host_unreachable(self, name: str, family: int) -> None:
        self.stack(name).host_unreachable(address(other(name), family), self.clock())

    @rule(name=names, family=families, fate=st.sampled_from(("kept", "kept", "back", "lost")))
    def lose_address(self, name: str, family: int, fate: str) -> None:
        here = address(name, family)
        if fate != "kept":  # rarely: nothing of the family survives it
            self.stack(name).remove_address(here)
        if fate == "back":
            self.stack(name).add_address(here)

    @rule(name=names, family=families)
    def add_address(self, name: str, family: int) -> None:
        self.stack(name).add_address(address(name, family))

    @rule(seconds=st.sampled_from((0.001, 0.05, 0.5, 3.0, 100.0)))
    def wait(self, seconds: float) -> None:
        self.wire.advance(self.clock() + seconds)

    @rule()
    def wait_for_the_next_timer(self) -> None:
        due_at = self.wire.next_timeout()
        if due_at is not None:
            self.wire.advance(due_at)

    # --- what holds --------------------------------------------------------------------------

    @invariant()
    def books_are_right(self) -> None:
        for name, stack in self.wire.stacks.items():
            check_books(stack, [end.conn for each, end in self.ends if end.conn and each == name])
            for family in (4, 6):
                assert 1280 <= stack.path_mtu(address(other(name), family)) <= 9000

    @invariant()
    def streams_are_right(self) -> None:
        for _, end in self.ends:
            if end.conn is None or not end.received:
                continue
            writers = [
                peer
                for peer in self.peers(end)
                if peer.written >= len(end.received)
                and end.received == stream(peer.key, 0, len(end.received))
            ]
            assert writers, "bytes that nobody wrote"
            if end.end_count:
                assert any(
                    peer.is_ended and peer.written == len(end.received) for peer in writers
                ), "the end of a stream that goes on"

    def teardown(self) -> None:
        if not hasattr(self, "wire"):
            return
        self.wire.limit = None
        for name, stack in self.wire.stacks.items():
            for each in OWN[name]:
                stack.add_address(each)
        self.wire.settle(PATIENCE)
        everyone = [end for _, end in self.ends]
        for end in everyone:
            end.reactions.clear()
            end.take_limit = None
            assert end.conn is not None
            end.conn.set_cork(on=False)
            end.act("resume")
            end.act("shutdown")
        self.wire.settle(AFTERMATH)
        self.books_are_right()
        self.streams_are_right()
        self.check_outcomes(everyone)
        for end in everyone:
            end.act("close")
        for listener in self.listeners:
            listener.close()
        for _, endpoint in self.endpoints:
            assert endpoint.socket is not None
            endpoint.socket.close()
        self.wire.settle(AFTERMATH)
        for end in everyone:
            assert end.conn is not None
            assert end.conn.done
        for stack in self.wire.stacks.values():
            check_empty(stack)

    def check_outcomes(self, everyone: Sequence[End]) -> None:
        """All that can come to its end has, and whoever ended well was sent everything."""
        for end in everyone:
            conn = end.conn
            assert conn is not None
            if conn.done:
                assert end.errors or end.is_closed
            else:
                # The far end was aborted, and its reset was lost: nothing tells of that.
                assert conn.state is State.FIN_WAIT_2, conn
                assert all(peer.errors or peer.is_closed for peer in self.peers(end))
            if end.errors == [0] and end.end_count:
                assert conn.state is State.CLOSED
                assert not conn.waiting_size


StackMachine.TestCase.settings = settings(
    max_examples=EXAMPLES or 40,
    stateful_step_count=STEPS,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestStackMachine = StackMachine.TestCase
