"""UPnP: what a router's documents say, and what is refused of them."""

from __future__ import annotations

import pytest

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire import upnp

ROUTER = "192.168.1.1"
PLACE = upnp.Place(5000, "/root.xml")
KIND = upnp.SERVICES[1]
DESCRIPTION = (
    '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList>'
    "<service><serviceType>urn:other</serviceType><controlURL>/no</controlURL></service>"
    f"<service><serviceType>{KIND}</serviceType><controlURL>ctl/IP</controlURL></service>"
    "</serviceList></device></root>"
)


def test_a_gateway_is_found_described_and_asked() -> None:
    answer = b"HTTP/1.1 200 OK\r\nST: x\r\nLocation: http://192.168.1.1:5000/root.xml\r\n\r\n"
    assert upnp.read_location_untrusted(answer, ROUTER) == PLACE
    service = upnp.find_service_untrusted(DESCRIPTION.encode(), ROUTER, PLACE)
    assert service == upnp.Service(KIND, upnp.Place(5000, "/ctl/IP"))
    request = upnp.action_request(ROUTER, service, "DeletePortMapping", {"NewProtocol": "<UDP>"})
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /ctl/IP HTTP/1.0\r\nHost: 192.168.1.1:5000\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"<NewProtocol>&lt;UDP&gt;</NewProtocol>" in body
    fault = upnp.read_response_untrusted(b"HTTP/1.1 500 No\r\n\r\n<errorCode>725</errorCode>")
    assert (fault.status, upnp.read_value_untrusted(fault.body, "errorCode")) == (500, "725")


@pytest.mark.parametrize(
    "location",
    [
        "http://192.168.1.2:5000/root.xml",
        "http://192.168.1.1@192.168.1.2/",
        "http://router.example/",
        "https://192.168.1.1/",
        "file:///etc/passwd",
    ],
)
def test_only_the_router_itself_is_asked(location: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\nLOCATION: {location}\r\n\r\n".encode()
    with pytest.raises(UntrustedError) as caught:
        upnp.read_location_untrusted(answer, ROUTER)
    assert caught.value.drop is Drop.UPNP_ELSEWHERE
    described = DESCRIPTION.replace("ctl/IP", location).encode()
    with pytest.raises(UntrustedError) as caught:
        upnp.find_service_untrusted(described, ROUTER, PLACE)
    assert caught.value.drop is Drop.UPNP_ELSEWHERE


@pytest.mark.parametrize(
    ("document", "drop"),
    [
        (DESCRIPTION.replace("<root", '<!DOCTYPE x [<!ENTITY a "b">]><root'), Drop.UPNP_MALFORMED),
        (DESCRIPTION.replace("ctl/IP", "/a b\nHost: x"), Drop.UPNP_MALFORMED),
        (DESCRIPTION[:-1], Drop.UPNP_MALFORMED),
        (DESCRIPTION + " " * upnp.MAX_SIZE, Drop.UPNP_MALFORMED),
        ("<root/>", Drop.UPNP_NO_SERVICE),
    ],
    ids=["entities", "control characters", "cut off", "too large", "no service"],
)
def test_a_bad_description_is_refused(document: str, drop: Drop) -> None:
    with pytest.raises(UntrustedError) as caught:
        upnp.find_service_untrusted(document.encode(), ROUTER, PLACE)
    assert caught.value.drop is drop
