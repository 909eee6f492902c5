"""An ordinary program with ordinary sockets: an echo server, and the client that measures.

python talker.py echo PORT
python talker.py ask HOST PORT datagrams|stream WORD REPORT TIMEOUT TAIL

It knows nothing of mobility. A datagram that the kernel refuses to send, as there is no route for
the moment, is as lost as any other.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from handover_lab.messages import Book, book_from_arguments


def echo_datagrams(family: socket.AddressFamily, port: int) -> None:
    """Until killed."""
    with _bound(family, socket.SOCK_DGRAM, port) as server:
        while True:
            with contextlib.suppress(OSError):  # no route to who moves just now
                data, source = server.recvfrom(2048)
                server.sendto(data, source)


def echo_streams(family: socket.AddressFamily, port: int) -> None:
    """Until killed."""
    with _bound(family, socket.SOCK_STREAM, port) as server:
        server.listen()
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_echo_stream, args=(connection,), daemon=True).start()


def _echo_stream(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(65536):
            connection.sendall(data)


def _bound(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> socket.socket:
    server = socket.socket(family, kind)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", port))
    return server


def serve(port: int) -> None:
    """Echo both kinds over both IP versions."""
    for target in (echo_datagrams, echo_streams):
        for family in (socket.AF_INET, socket.AF_INET6):
            threading.Thread(target=target, args=(family, port), daemon=True).start()
    print("echoing", flush=True)
    threading.Event().wait()


def ask(host: str, port: int, book: Book) -> None:
    """Send messages until the book is over, while another thread enters the echoes."""
    kind = socket.SOCK_STREAM if book.is_stream else socket.SOCK_DGRAM
    family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    client = socket.socket(family, kind)
    if book.is_stream:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect(address)
    else:
        client.bind(("", 0))

    def send() -> None:
        with contextlib.suppress(OSError):
            while not book.is_over():
                if not book.is_due():
                    time.sleep(0.001)
                    continue
                if book.is_stream:
                    client.sendall(book.next_message())
                    continue
                with contextlib.suppress(OSError):
                    client.sendto(book.next_message(), address)

    def receive() -> None:
        with contextlib.suppress(OSError):
            while True:
                if not book.is_stream:
                    with contextlib.suppress(ConnectionError):
                        book.take_echo(client.recvfrom(2048)[0])
                elif data := client.recv(65536):
                    book.take_bytes(data)
                else:
                    return

    threads = [threading.Thread(target=each, daemon=True) for each in (send, receive)]
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    while not book.is_over():  # a full stream may hold the sender: this thread keeps the time
        time.sleep(0.01)
    end_at = time.monotonic() + book.drain_timeout
    while not book.is_drained() and time.monotonic() < end_at:
        time.sleep(0.01)
    book.write()


def main() -> None:
    """By the first word of the command line."""
    if sys.argv[1] == "echo":
        serve(int(sys.argv[2]))
    else:
        ask(sys.argv[2], int(sys.argv[3]), book_from_arguments(sys.argv[4:]))


if __name__ == "__main__":
    main()
