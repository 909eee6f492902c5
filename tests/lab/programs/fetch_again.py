"""Fetch a URL again and again for some seconds; print how often, and every SHA-256 seen."""

import hashlib
import json
import sys
import time
import urllib.request

url, seconds = sys.argv[1], float(sys.argv[2])
seen: set[str] = set()
count = 0
ends_at = time.monotonic() + seconds
print("fetching", flush=True)
while time.monotonic() < ends_at:
    with urllib.request.urlopen(url, timeout=60) as response:
        seen.add(hashlib.sha256(response.read()).hexdigest())
    count += 1
print(json.dumps({"count": count, "sha256": sorted(seen)}))
