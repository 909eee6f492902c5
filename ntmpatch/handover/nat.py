"""What kind of NAT a node is behind, and where it is seen: from two places, by one of its ports.

One server sees where a packet comes from; only two can show whether a NAT maps a port the same way
for everybody (RFC 4787, section 4.1). The coordinator says where it saw the node register; relay
servers say it by STUN, which is asked from the very port that tunnels use. Nothing is asked while
nothing moves: `look` is for whoever knows that the node has registered from somewhere else.

What the places cannot tell: if all of them are at one address, a NAT whose mapping depends on the
address alone looks as if it depended on nothing. Such NATs are rare, and `Seen` names the places.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.base.timers import TimerQueue
from ntmpatch.wire.stun import (
    TRANSACTION_ID_SIZE,
    decode_binding_answer_untrusted,
    encode_binding_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.drops import DropCounter

STUN_INTERVALS = (0.25, 0.5, 1.0, 2.0)
"""Seconds for an answer to each of the requests to one server: RFC 8489, section 6.2.1, with half
its time-out and fewer requests; a registration has just shown that packets get through."""


class Mapping(Enum):
    """How a NAT maps a port of ours (RFC 4787, section 4.1)."""

    UNKNOWN = "unknown"
    """Fewer than two places have told."""
    NONE = "no NAT"
    INDEPENDENT = "endpoint-independent"
    """One endpoint for everybody: peers can be told it."""
    DEPENDENT = "endpoint-dependent"
    """On the address, or address and port, of whom we send to: for others we have other ports."""


class Reflexive(NamedTuple):
    """How one family of ours looks from outside."""

    mapping: Mapping
    endpoints: tuple[Endpoint, ...]
    """Where we were seen, in the order in which our packets left; the last is the newest."""

    @property
    def ports(self) -> tuple[int, ...]:
        """Of a NAT whose mapping depends: a row that goes on may tell the next one."""
        return tuple(endpoint.port for endpoint in self.endpoints)


NOTHING_SEEN = Reflexive(Mapping.UNKNOWN, ())


class Seen(NamedTuple):
    """One place, and where it saw us."""

    server: Endpoint | None
    """None: our coordinator."""
    endpoint: Endpoint
    rtt: float | None = None
    """Seconds; None where it cannot be told, as the request was sent more than once."""


@dataclass(slots=True)
class _Question:
    """A server that is asked, or has answered."""

    server: Endpoint
    transaction_id: bytes
    asked_at: float
    attempt: int = 0
    is_over: bool = False


@dataclass(slots=True)
class _Family:
    """What is known of IPv4, or of IPv6."""

    local: frozenset[Endpoint] = frozenset()
    seen: list[Seen] = field(default_factory=list)
    snapshot: Reflexive = NOTHING_SEEN


class NatDiscovery:
    """Asks, and draws the conclusions. ``on_change(is_ipv6)``: the family's snapshot is another."""

    def __init__(
        self,
        *,
        entropy: Callable[[int], bytes],
        drops: DropCounter,
        on_change: Callable[[bool], None],
    ) -> None:
        self._entropy = entropy
        self._drops = drops
        self._on_change = on_change
        self._families = {True: _Family(), False: _Family()}
        self._questions: dict[bytes, _Question] = {}
        self._timers: TimerQueue[bytes] = TimerQueue()
        self._transmits: deque[tuple[Endpoint, bytes]] = deque()

    def snapshot(self, is_ipv6: bool) -> Reflexive:
        """How that family looks from outside, as far as is known."""
        return self._families[is_ipv6].snapshot

    def seen(self, is_ipv6: bool) -> tuple[Seen, ...]:
        """What each place has told, in the order of `Reflexive.endpoints`."""
        return tuple(self._families[is_ipv6].seen)

    @property
    def is_asking(self) -> bool:
        """Whether answers may still come."""
        return any(not question.is_over for question in self._questions.values())

    @property
    def silent(self) -> tuple[Endpoint, ...]:
        """Servers that were asked in vain."""
        answered = {each.server for family in self._families.values() for each in family.seen}
        return tuple(
            question.server
            for question in self._questions.values()
            if question.is_over and question.server not in answered
        )

    def look(
        self,
        coordinator: Endpoint | None,
        vantage: Iterable[Endpoint],
        local: Sequence[Endpoint],
        now: float,
    ) -> None:
        """Begin anew: the node has registered, or has left its network.

        ``coordinator``: where our coordinator saw us, if it did; ``vantage``: servers to ask;
        ``local``: our own endpoints, with the addresses that packets bear. Of a family that is not
        among these nothing can be learnt.
        """
        for transaction_id in self._questions:
            self._timers.cancel(transaction_id)
        self._questions.clear()
        self._transmits.clear()
        before = {is_ipv6: _place(family) for is_ipv6, family in self._families.items()}
        for is_ipv6, family in self._families.items():
            family.local = frozenset(end for end in local if end.is_ipv6 == is_ipv6)
            family.seen = []
        if coordinator is not None:
            self._families[coordinator.is_ipv6].seen.append(Seen(None, coordinator))
        for server in dict.fromkeys(vantage):
            if self._families[server.is_ipv6].local:
                self._ask(server, now)
        for is_ipv6, family in self._families.items():
            # Where nothing has moved, what was known holds until the answers say otherwise.
            if _place(family) != before[is_ipv6] or not self._asks(is_ipv6):
                self._conclude(is_ipv6)

    def _asks(self, is_ipv6: bool) -> bool:
        return any(
            not question.is_over and question.server.is_ipv6 == is_ipv6
            for question in self._questions.values()
        )

    def receive(self, datagram: bytes | memoryview, source: Endpoint, now: float) -> None:
        """A STUN message came to the port that we ask from."""
        try:
            answer = decode_binding_answer_untrusted(datagram)
        except UntrustedError as error:
            self._drops.drop(error.drop)
            return
        question = self._questions.get(answer.transaction_id)
        if question is None or question.is_over or question.server != source:
            self._drops.drop(Drop.STUN_UNASKED)
            return
        question.is_over = True
        self._timers.cancel(answer.transaction_id)
        family = self._families[source.is_ipv6]
        if answer.mapped is None or answer.mapped.is_ipv6 != source.is_ipv6:
            return  # it does not want to tell; or something between speaks the other family
        rtt = now - question.asked_at if question.attempt == 0 else None
        family.seen.append(Seen(source, answer.mapped, rtt))
        order = [None, *(each.server for each in self._questions.values())]
        family.seen.sort(key=lambda seen: order.index(seen.server))
        if family.snapshot.mapping is not Mapping.DEPENDENT or not self._asks(source.is_ipv6):
            self._conclude(source.is_ipv6)

    def poll_transmit(self) -> tuple[Endpoint, bytes] | None:
        """A request to send, from the port that everybody's tunnels use."""
        return self._transmits.popleft() if self._transmits else None

    def poll_timeout(self) -> float | None:
        """When `handle_timeout` is due; None while nothing is under way."""
        return self._timers.earliest()

    def handle_timeout(self, now: float) -> None:
        """Ask once more who has not answered, or no more."""
        for transaction_id in self._timers.pop_due(now):
            question = self._questions[transaction_id]
            question.attempt += 1
            if question.attempt < len(STUN_INTERVALS):
                self._send(question, now)
            else:
                question.is_over = True
                if not self._asks(question.server.is_ipv6):
                    self._conclude(question.server.is_ipv6)

    def describe(self, is_ipv6: bool) -> dict[str, object]:
        """A family for status output."""
        mapping, endpoints = self.snapshot(is_ipv6)
        return {
            "mapping": mapping.value,
            "endpoints": [str(each) for each in endpoints],
            "seen_by": {
                "coordinator" if each.server is None else str(each.server): str(each.endpoint)
                for each in self.seen(is_ipv6)
            },
        }

    # --- within ------------------------------------------------------------------------------

    def _ask(self, server: Endpoint, now: float) -> None:
        transaction_id = self._entropy(TRANSACTION_ID_SIZE)
        question = self._questions[transaction_id] = _Question(server, transaction_id, now)
        self._send(question, now)

    def _send(self, question: _Question, now: float) -> None:
        request = encode_binding_request(question.transaction_id)
        self._transmits.append((question.server, request))
        self._timers.arm(question.transaction_id, now + STUN_INTERVALS[question.attempt])

    def _conclude(self, is_ipv6: bool) -> None:
        family = self._families[is_ipv6]
        snapshot = conclusion(family.seen, family.local)
        if snapshot != family.snapshot:
            family.snapshot = snapshot
            self._on_change(is_ipv6)


def _place(family: _Family) -> tuple[frozenset[Endpoint], list[Endpoint]]:
    """Where a family is, as far as it is known without asking: another one is a move."""
    return family.local, [each.endpoint for each in family.seen if each.server is None]


def conclusion(seen: Sequence[Seen], local: frozenset[Endpoint]) -> Reflexive:
    """What follows from where the places saw us.

    A place that saw an endpoint of our own is on our side of the NAT, if others saw another one:
    these tell of the NAT.
    """
    translated = [each.endpoint for each in seen if each.endpoint not in local]
    if not translated:
        own = tuple(dict.fromkeys(each.endpoint for each in seen))
        return Reflexive(Mapping.NONE if own else Mapping.UNKNOWN, own)
    endpoints = tuple(dict.fromkeys(translated))
    if len(endpoints) > 1:
        return Reflexive(Mapping.DEPENDENT, endpoints)
    mapping = Mapping.INDEPENDENT if len(translated) > 1 else Mapping.UNKNOWN
    return Reflexive(mapping, endpoints)
