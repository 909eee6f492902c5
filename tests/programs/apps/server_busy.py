"""Echo in threads, or in greenlets under ``run --gevent``, while the main thread computes.

Usage: server_busy.py PORT SECONDS. Computing begins when a first connection says so.
"""

import socket
import sys
import threading
import time

port, seconds = int(sys.argv[1]), float(sys.argv[2])
told = threading.Event()


def echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(1 << 16):
            if data == b"compute":
                told.set()
            connection.sendall(data)


def accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


threading.Thread(target=accept, args=(socket.create_server(("", port)),), daemon=True).start()
print("serving", flush=True)
told.wait()
print("computing", flush=True)
ends_at = time.monotonic() + seconds
total = 0
while time.monotonic() < ends_at:
    total += sum(number * number for number in range(1000))
print("computed", flush=True)
threading.Event().wait()
