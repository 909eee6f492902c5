"""Send every message back, in the clear and under TLS; a text "bye" is answered by a close.

Usage: server_websockets.py PORT TLS_PORT CERTIFICATE KEY
"""

import asyncio
import ssl
import sys

from websockets.asyncio.server import ServerConnection, serve


async def talk(socket: ServerConnection) -> None:
    async for message in socket:
        if message == "bye":
            await socket.close(4000, f"bye {socket.remote_address[0]}")
        else:
            await socket.send(message)


async def main(port: int, tls_port: int, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with (
        serve(talk, None, port, max_size=None),
        serve(talk, None, tls_port, max_size=None, ssl=context),
    ):
        print("serving", flush=True)
        await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
