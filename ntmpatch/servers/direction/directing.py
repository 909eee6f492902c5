"""Directing a tunnel: Fig. 3 (2)-(16), and Fig. 5 (9)-(23) which is the same after a move.

Both coordinators' parts are here, as DC_MN (`direct`) and as DC_CN (the other handlers). When one
coordinator is both, it speaks to itself, and every step exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ntmpatch.base.addresses import Endpoint, normalise_fqdn
from ntmpatch.base.errors import ConfigError, NtmpatchError
from ntmpatch.base.policy import NO_ACCESS, Access
from ntmpatch.servers.direction.reach import Plan, Reach, plan
from ntmpatch.servers.direction.relays import RelayedPair, RelayedPairs
from ntmpatch.servers.direction.services import NOTIFICATION_TIMEOUT
from ntmpatch.servers.direction.shared_keys import SALT_SIZE
from ntmpatch.signalling.effects import Failed
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.figures import NETWORK_SWITCHING, DirectionSteps, steps_of
from ntmpatch.signalling.party import Reply
from ntmpatch.signalling.process import Event, Process, ask, wait, work
from ntmpatch.wire.control_messages import (
    Ack,
    Address,
    DirectionRequest,
    InformationRequest,
    InformationResponse,
    RefusalCode,
    RelayGrant,
    RelayLeg,
    RelayRequest,
    RouteDirection,
    addresses_of,
)
from ntmpatch.wire.control_parts import MAX_ACCESS_RANGES, AccessRange

if TYPE_CHECKING:
    from ntmpatch.crypto.certificate import Certificate
    from ntmpatch.servers.direction.coordinators import Coordinators
    from ntmpatch.servers.direction.locations import Node, Server
    from ntmpatch.servers.direction.server import DirectionServer
    from ntmpatch.signalling.engine import Request

# What MN waits for in a look-up (8 s) has to hold all of these one after another.
FIRST_ANSWER_TIMEOUT = 1.0
"""Seconds after which another coordinator is taken for restarted: its channel is made anew."""
COORDINATOR_TIMEOUT = 2.0
DIRECTION_TIMEOUT = 3.0
ROUTE_TIMEOUT = NOTIFICATION_TIMEOUT + DIRECTION_TIMEOUT + 0.5
RELAY_TIMEOUT = 1.0
MAX_DIRECTIONS_PER_NODE = 32
RELAY_LIFETIME = 12 * 3600.0
MAX_RELAYS_TRIED = 2
MAX_WAITS = 4
"""Directions of the same pair that one waits for which wants something else."""
_RESTARTED = frozenset({RefusalCode.KEY_UNKNOWN, RefusalCode.NOT_AUTHORISED})
"""What a coordinator says that knows nothing of the key which we offered it."""


@dataclass(slots=True, frozen=True)
class _Relaying:
    """A session at a relay server that both ends may use."""

    server: Server
    grant: RelayGrant

    def leg(self, side: int) -> RelayLeg:
        """One end's way through it."""
        return RelayLeg(
            certificate=self.server.location.certificate,
            endpoints=self.grant.endpoints[:2] or self.server.location.endpoints,
            session_id=self.grant.session_id,
            side=side,
            capability=self.grant.capabilities[side],
            lifetime=self.grant.lifetime,
        )


@dataclass(slots=True, frozen=True)
class _Wishes:
    """What the asking node knows of ways that do not work."""

    avoid: bytes = b""
    """A relay server that does not answer it; other nodes may still be sent there."""
    relayed: bool = False
    """No direct way."""
    reserve: bool = False
    """A relay beside the direct way that is in use, or nothing."""


@dataclass(slots=True)
class _UnderWay:
    """The direction of a pair that is being worked on."""

    done: Event
    wishes: _Wishes
    reaches: dict[bytes, Reach]
    """Where it takes both ends to be, by key."""

    def serves(self, asking: bytes, reach: Reach, wishes: _Wishes) -> bool:
        """Whether it brings what another asker wants, who is where it says."""
        return (
            wishes.avoid in (b"", self.wishes.avoid)
            and (self.wishes.relayed or not wishes.relayed)
            and self.reaches.get(asking) == reach
        )


class Director:
    """The part of a DC that directs tunnels."""

    def __init__(self, party: DirectionServer, coordinators: Coordinators) -> None:
        self._party = party
        self._coordinators = coordinators
        self._under_way: dict[frozenset[bytes], _UnderWay] = {}
        self.relayed = RelayedPairs(party, self._direct_elsewhere)
        self._per_node: dict[bytes, int] = {}
        self._last_serial = 0
        party.on(DirectionRequest, self.direct)
        party.on(InformationRequest, self._inform)
        party.on(RouteDirection, self._route)

    # --- as DC_MN ------------------------------------------------------------------------

    def direct(self, message: DirectionRequest, request: Request) -> Process[Reply]:
        """Fig. 3 (2): MN asks for a tunnel; (15) answers it."""
        party = self._party
        calling = party.registered(request.peer)
        count = self._per_node.get(request.peer, 0)
        if count >= MAX_DIRECTIONS_PER_NODE:
            raise Refused(RefusalCode.BUSY, "too many directions under way for this node")
        self._per_node[request.peer] = count + 1
        try:
            direction = yield from self._direct_calling(
                calling,
                message.fqdn,
                steps_of(request.step),
                _Wishes(message.avoid, message.relayed, message.reserve),
                answers=request.transaction_id,
            )
        except Silent as silence:
            party.emit(Failed(silence, f"directing {calling.record.fqdn}"))
            raise
        finally:
            self._per_node[request.peer] -= 1
            if not self._per_node[request.peer]:
                del self._per_node[request.peer]
        party.note(
            "directed",
            calling=calling.record.fqdn,
            called=message.fqdn,
            relayed=direction.relay is not None,
        )
        return Reply()

    def _direct_calling(
        self,
        calling: Node,
        fqdn: str,
        steps: DirectionSteps,
        wishes: _Wishes,
        *,
        answers: bytes = b"",
    ) -> Process[RouteDirection]:
        """Steps (3)-(16); what MN was told."""
        party = self._party
        direction = yield from self._agree(calling, fqdn, steps, wishes)
        told = party.verify(direction.certificate, role="node")
        party.revoking.directed(calling.public_key, told.public_key)
        yield from ask(  # (15), (16)
            calling.public_key,
            replace(direction, answers=answers),
            Ack,
            steps.direct_calling,
            timeout=DIRECTION_TIMEOUT,
        )
        return direction

    def _direct_elsewhere(self, pair: RelayedPair) -> Process[None]:
        """Fig. 5 (10)-(23) without (9): the relay between two nodes goes, and not they."""
        calling = self._party.locations.node(pair.calling)
        if calling is None or not calling.fresh:
            self.relayed.remove(pair.ends)
            return
        wishes = _Wishes(avoid=pair.relay, relayed=not pair.reserve, reserve=pair.reserve)
        yield from self._direct_calling(calling, pair.called_fqdn, NETWORK_SWITCHING, wishes)

    def _agree(
        self, calling: Node, name: str, steps: DirectionSteps, wishes: _Wishes
    ) -> Process[RouteDirection]:
        """Steps (3)-(14); what MN is to be told in (15)."""
        try:
            fqdn = normalise_fqdn(name)
        except ConfigError as error:
            raise Refused(RefusalCode.UNKNOWN_NAME, str(error)) from None
        for _ in range(MAX_WAITS):
            coordinator, called = yield from self._find(calling, fqdn, steps)
            called_key = self._judge(called, coordinator, fqdn).public_key
            if called_key == calling.public_key:
                raise Refused(RefusalCode.UNKNOWN_NAME, "a node needs no tunnel to itself")
            pair = frozenset((calling.public_key, called_key))
            reach = calling.reach(self._party.sources.get(calling.public_key))
            other = self._under_way.get(pair)
            if other is None:
                break
            # The other end asked too, or this one again: one direction, one key for both.
            if other.serves(calling.public_key, reach, wishes):
                shared: dict[bytes, RouteDirection] = yield from wait(other.done, ROUTE_TIMEOUT)
                return shared[calling.public_key]
            # It rests on what is not so any more: let it end, and begin again.
            try:
                yield from wait(other.done, ROUTE_TIMEOUT)
            except (NtmpatchError, ValueError):
                continue
        else:
            raise Refused(RefusalCode.BUSY, "too many directions of these two under way")
        under_way = self._under_way[pair] = _UnderWay(
            Event(), wishes, {calling.public_key: reach, called_key: _reach_told(called)}
        )
        try:
            views = yield from self._route_both(
                coordinator, calling, called, fqdn, steps, under_way
            )
        except Exception as error:
            # Who waits may begin the next one at once: this one has to be out of the way.
            del self._under_way[pair]
            under_way.done.set(error)
            raise
        del self._under_way[pair]
        under_way.done.set(views)
        return views[calling.public_key]

    def _find(
        self, calling: Node, fqdn: str, steps: DirectionSteps
    ) -> Process[tuple[bytes, InformationResponse]]:
        """Steps (3)-(7): CN's coordinator, and what it says of CN."""
        coordinators = yield from self._coordinators.of(fqdn, steps)  # (3)
        failure: Refused | Silent = Refused(RefusalCode.UNKNOWN_NAME)
        for coordinator in coordinators:
            try:
                return coordinator, (
                    yield from self._ask_about(coordinator, fqdn, calling, steps)  # (4)-(7)
                )
            except (Refused, Silent) as error:
                failure = error
        raise failure

    def _ask_about(
        self, coordinator: bytes, fqdn: str, calling: Node, steps: DirectionSteps
    ) -> Process[InformationResponse]:
        """Steps (4)-(7), and once more if the other coordinator has restarted meanwhile."""
        request = InformationRequest(fqdn, calling.record.certificate)
        is_first = True
        while True:
            try:
                yield from self._coordinators.share_key(coordinator, steps)  # (4), (5)
                return (
                    yield from ask(  # (6), (7)
                        coordinator,
                        request,
                        InformationResponse,
                        steps.information,
                        timeout=FIRST_ANSWER_TIMEOUT if is_first else COORDINATOR_TIMEOUT,
                    )
                )
            except Silent:
                if not is_first:
                    raise
                self._coordinators.call_again(coordinator)
            except Refused as refusal:
                if not is_first or refusal.code not in _RESTARTED:
                    raise
                self._coordinators.drop_key(coordinator)
            is_first = False

    def _judge(self, called: InformationResponse, coordinator: bytes, fqdn: str) -> Certificate:
        """CN's certificate, if it is of that name, and who told us of it leads its domain."""
        party = self._party
        certificate = party.verify(called.certificate, role="node")
        leader = party.verify(called.coordinator, role="dc", public_key=coordinator)
        if certificate.fqdn != fqdn:
            raise Refused(RefusalCode.CERTIFICATE_INVALID, f"told of another than {fqdn}")
        if not leader.leads(fqdn):
            raise Refused(RefusalCode.WRONG_DOMAIN, f"{leader.fqdn} does not lead {fqdn}")
        return certificate

    def _route_both(
        self,
        coordinator: bytes,
        calling: Node,
        called: InformationResponse,
        fqdn: str,
        steps: DirectionSteps,
        under_way: _UnderWay,
    ) -> Process[dict[bytes, RouteDirection]]:
        """Choose the way, and have CN directed, (8)-(14); the directions of both ends, by key."""
        party = self._party
        certificate = party.verify(called.certificate, role="node")
        called_key = certificate.public_key
        calling_reach = under_way.reaches[calling.public_key]
        called_reach = under_way.reaches[called_key]
        ends = (calling.public_key, called_key)
        way, relaying = yield from self._choose(
            calling_reach, called_reach, ends, steps, under_way.wishes
        )
        ours = party.enrolment.certificate
        for is_last in (False, True):
            shared = yield from self._coordinators.share_key(coordinator, steps)
            salt = party.entropy(SALT_SIZE)
            to_called = RouteDirection(
                serial=self._next_serial(),
                certificate=calling.record.certificate,
                coordinator=ours,
                ipv4=calling.record.ipv4,
                ipv6=calling.record.ipv6,
                endpoints=addresses_of(calling_reach.endpoints),
                initiate=way.called_initiates,
                relay=None if relaying is None else relaying.leg(1),
                target=fqdn,
                key_id=shared.key_id,
                salt=salt,
            )
            try:
                yield from ask(coordinator, to_called, Ack, steps.route, timeout=ROUTE_TIMEOUT)
            except Refused as refusal:
                if is_last or refusal.code not in _RESTARTED:
                    raise
                self._coordinators.drop_key(coordinator)  # it restarted: offer anew, Fig. 5 (11)
                continue
            break
        if relaying is not None:  # else they may hold the session of before in reserve
            relay, expires_at = relaying.server.public_key, party.now + relaying.grant.lifetime
            is_reserve = under_way.wishes.reserve
            self.relayed.put(RelayedPair(*ends, fqdn, relay, expires_at, is_reserve))
        psk = shared.preshared_key(salt, calling.public_key, called_key)
        to_calling = RouteDirection(
            serial=to_called.serial,
            certificate=called.certificate,
            coordinator=called.coordinator,
            ipv4=called.ipv4,
            ipv6=called.ipv6,
            endpoints=addresses_of(called_reach.endpoints),
            initiate=way.calling_initiates,
            preshared_key=psk,
            relay=None if relaying is None else relaying.leg(0),
        )
        here = calling.record.fqdn
        back = party.policy.access(certificate.fqdn, here)
        views = {calling.public_key: _restricted(to_calling, back)}
        if party.leads(certificate.fqdn):
            there = party.policy.access(here, certificate.fqdn)
            views[called_key] = _to_node(to_called, psk, there)
        return views

    def _choose(
        self,
        calling: Reach,
        called: Reach,
        ends: tuple[bytes, bytes],
        steps: DirectionSteps,
        wishes: _Wishes,
    ) -> Process[tuple[Plan, _Relaying | None]]:
        """Who calls, and through which relay if one is needed: Fig. 5 (14), (15)."""
        party = self._party
        # Who finds one silent may be mistaken, or it has been restarted: better than none.
        relays = sorted(
            party.locations.servers("rs", party.now),
            key=lambda server: server.public_key == wishes.avoid,
        )
        is_direct_out = wishes.relayed or wishes.reserve
        way = plan(calling, called, relay_available=bool(relays), is_direct_out=is_direct_out)
        if way is not None and not way.relayed:
            return way, None
        for server in relays[:MAX_RELAYS_TRIED]:
            try:
                grant = yield from ask(
                    server.public_key,
                    RelayRequest(ends, RELAY_LIFETIME, reserve=wishes.reserve),
                    RelayGrant,
                    steps.relay,
                    timeout=RELAY_TIMEOUT,
                )
            except (Silent, Refused) as failure:
                party.emit(Failed(failure, "relay request"))
                if isinstance(failure, Silent) or not wishes.reserve:
                    party.locations.suspect(server.public_key, party.now)
                continue
            assert way is not None
            return way, _Relaying(server, grant)
        if wishes.reserve:
            raise Refused(RefusalCode.BUSY, "no relay to be held in reserve")
        way = plan(calling, called, relay_available=False, is_direct_out=wishes.relayed)
        if way is None:
            raise Refused(RefusalCode.UNREACHABLE, "no relay between IPv4 and IPv6 is available")
        return way, None

    def _next_serial(self) -> int:
        """Microseconds since 1970, and always more than before."""
        self._last_serial = max(self._last_serial + 1, int(self._party.wall_clock() * 1e6))
        return self._last_serial

    # --- as DC_CN ------------------------------------------------------------------------

    def _inform(
        self, message: InformationRequest, request: Request
    ) -> Process[InformationResponse]:
        """Fig. 3 (6) → (7)."""
        party = self._party
        self._permitted(message.asking_certificate, request.peer, message.fqdn)
        node = party.locations.named(message.fqdn)
        if node is None:
            known = yield from work(
                lambda: party.store.node_named(message.fqdn), "look-up", stored=True
            )
            if known is None:
                raise Refused(RefusalCode.UNKNOWN_NAME, f"{message.fqdn} is not known here")
            raise Refused(RefusalCode.UNREACHABLE, f"{message.fqdn} has left")
        record = node.record
        reach = node.reach(party.sources.get(node.public_key))
        seen = party.sources.get(node.public_key) or record.seen_endpoint
        if not reach.endpoints:
            raise Refused(RefusalCode.UNREACHABLE, f"{message.fqdn} has left")
        return InformationResponse(
            certificate=record.certificate,
            ipv4=record.ipv4,
            ipv6=record.ipv6,
            seen_endpoint=None if seen is None else Address(seen.host, seen.port),
            local_endpoints=addresses_of(record.local_endpoints[:4]),
            behind_nat=reach.behind_nat,
            coordinator=party.enrolment.certificate,
        )

    def _route(self, message: RouteDirection, request: Request) -> Process[Ack]:
        """Fig. 3 (8) → (14): wake CN, and direct it."""
        party = self._party
        called = party.locations.named(message.target)
        if called is None:
            raise Refused(RefusalCode.UNKNOWN_NAME, f"{message.target} is not known here")
        calling, access = self._permitted(message.certificate, request.peer, message.target)
        party.verify(message.coordinator, role="dc", public_key=request.peer)
        shared = self._coordinators.accepted_key(request.peer, message.key_id)
        psk = shared.preshared_key(message.salt, calling.public_key, called.public_key)
        steps = steps_of(request.step)
        if not called.fresh:
            party.reach_out(called)
        party.revoking.directed(called.public_key, calling.public_key)
        yield from party.services.notify(called, steps.notify)  # (9)-(11)
        yield from ask(  # (12), (13)
            called.public_key,
            _to_node(message, psk, access),
            Ack,
            steps.direct_called,
            timeout=DIRECTION_TIMEOUT,
        )
        return Ack()  # (14)

    def _permitted(
        self, certificate: bytes, asking: bytes, target: str
    ) -> tuple[Certificate, Access]:
        """The calling node, and which ports of ``target`` the policy lets it reach.

        Refused WRONG_DOMAIN if the asking coordinator does not lead that node's domain, DENIED if
        it may reach nothing.
        """
        calling = self._party.verify(certificate, role="node")
        if not self._coordinators.speaks_for(asking, calling.fqdn):
            raise Refused(
                RefusalCode.WRONG_DOMAIN,
                f"{self._party.peer_name(asking)} does not lead {calling.fqdn}",
            )
        access = self._party.policy.access(calling.fqdn, target)
        if access == NO_ACCESS:
            raise Refused(RefusalCode.DENIED, f"{calling.fqdn} may not reach {target}")
        return calling, access


def _to_node(direction: RouteDirection, psk: bytes, access: Access) -> RouteDirection:
    """A direction between coordinators (8) as the node gets it (12)."""
    told = replace(direction, preshared_key=psk, target="", key_id=b"", salt=b"")
    return _restricted(told, access)


def _restricted(direction: RouteDirection, access: Access) -> RouteDirection:
    """The direction with what the peer that it describes may reach at its receiver."""
    if access is None:
        return replace(direction, restricted=False, access=())
    ranges = tuple(AccessRange(*each) for each in access[:MAX_ACCESS_RANGES])
    return replace(direction, restricted=True, access=ranges)


def _reach_told(told: InformationResponse) -> Reach:
    """How the other coordinator says its node can be reached."""
    endpoints: list[Endpoint] = []
    for address in ([told.seen_endpoint] if told.seen_endpoint else []) + [*told.local_endpoints]:
        if address.endpoint() not in endpoints:
            endpoints.append(address.endpoint())
    return Reach(tuple(endpoints[:4]), told.behind_nat)
