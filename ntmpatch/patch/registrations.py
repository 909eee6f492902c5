"""Epoll sets that watch a descriptor go on watching it when another file takes its place.

The kernel registers files, not numbers: what an event loop had registered before the socket turned
virtual (pyasyncore's dispatchers and asyncio's datagram endpoints do) would stay with the kernel's
socket. Which sets there are is read from proc(5): they may have been made by C code.
"""

from __future__ import annotations

import errno
import os
import select
from typing import NamedTuple

from ntmpatch.patch import table, waiting

_EPOLL = "anon_inode:[eventpoll]"
_EXCLUSIVE = getattr(select, "EPOLLEXCLUSIVE", 1 << 28)


class Registration(NamedTuple):
    """That the epoll set at a descriptor watches another descriptor."""

    epoll_fd: int
    events: int


def take(fd: int) -> list[Registration]:
    """Take ``fd`` out of all epoll sets of this process.

    Blocking descriptors are not looked for, since event loops do not use them; nor are those that
    gevent watches: its loop finds out by itself.
    """
    if os.get_blocking(fd) or waiting.gevent_is_patched_in():
        return []
    taken = []
    inode = os.fstat(fd).st_ino
    others = table.held_descriptors()
    for name in os.listdir("/proc/self/fd"):
        epoll_fd = int(name)
        if epoll_fd in others or epoll_fd == fd:
            continue
        try:
            if os.readlink(f"/proc/self/fd/{name}") != _EPOLL:
                continue
            events = _events_of(epoll_fd, fd, inode)
        except FileNotFoundError:
            continue  # closed meanwhile, as the directory that was listed itself
        if events is not None:
            poller = waiting.epoll_at(epoll_fd)
            try:
                poller.unregister(fd)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EBADF):
                    raise
                continue  # another thread was faster
            taken.append(Registration(epoll_fd, events))
    return taken


def put_back(fd: int, taken: list[Registration]) -> None:
    """Let those watch ``fd``, which is another file by now."""
    for epoll_fd, events in taken:
        try:
            # Not for the exclusive use of one waiter: the kernel refuses that for an epoll set.
            waiting.epoll_at(epoll_fd).register(fd, events & ~_EXCLUSIVE)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EBADF):
                raise


def _events_of(epoll_fd: int, fd: int, inode: int) -> int | None:
    """What an epoll set watches ``fd`` for; None: it does not, or knows it by another name.

    Lines are as ``tfd: 5 events: 19 data: 5 pos:0 ino:2c sdev:7``, all but the first number
    hexadecimal. ``data`` is how the loop will know what became ready. It can be restored where it
    is the descriptor's number, as in ``select.epoll`` and in libuv; the upper half, which these
    leave to chance, does not count.
    """
    with open(f"/proc/self/fdinfo/{epoll_fd}", encoding="ascii") as file:
        for line in file:
            if not line.startswith("tfd:"):
                continue
            words = line.replace(":", ": ").split()
            fields = dict(zip(words[::2], words[1::2], strict=False))
            if (
                int(fields["tfd:"]) == fd
                and int(fields["ino:"], 16) == inode
                and int(fields["data:"], 16) & 0xFFFFFFFF == fd
            ):
                return int(fields["events:"], 16)
    return None
