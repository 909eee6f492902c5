"""Fig. 5 (1): the kernel announces changes of its networks by rtnetlink(7), and needs no root.

pyroute2 parses the messages; its own sockets run an asyncio loop, which has no place in the hub.
"""

from __future__ import annotations

import _socket
import errno
import logging
import struct
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.handover.kernel import DefaultRoute, KernelAddress, Link, News
from ntmpatch.runtime.forking import disown, own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("ntmpatch.node")

# linux/netlink.h
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x001
NLM_F_DUMP = 0x300
NLM_F_DUMP_INTR = 0x010
NLM_F_REPLACE = 0x100

# linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
GROUPS = 0x1 | 0x10 | 0x100 | 0x40 | 0x400
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR, _IPV4_ROUTE, _IPV6_ROUTE."""
RTN_UNICAST = 1
RT_TABLE_LOCAL = 255

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_LOWER_UP = 0x10000

DUMPS = (RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE)
"""In this order, one at a time: the kernel allows a socket no two."""

BUFFER_SIZE = 65536
"""The kernel fills at most 32 KB of one read."""

READS = 32
"""Reads a wake-up: a machine may have a million routes, and the hub has more to do."""

_header = struct.Struct("=IHHII")  # length, type, flags, sequence number, port id
_request = struct.Struct("=IHHII16x")  # and the longest body, of zeros: all families, everything
_READ = 1


class NetlinkMonitor:
    """Tells all there is, and then what changes. To be made and used inside the hub.

    ``on_all(dump)`` at the start, and again after the kernel had to leave out messages;
    ``on_news(news)`` for each change. OSError: this machine, or a sandbox, has no netlink.
    """

    def __init__(
        self,
        *,
        on_all: Callable[[list[News]], None],
        on_news: Callable[[News], None],
        drops: DropCounter | None = None,
    ) -> None:
        # Late: 80 ms that only a node which watches its networks has to spend.
        from pyroute2.netlink.rtnl import marshal  # type: ignore[import-untyped]  # noqa: PLC0415

        self._marshal: Any = marshal.MarshalRtnl()
        self._on_all = on_all
        self._on_news = on_news
        self._drops = DropCounter() if drops is None else drops
        self._view = memoryview(bytearray(BUFFER_SIZE))
        self._sequence = 0
        self._dumping: int | None = None
        """Which of DUMPS is being read."""
        self._is_stale = True
        """Messages were lost: begin the dumps (again) once what is queued has been read."""
        self._dump: list[News] = []
        self._socket = _socket.socket(
            _socket.AF_NETLINK,
            _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK,
            _socket.NETLINK_ROUTE,
        )
        try:
            self._socket.bind((0, GROUPS))
        except OSError:
            self._socket.close()
            raise
        own(self._socket)
        loop: Any = gevent.get_hub().loop
        self._watcher = loop.io(self._socket.fileno(), _READ)
        self._watcher.start(self._readable)
        # The kernel answers while it is asked, so that a usual machine's networks are known here.
        try:
            self._read()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Watch no more."""
        if self._socket.fileno() < 0:
            return
        self._watcher.stop()
        self._watcher.close()
        disown(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        try:
            self._read()
        except OSError as error:
            log.warning("changes of network are not noticed any more: %s", error)
            self.close()

    def _read(self) -> None:
        for _ in range(READS):
            try:
                size, (port_id, _groups) = self._socket.recvfrom_into(self._view)
            except (BlockingIOError, InterruptedError):
                if not self._is_stale:
                    return
                self._begin_dump(0)
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._is_stale = True
                continue
            if port_id != 0:
                self._drops.drop(Drop.NETLINK_FORGED)
                continue
            self._receive(self._view[:size])

    def _begin_dump(self, number: int) -> None:
        if number == 0:
            self._is_stale = False
            self._dump = []
        self._dumping = number
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        flags = NLM_F_REQUEST | NLM_F_DUMP
        kind = DUMPS[number]
        self._socket.send(_request.pack(_request.size, kind, flags, self._sequence, 0))

    def _receive(self, buffer: memoryview) -> None:
        offset = 0
        while offset + _header.size <= len(buffer):
            length, kind, flags, sequence, _ = _header.unpack_from(buffer, offset)
            if length < _header.size or offset + length > len(buffer):
                return
            message = buffer[offset : offset + length]
            offset += (length + 3) & ~3
            is_of_dump = self._dumping is not None and sequence == self._sequence
            if is_of_dump and flags & NLM_F_DUMP_INTR:
                self._is_stale = True  # it changed meanwhile: some may be missing
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                if is_of_dump:
                    self._dumped()
                continue
            for news in self._parse(kind, flags, message):
                if self._dumping is None:
                    self._on_news(news)
                else:
                    self._dump.append(news)

    def _dumped(self) -> None:
        assert self._dumping is not None
        if self._is_stale:
            self._dumping = None
        elif self._dumping + 1 < len(DUMPS):
            self._begin_dump(self._dumping + 1)
        else:
            self._dumping = None
            dump, self._dump = self._dump, []
            self._on_all(dump)

    def _parse(self, kind: int, flags: int, message: memoryview) -> Iterator[News]:
        if not _is_wanted(kind, message):
            return
        for parsed in self._marshal.parse(bytes(message)):
            attributes = dict(parsed["attrs"])
            if kind in (RTM_NEWLINK, RTM_DELLINK):
                yield News(_link(parsed, attributes), kind == RTM_DELLINK)
            elif kind in (RTM_NEWADDR, RTM_DELADDR):
                yield News(_address(parsed, attributes), kind == RTM_DELADDR)
            else:
                replaces = bool(flags & NLM_F_REPLACE)
                for route in _routes(parsed, attributes):
                    yield News(route, kind == RTM_DELROUTE, replaces)
                    replaces = False


def _is_wanted(kind: int, message: memoryview) -> bool:
    """Whether to parse it; a router's table is long, and only its default routes are of use."""
    if len(message) < _header.size + 8:
        return False
    family = message[_header.size]
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        return family == _socket.AF_UNSPEC  # AF_BRIDGE tells of ports that come and go
    if kind in (RTM_NEWADDR, RTM_DELADDR):
        return family in (_socket.AF_INET, _socket.AF_INET6)
    if kind not in (RTM_NEWROUTE, RTM_DELROUTE):
        return False
    # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type; flags
    destination_length, route_type = message[_header.size + 1], message[_header.size + 7]
    return (
        family in (_socket.AF_INET, _socket.AF_INET6)
        and destination_length == 0
        and route_type == RTN_UNICAST
    )


def _link(parsed: Any, attributes: dict[str, Any]) -> Link:
    flags = parsed["flags"]
    return Link(
        parsed["index"],
        attributes.get("IFLA_IFNAME", ""),
        is_up=bool(flags & IFF_UP),
        has_carrier=bool(flags & IFF_LOWER_UP),
        is_loopback=bool(flags & IFF_LOOPBACK),
    )


def _address(parsed: Any, attributes: dict[str, Any]) -> KernelAddress:
    return KernelAddress(
        parsed["index"],
        # IFA_ADDRESS is the far end's on a point-to-point link; IPv6 mostly has no IFA_LOCAL.
        attributes.get("IFA_LOCAL") or attributes["IFA_ADDRESS"],
        parsed["prefixlen"],
        attributes.get("IFA_FLAGS", parsed["flags"]),  # the older field has but eight bits
    )


def _routes(parsed: Any, attributes: dict[str, Any]) -> Iterator[DefaultRoute]:
    table = attributes.get("RTA_TABLE", parsed["table"])
    if table == RT_TABLE_LOCAL:
        return
    hops = [
        (hop["oif"], dict(hop["attrs"]).get("RTA_GATEWAY", ""))
        for hop in attributes.get("RTA_MULTIPATH", ())
    ]
    if "RTA_OIF" in attributes:
        hops.append((attributes["RTA_OIF"], attributes.get("RTA_GATEWAY", "")))
    for index, gateway in hops:
        yield DefaultRoute(
            index,
            is_ipv6=parsed["family"] == _socket.AF_INET6,
            metric=attributes.get("RTA_PRIORITY", 0),
            gateway=gateway,
            source=attributes.get("RTA_PREFSRC", ""),
            table=table,
        )
