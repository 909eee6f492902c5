"""Echo whatever comes, over TCP and UDP, on the IPv4 wildcard: PORT."""

import socket
import sys
import threading

port = int(sys.argv[1])
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", port))
listener = socket.create_server(("0.0.0.0", port))


def echo_datagrams() -> None:
    while True:
        data, source = datagrams.recvfrom(1 << 16)
        datagrams.sendto(data, source)


def echo_stream(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(1 << 16):
            connection.sendall(data)


threading.Thread(target=echo_datagrams, daemon=True).start()
print("echoing", flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=echo_stream, args=(accepted,), daemon=True).start()
