"""What a router says by UPnP as a target of the fuzzer: see decoder_fuzz.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder_fuzz import Target

from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire import upnp

if TYPE_CHECKING:
    import random

ROUTER = "192.0.2.1"
PLACE = upnp.Place(80, "/")


def upnp_documents() -> Target:
    """Answers to the search, and descriptions."""

    def make(rng: random.Random) -> list[bytes]:
        url = rng.choice(
            ("/ctl", "ctl", f"http://{ROUTER}:5000/ctl", "http://[::1/", "http://x:y/")
        )
        kind = rng.choice((*upnp.SERVICES, "urn:other"))
        description = (
            "HTTP/1.0 200 OK\r\nServer: x\r\n\r\n"
            f'<?xml version="1.0"?><root xmlns="urn:x"><service><serviceType>{kind}</serviceType>'
            f"<controlURL>{url}</controlURL></service></root>"
        )
        return [f"HTTP/1.1 200 OK\r\nLOCATION: {url}\r\n\r\n".encode(), description.encode()]

    def run(data: bytes) -> str:
        if data[:8] == b"HTTP/1.1":
            place = upnp.read_location_untrusted(data, ROUTER)
        else:
            body = upnp.read_response_untrusted(data).body
            place = upnp.find_service_untrusted(body, ROUTER, PLACE).place
        request = upnp.get_request(ROUTER, place)
        assert request.count(b"\r\n") == 3, "a place that adds to the request"
        return "place"

    return Target("UPnP documents", make, run, allowed=(UntrustedError,))
