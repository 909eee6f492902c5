"""Use a web server with the standard library's http.client and urllib, from several threads.

Usage: client_stdlib.py NAME PORT PEER [PROCESSES]

PEER is this node's own virtual address, which the server must name. PROCESSES is from how many
processes answers must have come.
"""

import http.client
import json
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from content import PLAIN_SIZE, Checks, blob, digest

name, port, own, processes = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
checks = Checks()


def fetch(path: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(f"http://{name}:{port}{path}", data, timeout=30) as response:
        return response.read()


checks.equal("GET 2 MB", fetch(f"/blob/{PLAIN_SIZE}"), blob(PLAIN_SIZE))
checks.equal("POST 2 MB", fetch("/digest", blob(PLAIN_SIZE)).decode(), digest(blob(PLAIN_SIZE)))
parts = b"".join(blob(1000 + number) for number in range(50))
checks.equal("an answer in 50 chunks", fetch("/parts/50"), parts)
checks.equal("redirect", fetch("/moved"), blob(1000))

connection = http.client.HTTPConnection(name, port, timeout=30)
for size in range(20):
    connection.request("GET", f"/blob/{size}")
    assert connection.getresponse().read() == blob(size), size
connection.close()

sizes = [10_000 + number for number in range(40)]
with ThreadPoolExecutor(8) as pool:
    bodies = list(pool.map(lambda size: fetch(f"/blob/{size}"), sizes))
checks.equal("8 threads", bodies, [blob(size) for size in sizes])

who = json.loads(fetch("/who"))
checks.equal(
    "the client's address",
    (who["peer"].removeprefix("::ffff:"), who["host"]),
    (own, f"{name}:{port}"),
)

# Which worker accepts is the kernel's choice, so several are kept busy at once until all were seen.
seen: set[int] = set()
enough = threading.Event()


def meet(_number: int) -> None:
    if not enough.is_set():
        seen.add(json.loads(fetch("/who"))["pid"])
        if len(seen) >= processes:
            enough.set()


with ThreadPoolExecutor(4) as pool:
    list(pool.map(meet, range(400)))
if processes > 1:
    checks.equal(f"answers by {processes} processes", len(seen), processes)
checks.report()
