"""What the account server keeps: accounts, tokens, leases. Every write is durable on return.

The implementation over SQLAlchemy is runtime/store.py; methods block and run as jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.base.addresses import Endpoint


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


@dataclass(slots=True, frozen=True)
class PrefixLease:
    """The virtual prefixes of one domain, as text; no two leases overlap."""

    domain: str
    ipv4_prefix: str
    ipv6_prefix: str


class AccountStore(Protocol):
    """Durable state of the AS. ``now`` is seconds since 1970."""

    def redeem_token(
        self, token_id: bytes, secret: bytes, public_key: bytes, now: float
    ) -> Account:
        """Use up a token for ``public_key``; again with the same key changes nothing.

        Atomic. Raises `signalling.errors.Refused`: TOKEN_WRONG (unknown id or secret),
        TOKEN_USED (by another key), TOKEN_EXPIRED, REVOKED.
        """

    def account_of(self, public_key: bytes) -> Account | None:
        """The account that this key enrolled for; revoked ones as well."""

    def account_named(self, fqdn: str) -> Account | None:
        """The account of this name."""

    def save_certificate(
        self, fqdn: str, certificate: bytes, endpoints: Sequence[Endpoint] | None, now: float
    ) -> None:
        """Keep what was signed; ``endpoints`` None leaves those as they are."""

    def servers_of(self, domain: str, role: str) -> list[Account]:
        """Enrolled accounts of that role that are not revoked and whose name is in ``domain``."""

    def lease_prefixes(self, domain: str, now: float) -> PrefixLease:
        """The domain's prefixes, the same ones every time. Refused EXHAUSTED if none is left."""

    def leases_after(self, domain: str, limit: int) -> list[PrefixLease]:
        """Leases of the domains whose names come after ``domain``, in their order."""
