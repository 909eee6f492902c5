"""Virtual UDP sockets: unconnected, with an address header on each record, and connected."""

from __future__ import annotations

import _socket
import errno
import os
from typing import TYPE_CHECKING, Any

from ntmpatch.patch import node, options, turning, waiting
from ntmpatch.patch.addressing import WILDCARDS, Packed, format_address
from ntmpatch.patch.classes import register_mixin
from ntmpatch.patch.kinds import Kind
from ntmpatch.patch.virtual import VirtualSocket, refuse, state_of
from ntmpatch.wire.local import DATAGRAM_SIZE, Done, SendTo, pack_datagram, unpack_datagram

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ntmpatch.patch.table import State

_MAX_PAYLOAD_SIZES = {4: 65535 - 20 - 8, 16: 65535 - 8}
"""By address size: the largest payload of UDP over IPv4 and IPv6 (RFC 768, 791, 8200)."""


class _AnyDatagramSocket(VirtualSocket):
    """What those with and without a peer share."""

    __slots__ = ()

    def accept(self) -> tuple[Any, Any]:
        """Of TCP only."""
        state_of(self)
        refuse(errno.EOPNOTSUPP)

    def _ntm_pair_flags(self, flags: int) -> int:
        """Flags of UDP as the pair understands them; OSError(EAGAIN): there is no error queue."""
        if flags & _socket.MSG_ERRQUEUE:
            state_of(self)
            refuse(errno.EAGAIN)
        return flags & ~_socket.MSG_OOB


class DatagramSocket(_AnyDatagramSocket):
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
            return self._ntm_receive_virtually(turning.raw(self), state, buffers, flags)
        assert state.real is not None
        for _ in range(2):
            # Turn about, so that neither network starves the other.
            state.prefers_real = not state.prefers_real
            try:
                if state.prefers_real:
                    return state.real.recvmsg_into(buffers, ancbufsize, flags)
                return self._ntm_receive_virtually(state.near, state, buffers, flags)
            except BlockingIOError:
                pass
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _ntm_receive_virtually(
        self, near: _socket.socket, state: State, buffers: Sequence[Any], flags: int
    ) -> Any:
        header = bytearray(DATAGRAM_SIZE)
        size, _, out_flags, _ = _socket.socket.recvmsg_into(
            near, [header, *buffers], 0, self._ntm_pair_flags(flags)
        )
        if size < DATAGRAM_SIZE:
            # Only the end of the node is shorter than a header.
            refuse(errno.ENETDOWN)
        source = format_address(state.family, unpack_datagram(header))
        return size - DATAGRAM_SIZE, [], out_flags & ~_socket.MSG_EOR, source

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
            turning.add_real(self, state)
        assert state.real is not None
        return state.real.sendmsg(payload, ancdata, flags, address)

    # ----------------------------------------------------------------------------- connecting

    def _ntm_connect(self, address: Any) -> int:
        state = state_of(self)
        target = node.current.target(state.family, address)
        if target is None:
            turning.become_real(self, state)
            return self.connect_ex(address)
        own = None if state.local[0] in WILDCARDS else state.local[0]
        turning.bind_udp(self, own, state.local[1], remote=target, bound_id=state.id)
        return 0

    def shutdown(self, how: int) -> None:  # noqa: ARG002
        """As Linux: not connected."""
        refuse(errno.ENOTCONN)


class ConnectedDatagramSocket(_AnyDatagramSocket):
    """UDP with a peer: sending is the kernel's; an empty record may stand for an error."""

    __slots__ = ()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """One datagram's payload."""
        if not bufsize:
            return super().recv(0, flags)  # reads nothing
        flags = self._ntm_pair_flags(flags)
        while not (data := super().recv(bufsize, flags)) and self._ntm_is_remark(flags):
            pass
        return data

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """One datagram's payload, and the peer."""
        flags = self._ntm_pair_flags(flags)
        while not (data := super().recvfrom(bufsize, flags)[0]) and self._ntm_is_remark(flags):
            pass
        return data, self.getpeername()

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """One datagram's payload, into ``buffer``."""
        if not nbytes and not len(buffer):
            return super().recv_into(buffer, nbytes, flags)  # reads nothing
        flags = self._ntm_pair_flags(flags)
        while not (size := super().recv_into(buffer, nbytes, flags)) and self._ntm_is_remark(flags):
            pass
        return size

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """One datagram's payload, into ``buffer``, and the peer."""
        flags = self._ntm_pair_flags(flags)
        while True:
            size, _ = super().recvfrom_into(buffer, nbytes, flags)
            if size or not self._ntm_is_remark(flags):
                return size, self.getpeername()

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> Any:
        """One datagram, and the peer."""
        flags = self._ntm_pair_flags(flags)
        while True:
            data, ancillary, out_flags, _ = super().recvmsg(bufsize, ancbufsize, flags)
            if data or not self._ntm_is_remark(flags):
                return data, ancillary, out_flags & ~_socket.MSG_EOR, self.getpeername()

    def recvmsg_into(self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0) -> Any:
        """One datagram, scattered, and the peer."""
        targets = list(buffers)
        flags = self._ntm_pair_flags(flags)
        while True:
            size, ancillary, out_flags, _ = super().recvmsg_into(targets, ancbufsize, flags)
            if size or not self._ntm_is_remark(flags):
                return size, ancillary, out_flags & ~_socket.MSG_EOR, self.getpeername()

    def _ntm_is_remark(self, flags: int) -> bool:
        """Whether an empty record is the node's remark on an error that was told already.

        Raises the error that is told only now. Else it is an empty datagram, or the end.
        """
        state = state_of(self)
        error = turning.outcome(state)
        if (error or state.remarks) and flags & _socket.MSG_PEEK:
            _socket.socket.recv(turning.raw(self), 1, _socket.MSG_DONTWAIT)  # it is there still
        if error:
            refuse(error)
        if state.is_shut_for_reading and self.gettimeout() == 0:
            refuse(errno.EAGAIN)
        if not state.remarks:
            return False
        state.remarks -= 1
        return True

    def _ntm_take_error(self, state: State) -> int:
        error = turning.outcome(state)
        if error:
            # The node's remark on it may stand behind datagrams.
            state.remarks += 1
        return error

    def _ntm_hear(self, state: State) -> None:
        """Raise what ICMP told of datagrams before, as sending does in Linux."""
        near = turning.raw(self)
        while not state.is_shut_for_reading and _is_empty_next(near):
            if not state.remarks:
                error = turning.outcome(state)
                if not error:
                    return  # an empty datagram
                _socket.socket.recv(near, 1, _socket.MSG_DONTWAIT)
                refuse(error)
            state.remarks -= 1
            _socket.socket.recv(near, 1, _socket.MSG_DONTWAIT)

    def shutdown(self, how: int) -> None:
        """As Linux: who waits to read is woken, and sending is EPIPE; the socket lives on."""
        state = state_of(self)
        if how not in (_socket.SHUT_RD, _socket.SHUT_WR, _socket.SHUT_RDWR):
            refuse(errno.EINVAL)
        if how != _socket.SHUT_RD:
            state.is_shut_for_writing = True
        if how != _socket.SHUT_WR:
            state.is_shut_for_reading = True
            super().shutdown(_socket.SHUT_RD)

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
        """One datagram, to the peer or, as Linux allows, to somebody else."""
        *flags, address = flags_and_address
        target = self._ntm_elsewhere(address)
        if target is None:
            return self.send(data, *flags)
        return self._ntm_send_elsewhere([data], target)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Any = (), flags: int = 0, address: Any = None
    ) -> int:
        """One datagram, gathered, to the peer or to somebody else."""
        self._ntm_judge_sendmsg(ancdata, flags, address)
        payload = list(buffers)
        target = None if address is None else self._ntm_elsewhere(address)
        if target is not None:
            return self._ntm_send_elsewhere(payload, target)
        self._ntm_check(sum(memoryview(part).nbytes for part in payload))
        try:
            return super().sendmsg(payload, (), flags)
        except (BrokenPipeError, ConnectionResetError):
            refuse(errno.ENETDOWN)

    def _ntm_check(self, size: int) -> None:
        state = state_of(self)
        remote = state.remote
        if size > 65507 and (remote is None or size > _MAX_PAYLOAD_SIZES[len(remote[0])]):
            refuse(errno.EMSGSIZE)
        self._ntm_hear(state)
        if state.is_shut_for_writing:
            refuse(errno.EPIPE)

    def _ntm_elsewhere(self, address: Any) -> Packed | None:
        """Where a datagram is to go, if that is not to the peer."""
        state = state_of(self)
        target = node.current.target(state.family, address)
        if target is None:
            # From a virtual address no real one is reached.
            refuse(errno.ENETUNREACH)
        return None if target == state.remote else target

    def _ntm_send_elsewhere(self, payload: list[Any], target: Packed) -> int:
        whole = b"".join(payload)
        if len(whole) > _MAX_PAYLOAD_SIZES[len(target[0])]:
            refuse(errno.EMSGSIZE)
        state = state_of(self)
        self._ntm_check(len(whole))
        node.current.call(SendTo(state.id, target[0], target[1], whole), Done)
        return len(whole)

    def _ntm_connect(self, address: Any) -> int:
        state = state_of(self)
        target = node.current.target(state.family, address)
        if target is None:
            turning.become_real(self, state)
            return self.connect_ex(address)
        turning.bind_udp(self, None, state.local[1], remote=target, bound_id=state.id)
        return 0


def _is_empty_next(near: _socket.socket) -> bool:
    if not waiting.is_readable(near.fileno()):
        return False
    try:
        return not _socket.socket.recv(near, 1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except OSError:
        return False


register_mixin(Kind.DATAGRAM, DatagramSocket)
register_mixin(Kind.CONNECTED, ConnectedDatagramSocket)
