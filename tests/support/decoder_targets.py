"""All decoders of the project as targets of the fuzzer: see decoder_fuzz.py."""

from __future__ import annotations

import base64
import ipaddress
import os
import random
import socket
import tempfile
from hashlib import blake2s
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.message
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from decoder_fuzz import Target
from message_samples import random_message, sample
from name_server import Asked
from party_fuzz import PARTIES, PartyPlay
from path_target import path_messages
from stun_target import stun_messages
from upnp_target import upnp_documents

from ntmpatch.base.addresses import Endpoint, normalise_fqdn, parse_endpoint
from ntmpatch.base.config import parse_serve_config
from ntmpatch.base.drops import DropCounter
from ntmpatch.base.errors import ConfigError, UntrustedError
from ntmpatch.crypto.certificate import Certificate, issue, signing_public_key, verify_untrusted
from ntmpatch.crypto.token import Token, parse_token
from ntmpatch.packet.tunnel.cookie import CookieHolder
from ntmpatch.packet.tunnel.tunnel import Tunnel
from ntmpatch.patch.settings import read_names
from ntmpatch.runtime.checking import configuration_problems
from ntmpatch.runtime.places import ALL_ROLES
from ntmpatch.runtime.settings import load_settings
from ntmpatch.runtime.state import ENROLMENT, NAMES, StateDirectory
from ntmpatch.runtime.streams import TunnelStream
from ntmpatch.servers.direction.published import read_coordinator_text_untrusted
from ntmpatch.servers.relay.table import ForwardingTable
from ntmpatch.signalling.enrolled import EnrolmentState
from ntmpatch.wire import icmp, ip, local, natpmp, pcp, tcp, udp
from ntmpatch.wire.checksum import finish, ones_sum
from ntmpatch.wire.control import Kind, decode_untrusted
from ntmpatch.wire.relay import RELAY_HEADER_SIZE, bind_frame, data_header, decode_bind_untrusted

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 20260
NOW = 1000.0
SYN = bytes.fromhex("04d2162e000000010000000070021000 00000000 020405b4 0402 0101")
UDP_PACKET = bytes.fromhex("4500001c000040004011 0000 c6120001 c6120002 0001000200080000")
WALL_NOW = 1_800_000_000.0


def all_targets() -> list[Target]:
    """One of each; they keep state of their own, as servers do."""
    return [
        _control(),
        _certificate(),
        _token(),
        _relay_bind(),
        path_messages(),
        _relay_table(),
        _tunnel(),
        _dns(),
        _coordinator_text(),
        _stream(),
        _local("local requests", local.AnyRequest, local.decode_request),
        _local("local replies", local.AnyReply, local.decode_reply),
        _local_headers(),
        _enrolment(),
        _toml("node configuration", NODE_CONFIG, _node_settings()),
        _toml("server configuration", SERVE_CONFIG, _server_problems),
        _state_files(),
        _text(),
        _packets(),
        _pcp(),
        _natpmp(),
        upnp_documents(),
        stun_messages(),
        *(_party(role) for role in PARTIES),
    ]


# --- signalling ------------------------------------------------------------------------------


def _message_body(rng: random.Random) -> list[bytes]:
    return [msgspec.msgpack.encode(random_message(rng))]


def frame_control(body: bytes, rng: random.Random) -> bytes:
    """``body`` behind a header that is right nine times in ten."""
    size = len(body) if rng.random() < 0.95 else rng.randrange(1400)
    kind = Kind.REQUEST if rng.random() < 0.6 else rng.choice(list(Kind))
    if rng.random() < 0.05:
        kind = rng.randrange(256)
    flags = rng.choice((0, 0, 1, 255))
    header = bytes((0xC0, 1, kind, rng.randrange(7), rng.randrange(32), flags))
    return header + size.to_bytes(2) + rng.randbytes(8) + body + bytes(rng.choice((0, 0, 15)))


def _control() -> Target:
    def run(data: bytes) -> str:
        envelope = decode_untrusted(memoryview(data))
        return type(envelope.message).__name__

    return Target(
        "control messages", _message_body, run,
        allowed=(UntrustedError,), seal=frame_control, packed=True, share=10,
    )  # fmt: skip


def _certificate() -> Target:
    signing_key = random.Random(SEED).randbytes(32)
    public = signing_public_key(signing_key)
    certificate = Certificate(
        "dc", "dc.home.example", b"k" * 32, ("198.18.0.0/22", "fd00::/48"),
        WALL_NOW - 300, WALL_NOW + 1e6,
    )  # fmt: skip
    body = msgspec.msgpack.encode(certificate)

    def seal(damaged: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return issue(certificate, signing_key)[:65] + damaged
        # As a hostile account server would: what is inside is signed whatever it is.
        key = Ed25519PrivateKey.from_private_bytes(signing_key)
        return b"\x01" + key.sign(b"ntmpatch certificate\x00\x01" + damaged) + damaged

    def run(data: bytes) -> str:
        return verify_untrusted(data, public, WALL_NOW).role and "verified"

    return Target(
        "certificates", lambda _: [body], run,
        allowed=(UntrustedError,), seal=seal, packed=True, share=2,
    )  # fmt: skip


def _token() -> Target:
    def samples(rng: random.Random) -> list[bytes]:
        return [msgspec.msgpack.encode(sample(rng, Token))]

    def seal(body: bytes, _: random.Random) -> bytes:
        digest = blake2s(body, digest_size=4, person=b"ntm1").digest()
        return b"ntm1." + base64.urlsafe_b64encode(body + digest).rstrip(b"=")

    def run(data: bytes) -> str:
        repr(parse_token(data.decode("utf-8", "surrogateescape")))
        return "token"

    return Target("tokens", samples, run, allowed=(ConfigError,), seal=seal, packed=True, share=3)


def _enrolment() -> Target:
    def samples(rng: random.Random) -> list[bytes]:
        return [msgspec.msgpack.encode(sample(rng, EnrolmentState))]

    def run(data: bytes) -> str:
        EnrolmentState.decode(data)
        return "state"

    return Target("enrolment", samples, run, allowed=(ConfigError,), packed=True, share=3)


def _party(role: str) -> Target:
    play = PartyPlay(role, SEED)

    def samples(rng: random.Random) -> list[bytes]:
        return [msgspec.msgpack.encode(play.message(rng))]

    return Target(
        f"party {role}", samples, play.receive, seal=frame_control, packed=True, unharmed=0.6
    )


# --- datagrams and streams -------------------------------------------------------------------


def _relay_bind() -> Target:
    def samples(rng: random.Random) -> list[bytes]:
        return [bind_frame(7, 1, b"c" * 32, 9, bound=rng.random() < 0.3), data_header(7) + b"x" * 9]

    def run(data: bytes) -> str:
        return "bound" if decode_bind_untrusted(data).bound else "bind"

    return Target("relay frames", samples, run, allowed=(UntrustedError,), share=4)


def _relay_table() -> Target:
    drops = DropCounter()
    table: ForwardingTable[str] = ForwardingTable(
        entropy=random.Random(SEED).randbytes, drops=drops
    )
    grant = table.grant(lifetime=1e9, byte_quota=0, now=0.0)
    assert grant is not None
    counter = iter(range(1, 1 << 62))

    def samples(rng: random.Random) -> list[bytes]:
        side = rng.randrange(2)
        data = data_header(grant.session_id) + rng.randbytes(rng.choice((1, 40, 1400)))
        bind = bind_frame(grant.session_id, side, grant.capabilities[side], next(counter))
        return [data, data * 3, bind]

    def run(data: bytes) -> str:
        if len(data) < RELAY_HEADER_SIZE:
            return "not for the table"  # the runtime hands over nothing shorter
        before = drops.total()
        source = "ab"[len(data) & 1]
        view = memoryview(data)
        if data[1:2] == b"\x01":
            answer = table.bind(source, data, NOW)
            assert answer is None or len(answer) == len(data)
            return "bound" if answer else "dropped"
        size = len(data) // 3 if len(data) % 3 == 0 and len(data) else max(1, len(data))
        forwarded = table.forward(source, view, size, NOW)
        assert sum(len(each.buffer) for each in forwarded) <= len(data)
        assert forwarded or drops.total() > before
        return "forwarded" if forwarded else "dropped"

    return Target("relay table", samples, run, share=3)


def _tunnel() -> Target:
    rng = random.Random(SEED)
    clock = [NOW]

    def make() -> Tunnel[str]:
        return Tunnel(
            rng.randbytes(32),
            now=NOW,
            rng=rng,
            wall_clock=lambda: clock[0],
            entropy=rng.randbytes,
            admit=lambda _: False,
        )

    left, right = make(), make()
    left.add_peer(right.public_key, endpoint="right")
    right.add_peer(left.public_key, endpoint="left")
    left.peers[right.public_key].send(b"E" * 160, NOW)
    wire: list[bytes] = []
    for _ in range(4):
        for one, other, place in ((left, right, "left"), (right, left, "right")):
            while (transmit := one.poll_transmit()) is not None:
                wire.append(transmit[1])
                other.receive(memoryview(transmit[1]), len(transmit[1]), place, NOW)
    wire.append(bytes((3, 0, 0, 0)) + bytes(60))
    holder = CookieHolder(right.public_key, lifetime=1e9)

    def seal(body: bytes, rng: random.Random) -> bytes:
        if body[:1] in (b"\x01", b"\x02") and len(body) >= 64 and rng.random() < 0.7:
            return holder.stamp(body, NOW)  # whoever knows our public key can do so
        return body

    def run(data: bytes) -> str:
        clock[0] += 0.1
        before = dict(right.drops)
        opened = right.receive(memoryview(data), max(1, len(data)), "stranger", clock[0])
        while right.poll_event() is not None:
            pass
        answers = 0
        while (transmit := right.poll_transmit()) is not None:
            answers += len(transmit[1])
        assert answers <= len(data)
        names = [drop for drop, count in right.drops.items() if count != before.get(drop, 0)]
        return str(names[0]) if names else ("opened" if opened else "accepted")

    return Target("tunnel messages", lambda _: wire, run, seal=seal, share=3)


def _dns() -> Target:
    asked = Asked()
    queries = [
        dns.message.make_query(name, kind, use_edns=edns).to_wire()
        for name in ("a.home.example", "home.example", "x.y.second.example", "_ntm.dc.home.example",
                     "2.16.18.198.in-addr.arpa")
        for kind in ("A", "AAAA", "SOA", "NS", "PTR", "TXT", "ANY", "AXFR")
        for edns in (False, True)
    ]  # fmt: skip

    def run(data: bytes) -> str:
        asked.now += 0.1
        answer = asked.raw(data, tcp=bool(len(data) & 1))
        return "no answer" if answer is None else f"rcode {answer[3] & 15}"

    return Target("dns queries", lambda _: queries, run, share=3)


def _coordinator_text() -> Target:
    """What DNS says of a coordinator: the strings of its TXT record, each behind its length."""

    def samples(rng: random.Random) -> list[bytes]:
        encoded = base64.b64encode(rng.randbytes(300))
        strings = [b"v=ntm1", b"port=3471", b"cert=" + encoded[:200], b"cert=" + encoded[200:]]
        return [b"".join(bytes((len(each),)) + each for each in strings)]

    def run(data: bytes) -> str:
        strings, start = [], 0
        while start < len(data):
            strings.append(data[start + 1 : start + 1 + data[start]])
            start += 1 + data[start]
        found = read_coordinator_text_untrusted(strings)
        return "none" if found is None else "coordinator"

    return Target("coordinators in dns", samples, run)


def _stream() -> Target:
    def samples(rng: random.Random) -> list[bytes]:
        sizes = [rng.choice((1, 32, 148, 2048, 2049)) for _ in range(rng.randrange(4))]
        return [b"".join(size.to_bytes(2) + bytes(size) for size in sizes)]

    def run(data: bytes) -> str:
        messages: list[int] = []
        near, far = socket.socketpair()
        near.setblocking(False)
        stream = TunnelStream(
            near._sock if hasattr(near, "_sock") else near,
            on_message=lambda _, message: messages.append(len(message)),
            on_closed=lambda _: None,
        )
        try:
            far.sendall(data[:60000])
            stream._readable()
            assert all(0 < size <= 2048 for size in messages)
            return "closed" if stream.closed else f"{min(len(messages), 2)} messages"
        finally:
            stream.close()
            far.close()

    return Target("stream framing", samples, run, share=1)


def _packets() -> Target:
    source, destination = bytes((198, 18, 0, 1)), bytes((198, 18, 0, 2))
    six = ipaddress.ip_address("fd00::1").packed, ipaddress.ip_address("fd00::2").packed

    def samples(rng: random.Random) -> list[bytes]:
        ends = rng.choice(((source, destination), six))
        payload = rng.randbytes(9)
        bodies = (
            (17, udp.build_with_checksum((ends[0], 1), (ends[1], 2), payload) + payload),
            (6, SYN),
            (icmp.protocol_of(ends[0]), icmp.build_echo_request(*ends, 7, payload)),
            (icmp.protocol_of(ends[0]), icmp.build_packet_too_big(*ends, UDP_PACKET, 1280)),
        )
        return [bytes(ip.build(*ends, kind, len(body)) + body) for kind, body in bodies]

    def seal(body: bytes, rng: random.Random) -> bytes:
        """IPv4's header with the right checksum, mostly: damage behind it is reached."""
        size = (body[0] & 15) * 4 if body else 0
        if not body or body[0] >> 4 != 4 or len(body) < max(size, 20) or rng.random() < 0.2:
            return body
        header = bytearray(body[: max(size, 20)])
        header[10:12] = bytes(2)
        header[10:12] = finish(ones_sum(header)).to_bytes(2)
        return bytes(header) + body[len(header) :]

    def run(data: bytes) -> str:
        packet = ip.parse_untrusted(memoryview(data))
        ip.skip_extensions_untrusted(packet)
        ends = packet.source, packet.destination
        match packet.protocol:
            case ip.TCP:
                tcp.parse_untrusted(packet.payload)
                return "tcp"
            case ip.UDP:
                udp.parse_untrusted(packet.payload, *ends, verify=len(data) % 2 == 0)
                return "udp"
            case ip.ICMP | ip.ICMPV6:
                icmp.parse_untrusted(packet.payload, *ends, verify=len(data) % 2 == 0)
                return "icmp"
        return "another protocol"

    return Target("packets", samples, run, allowed=(UntrustedError,), seal=seal, share=4)


def _pcp() -> Target:
    def samples(rng: random.Random) -> list[bytes]:
        header = bytes((2, 0x80 | rng.randrange(2), 0, rng.choice((0, 0, 1, 12)))) + rng.randbytes(
            8
        )
        body = rng.randbytes(12) + b"\x11\0\0\0" + rng.randbytes(4)
        return [header + bytes(12) + body + bytes(10) + b"\xff\xff" + rng.randbytes(4)]

    def run(data: bytes) -> str:
        answer = pcp.decode_untrusted(data)
        return "epoch" if answer.mapping is None else "mapping"

    return Target("PCP", samples, run, allowed=(UntrustedError,))


def _natpmp() -> Target:
    def samples(rng: random.Random) -> list[bytes]:
        return [
            b"\0\x80\0\0" + rng.randbytes(8),
            b"\0\x81\0\0" + rng.randbytes(12),
            b"\0\x81\0\1" + rng.randbytes(4),
        ]

    def run(data: bytes) -> str:
        return type(natpmp.decode_untrusted(data)).__name__

    return Target("NAT-PMP", samples, run, allowed=(UntrustedError,))


# --- local -----------------------------------------------------------------------------------


def _local(name: str, union: Any, decode: Callable[[bytes], Any]) -> Target:
    kinds = msgspec.inspect.type_info(union).types  # type: ignore[attr-defined]  # it is a union

    def samples(rng: random.Random) -> list[bytes]:
        return [msgspec.msgpack.encode(sample(rng, rng.choice(kinds).cls))]

    return Target(
        name, samples, lambda data: type(decode(data)).__name__,
        allowed=(msgspec.DecodeError,), packed=True, share=3,
    )  # fmt: skip


def _local_headers() -> Target:
    def samples(_: random.Random) -> list[bytes]:
        return [
            local.pack_datagram(b"\xc6\x12\0\1", 9) + b"payload",
            local.pack_accepted(7, (b"\xc6\x12\0\1", 9), (bytes(16), 10)),
        ]

    def run(data: bytes) -> str:
        # The callers check the size, and nothing else is needed.
        if len(data) >= local.DATAGRAM_SIZE:
            local.unpack_datagram(data)
        if len(data) == local.ACCEPTED_SIZE:
            local.unpack_accepted(data)
        return "read"

    return Target("local headers", samples, run)


NODE_CONFIG = b"""\
[node]
name = "a.home.example"
bind = ["192.0.2.1", "::"]
port = 51820
domains = ["home.example"]
mtu = 1376
offload = true
addresses = ["198.18.0.1/15"]
private_key_file = "key"

[timers]
rekey_after = 120.0

[[policy]]
from = ["*"]
ports = ["tcp/80-90"]

[[peer]]
name = "b.home.example"
public_key = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
addresses = ["198.18.0.2"]
endpoint = "192.0.2.2:51820"
persistent_keepalive = 25.0
"""
SERVE_CONFIG = b"""\
[serve]
domain = "home.example"
listen = ["192.0.2.1", "2001:db8::1"]
public = "192.0.2.1"
drain_time = 3.5
[as]
port = 3478
listen = "0.0.0.0"
[dc]
name = "dc.home.example"
token = "file:missing"
[rs]
token = "ntm1.x"
session_mbit = 100
[dns]
port = 53
ttl = 30
exempt = ["192.0.2.0/24"]
resolver = ["192.0.2.53", "[2001:db8::53]:5353"]
[log]
level = "info"
format = "json"
[metrics]
listen = "127.0.0.1"
[limits]
directions_per_node = 20
[[policy]]
from = ["*.home.example"]
to = ["a.home.example"]
ports = ["tcp/22", "udp/5000-5010", "tcp"]
"""


def _server_problems(text: str) -> str:
    """What ``serve --check`` finds without looking at the machine."""
    problems = configuration_problems(parse_serve_config(text, "file"), ALL_ROLES)
    return "problems" if problems else "fine"


def _node_settings() -> Callable[[str], str]:
    """What a node makes of its configuration, the files that it names included."""
    directory = tempfile.TemporaryDirectory(prefix="ntmpatch-fuzz-")
    path = Path(directory.name) / "node.toml"
    (Path(directory.name) / "key").write_bytes(base64.b64encode(b"k" * 32))

    def read(text: str) -> str:
        path.write_text(text.replace('"key"', f'"{directory.name}/key"'))
        state = f"{directory.name}/state"
        load_settings(config=str(path), state=state, environment={}, create=False)
        return "read"

    return read


def _toml(name: str, text: bytes, read: Callable[[str], str]) -> Target:
    def run(data: bytes) -> str:
        return read(data.decode("utf-8", "replace"))

    lines = text.split(b"\n")

    def samples(rng: random.Random) -> list[bytes]:
        kept = [line for line in lines if rng.random() < 0.9]
        if rng.random() < 0.3:
            key = rng.choice(lines).partition(b"=")[0]
            value = rng.choice(
                (
                    b"1",
                    b'"x"',
                    b'["\\u0000"]',
                    b'["x/y/z", "*.*"]',
                    b'"[::"',
                    b"[1, [2]]",
                    b"-1.5",
                    b"true",
                    b"{a = 1}",
                    b"inf",
                )
            )
            kept.insert(rng.randrange(len(kept) + 1), key + b"= " + value)
        return [b"\n".join(kept)]

    return Target(name, samples, run, allowed=(ConfigError,), unharmed=0.3)


def _state_files() -> Target:
    directory = tempfile.TemporaryDirectory(prefix="ntmpatch-fuzz-")
    state = StateDirectory(Path(directory.name) / "state")
    names = b'{"domains": ["home.example"], "prefixes": ["198.18.0.0/15"]}'
    files = (NAMES, ENROLMENT, "private.key")
    keep = directory  # it lives as long as the closure does

    def run(data: bytes) -> str:
        assert keep is not None
        name = files[len(data) % 3]
        fd = os.open(state.path / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        os.write(fd, data)
        os.close(fd)
        if name == NAMES:
            read_names(str(state.path))
        elif name == ENROLMENT:
            EnrolmentState.decode(state.read(name) or b"")
        else:
            state.private_key()
        return name

    return Target("state files", lambda _: [names, b"k" * 32], run, allowed=(ConfigError,))


def _text() -> Target:
    def samples(_: random.Random) -> list[bytes]:
        return [b"192.0.2.1:51820", b"[2001:db8::1]:51820", "b\u00fccher.home.example.".encode()]

    def run(data: bytes) -> str:
        text = data.decode("utf-8", "surrogateescape")
        try:
            endpoint = parse_endpoint(text)
        except ConfigError:
            pass
        else:
            assert isinstance(endpoint, Endpoint)
        return normalise_fqdn(text) and "name"

    return Target("names and endpoints", samples, run, allowed=(ConfigError,), share=2)
