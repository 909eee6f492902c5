"""The heart-beat's interval against model NATs: it converges, and fails seldom on the way."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from domain import Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.negotiation.heartbeat import (
    FIRST_INTERVAL,
    MAX_INTERVAL,
    MIN_INTERVAL,
    PATIENCE,
    RESOLUTION,
    Heartbeat,
    Heartbeats,
)
from ntmpatch.negotiation.service import HEARTBEAT_GRACE
from ntmpatch.signalling.effects import Reconnect, Resolved

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86400.0


def live(heartbeat: Heartbeat, survives: Callable[[float], bool], seconds: float) -> list[float]:
    """Beat for so long; when it failed."""
    now, misses = 0.0, []
    while now < seconds:
        now += heartbeat.interval
        if survives(heartbeat.interval):
            heartbeat.survived()
        else:
            misses.append(now)
            heartbeat.missed()
    return misses


def test_any_nats_limit_is_found_and_seldom_overstepped() -> None:
    rng = random.Random(5382)
    for trial in range(300):
        limit = math.exp(rng.uniform(math.log(MIN_INTERVAL), math.log(20_000.0)))
        first = rng.choice((MIN_INTERVAL, FIRST_INTERVAL, 300.0))
        heartbeat = Heartbeat(first)
        misses = live(heartbeat, lambda interval, limit=limit: interval <= limit, 10 * DAY)
        found = f"trial {trial}, limit {limit}: {heartbeat.interval}"
        # It may just be trying a longer one.
        best = min(limit, MAX_INTERVAL)
        assert best / RESOLUTION <= heartbeat.interval <= RESOLUTION * best, found
        # The search: halvings from above, one doubling too many, two steps between. Then once for
        # each doubling of patience.
        searching = math.log2(max(first / MIN_INTERVAL, 1.0)) + 3.0
        again = math.log2(10 * DAY / (PATIENCE * MIN_INTERVAL) + 1.0)
        assert len(misses) <= searching + again + 1, found
        assert sum(at > DAY for at in misses) <= math.log2(10.0) + 1.0, found


def test_one_miss_proves_nothing_against_what_was_good_and_two_do() -> None:
    heartbeat = Heartbeat()
    live(heartbeat, lambda interval: interval <= 400.0, DAY)
    good = heartbeat.interval
    assert 400.0 / RESOLUTION <= good <= 400.0
    heartbeat.missed()  # the NS was restarted, say
    assert heartbeat.interval == good
    heartbeat.survived()
    assert heartbeat.interval <= RESOLUTION * good
    misses = live(heartbeat, lambda interval: interval <= 100.0, DAY)  # another router
    assert 100.0 / RESOLUTION <= heartbeat.interval <= RESOLUTION * 100.0
    assert len(misses) <= 8
    live(heartbeat, lambda _: True, 30 * DAY)
    assert heartbeat.interval == MAX_INTERVAL


def test_networks_are_remembered_apart_and_not_for_ever() -> None:
    heartbeats = Heartbeats()
    home = heartbeats.on("192.168.1.2")
    home.survived()
    assert heartbeats.on("10.0.0.1").interval == FIRST_INTERVAL
    assert heartbeats.on("192.168.1.2") is home
    for number in range(100):
        heartbeats.on(f"10.1.0.{number}")
    assert heartbeats.on("192.168.1.2").interval == FIRST_INTERVAL


@pytest.mark.once
@pytest.mark.parametrize("limit", [60.0, float("inf")])
def test_a_node_is_within_reach_of_its_ns_but_for_a_few_moments(limit: float) -> None:
    """The whole of it: DC, NS and a node behind a NAT that forgets silent connections."""
    domain = Domain(7)
    domain.start_servers()
    b = domain.start_node("b", Endpoint("10.0.0.2", 1000), nat=Endpoint("203.0.113.2", 4444))
    b.nat_timeout = limit
    domain.register(b)
    key = b.party.public_key
    server = domain.notification_server
    domain.network.run(3 * 3600.0)
    lost = [effect for effect in b.of(Reconnect) if effect.public_key == server.party.public_key]
    assert len(lost) <= 5, "each is a time of at most limit/4 + grace in which it was out of reach"
    best = min(limit, MAX_INTERVAL)
    assert best / RESOLUTION <= server.probe_intervals[key] <= RESOLUTION * best
    assert server.party._services[key].connected
    domain.network.run(HEARTBEAT_GRACE)
    a = domain.start_node("a", Endpoint("198.51.100.1", 1000))
    domain.register(a)
    assert isinstance(domain.resolve(a, "b"), Resolved)
