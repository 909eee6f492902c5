"""Download from, or upload to, transfer_server.py: HOST PORT D|U SIZE; "equal" if all is well."""

import hashlib
import random
import socket
import sys

host, port, kind, size = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
content = random.Random(size).randbytes(size)
with socket.create_connection((host, port), timeout=60) as connection:
    connection.sendall(kind.encode() + size.to_bytes(8))
    if kind == "U":
        connection.sendall(content)
    answer = bytearray()
    while piece := connection.recv(1 << 18):
        answer += piece
expected = content if kind == "D" else hashlib.sha256(content).digest()
print("equal" if answer == expected else f"{len(answer)} other bytes")
