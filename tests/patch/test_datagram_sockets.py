"""Virtual UDP sockets: connected and not, of one network and of both."""

from __future__ import annotations

import errno
import select
import socket

import pytest

pytestmark = pytest.mark.usefixtures("patched")

SIZES = [0, 1, 1376, 9000, 60_000]


@pytest.fixture
def receiver(patched):  # noqa: ARG001  # for its effect
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("a.home.example", 0))
        receiver.settimeout(5)
        yield receiver


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "198.18.0.1"), (socket.AF_INET6, "fd12:3456:789a::1")]
)
def test_datagrams_keep_size_and_source(family, host, connected, size):
    payload = bytes(index % 251 for index in range(size))
    with (
        socket.socket(family, socket.SOCK_DGRAM) as server,
        socket.socket(family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((host, 0))
        server.settimeout(5)
        client.settimeout(5)
        if connected:
            client.connect(server.getsockname())
            assert client.getpeername() == server.getsockname()
            assert client.getsockname()[0] == host
            assert client.send(payload) == size
        else:
            assert client.sendto(payload, server.getsockname()) == size
        data, source = server.recvfrom(65535)
        assert data == payload
        assert source[0] == host
        assert source[1] == client.getsockname()[1]
        assert server.sendto(payload[::-1], source) == size
        data, source = client.recvfrom(65535)
        assert data == payload[::-1]
        assert source == server.getsockname()


def test_boundaries_are_kept_and_long_datagrams_truncated(receiver):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for payload in (b"first", b"", b"second and longer"):
            client.sendto(payload, receiver.getsockname())
        assert receiver.recv(100, socket.MSG_PEEK) == b"first"
        assert receiver.recv(100) == b"first"
        assert receiver.recv(100) == b""
        buffer = bytearray(6)
        size, _, flags, _ = receiver.recvmsg_into([buffer])
        assert (size, buffer) == (6, b"second")
        assert flags & socket.MSG_TRUNC


def test_gathered_and_scattered(receiver):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        assert client.sendmsg([b"ab", b"cd"], [], 0, receiver.getsockname()) == 4
        one, two = bytearray(1), bytearray(9)
        size, ancillary, _, source = receiver.recvmsg_into([one, two])
        assert (size, bytes(one), bytes(two[:3]), ancillary) == (4, b"a", b"bcd", [])
        assert source[0] == "198.18.0.1"
        client.connect(receiver.getsockname())
        assert client.sendmsg([b"ef", b"gh"]) == 4
        assert receiver.recvmsg(10)[0] == b"efgh"


def test_waiting_ends_by_time_out_or_at_once(receiver):
    receiver.settimeout(0.02)
    with pytest.raises(TimeoutError):
        receiver.recvfrom(10)
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recvfrom(10)


def test_datagram_to_a_port_without_socket_is_refused_if_connected():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(("198.18.0.2", 9))
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


def test_too_long_and_homeless_datagrams_are_refused(receiver):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as fresh,
    ):
        for attempt, error in [
            (lambda: client.sendto(bytes(65508), receiver.getsockname()), errno.EMSGSIZE),
            (lambda: receiver.send(b"x"), errno.EDESTADDRREQ),
            (receiver.getpeername, errno.ENOTCONN),
            (lambda: receiver.sendto(b"x", ("127.0.0.1", 9)), errno.ENETUNREACH),
            (lambda: fresh.bind(("198.18.0.2", 0)), errno.EADDRNOTAVAIL),
            (lambda: fresh.bind(receiver.getsockname()), errno.EADDRINUSE),
        ]:
            with pytest.raises(OSError, match=r"\[Errno") as caught:
                attempt()
            assert caught.value.errno == error


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_wildcard_serves_both_networks(family):
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind(("", 0))
        server.settimeout(5)
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "198.18.0.1"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                client.connect((host, port))
                client.send(host.encode())
                assert select.select([server], [], [], 5)[0]
                data, source = server.recvfrom(100)
                assert data.decode() == host
                mapped = "::ffff:" if family == socket.AF_INET6 else ""
                assert source[:2] == (mapped + host, client.getsockname()[1])
                server.sendto(b"to " + data, source)
                assert client.recv(100) == b"to " + data
        assert not select.select([server], [], [], 0)[0]


def test_unbound_socket_reaches_both_networks_from_one_port(receiver):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as real,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        real.bind(("127.0.0.1", 0))
        real.settimeout(5)
        client.settimeout(5)
        for _ in range(2):
            client.sendto(b"virtual", receiver.getsockname())
            client.sendto(b"real", real.getsockname())
        _, virtual_source = receiver.recvfrom(10)
        _, real_source = real.recvfrom(10)
        assert virtual_source[1] == real_source[1] == client.getsockname()[1]
        real.sendto(b"from real", real_source)
        receiver.sendto(b"from virtual", virtual_source)
        assert {client.recv(100), client.recv(100)} == {b"from real", b"from virtual"}


def test_socket_that_sent_really_first_may_send_virtually(receiver):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as real,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        real.bind(("127.0.0.1", 0))
        client.sendto(b"real", real.getsockname())
        client.sendto(b"virtual", receiver.getsockname())
        client.sendto(b"real", real.getsockname())
        assert receiver.recv(10) == b"virtual"
        assert [real.recv(10), real.recv(10)] == [b"real", b"real"]


def test_connecting_keeps_the_bound_port(receiver):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("198.18.0.1", 0))
        port = client.getsockname()[1]
        client.connect(receiver.getsockname())
        assert client.getsockname() == ("198.18.0.1", port)
        client.send(b"x")
        assert receiver.recvfrom(10) == (b"x", ("198.18.0.1", port))


def test_ordinary_datagrams_stay_the_kernels():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        one.bind(("127.0.0.1", 0))
        assert two.sendto(b"x", one.getsockname()) == 1
        assert type(one) is type(two) is socket.socket
        assert one.recvfrom(10) == (b"x", ("127.0.0.1", two.getsockname()[1]))
