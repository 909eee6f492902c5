"""How a socket turns virtual: the near end of a pair takes the place of its descriptor.

The number, O_NONBLOCK and FD_CLOEXEC stay, and so does the Python object; only its class changes.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING, Any

from ntmpatch.patch import classes, node, options, registrations, table, waiting
from ntmpatch.patch.addressing import WILDCARDS, Packed, pack_host, wildcard_of
from ntmpatch.patch.kinds import Kind
from ntmpatch.patch.table import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ntmpatch.patch.options import OptionKey, OptionValue

_MAX_QUEUED = 1024
"""Datagrams; the pair holds fewer."""

log = logging.getLogger("ntmpatch.patch")


def os_error(error: int) -> OSError:
    """OSError (the subclass that belongs to it) with the system's words."""
    return OSError(error, os.strerror(error))


def raw(socket: Any) -> _socket.socket:
    """The C socket under a Python one: itself, or what gevent's wraps."""
    return socket if isinstance(socket, _socket.socket) else socket._sock


def require_open(fd: int) -> None:
    """OSError(EBADF) if the descriptor was closed behind the socket's back.

    Else its number would be the first that is free for what is opened to take its place.
    """
    os.fstat(fd)


def make_pair(type_: int, kept: dict[OptionKey, OptionValue]) -> tuple[int, int]:
    """Near and far end of a new pair, as descriptors."""
    near, far = _socket.socketpair(_socket.AF_UNIX, type_)
    options.apply_to_pair(near, kept)
    return near.detach(), far.detach()


def swap(fd: int, replacement: int) -> None:
    """Let ``replacement`` be at ``fd``, with the flags that ``fd`` had; closes the original."""
    watchers = registrations.take(fd)
    os.set_blocking(replacement, os.get_blocking(fd))
    os.dup2(replacement, fd, os.get_inheritable(fd))
    os.close(replacement)
    registrations.put_back(fd, watchers)


@contextlib.contextmanager
def posing_as_socket(state: State, fd: int) -> Iterator[None]:
    """Let ``fd`` be a kernel socket meanwhile: C's constructor refuses an epoll set (ENOTSOCK)."""
    if state.real is None:
        yield
        return
    aside = _socket.dup(fd)
    inheritable = os.get_inheritable(fd)
    os.dup2(state.real.fileno(), fd, inheritable)
    try:
        yield
    finally:
        os.dup2(aside, fd, inheritable)
        os.close(aside)


def install(socket: Any, state: State) -> None:
    """Enter ``state`` and give ``socket`` the class of its kind."""
    table.put(state)
    table.own(state, raw(socket))
    classes.become(socket, state.kind)


def change_kind(socket: Any, state: State, kind: Kind) -> None:
    """A socket goes on as another kind, at the same descriptor."""
    state.kind = kind
    classes.become(socket, kind)


def become_ordinary(socket: Any, state: State) -> None:
    """After a failed connect() the socket is as new: a kernel socket with the same options."""
    fresh = _socket.socket(state.family, state.type, state.proto)
    options.restore(fresh, state.options)
    table.remove(state.fd)
    swap(state.fd, fresh.detach())
    classes.become_plain(socket)


def become_real(socket: Any, state: State) -> None:
    """A UDP socket of both networks, or of the virtual one, is the kernel's only from now on."""
    if state.real is None:
        become_ordinary(socket, state)
        return
    table.remove(state.fd)
    swap(state.fd, _socket.dup(state.real.fileno()))
    state.release()
    classes.become_plain(socket)


def bound_port(real: _socket.socket) -> int:
    """The port a kernel socket is bound to, or 0."""
    try:
        port: int = _socket.socket.getsockname(real)[1]
    except OSError:
        return 0
    return port


def families_of(
    family: int, address: bytes | None, kept: dict[OptionKey, OptionValue]
) -> tuple[int, ...]:
    """4, 6 or both: what a socket bound to ``address`` (None: wildcard) can be reached by."""
    if address is not None:
        return (4 if len(address) == 4 else 6,)
    if family == _socket.AF_INET:
        return (4,)
    v6only = kept.get(options.V6ONLY)
    if v6only is None:
        v6only = options.scratch(family, _socket.SOCK_STREAM, 0).getsockopt(*options.V6ONLY)
    return (6,) if v6only else (4, 6)


# ------------------------------------------------------------------------------------------- TCP


def begin_connect(socket: Any, target: Packed) -> State:
    """Ask the node for a connection; the socket is CONNECTING afterwards. OSError."""
    from ntmpatch.wire.local import Connect, Connecting  # noqa: PLC0415  # heavy; first use only

    c_socket = raw(socket)
    fd, family, proto = c_socket.fileno(), c_socket.family, c_socket.proto
    require_open(fd)
    bound = table.get(fd)
    if bound is not None:
        kept, port, bound_id = bound.options, bound.local[1], bound.id
    else:
        kept = options.snapshot(c_socket, family, c_socket.type, proto)
        port, bound_id = bound_port(c_socket), 0
    near, far = make_pair(_socket.SOCK_STREAM, kept)
    filler_size, inode = _fill(near), os.fstat(near).st_ino
    # The near end is in place before anybody can know of the connection: another thread that
    # waits for this descriptor must not see the kernel's socket hang up.
    aside = _socket.dup(fd)
    swap(fd, near)
    try:
        connecting = node.current.call(
            Connect(
                remote=target[0],
                port=target[1],
                filler_size=filler_size,
                inode=inode,
                local_port=port,
                bound_id=bound_id,
                mapped=family == _socket.AF_INET6 and len(target[0]) == 4,
                options=options.for_the_node(kept.items()),
            ),
            Connecting,
            (far,),
        )
    except BaseException:
        swap(fd, _socket.dup(aside))
        raise
    finally:
        os.close(far)
        os.close(aside)
    local = (connecting.local, connecting.local_port)
    state = State(
        Kind.CONNECTING, fd, family, c_socket.type, proto, connecting.id, inode, local, target, kept
    )
    install(socket, state)
    return state


def _fill(near: int) -> int:
    """Make ``near`` unwritable: AF_UNIX is writable while a quarter of its buffer is in use."""
    end = _socket.socket(fileno=near)
    try:
        size: int = end.getsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF) // 4 + 1
        return end.send(bytes(size), _socket.MSG_DONTWAIT)
    finally:
        end.detach()


def finish_connect(socket: Any, state: State, timeout: float | None) -> int:
    """Wait for the outcome; 0 or the errno. TimeoutError; EINPROGRESS for a time-out of zero."""
    if timeout == 0:
        return errno.EINPROGRESS
    waiting.Deadline(timeout).wait(state.fd, waiting.WRITE)
    error = poll_connect(socket, state)
    if error:
        state.error = 0
    return error


def poll_connect(socket: Any, state: State) -> int:
    """What has become of a connection under way: 0, EINPROGRESS, or the errno it failed with."""
    writable, hung_up = waiting.look(state.fd)
    if not (writable or hung_up):
        return errno.EINPROGRESS
    if hung_up and not state.failed:
        state.error = outcome(state)
        state.failed = bool(state.error)
    if state.failed:
        return state.error
    change_kind(socket, state, Kind.STREAM)
    return 0


def outcome(state: State) -> int:
    """Ask the node for the errno that ended a socket; 0 if none did. Told once."""
    from ntmpatch.wire.local import Fate, Outcome  # noqa: PLC0415  # is loaded by now

    try:
        return node.current.ask(Outcome(state.id), Fate).error
    except OSError:
        # The node is gone, and every connection with it.
        return errno.ECONNRESET if state.type == _socket.SOCK_STREAM else errno.ENETDOWN


def bind_tcp(socket: Any, address: bytes, port: int) -> None:
    """Reserve a port on a virtual address; the socket is BOUND afterwards. OSError."""
    from ntmpatch.wire.local import BindTcp, Bound  # noqa: PLC0415  # heavy; first use only

    c_socket = raw(socket)
    fd, family = c_socket.fileno(), c_socket.family
    require_open(fd)
    if table.get(fd) is not None or bound_port(c_socket):
        raise os_error(errno.EINVAL)
    kept = options.snapshot(c_socket, family, c_socket.type, c_socket.proto)
    near, far = make_pair(_socket.SOCK_STREAM, kept)
    request = BindTcp(
        families_of(family, address, kept),
        address,
        port,
        bool(kept.get(options.REUSE_ADDRESS)),
        bool(kept.get(options.REUSE_PORT)),
    )
    try:
        bound = node.current.call(request, Bound, (far,))
    except BaseException:
        os.close(near)
        raise
    finally:
        os.close(far)
    state = State(
        Kind.BOUND,
        fd,
        family,
        c_socket.type,
        c_socket.proto,
        bound.id,
        os.fstat(near).st_ino,
        (address, bound.port),
        None,
        kept,
    )
    swap(fd, near)
    install(socket, state)


def listen_bound(socket: Any, state: State, backlog: int) -> None:
    """listen() on a socket that is bound to a virtual address. OSError."""
    check_backlog(backlog)
    require_open(state.fd)
    address, port = state.local
    id_, near = _listen(
        state.family,
        address,
        port,
        state.options,
        backlog=backlog,
        origin=state.inode,
        bound_id=state.id,
    )
    inode = os.fstat(near).st_ino
    swap(state.fd, near)
    install(
        socket,
        State(
            Kind.LISTENER,
            state.fd,
            state.family,
            state.type,
            state.proto,
            id_,
            inode,
            (address, port),
            None,
            state.options,
        ),
    )


def listen_wildcard(socket: Any, backlog: int) -> None:
    """Serve the virtual network too with a kernel socket that listens on the wildcard.

    Where no node is to be had the socket stays what it is. OSError(EADDRINUSE) where the node has
    another listener at the port.
    """
    c_socket = raw(socket)
    family = c_socket.family
    if not _is_wildcard(c_socket):
        return
    kept = options.snapshot(c_socket, family, c_socket.type, c_socket.proto)
    port = bound_port(c_socket)
    try:
        origin = os.fstat(c_socket.fileno()).st_ino
        id_, near = _listen(family, None, port, kept, backlog=backlog, origin=origin)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        log.warning("port %d serves the real network only: %s", port, error)
        return
    local = (wildcard_of(family), port)
    combine(socket, Kind.LISTENER, id_=id_, near=near, local=local, kept=kept)


def check_backlog(backlog: int) -> None:
    """OverflowError as the C method's, for what is no int of C."""
    if not -(2**31) <= backlog < 2**31:
        raise OverflowError("signed integer is greater than maximum")


def _listen(
    family: int,
    address: bytes | None,
    port: int,
    kept: dict[OptionKey, OptionValue],
    *,
    backlog: int,
    origin: int,
    bound_id: int = 0,
) -> tuple[int, int]:
    """Identity and near end of a new listener of the node."""
    from ntmpatch.wire.local import Bound, Listen  # noqa: PLC0415  # heavy; first use only

    near, far = make_pair(_socket.SOCK_SEQPACKET, kept)
    request = Listen(
        families_of(family, address, kept),
        address,
        port,
        max(0, backlog),
        os.fstat(near).st_ino,
        bound_id,
        bool(kept.get(options.REUSE_ADDRESS)),
        bool(kept.get(options.REUSE_PORT)),
        family == _socket.AF_INET6,
        options.for_the_node(kept.items()),
        origin,
    )
    try:
        bound = node.current.call(request, Bound, (far,))
    except BaseException:
        os.close(near)
        raise
    finally:
        os.close(far)
    return bound.id, near


# ------------------------------------------------------------------------------------------- UDP


def bind_udp(
    socket: Any,
    address: bytes | None,
    port: int,
    *,
    remote: Packed | None = None,
    bound_id: int = 0,
) -> State:
    """Open a UDP socket of the node: bound to ``address`` or connected to ``remote``. OSError."""
    c_socket = raw(socket)
    fd, family = c_socket.fileno(), c_socket.family
    require_open(fd)
    before = table.get(fd)
    kept = (
        before.options
        if before is not None
        else options.snapshot(c_socket, family, c_socket.type, c_socket.proto)
    )
    queued = () if before is None or remote is None else _take_queued(c_socket, before)
    id_, near, local = _bind_udp(
        family, address, port, kept, remote=remote, bound_id=bound_id, queued=queued
    )
    state = State(
        Kind.DATAGRAM if remote is None else Kind.CONNECTED,
        fd,
        family,
        c_socket.type,
        c_socket.proto,
        id_,
        os.fstat(near).st_ino,
        local,
        remote,
        kept,
    )
    if before is not None:
        state.remarks = before.remarks
        state.is_shut_for_writing = before.is_shut_for_writing
    swap(fd, near)
    install(socket, state)
    return state


def bind_udp_wildcard(socket: Any) -> None:
    """Serve the virtual network too with a kernel UDP socket that is bound to the wildcard.

    Where no node is to be had the socket stays what it is. OSError(EADDRINUSE).
    """
    c_socket = raw(socket)
    family = c_socket.family
    if not _is_wildcard(c_socket):
        return
    port = bound_port(c_socket)
    kept = options.snapshot(c_socket, family, c_socket.type, c_socket.proto)
    try:
        id_, near, local = _bind_udp(family, None, port, kept)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        log.warning("port %d serves the real network only: %s", port, error)
        return
    combine(socket, Kind.DATAGRAM, id_=id_, near=near, local=local, kept=kept)


def add_real(socket: Any, state: State) -> None:
    """Let a virtual UDP socket reach the real network too, from the same port if that is free."""
    real = _socket.socket(state.family, state.type, state.proto)
    real.setblocking(False)
    options.restore(real, state.options)
    with contextlib.suppress(OSError):
        real.bind(("", state.local[1]))
    near = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _socket.dup(state.fd))
    near.setblocking(False)
    for beside in (real, near):
        os.set_inheritable(beside.fileno(), os.get_inheritable(state.fd))
    state.real, state.near = real, near
    swap(state.fd, _epoll_of(real, near))
    install(socket, state)


def _bind_udp(
    family: int,
    address: bytes | None,
    port: int,
    kept: dict[OptionKey, OptionValue],
    *,
    remote: Packed | None = None,
    bound_id: int = 0,
    queued: Iterable[bytes] = (),
) -> tuple[int, int, Packed]:
    """Identity, near end and local address of a new UDP socket of the node.

    ``queued`` are payloads that the program finds in it, before any other.
    """
    from ntmpatch.wire.local import BindUdp, Bound  # noqa: PLC0415  # heavy; first use only

    near, far = make_pair(_socket.SOCK_SEQPACKET, kept)
    _queue(far, queued)
    request = BindUdp(
        families_of(family, remote[0] if remote is not None else address, kept),
        address,
        port,
        os.fstat(near).st_ino,
        None if remote is None else remote[0],
        0 if remote is None else remote[1],
        bound_id,
        bool(kept.get(options.REUSE_ADDRESS)),
        bool(kept.get(options.REUSE_PORT)),
        family == _socket.AF_INET6,
    )
    try:
        bound = node.current.call(request, Bound, (far,))
    except BaseException:
        os.close(near)
        raise
    finally:
        os.close(far)
    return bound.id, near, (bound.address or address or wildcard_of(family), bound.port)


def _take_queued(c_socket: _socket.socket, state: State) -> list[bytes]:
    """Payloads that have arrived: as in the kernel they outlive a connect()."""
    from ntmpatch.wire.local import DATAGRAM_SIZE  # noqa: PLC0415  # heavy; first use only

    near = state.near or c_socket
    header_size = DATAGRAM_SIZE if state.kind is Kind.DATAGRAM else 0
    queued: list[bytes] = []
    with contextlib.suppress(OSError):
        while len(queued) < _MAX_QUEUED and waiting.is_readable(near.fileno()):
            record = _socket.socket.recv(near, DATAGRAM_SIZE + 65535, _socket.MSG_DONTWAIT)
            if not record and waiting.look(near.fileno())[1]:
                break  # the node has ended
            queued.append(record[header_size:])
    return queued


def _queue(far: int, payloads: Iterable[bytes]) -> None:
    end = _socket.socket(fileno=far)
    with contextlib.suppress(BlockingIOError):
        for payload in payloads:
            end.send(payload, _socket.MSG_DONTWAIT)
    end.detach()


# ------------------------------------------------------------------------------- both at once


def _is_wildcard(real: _socket.socket) -> bool:
    return pack_host(real.family, _socket.socket.getsockname(real)[0]) in WILDCARDS


def combine(
    socket: Any,
    kind: Kind,
    *,
    id_: int,
    near: int,
    local: Packed,
    kept: dict[OptionKey, OptionValue],
) -> None:
    """Put an epoll set of the kernel's socket and the near end in the place of the former."""
    c_socket = raw(socket)
    fd, family, type_, proto = (
        c_socket.fileno(),
        c_socket.family,
        c_socket.type,
        c_socket.proto,
    )
    # A description of its own flags: O_NONBLOCK here is not the application's to see.
    real = _socket.socket(family, type_, proto, _socket.dup(fd))
    virtual = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, near)
    replacement = _epoll_of(real, virtual)
    swap(fd, replacement)
    for beside in (real, virtual):
        beside.setblocking(False)
        os.set_inheritable(beside.fileno(), os.get_inheritable(fd))
    inode = os.fstat(near).st_ino
    state = State(
        kind, fd, family, type_, proto, id_, inode, local, None, kept, real=real, near=virtual
    )
    install(socket, state)


def _epoll_of(*sockets: _socket.socket) -> int:
    poller = waiting.epoll()
    for socket in sockets:
        poller.register(socket.fileno(), 1)  # EPOLLIN
    fd = _socket.dup(poller.fileno())
    poller.close()
    return fd
