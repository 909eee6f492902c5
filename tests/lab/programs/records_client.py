"""Send numbered records to a name on one connection until SIGTERM; all have to come back."""

import signal
import socket
import sys
import time

stopped: list[int] = []
signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
with socket.create_connection((sys.argv[1], 7000), timeout=60) as connection:
    stream = connection.makefile("rb")
    sent = received = 0
    while not stopped:
        connection.sendall(b"%010d" % sent)
        sent += 1
        assert stream.read(10) == b"%010d" % received, "not as it was sent"
        received += 1
        if sent == 1:
            print("echoed", flush=True)
        time.sleep(0.01)
print(f"{received} records came back as it was sent")
