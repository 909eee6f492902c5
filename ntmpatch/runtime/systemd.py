"""What systemd wants to hear of a service (sd_notify(3)): one datagram a state, to its socket."""

from __future__ import annotations

import _socket
import os
from typing import TYPE_CHECKING, Any

import gevent

if TYPE_CHECKING:
    from collections.abc import MutableMapping

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"


class ServiceManager:
    """Tells systemd how we are; every call does nothing where systemd did not start us.

    The variables are taken out of the environment: children are not the service.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop(SOCKET_VARIABLE, "")
        pid = environment.pop(WATCHDOG_PID_VARIABLE, "")
        interval = environment.pop(WATCHDOG_VARIABLE, "")
        ours = not pid or pid == str(os.getpid())
        # "@" is an abstract socket's name, whose first byte is 0.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._interval = int(interval) / 2e6 if ours and interval.isdecimal() else 0.0
        self._watchdog: Any = None

    def ready(self, status: str) -> None:
        """The service serves; from now on the watchdog is fed, as long as the hub runs."""
        self._tell("READY=1", f"STATUS={status}")
        if self._interval and self._watchdog is None and self._address:
            self._watchdog = gevent.spawn(self._feed)

    def status(self, text: str) -> None:
        """One line that `systemctl status` shows."""
        self._tell(f"STATUS={text}")

    def stopping(self, seconds: float) -> None:
        """The service ends; it may take so long."""
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int((seconds + 5) * 1e6)}")

    def close(self) -> None:
        """Say nothing more."""
        self._address = ""
        if self._watchdog is not None:
            self._watchdog.kill(block=False)

    def _feed(self) -> None:
        while True:
            self._tell("WATCHDOG=1")
            gevent.sleep(self._interval)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass  # systemd's own time-outs tell when it heard nothing
        finally:
            sock.close()
