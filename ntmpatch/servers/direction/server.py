"""The direction coordinator: who is where in its domain. How it directs is in directing.py."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ntmpatch.base.addresses import domain_of, in_domain
from ntmpatch.base.policy import Policy
from ntmpatch.servers.direction.coordinators import Coordinators
from ntmpatch.servers.direction.directing import Director
from ntmpatch.servers.direction.federation import Federation
from ntmpatch.servers.direction.limits import DEFAULT_LIMITS, Limit, RequestLimits
from ntmpatch.servers.direction.locations import (
    ANNOUNCEMENT_INTERVAL,
    Locations,
    Node,
    Server,
)
from ntmpatch.servers.direction.revoking import Revoking
from ntmpatch.servers.direction.services import ServiceChooser
from ntmpatch.servers.direction.store import NodeRecord
from ntmpatch.servers.direction.verdicts import Verdicts
from ntmpatch.signalling.effects import Contact, Failed, Ready
from ntmpatch.signalling.enrolled import EnrolledParty
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.process import Process, ask, sleep, work
from ntmpatch.signalling.recounting import Recounter
from ntmpatch.wire.control_messages import (
    Ack,
    Address,
    AuthenticationInquiry,
    AuthenticationVerdict,
    InformationRequest,
    Message,
    PrefixLeaseRequest,
    PrefixLeaseResponse,
    RefusalCode,
    RouteDirection,
    ServerLocation,
    addresses_of,
)
from ntmpatch.wire.control_registration import (
    AnnouncementResponse,
    Deregistration,
    RegistrationRequest,
    RegistrationResponse,
    ServerAnnouncement,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ntmpatch.crypto.certificate import Certificate
    from ntmpatch.servers.direction.finding import CoordinatorFinder
    from ntmpatch.servers.direction.names import NameIndex
    from ntmpatch.servers.direction.store import DirectionStore
    from ntmpatch.signalling.engine import Request

REGISTRATION_INTERVAL = 60.0
"""Seconds, for nodes that no NS can wake: their registrations show that they live."""
SERVED_REGISTRATION_INTERVAL = 3600.0
"""Seconds, for nodes that an NS can wake, and can tell of our restart."""
INQUIRY_TIMEOUT = 2.0
VERDICT_LIFETIME_WITHOUT_AS = 30.0
"""Seconds until the AS is asked again if it was silent: its signature has to do meanwhile."""
LEASE_RETRY_INTERVAL = 2.0
MAX_REORDERING = 60_000_000
"""Microseconds by which a registration may be late; beyond, the node's clock was set back."""
STORED_FOR = 900.0
"""Seconds after which a registration is written again though nothing has changed: so old may be the
time of the last one that the store knows."""
POKE_INTERVAL = 0.01
"""Seconds between the calls to nodes known from before a restart."""
POKE_AGE = SERVED_REGISTRATION_INTERVAL
"""Nodes that registered within so many seconds before a restart are called after it."""
RECALL_TIME = 15.0
"""Seconds in which NSs notice our restart and begin to tell the nodes that they serve."""


class DirectionServer(EnrolledParty):
    """DC of the domain that its own name lies in, and of those that its certificate adds."""

    role = "DC"
    provisional_limit = 4096
    answered_while_draining: ClassVar[frozenset[type[Message]]] = frozenset({Deregistration})

    def __init__(
        self,
        public_key: bytes,
        *,
        store: DirectionStore,
        finder: CoordinatorFinder | None = None,
        policy: Policy | None = None,
        limits: Mapping[type[Message], Limit] = DEFAULT_LIMITS,
        registration_interval: float = REGISTRATION_INTERVAL,
        served_registration_interval: float = SERVED_REGISTRATION_INTERVAL,
        **settings: Any,
    ) -> None:
        super().__init__(public_key, **settings)
        self._instance = self.entropy(8)
        self._began_at = self.now
        self.store = store
        self.policy = policy or Policy()
        self.locations = Locations(self.rng)
        self.domain = ""
        self._limits = RequestLimits(limits)
        self._registration_interval = registration_interval
        self._served_registration_interval = served_registration_interval
        self.services = ServiceChooser(self)
        self.verdicts = Verdicts()
        self._serials: dict[bytes, int] = {}
        self._coordinators = Coordinators(self, finder)
        self._federation = Federation(self)
        self.revoking = Revoking(self)
        self._director = Director(self, self._coordinators)
        Recounter(self)
        self.on(RegistrationRequest, self._register)
        self.on(Deregistration, self._deregister)
        self.on(ServerAnnouncement, self._hear)

    # --- what DNS tells (published.py) -----------------------------------------------------

    @property
    def signed_certificate(self) -> bytes:
        """Our certificate as the AS signed it."""
        return self.enrolment.certificate

    @property
    def names(self) -> NameIndex:
        """Our nodes and servers, by name."""
        return self.locations.names

    # --- starting ------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Enrol, lease prefixes, and serve, from now on."""
        self.now = now
        self.start(self._begin(), self._ended)

    def _ended(self, _: object, error: Exception | None) -> None:
        if error is not None:
            self.emit(Failed(error, "taking part", fatal=True))

    def _begin(self) -> Process[None]:
        enrolled_before = self.certificate is not None
        yield from self.enrol()
        assert self.certificate is not None
        self.domain = domain_of(self.certificate.fqdn)
        if not self.certificate.prefixes:
            yield from self._lease_prefixes()
        for record in (yield from work(self.store.nodes, "load nodes", stored=True)):
            if self.leads(record.fqdn):  # others may share the database
                self.locations.put(Node(record))
                self.introduce(record.public_key, "node", record.fqdn)
        self.start(self._federation.keep(), what="list of domains")
        # What was revoked while we were away, nodes learn as they register with us anew.
        self.meet_account_server(initiate=True)
        yield from self.revoking.poll()
        self.revoking.known_from_before(node.public_key for node in self.locations.nodes())
        self._began_at = self.now
        self.emit(Ready(self.role, self.name))
        self.start(self._poke(), what="calling nodes")
        self.start(self.revoking.keep(), what="list of revocations")
        if enrolled_before:
            yield from self.certify()  # so that the AS names the endpoints that we have now

    def _lease_prefixes(self) -> Process[None]:
        while True:
            try:
                lease = yield from ask(
                    self.account_server, PrefixLeaseRequest(self.domain), PrefixLeaseResponse
                )
            except Silent as silence:
                self.emit(Failed(silence, "prefix lease"))
                yield from sleep(LEASE_RETRY_INTERVAL)
            else:
                self.verify(lease.certificate, role="dc", public_key=self.public_key)
                self.adopt(lease.certificate)
                return

    def _poke(self) -> Process[None]:
        """Call the nodes known from before: they notice the restart, and register again.

        Behind a NAT only those hear us that no NS serves, and they registered a moment ago; the NSs
        tell theirs meanwhile.
        """
        nodes = self.locations.nodes()
        yield from self._poke_all(
            [node for node in nodes if not node.reach(None).behind_nat], POKE_AGE
        )
        yield from sleep(RECALL_TIME)
        yield from self._poke_all(
            [node for node in nodes if node.reach(None).behind_nat],
            1.5 * self._registration_interval,
        )

    def _poke_all(self, nodes: list[Node], age: float) -> Process[None]:
        oldest = self.wall_clock() - age
        for node in nodes:
            if node.record.registered_at > oldest and not node.fresh:
                self.reach_out(node)
                yield from sleep(POKE_INTERVAL)

    def recall_nodes(self) -> None:
        """Have the NSs tell their nodes to register again, when they announce themselves next."""
        self._instance = self.entropy(8)

    # --- who may ask ---------------------------------------------------------------------

    def permits(self, peer: bytes, message: Message) -> bool:
        """Steps between coordinators are for coordinators; the handlers judge the rest.

        Refused TOO_FAST if the peer asks for more than its share.
        """
        self._limits.check(peer, message, self.now)
        if isinstance(message, InformationRequest | RouteDirection):
            return self._coordinators.may_ask(peer)
        return True

    def leads(self, fqdn: str) -> bool:
        """Whether the name lies in a domain that we lead."""
        return self.certificate is not None and self.certificate.leads(fqdn)

    def led_domain_of(self, fqdn: str) -> str:
        """The domain that we lead and the name lies in, the longest if there are several."""
        assert self.certificate is not None
        above = [domain for domain in self.certificate.led_domains if in_domain(fqdn, domain)]
        return max(above, key=len, default=self.domain)

    def registered(self, peer: bytes) -> Node:
        """The node of this key; Refused NOT_REGISTERED if it must register first."""
        node = self.locations.node(peer)
        if node is None or not node.fresh:
            raise Refused(RefusalCode.NOT_REGISTERED, "register first")
        return node

    def reach_out(self, node: Node) -> None:
        """Open a channel to a node that has none with us since our start."""
        seen = node.record.seen_endpoint
        self.admission.confirm(node.public_key)
        self.emit(
            Contact(
                node.public_key,
                (seen,) if seen is not None else node.record.local_endpoints,
                initiate=True,
                role="node",
                name=node.record.fqdn,
            )
        )

    def wake(self, node: Node) -> Process[None]:
        """Have a node ready to hear from us, whether or not it has a channel and is awake."""
        if not node.fresh:
            self.reach_out(node)
        yield from self.services.notify(node, "")

    def authenticate(self, certificate: Certificate) -> Process[None]:
        """Ask the AS whether the certificate still counts, unless it said so a while ago."""
        key = certificate.public_key
        if self.verdicts.is_good(key, self.now):
            return
        try:
            verdict = yield from ask(
                self.account_server,
                AuthenticationInquiry(certificate.fqdn, key),
                AuthenticationVerdict,
                timeout=INQUIRY_TIMEOUT,
            )
        except Silent as silence:
            # Nodes go on without the AS: what it signed is valid for a while.
            self.emit(Failed(silence, "authentication inquiry"))
            self.verdicts.accept(key, self.now + VERDICT_LIFETIME_WITHOUT_AS)
            return
        if not verdict.good:
            self.expel(key)
            code = RefusalCode(verdict.code) if verdict.code else RefusalCode.REVOKED
            refusal = Refused(code, verdict.text or "revoked")
            self.verdicts.refuse(key, refusal, self.now + verdict.lifetime)
            raise refusal
        self.verdicts.accept(key, self.now + verdict.lifetime)

    def expel(self, key: bytes) -> None:
        """The key counts no more: nobody is directed to it, and it may ask nothing."""
        has_place = self.admission.has_place(key)
        if has_place or self.locations.node(key) is not None:
            self.note("expelled", level="warning", peer=self.peer_name(key))
        self.forget(key)
        self.locations.remove(key)
        # The refusal still has to reach it; then its place in the tunnel's table goes.
        if has_place:
            self.admission.admitted(key, self.now)

    # --- registration ----------------------------------------------------------------------

    def _register(
        self, message: RegistrationRequest, request: Request
    ) -> Process[RegistrationResponse]:
        """Fig. 5 (3) → (6), and the same at every start and interval."""
        key = request.peer
        certificate = self.verify(message.certificate, role="node", public_key=key)
        if not self.leads(certificate.fqdn) or self.certificate is None:
            raise Refused(RefusalCode.NOT_AUTHORISED, f"{certificate.fqdn} is of another domain")
        seen = self.sources.get(key)
        overtaken_by = self._serials.get(key, 0) - message.serial
        if 0 < overtaken_by < MAX_REORDERING:
            raise Refused(RefusalCode.BUSY, "a later registration came first")
        self._serials[key] = message.serial
        yield from self.authenticate(certificate)
        record = NodeRecord(
            fqdn=certificate.fqdn,
            public_key=key,
            certificate=message.certificate,
            ipv4=b"",
            ipv6=b"",
            seen_endpoint=seen,
            local_endpoints=tuple(address.endpoint() for address in message.local_endpoints),
            device_type=message.device_type,
            push_token=message.push_token,
            registered_at=self.wall_clock(),
        )
        record, stored_at = yield from self._keep(record, message.serial)
        node = self.locations.node(key) or Node(record)
        if self._serials.get(key) == message.serial:  # else the node has moved on meanwhile
            node.record = record
            node.stored_at = stored_at
        node.fresh = True
        replaced = self.locations.put(node)
        if replaced is not None:
            self.part(replaced)
        self.introduce(key, "node", record.fqdn)
        self.admission.confirm(key)
        self.note("registered", node=record.fqdn, seen=seen, device=record.device_type)
        yield from self.services.serve(
            node, request.step, served_by=message.served_by, failed=message.failed_server
        )
        return RegistrationResponse(
            domain=self.led_domain_of(record.fqdn),
            ipv4=record.ipv4,
            ipv6=record.ipv6,
            seen_endpoint=None if seen is None else Address(seen.host, seen.port),
            interval=self._interval_of(node, message.failed_server),
            servers=self._servers_for(node),
            federation=self._federation.version,
            revocations=self.revoking.serial,
            vantage=addresses_of(self.locations.vantage(key, self.now)),
        )

    def _keep(self, record: NodeRecord, serial: int) -> Process[tuple[NodeRecord, float]]:
        """The registration with its addresses, durable, and since when it has been.

        What says the same as the last one, a short while ago, is durable already.
        """
        assert self.certificate is not None
        ipv4_prefix, ipv6_prefix = self.certificate.prefixes[:2]
        key = record.public_key
        known = self.locations.node(key)
        has_addresses = (
            known is not None
            and known.record.fqdn == record.fqdn
            and self.now - known.stored_at < STORED_FOR
        )
        if known is not None and has_addresses:
            record = replace(record, ipv4=known.record.ipv4, ipv6=known.record.ipv6)
            if record == replace(known.record, registered_at=record.registered_at):
                return record, known.stored_at
        if known is not None:
            # Until the job is done nobody knows what the store holds.
            known.stored_at = float("-inf")

        def job() -> NodeRecord:
            kept = record
            if not has_addresses:
                ipv4, ipv6 = self.store.assign_addresses(
                    record.fqdn, ipv4_prefix, ipv6_prefix, record.registered_at
                )
                kept = replace(record, ipv4=ipv4, ipv6=ipv6)
            if self._serials.get(key) == serial:  # else a later one is saved
                self.store.save_node(kept)
            return kept

        kept = yield from work(job, "registration", stored=True)
        return kept, self.now

    def _interval_of(self, node: Node, failed_server: bytes) -> float:
        """Rare registrations are for nodes that an NS can wake; NSs may have yet to announce
        themselves to us."""
        if node.notification_server in (None, failed_server):
            is_starting = self.now - self._began_at < RECALL_TIME
            return RECALL_TIME if is_starting else self._registration_interval
        return self._served_registration_interval

    def _servers_for(self, node: Node) -> tuple[ServerLocation, ...]:
        serving = self.locations.server(node.notification_server, self.now)
        relays = self.locations.servers("rs", self.now)
        return tuple(server.location for server in [*([serving] if serving else []), *relays[:1]])

    def _deregister(self, _: Deregistration, request: Request) -> Process[Ack]:
        if self.locations.retire(request.peer):
            self.note("server-left", peer=self.peer_name(request.peer))
            self._director.relayed.leave(request.peer)
            return Ack()
        node = self.registered(request.peer)
        fqdn = node.record.fqdn
        yield from work(lambda: self.store.remove_location(fqdn), "deregistration", stored=True)
        node.record = replace(node.record, seen_endpoint=None, local_endpoints=())
        node.fresh = False
        self.names.remove(fqdn)  # as after a restart: only who is registered is in the zone
        node.stored_at = float("-inf")
        node.notification_server = None
        self.sources.pop(request.peer, None)
        self.note("deregistered", node=fqdn)
        return Ack()

    # --- servers ------------------------------------------------------------------------------

    def _hear(self, message: ServerAnnouncement, request: Request) -> Process[AnnouncementResponse]:
        """An NS or RS lives."""
        certificate = self.verify(message.certificate, public_key=request.peer)
        if certificate.role not in ("ns", "rs") or not self.leads(certificate.fqdn):
            raise Refused(RefusalCode.NOT_AUTHORISED, f"no {certificate.role} of {self.domain}")
        yield from self.authenticate(certificate)
        location = ServerLocation(certificate.role, message.certificate, message.endpoints[:2])
        before = self.locations.server(request.peer, self.now)
        self.locations.announce(
            Server(
                request.peer,
                certificate.fqdn,
                location,
                message.load,
                self.now,
                draining=message.draining,
            )
        )
        news = before is None or before.draining != message.draining
        self.note(
            "server-draining" if message.draining else "server-announced",
            level="info" if news else "debug",
            peer=f"{certificate.role.upper()} {certificate.fqdn}",
            load=round(message.load, 3),
        )
        self.introduce(request.peer, certificate.role.upper(), certificate.fqdn)
        self.admission.confirm(request.peer)
        if message.draining:
            self._director.relayed.leave(request.peer)
        return AnnouncementResponse(ANNOUNCEMENT_INTERVAL, self._instance)

    def forget(self, peer: bytes) -> None:
        """Drop what is kept in memory for a peer."""
        super().forget(peer)
        self.verdicts.part(peer)
        self._serials.pop(peer, None)
        self._coordinators.forget(peer)
        self._limits.forget(peer)
        self.locations.retire(peer)
