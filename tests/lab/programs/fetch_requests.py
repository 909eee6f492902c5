"""Fetch a URL with requests; print size and SHA-256 of what came."""

import hashlib
import json
import sys

import requests

digest = hashlib.sha256()
size = 0
with requests.get(sys.argv[1], stream=True, timeout=60) as response:
    response.raise_for_status()
    for block in response.iter_content(1 << 18):
        digest.update(block)
        size += len(block)
print(json.dumps({"size": size, "sha256": digest.hexdigest()}))
