"""A router that maps ports: what is made of its answers, and of those that are not its."""

from __future__ import annotations

import itertools
import random
import struct

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.handover.portmapping import LIFETIME, PAUSE, PortMapping, Router
from ntmpatch.wire import natpmp, pcp

ROUTER = Router("10.0.0.1", "10.0.0.2", 51820)
SERVER = Endpoint("10.0.0.1", 5351)
OUTSIDE = "5.5.5.1"


class Box:
    """A router in virtual time: which protocols it knows, and what it gives."""

    def __init__(self, *protocols: str, external: str = OUTSIDE, seed: int = 1) -> None:
        rng = random.Random(seed)
        self.protocols = protocols
        self.external = external
        self.now = 1000.0
        self.booted_at = 0.0
        self.loss = 0.0
        self.lifetime = 600
        self.port = 40001
        self.result = 0
        self.asked: list[tuple[float, str, int]] = []
        self.changes: list[Endpoint | None] = []
        self.drops = DropCounter()
        self.rng = rng
        self.mapping = PortMapping(
            entropy=rng.randbytes,
            drops=self.drops,
            on_change=lambda: self.changes.append(self.mapping.mapped),
        )

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            while (transmit := self.mapping.poll_transmit()) is not None:
                server, request = transmit
                assert server == SERVER
                answers = self._answers(request) if self.rng.random() >= self.loss else []
                for answer in answers:
                    if self.rng.random() >= self.loss:
                        self.mapping.receive(answer, SERVER, self.now)
            due_at = self.mapping.poll_timeout()
            if due_at is None or due_at > end:
                self.now = end
                return
            self.now = max(due_at, self.now)
            self.mapping.handle_timeout(self.now)

    def _answers(self, request: bytes) -> list[bytes]:
        epoch = int(self.now - self.booted_at)
        if request[0] == pcp.VERSION:
            lifetime = struct.unpack_from("!I", request, 4)[0]
            self.asked.append((self.now, "pcp", lifetime))
            if "pcp" in self.protocols:
                given = min(lifetime, self.lifetime) if not self.result else 30
                head = struct.pack("!BBxBII12x", 2, 0x81, self.result, given, epoch)
                address = bytes(10) + b"\xff\xff" + bytes(map(int, self.external.split(".")))
                return [head + request[24:42] + struct.pack("!H", self.port) + address]
            if "nat-pmp" in self.protocols:
                return [struct.pack("!BBHI", 0, 0x80, 1, epoch)]
            return []
        lifetime = struct.unpack_from("!I", request, 8)[0] if request[1] else 0
        self.asked.append((self.now, "nat-pmp", lifetime))
        if "nat-pmp" not in self.protocols:
            return []
        if request[1] == natpmp.EXTERNAL_ADDRESS:
            packed = bytes(map(int, self.external.split(".")))
            return [struct.pack("!BBHI", 0, 128, 0, epoch) + packed]
        given = min(lifetime, self.lifetime)
        body = struct.pack("!HHI", ROUTER.port, self.port, given)
        return [struct.pack("!BBHI", 0, 129, 0, epoch) + body]


@pytest.mark.parametrize("protocols", [("pcp",), ("nat-pmp",), ("pcp", "nat-pmp")])
@pytest.mark.parametrize("loss", [0.0, 0.4])
def test_a_mapping_is_made_kept_and_given_back(protocols: tuple[str, ...], loss: float) -> None:
    box = Box(*protocols)
    box.loss = loss
    box.mapping.use(ROUTER, box.now)
    box.run(4000.0)
    assert box.mapping.mapped == Endpoint(OUTSIDE, 40001)
    if not loss:
        assert box.changes == [Endpoint(OUTSIDE, 40001)], "kept without a gap"
        last = [at for at, protocol, _ in box.asked if protocol == protocols[0]][-5:]
        assert all(b - a <= box.lifetime / 2 + 1 for a, b in itertools.pairwise(last))
    box.mapping.release()
    box.run(1.0)
    assert box.asked[-1][2] == 0
    assert box.mapping.poll_timeout() is None


def test_a_router_that_offers_nothing_is_left_alone() -> None:
    box = Box()
    box.mapping.use(ROUTER, box.now)
    box.run(PAUSE - 1.0)
    assert len(box.asked) == 4 + 2 * 4
    assert not box.changes
    box.protocols = ("pcp",)
    box.run(60.0)
    assert box.changes == [Endpoint(OUTSIDE, 40001)]


def test_a_router_that_refuses_is_asked_when_it_says() -> None:
    box = Box("pcp")
    box.result = 2  # NOT_AUTHORIZED
    box.mapping.use(ROUTER, box.now)
    box.run(59.0)
    assert len(box.asked) == 1
    assert box.mapping.poll_upnp() == ROUTER, "it may allow that"
    box.result = 0
    box.run(2.0)
    assert box.mapping.mapped is not None


def test_a_router_that_gives_another_port_after_a_restart_is_believed() -> None:
    box = Box("pcp")
    box.mapping.use(ROUTER, box.now)
    box.run(100.0)
    box.port, box.booted_at = 40777, box.now
    announce = struct.pack("!BBxBII12x", 2, 0x80, 0, 0, 0)
    assert box.mapping.receive(announce, SERVER, box.now)
    box.run(1.0)
    assert box.changes == [Endpoint(OUTSIDE, 40001), Endpoint(OUTSIDE, 40777)]


def test_only_the_routers_answers_to_what_was_asked_count() -> None:
    box = Box()
    box.mapping.use(ROUTER, box.now)
    request = box.mapping.poll_transmit()
    assert request is not None
    forged = Box("pcp", seed=2)
    [answer] = forged._answers(request[1])
    assert not box.mapping.receive(answer, Endpoint("10.0.0.9", 5351), box.now)
    assert not box.mapping.receive(answer, Endpoint("10.0.0.1", 5352), box.now)
    other_nonce = answer[:24] + bytes(12) + answer[36:]
    assert box.mapping.receive(other_nonce, SERVER, box.now)
    assert box.drops.by_name() == {Drop.PORT_MAPPING_UNASKED.value: 1}
    assert box.mapping.receive(answer[:30], SERVER, box.now)
    assert not box.changes
    assert box.mapping.receive(answer, SERVER, box.now)
    assert box.changes


@pytest.mark.parametrize("external", ["100.64.3.4", "192.168.1.7"])
def test_an_outside_that_is_none_is_no_mapping(external: str) -> None:
    box = Box("pcp", external=external)
    box.mapping.use(ROUTER, box.now)
    box.run(10.0)
    assert not box.changes


def test_another_network_ends_the_mapping_and_asks_there() -> None:
    box = Box("pcp")
    box.mapping.use(ROUTER, box.now)
    box.run(1.0)
    box.mapping.use(None, box.now)
    assert box.changes == [Endpoint(OUTSIDE, 40001), None]
    assert box.mapping.poll_timeout() is None
    box.mapping.use(ROUTER, box.now)
    box.run(1.0)
    assert box.changes[-1] == Endpoint(OUTSIDE, 40001)
    assert box.asked[-1][2] == LIFETIME


def test_upnp_comes_last_and_only_its_last_question_counts() -> None:
    router = Router("10.0.0.1", "10.0.0.2", 4460)
    external = Endpoint("5.5.5.1", 4460)
    mapping = PortMapping(entropy=bytes, drops=DropCounter(), on_change=lambda: None)
    mapping.use(router, 0.0)
    asked = None
    while asked is None:
        due_at = mapping.poll_timeout()
        assert due_at is not None
        assert due_at < 60.0
        mapping.handle_timeout(due_at)
        asked = mapping.poll_upnp()
    assert asked == router
    assert not mapping.upnp_done(router._replace(gateway="10.0.0.9"), external, 20.0)
    assert mapping.upnp_done(router, external, 20.0)
    assert (mapping.mapped, mapping.poll_timeout()) == (external, 20.0 + LIFETIME / 2)
    mapping.handle_timeout(20.0 + LIFETIME / 2)
    assert mapping.poll_upnp() == router
    assert not mapping.upnp_done(router, None, 20.0 + LIFETIME / 2)
    assert mapping.mapped is None
