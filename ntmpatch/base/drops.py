"""Every packet or message that is discarded has a name, and every name is counted."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum


class Drop(StrEnum):
    """Why something from outside was discarded."""

    # tunnel (WireGuard messages)
    TUNNEL_RUNT = "tunnel: too short for its type"
    TUNNEL_UNKNOWN_TYPE = "tunnel: unknown message type"

    # stack (IP, ICMP, UDP, TCP inside the tunnel)

    # door (between a program's sockets and the stack)
    UDP_PROGRAM_SLOW = "udp: the program does not read fast enough"
    UDP_PROGRAM_GONE = "udp: the program has closed its socket"
    UDP_PROGRAM_RUNT = "udp: the program's record has no address"
    UDP_NO_ADDRESS = "udp: the socket has no address of the destination's family"
    UDP_NOT_SENT = "udp: the stack refused to send"

    # signalling (control messages)
    CONTROL_OVERSIZE = "control: longer than one datagram may be"
    CONTROL_RUNT = "control: shorter than its envelope"
    CONTROL_NOT_CONTROL = "control: first byte is not 0xC0"
    CONTROL_VERSION = "control: unknown version"
    CONTROL_MALFORMED = "control: body is not what its tag promises"
    CONTROL_STRANGER = "control: from a peer that is not known"
    CONTROL_UNEXPECTED = "control: response to nothing that was asked"
    CONTROL_TOO_MANY = "control: too many transactions of one peer under way"

    # relay, notification, DNS


class DropCounter(Counter[Drop]):
    """Counts drops by name; a missing name counts zero."""

    def drop(self, reason: Drop, count: int = 1) -> None:
        """Count ``count`` discarded things for ``reason``."""
        self[reason] += count

    def by_name(self) -> dict[str, int]:
        """The counts so far, as plain names for status output and logs."""
        return {reason.value: count for reason, count in sorted(self.items()) if count}
