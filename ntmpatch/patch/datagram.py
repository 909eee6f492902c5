"""Virtual UDP sockets: unconnected, with an address header on each record, and connected."""

from __future__ import annotations

import _socket
import errno
import os
from typing import TYPE_CHECKING, Any

from ntmpatch.patch import node, options, polled, turning, waiting
from ntmpatch.patch.addressing import WILDCARDS, Packed, format_address
from ntmpatch.patch.classes import register_mixin
from ntmpatch.patch.kinds import Kind
from ntmpatch.patch.virtual import VirtualSocket, refuse, state_of
from ntmpatch.wire.local import DATAGRAM_SIZE, pack_datagram, unpack_datagram

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ntmpatch.patch.table import State

_MAX_PAYLOAD_SIZES = {4: 65535 - 20 - 8, 16: 65535 - 8}
"""By address size: the largest payload of UDP over IPv4 and IPv6 (RFC 768, 791, 8200)."""


class DatagramSocket(VirtualSocket):
    """UDP without a peer, of the virtual network or of both.

    A socket of both is an epoll set, which never looks writable. Where sending would have to wait
    and the socket does not block, the datagram is dropped, as a full queue on its way would.
    """

    __slots__ = ()

    # ------------------------------------------------------------------------------ receiving

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """One datagram's payload."""
        return self.recvfrom(bufsize, flags)[0]

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """One datagram's payload and its source."""
        buffer = bytearray(bufsize)
        size, _, _, source = self._ntm_receive([buffer], 0, flags)
        return bytes(memoryview(buffer)[:size]), source

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """One datagram's payload, into ``buffer``."""
        return self.recvfrom_into(buffer, nbytes, flags)[0]

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """One datagram's payload, into ``buffer``, and its source."""
        view = memoryview(buffer).cast("B")
        size, _, _, source = self._ntm_receive([view[:nbytes] if nbytes else view], 0, flags)
        return size, source

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> Any:
        """One datagram; ancillary data come from the real network only."""
        if type(ancbufsize) is not int or ancbufsize < 0:
            self._ntm_judge("recvmsg", 0, ancbufsize, _socket.MSG_DONTWAIT)
        buffer = bytearray(bufsize)
        size, ancillary, out_flags, source = self._ntm_receive([buffer], ancbufsize, flags)
        return bytes(memoryview(buffer)[:size]), ancillary, out_flags, source

    def recvmsg_into(self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0) -> Any:
        """One datagram, scattered."""
        if type(ancbufsize) is not int or ancbufsize < 0:
            self._ntm_judge("recvmsg", 0, ancbufsize, _socket.MSG_DONTWAIT)
        return self._ntm_receive(list(buffers), ancbufsize, flags)

    def _ntm_receive(self, buffers: Sequence[Any], ancbufsize: int, flags: int) -> Any:
        deadline = waiting.Deadline(self.gettimeout())
        while True:
            try:
                return self._ntm_try_receive(state_of(self), buffers, ancbufsize, flags)
            except BlockingIOError:
                self._ntm_wait(waiting.READ, flags, deadline)

    def _ntm_try_receive(
        self, state: State, buffers: Sequence[Any], ancbufsize: int, flags: int
    ) -> Any:
        if state.near is None:
            return _receive(turning.raw(self), state.family, buffers, flags)
        assert state.real is not None
        for _ in range(2):
            # Turn about, so that neither network starves the other.
            state.prefers_real = not state.prefers_real
            try:
                if state.prefers_real:
                    return state.real.recvmsg_into(buffers, ancbufsize, flags)
                return _receive(state.near, state.family, buffers, flags)
            except BlockingIOError:
                pass
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    # -------------------------------------------------------------------------------- sending

    def send(self, data: Any, flags: int = 0, **_timeout: Any) -> int:  # noqa: ARG002
        """There is no peer to send to."""
        refuse(errno.EDESTADDRREQ)

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """There is no peer to send to."""
        refuse(errno.EDESTADDRREQ)

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """One datagram, to whichever network the address belongs to."""
        try:
            *flags, address = flags_and_address
            well_formed = isinstance(address, tuple) and len(flags) < 2
            memoryview(data)
        except (TypeError, ValueError):
            well_formed = False
        if not well_formed or not all(isinstance(flag, int) for flag in flags):
            # The C method says what is wrong with such arguments.
            state = state_of(self)
            judge = options.scratch(state.family, state.type, state.proto)
            return judge.sendto(data, *flags_and_address)
        return self.sendmsg([data], (), flags[0] if flags else 0, address)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Any = (), flags: int = 0, address: Any = None
    ) -> int:
        """One datagram, gathered."""
        self._ntm_judge_sendmsg(ancdata, flags, address)
        if address is None:
            refuse(errno.EDESTADDRREQ)
        state = state_of(self)
        target = node.current.target(state.family, address)
        payload = list(buffers)
        deadline = waiting.Deadline(self.gettimeout())
        while True:
            try:
                if target is None:
                    return self._ntm_send_really(state, payload, ancdata, flags, address)
                return self._ntm_send_virtually(state, payload, flags, target)
            except BlockingIOError:
                if not state.is_hybrid:
                    self._ntm_wait(waiting.WRITE, flags, deadline)
                    continue
            assert state.near is not None
            assert state.real is not None
            if self.gettimeout() == 0 or flags & _socket.MSG_DONTWAIT:
                return sum(memoryview(part).nbytes for part in payload)
            beside = state.real if target is None else state.near
            deadline.wait(beside.fileno(), waiting.WRITE)

    def _ntm_send_virtually(
        self, state: State, payload: list[Any], flags: int, target: Packed
    ) -> int:
        size = sum(memoryview(part).nbytes for part in payload)
        if size > _MAX_PAYLOAD_SIZES[len(target[0])]:
            refuse(errno.EMSGSIZE)
        near = state.near or turning.raw(self)
        record = [pack_datagram(*target), *payload]
        try:
            _socket.socket.sendmsg(near, record, (), flags)
        except (BrokenPipeError, ConnectionResetError):
            refuse(errno.ENETDOWN)
        return size

    def _ntm_send_really(
        self, state: State, payload: list[Any], ancdata: Any, flags: int, address: Any
    ) -> int:
        if state.real is None:
            if state.local[0] not in WILDCARDS:
                # From a virtual address no real one is reached.
                refuse(errno.ENETUNREACH)
            with polled.kept(state.fd):
                turning.add_real(self, state)
        assert state.real is not None
        return state.real.sendmsg(payload, ancdata, flags, address)

    # ----------------------------------------------------------------------------- connecting

    def _ntm_connect(self, address: Any) -> int:
        state = state_of(self)
        target = node.current.target(state.family, address)
        if target is None:
            with polled.kept(state.fd):
                turning.become_real(self, state)
                return self.connect_ex(address)
        own = None if state.local[0] in WILDCARDS else state.local[0]
        with polled.kept(state.fd):
            turning.bind_udp(self, own, state.local[1], remote=target, bound_id=state.id)
        return 0

    def shutdown(self, how: int) -> None:  # noqa: ARG002
        """As Linux: not connected."""
        refuse(errno.ENOTCONN)


class ConnectedDatagramSocket(VirtualSocket):
    """UDP with a peer: sending is the kernel's; an empty record may stand for an error."""

    __slots__ = ()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """One datagram's payload."""
        data = super().recv(bufsize, flags)
        if not data:
            self._ntm_empty()
        return data

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """One datagram's payload, and the peer."""
        return self.recv(bufsize, flags), self.getpeername()

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """One datagram's payload, into ``buffer``."""
        size = super().recv_into(buffer, nbytes, flags)
        if not size:
            self._ntm_empty()
        return size

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """One datagram's payload, into ``buffer``, and the peer."""
        return self.recv_into(buffer, nbytes, flags), self.getpeername()

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> Any:
        """One datagram, and the peer."""
        data, ancillary, out_flags, _ = super().recvmsg(bufsize, ancbufsize, flags)
        if not data:
            self._ntm_empty()
        return data, ancillary, out_flags, self.getpeername()

    def recvmsg_into(self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0) -> Any:
        """One datagram, scattered, and the peer."""
        size, ancillary, out_flags, _ = super().recvmsg_into(buffers, ancbufsize, flags)
        if not size:
            self._ntm_empty()
        return size, ancillary, out_flags, self.getpeername()

    def _ntm_empty(self) -> None:
        """An empty datagram, unless the node has an error to tell."""
        error = turning.outcome(state_of(self))
        if error:
            refuse(error)

    def send(self, data: Any, flags: int = 0, **timeout: Any) -> int:
        """One datagram, to the peer; gevent's takes a time-out."""
        self._ntm_check(memoryview(data).nbytes)
        try:
            return super().send(data, flags, **timeout)
        except (BrokenPipeError, ConnectionResetError):
            refuse(errno.ENETDOWN)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """One datagram, to the peer."""
        self.send(data, flags)

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """One datagram, to the peer; to nobody else."""
        *flags, address = flags_and_address
        self._ntm_require_peer(address)
        return self.send(data, *flags)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Any = (), flags: int = 0, address: Any = None
    ) -> int:
        """One datagram, gathered, to the peer; to nobody else."""
        self._ntm_judge_sendmsg(ancdata, flags, address)
        if address is not None:
            self._ntm_require_peer(address)
        payload = list(buffers)
        self._ntm_check(sum(memoryview(part).nbytes for part in payload))
        try:
            return super().sendmsg(payload, (), flags)
        except (BrokenPipeError, ConnectionResetError):
            refuse(errno.ENETDOWN)

    def _ntm_check(self, size: int) -> None:
        if size > 65507:
            remote = state_of(self).remote
            if remote is None or size > _MAX_PAYLOAD_SIZES[len(remote[0])]:
                refuse(errno.EMSGSIZE)

    def _ntm_require_peer(self, address: Any) -> None:
        state = state_of(self)
        if node.current.target(state.family, address) != state.remote:
            refuse(errno.EISCONN)

    def _ntm_connect(self, address: Any) -> int:
        state = state_of(self)
        target = node.current.target(state.family, address)
        with polled.kept(state.fd):
            if target is None:
                turning.become_real(self, state)
                return self.connect_ex(address)
            turning.bind_udp(self, None, state.local[1], remote=target, bound_id=state.id)
        return 0


def _receive(near: _socket.socket, family: int, buffers: Sequence[Any], flags: int) -> Any:
    header = bytearray(DATAGRAM_SIZE)
    size, _, out_flags, _ = _socket.socket.recvmsg_into(near, [header, *buffers], 0, flags)
    if size < DATAGRAM_SIZE:
        # Only the end of the node is shorter than a header.
        refuse(errno.ENETDOWN)
    source = format_address(family, unpack_datagram(header))
    return size - DATAGRAM_SIZE, [], out_flags & ~_socket.MSG_EOR, source


register_mixin(Kind.DATAGRAM, DatagramSocket)
register_mixin(Kind.CONNECTED, ConnectedDatagramSocket)
