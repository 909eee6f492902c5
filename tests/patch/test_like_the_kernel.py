"""Made-up sequences of calls on two connected sockets give what the kernel's give, errnos too."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("patched")

EXAMPLES = int(os.environ.get("NTMPATCH_EXAMPLES", "300"))
HOSTS = {
    "kernel": {4: "127.0.0.1", 6: "::1"},
    "virtual": {4: "198.18.0.1", 6: "fd12:3456:789a::1"},
}
DOMAINS = {4: socket.AF_INET, 6: socket.AF_INET6}

ends = st.integers(0, 1)
sizes = st.sampled_from([0, 1, 3, 10, 1000])
receive_flags = st.sampled_from(
    [
        0,
        0,
        0,
        socket.MSG_PEEK,
        socket.MSG_TRUNC,
        socket.MSG_PEEK | socket.MSG_TRUNC,
        socket.MSG_WAITALL,
        socket.MSG_OOB,
        socket.MSG_ERRQUEUE,
        socket.MSG_CMSG_CLOEXEC,
    ]
)
send_flags = st.sampled_from(
    [0, 0, 0, socket.MSG_NOSIGNAL, socket.MSG_DONTROUTE, socket.MSG_EOR, socket.MSG_DONTWAIT]
)
actions = st.one_of(
    st.tuples(st.just("send"), ends, sizes, send_flags),
    st.tuples(st.just("sendmsg"), ends, sizes, send_flags),
    st.tuples(st.just("sendto"), ends, sizes),
    st.tuples(st.just("recv"), ends, sizes, receive_flags),
    st.tuples(st.just("recv_into"), ends, sizes, receive_flags),
    st.tuples(st.just("recvfrom"), ends, st.sampled_from([1, 3, 10, 1000]), receive_flags),
    st.tuples(st.just("recvmsg"), ends, st.sampled_from([1, 3, 10, 1000]), receive_flags),
    st.tuples(st.just("shutdown"), ends, st.sampled_from([1, 3])),
    st.tuples(st.just("names"), ends),
    st.tuples(st.just("error"), ends),
    st.tuples(st.just("linger"), ends),
    st.tuples(st.just("close"), ends),
    st.tuples(st.just("misuse"), ends, st.sampled_from(["bind", "listen", "accept", "connect"])),
)


class Pair:
    """Two connected sockets of one world, and what comes of each call."""

    def __init__(self, host, family, type_):
        domain = DOMAINS[family]
        if type_ == socket.SOCK_STREAM:
            with socket.create_server((host, 0), family=domain) as listener:
                first = socket.create_connection(listener.getsockname()[:2])
                second, _ = listener.accept()
            for each in (first, second):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            first, second = socket.socket(domain, type_), socket.socket(domain, type_)
            for each in (first, second):
                each.bind((host, 0))
            first.connect(second.getsockname())
            second.connect(first.getsockname())
        self.sockets = [first, second]
        self.names_of = {first.getsockname(): "first", second.getsockname(): "second"}
        self.type = type_
        self.count = 0
        self.is_shut = False
        for each in self.sockets:
            each.setblocking(False)

    def play(self, action):
        name, index, *arguments = action
        end = self.sockets[index]
        try:
            return getattr(self, name)(end, *arguments)
        except OSError as error:
            return errno.errorcode[error.errno]

    def _body(self, size):
        self.count += 1
        return bytes((self.count + index) % 251 for index in range(size))

    def _name(self, address):
        return self.names_of.get(address, address)

    def send(self, end, size, flags):
        return end.send(self._body(size), flags)

    def sendmsg(self, end, size, flags):
        body = self._body(size)
        return end.sendmsg([body[: size // 2], body[size // 2 :]], (), flags)

    def sendto(self, end, size):
        peer = next(each for each in self.names_of if each != end.getsockname())
        return end.sendto(self._body(size), peer)

    def recv(self, end, size, flags):
        return self._seen(end.recv(size, flags), flags)

    def recv_into(self, end, size, flags):
        buffer = bytearray(size)
        count = end.recv_into(buffer, 0, flags)
        return count, self._seen(bytes(buffer), flags)

    def recvfrom(self, end, size, flags):
        data, address = end.recvfrom(size, flags)
        return self._seen(data, flags), self._name(address)

    def recvmsg(self, end, size, flags):
        data, ancillary, out_flags, address = end.recvmsg(size, 0, flags)
        return self._seen(data, flags), ancillary, int(out_flags), self._name(address)

    def _seen(self, data, flags):
        """TCP does not fill the buffer with what MSG_TRUNC skips: whatever was there is told."""
        return len(data) if flags & socket.MSG_TRUNC else data

    def shutdown(self, end, how):
        """For writing: the kernel's TCP lets be read what comes after reading was shut down."""
        end.shutdown(how)
        self.is_shut = True

    def names(self, end):
        return self._name(end.getsockname()), self._name(end.getpeername())

    def error(self, end):
        return end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def linger(self, end):
        # Who ends a stream that the other has ended has closed, as the node sees it.
        if not self.is_shut:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def close(self, end):
        self.read_all()
        end.close()

    def read_all(self):
        """Of a UDP port that is closed to it the other end hears behind what it has not read."""
        if self.type == socket.SOCK_DGRAM:
            for each in self.sockets:
                with contextlib.suppress(OSError):
                    while True:
                        each.recv(1)

    def misuse(self, end, how):
        end.getpeername()  # the kernel's may be used anew when it has ended, ours may not
        if how == "bind":
            return end.bind(("", 0))
        if how == "listen":
            return end.listen()
        if how == "accept":
            return end.accept()[1]
        return end.connect(end.getpeername())

    def end(self):
        for each in self.sockets:
            each.close()


def settle(nodes):
    """What was written has gone through the node, which lives in one thread."""
    for _ in range(3):
        done = threading.Event()
        nodes.thread.post(done.set)
        assert done.wait(10)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([4, 6]),
    st.sampled_from([socket.SOCK_STREAM, socket.SOCK_DGRAM]),
    st.lists(actions, min_size=1, max_size=12),
)
def test_any_sequence_of_calls(nodes, family, type_, sequence):
    results = {}
    for world, hosts in HOSTS.items():
        pair = Pair(hosts[family], family, type_)
        results[world] = []
        for action in sequence:
            results[world].append(pair.play(action))
            settle(nodes)
        pair.end()
    with contextlib.suppress(ValueError):
        note(str(list(zip(sequence, results["kernel"], results["virtual"], strict=True))))
    assert results["virtual"] == results["kernel"]
