"""The entry points of ordinary sockets: where one may turn virtual. All else is the base class's.

The virtual side is imported when the first socket turns; until then these are thin.
"""

from __future__ import annotations

import _socket
import errno
import sys
from typing import TYPE_CHECKING, Any

from ntmpatch.patch import node
from ntmpatch.patch.addressing import pack_host

if TYPE_CHECKING:
    from socket import socket as _Base  # noqa: N812  # stands for a class

    from ntmpatch.patch.addressing import Packed
else:
    _Base = object  # the class it is put above is known only when it is patched

_INTERNET = frozenset({_socket.AF_INET, _socket.AF_INET6})
_PROTOCOLS = {
    _socket.SOCK_STREAM: frozenset({0, _socket.IPPROTO_TCP}),
    _socket.SOCK_DGRAM: frozenset({0, _socket.IPPROTO_UDP}),
}
"""By socket type: what the stack speaks. UDP-Lite, SCTP and MPTCP stay the kernel's."""
_DEFAULT_BACKLOG = 128


class EntryPoints(_Base):
    """Above the patched class in the order of methods."""

    __slots__ = ()

    def __init__(
        self,
        family: int = -1,
        type: int = -1,  # noqa: A002  # of the interface
        proto: int = -1,
        fileno: int | None = None,
    ) -> None:
        if fileno is None or not node.current.is_enabled:
            super().__init__(family, type, proto, fileno)
            # Absent while another thread is importing the module: nothing is in the table then.
            vacate = getattr(sys.modules.get("ntmpatch.patch.table"), "vacate", None)
            if vacate is not None:
                vacate(self.fileno())
            return
        from ntmpatch.patch import table  # noqa: PLC0415  # see the module's docstring

        state = table.adopt(fileno, family)
        if state is None:
            super().__init__(family, type, proto, fileno)
            return
        node.load()
        from ntmpatch.patch import classes, turning  # noqa: PLC0415  # is loaded by now

        with turning.posing_as_socket(state, fileno):
            super().__init__(state.family, state.type, state.proto, fileno)
        table.own(state, turning.raw(self))
        classes.become(self, state.kind)

    def connect(self, address: Any) -> None:
        """Turn virtual if ``address`` is, or is a node's name."""
        target = self._ntm_target(address)
        if target is None:
            return super().connect(address)
        sys.audit("socket.connect", self, address)
        error = self._ntm_turn_by_connect(target)
        if error:
            from ntmpatch.patch.turning import os_error  # noqa: PLC0415  # is loaded by now

            raise os_error(error)
        return None

    def connect_ex(self, address: Any) -> int:
        """Turn virtual if ``address`` is, or is a node's name; errnos in place of exceptions."""
        target = self._ntm_target(address)
        if target is None:
            return super().connect_ex(address)
        sys.audit("socket.connect", self, address)
        try:
            return self._ntm_turn_by_connect(target)
        except TimeoutError:
            return errno.EAGAIN
        except OSError as error:
            return error.errno or errno.EIO

    def bind(self, address: Any) -> None:
        """Turn virtual if ``address`` is; UDP on the wildcard serves both networks."""
        target = self._ntm_target(address)
        if target is None:
            super().bind(address)
            if self._ntm_serves_both(_socket.SOCK_DGRAM):
                node.load()
                from ntmpatch.patch import choosing, turning  # noqa: PLC0415  # is loaded by now

                if address[1]:
                    turning.bind_udp_wildcard(self)
                else:
                    choosing.bind_udp_wildcard(self)
            elif self._ntm_serves_both(_socket.SOCK_STREAM) and not address[1]:
                node.load()
                from ntmpatch.patch import choosing  # noqa: PLC0415  # rarely needed

                choosing.settle_tcp(self)
            return
        sys.audit("socket.bind", self, address)
        from ntmpatch.patch import turning  # noqa: PLC0415  # is loaded by now

        if self._ntm_is(_socket.SOCK_STREAM):
            turning.bind_tcp(self, *target)
        elif turning.bound_port(turning.raw(self)):
            raise turning.os_error(errno.EINVAL)
        else:
            turning.bind_udp(self, *target)

    def listen(self, *backlog: int) -> None:
        """On the wildcard, listen on the virtual network as well."""
        super().listen(*backlog)
        if self._ntm_serves_both(_socket.SOCK_STREAM):
            node.load()
            from ntmpatch.patch import turning  # noqa: PLC0415  # is loaded by now

            turning.listen_wildcard(self, backlog[0] if backlog else _DEFAULT_BACKLOG)

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """Turn virtual if the address is; the kernel's socket joins when it is needed."""
        if flags_and_address and self._ntm_turn_by_sending(flags_and_address[-1]):
            return self.sendto(data, *flags_and_address)
        return super().sendto(data, *flags_and_address)

    def sendmsg(self, buffers: Any, *more: Any) -> int:
        """Turn virtual if the address is."""
        if len(more) == 3 and self._ntm_turn_by_sending(more[2]):
            return self.sendmsg(buffers, *more)
        return super().sendmsg(buffers, *more)

    # ------------------------------------------------------------------------------- turning

    def _ntm_is(self, type_: int) -> bool:
        """Whether this is an Internet socket of a type."""
        c_socket: Any = self if isinstance(self, _socket.socket) else self._sock
        return (
            c_socket.type == type_
            and c_socket.family in _INTERNET
            and c_socket.proto in _PROTOCOLS[type_]
        )

    def _ntm_serves_both(self, type_: int) -> bool:
        """Whether this is an Internet socket of a type, on the wildcard, and there is a node."""
        if not node.current.is_enabled or not self._ntm_is(type_):
            return False
        c_socket: Any = self if isinstance(self, _socket.socket) else self._sock
        # Not the socket's own method, which the program may have replaced by one of its own.
        host = _socket.socket.getsockname(c_socket)[0]
        return pack_host(c_socket.family, host) in (bytes(4), bytes(16))

    def _ntm_target(self, address: Any) -> Packed | None:
        """The virtual address that ``address`` means to this socket; None: not ours."""
        if not node.current.is_enabled or type(address) is not tuple:
            return None
        c_socket: Any = self if isinstance(self, _socket.socket) else self._sock
        if c_socket.family not in _INTERNET or c_socket.proto not in _PROTOCOLS.get(
            c_socket.type, ()
        ):
            return None
        return node.current.target(c_socket.family, address)

    def _ntm_turn_by_connect(self, target: Packed) -> int:
        from ntmpatch.patch import turning  # noqa: PLC0415  # is loaded by now

        if self._ntm_is(_socket.SOCK_DGRAM):
            port = turning.bound_port(turning.raw(self))
            turning.bind_udp(self, None, port, remote=target)
            return 0
        try:
            _socket.socket.getpeername(turning.raw(self))
        except OSError:
            pass
        else:
            return errno.EISCONN
        state = turning.begin_connect(self, target)
        return turning.finish_connect(self, state, self.gettimeout())

    def _ntm_turn_by_sending(self, address: Any) -> bool:
        """Open the virtual side of a UDP socket that sends to a virtual address."""
        target = self._ntm_target(address)
        if target is None or not self._ntm_is(_socket.SOCK_DGRAM):
            return False
        sys.audit("socket.sendto", self, address)
        from ntmpatch.patch import turning  # noqa: PLC0415  # is loaded by now

        c_socket = turning.raw(self)
        if not turning.bound_port(c_socket):
            turning.bind_udp(self, None, 0)
            return True
        host = _socket.socket.getsockname(c_socket)[0]
        if pack_host(c_socket.family, host) not in (bytes(4), bytes(16)):
            raise turning.os_error(errno.ENETUNREACH)
        turning.bind_udp_wildcard(self)
        return not isinstance(self, EntryPoints) or type(self).sendto is not EntryPoints.sendto
