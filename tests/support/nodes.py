"""Nodes without tunnels: doors and stacks in one native thread, for programs in any process."""

from __future__ import annotations

import ipaddress
import random
import socket
import time

from ntmpatch.base.drops import DropCounter
from ntmpatch.packet.stack import Stack
from ntmpatch.patch.settings import Settings
from ntmpatch.runtime.alarm import Alarm
from ntmpatch.runtime.door import Door, NameLookupError
from ntmpatch.runtime.event_feed import EventFeed
from ntmpatch.runtime.hub import HubThread
from ntmpatch.wire import local
from ntmpatch.wire.segments import cut

DOMAIN = "home.example"
PREFIXES = ("198.18.0.0/15", "fd12:3456:789a::/48")


UNREACHABLE = ipaddress.ip_address("198.18.8.8").packed


class Network:
    """Carries packets between stacks at once, and lets their timers ring."""

    def __init__(self):
        self.services = []
        self.scratch = memoryview(bytearray(1 << 18))
        self.alarm = Alarm(self.flush)
        self.busy = self.again = False

    def flush(self):
        self.again = True
        if self.busy:
            return
        self.busy = True
        try:
            while self.again:
                self.again = False
                for service in self.services:
                    self.flush_one(service)
        finally:
            self.busy = False
        for service in self.services:
            self.alarm.ask(service.stack.poll_timeout())

    def flush_one(self, service):
        now = time.monotonic()
        stack = service.stack
        due_at = stack.poll_timeout()
        if due_at is not None and due_at <= now:
            stack.handle_timeout(now)
        while (segment := stack.poll_transmit(now)) is not None:
            self.again = True
            if segment.destination == UNREACHABLE:
                stack.host_unreachable(segment.destination, now)
            packets = [
                memoryview(bytes(packet)) for packet in cut(segment, self.scratch, checksums=False)
            ]
            for other in self.services:
                if segment.destination in (other.ipv4, other.ipv6):
                    other.stack.receive(packets, (service.ipv4, service.ipv6), now)


class Service:
    """One node's side of the door."""

    def __init__(self, nodes, name, number):
        self.nodes = nodes
        self.fqdn = f"{name}.{DOMAIN}"
        self.ipv4 = ipaddress.ip_address(f"198.18.0.{number}").packed
        self.ipv6 = ipaddress.ip_address(f"fd12:3456:789a::{number}").packed
        self.drops = DropCounter()
        self.stack = Stack(rng=random.Random(number), now=time.monotonic(), drops=self.drops)
        for address in (self.ipv4, self.ipv6):
            self.stack.add_address(address)
        self.feed = EventFeed()
        self.lookups = []
        self.rebound = None

    def post(self, function, *arguments):
        self.nodes.thread.post(function, *arguments)

    def now(self):
        return time.monotonic()

    def flush(self):
        self.nodes.network.flush()

    def welcome(self):
        return local.Welcome(local.VERSION, self.fqdn, self.ipv4, self.ipv6, (DOMAIN,), PREFIXES)

    def resolve(self, name):
        self.lookups.append(name)
        if name == f"later.{DOMAIN}":
            raise NameLookupError(socket.EAI_AGAIN)
        for service in self.nodes.services.values():
            if service.fqdn == name or self.nodes.aliases.get(name) is service:
                return local.Resolved(service.ipv4, service.ipv6, name)
        raise NameLookupError(socket.EAI_NONAME)

    def resolved(self, name):
        pass

    def reverse_resolve(self, address):
        for service in self.nodes.services.values():
            if address in (service.ipv4, service.ipv6):
                return service.fqdn
        return None

    def status(self):
        return {"fqdn": self.fqdn}

    def follow(self, after, patience):
        return self.feed.after(after, patience)

    def wake(self, _payload):
        raise NotImplementedError

    def rebind(self, addresses):
        self.rebound = addresses


class Nodes:
    """Several nodes on one in-memory network; each has a control socket in ``directory``."""

    def __init__(self, directory, *names):
        self.directory = directory
        self.names = names
        self.services = {}
        self.aliases = {}
        """Further names of services."""
        self.doors = {}
        self.thread = HubThread(setup=self._open, teardown=self._close)
        self.thread.start()

    def _open(self):
        self.network = Network()
        for number, name in enumerate(self.names, 1):
            service = self.services[name] = Service(self, name, number)
            self.network.services.append(service)
            self.doors[name] = Door(service, control_path=self.control_path(name))
            self.doors[name].open()

    def _close(self):
        for door in self.doors.values():
            door.close()
        self.network.alarm.close()

    def stop(self):
        assert self.thread.stop(5)

    def control_path(self, name):
        return f"{self.directory}/{name}.sock"

    def settings(self, name):
        return Settings(self.control_path(name), (DOMAIN,), PREFIXES)
