"""Which ports may be bound, by whom: the same errnos as the kernel gives for its own addresses."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import socket
import struct
import sys

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("patched")

HOSTS = {
    "kernel": {4: "127.0.0.1", 6: "::1"},
    "virtual": {4: "198.18.0.1", 6: "fd12:3456:789a::1"},
}
_ports = (10_000 + (os.getpid() * 997 + step) % 22_000 for step in itertools.count())
"""Below the ephemeral ones; none again while the kernel remembers it in TIME-WAIT, and not those of
the process before us."""

EXAMPLES = int(os.environ.get("NTMPATCH_EXAMPLES", "300"))

actions = st.one_of(
    st.tuples(
        st.just("open"),
        st.sampled_from([4, 4, 6]),
        st.booleans(),  # SO_REUSEADDR
        st.booleans(),  # SO_REUSEPORT
    ),
    st.tuples(st.just("bind"), st.integers(0, 3), st.integers(0, 1)),
    st.tuples(st.just("listen"), st.integers(0, 3)),
    st.tuples(st.just("connect"), st.integers(0, 3), st.integers(0, 1)),
    st.tuples(st.just("close"), st.integers(0, 7)),
)


class Sockets:
    """What one sequence of actions makes, at the kernel's or at virtual addresses."""

    def __init__(self, type_, hosts, ports):
        self.type = type_
        self.hosts = hosts
        self.ports = ports
        self.sockets = []
        self.families = {}
        self.accepted = []
        self.tried = set()

    def play(self, action):
        """The errno's name, or what came of it."""
        name, *arguments = action
        try:
            getattr(self, name)(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno]
        return "done"

    def open(self, family, reuse_address, reuse_port):
        made = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, self.type)
        made.settimeout(5)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse_address))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse_port))
        self.families[made] = family
        self.sockets.append(made)

    def _pick(self, index):
        if not self.sockets:
            raise OSError(errno.EBADF, "none")
        return self.sockets[index % len(self.sockets)]

    def bind(self, index, port):
        chosen = self._pick(index)
        if chosen not in self.tried:
            chosen.bind((self.hosts[self.families[chosen]], self.ports[port]))

    def listen(self, index):
        chosen = self._pick(index)
        if chosen not in self.tried and chosen.getsockname()[1]:
            chosen.listen(8)

    def connect(self, index, port):
        chosen = self._pick(index)
        if chosen in self.tried:
            return
        self.tried.add(chosen)
        try:
            chosen.connect((self.hosts[self.families[chosen]], self.ports[port]))
        except OSError:
            # The kernel's stays bound, and may try again; ours is unbound by then.
            chosen.close()
            self.sockets.remove(chosen)
            raise
        for listener in self.sockets if self.type == socket.SOCK_STREAM else ():
            listener.setblocking(False)
            with contextlib.suppress(OSError):
                self.accepted.append(listener.accept()[0])
            listener.settimeout(5)

    def close(self, index):
        everything = self.sockets + self.accepted
        if everything:
            chosen = everything[index % len(everything)]
            chosen.close()
            (self.sockets if chosen in self.sockets else self.accepted).remove(chosen)

    def end(self):
        for each in self.sockets + self.accepted:
            each.close()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([socket.SOCK_STREAM, socket.SOCK_DGRAM]),
    st.lists(actions, min_size=2, max_size=14),
)
def test_any_sequence_of_calls_fails_as_it_does_in_the_kernel(type_, sequence):
    ports = (next(_ports), next(_ports))
    results = {}
    for world, hosts in HOSTS.items():
        sockets = Sockets(type_, hosts, ports)
        results[world] = [sockets.play(action) for action in sequence]
        sockets.end()
    note(str(list(zip(sequence, results["kernel"], results["virtual"], strict=True))))
    assert results["virtual"] == results["kernel"]


IP_LOCAL_PORT_RANGE = 51  # ip(7), since Linux 6.3; socket has no name for it


def take_two_ports(type_: int, stack: contextlib.ExitStack) -> int:
    """Bind two ports in a row to the node's address, with none of an earlier test's: the first."""
    while True:
        first = random.randrange(40_000, 60_000, 2)  # the kernel keeps to its own range
        with contextlib.suppress(OSError), contextlib.ExitStack() as attempt:
            for port in (first, first + 1):
                taken = attempt.enter_context(socket.socket(socket.AF_INET, type_))
                taken.bind(("198.18.0.1", port))
                if type_ == socket.SOCK_STREAM:
                    taken.listen()
            stack.enter_context(attempt.pop_all())
            return first


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_port_that_the_kernel_chooses_for_both_networks_is_free_on_both(kind):
    """It may choose among two, and the node has both in use; the next choice is among all."""
    type_ = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with contextlib.ExitStack() as stack:
        first = take_two_ports(type_, stack)
        made = stack.enter_context(socket.socket(socket.AF_INET, type_))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == "tcp"))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            bounds = struct.pack("=HH", *sorted((first, first + 1), reverse=sys.byteorder == "big"))
            made.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, bounds)
        except OSError:
            # Without it the kernel chooses among all from the beginning.
            assert tuple(map(int, os.uname().release.split(".")[:2])) < (6, 3)
        made.bind(("", 0))
        port = made.getsockname()[1]
        assert port not in (0, first, first + 1)
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if kind == "tcp":
            made.listen()
            assert made.getsockname()[1] == port
            for host in ("198.18.0.1", "127.0.0.1"):
                socket.create_connection((host, port), 5).close()
