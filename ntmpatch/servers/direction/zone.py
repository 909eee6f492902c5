"""The domain in DNS: authoritative answers about the servers, the nodes, and their addresses back.

Sans-I/O: a query's bytes in, an answer's bytes out (RFC 1034, 1035, 2308, 6891). What is looked up
is asked of ``directory``, which the coordinator keeps in memory: no query waits for a database.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from ntmpatch.base.drops import Drop, DropCounter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ntmpatch.base.addresses import IPAddress, IPNetwork

MAX_UDP_SIZE = 1232
"""Bytes of an answer over UDP with EDNS: passes everywhere unfragmented (DNS flag day 2020)."""
PLAIN_UDP_SIZE = 512
MAX_TCP_SIZE = 65535
HEADER_SIZE = 12

# identity, flags, numbers of questions, answers, authorities, additions
_HEADER = struct.Struct("!HHHHHH")
# of an addition, behind its name: type, class, TTL, size of its data
_RECORD = struct.Struct("!HHIH")
_OPCODE_BITS = 0x7800
_KEPT_FLAGS = _OPCODE_BITS | dns.flags.RD | dns.flags.CD

REFRESH, RETRY, EXPIRE = 3600, 600, 86400
"""Of the SOA, in seconds; only secondaries read them, and there are none."""


class Directory(Protocol):
    """Who has which virtual addresses now."""

    def addresses_of(self, fqdn: str) -> tuple[IPAddress, ...] | None:
        """A node's virtual addresses; None if there is no such node."""

    def name_of(self, address: IPAddress) -> str | None:
        """The node with that virtual address."""


@dataclass(frozen=True)
class ZoneFacts:
    """What does not change while the server runs."""

    domain: str
    primary: str
    """The coordinator's own name: the NS record that others find it by (Fig. 3 (3))."""
    hosts: Mapping[str, Sequence[IPAddress]]
    """Real addresses of the coordinator and the other servers, by name in the domain."""
    serial: int
    ttl: int = 30
    prefixes: Sequence[IPNetwork] = field(default=())
    """Virtual prefixes: their reverse names are answered here as well."""


class Zone:
    """Answers for one domain and the reverse of its virtual prefixes."""

    def __init__(self, facts: ZoneFacts, directory: Directory, drops: DropCounter) -> None:
        self.facts = facts
        self.drops = drops
        self._directory = directory
        self._origin = dns.name.from_text(facts.domain)
        self._reverse = [
            dns.name.from_text(name) for prefix in facts.prefixes for name in _reverse_zones(prefix)
        ]

    def answer_untrusted(self, query: bytes, *, tcp: bool) -> bytes | None:
        """The answer to a query; None for what deserves none, counted by name."""
        if len(query) < HEADER_SIZE:
            self.drops.drop(Drop.DNS_RUNT)
            return None
        if query[2] & 0x80:
            self.drops.drop(Drop.DNS_RESPONSE)
            return None
        try:
            request = _read_untrusted(query)
        except (dns.exception.DNSException, ValueError):
            self.drops.drop(Drop.DNS_MALFORMED)
            return query[:2] + bytes((0x80, dns.rcode.FORMERR)) + bytes(8)
        answer = self._answer(request)
        size = MAX_TCP_SIZE if tcp else PLAIN_UDP_SIZE
        if request.edns >= 0:
            answer.use_edns(0, 0, MAX_UDP_SIZE)
            if not tcp:
                size = request.payload
        try:
            return answer.to_wire(max_size=size)
        except dns.exception.TooBig:
            answer.flags |= dns.flags.TC
            answer.answer.clear()
            answer.authority.clear()
            answer.additional.clear()
            return answer.to_wire(max_size=size)

    def _answer(self, request: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(request)
        if request.opcode() != dns.opcode.QUERY:
            answer.set_rcode(dns.rcode.NOTIMP)
            return answer
        if request.edns > 0:
            answer.set_rcode(dns.rcode.BADVERS)
            return answer
        question = request.question[0]
        name, kind = question.name, question.rdtype
        zone = self._zone_of(name)
        if (
            question.rdclass != dns.rdataclass.IN
            or zone is None
            or kind in (dns.rdatatype.AXFR, dns.rdatatype.IXFR)
        ):
            answer.set_rcode(dns.rcode.REFUSED)
            return answer
        answer.flags |= dns.flags.AA
        records = self._records(zone, name)
        if records is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            wanted = list(records) if kind == dns.rdatatype.ANY else [kind]
            # RFC 8482: ANY gets one type, not all.
            for each in wanted[:1]:
                if records.get(each):
                    answer.answer.append(self._rrset(name, each, records[each]))
        if not answer.answer:
            # RFC 2308: the SOA says for how long the negative answer holds.
            answer.authority.append(self._rrset(zone, dns.rdatatype.SOA, [self._soa()]))
        elif kind == dns.rdatatype.NS:
            self._add_glue(answer)
        return answer

    def _zone_of(self, name: dns.name.Name) -> dns.name.Name | None:
        for zone in (self._origin, *self._reverse):
            if name.is_subdomain(zone):
                return zone
        return None

    def _records(
        self, zone: dns.name.Name, name: dns.name.Name
    ) -> dict[dns.rdatatype.RdataType, list[str]] | None:
        """What there is under ``name``; None if it does not exist."""
        if name == zone:
            return {dns.rdatatype.SOA: [self._soa()], dns.rdatatype.NS: [self.facts.primary + "."]}
        if zone != self._origin:
            return self._pointer(name)
        text = name.to_text(omit_final_dot=True).lower()
        addresses = self.facts.hosts.get(text)
        if addresses is None:
            addresses = self._directory.addresses_of(text)
        if addresses is None:
            return None
        records: dict[dns.rdatatype.RdataType, list[str]] = {}
        for address in addresses:
            kind = dns.rdatatype.A if address.version == 4 else dns.rdatatype.AAAA
            records.setdefault(kind, []).append(str(address))
        return records

    def _pointer(self, name: dns.name.Name) -> dict[dns.rdatatype.RdataType, list[str]] | None:
        address = _address_of(name)
        if address is None:
            # A name between the prefix and an address has names below it: it exists, empty.
            return {}
        target = self._directory.name_of(address)
        return None if target is None else {dns.rdatatype.PTR: [target + "."]}

    def _soa(self) -> str:
        facts = self.facts
        return (
            f"{facts.primary}. hostmaster.{facts.domain}. {facts.serial}"
            f" {REFRESH} {RETRY} {EXPIRE} {facts.ttl}"
        )

    def _rrset(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, values: list[str]
    ) -> dns.rrset.RRset:
        return dns.rrset.from_text(name, self.facts.ttl, dns.rdataclass.IN, kind, *values)

    def _add_glue(self, answer: dns.message.Message) -> None:
        name = dns.name.from_text(self.facts.primary)
        for address in self.facts.hosts.get(self.facts.primary, ()):
            kind = dns.rdatatype.A if address.version == 4 else dns.rdatatype.AAAA
            answer.additional.append(self._rrset(name, kind, [str(address)]))


def _read_untrusted(query: bytes) -> dns.message.Message:
    """The question of a query, and its EDNS version and size; DNSException if it is malformed.

    Nothing else is parsed. dnspython remembers for ever each combination of flags, and of a
    record's type and class, that it meets: whole messages would let strangers fill the memory.
    """
    identity, flags, questions, _, _, additions = _HEADER.unpack_from(query)
    if questions != 1:
        raise dns.exception.FormError
    _, name_size = dns.name.from_wire(query, HEADER_SIZE)
    end = HEADER_SIZE + name_size + 4
    request = dns.message.from_wire(
        _HEADER.pack(identity, flags & _KEPT_FLAGS, 1, 0, 0, 0) + query[HEADER_SIZE:end]
    )
    if additions and len(query) > end + _RECORD.size and query[end] == 0:
        kind, payload_size, ttl, _ = _RECORD.unpack_from(query, end + 1)
        if kind == dns.rdatatype.OPT:
            # RFC 6891, section 6.1.3: the version is the second byte of the TTL.
            size = max(PLAIN_UDP_SIZE, min(payload_size, MAX_UDP_SIZE))
            request.use_edns(ttl >> 16 & 0xFF, 0, size)
    return request


def _reverse_zones(prefix: IPNetwork) -> list[str]:
    """The reverse zones that a prefix fills: whole octets or nibbles."""
    step, labels = (8, 4) if prefix.version == 4 else (4, 32)
    whole = -(-prefix.prefixlen // step) * step
    return [
        ".".join(subnet.network_address.reverse_pointer.split(".")[labels - whole // step :])
        for subnet in prefix.subnets(new_prefix=whole)
    ]


def _address_of(name: dns.name.Name) -> IPAddress | None:
    """The address that a complete reverse name stands for."""
    labels = [label.decode(errors="replace").lower() for label in name.labels[:-1]]
    try:
        if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
            return ipaddress.IPv4Address(".".join(reversed(labels[:4])))
        if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
            return ipaddress.IPv6Address(int("".join(reversed(labels[:32])), 16))
    except ValueError:
        return None
    return None
