"""What the account server keeps: accounts, tokens, leases. Every write is durable on return.

The implementation over SQLAlchemy is runtime/store.py; methods block and run as jobs. Any number of
account servers may share one store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ntmpatch.base.addresses import domain_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.wire.control_messages import RevocationReason

MAX_CERTIFICATE_LIFETIME = 7 * 86400.0
CLOCK_TOLERANCE = 300.0
"""Seconds that others' clocks may be behind ours."""
REVOCATION_LIFETIME = MAX_CERTIFICATE_LIFETIME + 2 * CLOCK_TOLERANCE
"""Seconds for which a revocation is told: what was certified before it has run out by then."""


@dataclass(slots=True, frozen=True)
class Account:
    """One name with its role; ``public_key`` is None until it has enrolled."""

    fqdn: str
    role: str
    """``node``, ``dc``, ``ns`` or ``rs``."""
    public_key: bytes | None = None
    revoked: bool = False
    certificate: bytes = b""
    """The latest that was signed for ``public_key``."""
    endpoints: tuple[Endpoint, ...] = ()
    """Where a server can be reached, as it told at enrolment or renewal."""
    expires_at: float | None = None
    """Seconds since 1970; None: never."""
    domains: tuple[str, ...] = ()
    """Of a DC: what it leads beside the domain of its own name."""

    def leads(self, domain: str) -> bool:
        """Whether this is a DC of ``domain``."""
        return self.role == "dc" and (domain == domain_of(self.fqdn) or domain in self.domains)

    def has_expired(self, now: float) -> bool:
        """Whether the account's time is over."""
        return self.expires_at is not None and now >= self.expires_at


@dataclass(slots=True, frozen=True)
class PrefixLease:
    """The virtual prefixes of one domain, as text; no two leases overlap."""

    domain: str
    ipv4_prefix: str
    ipv6_prefix: str


@dataclass(slots=True, frozen=True)
class Revocation:
    """A key that counts no more, or (REINSTATED) counts again; in the order of ``serial``."""

    serial: int
    public_key: bytes
    """Empty: the account had none at the time."""
    fqdn: str
    reason: RevocationReason


class AccountStore(Protocol):
    """Durable state of the AS. ``now`` is seconds since 1970; ``origin`` is for the audit log."""

    def redeem_token(
        self, token_id: bytes, secret: bytes, public_key: bytes, now: float, origin: str = ""
    ) -> Account:
        """Use up a token for ``public_key``; again with the same key changes nothing.

        The account's earlier key, if there is one, is replaced: a revocation. Atomic. Raises
        `signalling.errors.Refused`: TOKEN_WRONG (unknown id or secret), TOKEN_WITHDRAWN,
        TOKEN_USED (by another key), TOKEN_EXPIRED, REVOKED, ACCOUNT_EXPIRED, KEY_IN_USE.
        """

    def offer_key(
        self, public_key: bytes, token_id: bytes, secret: bytes, expires_at: float, now: float,
        origin: str = "",
    ) -> None:  # fmt: skip
        """Let whoever shows ``secret`` take over the account of ``public_key`` with another key.

        It is a token that the account's own key has made. Again with the same id: nothing.
        """

    def account_of(self, public_key: bytes) -> Account | None:
        """The account that this key enrolled for; revoked ones as well."""

    def account_named(self, fqdn: str) -> Account | None:
        """The account of this name."""

    def revocation_of(self, public_key: bytes) -> Revocation | None:
        """Why this key counts no more, if that is not long ago."""

    def revocations_since(self, serial: int, now: float, limit: int) -> list[Revocation]:
        """The next ``limit`` revocations after that serial, oldest first.

        Accounts whose time is over by ``now`` are among them.
        """

    def save_certificate(
        self, fqdn: str, certificate: bytes, endpoints: Sequence[Endpoint] | None, now: float,
        origin: str = "",
    ) -> None:  # fmt: skip
        """Keep what was signed; ``endpoints`` None leaves those as they are."""

    def servers_of(self, domain: str, role: str) -> list[Account]:
        """Enrolled accounts of that role that are not revoked and serve ``domain``."""

    def lease_prefixes(self, domain: str, now: float, origin: str = "") -> PrefixLease:
        """The domain's prefixes, the same ones every time. Refused EXHAUSTED if none is left."""

    def leases_after(self, domain: str, limit: int) -> list[PrefixLease]:
        """Leases of the domains whose names come after ``domain``, in their order."""
