"""Usage: client_dnspython.py NAME PORT"""

import asyncio
import socket
import sys

import dns.asyncquery
import dns.message
import dns.query
import dns.resolver
from content import Checks, digest

name, port = sys.argv[1], int(sys.argv[2])
# The library takes servers as addresses.
where = socket.gethostbyname(name)
checks = Checks()


def texts(message: dns.message.Message) -> list[str]:
    return sorted(record.strings[0].decode() for rrset in message.answer for record in rrset)


def expected(question: str, count: int) -> list[str]:
    return sorted(digest(f"{question} {number}".encode()) for number in range(count))


def query(question: str) -> dns.message.Message:
    return dns.message.make_query(question, "TXT", use_edns=0, payload=1232)


answers = [
    texts(dns.query.udp(query(f"3.q{number}.example."), where, port=port, timeout=30))
    for number in range(50)
]
checks.equal("50 UDP queries", answers, [expected(f"3.q{n}.example.", 3) for n in range(50)])
long, used_tcp = dns.query.udp_with_fallback(query("99.example."), where, port=port, timeout=30)
checks.equal("truncation, then TCP", (texts(long), used_tcp), (expected("99.example.", 99), True))
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers, resolver.port = [where], port
found = resolver.resolve("2.example.", "TXT")
checks.equal("a Resolver", texts(found.response), expected("2.example.", 2))


async def query_together() -> list[list[str]]:
    asked = (
        dns.asyncquery.udp(query(f"4.a{number}.example."), where, port=port, timeout=30)
        for number in range(20)
    )
    return [texts(message) for message in await asyncio.gather(*asked)]


checks.equal(
    "20 UDP queries at once (asyncio)",
    asyncio.run(query_together()),
    [expected(f"4.a{number}.example.", 4) for number in range(20)],
)
checks.report()
