"""Echo over TCP and UDP, on the wildcard of both IP versions, until killed."""

import contextlib
import socket
import sys
import threading

PORT = int(sys.argv[1])


def echo_stream(connection: socket.socket) -> None:
    with connection, contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            connection.sendall(data)


def accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo_stream, args=(connection,), daemon=True).start()


def echo_datagrams(port: socket.socket) -> None:
    while True:
        data, source = port.recvfrom(1 << 16)
        port.sendto(data, source)


for family, wildcard in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    tcp = socket.socket(family, socket.SOCK_STREAM)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    for each in (tcp, udp):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        each.bind((wildcard, PORT))
    tcp.listen()
    threading.Thread(target=accept, args=(tcp,), daemon=True).start()
    threading.Thread(target=echo_datagrams, args=(udp,), daemon=True).start()
print("echoing", flush=True)
threading.Event().wait()
