"""Usage: client_websockets.py NAME PORT TLS_PORT CERTIFICATE OWN_IPV4 OWN_IPV6"""

import asyncio
import ssl
import sys

from content import PLAIN_SIZE, Checks, blob
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_sync

name, port, tls_port, certificate = sys.argv[1:5]
own = sys.argv[5:]
checks = Checks()
MESSAGES = ["grüß dich", b"", blob(PLAIN_SIZE), *(blob(size) for size in range(100))]


async def echoes(uri: str, **options: object) -> tuple[list[str | bytes], str]:
    """What comes back, and the words of the close."""
    async with connect(uri, max_size=None, **options) as socket:
        await (await socket.ping())
        received = []
        for message in MESSAGES:
            await socket.send(message)
            received.append(await socket.recv())
        await socket.send("bye")
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            return received, f"{closed.code} {closed.reason}"
        raise SystemExit("the server did not close")


byes = [f"4000 bye {address}" for address in own]
received, bye = asyncio.run(echoes(f"ws://{name}:{port}/"))
checks.equal("echo of text and of 2 MB (asyncio)", received, MESSAGES)
checks.equal("ping, close code", bye in byes, True)
context = ssl.create_default_context(cafile=certificate)
received, _ = asyncio.run(echoes(f"wss://{name}:{tls_port}/", ssl=context))
checks.equal("TLS", received, MESSAGES)
with connect_sync(f"ws://{name}:{port}/", max_size=None) as socket:
    received = []
    for message in MESSAGES:
        socket.send(message)
        received.append(socket.recv())
checks.equal("threads", received, MESSAGES)
checks.report()
