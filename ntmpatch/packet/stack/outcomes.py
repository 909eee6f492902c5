"""What ICMP tells of packets of ours, brought to the flow or the path that it concerns."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.wire import icmp, ip

if TYPE_CHECKING:
    from ntmpatch.base.drops import DropCounter
    from ntmpatch.packet.stack.pathmtu import PathMtuService
    from ntmpatch.packet.stack.tcp.service import TcpService
    from ntmpatch.packet.stack.udp import UdpService


class Outcomes:
    """The ICMP service's user."""

    def __init__(
        self, *, tcp: TcpService, udp: UdpService, paths: PathMtuService, drops: DropCounter
    ) -> None:
        self._tcp = tcp
        self._udp = udp
        self._paths = paths
        self._drops = drops

    def icmp_error(self, quote: icmp.Quote, error: int, *, hard: bool) -> None:
        """Our packet did not arrive: tell its flow."""
        local = (quote.source, quote.source_port)
        remote = (quote.destination, quote.destination_port)
        if quote.protocol == ip.TCP:
            if error != errno.EMSGSIZE:  # TCP cuts its segments anew; the program learns nothing
                self._tcp.icmp_error((*local, *remote), quote.seq, error)
        elif quote.protocol == ip.UDP:
            self._udp.error(local, remote, error, hard=hard)
        elif quote.protocol != icmp.protocol_of(quote.source):
            self._drops.drop(Drop.ICMP_NO_FLOW)

    def packet_too_big(self, quote: icmp.Quote, mtu: int, now: float) -> None:
        """A router carries packets of ``mtu`` bytes at most; it has to show one that we sent."""
        remote = quote.destination
        if quote.protocol == ip.TCP:
            flow = (quote.source, quote.source_port, remote, quote.destination_port)
            if self._tcp.is_under_way(flow, quote.seq):
                self._paths.too_big(remote, mtu, now)
        elif quote.protocol == ip.UDP:
            local = (quote.source, quote.source_port)
            if self._udp.has_sent(local, (remote, quote.destination_port)):
                self._paths.too_big(remote, mtu, now)
        elif quote.protocol != icmp.protocol_of(remote) or not self._paths.refused_probe(
            quote, mtu, now
        ):
            self._drops.drop(Drop.ICMP_NO_FLOW)

    def echo_reply(self, source: bytes, rest: int, body: memoryview, now: float) -> None:
        """Only path MTU discovery asks."""
        self._paths.reply(source, rest, body, now)
