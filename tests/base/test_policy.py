"""Policies: rules, and the ranges of ports that come of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntmpatch.base.errors import ConfigError
from ntmpatch.base.policy import (
    NO_ACCESS,
    TCP,
    UDP,
    Access,
    Policy,
    PortRange,
    intersection,
    merged,
    parse_rule,
)


def ranges() -> st.SearchStrategy[list[PortRange]]:
    """Some ranges within a space small enough to be counted out."""
    one = st.builds(
        lambda protocol, first, size: PortRange(protocol, first, first + size),
        st.sampled_from([TCP, UDP]),
        st.integers(0, 40),
        st.integers(0, 15),
    )
    return st.lists(one, max_size=6)


def ports(access: Access) -> set[tuple[int, int]]:
    assert access is not None
    return {(r.protocol, port) for r in access for port in range(r.first, r.last + 1)}


@given(ranges(), ranges())
def test_ranges_are_sets_of_ports(one: list[PortRange], other: list[PortRange]) -> None:
    union = merged([*one, *other])
    assert ports(union) == ports(tuple(one)) | ports(tuple(other))
    common = intersection(tuple(one), tuple(other))
    assert ports(common) == ports(tuple(one)) & ports(tuple(other))
    for before, after in itertools.pairwise(union):
        assert before.protocol < after.protocol or before.last + 1 < after.first


def test_without_rules_everything_is_allowed_and_with_rules_only_what_they_allow() -> None:
    assert Policy().access("a.x.example", "b.y.example") is None
    policy = Policy(
        [
            parse_rule(["*.x.example"], ["cam.y.example"], ["tcp/80", "tcp/81-90", "udp"]),
            parse_rule(["desk.x.example"], ["cam.y.example"], ["tcp/22"]),
            parse_rule(["root.x.example"], [], []),
        ]
    )
    assert policy.access("a.x.example", "cam.y.example") == (
        PortRange(TCP, 80, 90),
        PortRange(UDP, 0, 65535),
    )
    assert PortRange(TCP, 22, 22) in (policy.access("desk.x.example", "cam.y.example") or ())
    assert policy.access("root.x.example", "anything.y.example") is None
    assert policy.access("a.x.example", "door.y.example") == NO_ACCESS
    assert policy.access("x.example", "cam.y.example") == NO_ACCESS, "the domain is not in itself"
    assert policy.access("evilx.example", "cam.y.example") == NO_ACCESS


@pytest.mark.parametrize("text", ["*.", "a", "*a.example", "a..b", "**"])
def test_what_is_no_pattern_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        parse_rule([text], [], [])


@pytest.mark.parametrize("text", ["22", "tcp/", "tcp/70000", "tcp/9-3", "icmp", "TCP/1", "tcp/1-"])
def test_what_are_no_ports_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="ports"):
        parse_rule([], [], [text])
