"""The negotiation module: a node's party. It registers, has tunnels directed, and is directed.

The runtime gives it look-ups, established tunnels and changed networks, and does what its effects
say. Steps are the paper's: Fig. 3 for a look-up, Fig. 5 (2)-(23) for a move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntmpatch.base.addresses import Endpoint, domain_of, normalise_fqdn
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import ConfigError, NtmpatchError, RefusedError, UntrustedError
from ntmpatch.base.policy import Policy
from ntmpatch.negotiation.errors import NameUnknown, TryAgain
from ntmpatch.negotiation.heartbeat import FIRST_INTERVAL, Heartbeats
from ntmpatch.negotiation.peers import Peer, Peers, contact_of, peer_of_untrusted
from ntmpatch.negotiation.redirection import Redirector
from ntmpatch.negotiation.registration import Registrar
from ntmpatch.negotiation.tracing import Tracer
from ntmpatch.signalling.effects import Forget, Resolved, Unresolved
from ntmpatch.signalling.engine import Request
from ntmpatch.signalling.enrolled import EnrolledParty
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.figures import NETWORK_SWITCHING, TUNNEL_CREATION
from ntmpatch.signalling.party import Reply
from ntmpatch.signalling.process import Event, Process, ask, wait
from ntmpatch.wire.control import Kind, decode_untrusted
from ntmpatch.wire.control_messages import (
    Ack,
    DirectionRequest,
    Message,
    Notification,
    Recall,
    RefusalCode,
    RevocationNotice,
    RevocationReason,
    Revocations,
    RevocationsRequest,
    RevokedKey,
    RouteDirection,
    ServerLocation,
    addresses_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.signalling.recording import Recording

__all__ = ["NameUnknown", "NodeNegotiation", "TryAgain"]

LOOKUP_TIMEOUT = 8.0
"""Seconds for the whole of Fig. 3 (2)-(18); then the caller may try again."""
MAX_LOOKUPS = 256
REDIRECTION_TIMEOUT = 8.0


class NodeNegotiation(EnrolledParty):
    """A node.

    ``device_type`` says how an NS wakes it: ``tcp`` by the connection that the node keeps to it,
    ``none`` not at all, any other by a way that the NS knows, with ``push_token`` for an address;
    what arrives by it is given to `woken`. ``heartbeat_interval``: seconds, to begin with.
    ``policy``: what others may reach here, beside what the coordinators allow them.
    ``is_in_use``: whether a tunnel that is up, by the peer's key, has carried something lately;
    only such tunnels are directed again after a move.
    ``reserves_relays``: whether tunnels that are in use directly get a relay in reserve, and
    ``traffic``: bytes that a tunnel has carried.
    """

    role = "node"

    def __init__(
        self,
        public_key: bytes,
        *,
        device_type: str = "tcp",
        policy: Policy | None = None,
        push_token: str = "",
        heartbeat_interval: float = FIRST_INTERVAL,
        is_in_use: Callable[[bytes], bool] = lambda _: True,
        reserves_relays: bool = False,
        traffic: Callable[[bytes], int] = lambda _: 0,
        **settings: Any,
    ) -> None:
        super().__init__(public_key, **settings)
        self._policy = policy or Policy()
        self.peers = Peers()
        self.is_enrolled = False
        """Whether the AS has told what it has to tell; registration follows."""
        self._registrar = Registrar(self, device_type, push_token, Heartbeats(heartbeat_interval))
        self.is_in_use = is_in_use
        self.reserves_relays = reserves_relays
        self._redirector = Redirector(self, traffic)
        self.tracer = Tracer(self)
        self._lookups: dict[str, list[int]] = {}
        self._next_request_id = 1
        self.on(RouteDirection, self._directed)
        self.on(Notification, self._notified)
        self.on(Recall, self._recalled)
        self.on(RevocationNotice, self._revoked)

    # --- what the runtime asks -----------------------------------------------------------

    def begin(self, endpoints: tuple[Endpoint, ...], now: float) -> None:
        """Enrol and register, from now on; ``endpoints`` are the local ones."""
        self.now = now
        self._registrar.begin(endpoints)

    def leave(self, now: float) -> None:
        """Tell the DC goodbye, once: it is not waited for."""
        self.now = now
        self._registrar.leave()

    def adopt(
        self, certificate: bytes, coordinators: tuple[ServerLocation, ...] | None = None
    ) -> None:
        """Take a new certificate of ours, and who coordinates, and tell the DC."""
        is_another = certificate != self.enrolment.certificate
        super().adopt(certificate, coordinators)
        if is_another:
            self._registrar.certified()

    @property
    def fqdn(self) -> str:
        """The node's own name; empty until it is enrolled."""
        return self.certificate.fqdn if self.certificate is not None else ""

    @property
    def domain(self) -> str:
        """The domain that the node belongs to; empty until it is enrolled."""
        return domain_of(self.fqdn)

    def virtual_prefixes(self) -> tuple[str, ...]:
        """The prefixes that virtual addresses are of, as text: our domain's, then the others'."""
        prefixes: list[str] = []
        for location in self.coordinators():
            prefixes += self.verify(location.certificate).prefixes
        for each in self.enrolment.federation:
            prefixes += (each.ipv4_prefix, each.ipv6_prefix)
        return tuple(dict.fromkeys(prefixes))

    def domains(self) -> tuple[str, ...]:
        """The domains whose names are looked up here: ours, and those that the AS has leased to."""
        told = (each.domain for each in self.enrolment.federation)
        return tuple(dict.fromkeys(filter(None, (self.domain, *told))))

    def server_endpoints(self) -> tuple[Endpoint, ...]:
        """Where the servers are that the node speaks to: what its local address has to reach."""
        coordinators = [
            address.endpoint()
            for location in self.enrolment.coordinators
            for address in location.endpoints
        ]
        return (*coordinators, *self.enrolment.account_server_endpoints)

    @property
    def seen_endpoint(self) -> Endpoint | None:
        """Where our DC saw us when we registered last; None before that."""
        return self._registrar.seen

    @property
    def unanswered_since(self) -> float | None:
        """Since when our DC does not answer, as far as it is asked; None if nothing says so."""
        return self._registrar.unanswered_since

    @property
    def vantage(self) -> tuple[Endpoint, ...]:
        """Where RSs tell by STUN how they see us; empty until we are registered."""
        return self._registrar.vantage

    def resolve(self, fqdn: str, now: float, *, recording: Recording | None = None) -> int:
        """Fig. 3 (1), (2): look a name up, by having a tunnel to it directed.

        The request id of a Resolved or Unresolved effect, which comes after at most 8 s.
        Look-ups of one name share one direction, and none is needed while the tunnel lives; with
        ``recording`` (of `tracer`) there is a new one in any case.
        """
        self.now = now
        request_id = self._next_request_id
        self._next_request_id += 1
        try:
            fqdn = normalise_fqdn(fqdn)
        except ConfigError as error:
            self.emit(Unresolved(request_id, fqdn, NameUnknown(str(error))))
            return request_id
        peer = self.peers.named(fqdn)
        if peer is not None and peer.is_up and recording is None:
            self.emit(Resolved(request_id, fqdn, peer.public_key, peer.ipv4, peer.ipv6))
        elif fqdn in self._lookups and recording is None:
            self._lookups[fqdn].append(request_id)
        elif fqdn in self._lookups:
            self.emit(Unresolved(request_id, fqdn, TryAgain("a look-up of it is under way")))
        elif len(self._lookups) >= MAX_LOOKUPS:
            self.emit(Unresolved(request_id, fqdn, TryAgain("too many look-ups under way")))
        else:
            self._lookups[fqdn] = [request_id]
            look_up = self._look_up(fqdn)
            self.start(
                look_up if recording is None else self.tracer.anew(fqdn, look_up),
                lambda peer, error: self._looked_up(fqdn, peer, error),
                recording=recording,
            )
        return request_id

    def reverse(self, address: bytes) -> str | None:
        """The name of the peer, or of this node, that holds a virtual address, packed."""
        if address and address in self._registrar.own_addresses:
            return self.fqdn
        peer = self.peers.with_address(address)
        return peer.fqdn if peer is not None else None

    def tunnel_established(self, public_key: bytes, now: float, *, initiator: bool = True) -> None:
        """A handshake with this key succeeded, ours if ``initiator``: Fig. 3 (18), or a server."""
        self.now = now
        peer = self.peers.of_key(public_key)
        if peer is not None:
            self._redirector.established(peer)
            peer.established.set()
        else:
            self._registrar.channel_established(public_key, initiator=initiator)
        self._pump()

    def tunnel_expired(self, public_key: bytes, now: float) -> None:
        """The key answers no handshake any more. A peer is directed anew; in vain, it goes."""
        self.now = now
        peer = self.peers.of_key(public_key)
        if peer is None:
            return
        was_up = peer.is_up
        peer.established = Event()
        if was_up:
            self._redirector.want(public_key)
        elif not self._redirector.is_pending(public_key):
            self.drop(peer)
        self._pump()

    def unreachable(self, public_key: bytes, now: float) -> None:
        """No path to the peer answers: Fig. 5 (9) again, at growing intervals."""
        self.now = now
        self._redirector.want(public_key)
        self._pump()

    def relay_failed(
        self, public_key: bytes, relay_key: bytes, now: float, *, in_use: bool = True
    ) -> None:
        """The relay between us and the peer does not answer: have another one directed.

        At once, and whatever it takes, if it was ``in_use``, and not in reserve.
        """
        self.now = now
        peer = self.peers.of_key(public_key)
        if peer is not None and peer.relay == relay_key:  # else it has been directed meanwhile
            self._redirector.relay_failed(peer, in_use=in_use)
            self._pump()

    def relay_released(self, public_key: bytes, relay_key: bytes, now: float) -> None:
        """The relay in reserve was given up, for the tunnel is idle."""
        self.now = now
        peer = self.peers.of_key(public_key)
        if peer is not None and peer.relay == relay_key:
            self._redirector.relay_released(peer)

    def network_changed(self, endpoints: tuple[Endpoint, ...], now: float) -> None:
        """Fig. 5 (2): the local endpoints are others now; (3)-(8) follow at once, then (9)-(23)."""
        self.now = now
        self._registrar.network_changed(endpoints)
        self._pump()

    def confirm_network(self, now: float) -> None:
        """Is it this node's network that does not work? The DC is asked, unless it is already."""
        self.now = now
        self._registrar.confirm()
        self._pump()

    def connection_failed(self, public_key: bytes, now: float) -> None:
        """The connection to this NS broke, or could not be made; the runtime tries again."""
        self.now = now
        self._registrar.connection_failed(public_key)
        self._pump()

    def woken(self, payload: bytes, now: float) -> bool:
        """What an NS had delivered by another way than a connection: Fig. 3 (10) → (11).

        It is no secret and may be forged, so it moves us to nothing but a word to our own DC. An
        empty one says that the DC wants us, and not why. False: it is not for us, and was dropped.
        """
        self.now = now
        try:
            self._woken_untrusted(payload)
        except UntrustedError as error:
            self.drops.drop(error.drop)
            return False
        self._pump()
        return True

    def _woken_untrusted(self, payload: bytes) -> None:
        if not payload:
            self._registrar.wanted()
            return
        envelope = decode_untrusted(payload)
        message = envelope.message
        if envelope.kind is not Kind.REQUEST or not isinstance(message, Notification | Recall):
            raise UntrustedError(Drop.CONTROL_UNEXPECTED)
        if not self._registrar.is_coordinator(message.coordinator):
            raise UntrustedError(Drop.CONTROL_STRANGER)
        if isinstance(message, Recall):
            self._registrar.recalled(message.coordinator)
        else:
            request = Request(message.coordinator, envelope.transaction_id, envelope.step, message)
            self._answer(request, Reply(Ack(), kind=Kind.RESPONSE))

    # --- looking up ------------------------------------------------------------------------

    def _look_up(self, fqdn: str) -> Process[Peer]:
        """Fig. 3 (2)-(18), as MN."""
        until = self.now + LOOKUP_TIMEOUT
        relayed = self._redirector.starts_relayed
        peer = yield from self._direct(fqdn, TUNNEL_CREATION.request, until, relayed=relayed)
        yield from wait(peer.established, max(until - self.now, 0.1))
        return peer

    def _direct(
        self,
        fqdn: str,
        step: str,
        until: float,
        *,
        avoid: bytes = b"",
        relayed: bool = False,
        reserve: bool = False,
    ) -> Process[Peer]:
        """Ask for a direction, (2), until (15) answers; the handler has dealt with it by then."""
        for attempt in (1, 2):
            coordinator = yield from self._registrar.coordinator(max(until - self.now, 0.1))
            endpoints = addresses_of(self._registrar.endpoints)
            self._redirector.asks(fqdn)
            try:
                direction = yield from ask(
                    coordinator,
                    DirectionRequest(fqdn, endpoints, avoid, relayed, reserve),
                    RouteDirection,
                    step,
                    timeout=max(until - self.now, 0.1),
                )
            except Refused as refusal:
                if refusal.code is not RefusalCode.NOT_REGISTERED or attempt == 2:
                    raise
                self._registrar.lost()  # the DC has restarted: register, and ask again
            except Silent:
                self._registrar.lost()
                raise
            else:
                break
            finally:
                self._redirector.asked(fqdn)
        certificate = self.verify(direction.certificate, role="node")
        peer = self.peers.of_key(certificate.public_key)
        if peer is None or peer.fqdn != fqdn:
            raise Refused(RefusalCode.CERTIFICATE_INVALID, f"directed to another than {fqdn}")
        return peer

    def _looked_up(self, fqdn: str, peer: Peer | None, error: Exception | None) -> None:
        for request_id in self._lookups.pop(fqdn, ()):
            if peer is not None:
                self.emit(Resolved(request_id, fqdn, peer.public_key, peer.ipv4, peer.ipv6))
            else:
                self.emit(Unresolved(request_id, fqdn, _lookup_error(fqdn, error)))

    def redirect(self, fqdn: str, *, avoid: bytes, relayed: bool, reserve: bool) -> Process[Peer]:
        """Fig. 5 (9)-(23): have a tunnel directed again that was in use."""
        until = self.now + REDIRECTION_TIMEOUT
        step = NETWORK_SWITCHING.request
        return self._direct(fqdn, step, until, avoid=avoid, relayed=relayed, reserve=reserve)

    def moved(self) -> None:
        """Fig. 5 (3)-(8) have succeeded: we can be found where we are now."""
        self._redirector.moved()

    def drop(self, peer: Peer) -> None:
        """Forget a peer, and its tunnel."""
        self.peers.remove(peer.public_key)
        self._redirector.forget(peer.public_key)
        self.emit(Forget(peer.public_key))

    # --- being directed --------------------------------------------------------------------

    def permits(self, peer: bytes, message: Message) -> bool:
        """Directions come from our coordinator, notifications from our notification server."""
        if isinstance(message, Notification | Recall):
            return self._registrar.is_notification_server(peer)
        return self._registrar.is_coordinator(peer)

    def _directed(self, message: RouteDirection, request: Request) -> Ack:
        """Fig. 3 (12) → (13) as CN, (15) → (16) as MN."""
        peer = peer_of_untrusted(message, self)
        if {peer.ipv4, peer.ipv6} & self._registrar.own_addresses:
            # A peer that may use our own address as its source would pass for ourselves.
            raise Refused(RefusalCode.CERTIFICATE_INVALID, "directed to our own address")
        known = self.peers.of_key(peer.public_key)
        if known is None or message.serial > known.serial:
            if known is not None:
                peer.established = known.established
                peer.asked = known.asked
                # A direct way does not end the session at a relay that there is already.
                peer.relay, peer.in_reserve = known.relay, known.in_reserve
            contact = contact_of(
                peer,
                message,
                self,
                self._policy,
                behind_nat=self._registrar.behind_nat,
                step=request.step,
            )
            if contact.relay is not None:
                peer.relay = contact.relay.relay_key
            for replaced in self.peers.put(peer):
                self._redirector.forget(replaced)
                self.emit(Forget(replaced))
            self.introduce(peer.public_key, "node", peer.fqdn)
            self.emit(contact)
            self._redirector.directed(peer, message, contact)
        if message.answers:
            self.record_with(message.answers, request)
            self.conclude(request.peer, message.answers, message)
        return Ack()

    def _revoked(self, message: RevocationNotice, _: Request) -> Ack:
        """A peer's key counts no more: its tunnel carries nothing from now on.

        If it is our own, a registration will be refused and tell why.
        """
        if message.public_key == self.public_key:
            self._registrar.lost()
        self._leave_revoked(RevokedKey(1, message.public_key, "", message.reason))
        return Ack()

    def hear_revocations(self, coordinator: bytes, serial: int) -> Process[None]:
        """Our coordinator knows revocations up to that number: ask for those that are news."""
        while len(self.peers) and self.revoked.serial < serial:
            if not (yield from self.hear_newest_revocations(coordinator)):
                break
        self.revoked.serial = max(self.revoked.serial, serial)

    def hear_newest_revocations(self, coordinator: bytes) -> Process[bool]:
        """Ask for the next ones after those that are known; whether there were any."""
        before = self.revoked.serial
        page = yield from ask(coordinator, RevocationsRequest(before), Revocations)
        if not page.revoked or page.revoked[-1].serial <= before:
            return False
        for revoked in page.revoked:
            self._leave_revoked(revoked)
        self.revoked.serial = max(self.revoked.serial, page.revoked[-1].serial)
        return True

    def _leave_revoked(self, revoked: RevokedKey) -> None:
        """Of peers, and of those that were: others' keys are the coordinators' to know."""
        peer = self.peers.of_key(revoked.public_key)
        if peer is None and not self.revoked.knows(revoked.public_key):
            return
        self.revoked.keep(revoked, self.now)
        if peer is not None and revoked.reason != RevocationReason.REINSTATED:
            self.drop(peer)

    def _notified(self, message: Notification, _: Request) -> Reply:
        """Fig. 3 (10) → (11): the acknowledgement goes to the coordinator."""
        if not self._registrar.is_coordinator(message.coordinator):
            raise Refused(RefusalCode.NOT_AUTHORISED, "notification for another coordinator")
        self._registrar.service.heard()
        return Reply(Ack(), to=message.coordinator, kind=Kind.RESPONSE)

    def _recalled(self, message: Recall, _: Request) -> Ack:
        """Our DC wants us to register again."""
        if not self._registrar.is_coordinator(message.coordinator):
            raise Refused(RefusalCode.NOT_AUTHORISED, "recall for another coordinator")
        self._registrar.recalled(message.coordinator)
        return Ack()


def _lookup_error(fqdn: str, error: Exception | None) -> NtmpatchError:
    """What a look-up's caller is told."""
    if isinstance(error, Refused) and error.code is RefusalCode.UNKNOWN_NAME:
        return NameUnknown(f"{fqdn} is unknown")
    if isinstance(error, RefusedError):
        return TryAgain(f"{fqdn}: refused: {error}")
    return TryAgain(f"{fqdn}: {error}")
