"""Echo datagrams of several sizes off echo_server.py: HOST PORT SIZE...; prints the wrong ones."""

import random
import socket
import sys

host, port, *sizes = sys.argv[1:]
rng = random.Random(1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
    datagrams.settimeout(5)
    datagrams.connect((host, int(port)))
    for size in map(int, sizes):
        sent = rng.randbytes(size)
        datagrams.send(sent)
        try:
            if datagrams.recv(1 << 16) != sent:
                print(size, "bytes came back changed")
        except TimeoutError:
            print(size, "bytes did not come back")
