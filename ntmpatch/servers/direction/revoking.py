"""Revocation: the AS numbers the keys that count no more, and this coordinator asks for them.

It expels its own nodes and servers that have such a key, and tells those of its nodes that were
directed to it, woken as for a route direction: the tunnels go. So a revocation reaches a tunnel
within `POLL_INTERVAL` and one delivery. Nodes of which it does not know whom they were directed to,
since that was before its start or is forgotten, are told everything. Nodes to whom nothing could be
delivered ask when they next register and see the number.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from ntmpatch.signalling.effects import Failed
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.process import Process, ask, sleep, work
from ntmpatch.signalling.revoked import LIFETIME
from ntmpatch.wire.control_messages import (
    Ack,
    RevocationNotice,
    RevocationReason,
    Revocations,
    RevocationsRequest,
    RevokedKey,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ntmpatch.servers.direction.locations import Node
    from ntmpatch.servers.direction.server import DirectionServer
    from ntmpatch.signalling.engine import Request

POLL_INTERVAL = 15.0
POLL_TIMEOUT = 5.0
FIRST_POLL_TIMEOUT = 2.0
"""The coordinator's start waits for it, and for no longer: the AS may be away."""
MAX_PAIRS = 262_144
"""Directions that are remembered: node and peer, some 150 bytes each."""
MAX_DELIVERIES = 64
"""Nodes that are told at once; others wait their turn."""
MAX_WAITING = 1 << 20
"""Notices that wait to be delivered; beyond, nodes learn it when they register."""
DELIVERY_TIMEOUT = 3.0
DELIVERY_RETRIES = (2.0, 10.0)


class Revoking:
    """The part of a DC that hears revocations and passes them on."""

    def __init__(self, party: DirectionServer) -> None:
        self._party = party
        self._directed: OrderedDict[bytes, dict[bytes, float]] = OrderedDict()
        self._pairs = 0
        self._told_all: dict[bytes, float] = {}
        """Nodes whose directions are not known here, and until when that matters."""
        self._waiting: deque[tuple[bytes, RevokedKey]] = deque()
        self._deliveries = 0
        party.on(RevocationsRequest, self._tell)

    @property
    def serial(self) -> int:
        """Number of the last revocation that is known here."""
        return self._party.revoked.serial

    def directed(self, node: bytes, peer: bytes) -> None:
        """One of our nodes was directed to ``peer``: it is told if that key is revoked."""
        nodes = self._directed.setdefault(peer, {})
        self._directed.move_to_end(peer)
        self._pairs += node not in nodes
        # As long as a certificate lives: after that the peer needed another direction or key.
        nodes[node] = self._party.now + LIFETIME
        while self._pairs > MAX_PAIRS:
            _, forgotten = self._directed.popitem(last=False)
            self._pairs -= len(forgotten)
            self._told_all.update(forgotten)

    def known_from_before(self, nodes: Iterable[bytes]) -> None:
        """Nodes that were directed by whoever had our key and state before we started."""
        until = self._party.now + LIFETIME
        self._told_all.update((node, until) for node in nodes)

    # --- hearing -------------------------------------------------------------------------

    def keep(self) -> Process[None]:
        """Ask the AS, again and again."""
        while True:
            yield from sleep(POLL_INTERVAL)
            yield from self.poll(POLL_TIMEOUT)

    def poll(self, timeout: float = FIRST_POLL_TIMEOUT) -> Process[None]:
        """Ask the AS for all that is new."""
        party = self._party
        try:
            while True:
                before = self.serial
                request = RevocationsRequest(before)
                page = yield from ask(party.account_server, request, Revocations, timeout=timeout)
                for revoked in page.revoked:
                    yield from self._hear(revoked)
                if self.serial == before:
                    return
        except (Silent, Refused) as failure:
            party.emit(Failed(failure, "list of revocations"))
            party.meet_account_server(initiate=True)

    def _hear(self, revoked: RevokedKey) -> Process[None]:
        party = self._party
        counts_no_more = party.revoked.hear(revoked, party.now)
        if revoked.public_key:
            party.verdicts.forget(revoked.public_key)
        if counts_no_more:
            itself = party.locations.node(revoked.public_key)
            party.expel(revoked.public_key)
            if itself is not None:
                party.start(self._inform_itself(itself, revoked), what="telling a node its end")
            nodes = self._directed.pop(revoked.public_key, {})
            self._pairs -= len(nodes)
            for node, until in (self._told_all | nodes).items():
                if until > party.now:
                    self._deliver(node, revoked)
        if revoked.reason == RevocationReason.REMOVED and party.leads(revoked.fqdn):
            fqdn, wall_now = revoked.fqdn, party.wall_clock()
            release = party.store.release_addresses
            yield from work(lambda: release(fqdn, wall_now), "release of addresses", stored=True)

    # --- telling -------------------------------------------------------------------------

    def _deliver(self, node: bytes, revoked: RevokedKey) -> None:
        if len(self._waiting) >= MAX_WAITING:
            return
        self._waiting.append((node, revoked))
        if self._deliveries < MAX_DELIVERIES:
            self._deliveries += 1
            self._party.start(self._work_off(), what="delivery of revocations")

    def _work_off(self) -> Process[None]:
        try:
            while self._waiting:
                yield from self._inform(*self._waiting.popleft())
        finally:
            self._deliveries -= 1

    def _inform(self, node_key: bytes, revoked: RevokedKey) -> Process[None]:
        party = self._party
        notice = RevocationNotice(revoked.public_key, revoked.reason)
        for retry_interval in (*DELIVERY_RETRIES, None):
            node = party.locations.node(node_key)
            if node is None:
                return
            try:
                yield from party.wake(node)
                yield from ask(node_key, notice, Ack, timeout=DELIVERY_TIMEOUT)
                return
            except Silent as silence:
                party.emit(Failed(silence, f"telling {node.record.fqdn} of a revocation"))
            except Refused:
                return  # it does not know such notices, or us: it will ask when it registers
            if retry_interval is not None:
                yield from sleep(retry_interval)

    def _inform_itself(self, node: Node, revoked: RevokedKey) -> Process[None]:
        """It would see by its next registration, which may be long from now."""
        notice = RevocationNotice(revoked.public_key, revoked.reason)
        with contextlib.suppress(Silent, Refused):
            yield from self._party.wake(node)
            yield from ask(node.public_key, notice, Ack, timeout=DELIVERY_TIMEOUT)

    def _tell(self, message: RevocationsRequest, request: Request) -> Revocations:
        """A node asks for what it has missed."""
        self._party.registered(request.peer)
        return self._party.revoked.since(message.since)
