"""Device types: ways of waking a node. ``tcp`` is the server's own; others are plugged in here.

A plug-in wakes a device by a blocking job, which the runtime runs in a thread. Whether it arrived
is for the node itself to say, to its coordinator: Fig. 3 (11).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.process import Event, Process, wait, work
from ntmpatch.wire.control_messages import RefusalCode

TCP = "tcp"
"""The connection that the node itself keeps."""
SLOT_TIMEOUT = 5.0
"""Seconds a notification waits for its turn; by then its look-up is about to end."""
MAX_WAITING = 1024


@dataclass(frozen=True, slots=True)
class Device:
    """Whom to wake."""

    fqdn: str
    push_token: str
    """What the node gave for an address: letters, digits and ``_ . : ~ = -``, at most 256."""


class DeviceType(Protocol):
    """A way of waking nodes. ``concurrency``: jobs at once."""

    concurrency: int

    def accepts(self, device: Device) -> bool:
        """Whether it can wake that device, as far as its token tells. Must not block."""
        ...

    def wake(self, device: Device, payload: bytes) -> None:
        """Have ``payload`` delivered to the node (`NodeNegotiation.woken`); blocks.

        At most a few hundred bytes, and no secret. It ends in bounded time; any exception means
        that the device was not reached, and its text is logged.
        """
        ...


class PluggedIn:
    """A device type at work: its jobs take turns."""

    def __init__(self, device_type: DeviceType) -> None:
        self._device_type = device_type
        self._free = device_type.concurrency
        self._waiting: deque[Event] = deque()

    def accepts(self, device: Device) -> bool:
        """Whether the device can be woken."""
        return self._device_type.accepts(device)

    def wake(self, device: Device, payload: bytes) -> Process[None]:
        """Deliver when it is our turn. Refused UNREACHABLE if it fails, BUSY if too many wait."""
        yield from self._take_turn()
        try:
            yield from work(lambda: self._device_type.wake(device, payload), "push")
        except Exception as error:
            raise Refused(RefusalCode.UNREACHABLE, f"push: {error}"[:200]) from error
        finally:
            self._next()

    def _take_turn(self) -> Process[None]:
        if self._free:
            self._free -= 1
            return
        if len(self._waiting) >= MAX_WAITING:
            raise Refused(RefusalCode.BUSY, "too many pushes under way")
        turn = Event()
        self._waiting.append(turn)
        try:
            yield from wait(turn, SLOT_TIMEOUT)
        finally:
            if not turn.is_set:
                self._waiting.remove(turn)

    def _next(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1


DeviceTypes = dict[str, PluggedIn]


def plugged_in(device_types: dict[str, DeviceType]) -> DeviceTypes:
    """Device types by name, ready to work."""
    return {name: PluggedIn(device_type) for name, device_type in device_types.items()}
