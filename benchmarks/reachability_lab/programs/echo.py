"""Send back what comes to port 7000, by UDP and by TCP."""

import socket
import threading

PORT = 7000


def echo_stream(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def echo_datagrams(datagrams: socket.socket) -> None:
    while True:
        data, source = datagrams.recvfrom(65536)
        datagrams.sendto(data, source)


def accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo_stream, args=(connection,), daemon=True).start()


udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", PORT))
threading.Thread(target=echo_datagrams, args=(udp,), daemon=True).start()
with socket.create_server(("0.0.0.0", PORT)) as server:
    print("listening", flush=True)
    accept(server)
