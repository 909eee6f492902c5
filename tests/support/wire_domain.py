"""A domain whose parties speak through real tunnels, and enemies in it, with accounts or none."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from domain import AS_ENDPOINT, Domain
from wire_network import HOLD_TIMEOUT, Seat, WireNetwork

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.crypto.noise import StaticKey
from ntmpatch.wire.control import Envelope, Kind, decode_untrusted, encode
from ntmpatch.wire.control_messages import (
    CertificateRenewal,
    EnrolmentRequest,
    EnrolmentResponse,
    Message,
    Refusal,
    RefusalCode,
    addresses_of,
)
from ntmpatch.wire.control_registration import RegistrationRequest, RegistrationResponse

if TYPE_CHECKING:
    from ntmpatch.signalling.effects import Effect, Resolved, Unresolved

ANSWER_TIMEOUT = 4.0


class WireDomain(Domain):
    """A Domain over a WireNetwork."""

    network_type = WireNetwork
    network: WireNetwork

    def __init__(self, seed: int, *, beside: WireDomain | None = None, **settings: Any) -> None:
        self.private_keys: dict[bytes, bytes] = {} if beside is None else beside.private_keys
        if beside is None:
            settings["private_keys"] = self.private_keys
        self.puppets = 0
        super().__init__(seed, beside=beside, **settings)

    def new_key(self) -> bytes:
        """The public half of a new private key."""
        private = self.rng.randbytes(32)
        public = StaticKey(private).public
        self.private_keys[public] = private
        return public

    def resolve(self, node: Any, label: str, seconds: float = 20.0) -> Resolved | Unresolved:
        """A look-up; as in the runtime, the peer's tunnel request may come before (15)."""
        node.tunnel.hold_unknown(self.network.now + HOLD_TIMEOUT)
        return super().resolve(node, label, seconds)

    def stranger(self, *, number: int | None = None) -> Puppet:
        """Somebody with a key of its own, and nothing more."""
        self.puppets += 1
        place = Endpoint(f"203.0.113.{self.puppets if number is None else number}", 666)
        puppet = Puppet(self, self.new_key())
        puppet.seat = self.network.seat(puppet, place)
        return puppet

    def enrolled(self, fqdn: str, role: str) -> Puppet:
        """Somebody with an account of that role."""
        puppet = self.stranger()
        ticket = self.ticket(fqdn, role)
        endpoints = addresses_of([puppet.seat.endpoint]) if role != "node" else ()
        puppet.meet(self.account_server)
        answer = puppet.ask(
            self.account_server, EnrolmentRequest(ticket.token_id, ticket.secret, endpoints)
        )
        assert isinstance(answer, EnrolmentResponse)
        puppet.certificate = answer.certificate
        puppet.name = fqdn
        return puppet

    def member(self, label: str) -> Puppet:
        """A node that has registered, as honest ones do."""
        puppet = self.enrolled(f"{label}.{self.name}", "node")
        answer = puppet.ask(
            self.coordinator,
            RegistrationRequest(
                puppet.certificate, addresses_of([puppet.seat.endpoint]), "none", serial=1
            ),
        )
        assert isinstance(answer, RegistrationResponse)
        puppet.registration = answer
        return puppet


class Puppet:
    """A party that says what a test wants, and keeps what it hears.

    It answers nothing by itself, unless ``replies`` holds an answer for that type of request.
    """

    role = "puppet"

    def __init__(self, domain: WireDomain, public_key: bytes) -> None:
        self.public_key = public_key
        self.domain = domain
        self.drops = DropCounter()
        self.name = ""
        self.title = "puppet"
        self.certificate = b""
        self.registration: RegistrationResponse | None = None
        self.seat: Seat
        self.heard: list[tuple[bytes, Envelope]] = []
        self.replies: dict[type[Message], Message] = {}
        self._outbox: deque[tuple[bytes, bytes]] = deque()

    # --- for the network -----------------------------------------------------------------

    def admit(self, _key: bytes, _now: float) -> bool:
        return True

    def admitted(self, key: bytes, now: float) -> None:
        pass

    def poll_timeout(self) -> float | None:
        return None

    def poll_effect(self) -> Effect | None:
        return None

    def poll_transmit(self) -> tuple[bytes, bytes] | None:
        return self._outbox.popleft() if self._outbox else None

    def receive(self, peer: bytes, payload: bytes, _now: float, _source: Endpoint | None) -> None:
        envelope = decode_untrusted(payload)
        self.heard.append((peer, envelope))
        reply = self.replies.get(type(envelope.message))
        if envelope.kind is Kind.REQUEST and reply is not None:
            self._outbox.append(
                (peer, encode(Envelope(envelope.transaction_id, Kind.RESPONSE, "", reply)))
            )

    # --- for tests -----------------------------------------------------------------------

    def meet(self, seat: Any, *, preshared_key: bytes = bytes(32)) -> bool:
        """Open a channel, or another session in it; whether the other let it."""
        network = self.domain.network
        peer = self.seat.tunnel.add_peer(
            seat.party.public_key, preshared_key=preshared_key, endpoint=seat.seen
        )
        before = peer.current
        peer.restart_handshake(network.now)
        return network.run(1.0, lambda: peer.current not in (None, before))

    def say(
        self,
        seat: Any,
        message: Message,
        kind: Kind = Kind.REQUEST,
        *,
        transaction_id: bytes | None = None,
        step: str = "",
    ) -> bytes:
        """Send a message; its transaction's id."""
        identity = self.domain.rng.randbytes(8) if transaction_id is None else transaction_id
        self._outbox.append(
            (seat.party.public_key, encode(Envelope(identity, kind, step, message)))
        )
        return identity

    def ask(self, seat: Any, message: Message, *, step: str = "") -> Message | None:
        """Send a request and wait for what answers it; None: nothing did."""
        if seat.party.public_key not in self.seat.tunnel.peers:
            self.meet(seat)
        identity = self.say(seat, message, step=step)

        def answers() -> list[Message]:
            return [
                envelope.message
                for _, envelope in self.heard
                if envelope.transaction_id == identity and envelope.kind is not Kind.REQUEST
            ]

        self.domain.network.run(ANSWER_TIMEOUT, lambda: bool(answers()))
        return answers()[0] if answers() else None

    def try_(
        self, seat: Any, message: Message, kind: Kind = Kind.REQUEST
    ) -> RefusalCode | Drop | None:
        """By which name a message was refused: the code of the refusal, or the drop counted.

        None: it was not refused.
        """
        before = seat.drops
        if kind is Kind.REQUEST:
            answer = self.ask(seat, message)
            if isinstance(answer, Refusal):
                return answer.reason
            if answer is not None:
                return None
        else:
            self.say(seat, message, kind)
            self.domain.network.run(0.5)
        dropped = seat.drops - before
        return next(iter(dropped), None)


def renew(puppet: Puppet) -> Message | None:
    """Ask the AS for another certificate."""
    return puppet.ask(puppet.domain.account_server, CertificateRenewal())


__all__ = ["AS_ENDPOINT", "Puppet", "WireDomain", "renew"]
