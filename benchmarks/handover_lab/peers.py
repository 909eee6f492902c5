"""Who is measured: each peer starts its server on cn and its client on mn, in the same networks."""

from __future__ import annotations

import importlib.util
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import lab_wireguard
from lab_domain import Domain

from handover_lab.world import FAMILIES, PROGRAMS, World

if TYPE_CHECKING:
    from lab import Process

KINDS = ("datagrams", "stream")
PORT = 9000
WIREGUARD_PORT = 51820
TALKER, QUIC, IROH = (str(PROGRAMS / name) for name in ("talker.py", "quic.py", "iroh_talker.py"))


class Peer(ABC):
    """One way to be mobile, for one run: made anew for each."""

    name: str
    kinds: tuple[str, ...] = KINDS
    has_relay = False

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be measured on this machine, or None."""
        return None

    @abstractmethod
    def start(self, world: World) -> None:
        """Start all but the client; both hosts are at their first places."""

    @abstractmethod
    def ask(self, world: World, *words: str) -> Process:
        """Start the client with the words of ``messages.book_from_arguments``; it says asking."""


class RawUdp(Peer):
    """The control: an unbound socket whose datagrams leave by whatever route there is."""

    name = "raw UDP"
    kinds = ("datagrams",)

    def start(self, world: World) -> None:
        """The echo server."""
        _start_echo(world)

    def ask(self, world: World, *words: str) -> Process:
        """To the address of the first place."""
        return _ask(world, world.cn_places[0].address(), *words)


class WireGuardGo(Peer):
    """A static tunnel: it follows who moves, when that one's next packet arrives."""

    name = "wireguard-go"

    @classmethod
    def unavailable(cls) -> str | None:
        """Its commands."""
        return lab_wireguard.unavailable()

    def start(self, world: World) -> None:
        """A tunnel between two kernels."""
        here, there = (
            lab_wireguard.WireGuardGo(host, world.directory, [f"{inside}/24"], WIREGUARD_PORT)
            for host, inside in ((world.mn, "10.99.0.1"), (world.cn, "10.99.0.2"))
        )
        endpoint = f"{world.cn_places[0].address()}:{WIREGUARD_PORT}"
        here.add_peer(there.public_key, ["10.99.0.2/32"], endpoint=endpoint)
        there.add_peer(here.public_key, ["10.99.0.1/32"])
        _start_echo(world)

    def ask(self, world: World, *words: str) -> Process:
        """To the address in the tunnel."""
        return _ask(world, "10.99.0.2", *words)


class Ntmpatch(Peer):
    """The same programs under ``ntmpatch run``, with servers a round trip away."""

    name = "ntmpatch"
    has_relay = True

    def start(self, world: World) -> None:
        """The four servers, and the echo server's node."""
        listen = [world.servers.address(version) for version in FAMILIES]
        self._domain = Domain(world.servers, world.directory, listen=listen)
        server = self._domain.node(world.cn, "cn", world.directory)
        program = [TALKER, "echo", str(PORT)]
        server.popen(*program).wait_for("echoing", 30)
        server.wait_until_registered()
        self._name = server.fqdn

    def ask(self, world: World, *words: str) -> Process:
        """By name."""
        client = self._domain.node(world.mn, "mn", world.directory)
        return client.popen(TALKER, "ask", self._name, str(PORT), *words)


class Aioquic(Peer):
    """QUIC: the client takes a new socket and connection identifier when its address changes."""

    name = "aioquic"

    @classmethod
    def unavailable(cls) -> str | None:
        """A package of Python."""
        return _missing("aioquic")

    def start(self, world: World) -> None:
        """The echo server."""
        command = [sys.executable, QUIC, "echo", str(PORT)]
        world.cn.popen(command).wait_for("echoing")

    def ask(self, world: World, *words: str) -> Process:
        """To the address of the first place."""
        where = (world.cn_places[0].address(), str(PORT))
        return world.mn.popen([sys.executable, QUIC, "ask", *where, *words])


class Iroh(Peer):
    """Two endpoints that know each other's addresses, without relays or discovery."""

    name = "iroh"

    @classmethod
    def unavailable(cls) -> str | None:
        """A package of Python."""
        return _missing("iroh")

    def start(self, world: World) -> None:
        """The echo server; the first word that it says is its identity."""
        command = [sys.executable, IROH, "echo", str(PORT)]
        server = world.cn.popen(command)
        server.wait_for("echoing")
        self._identity = server.stdout.split()[0]

    def ask(self, world: World, *words: str) -> Process:
        """To the identity, at the address of the first place."""
        where = (self._identity, f"{world.cn_places[0].address()}:{PORT}")
        return world.mn.popen([sys.executable, IROH, "ask", *where, *words])


def _missing(package: str) -> str | None:
    found = importlib.util.find_spec(package)
    return None if found else f"the Python package {package} is not installed"


def _start_echo(world: World) -> None:
    command = [sys.executable, TALKER, "echo", str(PORT)]
    world.cn.popen(command).wait_for("echoing")


def _ask(world: World, host: str, *words: str) -> Process:
    return world.mn.popen([sys.executable, TALKER, "ask", host, str(PORT), *words])


PEERS: dict[str, type[Peer]] = {
    peer.name.replace(" ", "-").lower(): peer
    for peer in (Ntmpatch, RawUdp, WireGuardGo, Aioquic, Iroh)
}
