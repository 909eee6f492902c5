"""Ask a web server many times, several at once, each on a connection of its own.

Usage: load.py NAME PORT REQUESTS AT_ONCE

Prints "quarter 1" and so on when so many of the requests are done; in the end, which failed and
how, and which processes answered how often.
"""

import http.client
import itertools
import json
import sys
import threading
from collections import Counter

from content import blob, digest

name, port, requests, at_once = sys.argv[1], *map(int, sys.argv[2:])
numbers = iter(range(requests))
lock = threading.Lock()
done = itertools.count(1)
failed: dict[int, str] = {}
pids: Counter[str] = Counter()


def ask(number: int) -> str:
    """One request, whose answer is checked: the process that gave it."""
    body = blob(500 + number % 500)
    connection = http.client.HTTPConnection(name, port, timeout=60)
    try:
        connection.request("POST", f"/digest?{number}", body)
        answer = connection.getresponse()
        content = answer.read().decode()
        if (answer.status, content) != (200, digest(body)):
            raise ValueError(f"{answer.status} {content:.100}")
        return answer.getheader("X-Process", "")
    finally:
        connection.close()


def work() -> None:
    while True:
        with lock:
            number = next(numbers, None)
        if number is None:
            return
        try:
            pid = ask(number)
            with lock:
                pids[pid] += 1
        except Exception as error:  # whatever it is, it is one that was lost
            with lock:
                failed[number] = repr(error)
        quarter, rest = divmod(next(done), requests // 4)
        if rest == 0:
            print(f"quarter {quarter}", flush=True)


threads = [threading.Thread(target=work) for _ in range(at_once)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"answered": sum(pids.values()), "failed": failed, "pids": pids}), flush=True)
