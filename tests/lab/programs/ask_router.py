"""Ask a router for a mapping by PCP, NAT-PMP or UPnP, print it, and wait for a datagram."""

import socket
import sys

from ntmpatch.handover.portmapping import Router
from ntmpatch.runtime.upnp import map_port, unmap_port
from ntmpatch.wire import natpmp, pcp

protocol, local_address, router = sys.argv[1:]
PORT = 51820
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind((local_address, PORT))
    sock.settimeout(10)

    def ask(request: bytes) -> bytes:
        sock.sendto(request, (router, pcp.SERVER_PORT))
        return sock.recv(pcp.MAX_SIZE)

    if protocol == "pcp":
        answer = pcp.decode_untrusted(ask(pcp.map_request(local_address, bytes(12), PORT, 3600)))
        assert answer.mapping is not None, answer
        assert answer.result == pcp.SUCCESS, answer
        host, port = answer.mapping.external
    elif protocol == "upnp":
        gateway = Router(router, local_address, PORT)
        (host, port), service = map_port(gateway, 3600)
    else:
        found = natpmp.decode_untrusted(ask(natpmp.address_request()))
        assert isinstance(found, natpmp.ExternalAddress), found
        mapped = natpmp.decode_untrusted(ask(natpmp.map_request(PORT, PORT, 3600)))
        assert isinstance(mapped, natpmp.Mapped), mapped
        host, port = found.host, mapped.external_port
    print("mapped", host, port, "end", flush=True)
    print("received", sock.recv(100).decode(), flush=True)
    if protocol == "upnp":
        unmap_port(gateway, service)
