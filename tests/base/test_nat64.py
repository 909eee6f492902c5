"""IPv4 within IPv6: the examples of RFC 6052, and what RFC 7050 finds."""

from __future__ import annotations

import ipaddress

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.nat64 import Nat64Prefix, find_prefix

EXAMPLES = {
    "2001:db8::/32": "2001:db8:c000:221::",
    "2001:db8:100::/40": "2001:db8:1c0:2:21::",
    "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
    "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
    "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
    "2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
}
"""Section 2.4, table 2, all of 192.0.2.33."""


def prefix(text: str) -> Nat64Prefix:
    network = ipaddress.IPv6Network(text)
    return Nat64Prefix(network.network_address.packed, network.prefixlen)


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_of_rfc_6052(text: str) -> None:
    embedded = prefix(text).embed(Endpoint("192.0.2.33", 7))
    assert embedded == Endpoint(str(ipaddress.IPv6Address(EXAMPLES[text])), 7)
    assert prefix(text).holds(embedded)
    assert not prefix(text).holds(Endpoint("2001:db9::1", 7))
    assert not prefix(text).holds(Endpoint("192.0.2.33", 7))


@pytest.mark.parametrize("text", EXAMPLES)
@pytest.mark.parametrize("address", ["192.0.0.170", "192.0.0.171"])
def test_the_prefix_is_found_in_the_addresses_of_the_well_known_name(
    text: str, address: str
) -> None:
    made = prefix(text).embed(Endpoint(address, 0))
    assert made is not None
    assert find_prefix(["2001:db8::1", made.host]) == prefix(text)
    assert str(prefix(text)) == text


def test_other_addresses_tell_of_no_prefix() -> None:
    assert find_prefix([]) is None
    assert find_prefix(["2001:db8::1", "64:ff9b::192.0.2.1", "fe80::1%eth0"]) is None


def test_the_well_known_prefix_is_not_for_private_addresses() -> None:
    """RFC 6052, section 3.1."""
    well_known = prefix("64:ff9b::/96")
    assert well_known.embed(Endpoint("10.0.0.1", 7)) is None
    assert well_known.embed(Endpoint("8.8.8.8", 7)) == Endpoint("64:ff9b::808:808", 7)
