"""aiohttp's server with the same answers as web_wsgi.py, a WebSocket, and HTTPS beside HTTP.

Usage: web_aiohttp.py PORT TLS_PORT CERTIFICATE KEY
"""

import asyncio
import os
import ssl
import sys

from aiohttp import WSMsgType, web
from content import blob, digest


async def get_blob(request: web.Request) -> web.Response:
    return web.Response(body=blob(int(request.match_info["size"])))


async def post_digest(request: web.Request) -> web.Response:
    return web.Response(text=digest(await request.read()))


async def get_parts(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for number in range(int(request.match_info["count"])):
        await response.write(blob(1000 + number))
    await response.write_eof()
    return response


async def get_moved(_request: web.Request) -> web.Response:
    raise web.HTTPFound("/blob/1000")


async def get_who(request: web.Request) -> web.Response:
    return web.json_response({"peer": request.remote, "host": request.host, "pid": os.getpid()})


async def talk(request: web.Request) -> web.WebSocketResponse:
    """Send every message back."""
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def main(port: int, tls_port: int, certificate: str, key: str) -> None:
    app = web.Application(client_max_size=1 << 26)
    app.add_routes(
        [
            web.get(r"/blob/{size:\d+}", get_blob),
            web.post("/digest", post_digest),
            web.get(r"/parts/{count:\d+}", get_parts),
            web.get("/moved", get_moved),
            web.get("/who", get_who),
            web.get("/talk", talk),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    await web.TCPSite(runner, None, port).start()
    await web.TCPSite(runner, None, tls_port, ssl_context=context).start()
    print("serving", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
