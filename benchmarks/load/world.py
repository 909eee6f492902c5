"""What all drivers know of the domain under load; names, keys and addresses of its nodes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import blake2s
from typing import TYPE_CHECKING

from ntmpatch.crypto.certificate import Certificate, issue
from ntmpatch.crypto.noise import StaticKey
from ntmpatch.signalling.enrolled import EnrolmentState
from ntmpatch.wire.control_messages import ServerLocation, addresses_of

if TYPE_CHECKING:
    from ntmpatch.base.addresses import Endpoint

DOMAIN = "load.example"
SERVERS_HOST = "127.0.0.1"
CERTIFICATE_LIFETIME = 86400.0
_HOSTS_A_NETWORK = 250


def node_name(number: int) -> str:
    """The full name of a node of the load."""
    return f"n{number}.{DOMAIN}"


def node_key(number: int) -> bytes:
    """Its private key: the same in every process, and in every run."""
    return blake2s(f"node {number}".encode(), person=b"load").digest()


def node_host(number: int) -> str:
    """Its own loopback address: what is limited by source is limited for each node alone."""
    high, low = divmod(number, _HOSTS_A_NETWORK)
    return f"127.{1 + high // _HOSTS_A_NETWORK}.{high % _HOSTS_A_NETWORK}.{2 + low}"


def node_certificate(number: int, signing_key: bytes) -> bytes:
    """What the AS would have signed for it."""
    now = time.time()
    return issue(
        Certificate(
            role="node",
            fqdn=node_name(number),
            public_key=StaticKey(node_key(number)).public,
            prefixes=(),
            not_before=now - 300.0,
            not_after=now + CERTIFICATE_LIFETIME,
        ),
        signing_key,
    )


@dataclass(frozen=True)
class World:
    """Keys and places of the servers; ``signing_key`` is the AS's private one: they are ours."""

    account_server: bytes
    account_server_endpoint: Endpoint
    signing_key: bytes
    signing_public_key: bytes
    coordinator: bytes
    coordinator_certificate: bytes
    coordinator_endpoint: Endpoint
    dns: Endpoint

    def enrolment(self, number: int, *, enrolled: bool = True) -> bytes:
        """The stored state of a node, as if it had enrolled before; or else without certificate."""
        return EnrolmentState(
            self.account_server,
            (self.account_server_endpoint,),
            self.signing_public_key,
            node_certificate(number, self.signing_key) if enrolled else b"",
            (
                ServerLocation(
                    "dc",
                    self.coordinator_certificate,
                    addresses_of((self.coordinator_endpoint,)),
                ),
            ),
        ).encode()
