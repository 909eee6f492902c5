"""Sockets that come and go leave nothing: no descriptor, greenlet, entry of a table, or memory."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import struct
import threading
import tracemalloc

import gevent
import pytest
from nodes import Nodes

import ntmpatch
from ntmpatch.patch import table

pytestmark = pytest.mark.once

SOCKETS = 1000
ROUNDS = 20
WARM_UP_ROUNDS = 2
RESETTING = struct.pack("ii", 1, 0)
"""SO_LINGER: nothing is left in TIME-WAIT, which would last a minute."""


@pytest.fixture
def node(tmp_path):
    nodes = Nodes(tmp_path, "a")
    ntmpatch.patch_all(gevent=False, settings=nodes.settings("a"))
    yield nodes
    ntmpatch.unpatch_all()
    nodes.stop()


def open_and_close(stack, listener):
    """Open them all, of each kind, use them, and close them."""
    connections = SOCKETS // 4
    for _ in range(connections):
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING)
        server = stack.enter_context(listener.accept()[0])
        server.sendall(b"x")
        assert client.recv(1) == b"x"
    for _ in range(SOCKETS // 8):  # first of the datagrams: the kernel chooses these ports
        everywhere = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        everywhere.bind(("", 0))
    for _ in range(SOCKETS // 8):
        bound = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        bound.bind(("198.18.0.1", 0))
        connected = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        connected.connect(bound.getsockname())
        connected.send(b"x")
        assert bound.recv(1) == b"x"
        stack.enter_context(socket.create_server(("198.18.0.1", 0)))
    return connections * 2 + SOCKETS // 8 * 4


def in_hub(nodes, function):
    """The answer of a function that the node's thread calls."""
    answer, done = [], threading.Event()

    def call():
        answer.append(function())
        done.set()

    nodes.thread.post(call)
    assert done.wait(60)
    return answer[0]


def entries(nodes):
    """How much each of the node's tables holds."""
    hub = gevent.get_hub()
    sockets, stack = nodes.doors["a"].sockets, nodes.services["a"].stack
    tables = ("_streams", "_listeners", "_datagrams", "_reserved", "_options", "_facts", "_inodes")
    return {
        **{name: len(getattr(sockets, name)) for name in (*tables, "_ours")},
        "connections": len(stack.tcp.connections),
        "tcp ports": len(stack.tcp.ports._claims),
        "control connections": len(nodes.doors["a"]._connections),
        "hang-ups": len(nodes.doors["a"]._hangups._waiting),
        "greenlets": sum(
            isinstance(each, gevent.Greenlet) and each.parent is hub for each in gc.get_objects()
        ),
    }


def settle(nodes, expected):
    """The node sees ends of life in its own time: wait until its tables are as expected."""
    for _ in range(2000):
        found = in_hub(nodes, lambda: entries(nodes))
        if found == expected:
            break
    return found


def test_a_thousand_sockets_twenty_times(node):
    listener = socket.create_server(("198.18.0.1", 0), backlog=SOCKETS)
    with contextlib.ExitStack() as stack:
        open_and_close(stack, listener)
    gc.collect()
    at_rest = {
        **dict.fromkeys(in_hub(node, lambda: entries(node)), 0),
        **dict.fromkeys(("_listeners", "_options", "_facts", "_inodes", "tcp ports"), 1),
        "control connections": 1,
        "greenlets": 2,  # the hub's own, and the one that serves the connection
    }
    assert settle(node, at_rest) == at_rest
    descriptors, states = len(os.listdir("/proc/self/fd")), len(table._states)
    for number in range(ROUNDS):
        if number == WARM_UP_ROUNDS:
            tracemalloc.start()
        with contextlib.ExitStack() as stack:
            opened = open_and_close(stack, listener)
            assert opened == SOCKETS
        assert settle(node, at_rest) == at_rest
        if number == WARM_UP_ROUNDS:
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert len(table._states) == len(table._by_inode) == states
    # Less than one pointer for each socket that came and went.
    assert after - before < 8 * SOCKETS * (ROUNDS - WARM_UP_ROUNDS - 1)
    listener.close()
