"""Talk to echo_server.py over one connection for some seconds, a byte ten times a second.

HOST PORT SECONDS; prints the longest time that a byte took there and back, in seconds.
"""

import socket
import sys
import time

host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
longest = 0.0
with socket.create_connection((host, port), timeout=30) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ends_at = time.monotonic() + seconds
    while (sent_at := time.monotonic()) < ends_at:
        connection.sendall(b"x")
        if connection.recv(1) != b"x":
            raise SystemExit("the connection ended")
        longest = max(longest, time.monotonic() - sent_at)
        time.sleep(0.1)
print(longest)
