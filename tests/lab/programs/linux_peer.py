"""The kernel's end of a conversation: sends, ends its stream, reads to the end, and reports.

Takes one JSON object, prints one. Sizes in bytes, times in seconds.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import socket
import struct
import sys
import time
from typing import Any

_BLOCK = os.urandom((1 << 20) + 17)
TCP_INFO_OPTIONS_OFFSET = 5
IO_TIMEOUT = 300.0


def send(sock: socket.socket, size: int) -> str:
    """Send ``size`` bytes; their SHA-256."""
    digest = hashlib.sha256()
    while size:
        block = memoryview(_BLOCK)[: min(size, len(_BLOCK))]
        sock.sendall(block)
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def receive(sock: socket.socket, report: dict[str, Any]) -> None:
    """Read to the end; how much, its SHA-256, and how long from the first byte to the last."""
    digest = hashlib.sha256()
    began_at = ended_at = 0.0
    report["received"] = 0
    try:
        while data := sock.recv(1 << 18):
            ended_at = time.monotonic()
            began_at = began_at or ended_at
            digest.update(data)
            report["received"] += len(data)
    finally:
        report["received_sha"] = digest.hexdigest()
        report["span"] = ended_at - began_at


def converse(sock: socket.socket, plan: dict[str, Any]) -> dict[str, Any]:
    """Both streams of one connection."""
    sock.settimeout(IO_TIMEOUT)
    report: dict[str, Any] = {"error": None}
    began_at = time.monotonic()
    try:
        if plan.get("until") is not None:
            _pour(sock, began_at + plan["until"], report)
            return report
        if plan.get("answers"):  # only after the far end has ended its stream
            receive(sock, report)
        time.sleep(plan.get("pause", 0))
        report["sent_sha"] = send(sock, plan.get("send", 0))
        if plan.get("reset"):
            sock.recv(1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            return report
        sock.shutdown(socket.SHUT_WR)
        if not plan.get("answers"):
            receive(sock, report)
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        report["options"] = info[TCP_INFO_OPTIONS_OFFSET]
    except OSError as error:
        report["error"] = error.errno
    finally:
        report["elapsed"] = time.monotonic() - began_at
        sock.close()
    return report


def _pour(sock: socket.socket, end_at: float, report: dict[str, Any]) -> None:
    """Send as much as goes until ``end_at``."""
    sent = 0
    sock.settimeout(1.0)
    while time.monotonic() < end_at:
        try:
            sent += sock.send(_BLOCK)
        except TimeoutError:
            continue
    report["sent"] = sent


def connect(plan: dict[str, Any]) -> dict[str, Any]:
    """One connection to the far end."""
    sock = socket.socket(socket.AF_INET6 if ":" in plan["address"] else socket.AF_INET)
    _configure(sock, plan)
    sock.settimeout(IO_TIMEOUT)
    sock.connect((plan["address"], plan["port"]))
    return converse(sock, plan)


def _configure(sock: socket.socket, plan: dict[str, Any]) -> None:
    if "congestion" in plan:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, plan["congestion"].encode())
    if "receive_buffer" in plan:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan["receive_buffer"])


def main() -> None:
    """Play the plan ``count`` times, ``parallel`` at once."""
    plan = json.loads(sys.argv[1])
    count = plan.get("count", 1)
    with concurrent.futures.ThreadPoolExecutor(plan.get("parallel", 1)) as pool:
        if plan.get("listen"):
            listener = socket.create_server(
                ("::", plan["port"]), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
            )
            _configure(listener, plan)
            print("listening", flush=True)
            jobs = [pool.submit(converse, listener.accept()[0], plan) for _ in range(count)]
        else:
            jobs = [pool.submit(connect, plan) for _ in range(count)]
        print(json.dumps([job.result() for job in jobs]))


if __name__ == "__main__":
    main()
