"""The account server: enrols by token, certifies, answers coordinators' inquiries, leases prefixes.

It keeps nothing in memory about anybody: whom it certified is in its store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntmpatch.base.addresses import domain_of
from ntmpatch.crypto.certificate import Certificate, issue
from ntmpatch.servers.account.signing import Keyring, SigningKeys
from ntmpatch.servers.account.store import CLOCK_TOLERANCE, MAX_CERTIFICATE_LIFETIME
from ntmpatch.signalling.effects import Ready
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.party import Party
from ntmpatch.signalling.process import Process, work
from ntmpatch.signalling.revoked import revocations_that_fit
from ntmpatch.wire.control import fits
from ntmpatch.wire.control_messages import (
    MAX_DOMAINS_A_MESSAGE,
    MAX_REVOCATIONS_A_MESSAGE,
    Ack,
    Address,
    AuthenticationInquiry,
    AuthenticationVerdict,
    CertificateRenewal,
    EnrolmentRequest,
    EnrolmentResponse,
    FederatedDomain,
    FederationRequest,
    FederationResponse,
    KeyRotationRequest,
    PrefixLeaseRequest,
    PrefixLeaseResponse,
    RefusalCode,
    RevocationReason,
    Revocations,
    RevocationsRequest,
    RevokedKey,
    ServerLocation,
    addresses_of,
)

if TYPE_CHECKING:
    from ntmpatch.servers.account.store import Account, AccountStore
    from ntmpatch.signalling.engine import Request

CERTIFICATE_LIFETIME = MAX_CERTIFICATE_LIFETIME
"""Seconds; renewed at half, so an AS may be away for days."""
VERDICT_LIFETIME = 60.0
"""Seconds for which a coordinator may rely on a verdict; revocations do not wait for its end."""
UNKNOWN_LIFETIME = 10.0
"""The same where the AS does not know the key: an account may be made for it any time."""
IDLE_TIMEOUT = 180.0
"""Seconds without a request after which a channel goes; a WireGuard session lasts no longer."""
BRIEF_TIMEOUT = 12.0
"""The same for nodes, which ask once in days: before the tunnel would call a node that has left."""
KEY_OFFER_LIFETIME = 86400.0
"""Seconds within which the key that follows another has to show itself."""
MAX_COORDINATORS = 3
"""Coordinators that an answer names: more would not fit one datagram."""


class AccountServer(Party):
    """AS. ``signing_key``: the Ed25519 private key (32 bytes) that everybody's trust rests on.

    Or several of them, of which one signs at a time.
    """

    role = "AS"
    provisional_limit = 4096

    def __init__(
        self,
        public_key: bytes,
        *,
        store: AccountStore,
        signing_key: bytes | SigningKeys,
        certificate_lifetime: float = CERTIFICATE_LIFETIME,
        verdict_lifetime: float = VERDICT_LIFETIME,
        **settings: Any,
    ) -> None:
        super().__init__(public_key, **settings)
        self._store = store
        self._signing_keys: SigningKeys = (
            Keyring.of(signing_key) if isinstance(signing_key, bytes) else signing_key
        )
        self._certificate_lifetime = certificate_lifetime
        self._verdict_lifetime = verdict_lifetime
        self.on(EnrolmentRequest, self._enrol)
        self.on(CertificateRenewal, self._renew)
        self.on(AuthenticationInquiry, self._inquire)
        self.on(PrefixLeaseRequest, self._lease)
        self.on(FederationRequest, self._tell_domains)
        self.on(KeyRotationRequest, self._offer_key)
        self.on(RevocationsRequest, self._tell_revocations)

    def begin(self, now: float) -> None:
        """Nothing is needed to serve."""
        self.now = now
        self.emit(Ready(self.role, self.name))

    # Every handler first asks the store who the channel's key belongs to: `permits` is all true.

    def _enrol(self, message: EnrolmentRequest, request: Request) -> Process[EnrolmentResponse]:
        wall_now, origin = self.wall_clock(), self._origin(request)

        def job() -> tuple[EnrolmentResponse, str]:
            account = self._store.redeem_token(
                message.token_id, message.secret, request.peer, wall_now, origin
            )
            answer = self._certify(account, request.peer, message.endpoints, wall_now, origin)
            return answer, account.role

        response, role = yield from work(job, "enrolment", stored=True)
        self._meet(request.peer, role)
        self.note("enrolled", peer=self.peer_name(request.peer), role=role)
        return response

    def _renew(self, message: CertificateRenewal, request: Request) -> Process[EnrolmentResponse]:
        wall_now, origin = self.wall_clock(), self._origin(request)

        def job() -> tuple[EnrolmentResponse, str]:
            account = self._account(request.peer, wall_now)
            answer = self._certify(account, request.peer, message.endpoints, wall_now, origin)
            return answer, account.role

        response, role = yield from work(job, "certificate renewal", stored=True)
        self._meet(request.peer, role)
        return response

    def _inquire(
        self, message: AuthenticationInquiry, request: Request
    ) -> Process[AuthenticationVerdict]:
        wall_now = self.wall_clock()

        def job() -> AuthenticationVerdict:
            self._account(request.peer, wall_now, role="dc")
            try:
                account = self._account(message.public_key, wall_now)
            except Refused as refusal:
                unknown = refusal.code is RefusalCode.NOT_ENROLLED
                lifetime = UNKNOWN_LIFETIME if unknown else self._verdict_lifetime
                return AuthenticationVerdict(False, lifetime, str(refusal)[:200], refusal.code)
            if account.fqdn != message.fqdn:
                text, code = "not the key of this name", RefusalCode.CERTIFICATE_INVALID
                return AuthenticationVerdict(False, UNKNOWN_LIFETIME, text, code)
            return AuthenticationVerdict(True, self._verdict_lifetime)

        verdict = yield from work(job, "authentication inquiry", stored=True)
        self._meet(request.peer)
        return verdict

    def _lease(self, message: PrefixLeaseRequest, request: Request) -> Process[PrefixLeaseResponse]:
        wall_now, origin = self.wall_clock(), self._origin(request)

        def job() -> PrefixLeaseResponse:
            account = self._account(request.peer, wall_now, role="dc")
            if message.domain != domain_of(account.fqdn):
                raise Refused(
                    RefusalCode.NOT_AUTHORISED, f"{account.fqdn} does not lead {message.domain}"
                )
            lease = self._store.lease_prefixes(message.domain, wall_now, origin)
            prefixes = (lease.ipv4_prefix, lease.ipv6_prefix)
            certificate = self._sign(account, request.peer, prefixes, wall_now)
            self._store.save_certificate(account.fqdn, certificate, None, wall_now, origin)
            return PrefixLeaseResponse(*prefixes, certificate)

        response = yield from work(job, "prefix lease", stored=True)
        self._meet(request.peer)
        return response

    def _tell_domains(
        self, message: FederationRequest, request: Request
    ) -> Process[FederationResponse]:
        wall_now = self.wall_clock()

        def job() -> tuple[FederationResponse, str]:
            account = self._account(request.peer, wall_now)
            leases = self._store.leases_after(message.after, MAX_DOMAINS_A_MESSAGE)
            domains = (
                FederatedDomain(lease.domain, lease.ipv4_prefix, lease.ipv6_prefix)
                for lease in leases
            )
            return FederationResponse(tuple(domains)), account.role

        response, role = yield from work(job, "list of domains", stored=True)
        self._meet(request.peer, role)
        return response

    def _offer_key(self, message: KeyRotationRequest, request: Request) -> Process[Ack]:
        wall_now, origin = self.wall_clock(), self._origin(request)
        expires_at = wall_now + KEY_OFFER_LIFETIME

        def job() -> str:
            account = self._account(request.peer, wall_now)
            self._store.offer_key(
                request.peer, message.token_id, message.secret, expires_at, wall_now, origin
            )
            return account.role

        role = yield from work(job, "key rotation", stored=True)
        self._meet(request.peer, role)
        return Ack()

    def _tell_revocations(
        self, message: RevocationsRequest, request: Request
    ) -> Process[Revocations]:
        wall_now = self.wall_clock()

        def job() -> Revocations:
            self._account(request.peer, wall_now, role="dc")
            found = self._store.revocations_since(
                message.since, wall_now, MAX_REVOCATIONS_A_MESSAGE
            )
            return revocations_that_fit(
                [
                    RevokedKey(each.serial, each.public_key, each.fqdn, int(each.reason))
                    for each in found
                ]
            )

        response = yield from work(job, "list of revocations", stored=True)
        self._meet(request.peer)
        return response

    def _origin(self, request: Request) -> str:
        """Where a request came from, for the audit log."""
        return str(self.sources.get(request.peer, ""))

    # --- in the job's thread: only the store and the signing keys are touched ------------

    def _account(self, public_key: bytes, wall_now: float, *, role: str | None = None) -> Account:
        """The account of an enrolled key; Refused, by the name of the reason."""
        account = self._store.account_of(public_key)
        if account is None:
            revocation = self._store.revocation_of(public_key)
            if revocation is not None and revocation.reason is RevocationReason.REPLACED:
                raise Refused(RefusalCode.KEY_REPLACED, f"{revocation.fqdn} has another key now")
            raise Refused(RefusalCode.NOT_ENROLLED, "this key is not enrolled")
        if account.revoked:
            raise Refused(RefusalCode.REVOKED, f"{account.fqdn} is revoked")
        if account.has_expired(wall_now):
            raise Refused(RefusalCode.ACCOUNT_EXPIRED, f"the account of {account.fqdn} has expired")
        if role is not None and account.role != role:
            raise Refused(RefusalCode.NOT_AUTHORISED, f"{account.fqdn} is no {role}")
        return account

    def _certify(
        self,
        account: Account,
        public_key: bytes,
        endpoints: tuple[Address, ...],
        wall_now: float,
        origin: str,
    ) -> EnrolmentResponse:
        domain = domain_of(account.fqdn)
        prefixes: tuple[str, ...] = ()
        if account.role == "dc":
            lease = self._store.lease_prefixes(domain, wall_now, origin)
            prefixes = (lease.ipv4_prefix, lease.ipv6_prefix)
        certificate = self._sign(account, public_key, prefixes, wall_now)
        reached_at = [address.endpoint() for address in endpoints]
        self._store.save_certificate(
            account.fqdn, certificate, reached_at or None, wall_now, origin
        )
        coordinators = tuple(
            ServerLocation("dc", dc.certificate, addresses_of(dc.endpoints[:2]))
            for dc in self._store.servers_of(domain, "dc")[:MAX_COORDINATORS]
            if dc.certificate and dc.endpoints and dc.fqdn != account.fqdn
        )
        signing_keys = self._signing_keys.announced(wall_now)
        while not fits(response := EnrolmentResponse(certificate, coordinators, signing_keys)):
            coordinators = coordinators[:-1]
        return response

    def _sign(
        self, account: Account, public_key: bytes, prefixes: tuple[str, ...], wall_now: float
    ) -> bytes:
        not_after = wall_now + self._certificate_lifetime
        if account.expires_at is not None:
            not_after = min(not_after, account.expires_at)
        certificate = Certificate(
            role=account.role,
            fqdn=account.fqdn,
            public_key=public_key,
            prefixes=prefixes,
            not_before=wall_now - CLOCK_TOLERANCE,
            not_after=not_after,
            domains=account.domains,
        )
        return issue(certificate, self._signing_keys.signing(wall_now))

    # --- channels ------------------------------------------------------------------------

    def _meet(self, peer: bytes, role: str = "dc") -> None:
        """Keep the channel of somebody certified while it is in use."""
        timeout = BRIEF_TIMEOUT if role == "node" else IDLE_TIMEOUT
        self.admission.confirm(peer, expires_at=self.now + timeout)
