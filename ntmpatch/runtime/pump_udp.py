"""One UDP socket's pump: datagrams between the far end of a SEQPACKET pair and the stack."""

from __future__ import annotations

import _socket
import errno
from typing import TYPE_CHECKING, Any

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.runtime.forking import disown, own
from ntmpatch.runtime.pump import READ, PumpHost, is_hung_up
from ntmpatch.wire.local import DATAGRAM_SIZE, pack_datagram, unpack_datagram

if TYPE_CHECKING:
    from ntmpatch.packet.stack import UdpSocket

_READS_A_WAKE_UP = 64

_CREDENTIALS_SIZE = _socket.CMSG_SPACE(12)


class UdpPump:
    """The stack's handler of one UDP socket.

    Connected, a record is a payload; otherwise each begins with the other side's address. An empty
    record is an empty datagram, not the end: the kernel adds the sender's credentials
    (SO_PASSCRED) to every record, and to the end of file none.
    """

    def __init__(
        self,
        host: PumpHost,
        id_: int,
        far: _socket.socket,
        *,
        remote: tuple[bytes, int] | None,
        drops: DropCounter,
    ) -> None:
        far.setblocking(False)
        far.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        own(far)
        self.id = id_
        self._socket: UdpSocket | None = None
        self._host = host
        self._far: _socket.socket | None = far
        self._remote = remote
        self._drops = drops
        self._read: Any = host.loop.io(far.fileno(), READ)

    def attach(self, socket: UdpSocket) -> None:
        """Read what the program sends from it: it is bound."""
        self._socket = socket
        self._read.start(self._readable)

    # -------------------------------------------------------------------- called by the stack

    def datagram(
        self,
        payload: memoryview,
        source: tuple[bytes, int],
        destination: tuple[bytes, int],  # noqa: ARG002  # of the handler's protocol
    ) -> None:
        """Hand the program one datagram, or drop it by name when it does not keep up."""
        far = self._far
        if far is None:
            return
        try:
            if self._remote is None:
                far.sendmsg([pack_datagram(*source), payload])
            else:
                far.send(payload)
        except BlockingIOError:
            self._drops.drop(Drop.UDP_PROGRAM_SLOW)
        except OSError:
            # The program closed, or shut down for reading.
            self._drops.drop(Drop.UDP_PROGRAM_GONE)

    def error(self, error: int, remote: tuple[bytes, int]) -> None:
        """ICMP: only a connected socket learns of it, by an empty record and the outcome."""
        if self._far is not None and remote == self._remote:
            self._host.failed(self.id, error)
            try:
                self._far.send(b"")
            except OSError:
                self._drops.drop(Drop.UDP_PROGRAM_SLOW)

    # ---------------------------------------------------------------------- called by the hub

    def _readable(self) -> None:
        host = self._host
        buffer = host.scratch
        for _ in range(_READS_A_WAKE_UP):
            far = self._far
            if far is None:
                break
            try:
                size, ancillary, _, _ = far.recvmsg_into([buffer], _CREDENTIALS_SIZE)
            except BlockingIOError:
                break
            except OSError:
                self.close()
                break
            if not size and not ancillary:
                self.close()
                break
            self._send(buffer[:size])
        host.flush()

    def _send(self, record: memoryview) -> None:
        if self._remote is not None:
            remote, payload = self._remote, record
        elif len(record) >= DATAGRAM_SIZE:
            remote, payload = unpack_datagram(record), record[DATAGRAM_SIZE:]
        else:
            self._drops.drop(Drop.UDP_PROGRAM_RUNT)
            return
        assert self._socket is not None
        try:
            self._socket.send_to(payload, remote, self._host.now())
        except OSError as error:
            unknown = error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
            self._drops.drop(Drop.UDP_NO_ADDRESS if unknown else Drop.UDP_NOT_SENT)

    def send_to(self, payload: bytes, remote: tuple[bytes, int]) -> None:
        """Send to whoever it is; OSError as ``UdpSocket.send_to``."""
        assert self._socket is not None
        self._socket.send_to(payload, remote, self._host.now())

    def close_if_ended(self) -> None:
        """Without waiting for the loop to tell; what the program sent last is sent."""
        while self._far is not None and is_hung_up(self._far):
            self._readable()

    def close(self) -> None:
        """The program closed its end, or the node ends."""
        far, self._far = self._far, None
        if far is None:
            return
        self._read.stop()
        self._read.close()
        if self._socket is not None:
            self._socket.close()
        disown(far)
        far.close()
        self._host.ended(self.id)
