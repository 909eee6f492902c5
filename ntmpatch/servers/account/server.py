"""The account server: enrols by token, certifies, answers coordinators' inquiries, leases prefixes.

It keeps nothing in memory about anybody: whom it certified is in its store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntmpatch.base.addresses import domain_of
from ntmpatch.crypto.certificate import Certificate, issue
from ntmpatch.signalling.effects import Ready
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.party import Party
from ntmpatch.signalling.process import Process, work
from ntmpatch.wire.control_messages import (
    MAX_DOMAINS_A_MESSAGE,
    Address,
    AuthenticationInquiry,
    AuthenticationVerdict,
    CertificateRenewal,
    EnrolmentRequest,
    EnrolmentResponse,
    FederatedDomain,
    FederationRequest,
    FederationResponse,
    PrefixLeaseRequest,
    PrefixLeaseResponse,
    RefusalCode,
    ServerLocation,
    addresses_of,
)

if TYPE_CHECKING:
    from ntmpatch.servers.account.store import Account, AccountStore
    from ntmpatch.signalling.engine import Request

CERTIFICATE_LIFETIME = 7 * 86400.0
"""Seconds; renewed at half, so an AS may be away for days."""
CLOCK_TOLERANCE = 300.0
"""Seconds that others' clocks may be behind ours."""
VERDICT_LIFETIME = 60.0
"""Seconds for which a coordinator may rely on a verdict: the bound of a revocation."""
IDLE_TIMEOUT = 180.0
"""Seconds without a request after which a channel goes; a WireGuard session lasts no longer."""
BRIEF_TIMEOUT = 12.0
"""The same for nodes, which ask once in days: before the tunnel would call a node that has left."""
MAX_COORDINATORS = 3
"""Coordinators that an answer names: more would not fit one datagram."""


class AccountServer(Party):
    """AS. ``signing_key``: the Ed25519 private key (32 bytes) that everybody's trust rests on."""

    role = "AS"
    provisional_limit = 4096

    def __init__(
        self,
        public_key: bytes,
        *,
        store: AccountStore,
        signing_key: bytes,
        certificate_lifetime: float = CERTIFICATE_LIFETIME,
        verdict_lifetime: float = VERDICT_LIFETIME,
        **settings: Any,
    ) -> None:
        super().__init__(public_key, **settings)
        self._store = store
        self._signing_key = signing_key
        self._certificate_lifetime = certificate_lifetime
        self._verdict_lifetime = verdict_lifetime
        self.on(EnrolmentRequest, self._enrol)
        self.on(CertificateRenewal, self._renew)
        self.on(AuthenticationInquiry, self._inquire)
        self.on(PrefixLeaseRequest, self._lease)
        self.on(FederationRequest, self._tell_domains)

    def begin(self, now: float) -> None:
        """Nothing is needed to serve."""
        self.now = now
        self.emit(Ready(self.role, self.name))

    # Every handler first asks the store who the channel's key belongs to: `permits` is all true.

    def _enrol(self, message: EnrolmentRequest, request: Request) -> Process[EnrolmentResponse]:
        wall_now = self.wall_clock()

        def job() -> tuple[EnrolmentResponse, str]:
            account = self._store.redeem_token(
                message.token_id, message.secret, request.peer, wall_now
            )
            answer = self._certify(account, request.peer, message.endpoints, wall_now)
            return answer, account.role

        response, role = yield from work(job, "enrolment", stored=True)
        self._meet(request.peer, role)
        self.note("enrolled", peer=self.peer_name(request.peer), role=role)
        return response

    def _renew(self, message: CertificateRenewal, request: Request) -> Process[EnrolmentResponse]:
        wall_now = self.wall_clock()

        def job() -> tuple[EnrolmentResponse, str]:
            account = self._account(request.peer)
            answer = self._certify(account, request.peer, message.endpoints, wall_now)
            return answer, account.role

        response, role = yield from work(job, "certificate renewal", stored=True)
        self._meet(request.peer, role)
        return response

    def _inquire(
        self, message: AuthenticationInquiry, request: Request
    ) -> Process[AuthenticationVerdict]:
        def job() -> AuthenticationVerdict:
            self._account(request.peer, role="dc")
            account = self._store.account_named(message.fqdn)
            if account is None or account.public_key != message.public_key:
                text = "not the key of this name"
            elif account.revoked:
                text = "revoked"
            else:
                text = ""
            return AuthenticationVerdict(not text, self._verdict_lifetime, text)

        verdict = yield from work(job, "authentication inquiry", stored=True)
        self._meet(request.peer)
        return verdict

    def _lease(self, message: PrefixLeaseRequest, request: Request) -> Process[PrefixLeaseResponse]:
        wall_now = self.wall_clock()

        def job() -> PrefixLeaseResponse:
            account = self._account(request.peer, role="dc")
            if message.domain != domain_of(account.fqdn):
                raise Refused(
                    RefusalCode.NOT_AUTHORISED, f"{account.fqdn} does not lead {message.domain}"
                )
            lease = self._store.lease_prefixes(message.domain, wall_now)
            prefixes = (lease.ipv4_prefix, lease.ipv6_prefix)
            certificate = self._sign(account, request.peer, prefixes, wall_now)
            self._store.save_certificate(account.fqdn, certificate, None, wall_now)
            return PrefixLeaseResponse(*prefixes, certificate)

        response = yield from work(job, "prefix lease", stored=True)
        self._meet(request.peer)
        return response

    def _tell_domains(
        self, message: FederationRequest, request: Request
    ) -> Process[FederationResponse]:
        def job() -> FederationResponse:
            self._account(request.peer, role="dc")
            leases = self._store.leases_after(message.after, MAX_DOMAINS_A_MESSAGE)
            return FederationResponse(
                tuple(
                    FederatedDomain(lease.domain, lease.ipv4_prefix, lease.ipv6_prefix)
                    for lease in leases
                )
            )

        response = yield from work(job, "list of domains", stored=True)
        self._meet(request.peer)
        return response

    # --- in the job's thread: only the store and the signing key are touched -------------

    def _account(self, public_key: bytes, *, role: str | None = None) -> Account:
        account = self._store.account_of(public_key)
        if account is None:
            raise Refused(RefusalCode.NOT_AUTHORISED, "this key is not enrolled")
        if account.revoked:
            raise Refused(RefusalCode.REVOKED, f"{account.fqdn} is revoked")
        if role is not None and account.role != role:
            raise Refused(RefusalCode.NOT_AUTHORISED, f"{account.fqdn} is no {role}")
        return account

    def _certify(
        self,
        account: Account,
        public_key: bytes,
        endpoints: tuple[Address, ...],
        wall_now: float,
    ) -> EnrolmentResponse:
        domain = domain_of(account.fqdn)
        prefixes: tuple[str, ...] = ()
        if account.role == "dc":
            lease = self._store.lease_prefixes(domain, wall_now)
            prefixes = (lease.ipv4_prefix, lease.ipv6_prefix)
        certificate = self._sign(account, public_key, prefixes, wall_now)
        reached_at = [address.endpoint() for address in endpoints]
        self._store.save_certificate(account.fqdn, certificate, reached_at or None, wall_now)
        coordinators = tuple(
            ServerLocation("dc", dc.certificate, addresses_of(dc.endpoints[:2]))
            for dc in self._store.servers_of(domain, "dc")[:MAX_COORDINATORS]
            if dc.certificate and dc.endpoints and dc.fqdn != account.fqdn
        )
        return EnrolmentResponse(certificate, coordinators)

    def _sign(
        self, account: Account, public_key: bytes, prefixes: tuple[str, ...], wall_now: float
    ) -> bytes:
        certificate = Certificate(
            role=account.role,
            fqdn=account.fqdn,
            public_key=public_key,
            prefixes=prefixes,
            not_before=wall_now - CLOCK_TOLERANCE,
            not_after=wall_now + self._certificate_lifetime,
        )
        return issue(certificate, self._signing_key)

    # --- channels ------------------------------------------------------------------------

    def _meet(self, peer: bytes, role: str = "dc") -> None:
        """Keep the channel of somebody certified while it is in use."""
        timeout = BRIEF_TIMEOUT if role == "node" else IDLE_TIMEOUT
        self.admission.confirm(peer, expires_at=self.now + timeout)
