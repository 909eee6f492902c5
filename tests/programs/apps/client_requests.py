"""Usage: client_requests.py NAME PORT TLS_PORT CERTIFICATE"""

import sys

import requests
from content import PLAIN_SIZE, Checks, blob, digest

name, port, tls_port, certificate = sys.argv[1:]
checks = Checks()
base = f"http://{name}:{port}"
with requests.Session() as session:
    answer = session.get(f"{base}/blob/{PLAIN_SIZE}", timeout=30)
    checks.equal("GET 2 MB", answer.content, blob(PLAIN_SIZE))
    # A generator is sent in chunks.
    pieces = (blob(100_000 + number) for number in range(20))
    whole = b"".join(blob(100_000 + number) for number in range(20))
    answer = session.post(f"{base}/digest", data=pieces, timeout=30)
    checks.equal("POST 2 MB in chunks", answer.text, digest(whole))
    answer = session.get(f"{base}/moved", timeout=30)
    checks.equal("redirect", (len(answer.history), answer.content), (1, blob(1000)))
    kept = [session.get(f"{base}/blob/{size}", timeout=30).content for size in range(20)]
    checks.equal("keep-alive", kept, [blob(size) for size in range(20)])
    with session.get(f"{base}/blob/{PLAIN_SIZE}", stream=True, timeout=30) as answer:
        streamed = b"".join(answer.iter_content(1 << 16))
    checks.equal("stream", streamed, blob(PLAIN_SIZE))
    secure = session.get(f"https://{name}:{tls_port}/blob/9999", verify=certificate, timeout=30)
    checks.equal("HTTPS", secure.content, blob(9999))
checks.report()
