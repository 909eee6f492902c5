"""Fetch a URL, and once more when a file exists; print size and SHA-256 each time."""

import hashlib
import json
import os
import sys
import time
import urllib.request

url, word = sys.argv[1:]
for again in (False, True):
    while again and not os.path.exists(word):
        time.sleep(0.05)
    with urllib.request.urlopen(url, timeout=60) as response:
        content = response.read()
    digest = hashlib.sha256(content).hexdigest()
    print(json.dumps({"size": len(content), "sha256": digest}), flush=True)
