"""Datagrams through the relay server: batches one way, a short frame back for each.

What is relayed is opaque, so it is not sealed here: the clients' cost is kept off the machine.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from ntmpatch.runtime.udp import BUFFER_SIZE, UDP_GRO, UDP_SEGMENT
from ntmpatch.wire.relay import bind_frame, data_header

if TYPE_CHECKING:
    from load.loop import Loop
    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.wire.control_messages import RelayLeg

WINDOW = 4
"""Batches under way."""
MAX_BATCH_SIZE = 65000
LOST_AFTER = 0.2
_gro_size = struct.Struct("=i")
_gso_size = struct.Struct("=H")


class RelayLoad:
    """Two ends of one session, bound at the relay."""

    def __init__(
        self, loop: Loop, legs: tuple[Any, Any], hosts: tuple[str, str], payload_size: int
    ) -> None:
        self._loop = loop
        self._ends = [_bound(leg, host) for leg, host in zip(legs, hosts, strict=True)]
        self._relay: Endpoint = legs[0].endpoints[0].endpoint()
        header = data_header(legs[0].session_id)
        self._frame = header + os.urandom(payload_size)
        self._count = min(64, MAX_BATCH_SIZE // len(self._frame))
        self._batch = self._frame * self._count
        self._control = [(socket.SOL_UDP, UDP_SEGMENT, _gso_size.pack(len(self._frame)))]
        self._mark = header + b"\0"
        self._pending = 0
        self._sent = 0
        self._received_bytes = 0
        self._received = 0
        self._since_mark = 0
        self._heard_at = 0.0
        self._arena = bytearray(65536)

    def run(self, seconds: float) -> dict[str, Any]:
        """Keep the window full for so long; what `Tally` takes."""
        sender, receiver = self._ends
        self._loop.watch(receiver.fileno(), self._arrived)
        self._loop.watch(sender.fileno(), self._acknowledged)
        begun = self._heard_at = time.monotonic()
        self._fill()
        while (now := time.monotonic()) < begun + seconds:
            self._loop.run(lambda: False, min(LOST_AFTER, begun + seconds - now))
            if time.monotonic() - self._heard_at > LOST_AFTER:
                self._pending = 0  # what was under way is lost
                self._fill()
        passed = time.monotonic() - begun
        for end in self._ends:
            self._loop.unwatch(end.fileno())
            end.close()
        return {
            "wall_time": passed,
            "done": self._received,
            "failed": max(0, self._sent - self._received - WINDOW * self._count),
            "bytes": self._received_bytes,
            "packets": self._received,
        }

    def _fill(self) -> None:
        while self._pending < WINDOW:
            try:
                self._ends[0].sendmsg([self._batch], self._control, 0, self._relay)
            except BlockingIOError:
                return
            self._pending += 1
            self._sent += self._count

    def _arrived(self, _: int) -> None:
        receiver = self._ends[1]
        for _ in range(4):
            try:
                size, control, _, _ = receiver.recvmsg_into([self._arena], 64)
            except BlockingIOError:
                return
            count = _count(size, control)
            self._received_bytes += size
            self._received += count
            self._since_mark += count
            while self._since_mark >= self._count:
                self._since_mark -= self._count
                receiver.sendto(self._mark, self._relay)

    def _acknowledged(self, _: int) -> None:
        try:
            size, control, _, _ = self._ends[0].recvmsg_into([self._arena], 64)
        except BlockingIOError:
            return
        self._pending = max(0, self._pending - _count(size, control))
        self._heard_at = time.monotonic()
        self._fill()


def _count(size: int, control: list[tuple[int, int, bytes]]) -> int:
    """Datagrams in a batch as the kernel joined them."""
    for _, kind, data in control:
        if kind == UDP_GRO:
            (segment_size,) = _gro_size.unpack(data)
            return int(-(-size // segment_size))
    return 1


def _bound(leg: RelayLeg, host: str) -> socket.socket:
    """A socket whose address the relay has for this side; RuntimeError if it does not answer."""
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((host, 0))
    end.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        end.setsockopt(socket.SOL_SOCKET, option, BUFFER_SIZE)
    end.settimeout(2.0)
    frame = bind_frame(leg.session_id, leg.side, leg.capability, time.time_ns())
    end.sendto(frame, leg.endpoints[0].endpoint())
    try:
        end.recv(2048)
    except TimeoutError:
        raise RuntimeError("the relay does not answer a binding") from None
    end.setblocking(False)
    return end
