"""The machine has slept: told by a timer that the kernel cancels when the clock is set.

A resume sets the clock, and so do people and NTP. Which it was, CLOCK_BOOTTIME tells: it counts the
time of sleep, and CLOCK_MONOTONIC does not (timerfd_create(2), clock_gettime(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.runtime.forking import disown, own

if TYPE_CHECKING:
    from collections.abc import Callable

# linux/timerfd.h
TFD_TIMER_ABSTIME = 1
TFD_TIMER_CANCEL_ON_SET = 2
CLOCK_REALTIME = 0

NEVER = (1 << (8 * ctypes.sizeof(ctypes.c_long) - 1)) - 1
"""Seconds since 1970 at which the timer would ring: it is there to be cancelled."""

SHORTEST_SLEEP = 0.5
"""Seconds. No network and no NAT forgets anyone in less."""

_READ = 1


class _TimerSpec(ctypes.Structure):
    """struct itimerspec: two struct timespec, of the interval and of the first expiry."""

    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


def time_asleep() -> float:
    """Seconds that this machine has slept since it started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class WakeUp:
    """Calls ``on_resume()`` in the hub after each sleep. OSError: the kernel lacks the call."""

    def __init__(
        self, on_resume: Callable[[], None], asleep: Callable[[], float] = time_asleep
    ) -> None:
        self._on_resume = on_resume
        self._asleep = asleep
        self._slept = asleep()
        try:
            # The descriptor calls of `os` are there from Python 3.13 on.
            self._library = ctypes.CDLL(None, use_errno=True)
            self._timer = _TimerFile(
                self._library.timerfd_create(CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
            )
        except AttributeError:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
        try:
            self._arm()
        except OSError:
            self._timer.close()
            raise
        own(self._timer)
        loop: Any = gevent.get_hub().loop
        self._watcher = loop.io(self._timer.fileno, _READ)
        self._watcher.start(self._set)

    def close(self) -> None:
        """Watch no more."""
        self._watcher.stop()
        self._watcher.close()
        disown(self._timer)
        self._timer.close()

    def _arm(self) -> None:
        spec = _TimerSpec(seconds=NEVER)
        flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET
        failed = self._library.timerfd_settime(self._timer.fileno, flags, ctypes.byref(spec), None)
        if failed:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _set(self) -> None:
        with contextlib.suppress(OSError):  # ECANCELED, as was asked for
            os.read(self._timer.fileno, 8)
        self._arm()
        slept, self._slept = self._slept, self._asleep()
        if self._slept - slept >= SHORTEST_SLEEP:
            self._on_resume()


class _TimerFile:
    """A descriptor that is closed once."""

    def __init__(self, fileno: int) -> None:
        if fileno < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.fileno = fileno

    def close(self) -> None:
        fileno, self.fileno = self.fileno, -1
        if fileno >= 0:
            os.close(fileno)
