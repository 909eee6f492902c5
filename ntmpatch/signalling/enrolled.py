"""A party that the AS has certified: everyone but the AS itself.

It enrols with its token once, keeps its certificate fresh, learns its domain's coordinators, and
judges the certificates of others by the AS's signing keys alone.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol

import msgspec

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.backoff import Backoff
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import ConfigError, UntrustedError
from ntmpatch.base.packing import BROKEN
from ntmpatch.crypto.certificate import verify_by_any_untrusted
from ntmpatch.crypto.certificate_cache import CertificateCache
from ntmpatch.signalling.effects import Contact, Failed, Persist
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.party import Party
from ntmpatch.signalling.process import Process, ask, sleep
from ntmpatch.signalling.revoked import RevokedKeys
from ntmpatch.wire.control_messages import (
    Ack,
    CertificateRenewal,
    EnrolmentRequest,
    EnrolmentResponse,
    FederatedDomain,
    KeyRotationRequest,
    RefusalCode,
    ServerLocation,
    addresses_of,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.crypto.certificate import Certificate

FIRST_RETRY_INTERVAL = 0.5
MAX_RETRY_INTERVAL = 30.0
MIN_RENEWAL_INTERVAL = 10.0
COORDINATOR_RETRY_INTERVAL = 1.0
"""Seconds until the AS is asked again for a coordinator when the domain has none yet."""
ATTEMPT_TIMEOUT = 4.0
MIN_DOUBT_INTERVAL = 60.0
"""Seconds between questions to the AS because of certificates that it seems not to have signed."""


class EnrolmentToken(Protocol):
    """What enrolment needs of a token (crypto/token.py)."""

    @property
    def account_server(self) -> bytes:
        """The AS's X25519 public key."""

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Where the AS is."""

    @property
    def signing_key(self) -> bytes:
        """The AS's Ed25519 public key."""

    @property
    def token_id(self) -> bytes:
        """Which token this is."""

    @property
    def secret(self) -> bytes:
        """What shows that it is ours; good once."""


class EnrolmentState(msgspec.Struct, frozen=True):
    """What an enrolled party keeps between its starts (beside its private key)."""

    account_server: bytes
    account_server_endpoints: tuple[Endpoint, ...]
    signing_key: bytes
    certificate: bytes = b""
    coordinators: tuple[ServerLocation, ...] = ()
    federation: tuple[FederatedDomain, ...] = ()
    """The domains that there are, as a node's DC told them."""
    federation_version: int = 0
    signing_keys: tuple[bytes, ...] = ()
    """By which the AS certifies, as itself said last; before that, ``signing_key`` of the token."""

    @property
    def trusted_keys(self) -> tuple[bytes, ...]:
        """The signing keys by which certificates are judged."""
        return self.signing_keys or (self.signing_key,)

    def encode(self) -> bytes:
        """The state as it is stored."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, stored: bytes) -> EnrolmentState:
        """Read what `encode` made; ConfigError if it is something else."""
        try:
            return msgspec.msgpack.decode(stored, type=cls)
        except BROKEN as error:
            raise ConfigError(f"stored enrolment is damaged: {error}") from None


class EnrolledParty(Party):
    """Base of nodes, DCs, NSs and RSs.

    ``token`` is needed until a ``state`` (see Persist) exists. ``endpoints``: where a server can
    be reached.
    """

    def __init__(
        self,
        public_key: bytes,
        *,
        name: str = "",
        now: float,
        rng: random.Random,
        wall_clock: Callable[[], float],
        entropy: Callable[[int], bytes] = os.urandom,
        token: EnrolmentToken | None = None,
        state: bytes | None = None,
        endpoints: tuple[Endpoint, ...] = (),
        drops: DropCounter | None = None,
    ) -> None:
        super().__init__(
            public_key,
            name=name,
            now=now,
            rng=rng,
            wall_clock=wall_clock,
            entropy=entropy,
            drops=drops,
        )
        self.endpoints = endpoints
        self.revoked = RevokedKeys()
        """Keys of which the AS has said that they count no more."""
        self._certificates = CertificateCache()
        self._token = token
        if state is not None:
            self.enrolment = EnrolmentState.decode(state)
        elif token is not None:
            self.enrolment = EnrolmentState(
                token.account_server, tuple(token.endpoints), token.signing_key
            )
        else:
            raise ConfigError("neither a token nor the state of an earlier enrolment is given")
        self.account_server = self.enrolment.account_server
        self.introduce(self.account_server, "AS", "")
        self.certificate: Certificate | None = None
        self._keys_asked_at: float | None = None
        """When the AS was asked last; None: not from here, since we have not begun."""
        if self.enrolment.certificate:
            self._adopt(self.enrolment.certificate)

    # --- certificates ------------------------------------------------------------------

    def verify(
        self, data: bytes, *, role: str | None = None, public_key: bytes | None = None
    ) -> Certificate:
        """The certificate, if the AS signed it, it is valid now, and it says what is expected.

        Refused CERTIFICATE_INVALID otherwise, or for what was heard of its key meanwhile.
        """
        try:
            certificate = verify_by_any_untrusted(
                data,
                self.enrolment.trusted_keys,
                self.wall_clock(),
                self._certificates.verify_untrusted,
            )
        except UntrustedError as error:
            if error.drop is Drop.CERTIFICATE_NOT_SIGNED:
                self._doubt_signing_keys()
            raise Refused(RefusalCode.CERTIFICATE_INVALID, str(error)) from None
        if role is not None and certificate.role != role:
            raise Refused(
                RefusalCode.CERTIFICATE_INVALID, f"certified as {certificate.role}, not {role}"
            )
        if public_key is not None and certificate.public_key != public_key:
            raise Refused(RefusalCode.CERTIFICATE_INVALID, "certified for another key")
        self.revoked.check(certificate.public_key, self.now)
        return certificate

    def _doubt_signing_keys(self) -> None:
        """Perhaps the AS has changed its key while we were away: ask it, now and then."""
        asked_at = self._keys_asked_at
        if asked_at is not None and self.now - asked_at >= MIN_DOUBT_INTERVAL:
            self._keys_asked_at = self.now
            self.start(self.certify(patient=False), what="asking for the AS's signing keys")

    def _adopt(self, data: bytes) -> None:
        """Take ``data`` as our certificate, if it is ours and valid."""
        try:
            certificate = self.verify(data, public_key=self.public_key)
        except Refused:
            return
        self.certificate = certificate
        self.name = certificate.fqdn

    # --- enrolment ---------------------------------------------------------------------

    def enrol(self) -> Process[None]:
        """Be certified: at once if we are, else by the AS, which is asked until it answers.

        Raises Refused if the AS says no.
        """
        self.meet_account_server(initiate=False)
        if self.certificate is None:
            yield from self.certify()
        if self._keys_asked_at is None:
            self._keys_asked_at = self.now - MIN_DOUBT_INTERVAL
        self.start(self._renew_in_time(), what="certificate renewal")

    def find_coordinators(self, *, fresh: bool = False) -> Process[tuple[ServerLocation, ...]]:
        """Our domain's coordinators; ``fresh``: ask the AS, unless it is silent."""
        if fresh and self.coordinators():
            with contextlib.suppress(Silent):
                yield from self.certify(patient=False)
        while not self.coordinators():
            yield from self.certify()
            if not self.coordinators():
                yield from sleep(COORDINATOR_RETRY_INTERVAL)
        return self.coordinators()

    def coordinators(self) -> tuple[ServerLocation, ...]:
        """The coordinators that we know and whose certificates are valid now."""
        valid = []
        for location in self.enrolment.coordinators:
            try:
                self.verify(location.certificate, role="dc")
            except Refused:
                continue
            valid.append(location)
        return tuple(valid)

    def certify(self, *, patient: bool = True) -> Process[None]:
        """Ask the AS for a certificate: by token the first time, by our key afterwards.

        ``patient``: again and again until it answers; otherwise Silent is raised.
        """
        backoff = Backoff(initial=FIRST_RETRY_INTERVAL, maximum=MAX_RETRY_INTERVAL, rng=self.rng)
        while True:
            # The AS forgets whoever asked nothing for a while, and its end of the channel.
            self.meet_account_server(initiate=True)
            try:
                answer = yield from ask(
                    self.account_server,
                    self._certification_request(),
                    EnrolmentResponse,
                    timeout=ATTEMPT_TIMEOUT,
                )
                break
            except Silent as silence:
                if not patient:
                    raise
                self.emit(Failed(silence, "enrolment"))
            except Refused as refusal:
                if refusal.code not in (RefusalCode.BUSY, RefusalCode.FAILED):
                    raise
                self.emit(Failed(refusal, "enrolment"))
            yield from sleep(backoff.next_interval())
        self._keys_asked_at = self.now
        if answer.signing_keys:
            # The channel is that of the AS's own key, which the token named: that is proof enough.
            self.enrolment = msgspec.structs.replace(
                self.enrolment, signing_keys=answer.signing_keys
            )
        self.verify(answer.certificate, public_key=self.public_key)
        self.adopt(answer.certificate, answer.coordinators)

    def offer_key(self, token_id: bytes, secret: bytes) -> Process[None]:
        """Have the AS let another key take the place of ours: whose channel shows ``secret``.

        Raises Refused and Silent.
        """
        self.meet_account_server(initiate=True)
        yield from ask(self.account_server, KeyRotationRequest(token_id, secret), Ack)

    def adopt(
        self, certificate: bytes, coordinators: tuple[ServerLocation, ...] | None = None
    ) -> None:
        """Take a new certificate of ours, and who coordinates, and have them stored."""
        self._adopt(certificate)
        if self.certificate is not None:
            seconds = self.certificate.not_after - self.wall_clock()
            self.note("certified", hours=round(seconds / 3600, 1))
        if coordinators is None:
            coordinators = self.enrolment.coordinators
        self.enrolment = msgspec.structs.replace(
            self.enrolment, certificate=certificate, coordinators=coordinators
        )
        self.emit(Persist(self.enrolment.encode()))

    def learn_domains(self, domains: tuple[FederatedDomain, ...], version: int) -> None:
        """Take the list of domains, and have it stored."""
        self.enrolment = msgspec.structs.replace(
            self.enrolment, federation=domains, federation_version=version
        )
        self.emit(Persist(self.enrolment.encode()))

    def _certification_request(self) -> EnrolmentRequest | CertificateRenewal:
        endpoints = addresses_of(self.endpoints)
        if self._token is not None and not self.enrolment.certificate:
            return EnrolmentRequest(self._token.token_id, self._token.secret, endpoints)
        return CertificateRenewal(endpoints)

    def meet_account_server(self, *, initiate: bool) -> None:
        """Have a channel to the AS; ``initiate``: open it anew."""
        self.emit(
            Contact(
                self.account_server,
                self.enrolment.account_server_endpoints,
                initiate=initiate,
                role="as",
            )
        )

    def _renew_in_time(self) -> Process[None]:
        """Renew the certificate when half of its remaining time is over, again and again."""
        while self.certificate is not None:
            remaining = self.certificate.not_after - self.wall_clock()
            yield from sleep(max(remaining / 2, MIN_RENEWAL_INTERVAL))
            yield from self.certify()
