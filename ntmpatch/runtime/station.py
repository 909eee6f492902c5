"""A station: one party of the signalling protocol on real sockets, with its tunnel.

Every node and every server is one: a static key, a carrier for its tunnel messages, and a party
whose control messages travel in it. The station carries out what the party asks for in effects;
what it does not know itself it hands to ``on_effect``.
"""

from __future__ import annotations

import logging
import os
import random
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import Endpoint
from ntmpatch.handover.bindings import RelayBindings, RelayedEndpoint, Released
from ntmpatch.handover.ways import PortedEndpoint
from ntmpatch.packet.tunnel.tunnel import Admitted, EndpointChanged, Established, Tunnel
from ntmpatch.runtime.carrier import Carrier, Path
from ntmpatch.runtime.interfaces import is_routable
from ntmpatch.runtime.jobs import Jobs
from ntmpatch.runtime.keylog import key_log
from ntmpatch.runtime.links import NodeLink
from ntmpatch.runtime.logs import log_event
from ntmpatch.runtime.server_ends import ServerEnds
from ntmpatch.runtime.streams import TunnelStream
from ntmpatch.signalling.effects import (
    CheckConnection,
    Contact,
    Effect,
    Failed,
    Forget,
    KeepAlive,
    Noted,
    Reconnect,
    Traced,
    Work,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.base.nat64 import Nat64Prefix
    from ntmpatch.handover.bindings import RelayFailed
    from ntmpatch.handover.paths import PathManager
    from ntmpatch.packet.tunnel.peer import Peer
    from ntmpatch.packet.tunnel.tunnel import TunnelEvent
    from ntmpatch.runtime.jobs import Outcome
    from ntmpatch.runtime.trace import TraceWriter
    from ntmpatch.signalling.effects import RelayRoute
    from ntmpatch.signalling.party import Party
    from ntmpatch.wire.paths import Candidate

log = logging.getLogger("ntmpatch.station")

FIRST_RETRIES = (0.1, 0.2, 0.4, 0.8)
"""Seconds between the first tunnel requests to a peer, before WireGuard's 5 s: both ends have just
been told of each other, and whichever learns it later has missed the first."""


class Station:
    """Runs ``party`` behind ``binds``. To be made and used inside the hub.

    ``group()`` is what the party's jobs on its store run in together (runtime/batching.py).
    """

    def __init__(
        self,
        private_key: bytes,
        make_party: Callable[[bytes], Party],
        *,
        admit: Callable[[bytes], bool] | None,
        trace: TraceWriter,
        on_effect: Callable[[Effect, float], None],
        on_packets: Callable[[Peer[Path], list[memoryview], float], None] | None = None,
        on_event: Callable[[TunnelEvent, float], None] | None = None,
        before_wait: Callable[[float], float | None] | None = None,
        on_datagram: Callable[[memoryview, int, Endpoint], bool] | None = None,
        group: Callable[[], AbstractContextManager[None]] = nullcontext,
        on_link_failed: Callable[[bytes, float], None] | None = None,
        paths: Callable[[Tunnel[Path]], PathManager[Path]] | None = None,
        is_in_use: Callable[[bytes], bool] = lambda _: True,
        on_relay: Callable[[RelayFailed | Released, float], None] | None = None,
        gso: bool = True,
        drops: DropCounter | None = None,
    ) -> None:
        self.rng = random.Random(os.urandom(16))
        self.tunnel: Tunnel[Path] = Tunnel(
            private_key,
            now=time.monotonic(),
            admit=admit,
            rng=self.rng,
            entropy=os.urandom,
            wall_clock=time.time,
            on_handshake=key_log(),
            drops=drops,
        )
        self.paths = paths(self.tunnel) if paths is not None else None
        """How nodes are reached; without, they are where they were last heard from."""
        self.relays = RelayBindings(
            is_used=self._is_used, is_active=is_in_use, drops=self.tunnel.drops
        )
        self.party = make_party(self.tunnel.public_key)
        self.party.traced = trace.active
        self.carrier = Carrier(
            self.tunnel,
            on_packets=on_packets or _ignore_packets,
            on_control=self._control,
            on_event=self._event,
            before_wait=self._run,
            on_datagram=on_datagram,
            paths=self.paths,
            relays=self.relays,
            gso=gso,
        )
        self._trace = trace
        self._on_effect = on_effect
        self._on_event = on_event
        self._above = before_wait
        self._on_link_failed = on_link_failed
        self._on_relay = on_relay
        self._links: dict[bytes, NodeLink] = {}
        self._contacts: dict[bytes, Contact] = {}
        self._servers = ServerEnds(self.reachable, self._has_way)
        self._nat64: Nat64Prefix | None = None
        self._jobs = Jobs(self._worked, group)
        self._to_call: list[Peer[Path]] = []

    def contact(self, public_key: bytes) -> Contact | None:
        """What the party said about this peer."""
        return self._contacts.get(public_key)

    def contacts(self) -> tuple[Contact, ...]:
        """What the party said about all peers."""
        return tuple(self._contacts.values())

    def close(self) -> None:
        """Close links and ports."""
        for link in self._links.values():
            link.close()
        self._jobs.close()
        self.carrier.close()

    def rebind(self, binds: Sequence[Endpoint]) -> None:
        """Move to other local addresses: new ports, and every peer is told at once."""
        self.carrier.bind(binds)
        self.relays.refresh(time.monotonic())
        self.change_families()
        if self.paths is not None:
            self.paths.network_changed(time.monotonic())
        self.carrier.announce()
        for link in self._links.values():
            link.reconnect()

    def moved(
        self,
        is_dead: Callable[[Endpoint | None], bool],
        own: Sequence[Candidate] = (),
        is_stale: Callable[[Path], bool] = lambda _path: True,
    ) -> None:
        """Our addresses are others, the ports the same: every peer is told at once.

        ``is_dead(local)`` says which connections, by their own end, are to be made anew; ``own``
        where peers may find us now; ``is_stale`` which paths begin elsewhere than before.
        """
        self.relays.refresh(time.monotonic())
        if self.paths is not None:
            self.paths.network_changed(time.monotonic(), own, is_stale)
        self.carrier.announce()
        for link in self._links.values():
            if is_dead(link.local()):
                link.reconnect()

    def change_families(self) -> None:
        """What has no way any more is reached in the other family: servers, and relays of nodes.

        Before `moved` and before paths are closed; nodes' own endpoints the path manager knows.
        """
        for contact in self._contacts.values():
            peer = self.tunnel.peers.get(contact.public_key)
            if peer is None or contact.connection:
                continue
            if contact.role != "node":
                self._servers.moved(peer, contact)
                continue
            before = self.relays.path(contact.public_key)
            route = self.relays.route(contact.public_key)
            if before is not None and route is not None and not self._has_way(before.relay):
                path = self._relayed(contact.public_key, route)  # by another address of its relay
                if path is not None:
                    self._watch(peer, [path])

    def use_nat64(self, prefix: Nat64Prefix | None) -> None:
        """What has no IPv6 address is reached by that NAT64 from now on; None: there is none.

        Before paths are closed; nodes' own endpoints the path manager knows.
        """
        before, self._nat64 = self._nat64, prefix
        for contact in self._contacts.values():
            peer = self.tunnel.peers.get(contact.public_key)
            if before is None or peer is None or contact.role == "node":
                continue
            if isinstance(peer.endpoint, Endpoint) and before.holds(peer.endpoint):
                peer.endpoint = self._reachable(contact.endpoints)
        self.change_families()

    def turn_from_silent_servers(self) -> bool:
        """Nothing comes from where they are called, whatever the routes say: try the other family.

        Whether any is called elsewhere now.
        """
        turned = [
            self._servers.silent(peer, contact)
            for contact in self._contacts.values()
            if contact.role != "node" and not contact.connection
            if (peer := self.tunnel.peers.get(contact.public_key)) is not None
        ]
        return any(turned)

    def trace(
        self, step: str, receiver: str = "", message: str = "", *, at: float | None = None
    ) -> None:
        """Note a step of the paper that is no control message; ``at``: not now, but then."""
        self.party.trace(step, time.monotonic() if at is None else at, receiver, message)

    # --- from the carrier --------------------------------------------------------------

    def _control(self, peer: Peer[Path], payload: memoryview, path: Path, now: float) -> None:
        source: Endpoint | None
        if isinstance(path, TunnelStream):
            source = path.remote()
        elif isinstance(path, RelayedEndpoint):
            source = None
        elif isinstance(path, PortedEndpoint):
            source = path.remote
        else:
            source = path  # type: ignore[assignment]  # what is left of the union
        self.party.receive(peer.public_key, bytes(payload), now, source)

    def _event(self, event: TunnelEvent, now: float) -> None:
        if isinstance(event, Established | EndpointChanged):
            self._met_at(event, event.peer)
        elif isinstance(event, Admitted):
            self.party.admitted(event.peer.public_key, now)
        if self._on_event is not None:
            self._on_event(event, now)

    def _met_at(self, event: TunnelEvent, peer: Peer[Path]) -> None:
        """A peer has shown that it is at its endpoint, and no more at the one before."""
        if isinstance(event, EndpointChanged) and isinstance(event.old, TunnelStream):
            event.old.close()
        if isinstance(peer.endpoint, TunnelStream):
            peer.endpoint.claim(peer.public_key)
        link = self._links.get(peer.public_key)
        if link is not None and isinstance(event, Established):
            link.established()

    def _is_used(self, public_key: bytes, path: RelayedEndpoint) -> bool:
        peer = self.tunnel.peers.get(public_key)
        return peer is not None and peer.endpoint == path

    def _hear_of_relays(self, now: float) -> None:
        while (event := self.relays.poll_event()) is not None:
            if isinstance(event, Released) and self.paths is not None:
                self.paths.gone(event.public_key, event.path)
            if self._on_relay is not None:
                self._on_relay(event, now)

    def _run(self, now: float) -> float | None:
        party = self.party
        self._hear_of_relays(now)
        due_at = party.poll_timeout()
        if due_at is not None and due_at <= now:
            party.handle_timeout(now)
        while True:
            while (effect := party.poll_effect()) is not None:
                self._carry_out(effect, now)
            wanted_at = self._above(now) if self._above is not None else None
            transmit = party.poll_transmit()
            if transmit is None:
                break
            while transmit is not None:
                self.carrier.send_control(*transmit, now)
                transmit = party.poll_transmit()
        # Behind the acknowledgement of who had us call: Fig. 3 (13), then (17).
        while self._to_call:
            peer = self._to_call.pop()
            if self.tunnel.peers.get(peer.public_key) is peer:
                peer.initiate(now)
        due_at = party.poll_timeout()
        if wanted_at is None or (due_at is not None and due_at < wanted_at):
            return due_at
        return wanted_at

    # --- effects -----------------------------------------------------------------------

    def _carry_out(self, effect: Effect, now: float) -> None:
        match effect:
            case Work():
                self._jobs.submit(effect)
            case Contact():
                self._meet(effect)
                self._on_effect(effect, now)
            case Reconnect():
                link = self._links.get(effect.public_key)
                if link is not None:
                    link.reconnect()
            case CheckConnection():
                link = self._links.get(effect.public_key)
                effect.answer(None if link is None else link.segments_received(), now)
            case KeepAlive():
                peer = self.tunnel.peers.get(effect.public_key)
                if peer is not None and isinstance(peer.endpoint, TunnelStream):
                    peer.endpoint.keep_alive(effect.interval)
            case Forget():
                self._part(effect.public_key)
                self._on_effect(effect, now)
            case Traced():
                if effect.sent and effect.step:
                    self._trace.write(
                        step=effect.step,
                        sender=effect.sender,
                        receiver=effect.receiver,
                        message=effect.message,
                        at=effect.at,
                    )
            case Failed():
                level = "error" if effect.fatal else "warning"
                facts = {"what": effect.what, "error": effect.error}
                log_event(log, level, "failed", facts, party=self.party)
                self._on_effect(effect, now)
            case Noted():
                log_event(log, effect.level, effect.event, effect.fields, party=self.party)
            case _:
                self._on_effect(effect, now)

    def _worked(self, outcomes: list[Outcome]) -> None:
        now = time.monotonic()
        for job, outcome in outcomes:
            self.party.complete(job, outcome, now)
        self.carrier.wake()

    def _meet(self, contact: Contact) -> None:
        self._contacts[contact.public_key] = contact
        path = self._path(contact)
        watched = self.paths is not None and contact.role == "node"
        peer = self.tunnel.peers.get(contact.public_key)
        if peer is None or peer.preshared_key != contact.preshared_key:
            peer = self.tunnel.add_peer(
                contact.public_key,
                preshared_key=contact.preshared_key,
                endpoint=None if watched else path or (peer.endpoint if peer is not None else None),
                persistent_keepalive_interval=contact.persistent_keepalive_interval,
                first_retries=FIRST_RETRIES,
            )
        else:
            if path is not None and peer.endpoint is None and not watched:
                peer.endpoint = path
            peer.persistent_keepalive_interval = contact.persistent_keepalive_interval
        if contact.role != "node" and not contact.connection:
            self._servers.called(peer, contact, time.monotonic())
        if watched:
            direct = self.reachable(contact.endpoints)
            ways = [path, *direct] if path is not None else direct
            self._watch(peer, ways, contact.endpoints)
        if contact.connection:
            link = self._links.get(contact.public_key)
            if link is None or link.endpoints != contact.endpoints:
                if link is not None:
                    link.close()
                self._links[contact.public_key] = NodeLink(
                    self, peer, contact.endpoints, lambda: self._link_failed(contact.public_key)
                )
        elif contact.initiate:
            self._to_call.append(peer)

    def _watch(
        self, peer: Peer[Path], ways: Sequence[Path], endpoints: Sequence[Endpoint] = ()
    ) -> None:
        if self.paths is not None:
            unique = list(dict.fromkeys(ways))
            leaving = self.relays.replaced(peer.public_key)
            self.paths.watch(peer, unique, time.monotonic(), endpoints, leaving=leaving)

    def _path(self, contact: Contact) -> Path | None:
        if contact.connection:
            return None
        if contact.relay is not None:
            return self._relayed(contact.public_key, contact.relay)
        return self._reachable(contact.endpoints)

    def _relayed(self, public_key: bytes, route: RelayRoute) -> Path | None:
        usable = self.reachable(route.endpoints)
        if not usable:
            return None
        relay = min(usable, key=self._is_other_family)
        return self.relays.take(public_key, route, relay, time.monotonic())

    def _is_other_family(self, end: Endpoint) -> bool:
        """Whether our coordinators are spoken to in the other one: there, networks are in order."""
        spoken_to = (
            self.tunnel.peers[key].endpoint
            for key, contact in self._contacts.items()
            if contact.role == "dc" and key in self.tunnel.peers
        )
        return any(isinstance(each, Endpoint) and each.is_ipv6 != end.is_ipv6 for each in spoken_to)

    def _link_failed(self, public_key: bytes) -> None:
        if self._on_link_failed is not None:
            self._on_link_failed(public_key, time.monotonic())
            self.carrier.wake()

    def _reachable(self, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        return next(iter(self.reachable(endpoints)), None)

    def _has_way(self, end: Endpoint) -> bool:
        """Whether there is a port of that family, and a route."""
        families = {local.is_ipv6 for local in self.carrier.local_endpoints}
        return end.is_ipv6 in families and is_routable(end)

    def reachable(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """Those of ``endpoints`` that are of a family which we have a port for.

        Where a NAT64 is the only way to IPv4 ones, they are as it has them, and the last.
        """
        families = {local.is_ipv6 for local in self.carrier.local_endpoints}
        if self._nat64 is not None and True in families:
            native = [end for end in endpoints if end.is_ipv6 or is_routable(end)]
            others = (self._nat64.embed(end) for end in endpoints if end not in native)
            endpoints = native + [end for end in others if end is not None]
        candidates = [end for end in endpoints if end.is_ipv6 in families]
        if len({end.is_ipv6 for end in candidates}) > 1:
            # A port of a family is bound even where this machine has no way into that network.
            candidates = [end for end in candidates if is_routable(end)] or candidates
        return candidates

    def _part(self, public_key: bytes) -> None:
        self._contacts.pop(public_key, None)
        self._servers.forget(public_key)
        link = self._links.pop(public_key, None)
        if link is not None:
            link.close()
        self.relays.forget(public_key)
        peer = self.tunnel.peers.get(public_key)
        self.tunnel.remove_peer(public_key)
        if self.paths is not None:
            self.paths.forget(public_key)
        if peer is not None and isinstance(peer.endpoint, TunnelStream):
            peer.endpoint.close()


def _ignore_packets(_peer: Peer[Path], _packets: list[memoryview], _now: float) -> None:
    """Servers have no stack: IP packets to them are nobody's."""
