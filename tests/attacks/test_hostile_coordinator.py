"""A coordinator that turned: it sees all signalling and every byte, and does not read a tunnel.

The enemy has the private keys of the account server, the coordinator, the notification server and
the relay, every control message in clear, the pre-shared keys that it made, and all that was on the
wire. What it lacks is what the two ends of a tunnel never send: their private keys.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from attack_scene import Scene, signed, state
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from msgspec.structs import replace

from ntmpatch.base.drops import Drop
from ntmpatch.crypto.certificate import Certificate, issue
from ntmpatch.crypto.noise import (
    CONSTRUCTION,
    IDENTIFIER,
    Initiator,
    StaticKey,
)
from ntmpatch.crypto.primitives import X25519PrivateKey, agree, derive, hash_, open_
from ntmpatch.packet.tunnel.cookie import CookieHolder
from ntmpatch.signalling.effects import Contact, Resolved, Unresolved
from ntmpatch.wire.control import decode_untrusted
from ntmpatch.wire.control_messages import Address, RouteDirection
from ntmpatch.wire.wireguard import (
    DATA,
    DATA_HEADER,
    INITIATION,
    INITIATION_LAYOUT,
    RESPONSE,
    RESPONSE_LAYOUT,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wire_network import Datagram, Seat

SECRET = b"the password is swordfish; " * 3


class Enemy:
    """What the servers of a domain know together, once they have turned."""

    def __init__(self) -> None:
        self.scene = scene = Scene(3)
        self.ephemeral: dict[Seat, list[bytes]] = {}
        self.network = scene.domain.network
        self.coordinator: Any = scene.victims["dc"]
        self.messages: list[Any] = []
        self._listen()
        self.c: Any = scene.domain.start_node("c", scene.b.endpoint._replace(host="198.51.100.3"))
        self._note_ephemeral(self.c, scene.a)
        scene.domain.register(self.c)
        self.first = len(self.network.wire)

    def _listen(self) -> None:
        """Note every control message that the coordinator hears and says, in clear."""
        party = self.coordinator.party
        receive, send = party.receive, party.poll_transmit

        def heard(peer: bytes, payload: bytes, now: float, source: Any) -> None:
            self.messages.append(decode_untrusted(payload).message)
            receive(peer, payload, now, source)

        def said() -> Any:
            transmit = send()
            if transmit is not None:
                self.messages.append(decode_untrusted(transmit[1]).message)
            return transmit

        party.receive, party.poll_transmit = heard, said

    def _note_ephemeral(self, *seats: Any) -> None:
        """Not the enemy's: to show that with the one secret it lacks, its attempts would do."""
        for seat in seats:
            noted = self.ephemeral.setdefault(seat, [])
            draw = seat.tunnel.entropy

            def entropy(size: int, draw: Any = draw, noted: list[bytes] = noted) -> bytes:
                drawn: bytes = draw(size)
                if size == 32:
                    noted.append(drawn)
                return drawn

            seat.tunnel.entropy = entropy

    @property
    def private_keys(self) -> list[bytes]:
        """Of all servers, and the AS's signing key, for what it is worth."""
        scene, keys = self.scene, self.network.private_keys
        servers = [scene.victims[role].party.public_key for role in ("as", "dc", "ns", "rs")]
        return [*(keys[public] for public in servers), scene.domain.signing_key]

    def preshared_keys(self) -> list[bytes]:
        """All that were ever directed; the enemy made them."""
        told = [m.preshared_key for m in self.messages if isinstance(m, RouteDirection)]
        return [*{key for key in told if key}, bytes(32)]

    def between(self, one: Any, other: Any) -> list[Datagram]:
        ends = {one.seen, other.seen}
        return [d for d in self.network.wire[self.first :] if {d.source, d.destination} == ends]

    def lie(self, change: Callable[[RouteDirection, bytes], RouteDirection]) -> None:
        """Change the directions that the coordinator gives."""
        engine = self.coordinator.party._engine
        ask = engine.ask

        def asked(peer: bytes, message: Any, *rest: Any, **more: Any) -> Any:
            if isinstance(message, RouteDirection):
                message = change(message, peer)
            return ask(peer, message, *rest, **more)

        engine.ask = asked


def open_tunnel(
    wire: list[Datagram],
    *,
    privates: Iterable[bytes],
    publics: Iterable[bytes],
    preshared_keys: Iterable[bytes],
) -> list[bytes]:
    """What of the recorded data opens, by Noise IKpsk2, with these keys in any place of it.

    For each handshake: every secret that can be made of a private key known and a public key seen
    is tried for each of the four agreements, as far as what is sealed says that they were right.
    """
    privates = [X25519PrivateKey.from_private_bytes(key) for key in privates]
    publics, preshared_keys = list(publics), list(preshared_keys)
    initiations = [INITIATION_LAYOUT.unpack(d.data) for d in wire if d.data[0] == INITIATION]
    responses = [RESPONSE_LAYOUT.unpack(d.data) for d in wire if d.data[0] == RESPONSE]
    opened: list[bytes] = []
    for (_, sender, ephemeral, static, stamp, _, _), responder in itertools.product(
        initiations, publics
    ):
        secrets = {
            agree(private, public)
            for private in privates
            for public in [*publics, ephemeral, *(r[3] for r in responses)]
        }
        for chain, digest in _read_initiation(responder, ephemeral, static, stamp, secrets):
            for response in (r for r in responses if r[2] == sender):
                for keys in _read_response(chain, digest, response, secrets, preshared_keys):
                    opened += _open_data(wire, keys)
    return opened


def _read_initiation(
    responder: bytes, ephemeral: bytes, static: bytes, stamp: bytes, secrets: set[bytes]
) -> Iterable[tuple[bytes, bytes]]:
    first = hash_(CONSTRUCTION)
    digest = hash_(hash_(hash_(first, IDENTIFIER), responder), ephemeral)
    (chain,) = derive(first, ephemeral, 1)
    for secret in secrets:
        second, key = derive(chain, secret, 2)
        try:
            open_(key, static, digest)
        except InvalidTag:
            continue
        behind = hash_(digest, static)
        for another in secrets:
            third, key = derive(second, another, 2)
            try:
                open_(key, stamp, behind)
            except InvalidTag:
                continue
            yield third, hash_(behind, stamp)


def _read_response(
    chain: bytes,
    digest: bytes,
    response: tuple[Any, ...],
    secrets: set[bytes],
    preshared_keys: list[bytes],
) -> Iterable[tuple[bytes, ...]]:
    _, _, _, ephemeral, empty, _, _ = response
    (chain,) = derive(chain, ephemeral, 1)
    digest = hash_(digest, ephemeral)
    for one, other, psk in itertools.product(secrets, secrets, preshared_keys):
        (mixed,) = derive(chain, one, 1)
        (mixed,) = derive(mixed, other, 1)
        mixed, temporary, key = derive(mixed, psk, 3)
        try:
            open_(key, empty, hash_(digest, temporary))
        except InvalidTag:
            continue
        yield derive(mixed, b"", 2)


def _open_data(wire: list[Datagram], keys: tuple[bytes, ...]) -> list[bytes]:
    opened = []
    for datagram, key in itertools.product(wire, keys):
        if datagram.data[0] != DATA:
            continue
        counter = DATA_HEADER.unpack_from(datagram.data)[2]
        nonce = bytes(4) + counter.to_bytes(8, "little")
        try:
            opened.append(ChaCha20Poly1305(key).decrypt(nonce, datagram.data[16:], None))
        except InvalidTag:
            continue
    return opened


def talk(enemy: Enemy, one: Any, other: Any) -> None:
    """The secret goes through the tunnel, both ways."""
    for sender, receiver in ((one, other), (other, one)):
        sender.tunnel.peers[receiver.party.public_key].send(b"E" + SECRET, enemy.network.now)
        enemy.network.run(0.5)
        assert receiver.packets[-1][1].startswith(b"E" + SECRET)


def test_all_that_the_servers_know_opens_no_tunnel() -> None:
    enemy = Enemy()
    a, c = enemy.scene.a, enemy.c
    assert isinstance(enemy.scene.domain.resolve(c, "a"), Resolved)
    talk(enemy, c, a)
    wire = enemy.between(a, c)
    publics = [seat.party.public_key for seat in enemy.network.seats.values()]
    preshared = enemy.preshared_keys()
    contact = [each for each in c.of(Contact) if each.public_key == a.party.public_key][-1]
    # The key that was mixed in is among those which the enemy has.
    assert contact.preshared_key in preshared[:-1]
    known = enemy.private_keys
    assert not any(SECRET[:16] in datagram.data for datagram in enemy.network.wire)

    def attempt(*more: bytes) -> list[bytes]:
        return open_tunnel(
            wire, privates=[*known, *more], publics=publics, preshared_keys=preshared
        )

    assert attempt() == []
    # Later it steals a private key, even both: what was recorded before stays closed.
    private = enemy.network.private_keys
    assert attempt(private[a.party.public_key]) == []
    assert attempt(private[a.party.public_key], private[c.party.public_key]) == []
    # What is missing is the ephemeral keys, which nobody keeps: with one end's, all of it opens.
    (caller,) = [seat for seat in (a, c) if wire[0].source == seat.seen]
    for ephemeral in enemy.ephemeral[caller]:
        opened = attempt(private[caller.party.public_key], ephemeral)
        if opened:
            break
    assert sum(packet.startswith(b"E" + SECRET) for packet in opened) == 2


def test_the_coordinator_passes_for_nobody_in_the_handshake() -> None:
    """It has the tunnel's pre-shared key, the certificates, and a place on the wire."""
    enemy = Enemy()
    a, b, network = enemy.scene.a, enemy.scene.b, enemy.network
    rng = enemy.scene.domain.rng

    def call(static: StaticKey) -> list[Drop]:
        stamp = (2**62 + rng.randrange(2**32)).to_bytes(12)
        parts = Initiator(static, a.party.public_key, rng.randbytes(32), stamp).message_parts
        message = INITIATION_LAYOUT.pack(INITIATION, 7, *parts, b"", b"")
        stamped = CookieHolder(a.party.public_key, lifetime=1.0).stamp(message, network.now)
        before, replies = a.tunnel.drops.copy(), dict(a.bytes_out)
        network.inject(b.seen, a.seen, stamped)
        network.run(0.05)
        assert a.bytes_out.get(b.seen, 0) == replies.get(b.seen, 0)
        return list((a.tunnel.drops - before).elements())

    before = state(a)
    # A key of its own: nobody whom a direction named.
    assert call(StaticKey(rng.randbytes(32))) == [Drop.TUNNEL_UNKNOWN_PEER]
    # The name of b, and a private key that is not b's.
    borrowed = StaticKey(rng.randbytes(32))
    borrowed.public = b.party.public_key
    assert call(borrowed) == [Drop.TUNNEL_BAD_HANDSHAKE]
    assert state(a) == before
    # Its own key is known to a, as the coordinator's, which has no virtual address.
    key = enemy.coordinator.party.public_key
    assert not any(each.ipv4 or each.ipv6 for each in a.of(Contact) if each.public_key == key)


@pytest.mark.parametrize("what", ["another node's", "self-made", "a server's", "b's, cut"])
def test_a_coordinator_in_the_middle_has_no_certificate_of_the_name(what: str) -> None:
    """It directs the caller to a key of its own in place of the called node's."""
    enemy = Enemy()
    domain, c = enemy.scene.domain, enemy.c
    middle = domain.enrolled("m.home.example", "node")
    b: Any = enemy.scene.b
    shown = {
        "another node's": middle.certificate,
        "self-made": issue(
            Certificate("node", "b.home.example", middle.public_key, (), 0.0, 9e9),
            enemy.network.private_keys[enemy.coordinator.party.public_key],
        ),
        "a server's": enemy.scene.certificate_of("rs"),
        "b's, cut": b.party.enrolment.certificate[:-1],
    }[what]
    here = middle.seat.endpoint

    def change(direction: RouteDirection, peer: bytes) -> RouteDirection:
        if peer != c.party.public_key:
            return direction
        # It would answer the call: nothing but the certificate is wrong.
        middle.seat.tunnel.add_peer(peer, preshared_key=direction.preshared_key, endpoint=c.seen)
        return replace(
            direction,
            certificate=shown,
            endpoints=(Address(here.host, here.port),),
            initiate=True,
        )

    enemy.lie(change)
    answer = domain.resolve(c, "b")
    assert isinstance(answer, Unresolved)
    assert c.party.peers.named("b.home.example") is None


def test_a_coordinator_on_the_way_sees_ciphertext_only() -> None:
    """It directs each end to an address of its own with the right certificates, and forwards."""
    enemy = Enemy()
    domain, network, b, c = enemy.scene.domain, enemy.network, enemy.scene.b, enemy.c
    middle = domain.stranger().seat.endpoint
    ends: Any = {c.party.public_key: (c, b), b.party.public_key: (b, c)}
    carried: list[Datagram] = []

    def change(direction: RouteDirection, peer: bytes) -> RouteDirection:
        if peer not in ends:
            return direction
        return replace(direction, endpoints=(Address(middle.host, middle.port),))

    def forward(datagram: Datagram) -> list[Datagram]:
        if datagram.destination != middle:
            return [datagram]
        carried.append(datagram)
        far = b if datagram.source == c.seen else c
        return [datagram._replace(source=middle, destination=far.seen)]

    enemy.lie(change)
    network.attack = forward
    assert isinstance(domain.resolve(c, "b"), Resolved)
    talk(enemy, c, b)
    assert len([each for each in carried if each.data[0] == DATA]) >= 2
    opened = open_tunnel(
        carried,
        privates=enemy.private_keys,
        publics=[seat.party.public_key for seat in network.seats.values()],
        preshared_keys=enemy.preshared_keys(),
    )
    assert opened == []
    # What it may do is what a wire may: cut it.
    network.attack = lambda each: [] if middle in (each.source, each.destination) else [each]
    c.tunnel.peers[b.party.public_key].send(b"E" + SECRET, network.now)
    count = len(b.packets)
    network.run(30.0)
    assert len(b.packets) == count


def test_what_a_hostile_account_server_can_do_with_a_coordinator() -> None:
    """It certifies a key of its own for the name: trust in the AS is trust in every name."""
    enemy = Enemy()
    domain, c = enemy.scene.domain, enemy.c
    middle = domain.stranger()
    forged = signed(domain, "node", "b.home.example", middle.public_key)
    here = middle.seat.endpoint
    told: list[RouteDirection] = []

    def change(direction: RouteDirection, peer: bytes) -> RouteDirection:
        if peer != c.party.public_key:
            return direction
        told.append(
            replace(
                direction,
                certificate=forged,
                endpoints=(Address(here.host, here.port),),
                initiate=True,
            )
        )
        middle.seat.tunnel.add_peer(peer, preshared_key=direction.preshared_key, endpoint=c.seen)
        return told[-1]

    enemy.lie(change)
    answer = domain.resolve(c, "b")
    assert isinstance(answer, Resolved)
    assert answer.public_key == middle.public_key
