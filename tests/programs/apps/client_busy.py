"""Talk to server_busy.py before, while and after it computes.

Usage: client_busy.py NAME PORT SECONDS
"""

import socket
import sys
import time

from content import Checks, blob

name, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
IDLE_COUNT = 10
checks = Checks()


def connect() -> socket.socket:
    return socket.create_connection((name, port), timeout=60)


def echo(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    received = b""
    while len(received) < len(data):
        part = connection.recv(1 << 16)
        if not part:
            raise SystemExit("the connection ended")
        received += part
    return received


idle = [connect() for _ in range(IDLE_COUNT)]
busy = connect()
before = [echo(each, b"before") for each in (*idle, busy)]
checks.equal("before", before, [b"before"] * (IDLE_COUNT + 1))
begun_at = time.monotonic()
echo(busy, b"compute")
sent, echoed, number = [], [], 0
while time.monotonic() < begun_at + seconds:
    data = blob(1000 + number)
    sent.append(data)
    echoed.append(echo(busy, data))
    number += 1
checks.equal("meanwhile", echoed, sent)
after = [echo(each, blob(50_000)) for each in (*idle, busy, connect())]
checks.equal("afterwards", after, [blob(50_000)] * (IDLE_COUNT + 2))
print(f"{number} echoes meanwhile")
checks.report()
