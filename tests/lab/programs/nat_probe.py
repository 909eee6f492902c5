"""Find out how the NATs before this host map and filter, as RFC 5780, 4.3 and 4.4, does.

Arguments: two servers (`nat_reflector.py`) and a stranger. Prints JSON: mapping and filtering in
the words of RFC 4787. Nothing is waited for that may not come: the server says when it is done.
"""

import json
import socket
import sys

PORTS = (3478, 3479)
first, second, stranger = sys.argv[1:4]
family = socket.AF_INET6 if ":" in first else socket.AF_INET


def opened() -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind(("", 0))
    made.settimeout(10)
    return made


def mapping() -> str:
    """Test I, II and III of 4.3."""
    with opened() as probe:
        seen = []
        for server, port in ((first, PORTS[0]), (second, PORTS[0]), (second, PORTS[1])):
            probe.sendto(b'["mapping"]', (server, port))
            seen.append(tuple(json.loads(probe.recv(1000))))
        probe.connect((first, PORTS[0]))
        if seen[0] == probe.getsockname()[:2]:
            return "none"
    if seen[0] == seen[1]:
        return "endpoint-independent"
    return "address-dependent" if seen[1] == seen[2] else "address and port-dependent"


def is_let_in(probe: socket.socket, *question: str) -> bool:
    """Ask the first server; is there anything before it says that it is done?"""
    probe.sendto(json.dumps(question).encode(), (first, PORTS[0]))
    answers: list[object] = []
    while not answers or answers[-1] != "done":
        answers.append(json.loads(probe.recv(1000)))
    return "let in" in answers


def filtering() -> str:
    """Test II and III of 4.4, on a socket that has sent to the first server alone."""
    with opened() as probe:
        if is_let_in(probe, "other server", second):
            return "endpoint-independent"
        return (
            "address-dependent" if is_let_in(probe, "other port") else "address and port-dependent"
        )


found = {"mapping": mapping(), "filtering": filtering()}
with opened() as shout:
    shout.sendto(b'["mapping"]', (stranger, PORTS[0]))
print(json.dumps(found))
