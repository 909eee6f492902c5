"""Socket options that change how the stack behaves, applied to one connection."""

from __future__ import annotations

import _socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntmpatch.packet.stack import TcpConnection
    from ntmpatch.runtime.pump_tcp import TcpPump
    from ntmpatch.wire.local import Option

KEEPALIVE_DEFAULTS = (7200.0, 75.0, 9)
"""Linux's tcp_keepalive_time, tcp_keepalive_intvl and tcp_keepalive_probes."""


def apply_option(pump: TcpPump, connection: TcpConnection, option: Option) -> None:
    """Heed one option; those that mean nothing to the stack are the program's side's to keep."""
    level, name, value = option
    if level == _socket.SOL_SOCKET and name == _socket.SO_LINGER and isinstance(value, bytes):
        enabled, seconds = struct.unpack("ii", value[:8].ljust(8, b"\0"))
        pump.resets_on_close = bool(enabled) and not seconds
        return
    number = value if isinstance(value, int) else int.from_bytes(value[:4], "little", signed=True)
    if level == _socket.SOL_SOCKET and name == _socket.SO_KEEPALIVE:
        connection.set_keepalive(pump.keepalive if number else None, pump.now())
    elif level == _socket.SOL_SOCKET and name == _socket.SO_RCVBUF:
        # As asked, without the doubling that Linux tells. Larger than it begins with, the window
        # becomes by itself where the path needs it.
        pump.confine(connection, number // 2)
    elif level == _socket.SOL_SOCKET and name == _socket.SO_SNDBUF:
        connection.set_send_limit(number // 2)
    elif level == _socket.IPPROTO_TCP:
        _apply_tcp(pump, connection, name, number)


def _apply_tcp(pump: TcpPump, connection: TcpConnection, name: int, number: int) -> None:
    if name == _socket.TCP_NODELAY:
        connection.set_nodelay(on=bool(number))
    elif name == _socket.TCP_CORK:
        connection.set_cork(on=bool(number))
    elif name == _socket.TCP_USER_TIMEOUT:
        connection.set_user_timeout(number / 1000 if number else None, pump.now())
    elif name in (_socket.TCP_KEEPIDLE, _socket.TCP_KEEPINTVL, _socket.TCP_KEEPCNT):
        idle, interval, count = pump.keepalive
        if name == _socket.TCP_KEEPIDLE:
            idle = float(number)
        elif name == _socket.TCP_KEEPINTVL:
            interval = float(number)
        else:
            count = number
        pump.keepalive = (idle, interval, count)
        if connection.keepalive is not None:
            connection.set_keepalive(pump.keepalive, pump.now())
