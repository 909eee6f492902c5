"""Print when a node's path to a peer changes between relayed and direct, until killed.

Arguments: the node's control socket and the peer's name. After ``watching``, lines of JSON:
[time.monotonic, whether the path in use is direct and proven].
"""

import json
import os
import sys
import time

import msgspec

from ntmpatch.cli.control import NodeControl
from ntmpatch.wire import local

INTERVAL = 0.02
control, name = sys.argv[1:3]
last = None
with NodeControl(control) as node:
    print("watching", flush=True)
    while True:
        facts = msgspec.json.decode(node.ask(local.Status(), local.Report).json)
        used = [
            path
            for peer in facts["peers"]
            if peer["name"] == name
            for path in peer["paths"]
            if path["in_use"] and path["proven"]
        ]
        is_direct = bool(used) and not used[0]["relayed"]
        if used and is_direct is not last:
            last = is_direct
            # Whole: print may write the end of line apart.
            os.write(1, json.dumps([time.monotonic(), is_direct]).encode() + b"\n")
        time.sleep(INTERVAL)
