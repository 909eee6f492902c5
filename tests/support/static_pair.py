"""Two nodes on loopback that have each other for peers, and need no server."""

from __future__ import annotations

import base64
import os
import socket

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

NAMES = ("a", "b")
DOMAIN = "pair.example"


class StaticPair:
    """Configurations and states of `a.pair.example` and `b.pair.example` in a directory."""

    def __init__(self, directory):
        self.directory = directory
        keys = {name: X25519PrivateKey.generate() for name in NAMES}
        ports = dict(zip(NAMES, _free_ports(len(NAMES)), strict=True))
        for number, name in enumerate(NAMES, 1):
            (other,) = set(NAMES) - {name}
            (directory / f"{name}.key").write_bytes(
                base64.b64encode(keys[name].private_bytes_raw())
            )
            public_key = base64.b64encode(keys[other].public_key().public_bytes_raw()).decode()
            (directory / f"{name}.toml").write_text(
                f'[node]\nprivate_key_file = "{directory / name}.key"\n'
                f'name = "{name}.{DOMAIN}"\naddresses = ["198.18.0.{number}"]\n'
                f'bind = ["127.0.0.1"]\nport = {ports[name]}\n'
                f'[[peer]]\nname = "{other}.{DOMAIN}"\npublic_key = "{public_key}"\n'
                f'addresses = ["198.18.0.{3 - number}"]\nendpoint = "127.0.0.1:{ports[other]}"\n'
            )

    def environment(self, name):
        """The variables by which a program finds its node."""
        ordinary = {k: v for k, v in os.environ.items() if not k.startswith("NTMPATCH_")}
        return ordinary | {
            "NTMPATCH_CONFIG": f"{self.directory / name}.toml",
            "NTMPATCH_STATE": str(self.directory / name),
            # From 3.12 on Python warns of any fork beside a thread, and the node is one.
            "PYTHONWARNINGS": "ignore:This process:DeprecationWarning",
        }


def _free_ports(count):
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
