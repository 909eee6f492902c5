"""A stream that does not end, whose every byte is known: ``serve``, or ``read NAME``.

The reader prints a line of JSON now and then, and one with ``error`` if a byte is wrong or missing.
"""

from __future__ import annotations

import json
import socket
import sys
import time

PORT = 7000
PIECE = bytes(range(256)) * 64
PAUSE = 0.01
REPORT_INTERVAL = 0.25


def serve() -> None:
    """Send to whoever connects."""
    listener = socket.create_server(("", PORT))
    print(json.dumps({"listening": PORT}), flush=True)
    connection, _ = listener.accept()
    while True:
        connection.sendall(PIECE)
        time.sleep(PAUSE)


def read(name: str) -> None:
    """Check what comes."""
    with socket.create_connection((name, PORT), timeout=5.0) as connection:
        stream = connection.makefile("rb")
        received, reported_at = 0, 0.0
        while True:
            piece = stream.read(len(PIECE))
            if piece != PIECE:
                raise ValueError(f"a piece of {len(piece)} bytes at {received} is not as sent")
            received += len(piece)
            if time.monotonic() - reported_at >= REPORT_INTERVAL:
                reported_at = time.monotonic()
                print(json.dumps({"received": received}), flush=True)


if __name__ == "__main__":
    try:
        serve() if sys.argv[1] == "serve" else read(sys.argv[2])
    except (OSError, ValueError) as problem:
        print(json.dumps({"error": str(problem)}), flush=True)
        sys.exit(1)
