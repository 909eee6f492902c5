"""What servers do not learn of the tunnels that they help to make: nobody tells them."""

from __future__ import annotations

from typing import Any

from wire_domain import WireDomain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.signalling.effects import Assigned, Resolved

A, B = Endpoint("198.51.100.1", 1), Endpoint("198.51.100.2", 1)


def look_up(*, of: str) -> tuple[WireDomain, Any, Any, list[bytes]]:
    """Node a looks b up, both behind NATs; all that one server heard meanwhile, in clear."""
    domain = WireDomain(8)
    domain.start_servers()
    a: Any = domain.start_node("a", Endpoint("10.0.0.1", 1), nat=A)
    b: Any = domain.start_node("b", Endpoint("10.0.0.2", 1), nat=B)
    domain.register(a, b)
    server: Any = getattr(domain, of)
    heard: list[bytes] = []
    receive = server.party.receive

    def note(peer: bytes, payload: bytes, now: float, source: Any) -> None:
        heard.append(payload)
        receive(peer, payload, now, source)

    server.party.receive = note
    assert isinstance(domain.resolve(a, "b"), Resolved)
    return domain, a, b, heard


def test_a_notification_server_learns_who_is_called_and_not_by_whom() -> None:
    _, a, b, heard = look_up(of="notification_server")
    assert any(b.party.public_key in payload for payload in heard)
    own = a.of(Assigned)[-1]
    of_the_caller = (a.party.public_key, b"a.home.example", A.host.encode(), own.ipv4, own.ipv6)
    assert not any(secret in payload for payload in heard for secret in of_the_caller)


def test_a_relay_learns_no_names() -> None:
    _, a, b, heard = look_up(of="relay_server")
    assert any(a.party.public_key in payload for payload in heard)
    assert any(b.party.public_key in payload for payload in heard)
    assert not any(
        name in payload for payload in heard for name in (b"a.home.example", b"b.home.example")
    )
