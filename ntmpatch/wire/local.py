"""Messages between a program's sockets and its node: local, over AF_UNIX SOCK_SEQPACKET.

One request, one reply, one record each: msgpack of a tagged struct. File descriptors ride along
with a request as SCM_RIGHTS; which, its docstring says. A *near* end stays with the program and a
*far* end goes to the node. Addresses are packed, 4 or 16 bytes; ``families`` holds 4, 6 or both.

The peer is a process of the same user (the socket's mode and directory say so), so these records
are decoded strictly but are not hostile input.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, TypeAlias

import msgspec

from ntmpatch.base.packing import BROKEN

VERSION: Final = 1
"""Of this protocol; a node refuses a program that speaks another."""

MAX_RECORD_SIZE: Final = 128 * 1024
"""Bytes of the largest record either side sends."""

MAX_PASSED_FDS: Final = 4
"""File descriptors in one record at most."""

Option: TypeAlias = tuple[int, int, int | bytes]
"""Level, name and value as ``setsockopt`` takes them."""


class Record(msgspec.Struct, frozen=True, tag=str.lower):
    """What every request and reply derives from; the tag is the class name in lower case."""


# ----------------------------------------------------------------------------------- requests


class Hello(Record, frozen=True):
    """The first record of a connection; answered by ``Welcome``."""

    version: int
    pid: int


class Resolve(Record, frozen=True):
    """Find a node by name, and create the tunnel to it (Fig. 3 (1)): ``Resolved``."""

    name: str


class ReverseResolve(Record, frozen=True):
    """Which node has this virtual address: ``Named``."""

    address: bytes


class Connect(Record, frozen=True):
    """Open a TCP connection; one far end (STREAM). Answered at once, by ``Connecting``.

    The program has written ``filler_size`` bytes into its near end, so that it does not look
    writable: the node reads and forgets exactly these once the connection is established.
    """

    remote: bytes
    port: int
    filler_size: int
    inode: int
    local: bytes | None = None
    local_port: int = 0
    bound_id: int = 0
    """The reservation that ``local`` and ``local_port`` come from; 0 if there is none."""
    mapped: bool = False
    """The socket is AF_INET6 and speaks IPv4 by mapped addresses."""
    options: tuple[Option, ...] = ()


class Outcome(Record, frozen=True):
    """What has become of a socket: ``Fate``. An error is told once."""

    id: int


class BindTcp(Record, frozen=True):
    """Reserve a port for a TCP socket; one far end (STREAM) whose end of life ends it: ``Bound``.

    ``address`` None is the wildcard; ``port`` 0 lets the node choose.
    """

    families: tuple[int, ...]
    address: bytes | None
    port: int
    reuse_address: bool = False
    reuse_port: bool = False


class Listen(Record, frozen=True):
    """Listen; one far end (SEQPACKET) into which accepted connections are passed: ``Bound``.

    ``origin`` is the inode of the socket as it was bound: processes that have copies of one socket,
    and listen each for itself, share the port as they would share the kernel's queue.
    """

    families: tuple[int, ...]
    address: bytes | None
    port: int
    backlog: int
    inode: int
    bound_id: int = 0
    reuse_address: bool = False
    reuse_port: bool = False
    mapped: bool = False
    options: tuple[Option, ...] = ()
    origin: int = 0


class BindUdp(Record, frozen=True):
    """Open a UDP socket; one far end (SEQPACKET): ``Bound``.

    With ``remote`` it is connected and its records are bare payloads; without, each record begins
    with a ``DATAGRAM`` header: the destination on the way to the node, the source on the way back.
    """

    families: tuple[int, ...]
    address: bytes | None
    port: int
    inode: int
    remote: bytes | None = None
    remote_port: int = 0
    bound_id: int = 0
    """A UDP socket that this one takes the port over from: connect() after bind()."""
    reuse_address: bool = False
    reuse_port: bool = False
    mapped: bool = False
    options: tuple[Option, ...] = ()


class SendTo(Record, frozen=True):
    """Send one datagram of a connected UDP socket to somebody else than its peer: ``Done``."""

    id: int
    remote: bytes
    port: int
    payload: bytes


class SetOption(Record, frozen=True):
    """Tell the node of a socket option that was set: ``Done``."""

    id: int
    level: int
    name: int
    value: int | bytes


class SetBacklog(Record, frozen=True):
    """``listen()`` once more on a listener: ``Done``."""

    id: int
    backlog: int


class Abort(Record, frozen=True):
    """Give up a connection at once, with RST where one was established: ``Done``."""

    id: int


class Describe(Record, frozen=True):
    """What is the socket whose near end has this inode (it was inherited or passed): ``Facts``."""

    inode: int


class Inform(Record, frozen=True):
    """TCP_INFO of a connection: ``Info``."""

    id: int


class Status(Record, frozen=True):
    """The node's state for ``ntmpatch status``: ``Report``."""


class Trace(Record, frozen=True):
    """Have a tunnel to this name directed anew, and tell each step of it: ``Report``."""

    name: str


class Netcheck(Record, frozen=True):
    """Measure how the machine's networks look, and which servers answer: ``Report``."""


class Follow(Record, frozen=True):
    """What happened behind event number ``after`` (-1: tell only that of the newest): ``Events``.

    If that is nothing, the node answers when something happens, or after ``patience`` seconds.
    """

    after: int
    patience: float = 0.0


class Rebind(Record, frozen=True):
    """Move the node to these local addresses of the real network: ``Done``."""

    addresses: tuple[str, ...]


class Wake(Record, frozen=True):
    """The coordinator wants the node, as came by a push gateway: ``Done``.

    ``payload`` is what the NS had delivered; empty if that is not known.
    """

    payload: bytes


# ------------------------------------------------------------------------------------ replies


class Welcome(Record, frozen=True):
    """Who the node is. Addresses are None until the node is registered."""

    version: int
    fqdn: str
    ipv4: bytes | None
    ipv6: bytes | None
    domains: tuple[str, ...]
    """Names that end so are looked up through the node."""
    prefixes: tuple[str, ...]
    """Networks in CIDR notation whose addresses are virtual."""
    control_path: str = ""
    """Where other processes reach the node; empty if they cannot."""
    names: tuple[str, ...] = ()
    """Names that are nodes' although they lie in none of ``domains``."""


class Resolved(Record, frozen=True):
    """A node's virtual addresses; None where it has none of that family."""

    ipv4: bytes | None
    ipv6: bytes | None
    canonical_name: str


class Named(Record, frozen=True):
    """The name of the node that has an address; None if nobody is known to have it."""

    name: str | None


class Connecting(Record, frozen=True):
    """A connection is under way from this local address."""

    id: int
    local: bytes
    local_port: int


class Fate(Record, frozen=True):
    """``pending``: still connecting. ``error``: the errno that ended it, 0 if none did."""

    pending: bool
    error: int


class Bound(Record, frozen=True):
    """A socket is bound: its identity with the node and its port."""

    id: int
    port: int
    address: bytes | None = None
    """The local address, where it became known by connecting."""


class Facts(Record, frozen=True):
    """What a socket is, for a process that received only its file descriptor.

    ``kind`` is ``stream``, ``listener``, ``datagram`` or ``connected``.
    """

    kind: str
    id: int
    families: tuple[int, ...]
    mapped: bool
    local: bytes | None
    local_port: int
    remote: bytes | None
    remote_port: int


class Report(Record, frozen=True):
    """The node's state as a JSON object."""

    json: bytes


PATH_CHANGED: Final = "path_changed"
"""Data to the peer goes another way."""
PEER_UNREACHABLE: Final = "peer_unreachable"
"""Something is to be sent to the peer, and no path to it answers. It is looked for."""
PEER_REACHABLE: Final = "peer_reachable"
"""A peer that was unreachable has been heard."""
TUNNEL_READY: Final = "tunnel_ready"
"""A tunnel was created, or directed again after a move: Fig. 3 (19), Fig. 5 (29)."""
PEER_GONE: Final = "peer_gone"
"""The tunnel is removed: its peer has left, was revoked, or could not be found again."""
NETWORK_CHANGED: Final = "network_changed"
"""This machine's access networks are others: ``old`` and ``new`` are its addresses."""
REGISTERED: Final = "registered"
"""The node's coordinator knows it, by the virtual addresses in ``new``."""
EVENT_KINDS: Final = (
    PATH_CHANGED,
    PEER_UNREACHABLE,
    PEER_REACHABLE,
    TUNNEL_READY,
    PEER_GONE,
    NETWORK_CHANGED,
    REGISTERED,
)


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a node's networks, paths or peers.

    >>> event.kind, event.fqdn, event.new
    ('path_changed', 'cam.home.example', '192.0.2.7:4460')
    """

    kind: str
    """One of ``EVENT_KINDS``."""
    fqdn: str
    """The peer's name; this node's in ``registered``; empty in ``network_changed``."""
    old: str
    """The path before, as text; empty if there was none."""
    new: str
    """The path from now on, as text; empty if there is none."""
    relayed: bool
    """Whether a relay is in the path from now on."""
    reason: str
    """For people."""
    at: float
    """Seconds since 1970."""


class Events(Record, frozen=True):
    """Events in their order. ``number`` is that of the last, which is what to ask with next.

    ``lost``: events that were dropped before these, as this reader was too slow.
    """

    number: int
    lost: int = 0
    events: tuple[Event, ...] = ()


class Info(Record, frozen=True):
    """``struct tcp_info`` of Linux."""

    data: bytes


class Done(Record, frozen=True):
    """It is done."""


class Failed(Record, frozen=True):
    """It failed, with an errno of Linux."""

    error: int
    message: str = ""


class NameFailed(Record, frozen=True):
    """A look-up failed, with a code of getaddrinfo (``socket.EAI_*``)."""

    code: int
    message: str = ""


AnyRequest: TypeAlias = (
    Hello
    | Resolve
    | ReverseResolve
    | Connect
    | Outcome
    | BindTcp
    | Listen
    | BindUdp
    | SendTo
    | SetOption
    | SetBacklog
    | Abort
    | Describe
    | Inform
    | Status
    | Trace
    | Netcheck
    | Follow
    | Rebind
    | Wake
)
AnyReply: TypeAlias = (
    Welcome
    | Resolved
    | Named
    | Connecting
    | Fate
    | Bound
    | Facts
    | Report
    | Events
    | Info
    | Done
    | Failed
    | NameFailed
)

encode = msgspec.msgpack.Encoder().encode
_requests: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)
_replies: msgspec.msgpack.Decoder[AnyReply] = msgspec.msgpack.Decoder(AnyReply)


def decode_request(record: bytes) -> AnyRequest:
    """A request; ``msgspec.DecodeError`` if it is none."""
    try:
        return _requests.decode(record)
    except BROKEN as error:
        raise msgspec.DecodeError(str(error)) from None


def decode_reply(record: bytes) -> AnyReply:
    """A reply; ``msgspec.DecodeError`` if it is none."""
    try:
        return _replies.decode(record)
    except BROKEN as error:
        raise msgspec.DecodeError(str(error)) from None


# -------------------------------------------------------------- records of the sockets' own pairs

# connection id (8) | family, 4 or 6 (1) | remote address (16), port (2) | local address, port
ACCEPTED = struct.Struct("!QB16sH16sH")
"""One accepted connection, with its near end as SCM_RIGHTS; addresses of 4 bytes are padded."""

# family, 4 or 6 (1) | address, padded to 16 | port (2)
DATAGRAM = struct.Struct("!B16sH")
"""Before the payload of each datagram of an unconnected UDP socket."""

ACCEPTED_SIZE: Final = ACCEPTED.size
DATAGRAM_SIZE: Final = DATAGRAM.size


def pack_accepted(id_: int, remote: tuple[bytes, int], local: tuple[bytes, int]) -> bytes:
    """The header of one accepted connection."""
    family = 4 if len(remote[0]) == 4 else 6
    return ACCEPTED.pack(id_, family, remote[0], remote[1], local[0], local[1])


def unpack_accepted(record: bytes) -> tuple[int, tuple[bytes, int], tuple[bytes, int]]:
    """Connection id, remote and local address of one accepted connection."""
    id_, family, remote, remote_port, local, local_port = ACCEPTED.unpack(record)
    size = 4 if family == 4 else 16
    return id_, (remote[:size], remote_port), (local[:size], local_port)


def address_text(address: bytes) -> str:
    """A packed address as people write it."""
    return str(ipaddress.ip_address(address))


def pack_datagram(address: bytes, port: int) -> bytes:
    """The header of one datagram."""
    return DATAGRAM.pack(4 if len(address) == 4 else 6, address, port)


def unpack_datagram(record: bytes | bytearray | memoryview) -> tuple[bytes, int]:
    """Address and port from the header of one datagram."""
    family, address, port = DATAGRAM.unpack_from(record)
    return address[: 4 if family == 4 else 16], port
