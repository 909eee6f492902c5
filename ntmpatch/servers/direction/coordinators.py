"""The other coordinators: found by NS record, believed by certificate, met by a shared key.

Fig. 3 (3)-(5), Fig. 5 (10), (11). Whoever offers a key shows its certificate with it; from then on
it may ask about nodes here, on behalf of nodes in the domains that it leads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import normalise_fqdn
from ntmpatch.base.errors import ConfigError, NtmpatchError, UnavailableError
from ntmpatch.servers.direction.finding import NoCoordinator
from ntmpatch.servers.direction.shared_keys import SHARED_KEY_LIFETIME, SharedKey, SharedKeys
from ntmpatch.signalling.effects import Contact, Failed
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.process import Event, Process, ask, wait, work
from ntmpatch.wire.control_messages import Ack, RefusalCode, SharedKeyOffer

if TYPE_CHECKING:
    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.crypto.certificate import Certificate
    from ntmpatch.servers.direction.finding import CoordinatorFinder, FoundCoordinator
    from ntmpatch.servers.direction.server import DirectionServer
    from ntmpatch.signalling.engine import Request
    from ntmpatch.signalling.figures import DirectionSteps

FINDING_TIMEOUT = 3.0
FOUND_LIFETIME = 60.0
"""Seconds for which what DNS said is used without asking again; the resolver keeps its own TTL."""
MISSED_LIFETIME = 5.0
OFFER_TIMEOUT = 2.0
CHANNEL_LIFETIME = SHARED_KEY_LIFETIME + 60.0
"""Seconds after the last key for which another coordinator keeps its place in the tunnel."""
MAX_DOMAINS = 4096
"""Domains that are remembered; beyond, the oldest is forgotten."""
MAX_LABELS = 4
"""Domains above a name that are looked for: one label less each time."""
MAX_COORDINATORS = 2
"""Of one domain: the second is asked if the first fails."""


@dataclass(slots=True)
class _Domain:
    """What is known of a domain: its coordinators' keys, best first, or why there are none."""

    keys: tuple[bytes, ...] = ()
    expires_at: float = 0.0
    error: Exception | None = None
    finding: Event | None = None


@dataclass(slots=True)
class _Coordinator:
    """Another coordinator that the AS vouches for."""

    certificate: Certificate
    endpoints: tuple[Endpoint, ...] = ()
    asks_until: float = field(default=float("-inf"))
    """Until when it may ask about nodes here: it has shown its certificate itself."""


class Coordinators:
    """The part of a DC that knows the others. It counts itself among them."""

    def __init__(self, party: DirectionServer, finder: CoordinatorFinder | None) -> None:
        self._party = party
        self._finder = finder
        self._keys = SharedKeys(party.entropy)
        self._domains: dict[str, _Domain] = {}
        self._known: dict[bytes, _Coordinator] = {}
        party.on(SharedKeyOffer, self._accept_key)

    def may_ask(self, peer: bytes) -> bool:
        """Whether ``peer`` has shown that it is a coordinator."""
        known = self._known.get(peer)
        return peer == self._party.public_key or (
            known is not None and self._party.now < known.asks_until
        )

    def speaks_for(self, peer: bytes, fqdn: str) -> bool:
        """Whether ``peer`` leads the domain of the node ``fqdn``."""
        if peer == self._party.public_key:
            return self._party.leads(fqdn)
        known = self._known.get(peer)
        return known is not None and known.certificate.leads(fqdn)

    def forget(self, peer: bytes) -> None:
        """The channel of ``peer`` is gone, and what it showed with it."""
        self._known.pop(peer, None)
        self._keys.drop_offered(peer)
        self._keys.drop_accepted(peer)

    # --- finding them --------------------------------------------------------------------

    def of(self, fqdn: str, steps: DirectionSteps) -> Process[tuple[bytes, ...]]:
        """Fig. 3 (3): the keys of the coordinators of a name's domain.

        Refused UNKNOWN_NAME (the domain has none), UNREACHABLE (no resolver answers), or for what
        is wrong with the certificate of each that DNS named.
        """
        party = self._party
        if party.leads(fqdn):
            party.trace(steps.look_up, party.now, message=f"NS {party.led_domain_of(fqdn)}")
            return (party.public_key,)
        failure: Exception | None = None
        for domain in _domains_above(fqdn):
            known = yield from self._known_or_found(domain, steps)
            if known.keys:
                return known.keys
            if failure is None or isinstance(failure, NoCoordinator):
                failure = known.error
            if not isinstance(known.error, NoCoordinator):
                break
        if isinstance(failure, Refused):
            raise failure
        if isinstance(failure, UnavailableError):
            raise Refused(RefusalCode.UNREACHABLE, str(failure)[:200])
        raise Refused(RefusalCode.UNKNOWN_NAME, f"no coordinator of {fqdn} is known")

    def _known_or_found(self, domain: str, steps: DirectionSteps) -> Process[_Domain]:
        party = self._party
        known = self._domains.get(domain)
        if known is None:
            if len(self._domains) >= MAX_DOMAINS:
                del self._domains[next(iter(self._domains))]
            known = self._domains[domain] = _Domain()
        if known.finding is not None:
            yield from wait(known.finding, FINDING_TIMEOUT)
            return known
        party.trace(steps.look_up, party.now, message=f"NS {domain}")
        if known.expires_at > party.now and all(map(self._keep_channel, known.keys)):
            return known
        finding = known.finding = Event()
        try:
            known.keys = yield from self._find(domain)
            known.error = None
            known.expires_at = party.now + FOUND_LIFETIME
        except NtmpatchError as error:
            known.keys, known.error = (), error
            known.expires_at = party.now + MISSED_LIFETIME
        finally:
            known.finding = None
            finding.set()
        return known

    def _find(self, domain: str) -> Process[tuple[bytes, ...]]:
        finder = self._finder
        if finder is None:
            raise NoCoordinator(f"this coordinator asks nobody about {domain}")
        found = yield from work(lambda: finder.find(domain), f"NS {domain}")
        keys: list[bytes] = []
        failure: Refused | None = None
        for each in found:
            try:
                key = yield from self._believe(each, domain)
            except Refused as refusal:
                failure = refusal
                self._party.emit(Failed(refusal, f"coordinator {each.fqdn} of {domain}"))
            else:
                keys.append(key)
                if len(keys) == MAX_COORDINATORS:
                    break
        if not keys:
            raise failure or NoCoordinator(f"{domain} has no coordinator")
        return tuple(keys)

    def _believe(self, found: FoundCoordinator, domain: str) -> Process[bytes]:
        """Meet who DNS named, if the AS says that it leads the domain."""
        party = self._party
        certificate = party.verify(found.certificate, role="dc")
        if domain not in certificate.led_domains:
            raise Refused(
                RefusalCode.WRONG_DOMAIN, f"{certificate.fqdn} is not certified for {domain}"
            )
        key = certificate.public_key
        if key == party.public_key:
            return key
        yield from party.authenticate(certificate)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Coordinator(certificate)
        known.certificate = certificate
        known.endpoints = found.endpoints
        party.introduce(key, "DC", certificate.fqdn)
        self._meet(key, known, again=False)
        return key

    # --- channels ------------------------------------------------------------------------

    def _keep_channel(self, key: bytes) -> bool:
        """Use the channel to ``key`` for longer; False if it is gone, with all that it rests on."""
        known = self._known.get(key)
        if known is not None:
            self._meet(key, known, again=False)
        return known is not None or key == self._party.public_key

    def call_again(self, key: bytes) -> None:
        """``key`` was silent: it may have restarted and lost the channel, so make a new one."""
        known = self._known.get(key)
        if known is not None:
            self._keys.drop_offered(key)
            self._meet(key, known, again=True)

    def _meet(self, key: bytes, known: _Coordinator, *, again: bool) -> None:
        party = self._party
        is_new = key not in party.admission
        party.admission.confirm(key, expires_at=party.now + CHANNEL_LIFETIME)
        if is_new or again:
            party.emit(
                Contact(
                    key,
                    known.endpoints,
                    initiate=True,
                    role="dc",
                    name=known.certificate.fqdn,
                )
            )

    # --- shared keys ---------------------------------------------------------------------

    def share_key(self, coordinator: bytes, steps: DirectionSteps) -> Process[SharedKey]:
        """Fig. 3 (4), (5), if no key that we offered is still good."""
        party = self._party
        shared = self._keys.offered_to(coordinator, party.now)
        if shared is None:
            shared = self._keys.make(party.now)
            yield from ask(
                coordinator,
                SharedKeyOffer(
                    shared.key_id,
                    shared.key,
                    shared.expires_at - party.now,
                    party.enrolment.certificate,
                ),
                Ack,
                steps.offer,
                timeout=OFFER_TIMEOUT,
            )
            self._keys.taken(coordinator, shared)
        return shared

    def drop_key(self, coordinator: bytes) -> None:
        """``coordinator`` has lost what we offered."""
        self._keys.drop_offered(coordinator)

    def accepted_key(self, coordinator: bytes, key_id: bytes) -> SharedKey:
        """A key that ``coordinator`` offered; Refused KEY_UNKNOWN if there is none of that id."""
        shared = self._keys.accepted_from(coordinator, key_id, self._party.now)
        if shared is None:
            raise Refused(RefusalCode.KEY_UNKNOWN, "offer a shared key first")
        return shared

    def _accept_key(self, message: SharedKeyOffer, request: Request) -> Process[Ack]:
        """Fig. 3 (4) → (5)."""
        party = self._party
        peer = request.peer
        lifetime = min(message.lifetime, SHARED_KEY_LIFETIME)
        if peer != party.public_key:
            certificate = party.verify(message.certificate, role="dc", public_key=peer)
            yield from party.authenticate(certificate)
            known = self._known.setdefault(peer, _Coordinator(certificate))
            known.certificate = certificate
            known.asks_until = party.now + lifetime
            party.introduce(peer, "DC", certificate.fqdn)
            party.admission.confirm(peer, expires_at=party.now + CHANNEL_LIFETIME)
        self._keys.accept(peer, SharedKey(message.key_id, message.key, party.now + lifetime))
        return Ack()


def _domains_above(fqdn: str) -> list[str]:
    """The domains that a name can lie in, the nearest first."""
    try:
        labels = normalise_fqdn(fqdn).split(".")
    except ConfigError:
        return []
    return [".".join(labels[start:]) for start in range(1, len(labels) - 1)][:MAX_LABELS]
