"""Tell whoever asks the endpoint it was seen as: the server of `nat_probe.py`, as RFC 5780's.

Two ports, both IP versions. Questions, each a datagram of JSON:

    ["mapping"]             answered with the source of the question: [ADDRESS, PORT]
    ["other port"]          "let in" from the other port, then "done" from the port asked
    ["other server", HOST]  the same, but the server HOST says "let in" from an address that the
                            client has not sent to; it has done so before "done" is sent
    ["say it to", ENDPOINT] of one server to another

Prints who sent what.
"""

import json
import select
import socket
import sys

PORTS = (3478, 3479)


def bound(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", port))
    return made


first, second = (bound(port) for port in PORTS)
errands = bound(0)
print("ready", flush=True)
while True:
    for asked in select.select([first, second], [], [])[0]:
        other = second if asked is first else first
        data, source = asked.recvfrom(1000)
        question = json.loads(data)
        seen = (source[0].removeprefix("::ffff:"), source[1])
        print(*seen, *question, flush=True)
        match question:
            case ["mapping"]:
                asked.sendto(json.dumps(seen).encode(), source)
            case ["other port"]:
                other.sendto(b'"let in"', source)
                asked.sendto(b'"done"', source)
            case ["other server", host]:
                mapped = host if ":" in host else f"::ffff:{host}"
                errands.sendto(json.dumps(["say it to", source]).encode(), (mapped, PORTS[0]))
                errands.recv(100)
                asked.sendto(b'"done"', source)
            case ["say it to", endpoint]:
                asked.sendto(b'"let in"', tuple(endpoint))
                asked.sendto(b'"done"', source)
            case _:
                sys.exit(f"no such question: {question}")
