"""Send to an echo server, by name, over one IP version; print what came of each size."""

import json
import random
import socket
import sys
import threading

host, port, version = sys.argv[1], int(sys.argv[2]), sys.argv[3]
family = {"4": socket.AF_INET, "6": socket.AF_INET6}[version]

TCP_SIZES = (1, 2, 1_376, 65_536, 1_000_000, 5_000_000)
UDP_SIZES = (0, 1, 500, 1_329, 1_348, 1_349, 1_472, 9_000, 60_000)

address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
rng = random.Random(3)
wrong: list[str] = []

for size in TCP_SIZES:
    sent = rng.randbytes(size)
    with socket.create_connection((str(address[0]), port), timeout=30) as connection:
        peer = connection.getpeername()[0]
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        received = bytearray()
        while len(received) < size and (data := connection.recv(1 << 16)):
            received += data
        sender.join()
        connection.shutdown(socket.SHUT_WR)
        if received != sent or connection.recv(1) != b"":
            wrong.append(f"tcp {size}: {len(received)} bytes")

with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
    datagrams.settimeout(10)
    for size in UDP_SIZES:
        sent = rng.randbytes(size)
        datagrams.sendto(sent, address)
        try:
            echoed, source = datagrams.recvfrom(1 << 16)
        except TimeoutError:
            wrong.append(f"udp {size}: no answer")
            continue
        if echoed != sent or source[:2] != address[:2]:
            wrong.append(f"udp {size}: {len(echoed)} bytes from {source}")
    datagrams.connect(address)
    datagrams.send(b"connected")
    if datagrams.recv(100) != b"connected":
        wrong.append("connected udp")

print(json.dumps({"address": address[0], "peer": peer, "wrong": wrong}))
