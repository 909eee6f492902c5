"""A name server without a coordinator: zones from a few facts, asked with dnspython's messages."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rrset

from ntmpatch.base.drops import DropCounter
from ntmpatch.servers.direction.names import NameIndex
from ntmpatch.servers.direction.nameserver import NameServer
from ntmpatch.servers.direction.serial import ZoneSerial
from ntmpatch.servers.direction.zone import ZoneFacts, Zones

CLIENT = "192.0.2.77"


def packed(*addresses: str) -> tuple[bytes, ...]:
    return tuple(ipaddress.ip_address(address).packed for address in addresses)


class Directory(NameIndex):
    """A coordinator's names, with facts that a test may replace."""

    def __init__(self, facts: ZoneFacts) -> None:
        super().__init__()
        self.facts = facts


HOME = ZoneFacts(
    domains=["home.example", "second.example"],
    primary="dc.home.example",
    hosts={"dc.home.example": packed("192.0.2.1", "2001:db8::1")},
    texts={"_ntm.dc.home.example": [b"\6v=ntm1"]},
    prefixes=[ipaddress.ip_network("198.18.16.0/20"), ipaddress.ip_network("fd00:1:2::/48")],
    ttl=30,
)


class Asked:
    """A name server in virtual time, and what it answers."""

    def __init__(self, facts: ZoneFacts = HOME, *, wall: float = 1_700_000_000.0, **settings: Any):
        self.now = 1000.0
        self.wall = wall
        self.directory = Directory(facts)
        self.drops = DropCounter()
        self.zones = Zones(self.directory, ZoneSerial(lambda: self.wall))
        entropy = random.Random(5).randbytes
        self.server = NameServer(self.zones, self.drops, entropy=entropy, now=self.now, **settings)

    def raw(self, query: bytes, source: str = CLIENT, *, tcp: bool = False) -> bytes | None:
        return self.server.answer_untrusted(query, source, self.now, tcp=tcp)

    def ask(
        self, name: str, kind: str, source: str = CLIENT, *, tcp: bool = False, **query: Any
    ) -> dns.message.Message:
        """The answer to a query; the same name, in the same letters, is asked about."""
        message = dns.message.make_query(name, kind, **query)
        wire = self.raw(message.to_wire(), source, tcp=tcp)
        assert wire is not None
        answer = dns.message.from_wire(wire)
        assert answer.id == message.id
        assert answer.flags & dns.flags.QR
        assert message.question[0].to_text() == answer.question[0].to_text()
        return answer

    def values(self, name: str, kind: str, **query: Any) -> list[str]:
        """The data of all records in the answer."""
        return [item.to_text() for rrset in self.ask(name, kind, **query).answer for item in rrset]


def cookie_option(data: bytes) -> dns.edns.GenericOption:
    return dns.edns.GenericOption(dns.edns.OptionType.COOKIE, data)


def cookie_of(answer: dns.message.Message) -> bytes:
    """The whole cookie in an answer."""
    (option,) = (each for each in answer.options if each.otype == dns.edns.OptionType.COOKIE)
    return bytes(option.to_wire() or b"")
