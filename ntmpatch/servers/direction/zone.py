"""The domains in DNS: what there is under which name, forward and reverse (RFC 1034, 1035).

Names are bytes as `wire.dns` has them, record data as on the wire. What is looked up is kept in
memory by the coordinator: no query waits for a database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from ntmpatch.base.addresses import in_domain
from ntmpatch.servers.direction.names import enclosing
from ntmpatch.wire import dns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ntmpatch.base.addresses import IPNetwork
    from ntmpatch.servers.direction.serial import ZoneSerial

REFRESH, RETRY, EXPIRE = 3600, 600, 86400
"""Of the SOA, in seconds; only secondaries read them, and there are none."""
CONTACT = b"\x0ahostmaster"

Records: TypeAlias = "dict[int, list[bytes]]"
"""Data of the records of a name, by type; empty for a name that only has others below it."""


@dataclass(frozen=True)
class ZoneFacts:
    """What changes rarely: with the configuration, and with the coordinator's certificate."""

    domains: Sequence[str]
    primary: str
    """The coordinator's own name: the NS record that others find it by (Fig. 3 (3))."""
    hosts: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    """Real addresses, packed, of servers, by name."""
    texts: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    """Data of TXT records, by name."""
    prefixes: Sequence[IPNetwork] = ()
    """Virtual prefixes: their reverse names are answered as well."""
    ttl: int = 30


class Directory(Protocol):
    """What the zones are made of. ``facts`` is another object whenever it says something else."""

    @property
    def facts(self) -> ZoneFacts:
        """What changes rarely."""

    @property
    def changes(self) -> int:
        """Grows with whatever changes in the rest."""

    def addresses_of(self, name: str) -> tuple[bytes, ...] | None:
        """The addresses of a node or server, packed; None if there is none of that name."""

    def name_of(self, address: bytes) -> str | None:
        """The node with that virtual address."""

    def has_below(self, key: str | bytes) -> bool:
        """Whether there are nodes below a name or beginning of an address (`NameIndex`)."""

    def __iter__(self) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        """All names with their addresses."""


class Zone(NamedTuple):
    """One zone: a domain, or a piece of the reverse tree."""

    apex: bytes
    text: str
    """Its name without the final dot."""
    domain: str
    """Whose zone it is; that of a prefix is the coordinator's first."""
    prefix: IPNetwork | None
    """Of a reverse zone."""


class Zones:
    """All zones of a coordinator, as its directory is now."""

    def __init__(self, directory: Directory, serial: ZoneSerial) -> None:
        self._directory = directory
        self._serial = serial
        self._taken = 0
        self._take(directory.facts)

    def _take(self, facts: ZoneFacts) -> None:
        self._facts = facts
        self._taken += 1
        self._primary = dns.name_of(facts.primary)
        self._zones: dict[bytes, Zone] = {}
        for domain in facts.domains:
            apex = dns.name_of(domain)
            self._zones[apex] = Zone(apex, domain, domain, None)
        for prefix in facts.prefixes:
            for text in reverse_zones(prefix):
                apex = dns.name_of(text)
                self._zones[apex] = Zone(apex, text, facts.domains[0], prefix)
        # The first address of a prefix is the coordinator's own (DirectionStore).
        self._own = [prefix[1].packed for prefix in facts.prefixes if prefix.num_addresses > 2]
        self._own_enclosing = {key for address in self._own for key in enclosing(address)}
        self._above = {
            name[position + 1 :]
            for name in (*facts.domains, *facts.hosts, *facts.texts)
            for position, character in enumerate(name)
            if character == "."
        }

    @property
    def ttl(self) -> int:
        """Seconds that any record holds, and any negative answer."""
        return self._facts.ttl

    @property
    def primary(self) -> bytes:
        """The name server of all zones."""
        return self._primary

    def all(self) -> list[Zone]:
        """The zones, domains first."""
        self._refresh()
        return list(self._zones.values())

    def find(self, name: bytes, labels: Sequence[int]) -> tuple[Zone, int] | None:
        """The zone that ``name`` lies in, the deepest, and where in the name its apex begins."""
        self._refresh()
        for position in labels:
            zone = self._zones.get(name[position:])
            if zone is not None:
                return zone, position
        return None

    def _refresh(self) -> None:
        facts = self._directory.facts
        if facts is not self._facts:
            self._take(facts)

    def records(self, zone: Zone, name: bytes) -> Records | None:
        """What there is under a name of the zone; None if the name does not exist (RFC 8020)."""
        prefix = zone.prefix
        records = self._forward(name) if prefix is None else self._reverse(prefix, name)
        if name == zone.apex:
            return {dns.SOA: [self.soa(zone)], dns.NS: [self._primary], **(records or {})}
        return records

    def _forward(self, name: bytes) -> Records | None:
        text = _text_of(name)
        if text is None:
            return None
        facts = self._facts
        addresses = facts.hosts.get(text) or self._directory.addresses_of(text)
        data = facts.texts.get(text)
        if addresses is None and data is None:
            return {} if text in self._above or self._directory.has_below(text) else None
        records: Records = {}
        for address in addresses or ():
            records.setdefault(dns.A if len(address) == 4 else dns.AAAA, []).append(address)
        if data is not None:
            records[dns.TXT] = [*data]
        return records

    def _reverse(self, prefix: IPNetwork, name: bytes) -> Records | None:
        key = _ipv4_of(name) if prefix.version == 4 else _ipv6_of(name)
        if key is None:
            return None
        if isinstance(key, bytes) and len(key) in (4, 16):
            target = self._directory.name_of(key)
            if target is None and key in self._own:
                target = self._facts.primary
            return None if target is None else {dns.PTR: [dns.name_of(target)]}
        below = self._directory.has_below(key) or key in self._own_enclosing
        return {} if below else None

    def soa(self, zone: Zone, pointer: bytes | None = None) -> bytes:
        """The data of the zone's SOA; its names are shortened by ``pointer`` to the apex."""
        contact = CONTACT + dns.name_of(zone.domain)
        primary = self._primary
        if pointer is not None:
            contact = _shortened(contact, zone, pointer)
            primary = _shortened(primary, zone, pointer)
        serial = self._serial.of((self._taken, self._directory.changes))
        return dns.soa_data(primary, contact, serial, REFRESH, RETRY, EXPIRE, self._facts.ttl)

    def glue(self) -> list[tuple[int, bytes]]:
        """Type and data of the name server's addresses, as far as they are known here."""
        addresses = self._facts.hosts.get(self._facts.primary, ())
        return [(dns.A if len(each) == 4 else dns.AAAA, each) for each in addresses]

    def contents(self, zone: Zone) -> Iterator[tuple[bytes, Records]]:
        """All names of a zone that have records, and these: for a copy of it."""
        for name in self._names(zone):
            records = self.records(zone, name)
            if records:
                yield name, records

    def _names(self, zone: Zone) -> Iterator[bytes]:
        """Names of the zone, and a few of others'; the apex first, none twice."""
        yield zone.apex
        facts = self._facts
        if zone.prefix is None:
            inner = {d for d in facts.domains if in_domain(d, zone.text)}
            names = {*facts.hosts, *facts.texts, *(name for name, _ in self._directory)}
            for text in sorted(names):
                outside = text == zone.text or not in_domain(text, zone.text)
                if not outside and not any(text == d or in_domain(text, d) for d in inner):
                    yield dns.name_of(text)
            return
        size = zone.prefix.max_prefixlen // 8
        known = {a for _, addresses in self._directory for a in addresses if len(a) == size}
        for address in sorted(known | {a for a in self._own if len(a) == size}):
            name = dns.name_of(reverse_name(address))
            if name.endswith(zone.apex) and name != zone.apex:
                yield name


def _shortened(name: bytes, zone: Zone, pointer: bytes) -> bytes:
    """``name`` with ``pointer`` in place of the zone's apex, if it lies in the zone."""
    head = name.removesuffix(zone.apex)
    # A suffix of bytes is one of names only where a label ends.
    position = 0
    while position < len(head):
        position += head[position] + 1
    return head + pointer if position == len(head) < len(name) else name


def _text_of(name: bytes) -> str | None:
    """The name as text; None if a label holds what no name here has."""
    if b"." in name:
        return None
    text = bytearray(name)
    position = 0
    while size := name[position]:
        text[position] = 0x2E
        position += size + 1
    return text[1:-1].decode("latin-1")


def reverse_name(address: bytes) -> str:
    """The name that a packed address has in the reverse tree (RFC 1035, 3.5; RFC 3596, 2.5)."""
    if len(address) == 4:
        return ".".join(str(octet) for octet in reversed(address)) + ".in-addr.arpa"
    return ".".join(reversed(address.hex())) + ".ip6.arpa"


def reverse_zones(prefix: IPNetwork) -> list[str]:
    """The reverse zones that a prefix fills: whole octets or nibbles.

    A prefix longer than a /24 is so many zones of one address each, which a parent can delegate to
    us by name: RFC 2317's detour would need CNAME records there.
    """
    step = 8 if prefix.version == 4 else 4
    whole = -(-prefix.prefixlen // step) * step
    host_labels = (prefix.max_prefixlen - whole) // step
    return [
        reverse_name(subnet.network_address.packed).split(".", host_labels)[-1]
        for subnet in prefix.subnets(new_prefix=whole)
    ]


_IPV4_APEX = dns.name_of("in-addr.arpa")
_IPV6_APEX = dns.name_of("ip6.arpa")
_NIBBLES = frozenset(b"0123456789abcdef")


def _ipv4_of(name: bytes) -> bytes | None:
    """The address, or beginning of one, of a name below in-addr.arpa; None if it is none's."""
    octets = []
    position = 0
    end = len(name) - len(_IPV4_APEX)
    while position < end:
        label = name[position + 1 : position + 1 + name[position]]
        if not label.isdigit() or len(label) > 3 or b"%d" % int(label) != label or int(label) > 255:
            return None
        octets.append(int(label))
        position += len(label) + 1
    return bytes(reversed(octets)) if len(octets) <= 4 else None


def _ipv6_of(name: bytes) -> bytes | str | None:
    """The address of a name below ip6.arpa, or the digits that one begins with."""
    labels = name.removesuffix(_IPV6_APEX)
    digits = labels[1::2]
    if len(labels) > 64 or labels[::2].strip(b"\1") or not _NIBBLES.issuperset(digits):
        return None
    text = digits[::-1].decode()
    return bytes.fromhex(text) if len(text) == 32 else f"#{text}"
