"""What waits for a descriptor by epoll keeps waiting when another socket takes its number.

The kernel drops a registration with the file that it was for. A program that has registered a
socket before it turns virtual, or that connects one anew that has failed, would wait for ever.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPOLL_CTL_ADD = 1
_EPOLL = "anon_inode:[eventpoll]"


class _Registration(NamedTuple):
    epoll: int
    events: int
    data: int
    """Of 64 bits, which event loops other than Python's fill in their own ways."""


@contextlib.contextmanager
def kept(fd: int) -> Iterator[None]:
    """Put another file at ``fd`` meanwhile: whoever polled the old one polls the new one."""
    # Who blocks in its calls does not poll.
    registrations = [] if os.get_blocking(fd) else _registrations(fd)
    try:
        yield
    finally:
        for each in registrations:
            _register(fd, each)


def _registrations(fd: int) -> list[_Registration]:
    """By proc(5), fdinfo: lines such as ``tfd:  5 events:  19 data:  5 pos:0 ino:61af sdev:7``."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") != _EPOLL:
                continue
            with open(f"/proc/self/fdinfo/{name}", encoding="ascii") as file:
                lines = [line.split() for line in file if line.startswith("tfd:")]
            found += [
                _Registration(int(name), int(words[3], 16), int(words[5], 16))
                for words in lines
                if int(words[1]) == fd
            ]
    return found


def _register(fd: int, registration: _Registration) -> None:
    import ctypes  # noqa: PLC0415  # rarely needed; the standard library's epoll cannot set data

    class Event(ctypes.Structure):
        """``struct epoll_event``, which is packed where it was in 32 bits."""

        _pack_ = 1 if os.uname().machine == "x86_64" else 0
        _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))

    event = Event(registration.events, registration.data)
    # EEXIST: it was the same file after all. EBADF: the epoll set was closed meanwhile.
    ctypes.CDLL(None).epoll_ctl(registration.epoll, _EPOLL_CTL_ADD, fd, ctypes.byref(event))
