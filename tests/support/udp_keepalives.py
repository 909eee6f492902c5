"""What an idle node behind a NAT sends, in bytes of IP, if UDP keep-alives have to keep it open."""

from __future__ import annotations

from tunnel_net import TunnelNet

IPV4_UDP = 28
"""Bytes of headers before a datagram."""
IPV4_TCP = 52
"""Of a segment, with time stamps (RFC 7323): an acknowledgment has no more."""
HOUR = 3600.0


def with_udp_keepalives(interval: float, hours: float = 3.0) -> float:
    """Bytes an hour of a tunnel whose idle end keeps its NAT open so (WireGuard's persistent
    keep-alives, and the handshakes that keep the session they need).
    """
    net = TunnelNet()
    node, server = net.add("node"), net.add("server")
    server.add_peer(node.public_key)
    peer = node.add_peer(
        server.public_key, endpoint="server", persistent_keepalive_interval=interval
    )
    peer.initiate(net.now)
    net.run(hours * HOUR)
    sizes = [len(datagram) + IPV4_UDP for source, _, datagram in net.sent if source == "node"]
    return sum(sizes) / hours
