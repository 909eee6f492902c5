"""Nodes without tunnels: doors and stacks in one native thread, for programs in any process."""

from __future__ import annotations

import ipaddress
import socket
import time

from fake_stack import FakeNetwork, FakeStack

from ntmpatch.base.drops import DropCounter
from ntmpatch.patch.settings import Settings
from ntmpatch.runtime.door import Door, NameLookupError
from ntmpatch.runtime.hub import HubThread
from ntmpatch.wire import local

DOMAIN = "home.example"
PREFIXES = ("198.18.0.0/15", "fd12:3456:789a::/48")


class Service:
    """One node's side of the door."""

    def __init__(self, nodes, name, number):
        self.nodes = nodes
        self.fqdn = f"{name}.{DOMAIN}"
        self.ipv4 = ipaddress.ip_address(f"198.18.0.{number}").packed
        self.ipv6 = ipaddress.ip_address(f"fd12:3456:789a::{number}").packed
        self.drops = DropCounter()
        self.stack = FakeStack(nodes.network, (self.ipv4, self.ipv6))
        self.lookups = []
        self.rebound = None

    def post(self, function, *arguments):
        self.nodes.thread.post(function, *arguments)

    def now(self):
        return time.monotonic()

    def flush(self):
        self.nodes.network.run()

    def welcome(self):
        return local.Welcome(local.VERSION, self.fqdn, self.ipv4, self.ipv6, (DOMAIN,), PREFIXES)

    def resolve(self, name):
        self.lookups.append(name)
        if name == f"later.{DOMAIN}":
            raise NameLookupError(socket.EAI_AGAIN)
        for service in self.nodes.services.values():
            if service.fqdn == name:
                return local.Resolved(service.ipv4, service.ipv6, name)
        raise NameLookupError(socket.EAI_NONAME)

    def reverse_resolve(self, address):
        for service in self.nodes.services.values():
            if address in (service.ipv4, service.ipv6):
                return service.fqdn
        return None

    def status(self):
        return {"fqdn": self.fqdn}

    def rebind(self, addresses):
        self.rebound = addresses


class Nodes:
    """Several nodes on one in-memory network; each has a control socket in ``directory``."""

    def __init__(self, directory, *names):
        self.directory = directory
        self.names = names
        self.services = {}
        self.doors = {}
        self.thread = HubThread(setup=self._open, teardown=self._close)
        self.thread.start()

    def _open(self):
        self.network = FakeNetwork()
        for number, name in enumerate(self.names, 1):
            service = self.services[name] = Service(self, name, number)
            self.doors[name] = Door(service, control_path=self.control_path(name))
            self.doors[name].open()

    def _close(self):
        for door in self.doors.values():
            door.close()

    def stop(self):
        assert self.thread.stop(5)

    def control_path(self, name):
        return f"{self.directory}/{name}.sock"

    def settings(self, name):
        return Settings(self.control_path(name), (DOMAIN,), PREFIXES)
