"""uvloop's event loop, which makes sockets and looks names up in C, past Python's ``socket``.

Where a virtual address may be meant, the socket is made, bound, connected and accepted in Python,
and uvloop's own transports read and write its descriptor. They are told the truth about it, that
it is one end of an AF_UNIX pair: as TCP, libuv would set TCP_NODELAY on it, which fails. All else
is uvloop's own.
"""

from __future__ import annotations

import _socket
import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from ntmpatch.patch import classes, naming, node, table
from ntmpatch.patch.addressing import WILDCARDS, pack_host
from ntmpatch.patch.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    _Base: Any = object
else:
    _Base = object  # uvloop's class is beside it among the bases of uvloop.Loop

_INTERNET = (_socket.AF_INET, _socket.AF_INET6)
_DEFAULT_BACKLOG = 100
_RETRY_INTERVAL = 1.0
"""Seconds without accepting when descriptors or memory are short, as in asyncio."""
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class VirtualLoop(_Base):  # type: ignore[misc]  # the class it stands before is not typed
    """Put first among the bases of ``uvloop.Loop``."""

    __slots__ = ()

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002  # of the interface
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Nodes' names by the node."""
        if naming.is_ours(host):
            return await self.run_in_executor(
                None, socket.getaddrinfo, host, port, family, type, proto, flags
            )
        return await super().getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        """Virtual addresses by the node."""
        if isinstance(sockaddr, tuple) and sockaddr and naming.is_ours(sockaddr[0]):
            return await self.run_in_executor(None, socket.getnameinfo, sockaddr, flags)
        return await super().getnameinfo(sockaddr, flags)

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: Any = None,
        local_addr: Any = None,
        server_hostname: Any = None,
        **options: Any,
    ) -> Any:
        """To a virtual address by a socket of ours."""
        if sock is None and naming.is_ours(host):
            if server_hostname is None and ssl:
                server_hostname = host
            sock = await _connect(self, host, port, family, proto, flags, local_addr)
            host = port = local_addr = None
            family = proto = flags = 0
        return await super().create_connection(
            protocol_factory,
            host,
            port,
            ssl=ssl,
            family=family,
            proto=proto,
            flags=flags,
            sock=sock and for_libuv(sock),
            local_addr=local_addr,
            server_hostname=server_hostname,
            **options,
        )

    async def connect_accepted_socket(
        self, protocol_factory: Callable[[], Any], sock: Any, **options: Any
    ) -> Any:
        """A transport for what Python accepted."""
        return await super().connect_accepted_socket(protocol_factory, for_libuv(sock), **options)

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], Any],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: Any = None,
        **options: Any,
    ) -> Any:
        """In Python, unless it is known to speak to the real network only."""
        arguments: dict[str, Any] = {
            "family": family,
            "proto": proto,
            "flags": flags,
            "reuse_port": reuse_port,
            "allow_broadcast": allow_broadcast,
            "sock": sock,
        }
        if sock is not None:
            # Beside a socket uvloop refuses everything else, in its own words.
            is_ours = list(filter(None, arguments.values())) == [sock] and _may_be_virtual(sock)
        else:
            is_ours = _may_mean_virtual(local_addr, remote_addr, family)
        if not is_ours or options:
            return await super().create_datagram_endpoint(
                protocol_factory, local_addr, remote_addr, **arguments, **options
            )
        from ntmpatch.patch.uvloop_datagrams import create_endpoint  # noqa: PLC0415  # rarely used

        return await create_endpoint(self, protocol_factory, local_addr, remote_addr, **arguments)

    async def create_server(
        self,
        protocol_factory: Callable[[], Any],
        host: Any = None,
        port: Any = None,
        *,
        family: int = _socket.AF_UNSPEC,
        flags: int = _socket.AI_PASSIVE,
        sock: Any = None,
        backlog: int = _DEFAULT_BACKLOG,
        ssl: Any = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        start_serving: bool = True,
        **options: Any,
    ) -> Any:
        """On virtual addresses and on the wildcard, accept in Python."""
        if sock is not None:
            listeners = [sock] if _may_be_virtual(sock) else []
        elif node.current.is_enabled and _names_wildcard_or_ours(host):
            listeners = await _bind(self, host, port, family, flags, reuse_address, reuse_port)
        else:
            listeners = []
        if not listeners:
            return await super().create_server(
                protocol_factory,
                host,
                port,
                family=family,
                flags=flags,
                sock=sock,
                backlog=backlog,
                ssl=ssl,
                reuse_address=reuse_address,
                reuse_port=reuse_port,
                start_serving=start_serving,
                **options,
            )
        server = VirtualServer(self, listeners, protocol_factory, backlog, ssl=ssl, **options)
        if start_serving:
            await server.start_serving()
        return server


class VirtualServer(asyncio.AbstractServer):
    """What ``create_server`` returns where connections are accepted in Python."""

    def __init__(
        self,
        loop: Any,
        listeners: list[Any],
        protocol_factory: Callable[[], Any],
        backlog: int,
        **options: Any,
    ) -> None:
        self._loop = loop
        self._listeners = listeners
        self._protocol_factory = protocol_factory
        self._backlog = backlog
        self._options = {name: value for name, value in options.items() if value is not None}
        self._is_serving = False
        self._closed = asyncio.Event()
        self._beginning: set[asyncio.Task[None]] = set()

    @property
    def sockets(self) -> tuple[Any, ...]:
        """The listening sockets; none once it is closed."""
        return tuple(self._listeners)

    def get_loop(self) -> Any:
        """The loop it was made by."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return self._is_serving

    async def start_serving(self) -> None:
        """Accept from now on."""
        if self._is_serving:
            return
        self._is_serving = True
        for listener in self._listeners:
            listener.setblocking(False)
            listener.listen(self._backlog)
            self._loop.add_reader(listener, self._accept, listener)

    async def serve_forever(self) -> NoReturn:
        """Accept until it is cancelled or closed."""
        if self._closed.is_set():
            raise RuntimeError(f"server {self!r} is closed")
        try:
            await self.start_serving()
            await self._closed.wait()
            raise asyncio.CancelledError
        finally:
            self.close()

    def close(self) -> None:
        """Accept no more; connections go on."""
        self._is_serving = False
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._closed.set()

    async def wait_closed(self) -> None:
        """Wait for ``close``; as with uvloop's own, not for the connections."""
        await self._closed.wait()

    def _accept(self, listener: Any) -> None:
        for _ in range(self._backlog):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SHORTAGES:
                    raise
                self._loop.remove_reader(listener)
                self._loop.call_later(_RETRY_INTERVAL, self._accept_again, listener)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    def _accept_again(self, listener: Any) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    async def _begin(self, connection: Any) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._protocol_factory, connection, **self._options
            )
        except Exception as error:  # of a handshake, or of the program's protocol
            connection.close()
            if self._loop.get_debug():
                self._loop.call_exception_handler(
                    {
                        "message": "Error on transport creation for incoming connection",
                        "exception": error,
                    }
                )


def for_libuv(sock: Any) -> Any:
    """What to give uvloop for a connected socket: itself, or the end of the pair it really is."""
    state = table.get(sock.fileno())
    if state is None or state.kind is not Kind.STREAM:
        return sock
    base = classes.patched_class_of(type(sock))
    if base is None:
        return sock
    end = _class_of_ends(base).__new__(_class_of_ends(base))
    end._io_refs, end._closed = 0, False
    # Past our own constructor, which would make it a virtual socket, of an Internet family.
    _socket.socket.__init__(end, _socket.AF_UNIX, _socket.SOCK_STREAM, 0, sock.detach())
    table.own(state, end)
    return end


_ends: dict[type, Any] = {}


def _class_of_ends(base: type) -> Any:
    """A subclass of the patched class: uvloop treats what is no ``socket.socket`` differently."""
    if base not in _ends:

        def detach(self: Any) -> int:
            """uvloop calls this when libuv has closed the descriptor."""
            state = table.get(self.fileno())
            if state is not None and (state.owner is None or state.owner() is self):
                table.remove(state.fd)
            return _socket.socket.detach(self)

        # It calls close() instead where it was imported before the last patching.
        methods = {"detach": detach, "close": detach}
        _ends[base] = type(base.__name__, (base,), {"__slots__": (), **methods})
    return _ends[base]


async def _connect(
    loop: Any, host: Any, port: Any, family: int, proto: int, flags: int, local_addr: Any
) -> Any:
    found = await loop.run_in_executor(
        None, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, proto, flags
    )
    errors = []
    for each_family, type_, each_proto, _, address in found:
        sock = socket.socket(each_family, type_, each_proto)
        try:
            sock.setblocking(False)
            if local_addr is not None:
                sock.bind(tuple(local_addr))
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            errors.append(error)
        except BaseException:
            sock.close()
            raise
    if len({str(error) for error in errors}) == 1:
        raise errors[0]
    raise OSError(f"Multiple exceptions: {', '.join(map(str, errors))}")


async def _bind(
    loop: Any,
    host: Any,
    port: Any,
    family: int,
    flags: int,
    reuse_address: bool | None,
    reuse_port: bool | None,
) -> list[Any]:
    """Sockets bound as ``asyncio.loop.create_server`` binds them."""
    addresses: dict[Any, None] = {}
    for each in _hosts(host):
        found = await loop.run_in_executor(
            None, socket.getaddrinfo, each, port, family, socket.SOCK_STREAM, 0, flags
        )
        addresses.update(dict.fromkeys(found))
    bound: list[Any] = []
    try:
        for each_family, type_, proto, _, address in addresses:
            sock = socket.socket(each_family, type_, proto)
            bound.append(sock)
            if reuse_address is not False:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if each_family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind(address)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"error while attempting to bind on address {address!r}: "
                    f"{str(error.strerror).lower()}",
                ) from None
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def _hosts(host: Any) -> Iterable[Any]:
    if host is None or host == "":
        return (None,)
    return (host,) if isinstance(host, (str, bytes)) else host


def _names_wildcard_or_ours(host: Any) -> bool:
    return any(each is None or naming.is_ours(each) or _is_wildcard(each) for each in _hosts(host))


def _may_mean_virtual(local_addr: Any, remote_addr: Any, family: int) -> bool:
    """Whether a datagram endpoint is to reach virtual addresses, or may yet."""
    if not node.current.is_enabled:
        return False
    if remote_addr is not None:
        return any(address and naming.is_ours(address[0]) for address in (remote_addr, local_addr))
    if local_addr is not None:
        return _names_wildcard_or_ours(local_addr[0])
    return family in _INTERNET


def _is_wildcard(host: Any) -> bool:
    return isinstance(host, str) and any(pack_host(each, host) in WILDCARDS for each in _INTERNET)


def _may_be_virtual(sock: Any) -> bool:
    """Whether a bound or listening socket is, or will be when it listens."""
    if table.get(sock.fileno()) is not None:
        return True
    if not node.current.is_enabled or sock.family not in _INTERNET:
        return False
    return _is_wildcard(sock.getsockname()[0])
