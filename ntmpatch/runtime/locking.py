"""Locks between processes: one file each, held until closed or until its process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Any

from gevent import monkey

from ntmpatch.runtime.forking import disown, own

if TYPE_CHECKING:
    from collections.abc import Callable

# Waiting is done by a real thread, also where the application's `threading` is gevent's.
_start_new_thread: Callable[..., int] = monkey.get_original("_thread", "start_new_thread")
_allocate_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")


class FileLock:
    """A lock that is held. A forked child lets go of its copy, or it would outlive its owner."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        own(self)

    def close(self) -> None:
        """Let go; harmless if that is done."""
        disown(self)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def sign(self) -> None:
        """Write down whose it is, for messages to people."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)


def acquire(path: str | os.PathLike[str], timeout: float = 0.0) -> FileLock | None:
    """The lock of that file, which is made; None if another has it for ``timeout`` seconds."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if timeout > 0:
            return _Waiter(fd).wait(timeout)
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return FileLock(fd)


def signature(path: str | os.PathLike[str]) -> int | None:
    """The process that signed the lock last; None if nobody did."""
    with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
        return int(file.read(32))
    return None


class _Waiter:
    """``flock`` has no time-out, so it blocks in a thread that can be left behind."""

    def __init__(self, fd: int) -> None:
        self._lock = FileLock(fd)
        self._fd = fd
        self._turn = _allocate_lock()
        self._ended = _allocate_lock()
        self._is_over = False

    def wait(self, timeout: float) -> FileLock | None:
        self._ended.acquire()
        _start_new_thread(self._block, ())
        try:
            self._ended.acquire(timeout=timeout)
        finally:
            with self._turn:
                # Whoever comes second of the two, here and in the thread, decides.
                is_held, self._is_over = self._is_over, True
        return self._lock if is_held else None

    def _block(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError:
            with self._turn:
                self._lock.close()
        else:
            with self._turn:
                if self._is_over:
                    self._lock.close()
                self._is_over = True
        self._ended.release()
