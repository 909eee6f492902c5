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
    CERTIFICATE_MALFORMED = "certificate: not a certificate"
    CERTIFICATE_NOT_SIGNED = "certificate: not signed by the account server"
    CERTIFICATE_EXPIRED = "certificate: not valid now"
    CONTROL_OVERSIZE = "control: longer than one datagram may be"
    CONTROL_RUNT = "control: shorter than its envelope"
    CONTROL_NOT_CONTROL = "control: first byte is not 0xC0"
    CONTROL_VERSION = "control: unknown version"
    CONTROL_MALFORMED = "control: body is not what its tag promises"
    CONTROL_STRANGER = "control: from a peer that is not known"
    CONTROL_UNEXPECTED = "control: response to nothing that was asked"
    CONTROL_TOO_MANY = "control: too many transactions of one peer under way"

    # relay, notification, DNS
    RELAY_RUNT = "relay: too short or too long for its type"
    RELAY_UNKNOWN_FRAME = "relay: unknown frame type"
    RELAY_UNKNOWN_SESSION = "relay: no such session"
    RELAY_BAD_CAPABILITY = "relay: bind frame without the session's capability"
    RELAY_REPLAYED_BIND = "relay: bind frame was seen before"
    RELAY_WRONG_SOURCE = "relay: packet from an address that no end has bound"
    RELAY_UNBOUND = "relay: the far end has not bound yet"
    RELAY_EXPIRED = "relay: session has expired"
    RELAY_QUOTA = "relay: session has used up its bytes"


class DropCounter(Counter[Drop]):
    """Counts drops by name; a missing name counts zero."""

    def drop(self, reason: Drop, count: int = 1) -> None:
        """Count ``count`` discarded things for ``reason``."""
        self[reason] += count

    def by_name(self) -> dict[str, int]:
        """The counts so far, as plain names for status output and logs."""
        return {reason.value: count for reason, count in sorted(self.items()) if count}
