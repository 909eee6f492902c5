"""How a coordinator finds the coordinators of another domain: Fig. 3 (3), Fig. 5 (10).

The implementation over DNS is runtime/finder.py. What it finds is a claim and nothing more: the
certificate says whether the AS agrees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from ntmpatch.base.errors import RefusedError

if TYPE_CHECKING:
    from ntmpatch.base.addresses import Endpoint


class FoundCoordinator(NamedTuple):
    """A name server of a domain that says it is a coordinator."""

    fqdn: str
    endpoints: tuple[Endpoint, ...]
    certificate: bytes
    """As it was published; nobody has verified it."""


class NoCoordinator(RefusedError):  # noqa: N818 - reads as the answer that it is
    """There is no such domain, or none of its name servers is a coordinator."""


class CoordinatorFinder(Protocol):
    """Finds coordinators by the NS record of their domain."""

    def find(self, domain: str) -> list[FoundCoordinator]:
        """The coordinators of ``domain``, at least one. Blocks, so it runs as a job.

        NoCoordinator: the domain has none. UnavailableError: no resolver answers.
        """
