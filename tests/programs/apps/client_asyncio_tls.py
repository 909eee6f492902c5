"""Usage: client_asyncio_tls.py NAME PORT CERTIFICATE OWN_IPV4 OWN_IPV6"""

import asyncio
import socket
import ssl
import sys

from content import PLAIN_SIZE, Checks, blob


async def talk(family: int) -> tuple[list[bytes], str]:
    context = ssl.create_default_context(cafile=sys.argv[3])
    reader, writer = await asyncio.open_connection(
        sys.argv[1], int(sys.argv[2]), ssl=context, family=family
    )
    own = (await reader.readline()).decode().strip()
    echoes = []
    for size in (0, 1, 20_000, PLAIN_SIZE):
        writer.write(f"{size}\n".encode() + blob(size))
        echoes.append(await reader.readexactly(size))
    writer.close()
    await writer.wait_closed()
    return echoes, own


async def main() -> None:
    checks = Checks()
    sent = [blob(size) for size in (0, 1, 20_000, PLAIN_SIZE)]
    ipv4, own_ipv4 = await talk(socket.AF_INET)
    checks.equal("2 MB and back over IPv4", ipv4, sent)
    ipv6, own_ipv6 = await talk(socket.AF_INET6)
    checks.equal("2 MB and back over IPv6", ipv6, sent)
    checks.equal("the client's address", [own_ipv4, own_ipv6], sys.argv[4:])
    together = await asyncio.gather(*(talk(socket.AF_INET) for _ in range(10)))
    checks.equal("10 connections at once", [echoes for echoes, _ in together], [sent] * 10)
    checks.report()


asyncio.run(main())
