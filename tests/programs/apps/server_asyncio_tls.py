"""asyncio.start_server with TLS: a line names a size, that many bytes follow and come back.

Usage: server_asyncio_tls.py PORT CERTIFICATE KEY
"""

import asyncio
import ssl
import sys


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(f"{writer.get_extra_info('peername')[0]}\n".encode())
    while line := await reader.readline():
        writer.write(await reader.readexactly(int(line)))
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main(port: int, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with await asyncio.start_server(talk, None, port, ssl=context) as server:
        print("serving", flush=True)
        await server.serve_forever()


asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
