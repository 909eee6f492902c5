"""The kinds of access network of the lab behave as their names say, by RFC 5780's tests."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_access import BEHAVIOURS, Access, Dependence, Directness, Internet, directness

if TYPE_CHECKING:
    from lab import Lab

PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.lab
@pytest.mark.once
def test_every_kind_maps_and_filters_as_it_says(lab: Lab) -> None:
    internet = Internet(lab)
    servers = [internet.server(name) for name in ("first", "second")]
    stranger = internet.host("stranger")
    reflectors = [
        host.popen([sys.executable, PROGRAMS / "nat_reflector.py"]) for host in (*servers, stranger)
    ]
    hosts = {access: internet.behind(access, access.name.lower()) for access in Access}
    for reflector in reflectors:
        reflector.wait_for("ready")
    probes = {
        access: host.popen(
            [
                *(sys.executable, PROGRAMS / "nat_probe.py"),
                *(each.address(min(BEHAVIOURS[access].families)) for each in (*servers, stranger)),
            ]
        )
        for access, host in hosts.items()
    }
    found = {access: json.loads(probe.check()) for access, probe in probes.items()}
    # No filter is what a probe cannot tell from one that lets everyone in.
    lets_all_in = {Dependence.NONE: Dependence.ENDPOINT_INDEPENDENT}
    assert found == {
        access: {
            "mapping": behaviour.mapping.value,
            "filtering": lets_all_in.get(behaviour.filtering, behaviour.filtering).value,
        }
        for access, behaviour in BEHAVIOURS.items()
    }
    servers[0].python(PROGRAMS / "nat_probe.py", servers[1].address(), *[stranger.address()] * 2)
    reflectors[2].wait_for(f"{servers[0].address()} ")
    heard = {line.split()[0] for line in reflectors[2].stdout.splitlines()[1:]}
    shown = {
        access: hosts[access].address(min(BEHAVIOURS[access].families))
        for access in (Access.OUTBOUND_ONLY, Access.UDP_TO_SERVERS)
    }
    assert shown[Access.OUTBOUND_ONLY] in heard
    assert shown[Access.UDP_TO_SERVERS] not in heard


def of(one: Access, other: Access) -> Directness:
    return directness(BEHAVIOURS[one], BEHAVIOURS[other])


HARD = {Access.SYMMETRIC, Access.SYMMETRIC_RANDOM}
SHUT = {Access.PORT_RESTRICTED, Access.DOUBLE_NAT, Access.OUTBOUND_ONLY}


def test_what_may_be_direct_is_the_same_from_both_sides() -> None:
    for one, other in itertools.product(Access, repeat=2):
        assert of(one, other) is of(other, one)


def test_what_two_access_networks_allow() -> None:
    """All 121 cells, told by name and not by the rule under test."""
    for one, other in itertools.product(Access, repeat=2):
        pair = {one, other}
        no_family = Access.IPV6_ONLY in pair and not pair <= {
            *(Access.IPV6_ONLY, Access.NO_NAT, Access.OUTBOUND_ONLY)
        }
        if no_family or Access.UDP_TO_SERVERS in pair or pair <= HARD:
            expected = Directness.NEVER
        elif pair & HARD and pair & SHUT:
            expected = Directness.BY_PROBING
        else:
            expected = Directness.ALWAYS
        assert of(one, other) is expected, (one, other)
