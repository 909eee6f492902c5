"""Floods in another's name get nothing larger back; real resolvers get all their answers."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import replace

import dns.flags
import dns.message
import dns.rcode
import pytest
from name_server import HOME, Asked, cookie_of, cookie_option, packed

from ntmpatch.base.drops import Drop

VICTIM = "203.0.113."
QUESTIONS = [
    ("cam.home.example", "A", {}),
    ("cam.home.example", "AAAA", {"use_edns": 0}),
    ("stranger.home.example", "A", {"use_edns": 0}),
    ("home.example", "NS", {}),
    ("big.home.example", "TXT", {"use_edns": 0}),
    ("home.example", "SOA", {"options": [cookie_option(b"clientxx")]}),
    ("home.example", "SOA", {"options": [cookie_option(bytes(24))]}),
]


def make_asked(**settings: object) -> Asked:
    asked = Asked(replace(HOME, texts={"big.home.example": [b"\xff" + b"x" * 255] * 3}), **settings)
    asked.directory.put("cam.home.example", packed("198.18.16.2", "fd00:1:2::2"))
    return asked


WIRES = [
    dns.message.make_query(name, kind, **options).to_wire()  # type: ignore[arg-type]
    for name, kind, options in QUESTIONS
]


@pytest.mark.parametrize("chosen", [[number] for number in range(len(QUESTIONS))] + [[*range(7)]])
@pytest.mark.parametrize("rate", [2_000, 50_000])
def test_a_flood_in_anothers_name_is_not_made_larger(chosen: list[int], rate: int) -> None:
    rng = random.Random(rate)
    asked = make_asked()
    bytes_in = bytes_out = unanswered = 0
    for _ in range(3_000):
        query = WIRES[rng.choice(chosen)]
        answer = asked.raw(query, VICTIM + str(rng.randrange(256)))
        bytes_in += len(query)
        if answer is None:
            unanswered += 1
        else:
            bytes_out += len(answer)
        asked.now += 1 / rate
    assert bytes_out <= bytes_in
    assert asked.drops[Drop.DNS_FLOOD] == unanswered > 0
    assert asked.drops[Drop.DNS_SHORTENED] > 0


def test_at_no_time_of_a_flood_more_than_the_burst_is_out() -> None:
    rng = random.Random(1)
    asked = make_asked(excess_rate=8192)
    balance = worst = 0
    for _ in range(5):
        for _ in range(2000):
            query = WIRES[rng.choice([2, 4])]
            answer = asked.raw(query, VICTIM + "9")
            balance += len(answer or b"") - len(query)
            worst = max(worst, balance)
            asked.now += 0.0005
        assert balance <= 0
    assert worst <= 8192


def test_resolvers_at_their_usual_rates_notice_nothing() -> None:
    """Also while others of other prefixes are flooded."""
    rng = random.Random(2)
    asked = make_asked()
    for _ in range(500):
        for _ in range(20):
            asked.raw(WIRES[2], VICTIM + "9")
        answer = asked.raw(WIRES[rng.randrange(4)], "192.0.2.53")
        assert answer is not None
        assert not dns.message.from_wire(answer).flags & dns.flags.TC
        asked.now += 0.01


def test_who_shows_our_cookie_is_not_limited() -> None:
    """At any rate; and in the midst of a flood a refusal tells what to show."""
    asked = make_asked()
    stale = WIRES[6]
    source = VICTIM + "9"
    answers = [asked.raw(stale, source) for _ in range(500)]
    refused = next(
        message
        for message in map(dns.message.from_wire, filter(None, answers))
        if message.rcode() == dns.rcode.BADCOOKIE
    )
    cookie = cookie_of(refused)
    query = dns.message.make_query("home.example", "SOA", options=[cookie_option(cookie)]).to_wire()
    answers = [asked.raw(query, source) for _ in range(500)]
    assert all(answer is not None and len(answer) > len(query) for answer in answers)
    # It is good for this client, at this address, for an hour.
    server = asked.server
    assert server.cookies.is_ours(cookie, source, asked.now + 3500)
    assert not server.cookies.is_ours(cookie, source, asked.now + 3700)
    assert not server.cookies.is_ours(cookie, VICTIM + "8", asked.now)
    assert not server.cookies.is_ours(b"another!" + cookie[8:], source, asked.now)


def test_a_client_in_a_flooded_prefix_is_sent_to_tcp() -> None:
    asked = make_asked()
    for _ in range(1000):
        asked.raw(WIRES[2], VICTIM + "9")
    outcomes = set()
    for _ in range(20):
        asked.raw(WIRES[2], VICTIM + "9")
        query = WIRES[0]
        answer = asked.raw(query, VICTIM + "10")
        if answer is not None:
            assert len(answer) <= len(query) or not answer[2] & 0x02
            outcomes.add(bool(answer[2] & 0x02))
            assert asked.raw(query, VICTIM + "10", tcp=True) is not None
    assert True in outcomes
    asked.now += 10.0
    assert asked.values("cam.home.example", "A", source=VICTIM + "10") == ["198.18.16.2"]


def test_exempt_prefixes_are_not_limited() -> None:
    asked = make_asked(exempt=[ipaddress.ip_network("203.0.113.0/28")])
    for _ in range(500):
        answer = asked.raw(WIRES[2], VICTIM + "9")
        assert answer is not None
        assert len(answer) > len(WIRES[2])
    assert not asked.drops
