"""One ICMP echo request of 1,000 bytes: HOST; prints "answered" if the same bytes come back."""

import random
import socket
import struct
import sys

payload = random.Random(1).randbytes(1000)
header = struct.pack(">BBHHH", 8, 0, 0, 77, 1)
words = struct.unpack(">504H", header + payload)
checksum = sum(words)
while checksum >> 16:
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
request = struct.pack(">BBHHH", 8, 0, ~checksum & 0xFFFF, 77, 1) + payload
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
    raw.settimeout(5)
    raw.connect((sys.argv[1], 0))
    raw.send(request)
    answer = raw.recv(2048)[20:]
print("answered" if answer[0] == 0 and answer[8:] == payload else f"{answer!r}")
