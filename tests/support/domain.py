"""Whole domains in virtual time: AS, DC, NS, RS, and nodes with accounts.

Domains of one federation share the network and the AS, and find each other as if by DNS.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from memory_stores import MemoryAccountStore, MemoryDirectionStore
from virtual_network import Seat, VirtualNetwork

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.errors import UnavailableError
from ntmpatch.base.policy import Policy
from ntmpatch.crypto.certificate import signing_public_key
from ntmpatch.negotiation.node import NodeNegotiation
from ntmpatch.servers.account.server import AccountServer
from ntmpatch.servers.direction.finding import FoundCoordinator, NoCoordinator
from ntmpatch.servers.direction.server import DirectionServer
from ntmpatch.servers.notification.server import NotificationServer
from ntmpatch.servers.relay.server import RelayServer
from ntmpatch.signalling.effects import Persist, Ready, Resolved, Unresolved

AS_ENDPOINT = Endpoint("192.0.2.1", 4500)
DC_ENDPOINT = Endpoint("192.0.2.2", 4500)


class Ticket(NamedTuple):
    """What a token says."""

    account_server: bytes
    endpoints: tuple[Endpoint, ...]
    signing_key: bytes
    token_id: bytes
    secret: bytes


class Names:
    """DNS as the coordinators see it: who says that it leads which domain."""

    def __init__(self) -> None:
        self.found: dict[str, list[FoundCoordinator]] = {}
        self.coordinators: dict[str, Seat] = {}
        self.is_silent = False
        self.questions: list[str] = []

    def find(self, domain: str) -> list[FoundCoordinator]:
        """What was published: by hand, or else by the domain's coordinator."""
        self.questions.append(domain)
        if self.is_silent:
            raise UnavailableError("no resolver answers")
        if domain in self.found:
            return self.found[domain]
        if domain not in self.coordinators:
            raise NoCoordinator(f"{domain} does not exist")
        seat = self.coordinators[domain]
        party: Any = seat.party
        return [FoundCoordinator(party.name, (seat.endpoint,), party.enrolment.certificate)]


class Domain:
    """One domain; ``home.example`` unless said otherwise. ``beside``: of the same federation."""

    network_type: type[VirtualNetwork] = VirtualNetwork
    network: VirtualNetwork
    names: Names
    accounts: MemoryAccountStore
    number: int
    account_server: Seat

    def __init__(
        self,
        seed: int,
        *,
        name: str = "home.example",
        beside: Domain | None = None,
        **network: Any,
    ) -> None:
        self.rng = random.Random(seed)
        self.name = name
        self.locations = MemoryDirectionStore()
        self.signing_key = self.rng.randbytes(32)
        self.as_key = self.new_key()
        self.dc_key = self.new_key()
        self.policy = Policy()
        self.states: dict[bytes, bytes] = {}
        if beside is not None:
            self.network = beside.network
            self.names = beside.names
            self.accounts = beside.accounts
            self.signing_key, self.as_key = beside.signing_key, beside.as_key
            self.number = beside.number + 1
            self.account_server = beside.account_server
            return
        self.network = self.network_type(seed, **network)
        self.names = Names()
        self.accounts = MemoryAccountStore()
        self.number = 0
        self.account_server = self.start_account_server()

    def new_key(self) -> bytes:
        """A party's public key; where tunnels are modelled, there is no private one."""
        return self.rng.randbytes(32)

    def endpoint(self, host: int) -> Endpoint:
        """Where a server of this domain is."""
        return Endpoint(f"192.0.2.{16 * self.number + host}", 4500)

    # --- servers ---------------------------------------------------------------------------

    def start_account_server(self, **settings: Any) -> Seat:
        party = AccountServer(
            self.as_key,
            name="example",
            store=self.accounts,
            **{"signing_key": self.signing_key, **settings},
            **self.network.settings(),
        )
        party.begin(self.network.now)
        return self.network.seat(party, AS_ENDPOINT)

    def start_coordinator(self) -> Seat:
        seat = self._start(
            DirectionServer,
            self.dc_key,
            f"dc.{self.name}",
            "dc",
            self.endpoint(2),
            store=self.locations,
            finder=self.names,
            policy=self.policy,
        )
        self.names.coordinators[self.name] = seat
        return seat

    def start_standby(self, label: str, host: int) -> Seat:
        """Another coordinator of the domain, with the same database."""
        return self._start(
            DirectionServer,
            self.new_key(),
            f"{label}.{self.name}",
            "dc",
            self.endpoint(host),
            store=self.locations,
        )

    def start_notification_server(
        self, label: str = "ns", host: int = 3, *, key: bytes | None = None, **settings: Any
    ) -> Seat:
        """An NS; the same one again if ``key`` is one's."""
        return self._start(
            NotificationServer,
            key or self.new_key(),
            f"{label}.{self.name}",
            "ns",
            self.endpoint(host),
            **settings,
        )

    def start_relay_server(self, label: str = "rs", host: int = 4) -> Seat:
        return self._start(
            RelayServer, self.new_key(), f"{label}.{self.name}", "rs", self.endpoint(host)
        )

    def start_servers(self) -> None:
        """DC, NS and RS, ready."""
        self.coordinator = self.start_coordinator()
        self.notification_server = self.start_notification_server()
        self.relay_server = self.start_relay_server()
        seats = [self.coordinator, self.notification_server, self.relay_server]
        assert self.network.run(60.0, lambda: all(seat.of(Ready) for seat in seats))

    def _start(
        self, make: Any, key: bytes, fqdn: str, role: str, endpoint: Endpoint, **settings: Any
    ) -> Seat:
        party = make(
            key,
            endpoints=(endpoint,),
            **self.identity(key, fqdn, role),
            **settings,
            **self.network.settings(),
        )
        party.begin(self.network.now)
        return self.network.seat(party, endpoint)

    # --- nodes -----------------------------------------------------------------------------

    def ticket(self, fqdn: str, role: str = "node", *, lifetime: float = 3600.0) -> Ticket:
        """Make an account and its token."""
        ticket = Ticket(
            self.as_key,
            (AS_ENDPOINT,),
            signing_public_key(self.signing_key),
            self.rng.randbytes(16),
            self.rng.randbytes(32),
        )
        expires_at = self.network.wall_clock() + lifetime
        self.accounts.add(fqdn, role, ticket.token_id, ticket.secret, expires_at)
        return ticket

    def identity(self, key: bytes, fqdn: str, role: str) -> dict[str, Any]:
        """The state that the party of this key persisted, or else a new token."""
        seat = self.network.seats.get(key)
        for persisted in seat.of(Persist) if seat is not None else ():
            self.states[key] = persisted.state
        if key in self.states:
            return {"state": self.states[key]}
        return {"token": self.ticket(fqdn, role)}

    def start_node(
        self,
        label: str,
        endpoint: Endpoint,
        *,
        nat: Endpoint | None = None,
        key: bytes | None = None,
        token: Ticket | None = None,
        **settings: Any,
    ) -> Seat:
        """A node that begins to enrol; behind a NAT if it is seen at ``nat``."""
        key = self.new_key() if key is None else key
        identity = {"token": token} if token else self.identity(key, f"{label}.{self.name}", "node")
        party = NodeNegotiation(key, **settings, **identity, **self.network.settings())
        party.begin((endpoint,), self.network.now)
        return self.network.seat(party, endpoint, nat)

    def register(self, *nodes: Seat) -> None:
        """Wait until the nodes are registered, and their notification service as well."""
        assert self.network.run(60.0, lambda: all(node.of(Ready) for node in nodes))
        self.network.run(1.0)

    def resolve(self, node: Seat, label: str, seconds: float = 20.0) -> Resolved | Unresolved:
        """Look a name of the domain up and wait for the answer."""
        party: Any = node.party
        request_id = party.resolve(f"{label}.{self.name}", self.network.now)
        return self.answer(node, request_id, seconds)

    def answer(self, node: Seat, request_id: int, seconds: float = 20.0) -> Resolved | Unresolved:
        """The answer of a look-up."""

        def answers() -> list[Any]:
            effects = [*node.of(Resolved), *node.of(Unresolved)]
            return [effect for effect in effects if effect.request_id == request_id]

        assert self.network.run(seconds, lambda: bool(answers()))
        answer: Resolved | Unresolved
        (answer,) = answers()
        return answer
