"""Peers that a direction coordinator directs tunnels to: negotiation at work in a node."""

from __future__ import annotations

import errno
import logging
import os
import random
import socket
import time
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event

from ntmpatch.base.addresses import Endpoint, in_domain
from ntmpatch.handover.bindings import RelayFailed, Released
from ntmpatch.handover.paths import PathManager
from ntmpatch.handover.ways import PathChanged, PathLost, Suspected
from ntmpatch.negotiation.node import NameUnknown, NodeNegotiation
from ntmpatch.packet.tunnel.tunnel import EndpointChanged, Established, Expired
from ntmpatch.runtime.alarm import Alarm
from ntmpatch.runtime.door import NameLookupError
from ntmpatch.runtime.ends import FAMILIES, NodeEnds
from ntmpatch.runtime.handover import Handover, ends_connection
from ntmpatch.runtime.interfaces import concrete
from ntmpatch.runtime.nat import NodeNat
from ntmpatch.runtime.nat64 import Nat64
from ntmpatch.runtime.netcheck import known_servers, probe_all, report
from ntmpatch.runtime.packets import PacketSide, Route
from ntmpatch.runtime.peer_events import NO_HANDSHAKE, PeerEvents
from ntmpatch.runtime.peers_static import describe_peer
from ntmpatch.runtime.portmapping import NodePortMapping
from ntmpatch.runtime.set_up import SetUpSteps, trace_set_up
from ntmpatch.runtime.state import ENROLMENT
from ntmpatch.runtime.station import Station
from ntmpatch.signalling.effects import (
    Assigned,
    Contact,
    Failed,
    Forget,
    Left,
    Persist,
    Ready,
    Resolved,
    Unresolved,
)
from ntmpatch.signalling.errors import Silent
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.nat64 import Nat64Prefix
    from ntmpatch.handover.networks import Change, Picture
    from ntmpatch.packet.tunnel.tunnel import Tunnel, TunnelEvent
    from ntmpatch.runtime.carrier import Carrier, Path
    from ntmpatch.runtime.event_feed import EventFeed
    from ntmpatch.runtime.settings import NodeSettings
    from ntmpatch.runtime.trace import TraceWriter
    from ntmpatch.signalling.effects import Effect
    from ntmpatch.signalling.recording import Recording
    from ntmpatch.wire.paths import Candidate

log = logging.getLogger("ntmpatch.node")

DOUBT = 0.7
"""Seconds without a word of the coordinator, which was asked, until another network is tried."""
LEAVE_TIMEOUT = 1.0
"""Seconds for the goodbye, beyond what negotiation gives it."""

DOMAINS_TIMEOUT = 1.0
"""Seconds for the list of domains to come, behind a registration."""
NETCHECK_PATIENCE = 4.0
"""Seconds that `netcheck` gives a node that has just begun to register."""
LOOKUP_TIMEOUT = 12.0
"""Seconds after which a look-up is given up whatever negotiation thinks: EAI_AGAIN."""


class ManagedPeers:
    """Peers that a direction coordinator directs tunnels to."""

    def __init__(
        self,
        settings: NodeSettings,
        packets: PacketSide,
        trace: TraceWriter,
        on_standing: Callable[[Exception | None], None],
        events: EventFeed,
    ) -> None:
        self._settings = settings
        self._on_standing = on_standing
        self._packets = packets
        self._assigned: Assigned | None = None
        self._registered = gevent.event.Event()
        # Made now: while the interpreter ends it could not be.
        self._threadpool: Any = gevent.get_hub().threadpool
        self._left = gevent.event.Event()
        self._lookups: dict[int, gevent.event.AsyncResult[Resolved]] = {}
        self._names: dict[bytes, str] = {}
        self._ends = NodeEnds()
        self.nat = NodeNat(packets.drops, lambda _is_ipv6: self._reachable_elsewhere())
        self._doubt = Alarm(self._turn_if_silent)
        self.port_mapping = NodePortMapping(packets.drops, self._reachable_elsewhere)
        self._station = Station(
            settings.private_key,
            self._make_negotiation,
            admit=None,
            trace=trace,
            on_effect=self._effect,
            on_packets=packets.receive,
            on_event=self._tunnel_event,
            before_wait=self._before_wait,
            on_datagram=self._datagram,
            on_link_failed=self._link_failed,
            paths=self._make_paths,
            is_in_use=self._is_in_use,
            on_relay=self._relay_event,
            gso=settings.offload,
        )
        self.carrier: Carrier = self._station.carrier
        self._ends.use(self.carrier)
        self._events = PeerEvents(events, self.carrier.tunnel)
        self._steps = SetUpSteps(self._station, self._negotiation, packets)
        self._nat64 = Nat64(self._nat64_changed)
        self._handover = Handover(
            settings.interfaces, self._moved, packets.drops, on_first=self._see
        )

    def _make_negotiation(self, public_key: bytes) -> NodeNegotiation:
        settings = self._settings
        self._negotiation = NodeNegotiation(
            public_key,
            token=settings.token,
            state=settings.enrolment,
            device_type=settings.device_type,
            push_token=settings.push_token,
            heartbeat_interval=settings.heartbeat_interval,
            now=time.monotonic(),
            rng=random.Random(os.urandom(16)),
            wall_clock=time.time,
            policy=settings.policy,
            drops=self._packets.drops,
            is_in_use=self._is_in_use,
            reserves_relays=settings.reserve_relay,
            traffic=self._traffic,
        )
        return self._negotiation

    def _make_paths(self, tunnel: Tunnel[Path]) -> PathManager[Path]:
        self._paths: PathManager[Path] = PathManager(
            tunnel.public_key,
            ends=self._ends.ends,
            entropy=os.urandom,
            drops=self._packets.drops,
            keeps_warm=self._settings.keeps_warm,
            open_ports=self._ends.open_ports,
            close_ports=self._ends.close_ports,
        )
        return self._paths

    def _before_wait(self, now: float) -> float | None:
        while (event := self._paths.poll_event()) is not None:
            if isinstance(event, PathChanged):
                self._packets.path_changed(event.public_key, now, abrupt=event.abrupt)
                self._events.path_changed(event.public_key, abrupt=event.abrupt)
                self._follow_network(event.public_key)
            elif isinstance(event, PathLost):
                self._follow_network(event.public_key)
            elif isinstance(event, Suspected):
                self._station.relays.check(event.public_key, now)
            else:
                self._negotiation.unreachable(event.public_key, now)
                self._events.unreachable(event.public_key)
                self._doubt_network(now)
        self._events.look()
        told = self._negotiation
        self.nat.registered(told.seen_endpoint, told.vantage, self._local_endpoints, now)
        wanted = (
            self.nat.run(self.carrier, now),
            self.port_mapping.run(self.carrier, now),
            self._packets.flush(now),
        )
        return min((at for at in wanted if at is not None), default=None)

    def _datagram(self, buffer: memoryview, segment_size: int, source: Endpoint) -> bool:
        """Claim what is no tunnel message: of the servers that see us, and of our router."""
        return self.nat.datagram(buffer, segment_size, source) or self.port_mapping.datagram(
            buffer, source
        )

    def _reachable_elsewhere(self) -> None:
        self._paths.reachable_at(self._candidates(), time.monotonic())

    def _is_in_use(self, public_key: bytes) -> bool:
        """Whether the tunnel has a session, and so has carried something in the last minutes."""
        peer = self._station.tunnel.peers.get(public_key)
        session = None if peer is None else peer.current
        return session is not None and time.monotonic() < session.reject_at

    def _relay_event(self, event: RelayFailed | Released, now: float) -> None:
        if isinstance(event, RelayFailed):
            key, relay_key = event.public_key, event.relay_key
            self._negotiation.relay_failed(key, relay_key, now, in_use=event.in_use)
        elif not event.replaced:
            self._negotiation.relay_released(event.public_key, event.relay_key, now)

    def _traffic(self, public_key: bytes) -> int:
        peer = self._station.tunnel.peers.get(public_key)
        return 0 if peer is None else peer.rx_bytes + peer.tx_bytes

    def start(self) -> None:
        """Begin to register."""
        if self._handover.concerns(self.carrier.local_endpoints):
            self._handover.start()
        now = time.monotonic()
        self._negotiation.begin(self._local_endpoints(), now)
        self.carrier.wake()

    def close(self) -> None:
        """Leave the DC and close."""
        self._handover.close()
        self._doubt.close()
        self._nat64.close()
        self.port_mapping.close(self.carrier)
        self._negotiation.leave(time.monotonic())
        self.carrier.wake()
        self._left.wait(timeout=LEAVE_TIMEOUT)
        self._station.close()

    def welcome(self) -> local.Welcome:
        """Who the node is; addresses are None until it is registered."""
        assigned = self._assigned
        return local.Welcome(
            version=local.VERSION,
            fqdn=self._negotiation.fqdn,
            ipv4=(assigned.ipv4 or None) if assigned else None,
            ipv6=(assigned.ipv6 or None) if assigned else None,
            domains=self._domains(),
            prefixes=self._prefixes(),
            control_path="",
        )

    def _domains(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._negotiation.domains(), *self._settings.domains)))

    def resolve(self, name: str) -> local.Resolved:
        """Have a tunnel to ``name`` directed, and wait for it."""
        self._check_domain(name)
        if name == self._negotiation.fqdn:
            return self._own(name)
        return self._look_up(name)

    def resolved(self, name: str) -> None:
        """Fig. 3 (19): the program has been told, and (20) follows."""
        self._steps.ready(name)

    def trace(self, name: str) -> dict[str, Any]:
        """Have a tunnel to ``name`` directed anew, and tell how it came up, step by step.

        A set-up that fails is told as well. NameLookupError: it cannot be tried.
        """
        self._registered.wait(timeout=LOOKUP_TIMEOUT)
        self._wait_for_domain(name)
        self._check_domain(name)
        if name == self._negotiation.fqdn:
            raise NameLookupError(socket.EAI_NONAME, f"{name} is this node itself")
        if self._negotiation.tracer.of(name) is not None:
            raise NameLookupError(socket.EAI_AGAIN, f"{name} is being traced already")
        self._steps.anew(name)
        return trace_set_up(
            name,
            lambda recording: self._look_up(name, recording),
            self._negotiation,
            self._packets,
            self._steps,
        )

    def _wait_for_domain(self, name: str) -> None:
        """A node that has just registered for the first time is yet to hear of other domains."""
        deadline = time.monotonic() + DOMAINS_TIMEOUT
        while not self._is_of_a_domain(name) and time.monotonic() < deadline:
            gevent.sleep(0.05)

    def _is_of_a_domain(self, name: str) -> bool:
        return any(in_domain(name, domain) for domain in self._domains())

    def _check_domain(self, name: str) -> None:
        if not self._is_of_a_domain(name):
            raise NameLookupError(socket.EAI_NONAME, f"{name} is in no domain of this node")

    def _look_up(self, name: str, recording: Recording | None = None) -> local.Resolved:
        now = time.monotonic()
        self._steps.asked(name, now)
        self.carrier.tunnel.hold_unknown(now + LOOKUP_TIMEOUT)
        request_id = self._negotiation.resolve(name, now, recording=recording)
        answer: gevent.event.AsyncResult[Resolved] = gevent.event.AsyncResult()
        self._lookups[request_id] = answer
        self.carrier.wake()
        try:
            found = answer.get(timeout=LOOKUP_TIMEOUT)
        except NameUnknown as error:
            raise NameLookupError(socket.EAI_NONAME, str(error)) from error
        except (gevent.Timeout, Exception) as error:
            raise NameLookupError(socket.EAI_AGAIN, str(error)) from error
        finally:
            self._lookups.pop(request_id, None)
        assert found is not None
        return local.Resolved(found.ipv4 or None, found.ipv6 or None, found.fqdn)

    def _own(self, name: str) -> local.Resolved:
        if not self._registered.wait(timeout=LOOKUP_TIMEOUT) or self._assigned is None:
            raise NameLookupError(socket.EAI_AGAIN, "this node is not registered yet")
        return local.Resolved(self._assigned.ipv4 or None, self._assigned.ipv6 or None, name)

    def reverse_resolve(self, address: bytes) -> str | None:
        """The name of a peer, or of this node."""
        return self._negotiation.reverse(address)

    def rebind(self, binds: tuple[Endpoint, ...]) -> None:
        """Fig. 5 (2) on: the access network is another one, as somebody says."""
        self._handover.close()
        self._station.trace("5.1", message="change of local addresses")
        self._events.rebound(*(_text(ends) for ends in (self.carrier.local_endpoints, binds)))
        self._station.rebind(binds)
        self._paths.closed(lambda path: not self._ends.is_open(path), time.monotonic())
        self._tell_negotiation()

    def _see(self, picture: Picture) -> None:
        """What the networks are to begin with."""
        self._ends.update(picture)
        self._nat64.see(picture)
        self._use_router()
        self._paths.ends_changed(time.monotonic())

    def _moved(self, change: Change) -> None:
        """The same, as the kernel says. Nothing has moved where another network came or went."""
        self._station.trace("5.1", message="change of local addresses", at=change.heard_at)
        self._events.networks_changed(change)
        changed = self._ends.update(change.new)
        self._nat64.see(change.new, afresh=change.interrupted)
        self._use_router(afresh=change.interrupted)
        moved = FAMILIES if change.interrupted else changed
        now = time.monotonic()
        self._station.change_families()
        self._paths.closed(lambda path: not self._ends.is_open(path), now)
        if moved:
            self._leave_network(lambda local: ends_connection(change, local), moved)
        else:
            self._paths.ends_changed(now)
            self._paths.reachable_at(self._candidates(), now)
        self.carrier.wake()

    def _nat64_changed(self, before: Nat64Prefix | None) -> None:
        """What there is of IPv4 is reached another way; who is registered by it tells where."""
        now = time.monotonic()
        self._ends.nat64 = self._nat64.prefix
        self._station.use_nat64(self._nat64.prefix)
        if before is not None:
            self._paths.closed(lambda path: self._ends.is_within(path, before), now)
        self._paths.ends_changed(now)
        if self._nat64.prefix is not None:
            self._tell_negotiation([])
            self.carrier.wake()

    def _use_router(self, *, afresh: bool = False) -> None:
        if self._settings.maps_port:
            network, now = self._ends.chosen(is_ipv6=False), time.monotonic()
            self.port_mapping.use(network, self.carrier, now, afresh=afresh)

    def _leave_network(
        self, is_dead: Callable[[Endpoint | None], bool], families: frozenset[bool] = FAMILIES
    ) -> None:
        """What goes from everybody's ports of ``families`` goes by another network from now on."""

        def is_stale(path: Path) -> bool:
            return self._ends.is_preferred(path, families)

        stale = [
            key
            for key, peer in self.carrier.tunnel.peers.items()
            if peer.endpoint is None or is_stale(peer.endpoint)
        ]
        self._station.moved(is_dead, self._ends.candidates(()), is_stale)
        self._tell_negotiation(stale)

    def _follow_network(self, public_key: bytes) -> None:
        """Data to somebody goes by another network: so may all, or all may be back."""
        peer = self.carrier.tunnel.peers.get(public_key)
        index = self._ends.interface_of(peer.endpoint if peer is not None else None)
        if index is None:
            return
        # While the preferred one works it was the peer's own path that did not, or its wish.
        stays = self._paths.is_used if self._ends.is_kernels(index) else self._paths.works
        if not stays(self._ends.is_preferred):
            self._turn_to(index)

    def _doubt_network(self, now: float) -> None:
        """Somebody cannot be reached: is it they, or our network? The coordinator is asked now."""
        self._negotiation.confirm_network(now)
        self._doubt.ask(now + DOUBT)

    def _turn_if_silent(self) -> None:
        # What is heard is no sign: it may come in by another network than we send by.
        since = self._negotiation.unanswered_since
        if since is None:
            return
        if time.monotonic() < since + DOUBT:
            self._doubt.ask(since + DOUBT)
            return
        index = self._ends.other_interface()
        if index is not None:
            self._turn_to(index)
        elif self._station.turn_from_silent_servers():
            self._tell_negotiation([])  # by the network of the other family

    def _turn_to(self, index: int) -> None:
        if self._ends.turn_to(index):
            self._use_router()
            log.info("sending by another network, as the preferred one is silent")
            self._station.trace("5.1", message="another network is used")
            self._leave_network(lambda _local: True)

    def _candidates(self) -> list[Candidate]:
        mapped, seen = self.port_mapping.candidate(), self.nat.candidates()
        if mapped is not None:  # then the NAT's own way with ports does not matter
            seen = [mapped, *(each for each in seen if each.endpoint.is_ipv6)]
        return self._ends.candidates(seen)

    def _tell_negotiation(self, stale: list[bytes] | None = None) -> None:
        """Fig. 5 (2); ``stale``: peers whose path begins elsewhere now, if not all."""
        now = time.monotonic()
        self._station.trace("5.2", message="change told to negotiation", at=now)
        self._negotiation.network_changed(self._local_endpoints(), now)
        for public_key in list(self.carrier.tunnel.peers) if stale is None else stale:
            self._packets.path_changed(public_key, now)

    def wake(self, payload: bytes) -> None:
        """Fig. 3 (10) by another way than a connection; OSError EINVAL if it is not for us."""
        if not self._negotiation.woken(payload, time.monotonic()):
            raise OSError(errno.EINVAL, "not a notification of this node's coordinator")
        self.carrier.wake()

    def netcheck(self) -> dict[str, object]:
        """How this machine's networks look to us, and to the servers; takes some seconds."""
        self._registered.wait(timeout=NETCHECK_PATIENCE)
        while self.nat.is_asking:
            gevent.sleep(0.05)
        servers = known_servers(self._negotiation, self._station.contacts(), self.nat.vantage)
        return report(
            self._negotiation.fqdn,
            probe_all(servers),
            self.nat,
            self._handover.picture,
            self._local_endpoints(),
            is_registered=self._registered.is_set(),
        )

    def describe(self, now: float) -> list[dict[str, object]]:
        """The peers for status output."""
        return [
            {
                "name": self._names.get(key, key[:8].hex()),
                **describe_peer(peer, now),
                "paths": known.describe() if (known := self._paths.of(key)) is not None else [],
                "relays": self._station.relays.describe(key),
            }
            for key, peer in self.carrier.tunnel.peers.items()
        ]

    def _local_endpoints(self) -> tuple[Endpoint, ...]:
        bound = self.carrier.local_endpoints
        # What the kernel prefers is first: the DC sees it, and knows by it whether there is a NAT.
        preferred = concrete(bound, self._negotiation.server_endpoints())
        return self._handover.endpoints(bound, preferred)

    def _tunnel_event(self, event: TunnelEvent, now: float) -> None:
        key = event.peer.public_key
        if isinstance(event, Established):
            is_again = self._steps.shaken_hands(event, now)
            self._events.tunnel_ready(key, again=is_again)
            self._negotiation.tunnel_established(key, now, initiator=event.initiator)
        elif isinstance(event, Expired):
            self._events.unreachable(key, NO_HANDSHAKE)
            self._negotiation.tunnel_expired(key, now)
        elif isinstance(event, EndpointChanged):
            self._packets.path_changed(key, now)

    def _link_failed(self, public_key: bytes, now: float) -> None:
        self._negotiation.connection_failed(public_key, now)

    def _save(self, enrolment: bytes) -> None:
        self._settings.state.write(ENROLMENT, enrolment)
        self._settings.state.write_names(self._domains(), self._prefixes())

    def _prefixes(self) -> tuple[str, ...]:
        return self._negotiation.virtual_prefixes()

    def _effect(self, effect: Effect, now: float) -> None:
        match effect:
            case Contact():
                self._names[effect.public_key] = effect.name
                addresses = frozenset(address for address in (effect.ipv4, effect.ipv6) if address)
                if addresses:
                    self._events.met(effect.public_key, effect.name)
                    self._steps.directed(effect)
                    self._packets.add_route(
                        Route(effect.public_key, addresses, access=effect.access)
                    )
            case Forget():
                self._events.gone(effect.public_key)
                self._names.pop(effect.public_key, None)
                self._steps.forget(effect.public_key)
                self._packets.remove_route(effect.public_key)
            case Assigned():
                self._assigned = effect
                self._events.registered(effect)
                self._packets.assign(a for a in (effect.ipv4, effect.ipv6) if a)
                if not self._registered.is_set():
                    self._registered.set()
                    self._on_standing(None)
            case Resolved():
                answer = self._lookups.get(effect.request_id)
                if answer is not None:
                    answer.set(effect)
            case Unresolved():
                answer = self._lookups.get(effect.request_id)
                if answer is not None:
                    answer.set_exception(effect.error)
            case Persist():
                self._threadpool.spawn(self._save, effect.state)
            case Failed() if effect.fatal:
                self._on_standing(effect.error)
            case Failed() if isinstance(effect.error, Silent):
                self._doubt_network(now)
            case Left():
                self._left.set()
            case Ready():
                log.info("%s %s is ready", effect.role, effect.name)
            case _:
                pass


def _text(endpoints: tuple[Endpoint, ...]) -> str:
    return ", ".join(map(str, endpoints))
