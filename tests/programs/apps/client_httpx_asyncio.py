"""Usage: client_httpx_asyncio.py NAME PORT TLS_PORT CERTIFICATE"""

import asyncio
import ssl
import sys

import httpx
from content import PLAIN_SIZE, Checks, blob, digest


async def main(name: str, port: str, tls_port: str, certificate: str) -> None:
    checks = Checks()
    context = ssl.create_default_context(cafile=certificate)
    base = f"http://{name}:{port}"
    async with httpx.AsyncClient(base_url=base, timeout=30, verify=context) as client:
        answer = await client.get(f"/blob/{PLAIN_SIZE}")
        checks.equal("GET 2 MB", answer.content, blob(PLAIN_SIZE))
        answer = await client.post("/digest", content=blob(PLAIN_SIZE))
        checks.equal("POST 2 MB", answer.text, digest(blob(PLAIN_SIZE)))
        sizes = [10_000 + number for number in range(20)]
        answers = await asyncio.gather(*(client.get(f"/blob/{size}") for size in sizes))
        checks.equal("20 at once", [a.content for a in answers], [blob(size) for size in sizes])
        secure = await client.get(f"https://{name}:{tls_port}/blob/9999")
        checks.equal("HTTPS", secure.content, blob(9999))
    checks.report()


asyncio.run(main(*sys.argv[1:]))
