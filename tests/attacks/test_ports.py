"""Real ports of real servers under strangers: bytes out, cookies, and connections that only sit.

The simulations beside this one are exact; this shows that the runtime keeps what they promise.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from ntmpatch.cli.demo.configuration import free_ports
from ntmpatch.crypto.noise import Initiator, StaticKey
from ntmpatch.packet.tunnel.cookie import CookieHolder
from ntmpatch.packet.tunnel.tunnel import Tunnel
from ntmpatch.signalling.admission import PROVISIONAL_TIMEOUT
from ntmpatch.wire.control import Envelope, Kind, decode_untrusted, encode
from ntmpatch.wire.control_messages import Refusal, RefusalCode
from ntmpatch.wire.control_registration import Deregistration
from ntmpatch.wire.relay import bind_frame
from ntmpatch.wire.wireguard import COOKIE_REPLY, INITIATION, INITIATION_LAYOUT, RESPONSE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.once

ROLES = ("as", "dc", "ns", "rs", "dns")
SOURCES = 250
PATIENCE = 30.0
HOST = "127.0.0.1"


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[dict[str, tuple[int, bytes]]]:
    """All four servers, serving: port and public key of each."""
    config, state = tmp_path / "servers.toml", tmp_path / "servers"
    numbers = dict(zip(ROLES, free_ports(HOST, len(ROLES)), strict=True))
    sections = [f"[{role}]\nport = {port}" for role, port in numbers.items()]
    config.write_text("\n".join([f'[serve]\nstate = "{state}"', *sections]))
    environment = {name: v for name, v in os.environ.items() if not name.startswith("NTMPATCH_")}
    command = [sys.executable, "-m", "ntmpatch", "serve", "all", "--config", str(config), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["ready"] is True
            keys = {
                role: StaticKey((state / f"{role}.key").read_bytes()).public
                for role in ROLES
                if role != "dns"
            }
            yield {role: (numbers[role], key) for role, key in keys.items()}
            assert process.poll() is None
        finally:
            process.kill()


class Stranger:
    """A tunnel with a key of its own, over one connection to a server."""

    def __init__(self, server: tuple[int, bytes], *, stream: bool) -> None:
        port, self.key = server
        rng = random.Random((port << 1) + stream)
        self.tunnel: Tunnel[str] = Tunnel(
            rng.randbytes(32), now=time.monotonic(), rng=rng, wall_clock=time.time
        )
        self.peer = self.tunnel.add_peer(self.key, endpoint="server", first_retries=(0.2,) * 20)
        kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        self.socket = socket.socket(socket.AF_INET, kind)
        self.socket.connect((HOST, port))
        self.stream = stream
        self.closed = False
        self.received = b""

    def flush(self) -> None:
        while (transmit := self.tunnel.poll_transmit()) is not None:
            message = transmit[1]
            self.socket.sendall(len(message).to_bytes(2) + message if self.stream else message)

    def pump(self) -> list[bytes]:
        """Wait a moment for the server; what came out of the tunnel."""
        now = time.monotonic()
        self.tunnel.handle_timeout(now)
        self.flush()
        if not select.select([self.socket], [], [], 0.05)[0]:
            return []
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.closed = self.stream and not data
        packets: list[bytes] = []
        for message in self._messages(data):
            opened = self.tunnel.receive(memoryview(message), len(message), "server", now)
            packets += [bytes(packet) for _, inner in opened for packet in inner]
        self.flush()
        return packets

    def _messages(self, data: bytes) -> list[bytes]:
        if not self.stream:
            return [data]
        self.received += data
        messages = []
        while len(self.received) >= 2:
            size = int.from_bytes(self.received[:2])
            if len(self.received) < 2 + size:
                break
            messages.append(self.received[2 : 2 + size])
            self.received = self.received[2 + size :]
        return messages

    def ask(self, message: Any) -> object:
        """What the server answers to a request."""
        self.peer.send(encode(Envelope(os.urandom(8), Kind.REQUEST, "", message)), time.monotonic())
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for packet in self.pump():
                return decode_untrusted(packet).message
        return None


def initiation(server: bytes, rng: random.Random) -> bytes:
    """A true one, by a new key."""
    stamp = time.time_ns().to_bytes(12)
    call = Initiator(StaticKey(rng.randbytes(32)), server, rng.randbytes(32), stamp)
    message = INITIATION_LAYOUT.pack(INITIATION, 7, *call.message_parts, b"", b"")
    return CookieHolder(server, lifetime=1.0).stamp(message, 0.0)


def test_strangers_at_the_ports_of_servers(ports: dict[str, tuple[int, bytes]]) -> None:
    sitting = Stranger(ports["ns"], stream=True)
    refusal = sitting.ask(Deregistration())
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalCode.UNSUPPORTED
    silent = socket.create_connection((HOST, ports["ns"][0]))
    noisy = socket.create_connection((HOST, ports["ns"][0]))
    noisy.sendall(random.Random(1).randbytes(5000))

    kinds: dict[str, set[int]] = {role: set() for role in ports}
    for role, (port, key) in ports.items():
        kinds[role] = flood(port, key)
        # Who can receive where it sends from is let in all the same, by its cookie.
        assert isinstance(Stranger(ports[role], stream=False).ask(Deregistration()), Refusal)
    assert all(found == {RESPONSE, COOKIE_REPLY} for found in kinds.values()), kinds

    # None of the connections tells more than the handshake's answer, and none stays.
    for connection in (silent, noisy):
        connection.settimeout(PATIENCE + PROVISIONAL_TIMEOUT)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""
    until = time.monotonic() + PATIENCE + PROVISIONAL_TIMEOUT
    while not sitting.closed and time.monotonic() < until:
        sitting.pump()
    assert sitting.closed


def flood(port: int, key: bytes) -> set[int]:
    """Every kind of stranger's datagram, each from a source of its own; the types of answers."""
    rng = random.Random(port)
    sent: dict[socket.socket, int] = {}
    for number in range(SOURCES):
        source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        source.bind((f"127.9.{number // 250}.{number % 250 + 1}", 0))
        datagrams = [initiation(key, rng), rng.randbytes(rng.randrange(1, 200))]
        datagrams.append(bind_frame(rng.randrange(1 << 32), 0, bytes(32), 1))
        for datagram in datagrams:
            source.sendto(datagram, (HOST, port))
        sent[source] = sum(map(len, datagrams[:1]))  # what is answered is the first, if any
    kinds: set[int] = set()
    got = dict.fromkeys(sent, 0)
    while readable := select.select(list(sent), [], [], 0.3)[0]:
        for source in readable:
            answer = source.recv(2000)
            kinds.add(answer[0])
            got[source] += len(answer)
    assert all(got[source] <= size for source, size in sent.items())
    for source in sent:
        source.close()
    return kinds
