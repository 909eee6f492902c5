"""Fetch a URL with the standard library; print size and SHA-256 of what came."""

import hashlib
import json
import sys
import urllib.request

digest = hashlib.sha256()
size = 0
with urllib.request.urlopen(sys.argv[1], timeout=60) as response:
    while block := response.read(1 << 18):
        digest.update(block)
        size += len(block)
print(json.dumps({"size": size, "sha256": digest.hexdigest()}))
