"""What a node concludes about its NAT, in virtual time, behind NATs that map as RFC 4787 names."""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.handover.nat import STUN_INTERVALS, Mapping, NatDiscovery, Reflexive
from ntmpatch.servers.relay.reflexive import BindingResponder

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

LOCAL, LOCAL_6 = Endpoint("10.0.0.7", 4460), Endpoint("2001:db8:7::7", 4460)
COORDINATOR = Endpoint("192.0.2.1", 3471)
RELAY, OTHER_RELAY = Endpoint("192.0.2.1", 3473), Endpoint("192.0.2.9", 3473)
RELAY_6 = Endpoint("2001:db8::1", 3473)
OUTSIDE = "203.0.113.1"
RTT = 0.05

DEPENDENCE: dict[str, Callable[[Endpoint], Hashable]] = {
    "endpoint-independent": lambda remote: remote.is_ipv6,
    "address-dependent": lambda remote: remote.host,
    "address and port-dependent": lambda remote: remote,
}


class Nat:
    """Maps the one inside port; ports go up in steps of one."""

    def __init__(self, dependence: str) -> None:
        self._of = DEPENDENCE[dependence]
        self._ports = count(20_000)
        self._mappings: dict[Hashable, Endpoint] = {}

    def seen_by(self, remote: Endpoint) -> Endpoint:
        key = self._of(remote)
        if key not in self._mappings:
            self._mappings[key] = Endpoint(OUTSIDE, next(self._ports))
        return self._mappings[key]


class Site:
    """A node behind a NAT, or behind none, and the world's relay servers."""

    def __init__(self, nat: Nat | None, *, loses: Callable[[], bool] = lambda: False) -> None:
        self.now = 0.0
        self.nat = nat
        self.drops = DropCounter()
        self.changes: list[tuple[bool, Mapping]] = []
        self.sent: list[tuple[float, Endpoint]] = []
        self.discovery = NatDiscovery(
            entropy=random.Random(1).randbytes, drops=self.drops, on_change=self._changed
        )
        self._responder = BindingResponder(b"k", DropCounter())
        self._loses = loses

    def _changed(self, is_ipv6: bool) -> None:
        self.changes.append((is_ipv6, self.discovery.snapshot(is_ipv6).mapping))

    def seen_by(self, remote: Endpoint) -> Endpoint:
        if self.nat is not None and not remote.is_ipv6:
            return self.nat.seen_by(remote)
        return LOCAL_6 if remote.is_ipv6 else LOCAL

    def look(self, *vantage: Endpoint, local: tuple[Endpoint, ...] = (LOCAL, LOCAL_6)) -> None:
        self.discovery.look(self.seen_by(COORDINATOR), vantage, local, self.now)
        self.run()

    def run(self) -> None:
        """Until nothing is under way any more."""
        arriving: list[tuple[float, Endpoint, bytes]] = []
        for _ in range(100):
            while (transmit := self.discovery.poll_transmit()) is not None:
                server, request = transmit
                self.sent.append((self.now, server))
                answer = self._responder.answer(self.seen_by(server), request, self.now)
                if answer is not None and not self._loses():
                    arriving.append((self.now + RTT, server, answer))
            due_at = self.discovery.poll_timeout()
            times = [at for at, *_ in arriving] + ([] if due_at is None else [due_at])
            if not times:
                return
            self.now = min(times)
            for each in [each for each in arriving if each[0] <= self.now]:
                arriving.remove(each)
                self.discovery.receive(each[2], each[1], self.now)
            self.discovery.handle_timeout(self.now)
        raise AssertionError("it goes on asking")


@pytest.mark.parametrize(
    ("dependence", "vantage", "mapping", "ports"),
    [
        ("endpoint-independent", (RELAY, OTHER_RELAY), Mapping.INDEPENDENT, (20_000,)),
        ("endpoint-independent", (), Mapping.UNKNOWN, (20_000,)),
        ("address-dependent", (OTHER_RELAY,), Mapping.DEPENDENT, (20_000, 20_001)),
        ("address-dependent", (RELAY, OTHER_RELAY), Mapping.DEPENDENT, (20_000, 20_001)),
        ("address and port-dependent", (RELAY,), Mapping.DEPENDENT, (20_000, 20_001)),
        (
            "address and port-dependent",
            (RELAY, OTHER_RELAY),
            Mapping.DEPENDENT,
            (20_000, 20_001, 20_002),
        ),
    ],
)
def test_two_places_tell_how_a_nat_maps(
    dependence: str, vantage: tuple[Endpoint, ...], mapping: Mapping, ports: tuple[int, ...]
) -> None:
    site = Site(Nat(dependence))
    site.look(*vantage)
    found = site.discovery.snapshot(is_ipv6=False)
    assert found == Reflexive(mapping, tuple(Endpoint(OUTSIDE, port) for port in ports))
    assert found.ports == ports
    assert [seen.rtt for seen in site.discovery.seen(is_ipv6=False)[1:]] == [RTT] * len(vantage)
    assert not site.discovery.is_asking
    assert len(site.sent) == len(vantage), "asked once, and never again"


def test_without_a_nat_each_family_is_its_own() -> None:
    site = Site(None)
    site.look(RELAY, RELAY_6)
    assert site.discovery.snapshot(is_ipv6=False) == (Mapping.NONE, (LOCAL,))
    assert site.discovery.snapshot(is_ipv6=True) == (Mapping.NONE, (LOCAL_6,))
    assert site.changes == [(False, Mapping.NONE), (True, Mapping.NONE)]


def test_a_coordinator_on_our_side_of_the_nat_tells_nothing_of_it() -> None:
    site = Site(Nat("endpoint-independent"))
    site.discovery.look(LOCAL, (RELAY, OTHER_RELAY), (LOCAL,), site.now)
    site.run()
    assert site.discovery.snapshot(is_ipv6=False).mapping is Mapping.INDEPENDENT


def test_a_family_that_we_do_not_have_is_not_asked_by() -> None:
    site = Site(Nat("endpoint-independent"))
    site.look(RELAY, RELAY_6, local=(LOCAL,))
    assert {server for _, server in site.sent} == {RELAY}


def test_lost_answers_are_asked_for_again_and_then_given_up() -> None:
    lost = iter([True, True, False])
    site = Site(Nat("endpoint-independent"), loses=lambda: next(lost, True))
    site.look(RELAY, OTHER_RELAY)
    assert site.discovery.snapshot(is_ipv6=False).mapping is Mapping.INDEPENDENT
    assert site.discovery.silent == (OTHER_RELAY,)
    asked_at = [at for at, server in site.sent if server == OTHER_RELAY]
    assert asked_at == [sum(STUN_INTERVALS[:number]) for number in range(4)]
    (_, answered) = site.discovery.seen(is_ipv6=False)
    assert answered.rtt is None, "of two requests nobody knows which was answered"


def test_after_a_move_everything_is_learnt_anew() -> None:
    site = Site(Nat("address and port-dependent"))
    site.look(RELAY)
    site.discovery.look(None, (), (), site.now)
    assert site.discovery.snapshot(is_ipv6=False) == (Mapping.UNKNOWN, ())
    site.nat = Nat("endpoint-independent")
    site.look(RELAY)
    mappings = [mapping for is_ipv6, mapping in site.changes if not is_ipv6]
    once = [Mapping.UNKNOWN, Mapping.DEPENDENT, Mapping.UNKNOWN, Mapping.UNKNOWN]
    assert mappings == [*once, Mapping.INDEPENDENT]


@pytest.mark.parametrize("dependence", DEPENDENCE)
def test_a_second_look_without_a_move_forgets_nothing_meanwhile(dependence: str) -> None:
    site = Site(Nat(dependence))
    site.look(RELAY, OTHER_RELAY)
    known, told = site.discovery.snapshot(is_ipv6=False).mapping, len(site.changes)
    site.look(OTHER_RELAY, RELAY)
    assert {mapping for is_ipv6, mapping in site.changes[told:] if not is_ipv6} <= {known}


def test_only_who_was_asked_is_believed_and_only_once() -> None:
    site = Site(Nat("endpoint-independent"))
    discovery = site.discovery
    discovery.look(None, (RELAY,), (LOCAL,), 0.0)
    transmit = discovery.poll_transmit()
    assert transmit is not None
    answer = BindingResponder(b"k", DropCounter()).answer(
        Endpoint("198.51.100.66", 6), transmit[1], 0.0
    )
    assert answer is not None
    discovery.receive(answer, OTHER_RELAY, 0.1)  # it knows the transaction, and is another
    assert discovery.snapshot(is_ipv6=False).endpoints == ()
    discovery.receive(answer, RELAY, 0.1)
    discovery.receive(answer, RELAY, 0.1)
    assert discovery.snapshot(is_ipv6=False).endpoints == (Endpoint("198.51.100.66", 6),)
    discovery.receive(answer[:9], RELAY, 0.1)
    assert site.drops == {Drop.STUN_UNASKED: 2, Drop.STUN_SIZE: 1}
