"""What an idle node behind a NAT sends, in bytes of IP, with an NS.

The domain runs in virtual time and says which control messages are exchanged and when; real tunnels
then carry messages of these sizes, so that handshakes, confirmations and padding are what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from domain import Domain
from tunnel_net import TunnelNet
from udp_keepalives import HOUR, IPV4_TCP, IPV4_UDP

from ntmpatch.base.addresses import Endpoint
from ntmpatch.runtime.station import FIRST_RETRIES
from ntmpatch.wire.control import encode

if TYPE_CHECKING:
    from virtual_network import Captured

FRAME_LENGTH = 2


@dataclass
class Idle:
    """Bytes that an idle node sent within ``hours``, by what they are for."""

    hours: float
    heartbeat: float = 0.0
    registration: int = 0
    """All that goes to the DC, sessions included."""
    service: int = 0
    """All else on the connection to the NS."""
    certificates: int = 0
    """All that goes to the AS."""
    messages: int = field(default=0, repr=False)

    @property
    def per_hour(self) -> float:
        total = self.heartbeat + self.registration + self.service + self.certificates
        return total / self.hours


def with_notification_server(since: float, until: float, *, seed: int = 1) -> Idle:
    """From ``since`` to ``until`` hours after the start; the NAT forgets no connection."""
    domain = Domain(seed)
    domain.start_servers()
    node = domain.start_node("b", Endpoint("10.0.0.2", 1000), nat=Endpoint("203.0.113.2", 4444))
    began_at = domain.network.now
    idle = Idle(until - since)
    key = node.party.public_key
    server = domain.notification_server
    step = 60.0
    while domain.network.now < began_at + until * HOUR:
        domain.network.run(step)
        if domain.network.now > began_at + since * HOUR:
            idle.heartbeat += IPV4_TCP * step / server.probe_intervals[key]
    _carry(
        [
            message
            for message in domain.network.captured
            if began_at + since * HOUR <= message.at < began_at + until * HOUR
        ],
        node.party.title,
        idle,
    )
    return idle


def _carry(messages: list[Captured], node: str, idle: Idle) -> None:
    """Send the messages that ``node`` takes part in through real tunnels; count what it sends."""
    net = TunnelNet()
    net.now = messages[0].at - 1.0
    tunnel = net.add("node")
    servers = {name: net.add(name) for name in ("AS", "DC", "NS")}
    for name, server in servers.items():
        server.add_peer(tunnel.public_key, first_retries=FIRST_RETRIES)
        tunnel.add_peer(server.public_key, endpoint=name, first_retries=FIRST_RETRIES)
    acknowledgments = 0
    for message in sorted(messages, key=lambda message: message.at):
        if node not in (message.sender, message.receiver):
            continue
        is_ours = message.sender == node
        name = (message.receiver if is_ours else message.sender).split()[0]
        net.run(max(message.at - net.now, 0.0))
        near, far = (tunnel, servers[name]) if is_ours else (servers[name], tunnel)
        near.peers[far.public_key].send(encode(message.envelope), net.now)
        idle.messages += is_ours
    net.run(60.0)
    for source, destination, datagram in net.sent:
        if source == "node":
            if destination == "NS":
                idle.service += len(datagram) + FRAME_LENGTH + IPV4_TCP
            elif destination == "DC":
                idle.registration += len(datagram) + IPV4_UDP
            else:
                idle.certificates += len(datagram) + IPV4_UDP
        elif source == "NS" and destination == "node":
            acknowledgments += 1
    idle.service += acknowledgments * IPV4_TCP  # at most: some ride along
