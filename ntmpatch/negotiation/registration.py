"""Being known: the node's registrations with its DC, Fig. 5 (3)-(6), kept up for ever.

Often where nothing else tells node and DC of each other; rarely, as the DC says, where an NS does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ntmpatch.base.backoff import Backoff
from ntmpatch.negotiation.peers import NAT_KEEPALIVE_INTERVAL, check_addresses
from ntmpatch.negotiation.service import NotificationService
from ntmpatch.signalling.effects import Assigned, Contact, Failed, Left, Persist, Ready
from ntmpatch.signalling.engine import DEFAULT_TIMEOUT
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.process import Event, Process, ask, wait
from ntmpatch.wire.control_messages import (
    Ack,
    FederatedDomain,
    FederationRequest,
    FederationResponse,
    RefusalCode,
    ServerLocation,
    addresses_of,
)
from ntmpatch.wire.control_registration import (
    Deregistration,
    RegistrationRequest,
    RegistrationResponse,
)

if TYPE_CHECKING:
    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.negotiation.heartbeat import Heartbeats
    from ntmpatch.negotiation.node import NodeNegotiation

REGISTRATION_TIMEOUT = 3.0
FIRST_RETRY_INTERVAL = 0.5
MAX_RETRY_INTERVAL = 10.0
"""A node comes back soon after its DC does; the jitter spreads those of one DC."""
LEAVE_TIMEOUT = 0.6
"""Seconds that a program's end may wait for the DC's goodbye: one retransmission."""
SILENCES_BEFORE_ASKING_AS = 2
DOMAINS_TIMEOUT = 1.0
"""Seconds that enrolment waits for the list of domains; the DC tells it later as well."""
MAX_DOMAINS = 1000
"""Domains that a node keeps in mind; of a larger federation, those named in its configuration."""
RECALL_INTERVAL = 5.0
"""Seconds between a registration and the next one that an NS, or whatever wakes us, can cause."""
SERVICE_GRACE = 0.5
"""Seconds that Fig. 5 (9) waits, after (6), for (8): the connection to the NS may have to be made
anew after a move, and tunnels had better not wait for that."""
CONFIRMED_FOR = 2.0
"""Seconds after an answer of the DC in which our network is not asked whether it works."""
SESSION_DOUBT = 1.0
"""Seconds after a move without an answer of the DC, until it is called as if for the first time."""
RECENT = 1.0
"""Seconds after a registration in which a new session with the DC is no reason for another."""
_FATAL = frozenset(
    {
        RefusalCode.REVOKED,
        RefusalCode.NOT_AUTHORISED,
        RefusalCode.ACCOUNT_EXPIRED,
        RefusalCode.KEY_REPLACED,
        RefusalCode.NOT_ENROLLED,
    }
)


class Registrar:
    """The part of a node's negotiation that keeps it registered."""

    def __init__(
        self,
        party: NodeNegotiation,
        device_type: str,
        push_token: str,
        heartbeats: Heartbeats,
    ) -> None:
        self._party = party
        self._device_type = device_type
        self._push_token = push_token
        self.endpoints: tuple[Endpoint, ...] = ()
        self.own_addresses: frozenset[bytes] = frozenset()
        self.behind_nat = False
        self.seen: Endpoint | None = None
        """Where the DC saw us when we registered last."""
        self.vantage: tuple[Endpoint, ...] = ()
        """Where RSs tell how they see us, as the DC said last."""
        self._backoff = Backoff(
            initial=FIRST_RETRY_INTERVAL, maximum=MAX_RETRY_INTERVAL, rng=party.rng
        )
        self._registered = Event()
        self._coordinator: bytes | None = None
        self._contact: Contact | None = None
        self._assigned: Assigned | None = None
        self._attempt = 0
        self._asked_at = float("-inf")
        self._serial = 0
        self._under_way = False
        self._silences = 0
        self._registered_at = float("-inf")
        self.unanswered_since: float | None = None
        """Since when the DC does not answer, as far as it is asked; see `confirm`."""
        self._heard_at = float("-inf")
        self._confirming_since: float | None = None
        self._is_needed_again = False
        """Something was to be told after the attempt under way had begun."""
        self._has_moved = False
        """The network is another one, and the tunnels have yet to follow."""
        self.service = NotificationService(
            party,
            device_type,
            heartbeats,
            network=lambda: self.endpoints[0].host if self.endpoints else "",
            coordinator=lambda: self._coordinator,
            on_change=self._keep_reachable,
            on_need=self._register_for_service,
            on_settled=self._moved,
        )

    # --- what the node asks ----------------------------------------------------------------

    def begin(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Enrol, then register."""
        self.endpoints = endpoints

        def enrolled(_: object, error: Exception | None) -> None:
            if error is not None:
                self._party.emit(Failed(error, "enrolment", fatal=True))
            else:
                self._register("")

        self._party.start(self._enrol(), enrolled)

    def _enrol(self) -> Process[None]:
        """Be certified; the first time, learn from the AS which domains there are, too.

        So the first program knows other domains' names, before any DC knows this node.
        """
        party = self._party
        is_first = party.certificate is None
        yield from party.enrol()
        if is_first:
            try:
                told = yield from self._ask_for_domains(party.account_server, DOMAINS_TIMEOUT)
                party.learn_domains(*told)
            except (Silent, Refused) as failure:
                party.emit(Failed(failure, "list of domains"))
        party.is_enrolled = True
        party.emit(Persist(party.enrolment.encode()))

    def leave(self) -> None:
        """Say goodbye to the DC; Left tells when it was heard."""
        self._party.call_off("register")
        self._attempt += 1
        if self._coordinator is None:
            self._party.emit(Left())
            return
        goodbye = ask(self._coordinator, Deregistration(), Ack, timeout=LEAVE_TIMEOUT)
        self._party.start(goodbye, lambda *_: self._party.emit(Left()))

    def coordinator(self, timeout: float) -> Process[bytes]:
        """The DC's key, as soon as we are registered there; Silent after ``timeout``."""
        key: bytes = yield from wait(self._registered, timeout)
        return key

    def is_coordinator(self, peer: bytes) -> bool:
        """Whether ``peer`` is the DC that we register with."""
        return peer == self._coordinator

    def is_notification_server(self, peer: bytes) -> bool:
        """Whether ``peer`` is the NS that our DC named."""
        return peer == self.service.server

    def lost(self) -> None:
        """The DC does not know us, or does not answer: register before anything else."""
        if self._registered.is_set:
            self._registered = Event()
            self._register("")

    def network_changed(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Fig. 5 (2): register at once what the endpoints are now."""
        self.endpoints = endpoints
        self.seen = None
        self.unanswered_since = None
        self._confirming_since = None  # it was asked by the network that we have left
        if self._attempt:
            self._has_moved = True
            self._party.call_off("moved")
            self._register("5.3")
            self._party.call_at("anew", self._party.now + SESSION_DOUBT, self._call_anew)

    def _call_anew(self) -> None:
        """After a move the DC does not answer: it may have restarted before, and lost the session.

        It would call us, but where we have been."""
        if self._under_way and self._contact is not None:
            self._party.emit(replace(self._contact, initiate=True))

    def _moved(self) -> None:
        """Fig. 5 (8), or nothing to wait for: who is registered has its tunnels follow."""
        if self._has_moved and not self._under_way and self._registered.is_set:
            self._has_moved = False
            self._party.call_off("moved")
            self._party.moved()

    def channel_established(self, public_key: bytes, *, initiator: bool) -> None:
        """A server's channel came up, by our handshake if ``initiator``.

        If the DC restarted, it has to be told of us again. It calls us then; and when we call it,
        with something to ask, it says NOT_REGISTERED. Only who has no NS registers in any case.
        """
        if public_key == self.service.server:
            self.service.established(initiator=initiator)
        elif (
            public_key == self._coordinator
            and not self._under_way
            and not (initiator and self.service.is_served)
            and self._party.now - self._registered_at > RECENT
        ):
            self._register("")

    def confirm(self) -> None:
        """Somebody cannot be reached: does the DC answer, and has that key been revoked?

        It is asked what it knows by itself, and not whether it has been heard: what comes in may
        come by another network than ours goes out by."""
        party, coordinator = self._party, self._coordinator
        is_fresh = party.now - self._heard_at < CONFIRMED_FOR
        is_asked = self._confirming_since is not None
        if coordinator is None or not self._registered.is_set or is_asked or is_fresh:
            return
        asked_at = self._confirming_since = party.now
        if self.unanswered_since is None:
            self.unanswered_since = asked_at

        def ended(_: object, error: Exception | None) -> None:
            if self._confirming_since != asked_at:
                return
            self._confirming_since = None
            self._note_answer(error, asked_at)
            if isinstance(error, Refused) and error.code is RefusalCode.NOT_REGISTERED:
                self.wanted()

        party.start(party.hear_newest_revocations(coordinator), ended)

    def _note_answer(self, error: Exception | None, asked_at: float) -> None:
        if not isinstance(error, Silent):
            self.unanswered_since = None
            self._heard_at = self._party.now
        elif self.unanswered_since is None:
            self.unanswered_since = asked_at

    def certified(self) -> None:
        """Our certificate is another one: the DC shows it to our peers, and has to have it."""
        if self._under_way:
            self._is_needed_again = True
        elif self._registered.is_set:
            self._register("")

    def connection_failed(self, public_key: bytes) -> None:
        """The connection to the NS broke, or could not be made."""
        if public_key == self.service.server:
            self.service.connection_failed()

    def recalled(self, coordinator: bytes) -> None:
        """The NS says that the DC began anew: it does not know us until we register."""
        if coordinator == self._coordinator:
            self.service.heard()
            self.wanted()

    def wanted(self) -> None:
        """Register, but not at anybody's pace."""
        due_at = self._registered_at + RECALL_INTERVAL
        if due_at <= self._party.now:
            self.lost()
        elif not self._under_way:
            self._party.call_at("register", due_at, self.lost)

    # --- registration with the DC ------------------------------------------------------------

    def _register(self, step: str) -> None:
        """Begin an attempt; one that is under way counts no more."""
        self._attempt += 1
        attempt = self._attempt
        self._under_way = True
        self._asked_at = self._party.now
        self._is_needed_again = False
        self._party.call_off("register")
        self._party.start(
            self._registration(attempt, step), lambda _, error: self._ended(attempt, error)
        )

    def _registration(self, attempt: int, step: str) -> Process[None]:
        party = self._party
        locations = yield from party.find_coordinators(
            fresh=self._silences >= SILENCES_BEFORE_ASKING_AS
        )
        location = locations[self._silences % len(locations)]
        key = self._meet(location)
        answer = yield from ask(  # Fig. 5 (3), (6)
            key,
            self._request(),
            RegistrationResponse,
            step,
            timeout=REGISTRATION_TIMEOUT,
        )
        if attempt == self._attempt:
            self._take(location, key, answer, step)

    def _request(self) -> RegistrationRequest:
        service = self.service
        return RegistrationRequest(
            self._party.enrolment.certificate,
            # With a token they have to share a datagram.
            addresses_of(self.endpoints[:4] if self._push_token else self.endpoints),
            self._device_type,
            self._next_serial(),
            served_by=(service.server or b"") if service.is_connected else b"",
            failed_server=service.failed_server or b"",
            push_token=self._push_token,
        )

    def _register_for_service(self) -> None:
        """Let the DC find us an NS."""
        if self._under_way:
            self._is_needed_again = True
        elif self._coordinator is not None:
            self._register("")

    def _next_serial(self) -> int:
        self._serial = max(self._serial + 1, int(self._party.wall_clock() * 1e6))
        return self._serial

    def _meet(self, location: ServerLocation) -> bytes:
        """Open a channel to the DC; again if the last one stayed silent."""
        certificate = self._party.verify(location.certificate, role="dc")
        key = certificate.public_key
        contact = Contact(
            key,
            tuple(address.endpoint() for address in location.endpoints),
            initiate=True,
            role="dc",
            name=certificate.fqdn,
        )
        if key != self._coordinator or self._silences or not self._registered.is_set:
            self._party.introduce(key, "DC", certificate.fqdn)
            self._party.emit(contact)
            self._contact = contact
        self._coordinator = key
        return key

    def _take(
        self, location: ServerLocation, key: bytes, answer: RegistrationResponse, step: str
    ) -> None:
        """Use what the DC answered."""
        party = self._party
        check_addresses(answer.ipv4, answer.ipv6, party.verify(location.certificate, role="dc"))
        seen = answer.seen_endpoint
        self.seen = seen.endpoint() if seen is not None else None
        self.vantage = tuple(address.endpoint() for address in answer.vantage)
        self.behind_nat = self.seen is not None and self.seen not in self.endpoints
        self.own_addresses = frozenset(filter(None, (answer.ipv4, answer.ipv6)))
        assigned = Assigned(party.fqdn, answer.domain, answer.ipv4, answer.ipv6, answer.interval)
        first = self._assigned is None
        if assigned != self._assigned:
            self._assigned = assigned
            party.emit(assigned)
        if first:
            party.emit(Ready(party.role, party.fqdn))
        if answer.federation != party.enrolment.federation_version and answer.federation:
            party.start(self._follow_domains(key), what="list of domains")
        if answer.revocations > party.revoked.serial:
            party.start(party.hear_revocations(key, answer.revocations), what="list of revocations")
        serving = next((server for server in answer.servers if server.role == "ns"), None)
        self.service.serve_by(serving, step)
        self._keep_reachable()
        self._registered_at = party.now
        if self._registered.value != key:  # another DC than before answered
            before, self._registered = self._registered, Event()
            before.set(key)
        self._registered.set(key)

    def _follow_domains(self, coordinator: bytes) -> Process[None]:
        """The DC has another list of domains than we."""
        party = self._party
        domains, version = yield from self._ask_for_domains(coordinator)
        known = {each.domain for each in party.enrolment.federation}
        if known - {each.domain for each in domains}:
            # The DC may have asked the AS before we did: only the AS says that a domain is gone.
            # Its lists have no version, so that the DC's is looked at again.
            party.meet_account_server(initiate=True)
            domains, version = yield from self._ask_for_domains(party.account_server)
        party.learn_domains(domains, version)

    def _ask_for_domains(
        self, server: bytes, timeout: float = DEFAULT_TIMEOUT
    ) -> Process[tuple[tuple[FederatedDomain, ...], int]]:
        """The list of domains, page by page, from the DC or the AS; and its version."""
        domains: list[FederatedDomain] = []
        while True:
            after = domains[-1].domain if domains else ""
            page = yield from ask(
                server, FederationRequest(after), FederationResponse, timeout=timeout
            )
            is_whole = not page.domains or page.domains[0].domain <= after
            domains += () if is_whole else page.domains
            if is_whole or len(domains) >= MAX_DOMAINS:
                return tuple(domains), page.version

    def _keep_reachable(self) -> None:
        """Behind a NAT, and with no NS that wakes us, the channel to the DC has to stay open."""
        needed = self.behind_nat and not self.service.is_served
        interval = NAT_KEEPALIVE_INTERVAL if needed else None
        contact = self._contact
        if contact is not None and contact.persistent_keepalive_interval != interval:
            self._contact = replace(contact, initiate=False, persistent_keepalive_interval=interval)
            self._party.emit(self._contact)

    def _ended(self, attempt: int, error: Exception | None) -> None:
        """An attempt is over: plan the next one."""
        if attempt != self._attempt:
            return
        party = self._party
        self._under_way = False
        party.call_off("anew")
        self._note_answer(error, self._asked_at)
        if error is None and self._assigned is not None:
            self._silences = 0
            self._backoff.reset()
            interval = self._assigned.interval * party.rng.uniform(0.8, 1.0)
            if self._is_needed_again:
                interval = FIRST_RETRY_INTERVAL
            if not self.service.is_asking:
                self._moved()
            elif self._has_moved:
                party.call_at("moved", party.now + SERVICE_GRACE, self._moved)
        else:
            assert error is not None
            fatal = isinstance(error, Refused) and error.code in _FATAL
            party.emit(Failed(error, "registration", fatal=fatal))
            if fatal:
                return
            if isinstance(error, Silent):
                self._silences += 1
            else:  # refused: perhaps a fresh certificate, or another coordinator, helps
                self._silences += SILENCES_BEFORE_ASKING_AS
            interval = self._backoff.next_interval()
        party.call_at("register", party.now + interval, self._register_again)

    def _register_again(self) -> None:
        self._register("5.3" if self._has_moved else "")
