"""Cookies: bound to a source, to a secret of two minutes, and to the message they answer."""

from __future__ import annotations

import random

from ntmpatch.base.addresses import Endpoint
from ntmpatch.packet.tunnel.constants import MAX_SOURCES, SOURCE_BURST
from ntmpatch.packet.tunnel.cookie import CookieChecker, CookieHolder, network_of
from ntmpatch.wire.wireguard import COOKIE_REPLY_LAYOUT, MAC_SIZE

KEY = bytes(range(32))
LIFETIME = 120.0
HERE, THERE = b"here", b"there"
MESSAGE = random.Random(0).randbytes(116) + bytes(2 * MAC_SIZE)


def checker(now: float = 0.0) -> CookieChecker:
    return CookieChecker(KEY, lifetime=LIFETIME, now=now, entropy=random.Random(1).randbytes)


def obtain(theirs: CookieChecker, ours: CookieHolder, now: float) -> bytes:
    """Send a message, take the cookie that answers it; the first message."""
    first = ours.stamp(MESSAGE, now)
    reply = theirs.reply(memoryview(first), 7, HERE, now)
    _, receiver, nonce, sealed = COOKIE_REPLY_LAYOUT.unpack(reply)
    assert receiver == 7
    assert ours.accept(nonce, sealed, now)
    return first


def test_a_cookie_proves_where_its_holder_is():
    theirs, ours = checker(), CookieHolder(KEY, lifetime=LIFETIME)
    first = obtain(theirs, ours, 1.0)
    second = ours.stamp(MESSAGE, 2.0)
    assert theirs.has_mac1(memoryview(first))
    assert theirs.has_mac1(memoryview(second))
    assert not theirs.has_mac2(memoryview(first), HERE, 2.0)
    assert theirs.has_mac2(memoryview(second), HERE, 2.0)
    assert not theirs.has_mac2(memoryview(second), THERE, 2.0)


def test_a_cookie_lives_as_long_as_the_secret_it_was_made_with():
    theirs, ours = checker(), CookieHolder(KEY, lifetime=LIFETIME)
    obtain(theirs, ours, 100.0)
    assert theirs.has_mac2(memoryview(ours.stamp(MESSAGE, 119.0)), HERE, 119.0)
    assert not theirs.has_mac2(memoryview(ours.stamp(MESSAGE, 121.0)), HERE, 121.0)


def test_an_old_cookie_is_not_shown_any_more():
    theirs, ours = checker(), CookieHolder(KEY, lifetime=LIFETIME)
    obtain(theirs, ours, 0.0)
    assert ours.stamp(MESSAGE, 119.0)[-MAC_SIZE:] != bytes(MAC_SIZE)
    assert ours.stamp(MESSAGE, 120.0)[-MAC_SIZE:] == bytes(MAC_SIZE)


def test_a_cookie_for_a_message_that_we_did_not_send_is_refused():
    theirs, ours, others = (
        checker(),
        CookieHolder(KEY, lifetime=LIFETIME),
        CookieHolder(KEY, lifetime=LIFETIME),
    )
    foreign = others.stamp(MESSAGE[::-1], 0.0)
    ours.stamp(MESSAGE, 0.0)
    _, _, nonce, sealed = COOKIE_REPLY_LAYOUT.unpack(
        theirs.reply(memoryview(foreign), 7, HERE, 0.0)
    )
    assert not ours.accept(nonce, sealed, 0.0)


def test_a_cookie_may_answer_any_of_the_messages_repeated_within_a_round_trip():
    theirs, ours = checker(), CookieHolder(KEY, lifetime=LIFETIME)
    first = ours.stamp(MESSAGE, 0.0)
    ours.stamp(MESSAGE[::-1], 0.1)
    _, _, nonce, sealed = COOKIE_REPLY_LAYOUT.unpack(theirs.reply(memoryview(first), 7, HERE, 0.1))
    assert ours.accept(nonce, sealed, 0.2)


def test_a_source_has_a_rate_and_the_table_of_sources_an_end():
    theirs = checker()
    assert [theirs.allows("a", 0.0) for _ in range(SOURCE_BURST + 1)] == [True] * SOURCE_BURST + [
        False
    ]
    assert theirs.allows("b", 0.0)
    assert theirs.allows("a", 1.0)
    for number in range(3 * MAX_SOURCES):
        theirs.allows(number, 2.0)
    assert len(theirs._sources) <= MAX_SOURCES


def test_ports_of_one_address_and_addresses_of_one_ipv6_network_share_a_rate():
    assert network_of(Endpoint("192.0.2.1", 1)) == network_of(Endpoint("192.0.2.1", 2))
    assert network_of(Endpoint("192.0.2.1", 1)) != network_of(Endpoint("192.0.2.2", 1))
    assert network_of(Endpoint("2001:db8::1", 1)) == network_of(Endpoint("2001:db8::2:1", 1))
    assert network_of(Endpoint("2001:db8::1", 1)) != network_of(Endpoint("2001:db8:0:1::1", 1))
    assert network_of(Endpoint("fe80::1%eth0", 1)) == network_of(Endpoint("fe80::2%eth1", 1))
    assert network_of("a stream") == "a stream"
