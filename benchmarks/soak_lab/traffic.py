"""Ordinary programs with ordinary sockets, run under ``ntmpatch run``: they know of no mobility.

python traffic.py take TCP_PORT UDP_PORT              receive, and print a JSON line each second
python traffic.py give HOST PORT BYTES SECONDS SEED   one transfer, paced over so many seconds
python traffic.py datagrams HOST PORT SECONDS         one each 20 ms, numbered
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field

BLOCK_SIZE = 64 * 1024
DATAGRAM_INTERVAL = 0.02
DATAGRAM_SIZE = 200
REPORT_INTERVAL = 1.0
# number of the datagram | how many there are in all
NUMBER = struct.Struct("!QQ")


@dataclass
class Pauses:
    """The longest time without anything new, since the last report."""

    heard_at: float = 0.0
    longest: float = 0.0

    def heard(self) -> None:
        """Something came."""
        now = time.monotonic()
        if self.heard_at:
            self.longest = max(self.longest, now - self.heard_at)
        self.heard_at = now

    def take(self) -> float:
        """The longest until now, in seconds; the one under way counts."""
        now = time.monotonic()
        longest = max(self.longest, now - self.heard_at) if self.heard_at else 0.0
        self.longest = 0.0
        return longest


@dataclass
class Taken:
    """What has come so far."""

    size: int = 0
    sha256: str = ""
    datagrams: set[int] = field(default_factory=set)
    repeated: int = 0
    stream_pauses: Pauses = field(default_factory=Pauses)
    datagram_pauses: Pauses = field(default_factory=Pauses)


def take_stream(port: int, taken: Taken) -> None:
    """One connection, to its end; the hash of what came is answered."""
    with socket.create_server(("", port)) as server:
        connection, _ = server.accept()
        with connection:
            digest = hashlib.sha256()
            while data := connection.recv(BLOCK_SIZE):
                digest.update(data)
                taken.size += len(data)
                taken.stream_pauses.heard()
            taken.stream_pauses.heard_at = 0.0
            taken.sha256 = digest.hexdigest()
            connection.sendall(taken.sha256.encode())


def take_datagrams(port: int, taken: Taken) -> None:
    """Until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", port))
        while True:
            number, count = NUMBER.unpack_from(receiver.recv(2048))
            if number in taken.datagrams:
                taken.repeated += 1
            taken.datagrams.add(number)
            taken.datagram_pauses.heard()
            if number == count - 1:
                taken.datagram_pauses.heard_at = 0.0  # the last: what follows is no pause


def take(stream_port: int, datagram_port: int) -> None:
    """Receive until killed, and tell."""
    taken = Taken()
    for function, port in ((take_stream, stream_port), (take_datagrams, datagram_port)):
        threading.Thread(target=function, args=(port, taken), daemon=True).start()
    while True:
        report = {
            "size": taken.size,
            "sha256": taken.sha256,
            "datagrams": len(taken.datagrams),
            "repeated": taken.repeated,
            "stream_pause": taken.stream_pauses.take(),
            "datagram_pause": taken.datagram_pauses.take(),
        }
        print(json.dumps(report), flush=True)
        time.sleep(REPORT_INTERVAL)


def give(host: str, port: int, size: int, seconds: float, seed: int) -> None:
    """Send so many bytes; print their hash, and the receiver's."""
    rng = random.Random(seed)
    digest = hashlib.sha256()
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.settimeout(None)
        print("giving", flush=True)
        begun_at, sent = time.monotonic(), 0
        while sent < size:
            block = rng.randbytes(min(BLOCK_SIZE, size - sent))
            digest.update(block)
            connection.sendall(block)
            sent += len(block)
            time.sleep(max(0.0, begun_at + seconds * sent / size - time.monotonic()))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(BLOCK_SIZE):
            answer += data
    print(json.dumps({"size": sent, "sha256": digest.hexdigest(), "answer": answer.decode()}))


def send_datagrams(host: str, port: int, seconds: float) -> None:
    """Send one at each interval, whatever happens; print how many, and how many the socket refused.

    One that is late is sent at once: what is measured is the network's loss, not the program's.
    """
    found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_DGRAM)
    count, refused = int(seconds / DATAGRAM_INTERVAL), 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(found[0][4])
        begun_at = time.monotonic()
        for number in range(count):
            try:
                sender.send(NUMBER.pack(number, count).ljust(DATAGRAM_SIZE, b"."))
            except OSError:
                refused += 1
            due_at = begun_at + (number + 1) * DATAGRAM_INTERVAL
            time.sleep(max(0.0, due_at - time.monotonic()))
    print(json.dumps({"datagrams": count, "refused": refused}))


def main() -> None:
    """By the first word of the command line."""
    match sys.argv[1:]:
        case ["take", stream_port, datagram_port]:
            take(int(stream_port), int(datagram_port))
        case ["give", host, port, size, seconds, seed]:
            give(host, int(port), int(size), float(seconds), int(seed))
        case ["datagrams", host, port, seconds]:
            send_datagrams(host, int(port), float(seconds))
        case words:
            sys.exit(f"no such words: {words}")


if __name__ == "__main__":
    main()
