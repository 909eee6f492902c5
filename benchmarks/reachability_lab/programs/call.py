"""Call an echo server by name once a file is there, then talk on until it is gone.

Prints objects of JSON, one a line: ``begun`` (time.monotonic), seconds to the first byte by
``udp`` and by ``tcp``, at the end how many datagrams were ``lost``. Fails if a byte of the stream
comes back another.
"""

import itertools
import json
import os
import socket
import sys
import time

PORT, REPEAT, PAUSE = 7000, 0.25, 0.05
name, go = sys.argv[1:3]


def tell(**fact: float) -> None:
    os.write(1, json.dumps(fact).encode() + b"\n")  # whole: print writes the end of line apart


def datagram(udp: socket.socket, number: int, wait: float, least: int) -> bool:
    """Send one; does an echo come in time, of this or of one sent since ``least``?"""
    udp.send(b"%010d" % number)
    deadline = time.monotonic() + wait
    while (left := deadline - time.monotonic()) > 0:
        udp.settimeout(left)
        try:
            if int(udp.recv(100)) >= least:
                return True
        except TimeoutError:
            pass
    return False


socket.getaddrinfo(f"caller.{name.partition('.')[2]}", PORT)  # the node starts with its first name
while not os.path.exists(go):
    time.sleep(0.005)

begun = time.monotonic()
tell(begun=begun)
address = socket.getaddrinfo(name, PORT, socket.AF_INET, socket.SOCK_DGRAM)[0][4]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(address)
numbers = itertools.count()
while not datagram(udp, next(numbers), REPEAT, 0):
    pass
tell(udp=time.monotonic() - begun)

begun = time.monotonic()
with socket.create_connection((str(address[0]), PORT), timeout=30) as tcp:
    stream = tcp.makefile("rb")
    tcp.sendall(b"first")
    assert stream.read(5) == b"first"
    tell(tcp=time.monotonic() - begun)
    lost = 0
    while os.path.exists(go):
        number = next(numbers)
        lost += not datagram(udp, number, 4 * REPEAT, number)
        tcp.sendall(b"%010d" % number)
        assert stream.read(10) == b"%010d" % number, "the stream came back another"
        time.sleep(PAUSE)
tell(lost=lost)
