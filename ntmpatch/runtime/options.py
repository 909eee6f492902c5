"""Socket options that change how the stack behaves, applied to one connection."""

from __future__ import annotations

import _socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntmpatch.packet.stack import TcpConnection
    from ntmpatch.runtime.pump_tcp import TcpPump
    from ntmpatch.wire.local import Option


def apply_option(pump: TcpPump, connection: TcpConnection, option: Option) -> None:
    """Heed one option; those that mean nothing to the stack are the program's side's to keep."""
    level, name, value = option
    if level == _socket.SOL_SOCKET and name == _socket.SO_LINGER and isinstance(value, bytes):
        enabled, seconds = struct.unpack("ii", value[:8].ljust(8, b"\0"))
        pump.resets_on_close = bool(enabled) and not seconds
