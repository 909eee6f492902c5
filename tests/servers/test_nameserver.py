"""What the coordinator's name server answers, clause by clause."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from name_server import HOME, Asked, cookie_of, cookie_option, packed

from ntmpatch.base.drops import Drop
from ntmpatch.servers.direction.zone import reverse_zones


@pytest.fixture
def asked() -> Asked:
    asked = Asked()
    asked.directory.put("cam.home.example", packed("198.18.16.2", "fd00:1:2::2"))
    asked.directory.put("a.b.second.example", packed("198.18.31.255", "fd00:1:2:8000::5"))
    return asked


def test_each_domain_has_its_own_apex(asked: Asked) -> None:
    for domain in ("home.example", "second.example", "31.18.198.in-addr.arpa"):
        assert asked.values(domain, "NS") == ["dc.home.example."]
        (soa,) = asked.values(domain, "SOA")
        contact = domain if domain.endswith("example") else "home.example"
        assert soa.split()[:2] == ["dc.home.example.", f"hostmaster.{contact}."]
    glue = {rrset.to_text() for rrset in asked.ask("home.example", "NS").additional}
    assert glue == {
        "dc.home.example. 30 IN A 192.0.2.1",
        "dc.home.example. 30 IN AAAA 2001:db8::1",
    }
    assert asked.ask("example", "SOA").rcode() == dns.rcode.REFUSED


def test_nodes_and_servers_have_addresses_and_names(asked: Asked) -> None:
    assert asked.values("cam.home.example", "A") == ["198.18.16.2"]
    assert asked.values("CaM.hOmE.example", "AAAA") == ["fd00:1:2::2"]
    assert asked.values("dc.home.example", "A") == ["192.0.2.1"]
    assert asked.values("_ntm.dc.home.example", "TXT") == ['"v=ntm1"']
    answer = asked.ask("cam.home.example", "A")
    assert answer.flags & dns.flags.AA
    assert not answer.flags & dns.flags.RA
    assert answer.answer[0].ttl == 30

    assert asked.values("2.16.18.198.in-addr.arpa", "PTR") == ["cam.home.example."]
    assert asked.values("255.31.18.198.in-addr.arpa", "PTR") == ["a.b.second.example."]
    zeros = ".".join("0" * 19)
    assert asked.values(f"2.{zeros}.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", "PTR") == [
        "cam.home.example."
    ]
    # The first address of a prefix is the coordinator's.
    assert asked.values("1.16.18.198.in-addr.arpa", "PTR") == ["dc.home.example."]
    empty = Asked()
    assert empty.ask("0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", "PTR").rcode() == dns.rcode.NOERROR
    # The next prefix is somebody else's.
    assert asked.ask("1.32.18.198.in-addr.arpa", "PTR").rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        ("stranger.home.example", "A", dns.rcode.NXDOMAIN),
        ("x.cam.home.example", "A", dns.rcode.NXDOMAIN),
        ("cam.home.example", "MX", dns.rcode.NOERROR),
        ("home.example", "A", dns.rcode.NOERROR),
        ("b.second.example", "A", dns.rcode.NOERROR),  # RFC 8020: it has names below it
        ("c.second.example", "A", dns.rcode.NXDOMAIN),
        ("3.16.18.198.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
        ("02.16.18.198.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
        ("1.2.16.18.198.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
        ("8.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", "PTR", dns.rcode.NOERROR),
        ("9.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", "PTR", dns.rcode.NXDOMAIN),
        (r"cam\.home.example", "A", dns.rcode.REFUSED),
        (r"a\.b.second.example", "A", dns.rcode.NXDOMAIN),
        ("256.16.18.198.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
        (r"\000\255.home.example", "A", dns.rcode.NXDOMAIN),
    ],
)
def test_negative_answers(asked: Asked, name: str, kind: str, rcode: int) -> None:
    answer = asked.ask(name, kind)
    assert answer.rcode() == rcode
    assert not answer.answer
    if rcode == dns.rcode.REFUSED:
        return
    (soa,) = answer.authority  # RFC 2308, section 3
    assert soa.rdtype == dns.rdatatype.SOA
    assert answer.flags & dns.flags.AA
    assert soa.ttl == soa[0].minimum == 30
    assert name.endswith(soa.name.to_text(omit_final_dot=True))
    assert soa[0].mname.to_text() == "dc.home.example."
    assert soa[0].rname.to_text().startswith("hostmaster.")


def test_prefixes_of_odd_lengths() -> None:
    def zones(*prefixes: str) -> list[str]:
        return [zone for text in prefixes for zone in reverse_zones(ipaddress.ip_network(text))]

    assert zones("198.18.0.0/15") == ["18.198.in-addr.arpa", "19.198.in-addr.arpa"]
    assert zones("198.18.4.0/22") == [f"{n}.18.198.in-addr.arpa" for n in (4, 5, 6, 7)]
    assert zones("198.18.4.64/30") == [f"{n}.4.18.198.in-addr.arpa" for n in (64, 65, 66, 67)]
    assert zones("fd00:1:2::/48") == ["2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa"]
    assert zones("fd00:1:2::/47") == [
        "2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa",
        "3.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa",
    ]
    asked = Asked(replace(HOME, prefixes=[ipaddress.ip_network("198.18.4.64/30")]))
    asked.directory.put("cam.home.example", packed("198.18.4.66"))
    # A zone of one address: PTR, SOA and NS share its name.
    assert asked.values("66.4.18.198.in-addr.arpa", "PTR") == ["cam.home.example."]
    assert asked.values("66.4.18.198.in-addr.arpa", "NS") == ["dc.home.example."]
    assert not asked.ask("67.4.18.198.in-addr.arpa", "PTR").answer
    assert asked.ask("68.4.18.198.in-addr.arpa", "PTR").rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_transfers_are_refused(asked: Asked, kind: str) -> None:
    query = dns.message.make_query("home.example", kind)
    for tcp in (False, True):
        wire = asked.raw(query.to_wire(), tcp=tcp)
        assert wire is not None
        assert dns.message.from_wire(wire).rcode() == dns.rcode.REFUSED


def test_any_gets_one_type(asked: Asked) -> None:
    """RFC 8482, section 4.1."""
    (rrset,) = asked.ask("cam.home.example", "ANY").answer
    assert rrset.rdtype == dns.rdatatype.AAAA
    (rrset,) = asked.ask("home.example", "ANY").answer
    assert rrset.rdtype == dns.rdatatype.SOA
    assert asked.ask("stranger.home.example", "ANY").rcode() == dns.rcode.NXDOMAIN


def test_what_is_not_a_question_of_ours(asked: Asked) -> None:
    def rcode(query: dns.message.Message) -> dns.rcode.Rcode:
        wire = asked.raw(query.to_wire())
        assert wire is not None
        return dns.message.from_wire(wire).rcode()

    query = dns.message.make_query("version.bind", "TXT", "CH")
    assert rcode(query) == dns.rcode.REFUSED
    query = dns.message.make_query("home.example", "SOA", "HS")
    assert rcode(query) == dns.rcode.REFUSED
    for opcode in (dns.opcode.STATUS, dns.opcode.NOTIFY, dns.opcode.UPDATE):
        query = dns.message.make_query("home.example", "SOA")
        query.set_opcode(opcode)
        assert rcode(query) == dns.rcode.NOTIMP
    query = dns.message.make_query("home.example", "SOA")
    query.question *= 2
    assert rcode(query) == dns.rcode.FORMERR
    assert asked.drops == {Drop.DNS_MALFORMED: 1}
    assert asked.raw(asked.raw(query.to_wire()) or b"") is None
    assert asked.drops[Drop.DNS_RESPONSE] == 1


def test_edns(asked: Asked) -> None:
    """RFC 6891, and section 3 of RFC 3225."""
    assert asked.ask("cam.home.example", "A").edns == -1
    noise = [dns.edns.GenericOption(3, b""), dns.edns.GenericOption(65001, b"noise")]
    answer = asked.ask(
        "cam.home.example", "A", use_edns=0, want_dnssec=True, payload=4096, options=noise
    )
    assert (answer.edns, answer.payload, answer.options) == (0, 1232, ())
    assert answer.ednsflags & dns.flags.DO
    assert answer.answer
    answer = asked.ask("cam.home.example", "A", use_edns=1)
    assert answer.rcode() == dns.rcode.BADVERS
    assert answer.edns == 0
    assert not answer.answer

    def rcode_with(additional: bytes, count: int) -> int:
        wire = bytearray(dns.message.make_query("cam.home.example", "A").to_wire() + additional)
        wire[11] = count
        return (asked.raw(bytes(wire)) or b"")[3] & 0xF

    opt = bytes.fromhex("00 0029 04d0 00000000 0000")
    assert rcode_with(opt, 1) == dns.rcode.NOERROR
    assert rcode_with(opt * 2, 2) == dns.rcode.FORMERR
    assert rcode_with(b"\1x" + opt, 1) == dns.rcode.FORMERR
    assert rcode_with(opt + b"\0", 1) == dns.rcode.FORMERR
    # A signature that nobody here knows the key of is passed over.
    assert rcode_with(bytes.fromhex("c00c 00fa 00ff 00000000 0001 00") + opt, 2) == 0
    assert rcode_with(opt[:-2] + bytes.fromhex("0005 000a 0001 00"), 1) == dns.rcode.FORMERR


def test_what_does_not_fit_is_asked_for_again(asked: Asked) -> None:
    text = b"\xff" + b"x" * 255
    asked.directory.facts = replace(HOME, texts={"t.home.example": [text * 3, text * 2]})
    answer = asked.ask("t.home.example", "TXT")
    assert answer.flags & dns.flags.TC
    assert not answer.answer
    answer = asked.ask("t.home.example", "TXT", use_edns=0, payload=4096)
    assert answer.flags & dns.flags.TC, "1232 bytes at most"
    assert len(asked.values("t.home.example", "TXT", tcp=True)) == 2
    asked.directory.facts = replace(HOME, texts={"t.home.example": [text * 3]})
    assert len(asked.values("t.home.example", "TXT", use_edns=0, payload=1232)) == 1


def test_cookies(asked: Asked) -> None:
    """RFC 7873, section 5.2."""

    def ask(cookie: bytes, **options: object) -> dns.message.Message:
        return asked.ask("cam.home.example", "A", options=[cookie_option(cookie)], **options)

    client = b"clientxx"
    ours = cookie_of(ask(client))
    assert ours[:8] == client
    assert len(ours) == 24
    assert ask(client + bytes(16)).rcode() == dns.rcode.NOERROR, "a wrong one is as good as none"
    for size in (1, 9, 41):
        assert ask_rcode(asked, bytes(size)) == dns.rcode.FORMERR
    # Section 5.4: a query without a question.
    query = dns.message.make_query("x", "A", options=[cookie_option(client)])
    query.question.clear()
    answer = dns.message.from_wire(asked.raw(query.to_wire()) or b"")
    assert answer.rcode() == dns.rcode.NOERROR
    assert cookie_of(answer)[:8] == client


def ask_rcode(asked: Asked, cookie: bytes) -> int:
    query = dns.message.make_query("cam.home.example", "A", options=[cookie_option(cookie)])
    return (asked.raw(query.to_wire()) or b"")[3] & 0xF


def test_the_serial_grows_with_the_contents(asked: Asked) -> None:
    def serial() -> int:
        (soa,) = asked.values("second.example", "SOA")
        return int(soa.split()[2])

    seen = [serial()]

    def grown() -> bool:
        seen.append(serial())
        return seen[-1] > seen[-2]

    assert not grown()
    asked.directory.put("new.home.example", packed("198.18.16.9"))
    assert grown()
    asked.directory.put("new.home.example", packed("198.18.16.9"))
    assert not grown(), "nothing changed"
    asked.directory.remove("new.home.example")
    assert grown()
    asked.directory.facts = replace(HOME, texts={})
    assert grown()
    asked.wall += 100.0
    asked.directory.put("new.home.example", packed("198.18.16.9"))
    assert grown()
    assert seen[-1] == asked.wall
    asked.wall -= 5000.0
    asked.directory.remove("new.home.example")
    assert grown(), "the clock was set back"
