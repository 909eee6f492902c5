"""Send back what comes, connection by connection, on port 7000."""

import socket
import threading


def serve(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


with socket.create_server(("0.0.0.0", 7000)) as listener:
    print("listening", flush=True)
    while True:
        threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
