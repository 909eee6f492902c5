"""Send random datagrams to endpoints for some seconds: SEED SECONDS HOST:PORT...

A third are random altogether; a third begin as a message of the tunnel or a relay frame would; a
third have such a message's size as well.
"""

import contextlib
import random
import socket
import sys
import time

rng = random.Random(int(sys.argv[1]))
ends_at = time.monotonic() + float(sys.argv[2])
endpoints = [(host, int(port)) for host, port in (text.split(":") for text in sys.argv[3:])]

BEGINNINGS = (*((kind, 0, 0, 0) for kind in (1, 2, 3, 4)), (0xC1, 0, 0, 0), (0xC1, 1, 0, 0))
SIZES = {1: 148, 2: 92, 3: 64, 4: 32, 0xC1: 28}

sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sent = 0
print("flooding", flush=True)
while time.monotonic() < ends_at:
    for endpoint in endpoints:
        for shape in range(3):
            data = bytearray(rng.randbytes(rng.randrange(1473)))
            if shape:
                beginning = rng.choice(BEGINNINGS)
                data[:4] = bytes(beginning)
            if shape == 2:
                data = data.ljust(200, b"\x5a")[: SIZES[beginning[0]]]
            # An ICMP "port unreachable" of an earlier one may come back as an error.
            with contextlib.suppress(ConnectionRefusedError):
                sender.sendto(data, endpoint)
            sent += 1
    time.sleep(0.003)
print(sent)
