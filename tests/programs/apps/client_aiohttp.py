"""Usage: client_aiohttp.py NAME PORT TLS_PORT CERTIFICATE"""

import asyncio
import ssl
import sys

import aiohttp
from content import PLAIN_SIZE, Checks, blob, digest


async def main(name: str, port: str, tls_port: str, certificate: str) -> None:
    checks = Checks()
    context = ssl.create_default_context(cafile=certificate)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(f"http://{name}:{port}", timeout=timeout) as session:

        async def fetch(path: str) -> bytes:
            async with session.get(path) as answer:
                return await answer.read()

        checks.equal("GET 2 MB", await fetch(f"/blob/{PLAIN_SIZE}"), blob(PLAIN_SIZE))
        async with session.post("/digest", data=blob(PLAIN_SIZE)) as answer:
            checks.equal("POST 2 MB", await answer.text(), digest(blob(PLAIN_SIZE)))
        sizes = [10_000 + number for number in range(20)]
        bodies = await asyncio.gather(*(fetch(f"/blob/{size}") for size in sizes))
        checks.equal("20 at once", bodies, [blob(size) for size in sizes])
        async with session.ws_connect("/talk", max_msg_size=0) as socket:
            await socket.send_str("grüß dich")
            await socket.send_bytes(blob(PLAIN_SIZE))
            echoes = [await socket.receive_str(), await socket.receive_bytes()]
        checks.equal("WebSocket", echoes, ["grüß dich", blob(PLAIN_SIZE)])
        async with session.get(f"https://{name}:{tls_port}/blob/9999", ssl=context) as answer:
            checks.equal("HTTPS", await answer.read(), blob(9999))
    checks.report()


asyncio.run(main(*sys.argv[1:]))
