"""Usage: client_urllib3.py NAME PORT TLS_PORT CERTIFICATE"""

import sys
from concurrent.futures import ThreadPoolExecutor

import urllib3
from content import PLAIN_SIZE, Checks, blob, digest

name, port, tls_port, certificate = sys.argv[1:]
checks = Checks()
base = f"http://{name}:{port}"
with urllib3.PoolManager(maxsize=8, timeout=30.0, ca_certs=certificate) as manager:
    answer = manager.request("GET", f"{base}/blob/{PLAIN_SIZE}")
    checks.equal("GET 2 MB", answer.data, blob(PLAIN_SIZE))
    answer = manager.request("POST", f"{base}/digest", body=blob(PLAIN_SIZE))
    checks.equal("POST 2 MB", answer.data.decode(), digest(blob(PLAIN_SIZE)))
    sizes = [10_000 + number for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        bodies = list(
            pool.map(lambda size: manager.request("GET", f"{base}/blob/{size}").data, sizes)
        )
    checks.equal("a pool of 8 threads", bodies, [blob(size) for size in sizes])
    answer = manager.request("GET", f"{base}/parts/50", preload_content=False)
    whole = b"".join(blob(1000 + number) for number in range(50))
    checks.equal("chunks", b"".join(answer.stream()), whole)
    answer = manager.request("GET", f"https://{name}:{tls_port}/blob/9999")
    checks.equal("HTTPS", answer.data, blob(9999))
checks.report()
