"""Send blocks to an echo server over one connection, each after the echo of the last, until killed.

Prints ``block N`` for each that came back as it was sent.
"""

import itertools
import random
import socket
import sys
import time

SIZE = 50_000

host, port = sys.argv[1], int(sys.argv[2])
found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
address = str(found[0][4][0])
rng = random.Random(3)
with socket.create_connection((address, port), timeout=30) as connection:
    for number in itertools.count(1):
        sent = rng.randbytes(SIZE)
        connection.sendall(sent)
        received = b""
        while len(received) < SIZE:
            data = connection.recv(SIZE - len(received))
            if not data:
                sys.exit("the connection has ended")
            received += data
        if received != sent:
            sys.exit(f"block {number} came back another")
        print(f"block {number}", flush=True)
        time.sleep(0.01)
