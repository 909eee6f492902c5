"""What a virtual socket is at present."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What a virtual socket is at present; each kind has its class."""

    BOUND = "bound"
    """TCP, bound to a virtual address."""
    CONNECTING = "connecting"
    STREAM = "stream"
    LISTENER = "listener"
    DATAGRAM = "datagram"
    """UDP without a peer: records have address headers."""
    CONNECTED = "connected"
    """UDP with a peer: records are payloads."""
