"""An ASGI application with the same answers as web_wsgi.py."""

import json
import os
from typing import Any

from content import blob, digest


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    _, kind, argument = (scope["path"] + "/").split("/")[:3]
    status, headers = 200, []
    parts = [b""]
    if kind == "blob":
        parts = [blob(int(argument))]
        headers = [(b"content-length", argument.encode())]
    elif kind == "digest":
        parts = [digest(body).encode()]
    elif kind == "parts":
        parts = [blob(1000 + number) for number in range(int(argument))]
    elif kind == "moved":
        status, headers = 302, [(b"location", b"/blob/1000")]
    else:
        host = dict(scope["headers"])[b"host"].decode()
        who = {"peer": scope["client"][0], "host": host, "pid": os.getpid()}
        parts = [json.dumps(who).encode()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
