"""What ``ntmpatch netcheck`` tells: how this machine's networks look to a node, measured now."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import gevent

from ntmpatch.runtime.interfaces import is_routable
from ntmpatch.runtime.probing import Probe, ask_by_stun, connect, shake_hands

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.handover.networks import Picture
    from ntmpatch.negotiation.node import NodeNegotiation
    from ntmpatch.runtime.nat import NodeNat
    from ntmpatch.signalling.effects import Contact

FAMILIES = {"ipv4": False, "ipv6": True}


class KnownServer(NamedTuple):
    """A server that the node has to reach, in one family."""

    role: str
    name: str
    public_key: bytes
    endpoint: Endpoint
    is_tcp: bool = False


def known_servers(
    negotiation: NodeNegotiation, contacts: Sequence[Contact], vantage: Sequence[Endpoint]
) -> list[KnownServer]:
    """AS, DCs, the NS that serves us, and RSs: each with one endpoint of each family."""
    enrolment = negotiation.enrolment
    found = list(
        _each_family("AS", "", negotiation.account_server, enrolment.account_server_endpoints)
    )
    for location in negotiation.coordinators():
        certificate = negotiation.verify(location.certificate, role="dc")
        endpoints = [address.endpoint() for address in location.endpoints]
        found += _each_family("DC", certificate.fqdn, certificate.public_key, endpoints)
    for contact in contacts:
        if contact.role == "ns":
            of_ns = _each_family("NS", contact.name, contact.public_key, contact.endpoints)
            found += [server._replace(is_tcp=True) for server in of_ns]
    return found + [KnownServer("RS", "", b"", endpoint) for endpoint in vantage]


def _each_family(
    role: str, name: str, public_key: bytes, endpoints: Sequence[Endpoint]
) -> Iterator[KnownServer]:
    for is_ipv6 in FAMILIES.values():
        endpoint = next((end for end in endpoints if end.is_ipv6 == is_ipv6), None)
        if endpoint is not None:
            yield KnownServer(role, name, public_key, endpoint)


def probe_all(servers: Sequence[KnownServer]) -> dict[KnownServer, Probe]:
    """Ask all at the same time; those that no route leads to are not asked. Some 4 s at most."""
    asked = [server for server in servers if is_routable(server.endpoint)]
    found = dict.fromkeys(servers, Probe(answered=False))

    def ask(server: KnownServer) -> None:
        if server.is_tcp:
            found[server] = connect(server.endpoint)
        else:
            found[server] = shake_hands(server.public_key, server.endpoint)

    def ask_relays(is_ipv6: bool) -> None:
        relays = {
            server.endpoint: server
            for server in asked
            if server.role == "RS" and server.endpoint.is_ipv6 == is_ipv6
        }
        told = ask_by_stun(tuple(relays), is_ipv6=is_ipv6)
        found.update({relays[endpoint]: probe for endpoint, probe in told.items()})

    jobs = [gevent.spawn(ask, server) for server in asked if server.role != "RS"]
    of_relays = [gevent.spawn(ask_relays, is_ipv6) for is_ipv6 in FAMILIES.values()]
    gevent.joinall(jobs, raise_error=True)
    gevent.joinall(of_relays, raise_error=True)
    return found


def report(
    fqdn: str,
    probes: dict[KnownServer, Probe],
    nat: NodeNat,
    picture: Picture,
    local: Sequence[Endpoint],
    *,
    is_registered: bool,
) -> dict[str, object]:
    """The facts, for people and JSON."""
    by_udp = [probe.answered for server, probe in probes.items() if not server.is_tcp]
    seen = nat.describe()
    return {
        "fqdn": fqdn,
        "registered": is_registered,
        "udp_blocked": bool(local) and bool(by_udp) and not any(by_udp),
        "interfaces": [
            {
                "name": network.interface,
                "address": f"{network.address}/{network.prefix_length}",
                "default_route": network.has_default,
                "metered": network.metered,
            }
            for network in picture
        ],
        **{
            family: {
                "usable": any(end.is_ipv6 == is_ipv6 for end in local),
                "local": [str(end) for end in local if end.is_ipv6 == is_ipv6],
                **seen[family],
            }
            for family, is_ipv6 in FAMILIES.items()
        },
        "servers": [
            {
                "role": server.role,
                "name": server.name,
                "endpoint": str(server.endpoint),
                "protocol": "TCP" if server.is_tcp else "UDP",
                "reachable": probe.answered,
                "rtt_ms": None if probe.rtt is None else round(probe.rtt * 1e3, 2),
            }
            for server, probe in probes.items()
        ],
    }
