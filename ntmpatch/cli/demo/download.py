"""Download each URL that standard input names, one a line; report on standard output as JSON.

An ordinary program: the standard library, a name in a URL, nothing else.
"""

import hashlib
import json
import sys
import time
import urllib.request

CHUNK_SIZE = 1 << 18
REPORT_INTERVAL = 0.05  # seconds


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def download(url: str) -> None:
    digest = hashlib.sha256()
    received_size = 0
    longest_gap = 0.0
    with urllib.request.urlopen(url, timeout=30) as response:
        total_size = int(response.headers["Content-Length"])
        started_at = last_at = reported_at = time.monotonic()
        while chunk := response.read1(CHUNK_SIZE):
            digest.update(chunk)
            received_size += len(chunk)
            now = time.monotonic()
            longest_gap = max(longest_gap, now - last_at)
            last_at = now
            if now - reported_at >= REPORT_INTERVAL:
                reported_at = now
                report(received_size=received_size, total_size=total_size)
    report(
        done=True,
        received_size=received_size,
        total_size=total_size,
        seconds=last_at - started_at,
        longest_gap=longest_gap,
        sha256=digest.hexdigest(),
    )


if __name__ == "__main__":
    for line in sys.stdin:
        download(line.strip())
