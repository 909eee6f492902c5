"""Mappings by UPnP: blocking exchanges with the router, for the hub's thread pool.

The sockets are the kernel's own: a program's patched or green ones have no business here.
"""

from __future__ import annotations

import _socket
import ipaddress
import time
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire import upnp

if TYPE_CHECKING:
    from ntmpatch.handover.portmapping import Router

SEARCH_TIMEOUT = 3.0
"""Seconds: devices answer within MX, which is one, if the network is not slow."""
EXCHANGE_TIMEOUT = 5.0
"""Seconds for one request to the router and all of its answer."""


def map_port(router: Router, lifetime: int) -> tuple[Endpoint, upnp.Service]:
    """Have the port mapped: where it is, and what maps it.

    OSError, UntrustedError: the router offers nothing, or nothing that can be used.
    """
    service = _find(router)
    asked: dict[str, str | int] = {
        "NewRemoteHost": "",
        "NewExternalPort": router.port,
        "NewProtocol": "UDP",
        "NewInternalPort": router.port,
        "NewInternalClient": router.local,
        "NewEnabled": 1,
        "NewPortMappingDescription": "ntmpatch",
        "NewLeaseDuration": lifetime,
    }
    response = _invoke(router, service, "AddPortMapping", asked)
    if response.status != 200:
        code = upnp.read_value_untrusted(response.body, "errorCode")
        if code != str(upnp.ONLY_PERMANENT_LEASES):
            raise UntrustedError(Drop.UPNP_REFUSED)
        asked["NewLeaseDuration"] = 0
        if _invoke(router, service, "AddPortMapping", asked).status != 200:
            raise UntrustedError(Drop.UPNP_REFUSED)
    response = _invoke(router, service, "GetExternalIPAddress", {})
    host = upnp.read_value_untrusted(response.body, "NewExternalIPAddress")
    try:
        return Endpoint(str(ipaddress.IPv4Address(host)), router.port), service
    except ValueError:
        raise UntrustedError(Drop.UPNP_MALFORMED) from None


def unmap_port(router: Router, service: upnp.Service) -> None:
    """Give the mapping back. OSError, UntrustedError: the router does not answer."""
    port = router.port
    asked: dict[str, str | int] = {
        "NewRemoteHost": "",
        "NewExternalPort": port,
        "NewProtocol": "UDP",
    }
    _invoke(router, service, "DeletePortMapping", asked)


def _find(router: Router) -> upnp.Service:
    place = _search(router)
    response = _exchange(router, place.port, upnp.get_request(router.gateway, place))
    return upnp.find_service_untrusted(response.body, router.gateway, place)


def _search(router: Router) -> upnp.Place:
    search = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        host = router.local
        search.bind((host, 0))
        packed = ipaddress.IPv4Address(host).packed
        search.setsockopt(_socket.IPPROTO_IP, _socket.IP_MULTICAST_IF, packed)
        for target in (router.gateway, upnp.SSDP_GROUP):
            search.sendto(upnp.search_request(target), (target, upnp.SSDP_PORT))
        deadline = time.monotonic() + SEARCH_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            search.settimeout(left)
            data, source = search.recvfrom(upnp.MAX_SIZE)
            if source[0] == router.gateway:
                return upnp.read_location_untrusted(data, router.gateway)
    finally:
        search.close()
    raise TimeoutError("no gateway answers the search")


def _invoke(
    router: Router, service: upnp.Service, action: str, arguments: dict[str, str | int]
) -> upnp.Response:
    request = upnp.action_request(router.gateway, service, action, arguments)
    return _exchange(router, service.place.port, request)


def _exchange(router: Router, port: int, request: bytes) -> upnp.Response:
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    deadline = time.monotonic() + EXCHANGE_TIMEOUT
    try:
        connection.settimeout(EXCHANGE_TIMEOUT)
        connection.bind((router.local, 0))
        connection.connect((router.gateway, port))
        connection.sendall(request)
        received = bytearray()
        while len(received) <= upnp.MAX_SIZE:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            data = connection.recv(16384)
            if not data:
                break
            received += data
    finally:
        connection.close()
    return upnp.read_response_untrusted(bytes(received))
