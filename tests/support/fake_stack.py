"""A stack without packets: TCP and UDP between stacks of one process, for the rooms above."""

from __future__ import annotations

import errno
import os
from collections import deque


def fail(error):
    raise OSError(error, os.strerror(error))


class FakeNetwork:
    def __init__(self):
        self.stacks = {}
        self.queue = deque()

    def run(self):
        while self.queue:
            function, *arguments = self.queue.popleft()
            function(*arguments)


class FakeConnection:
    def __init__(self, stack, local, remote, handler):
        self.stack, self.local, self.remote, self.handler = stack, local, remote, handler
        self.peer = None
        self.space = memoryview(bytearray(65536))
        self.inbox = bytearray()
        self.state = "open"
        self.fin_in = self.fin_out = self.eof_told = self.done = False
        self.blocked = False

    def send_space(self):
        if self.fin_out or (self.peer and len(self.peer.inbox) > 200_000):
            self.blocked = True
            return self.space[:0]
        return self.space

    def commit(self, size, now):
        data = bytes(self.space[:size])
        self.stack.network.queue.append((self.peer.take, data))

    def take(self, data):
        if self.done:
            return
        self.inbox += data
        self.push()

    def push(self):
        while self.inbox:
            taken = self.handler.deliver([memoryview(bytes(self.inbox))])
            del self.inbox[:taken]
            if not taken:
                break
        if self.peer and self.peer.blocked and len(self.inbox) < 100_000:
            self.peer.blocked = False
            self.peer.handler.writable()
        if not self.inbox and self.fin_in and not self.eof_told:
            self.eof_told = True
            self.handler.end_of_stream()
            self.check()

    def take_fin(self):
        self.fin_in = True
        self.push()

    def resume(self, now):
        self.push()

    def shutdown_write(self, now):
        if not self.fin_out and not self.done:
            self.fin_out = True
            if self.peer is None:
                self.reset(0)
                return
            self.stack.network.queue.append((self.peer.take_fin,))
            self.check()

    def close(self, now):
        self.shutdown_write(now)

    def check(self):
        if self.fin_out and self.eof_told and not self.done:
            self.done = True
            self.handler.closed(0)

    def abort(self, now):
        if not self.done:
            self.done = True
            if self.peer is not None:
                self.stack.network.queue.append((self.peer.reset, errno.ECONNRESET))
            self.handler.closed(0)

    def reset(self, error):
        if not self.done:
            self.done = True
            self.handler.closed(error)


class FakeListener:
    def __init__(self, stack, key, accept):
        self.stack, self.key, self.accept = stack, key, accept

    def close(self):
        self.stack.listeners.pop(self.key, None)


class FakeUdp:
    def __init__(self, stack, family, local, handler):
        self.stack, self.family, self.local, self.handler = stack, family, local, handler
        self.remote = None

    def connect(self, remote):
        self.remote = remote
        self.local = (self.stack.own(len(remote[0])), self.local[1])

    def send_to(self, payload, remote, now):
        source = (self.stack.own(len(remote[0])), self.local[1])
        self.stack.network.queue.append((self.stack.deliver, bytes(payload), source, remote))

    def close(self):
        self.stack.udp.pop((self.family, self.local[1]), None)


class FakeStack:
    def __init__(self, network, addresses):
        self.network = network
        self.addresses = addresses
        self.listeners = {}
        self.udp = {}
        self.port = 40000
        for address in addresses:
            network.stacks[address] = self

    def own(self, size):
        return next(a for a in self.addresses if len(a) == size)

    def ephemeral(self):
        self.port += 1
        return self.port

    def listen_tcp(self, address, port, *, family, backlog, accept, reuse_address, reuse_port):
        key = (family, port)
        if key in self.listeners:
            fail(errno.EADDRINUSE)
        self.listeners[key] = FakeListener(self, key, accept)
        return self.listeners[key]

    def connect_tcp(self, remote, port, handler, now, *, local=None, local_port=0):
        connection = FakeConnection(
            self,
            (local or self.own(len(remote)), local_port or self.ephemeral()),
            (remote, port),
            handler,
        )
        self.network.queue.append((self.syn, connection))
        return connection

    def syn(self, connection):
        remote, port = connection.remote
        other = self.network.stacks.get(remote)
        if other is None:
            return  # silence: the program's time-out
        listener = other.listeners.get((4 if len(remote) == 4 else 6, port))
        if connection.done:
            return
        if listener is None:
            connection.reset(errno.ECONNREFUSED)
            return
        peer = FakeConnection(other, connection.remote, connection.local, None)
        connection.peer, peer.peer = peer, connection
        peer.handler = listener.accept(peer)
        peer.handler.established()
        connection.handler.established()

    def bind_udp(self, address, port, handler, *, family, reuse_address=False, reuse_port=False):
        port = port or self.ephemeral()
        if (family, port) in self.udp:
            fail(errno.EADDRINUSE)
        local = (address or bytes(4 if family == 4 else 16), port)
        self.udp[(family, port)] = FakeUdp(self, family, local, handler)
        return self.udp[(family, port)]

    def deliver(self, payload, source, destination):
        other = self.network.stacks.get(destination[0])
        if other is None:
            return
        udp = other.udp.get((4 if len(destination[0]) == 4 else 6, destination[1]))
        if udp is not None and udp.remote in (None, source):
            udp.handler.datagram(memoryview(payload), source, destination)
        elif udp is None:
            for sender in other.network.stacks[source[0]].udp.values():
                if sender.remote == destination:
                    sender.handler.error(errno.ECONNREFUSED, destination)
