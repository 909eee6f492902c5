"""UPnP Internet Gateway Device: how it is found, described and asked for a mapping.

UPnP Device Architecture 1.1 (discovery, description, control) and WANIPConnection:1. Whatever a
device says of where it is, only the router's own address is taken for it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import NamedTuple
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError

SSDP_PORT = 1900
SSDP_GROUP = "239.255.255.250"
MAX_SIZE = 65536
"""Bytes of a document, and of a search's answer."""
ONLY_PERMANENT_LEASES = 725
SERVICES = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
"""The best first; all have the three actions that are used."""

_PATH = re.compile(r"/[!-~]{0,500}")
_CODE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")


class Place(NamedTuple):
    """A resource at the router."""

    port: int
    path: str


class Service(NamedTuple):
    """What can be asked for mappings."""

    kind: str
    place: Place


class Response(NamedTuple):
    """Of HTTP."""

    status: int
    body: bytes


def search_request(host: str) -> bytes:
    """M-SEARCH for a gateway, to be sent to port 1900 of ``host`` (1.3.2)."""
    return (
        f"M-SEARCH * HTTP/1.1\r\nHOST: {host}:{SSDP_PORT}\r\n"
        'MAN: "ssdp:discover"\r\nMX: 1\r\n'
        "ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    ).encode()


def read_location_untrusted(data: bytes, router: str) -> Place:
    """Where an answer to the search says that the description is."""
    if _status(data) != 200:
        raise UntrustedError(Drop.UPNP_MALFORMED)
    for line in data[:MAX_SIZE].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"location":
            return _place(value.strip().decode("latin-1"), router)
    raise UntrustedError(Drop.UPNP_MALFORMED)


def get_request(router: str, place: Place) -> bytes:
    """Ask for a description. HTTP/1.0: the answer comes whole, and its end is the connection's."""
    return f"GET {place.path} HTTP/1.0\r\nHost: {router}:{place.port}\r\n\r\n".encode()


def action_request(
    router: str, service: Service, action: str, arguments: dict[str, str | int]
) -> bytes:
    """Invoke an action by SOAP (3.2.1)."""
    inner = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in arguments.items())
    body = (
        '<?xml version="1.0"?>\r\n'
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
        ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{service.kind}">{inner}</u:{action}></s:Body></s:Envelope>\r\n'
    )
    head = (
        f"POST {service.place.path} HTTP/1.0\r\nHost: {router}:{service.place.port}\r\n"
        f'Content-Type: text/xml; charset="utf-8"\r\nSOAPAction: "{service.kind}#{action}"\r\n'
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


def read_response_untrusted(data: bytes) -> Response:
    """A whole answer of HTTP."""
    _, separator, body = data.partition(b"\r\n\r\n")
    if not separator or len(data) > MAX_SIZE:
        raise UntrustedError(Drop.UPNP_MALFORMED)
    return Response(_status(data), body)


def find_service_untrusted(document: bytes, router: str, described_at: Place) -> Service:
    """The service of a description that is asked for mappings."""
    found: dict[str, str] = {}
    for element in _parse(document).iter():
        if _name(element) == "service":
            texts = {_name(child): (child.text or "").strip() for child in element}
            found.setdefault(texts.get("serviceType", ""), texts.get("controlURL", ""))
    for kind in SERVICES:
        if kind in found:
            url = found[kind]
            if "://" in url:
                return Service(kind, _place(url, router))
            path = url if url.startswith("/") else f"/{url}"
            return Service(kind, _checked(Place(described_at.port, path)))
    raise UntrustedError(Drop.UPNP_NO_SERVICE)


def read_value_untrusted(document: bytes, name: str) -> str:
    """What an action returns under that name, or a fault's ``errorCode`` (3.2.2)."""
    for element in _parse(document).iter():
        if _name(element) == name:
            return (element.text or "").strip()
    raise UntrustedError(Drop.UPNP_MALFORMED)


def _parse(document: bytes) -> ET.Element:
    # Declarations are where entities, and so expansion and inclusion, come from. UTF-8 has to be
    # seen: in another encoding "<!" would look otherwise.
    if b"<!" in document or len(document) > MAX_SIZE:
        raise UntrustedError(Drop.UPNP_MALFORMED)
    try:
        return ET.fromstring(document.decode().partition("?>")[2] or document.decode())
    except (ET.ParseError, UnicodeDecodeError, ValueError):
        raise UntrustedError(Drop.UPNP_MALFORMED) from None


def _name(element: ET.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _status(data: bytes) -> int:
    match = _CODE.match(data)
    if match is None:
        raise UntrustedError(Drop.UPNP_MALFORMED)
    return int(match.group(1))


def _place(url: str, router: str) -> Place:
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        raise UntrustedError(Drop.UPNP_MALFORMED) from None
    if parts.scheme != "http" or parts.netloc not in (router, f"{router}:{port}"):
        raise UntrustedError(Drop.UPNP_ELSEWHERE)
    path = parts.path or "/"
    return _checked(Place(port, f"{path}?{parts.query}" if parts.query else path))


def _checked(place: Place) -> Place:
    if _PATH.fullmatch(place.path) is None:
        raise UntrustedError(Drop.UPNP_MALFORMED)
    return place
