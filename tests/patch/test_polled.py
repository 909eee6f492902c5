"""Epoll sets that were told of a socket before another took its descriptor."""

from __future__ import annotations

import contextlib
import errno
import select
import socket

import pytest

pytestmark = pytest.mark.usefixtures("patched")


def connect_in_background(client, address):
    with contextlib.suppress(BlockingIOError):
        client.connect(address)


def test_a_connection_made_anew_after_a_failure_is_seen():
    with socket.socket() as taken, socket.socket() as client, select.epoll() as poller:
        taken.bind(("a.home.example", 0))
        client.setblocking(False)
        connect_in_background(client, taken.getsockname())
        poller.register(client.fileno(), select.EPOLLOUT)
        assert poller.poll(5)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        taken.listen()
        connect_in_background(client, taken.getsockname())
        assert poller.poll(5) == [(client.fileno(), select.EPOLLOUT)]
        assert client.getpeername() == taken.getsockname()


@pytest.mark.parametrize("bound", [False, True])
def test_a_udp_socket_that_turns_virtual_by_sending_is_seen(bound):
    with (
        socket.socket(type=socket.SOCK_DGRAM) as server,
        socket.socket(type=socket.SOCK_DGRAM) as client,
        select.epoll() as poller,
    ):
        server.bind(("a.home.example", 0))
        client.setblocking(False)
        if bound:
            client.bind(("", 0))
        poller.register(client.fileno(), select.EPOLLIN)
        client.sendto(b"question", server.getsockname())
        data, address = server.recvfrom(100)
        assert data == b"question"
        server.sendto(b"answer", address)
        assert poller.poll(5) == [(client.fileno(), select.EPOLLIN)]
        assert client.recv(100) == b"answer"


def test_what_an_event_loop_keeps_with_a_registration_is_kept():
    """Loops of C keep more in it than the descriptor, which Python's own epoll cannot set."""
    import ctypes  # noqa: PLC0415  # only here

    libc = ctypes.CDLL(None, use_errno=True)
    data = 0x1234_5678_0000_0000
    with socket.socket(type=socket.SOCK_DGRAM) as client, select.epoll() as poller:
        client.setblocking(False)
        packed = (select.EPOLLIN).to_bytes(4, "little") + (data | client.fileno()).to_bytes(
            8, "little"
        )
        event = ctypes.create_string_buffer(packed)
        assert libc.epoll_ctl(poller.fileno(), 1, client.fileno(), event) == 0
        client.sendto(b"x", ("a.home.example", 9))
        with open(f"/proc/self/fdinfo/{poller.fileno()}", encoding="ascii") as file:
            (line,) = (line for line in file if line.startswith("tfd:"))
        assert int(line.split()[5], 16) == data | client.fileno()
