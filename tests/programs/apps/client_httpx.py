"""Usage: client_httpx.py NAME PORT TLS_PORT CERTIFICATE"""

import ssl
import sys

import httpx
from content import PLAIN_SIZE, Checks, blob, digest

name, port, tls_port, certificate = sys.argv[1:]
checks = Checks()
context = ssl.create_default_context(cafile=certificate)
with httpx.Client(base_url=f"http://{name}:{port}", timeout=30, verify=context) as client:
    checks.equal("GET 2 MB", client.get(f"/blob/{PLAIN_SIZE}").content, blob(PLAIN_SIZE))
    answer = client.post("/digest", content=blob(PLAIN_SIZE))
    checks.equal("POST 2 MB", answer.text, digest(blob(PLAIN_SIZE)))
    with client.stream("GET", "/parts/50") as answer:
        streamed = b"".join(answer.iter_bytes())
    checks.equal("stream", streamed, b"".join(blob(1000 + number) for number in range(50)))
    kept = [client.get(f"/blob/{size}").content for size in range(20)]
    checks.equal("keep-alive", kept, [blob(size) for size in range(20)])
    secure = client.get(f"https://{name}:{tls_port}/blob/9999")
    checks.equal("HTTPS", secure.content, blob(9999))
checks.report()
