"""Virtual TCP sockets at their edges: buffers, urgent data, bad calls, lost descriptors."""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import socket
import sys
import types

import pytest
from descriptors import socket_at

pytestmark = pytest.mark.usefixtures("patched")


@pytest.fixture
def server(patched):  # noqa: ARG001  # for its effect
    with socket.create_server(("a.home.example", 0)) as listener:
        yield listener


@pytest.fixture
def pair(server):
    client = socket.create_connection(server.getsockname())
    connection, _ = server.accept()
    with client, connection:
        yield client, connection


def test_urgent_data_are_in_line(pair):
    """The pair of the kernel has a notion of its own, by which a byte would be missing."""
    client, connection = pair
    assert client.send(b"before", socket.MSG_OOB) == 6
    client.sendall(b"-urgent-", socket.MSG_OOB)
    client.sendmsg([b"behind"], (), socket.MSG_OOB)
    client.shutdown(socket.SHUT_WR)
    with connection.makefile("rb") as file:
        assert file.read() == b"before-urgent-behind"


def test_a_program_that_asks_for_a_small_receive_buffer_has_less_under_way(server):
    """Before connecting: a window that was told cannot be taken back."""

    def room():
        with socket.create_connection(server.getsockname()) as client:
            connection, _ = server.accept()
            with connection:
                client.settimeout(0.3)
                sent = 0
                with contextlib.suppress(TimeoutError):
                    while True:
                        sent += client.send(bytes(4096))
                return sent

    usual = room()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    assert room() < usual - 200_000


def test_the_size_to_send_is_the_pair_s(server):
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        client.connect(server.getsockname())
        for size in (8192, 20_000):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * size
            near = _socket.socket.getsockopt(client, socket.SOL_SOCKET, socket.SO_SNDBUF)
            assert near == 2 * size


def test_a_descriptor_closed_behind_the_back_is_bad(patched):  # noqa: ARG001  # for its effect
    for use in (lambda each: each.listen(), lambda each: each.connect(("b.home.example", 80))):
        bound = socket.socket()
        bound.bind(("a.home.example", 0))
        os.close(bound.fileno())
        with pytest.raises(OSError, match="Bad file") as caught:
            use(bound)
        assert caught.value.errno == errno.EBADF
        bound.detach()


def test_a_descriptor_closed_behind_the_back_leaves_nothing_to_its_successor(server):
    """As programs do that close all they have inherited, by number."""
    gone = socket.create_connection(server.getsockname())
    fd = gone.fileno()
    os.close(fd)
    with socket_at(fd) as successor:
        successor.bind(("a.home.example", 0))
        successor.listen()
        assert successor.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        gone.detach()


@pytest.mark.parametrize("type_", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_what_is_no_message_is_refused_as_by_the_kernel(server, type_):
    with socket.socket(type=type_) as client:
        client.connect(server.getsockname())
        for arguments in (
            (b"not in a list",),
            ([object()],),
            ([b"x"], object()),
            ([b"x"], [(0, 0)]),
            ([b"x"], [], object()),
            ([b"x"], [], 0, object()),
        ):
            with pytest.raises(TypeError):
                client.sendmsg(*arguments)
        assert client.sendmsg([b"x"], [(socket.SOL_SOCKET, 99, b"")]) == 1


def test_sockets_are_made_while_another_thread_makes_the_first_virtual_one(monkeypatch):
    """That thread is importing the table, and has got as far as nothing."""
    name = "ntmpatch.patch.table"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with socket.socket() as ordinary:
        assert ordinary.getsockname() == ("0.0.0.0", 0)


@pytest.mark.parametrize("use", ["connect", "bind", "bind-udp"])
def test_number_of_a_connection_that_was_detached_and_closed_is_used_again(server, use):
    """As multiprocessing.connection does, which closes the descriptor itself."""
    detached = socket.create_connection(server.getsockname(), 5).detach()
    with server.accept()[0] as connection:
        os.close(detached)
        assert connection.recv(1) == b""
    kind = socket.SOCK_DGRAM if use == "bind-udp" else socket.SOCK_STREAM
    with socket_at(detached, kind) as another:
        if use == "connect":
            another.connect(server.getsockname())
            assert another.getpeername() == server.getsockname()
        else:
            another.bind(("198.18.0.1", 0))
            assert another.getsockname()[0] == "198.18.0.1"


def test_what_the_path_decides_is_told(pair):
    client, _ = pair
    mtu = client.getsockopt(socket.IPPROTO_IP, 14)  # IP_MTU
    assert mtu > 1300
    assert 500 < client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= mtu - 40
    with pytest.raises(OSError, match="not supported"):
        client.getsockopt(socket.IPPROTO_IPV6, 24)  # IPV6_MTU


def test_options_that_cannot_be_read_back_can_be_set(pair):
    client, _ = pair
    client.setsockopt(socket.SOL_SOCKET, 53, 1)  # SO_CNX_ADVICE


def test_sizes_of_buffers_survive_a_connection_that_fails(patched):  # noqa: ARG001  # for its effect
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        with pytest.raises(ConnectionRefusedError):
            client.connect(("a.home.example", 9))
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 40_000
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client.connect(listener.getsockname())
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 40_000
