"""Every packet or message that is discarded has a name, and every name is counted."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum


class Drop(StrEnum):
    """Why something from outside was discarded."""

    # tunnel (WireGuard messages)
    TUNNEL_RUNT = "tunnel: too short for its type"
    TUNNEL_UNKNOWN_TYPE = "tunnel: unknown message type"
    TUNNEL_WRONG_SIZE = "tunnel: not the size of its type"
    TUNNEL_BAD_MAC1 = "tunnel: made without our public key"
    TUNNEL_BAD_HANDSHAKE = "tunnel: handshake does not decrypt"
    TUNNEL_BAD_COOKIE = "tunnel: cookie reply to nothing we sent"
    TUNNEL_COOKIE_WANTED = "tunnel: under load, cookie asked for"
    TUNNEL_HANDSHAKE_FLOOD = "tunnel: handshakes too fast"
    TUNNEL_OLD_INITIATION = "tunnel: initiation older than the last"
    TUNNEL_UNKNOWN_PEER = "tunnel: initiation by an unknown key"
    TUNNEL_UNKNOWN_HANDSHAKE = "tunnel: response to no handshake"
    TUNNEL_UNKNOWN_SESSION = "tunnel: data for no session"
    TUNNEL_EXPIRED_SESSION = "tunnel: data for an expired session"
    TUNNEL_FORGED = "tunnel: data does not decrypt"
    TUNNEL_REPLAYED = "tunnel: data seen before or too old"
    TUNNEL_STAGED_OVERFLOW = "tunnel: too much waits for a handshake"
    TUNNEL_TOO_BIG = "tunnel: datagram larger than the interface or the link carries"
    TUNNEL_PEER_SILENT = "tunnel: waited for a handshake in vain"

    # packets between tunnel and stack
    PACKET_FROM_UNROUTED_PEER = "packet: from a peer without virtual addresses"
    PACKET_WITHOUT_ROUTE = "packet: to an address that no peer has"
    PACKET_QUEUE_FULL = "packet: too many wait to be sent"

    # stack (IP, ICMP, UDP, TCP inside the tunnel)
    PACKET_RUNT = "ip: too short for its header"
    PACKET_VERSION = "ip: neither version 4 nor 6"
    PACKET_LENGTH = "ip: length field and packet disagree"
    PACKET_BAD_CHECKSUM = "ip: header checksum is wrong"
    PACKET_BAD_OPTION = "ip: options that are malformed"
    PACKET_RESERVED_BIT = "ip: the reserved flag is set"
    PACKET_SOURCE_ROUTE = "ip: asks to be sent on by a source route"
    PACKET_BAD_EXTENSION = "ip: extension headers that are not understood"
    PACKET_WRONG_SOURCE = "ip: source address is not the peer's"
    PACKET_BAD_SOURCE = "ip: source address is none that a host has"
    PACKET_MULTICAST = "ip: to a group or a broadcast address"
    PACKET_NOT_OURS = "ip: destination is not an address of this node"
    PACKET_UNKNOWN_PROTOCOL = "ip: no such transport protocol"
    PACKET_DENIED = "ip: the policy does not let this peer reach the port"
    FRAGMENT_MALFORMED = "ip: fragment beyond 65,535 bytes or of an odd size"
    FRAGMENT_TINY = "ip: first fragment without all headers"
    FRAGMENT_OVERLAP = "ip: fragments overlap"
    FRAGMENT_TIMEOUT = "ip: not all fragments came in time"
    FRAGMENT_TOO_MANY = "ip: too many fragmented packets under way"
    TRANSPORT_BAD_CHECKSUM = "transport: checksum is wrong"
    ICMP_MALFORMED = "icmp: too short for its type"
    ICMP_UNKNOWN_TYPE = "icmp: a type that is not handled"
    ICMP_NO_FLOW = "icmp: error for no flow of ours"
    ICMP_NOT_UNDER_WAY = "icmp: error for a segment that is not under way"
    ICMP_FOREIGN_QUOTE = "icmp: error by a peer about what was not sent to it"
    ICMP_UNASKED = "icmp: echo reply to no request of ours"
    ICMP_RATE_LIMIT = "icmp: answer suppressed by the rate limit"
    UDP_MALFORMED = "udp: too short, or its length field is wrong"
    UDP_NO_SOCKET = "udp: nobody is bound to the port"
    TCP_MALFORMED = "tcp: header or options are wrong"
    TCP_NO_CONNECTION = "tcp: no connection and no listener"
    TCP_BACKLOG_FULL = "tcp: too many connections wait to be accepted"
    TCP_BAD_COOKIE = "tcp: acknowledges no SYN cookie of ours"
    TCP_PAWS = "tcp: timestamp is older than the last (PAWS)"
    TCP_OUT_OF_WINDOW = "tcp: sequence number is outside the window"
    TCP_UNACCEPTABLE_ACK = "tcp: acknowledges what was never sent"
    TCP_UNEXPECTED_FLAGS = "tcp: flags that the state does not allow"
    TCP_REASSEMBLY_FULL = "tcp: too many out-of-order pieces"
    TCP_AFTER_CLOSE = "tcp: data for a connection that nobody reads"

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
    PATH_MALFORMED = "path: no challenge and no answer to one"
    PATH_UNASKED = "path: answer to no challenge, or by another path"
    PATH_TOO_SOON = "path: candidates that follow others at once"
    PATH_TOO_MANY = "path: peer seen at more places than are kept in mind"
    PATH_UNPROVEN = "path: more than three times what came from a place yet unproven"

    RELAY_RUNT = "relay: too short or too long for its type"
    RELAY_UNKNOWN_FRAME = "relay: unknown frame type"
    RELAY_UNKNOWN_SESSION = "relay: no such session"
    RELAY_BAD_CAPABILITY = "relay: bind frame without the session's capability"
    RELAY_REPLAYED_BIND = "relay: bind frame was seen before"
    RELAY_WRONG_SOURCE = "relay: packet from an address that no end has bound"
    RELAY_UNBOUND = "relay: the far end has not bound yet"
    RELAY_EXPIRED = "relay: session has expired"
    RELAY_QUOTA = "relay: session has used up its bytes"
    RELAY_RATE = "relay: faster than the session or the relay may be"

    # STUN (between nodes and relay servers)
    STUN_SIZE = "stun: too short, too long, or its length field is wrong"
    STUN_KIND = "stun: neither a Binding request nor an answer to one"
    STUN_MALFORMED = "stun: attributes that are not what their types promise"
    STUN_BAD_FINGERPRINT = "stun: fingerprint is wrong"
    STUN_UNKNOWN_ATTRIBUTE = "stun: has an attribute that would have to be understood"
    STUN_FLOOD = "stun: more requests of one network than are answered"
    STUN_UNASKED = "stun: answer to nothing that was asked"

    # handover
    NETLINK_FORGED = "netlink: not from the kernel"
    # port mapping (answers of the router)
    PCP_SIZE = "pcp: not the size of a response"
    PCP_VERSION = "pcp: another version"
    PCP_OPCODE = "pcp: no response to what a client asks"
    PCP_NO_ADDRESS = "pcp: a mapping without an address or a port"
    NATPMP_SIZE = "nat-pmp: not the size of a response"
    NATPMP_VERSION = "nat-pmp: another version"
    NATPMP_OPCODE = "nat-pmp: no response to what a client asks"
    NATPMP_NO_ADDRESS = "nat-pmp: an answer without an address or a port"
    UPNP_MALFORMED = "upnp: not what a gateway answers"
    UPNP_ELSEWHERE = "upnp: a place that is not at the router"
    UPNP_NO_SERVICE = "upnp: a gateway without a service that maps ports"
    UPNP_REFUSED = "upnp: the gateway does not map the port"
    PORT_MAPPING_UNASKED = "port mapping: an answer to what was not asked"

    # DNS
    DNS_RUNT = "dns: too short for a header"
    DNS_RESPONSE = "dns: a response, not a query"
    DNS_MALFORMED = "dns: does not parse"
    DNS_UNSENT = "dns: answer could not be sent"
    DNS_FLOOD = "dns: too many queries from addresses that nothing verifies"
    DNS_SHORTENED = "dns: sent to TCP, or for a cookie, instead of an answer"
    DNS_CONNECTIONS = "dns: too many TCP connections of one address"
    DNS_CONNECTION_IDLE = "dns: idle TCP connection closed for another"
    DNS_CONNECTION_SLOW = "dns: TCP connection without a whole query in time"


class DropCounter(Counter[Drop]):
    """Counts drops by name; a missing name counts zero."""

    def drop(self, reason: Drop, count: int = 1) -> None:
        """Count ``count`` discarded things for ``reason``."""
        self[reason] += count

    def by_name(self) -> dict[str, int]:
        """The counts so far, as plain names for status output and logs."""
        return {reason.value: count for reason, count in sorted(self.items()) if count}
