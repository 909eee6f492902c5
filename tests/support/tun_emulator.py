"""A network between TUN devices and a stack of ours, in user space and real time.

Delay, loss, reordering, and a rate with a finite queue, without ``tc netem``: the same for the
kernel's packets and for ours, so that they can be compared.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ntmpatch.packet.stack import Stack
from ntmpatch.wire.segments import cut

if TYPE_CHECKING:
    from collections.abc import Callable

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_CLONE_NEWNET = 0x40000000
MAX_READS = 64


def open_tun(name: str, namespace_pid: int | None = None) -> int:
    """A non-blocking descriptor of a new TUN device, in the network namespace of a process."""
    if namespace_pid is None:
        return _open_tun_here(name)
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(Path(f"/proc/{namespace_pid}/ns/net"), os.O_RDONLY)
    try:
        _check(libc.setns(there, _CLONE_NEWNET))
        try:
            return _open_tun_here(name)
        finally:
            _check(libc.setns(home, _CLONE_NEWNET))
    finally:
        os.close(home)
        os.close(there)


def _open_tun_here(name: str) -> int:
    """The device belongs to the namespace in which it is opened."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, _request(name))
    return descriptor


def _request(name: str) -> bytes:
    return struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)


def _check(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


@dataclass
class Way:
    """What happens to packets on the way to one place."""

    delay: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    """Share of packets that are late by up to ``late``."""
    late: float = 0.01
    rate: float = 0.0
    """Bytes a second."""
    queue_size: int = 1 << 20
    busy_until: float = 0.0
    dropped: int = 0
    overflowed: int = 0
    passed: int = 0


class Emulator:
    """Carries packets between places; a place is a set of addresses behind one delivery call."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.stacks: list[tuple[Stack, Callable[[list[bytes]], None]]] = []
        self._tuns: dict[int, str] = {}
        self._places: dict[bytes, tuple[Way, int | Stack]] = {}
        self._due: list[tuple[float, int, int | Stack, bytes]] = []
        self._count = 0
        self._scratch = memoryview(bytearray(1 << 18))
        self._known: set[bytes] = set()
        self.calls: list[tuple[float, int, Callable[[], None]]] = []
        self.is_over: Callable[[], bool] = lambda: False

    def attach(self, where: int | Stack, addresses: list[bytes], way: Way) -> None:
        """Packets to ``addresses`` go ``way`` to a TUN's descriptor, or to a stack."""
        for address in addresses:
            self._places[address] = (way, where)
            self._known.add(address)
        if isinstance(where, int):
            self._tuns[where] = ""

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """Call after ``delay`` seconds."""
        self._count += 1
        heapq.heappush(self.calls, (time.monotonic() + delay, self._count, call))

    def tick(self) -> None:
        """Look at ``is_over`` now and then even if nothing happens."""
        self.later(0.05, self.tick)

    def run(self, limit: float) -> None:
        """Until ``is_over``; TimeoutError after ``limit`` seconds."""
        end_at = time.monotonic() + limit
        stacks = {where for _, where in self._places.values() if isinstance(where, Stack)}
        while not self.is_over():
            now = time.monotonic()
            if now > end_at:
                raise TimeoutError(limit)
            self._deliver(now)
            for stack in stacks:
                self._transmit(stack, time.monotonic())
            wake_at = end_at
            for stack in stacks:
                timeout = stack.poll_timeout()
                if timeout is not None:
                    wake_at = min(wake_at, timeout)
            for heap in (self._due, self.calls):
                if heap:
                    wake_at = min(wake_at, heap[0][0])
            wait = max(0.0, wake_at - time.monotonic())
            readable, _, _ = select.select(list(self._tuns), [], [], wait)
            for descriptor in readable:
                self._read(descriptor)
            now = time.monotonic()
            while self.calls and self.calls[0][0] <= now:
                heapq.heappop(self.calls)[2]()
            for stack in stacks:
                timeout = stack.poll_timeout()
                if timeout is not None and timeout <= now:
                    stack.handle_timeout(now)

    def _transmit(self, stack: Stack, now: float) -> None:
        while (segment := stack.poll_transmit(now)) is not None:
            for packet in cut(segment, self._scratch, checksums=True):
                self._carry(bytes(packet), now)

    def _read(self, descriptor: int) -> None:
        now = time.monotonic()
        for _ in range(MAX_READS):
            try:
                packet = os.read(descriptor, 65536)
            except BlockingIOError:
                return
            self._carry(packet, now)

    def _carry(self, packet: bytes, now: float) -> None:
        destination = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
        place = self._places.get(destination)
        if place is None:
            return  # multicast and the like
        way, where = place
        if way.loss and self.random.random() < way.loss:
            way.dropped += 1
            return
        at = now
        if way.rate:
            start = max(now, way.busy_until)
            if (start - now) * way.rate > way.queue_size:
                way.overflowed += 1
                return
            at = way.busy_until = start + len(packet) / way.rate
        way.passed += 1
        at += way.delay
        if way.reorder and self.random.random() < way.reorder:
            at += self.random.random() * way.late
        self._count += 1
        heapq.heappush(self._due, (at, self._count, where, packet))

    def _deliver(self, now: float) -> None:
        batches: dict[Stack, list[memoryview]] = {}
        while self._due and self._due[0][0] <= now:
            _, _, where, packet = heapq.heappop(self._due)
            if isinstance(where, Stack):
                batches.setdefault(where, []).append(memoryview(packet))
                continue
            with contextlib.suppress(BlockingIOError):  # its queue is full, as on any link
                os.write(where, packet)
        for stack, packets in batches.items():
            stack.receive(packets, self._known, now, verify=True)


def packed(address: str) -> bytes:
    """As the stack has addresses."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address)
