"""How a process comes by its node: embedded, shared, the parent's, and gone."""

from __future__ import annotations

import errno
import multiprocessing
import socket

import pytest
from nodes import Nodes

import ntmpatch
from ntmpatch.patch import Settings

ADDRESS = ("198.18.0.1", 4000)


class Embedded:
    """What ``runtime.node`` starts in a process, in place of a real one."""

    def __init__(self, nodes):
        self.attach = nodes.doors["a"].attach
        self.control_path = nodes.control_path("a")

    def stop(self, *, quietly):  # the fixture stops what is behind it
        return not quietly


@pytest.fixture
def own_nodes(tmp_path):
    nodes = Nodes(tmp_path, "a")
    yield nodes
    nodes.stop()


@pytest.fixture
def started(own_nodes, tmp_path):
    """Patched with an embedded node; the list grows with each start."""
    started = []

    def embed():
        started.append(Embedded(own_nodes))
        return started[-1]

    settings = Settings(
        str(tmp_path / "nobody.sock"), ("home.example",), ("198.18.0.0/15",), embed=embed
    )
    ntmpatch.patch_all(gevent=False, settings=settings)
    yield started
    ntmpatch.unpatch_all()


def test_node_is_started_by_the_first_virtual_socket_and_only_once(started):
    with socket.create_server(("127.0.0.1", 0)) as real:
        socket.create_connection(real.getsockname()).close()
    socket.getaddrinfo("127.0.0.1", 80)
    assert not started
    with socket.create_server(ADDRESS), socket.create_connection(ADDRESS):
        socket.getaddrinfo("a.home.example", 80)
    assert len(started) == 1


def test_shared_node_is_preferred_to_one_of_our_own(own_nodes):
    ntmpatch.patch_all(gevent=False, settings=own_nodes.settings("a"))
    try:
        with socket.create_server(ADDRESS), socket.create_connection(ADDRESS) as client:
            assert client.getpeername() == ADDRESS
    finally:
        ntmpatch.unpatch_all()


def test_forked_child_uses_the_embedded_node_of_its_parent(started):
    with socket.create_server(ADDRESS) as listener:
        child = multiprocessing.get_context("fork").Process(target=connect_and_close)
        child.start()
        listener.accept()[0].close()
        child.join(10)
        assert child.exitcode == 0
    assert len(started) == 1


def connect_and_close():
    socket.create_connection(ADDRESS).close()


def test_sockets_of_a_node_that_is_gone(own_nodes):
    ntmpatch.patch_all(gevent=False, settings=own_nodes.settings("a"))
    try:
        listener = socket.create_server(ADDRESS)
        client = socket.create_connection(ADDRESS)
        connection, _ = listener.accept()
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(ADDRESS)
        own_nodes.stop()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        for attempt in (listener.accept, lambda: datagrams.recv(1)):
            with pytest.raises(OSError, match="down") as caught:
                attempt()
            assert caught.value.errno == errno.ENETDOWN
        with pytest.raises(OSError, match="down"):
            socket.create_connection(ADDRESS)
        for each in (listener, client, connection, datagrams):
            each.close()
    finally:
        ntmpatch.unpatch_all()
        own_nodes.stop = lambda: None
