"""The authoritative name server: a query's bytes in, an answer's bytes out.

Sans-I/O (RFC 1034, 1035, 2308, 5936, 6891, 7873, 8020, 8482). An answer is put together from record
data that are kept as on the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.base.errors import UntrustedError
from ntmpatch.servers.direction.dns_cookies import ServerCookies
from ntmpatch.servers.direction.reflection import DEFAULT_EXCESS_RATE, ReflectionLimit, Verdict
from ntmpatch.wire import dns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.base.addresses import IPNetwork
    from ntmpatch.servers.direction.zone import Records, Zones

_PREFERRED = (dns.SOA, dns.PTR, dns.AAAA, dns.A, dns.TXT)


class NameServer:
    """Answers for ``zones``; ``now`` is monotonic, ``entropy(size)`` gives random bytes."""

    def __init__(
        self,
        zones: Zones,
        drops: DropCounter,
        *,
        entropy: Callable[[int], bytes],
        now: float,
        excess_rate: float = DEFAULT_EXCESS_RATE,
        exempt: Sequence[IPNetwork] = (),
    ) -> None:
        self.drops = drops
        self._zones = zones
        self.cookies = ServerCookies(entropy, now)
        self._limit = ReflectionLimit(entropy(16), excess_rate=excess_rate, exempt=exempt)

    def answer_untrusted(self, data: bytes, source: str, now: float, *, tcp: bool) -> bytes | None:
        """The answer to a query from the address ``source``.

        None for what deserves none, or none now: a drop, counted by name.
        """
        if len(data) < dns.HEADER_SIZE:
            self.drops.drop(Drop.DNS_RUNT)
            return None
        if data[2] & 0x80:
            self.drops.drop(Drop.DNS_RESPONSE)
            return None
        if data[2] & 0x78:  # the opcode; what is behind the header may look otherwise
            return dns.bare_answer(data, dns.NOTIMP)
        try:
            query = dns.read_query_untrusted(data)
        except UntrustedError as error:
            self.drops.drop(error.drop)
            return dns.bare_answer(data, dns.FORMERR)
        answer, verified = self._answer(query, source, now, tcp)
        if tcp or verified:
            return answer
        verdict = self._limit.judge(source, len(data), len(answer), now)
        if verdict is Verdict.SEND:
            return answer
        if verdict is Verdict.DROP:
            self.drops.drop(Drop.DNS_FLOOD)
            return None
        self.drops.drop(Drop.DNS_SHORTENED)
        return self._shortened(query, source, now, len(data))

    def _answer(self, query: dns.Query, source: str, now: float, tcp: bool) -> tuple[bytes, bool]:
        """The answer, and whether a cookie shows that the client is where it says it is."""
        size = dns.MAX_TCP_SIZE if tcp else dns.PLAIN_UDP_SIZE
        opt, verified = query.opt, False
        cookie = None
        if opt is not None:
            if not tcp:
                size = max(size, min(opt.payload_size, dns.MAX_UDP_SIZE))
            if opt.cookie is not None:
                verified = self.cookies.is_ours(opt.cookie, source, now)
                cookie = self.cookies.make(opt.cookie, source, now)
        flags, rcode, sections = self._decide(query)
        ours = b"" if opt is None else dns.opt_record(rcode, opt.flags, cookie)
        answer = dns.message(query, flags, rcode, sections, ours)
        if len(answer) > size and sections[2]:
            # Addresses of name servers are a courtesy here (RFC 2181, section 9).
            sections[2].clear()
            answer = dns.message(query, flags, rcode, sections, ours)
        if len(answer) > size:
            answer = dns.message(query, flags | dns.TC, rcode, ([], [], []), ours)
        return answer, verified

    def _shortened(self, query: dns.Query, source: str, now: float, size: int) -> bytes:
        """No larger than the query: a cookie to come back with, or else the hint to use TCP."""
        opt = query.opt
        if opt is not None and opt.cookie is not None:
            cookie = self.cookies.make(opt.cookie, source, now)
            ours = dns.opt_record(dns.BADCOOKIE, opt.flags, cookie)
            answer = dns.message(query, 0, dns.BADCOOKIE, ([], [], []), ours)
            if len(answer) <= size:  # RFC 7873, section 5.2.4
                return answer
        ours = b"" if opt is None else dns.opt_record(dns.NOERROR, opt.flags, None)
        return dns.message(query, dns.TC, dns.NOERROR, ([], [], []), ours)

    def _decide(
        self, query: dns.Query
    ) -> tuple[int, int, tuple[list[bytes], list[bytes], list[bytes]]]:
        """Flags, RCODE, and records for the three sections."""
        sections: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
        if query.opt is not None and query.opt.version > 0:
            return 0, dns.BADVERS, sections
        if not query.question:
            # RFC 7873, section 5.4: it only asks for a cookie.
            wanted = query.opt is not None and query.opt.cookie is not None
            return 0, dns.NOERROR if wanted else dns.FORMERR, sections
        found = self._zones.find(query.name, query.labels)
        if query.rdclass != dns.IN or found is None or query.kind in (dns.AXFR, dns.IXFR):
            return 0, dns.REFUSED, sections
        zone, position = found
        records = self._zones.records(zone, query.name)
        kind = query.kind
        if kind == dns.ANY and records:
            kind = _one_of(records)
        data = records.get(kind) if records else None
        ttl = self._zones.ttl
        if data:
            sections[0].extend(dns.record(dns.QUESTION_POINTER, kind, ttl, each) for each in data)
            if kind == dns.NS:
                primary = self._zones.primary
                sections[2].extend(
                    dns.record(primary, glue_kind, ttl, address)
                    for glue_kind, address in self._zones.glue()
                )
            return dns.AA, dns.NOERROR, sections
        # RFC 2308, section 3: the SOA says for how long the negative answer holds.
        apex = dns.pointer(dns.HEADER_SIZE + position)
        sections[1].append(dns.record(apex, dns.SOA, ttl, self._zones.soa(zone, apex)))
        return dns.AA, dns.NXDOMAIN if records is None else dns.NOERROR, sections


def _one_of(records: Records) -> int:
    """RFC 8482, section 4.1: ANY gets one type, not all."""
    return next(kind for kind in _PREFERRED if kind in records)
