"""Event loops that registered a socket before it turned virtual go on being told of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
import threading

import pytest
from descriptors import socket_at

pytestmark = pytest.mark.usefixtures("patched")

NAME = "a.home.example"


@pytest.fixture
def poller():
    with select.epoll() as poller:
        yield poller


@pytest.mark.parametrize("host", ["0.0.0.0", NAME])
def test_listener_registered_before_it_listens(poller, host):
    with socket.socket() as listener:
        listener.setblocking(False)
        poller.register(listener, select.EPOLLIN)
        listener.bind((host, 0))
        listener.listen()
        assert poller.poll(0) == []
        for _ in range(2):
            with socket.create_connection((NAME, listener.getsockname()[1]), 5):
                assert poller.poll(5) == [(listener.fileno(), select.EPOLLIN)]
                listener.accept()[0].close()
                assert poller.poll(0) == []
        poller.unregister(listener)


def test_connection_registered_before_it_is_one(poller):
    with socket.create_server((NAME, 0)) as listener, socket.socket() as client:
        client.setblocking(False)
        poller.register(client, select.EPOLLOUT | select.EPOLLET)
        poller.poll(0)
        with pytest.raises(BlockingIOError):
            client.connect(listener.getsockname())
        assert poller.poll(5) == [(client.fileno(), select.EPOLLOUT)]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        poller.modify(client, select.EPOLLIN)
        with listener.accept()[0] as connection:
            connection.sendall(b"hello")
            assert poller.poll(5) == [(client.fileno(), select.EPOLLIN)]


def test_refused_connection_is_watched_as_an_ordinary_socket_again(poller):
    with socket.socket() as client, socket.create_server(("127.0.0.1", 0)) as listener:
        client.setblocking(False)
        poller.register(client, select.EPOLLOUT)
        with pytest.raises(BlockingIOError):
            client.connect(("198.18.0.1", 9))
        assert poller.poll(5)[0][0] == client.fileno()
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        with pytest.raises(BlockingIOError):
            client.connect(listener.getsockname())
        assert poller.poll(5) == [(client.fileno(), select.EPOLLOUT)]


def test_every_set_is_told_but_none_of_another_file(poller):
    """Two sets watch one socket; a third knows its number from a file of another time."""
    with select.epoll() as second, select.epoll() as third, socket.socket() as gone:
        number = gone.fileno()
        copy = os.dup(number)
        third.register(number, select.EPOLLIN)
        gone.close()
        with socket_at(number, socket.SOCK_DGRAM) as port:
            port.setblocking(False)
            for each in (poller, second):
                each.register(port, select.EPOLLIN)
            port.bind((NAME, 0))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"hello", port.getsockname())
                for each in (poller, second):
                    assert each.poll(5) == [(number, select.EPOLLIN)]
                assert third.poll(0) != [(number, select.EPOLLIN)]
        os.close(copy)


def test_sockets_of_other_event_loops_threads_are_not_disturbed():
    """Many sockets turn virtual in one thread while another makes and closes epoll sets."""
    done = threading.Event()

    def disturb():
        while not done.is_set():
            with select.epoll() as poller, socket.socket() as some:
                poller.register(some, select.EPOLLIN)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with socket.create_server((NAME, 0)) as listener:
            for _ in range(50):
                with socket.create_connection(listener.getsockname(), 5):
                    listener.accept()[0].close()
    finally:
        done.set()
        thread.join()


def test_asyncio_datagrams_to_a_name_from_an_unbound_endpoint():
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            self.transport.sendto(data, address)

    class Client(asyncio.DatagramProtocol):
        def __init__(self):
            self.received = asyncio.get_running_loop().create_future()

        def datagram_received(self, data, address):
            self.received.set_result((data, address))

    async def main():
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(Echo, local_addr=("198.18.0.1", 0))
        client, protocol = await loop.create_datagram_endpoint(Client, family=socket.AF_INET)
        address = server.get_extra_info("sockname")
        client.sendto(b"hello", address)
        assert await protocol.received == (b"hello", address)
        client.close()
        server.close()

    asyncio.run(asyncio.wait_for(main(), 10))


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
