"""The node's side of every virtual socket: requests that open, change and end one."""

from __future__ import annotations

import _socket
import errno
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ntmpatch.packet.stack import Claim
from ntmpatch.packet.stack.tcp.info import pack_info
from ntmpatch.runtime.listener import ListenerGroup, ListenerPump
from ntmpatch.runtime.options import apply_option
from ntmpatch.runtime.pump import READ, Hangups, is_hung_up
from ntmpatch.runtime.pump_tcp import TcpPump
from ntmpatch.runtime.pump_udp import UdpPump
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.packet.stack import TcpConnection
    from ntmpatch.runtime.door import NodeService

_Claimed = TypeVar("_Claimed")

_MAX_REMEMBERED_ERRORS = 16384
"""Errors that nobody asked for are forgotten, oldest first, beyond this many."""


class VirtualSockets:
    """All virtual sockets of one node, by identity; the host of their pumps."""

    def __init__(self, service: NodeService, loop: Any, hangups: Hangups) -> None:
        self._service = service
        self.loop = loop
        self.hangups = hangups
        self.scratch = memoryview(bytearray(local.DATAGRAM_SIZE + 65535))
        self._ids = itertools.count(1)
        self._streams: dict[int, TcpPump] = {}
        self._listeners: dict[int, ListenerPump] = {}
        self._groups: dict[int, ListenerGroup] = {}
        """By the inode of the socket as it was bound."""
        self._datagrams: dict[int, UdpPump] = {}
        self._reserved: dict[int, _Reservation] = {}
        self._options: dict[int, list[local.Option]] = {}
        self._errors: dict[int, int] = {}
        self._facts: dict[int, local.Facts] = {}
        self._inodes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._streams) + len(self._listeners) + len(self._datagrams)

    # ------------------------------------------------------------------------ host of the pumps

    def now(self) -> float:
        """Monotonic seconds, as the stack counts them."""
        return self._service.now()

    def flush(self) -> None:
        """Send what the stack has to send."""
        self._service.flush()

    def failed(self, id_: int, error: int) -> None:
        """Keep an errno until the program asks for it."""
        self._errors[id_] = error
        if len(self._errors) > _MAX_REMEMBERED_ERRORS:
            self._errors.pop(next(iter(self._errors)))

    def ended(self, id_: int) -> None:
        """A pump let go of its far end."""
        self._streams.pop(id_, None)
        if self._listeners.pop(id_, None) is not None:
            self._groups = {
                origin: group for origin, group in self._groups.items() if not group.is_over
            }
        self._datagrams.pop(id_, None)
        self._options.pop(id_, None)
        inode = self._inodes.pop(id_, None)
        if inode is not None:
            facts = self._facts.get(inode)
            if facts is not None and facts.id == id_:
                del self._facts[inode]

    def drain(self) -> None:
        """Take from the programs what they have written so far."""
        for stream in list(self._streams.values()):
            stream.drain()

    def close(self) -> None:
        """End every socket; connections are reset."""
        for stream in list(self._streams.values()):
            stream.abort()
        for listener in list(self._listeners.values()):
            listener.close()
        for datagram in list(self._datagrams.values()):
            datagram.close()
        for id_ in list(self._reserved):
            self._end_reservation(id_)
        self.flush()

    # ---------------------------------------------------------------------------------- TCP

    def connect(self, request: local.Connect, fds: list[int]) -> local.Record:
        """Open a connection; the answer does not wait for the other side."""
        self._require_address(request.local)
        pump = TcpPump(self, next(self._ids), _take(fds), filler_size=request.filler_size)
        self._streams[pump.id] = pump
        reserved = self._reserved.get(request.bound_id)
        try:
            connection = self._service.stack.connect_tcp(
                request.remote,
                request.port,
                pump,
                self.now(),
                local=request.local,
                local_port=request.local_port,
                bound=None if reserved is None else reserved.claim,
            )
        except OSError:
            pump.abort()
            raise
        self._give_up_reservation(request.bound_id)
        for option in request.options:
            apply_option(pump, connection, option)
        pump.attach(connection)
        self._remember(
            request.inode,
            local.Facts(
                "stream",
                pump.id,
                (4 if len(request.remote) == 4 else 6,),
                request.mapped,
                *connection.local,
                request.remote,
                request.port,
            ),
        )
        self.flush()
        return local.Connecting(pump.id, *connection.local)

    def outcome(self, request: local.Outcome, _fds: list[int]) -> local.Record:
        """What has become of a socket; an error is told once."""
        pump = self._streams.get(request.id)
        if pump is not None and pump.is_pending:
            return local.Fate(pending=True, error=0)
        return local.Fate(pending=False, error=self._errors.pop(request.id, 0))

    def bind_tcp(self, request: local.BindTcp, fds: list[int]) -> local.Record:
        """Reserve a port until the program listens, connects or closes."""
        self._require_address(request.address)
        id_ = next(self._ids)
        wanted = _wanted(request)
        claim = self._in_use_still(lambda: self._service.stack.bind_tcp(wanted))
        far = _take(fds)
        far.setblocking(False)
        watcher = self.loop.io(far.fileno(), READ)
        watcher.start(self._end_reservation, id_)
        self._reserved[id_] = _Reservation(claim, far, watcher)
        return local.Bound(id_, claim.port)

    def _in_use_still(self, claim: Callable[[], _Claimed]) -> _Claimed:
        """OSError(EADDRINUSE) if somebody has the port, and has not just closed."""
        try:
            return claim()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            for id_, reserved in list(self._reserved.items()):
                if is_hung_up(reserved.far):
                    self._end_reservation(id_)
            for listener in list(self._listeners.values()):
                listener.close_if_ended()
            for datagram in list(self._datagrams.values()):
                datagram.close_if_ended()
            return claim()

    def _end_reservation(self, id_: int) -> None:
        """The socket has closed."""
        reserved = self._give_up_reservation(id_)
        if reserved is not None:
            self._service.stack.release_tcp(reserved.claim)

    def _give_up_reservation(self, id_: int) -> _Reservation | None:
        """The socket goes on as another, which has its claim now."""
        reserved = self._reserved.pop(id_, None)
        if reserved is not None:
            reserved.watcher.stop()
            reserved.watcher.close()
            reserved.far.close()
        return reserved

    def listen(self, request: local.Listen, fds: list[int]) -> local.Record:
        """Listen in the stack."""
        self._require_address(request.address)
        id_ = next(self._ids)
        wanted = _wanted(request)
        reserved = self._reserved.get(request.bound_id)
        pump = ListenerPump(self, id_, _take(fds), adopt=self._adopt)
        group = self._group_of(request)
        if group is not None:
            group.join(pump)
        else:
            group = fresh = ListenerGroup(pump)
            try:
                listener = self._in_use_still(
                    lambda: self._service.stack.listen_tcp(
                        wanted,
                        backlog=request.backlog,
                        accept=fresh.accept,
                        bound=None if reserved is None else reserved.claim,
                    )
                )
            except OSError:
                pump.close()
                raise
            group.attach(listener)
            if request.origin:
                self._groups[request.origin] = group
        self._give_up_reservation(request.bound_id)
        self._listeners[id_] = pump
        self._options[id_] = list(request.options)
        self._remember(
            request.inode,
            local.Facts(
                "listener",
                id_,
                request.families,
                request.mapped,
                request.address,
                group.listener.claim.port,
                None,
                0,
            ),
        )
        return local.Bound(id_, group.listener.claim.port)

    def _group_of(self, request: local.Listen) -> ListenerGroup | None:
        """Those who listen already on a copy of the same bound socket; None if nobody does."""
        group = self._groups.get(request.origin)
        if group is None or group.listener.claim.port != request.port:
            return None
        group.close_if_ended()
        return None if group.is_over else group

    def _adopt(
        self, connection: TcpConnection, near: int, far: _socket.socket, listener: ListenerPump
    ) -> TcpPump:
        pump = TcpPump(self, next(self._ids), far)
        self._streams[pump.id] = pump
        for option in self._options.get(listener.id, ()):
            apply_option(pump, connection, option)
        pump.connection = connection
        self._remember(
            os.fstat(near).st_ino,
            local.Facts(
                "stream",
                pump.id,
                (4 if len(connection.remote[0]) == 4 else 6,),
                False,
                *connection.local,
                *connection.remote,
            ),
        )
        return pump

    def set_backlog(self, request: local.SetBacklog, _fds: list[int]) -> local.Record:
        """Change how many connections may wait to be accepted."""
        listener = self._listeners.get(request.id)
        if listener is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        listener.set_backlog(request.backlog)
        return local.Done()

    def abort(self, request: local.Abort, _fds: list[int]) -> local.Record:
        """Give a connection up with RST."""
        pump = self._streams.get(request.id)
        if pump is not None:
            pump.abort()
            self.flush()
        return local.Done()

    # ---------------------------------------------------------------------------------- UDP

    def bind_udp(self, request: local.BindUdp, fds: list[int]) -> local.Record:
        """Open a UDP socket."""
        self._require_address(request.address)
        previous = self._datagrams.get(request.bound_id)
        if previous is not None:
            previous.close()
        remote = None if request.remote is None else (request.remote, request.remote_port)
        pump = UdpPump(self, next(self._ids), _take(fds), remote=remote, drops=self._service.drops)
        wanted = _wanted(request)
        try:
            socket = self._in_use_still(lambda: self._service.stack.bind_udp(wanted, pump))
            pump.attach(socket)
            if remote is not None:
                socket.connect(remote)
        except OSError:
            pump.close()
            raise
        self._datagrams[pump.id] = pump
        if request.bound_id in self._errors:
            self._errors[pump.id] = self._errors.pop(request.bound_id)
        self._remember(
            request.inode,
            local.Facts(
                "datagram" if remote is None else "connected",
                pump.id,
                request.families,
                request.mapped,
                socket.address,
                socket.port,
                request.remote,
                request.remote_port,
            ),
        )
        return local.Bound(pump.id, socket.port, socket.address)

    def send_to(self, request: local.SendTo, _fds: list[int]) -> local.Record:
        """A datagram to another than the peer; rare, and so not worth a header on all others."""
        pump = self._datagrams.get(request.id)
        if pump is None:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        pump.send_to(request.payload, (request.remote, request.port))
        self.flush()
        return local.Done()

    # ------------------------------------------------------------------------------ any socket

    def set_option(self, request: local.SetOption, _fds: list[int]) -> local.Record:
        """A socket option was set; the program's side has checked and kept it."""
        option = (request.level, request.name, request.value)
        pump = self._streams.get(request.id)
        if pump is not None and pump.connection is not None:
            apply_option(pump, pump.connection, option)
            self.flush()
        elif request.id in self._options:
            self._options[request.id].append(option)
        return local.Done()

    def inform(self, request: local.Inform, _fds: list[int]) -> local.Record:
        """TCP_INFO."""
        pump = self._streams.get(request.id)
        if pump is None or pump.connection is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return local.Info(pack_info(pump.connection, self._service.now()))

    def describe(self, request: local.Describe, _fds: list[int]) -> local.Record:
        """What a socket is that some process received without its history."""
        facts = self._facts.get(request.inode)
        if facts is None:
            raise OSError(errno.ENOENT, "not a virtual socket of this node")
        return facts

    def _remember(self, inode: int, facts: local.Facts) -> None:
        self._facts[inode] = facts
        self._inodes[facts.id] = inode

    def _require_address(self, address: bytes | None) -> None:
        welcome = self._service.welcome()
        if address is not None and address not in (welcome.ipv4, welcome.ipv6):
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


@dataclass(frozen=True, slots=True)
class _Reservation:
    """What a bound TCP socket has claimed, and the far end whose end of life ends it."""

    claim: Claim
    far: _socket.socket
    watcher: Any


def _wanted(request: local.BindTcp | local.Listen | local.BindUdp) -> Claim:
    return Claim(
        request.families,
        request.address,
        request.port,
        request.reuse_address,
        request.reuse_port,
    )


def _take(fds: list[int]) -> _socket.socket:
    """The far end that came with a request."""
    if not fds:
        raise OSError(errno.EPROTO, "the request lacks its file descriptor")
    return _socket.socket(fileno=fds.pop(0))
