"""Serve on the wildcard of one IP version: PORT, VERSION ("4" or "6").

A connection says D or U and a size of 8 bytes, big-endian. D: so many bytes come, made from a seed
that is the size. U: so many bytes are awaited, and their SHA-256 is the answer.
"""

import hashlib
import random
import socket
import sys
import threading

port, version = int(sys.argv[1]), sys.argv[2]


def read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(1 << 18, size - len(data)))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def serve(connection: socket.socket) -> None:
    with connection:
        kind = read(connection, 1)
        size = int.from_bytes(read(connection, 8))
        if kind == b"D":
            connection.sendall(random.Random(size).randbytes(size))
        else:
            connection.sendall(hashlib.sha256(read(connection, size)).digest())
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


listener = socket.socket(socket.AF_INET6 if version == "6" else socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("::" if version == "6" else "0.0.0.0", port))
listener.listen()
print("serving", flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
