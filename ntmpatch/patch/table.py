"""What is known of each virtual socket, by file descriptor.

By descriptor and not by object, because descriptors change owner: ``detach()``, ``SSLContext.
wrap_socket`` and ``socket(fileno=…)`` all hand one from object to object. A second index, by the
near end's inode, finds what came by ``os.dup``.
"""

from __future__ import annotations

import _socket
import os
import stat
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ntmpatch.patch import node
from ntmpatch.patch.addressing import wildcard_of
from ntmpatch.patch.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Container

    from ntmpatch.patch.addressing import Packed
    from ntmpatch.patch.options import OptionKey, OptionValue
    from ntmpatch.wire.local import Facts


@dataclass(eq=False)
class State:
    """One virtual socket."""

    kind: Kind
    fd: int
    family: int
    type: int
    proto: int
    id: int
    """The node's name for it."""
    inode: int
    """Of the near end, which is ``fd`` itself or ``near``."""
    local: Packed
    remote: Packed | None = None
    options: dict[OptionKey, OptionValue] = field(default_factory=dict)
    real: _socket.socket | None = None
    """The kernel's socket beside the virtual one, where both are served; ``fd`` is an epoll set."""
    near: _socket.socket | None = None
    """The near end, where ``fd`` is an epoll set."""
    error: int = 0
    """A failed connect()'s errno that was not told yet."""
    failed: bool = False
    """connect() failed: the socket may be used again."""
    prefers_real: bool = False
    """Which of two networks is asked first, turn about."""
    is_shut_for_reading: bool = False
    is_shut_for_writing: bool = False
    """By this program, with ``shutdown``."""
    remarks: int = 0
    """Of connected UDP: empty records in the queue that stand for errors told already."""
    told: bool = False
    """What ended the connection was told to the application."""
    owner: weakref.ref[Any] | None = None

    @property
    def is_hybrid(self) -> bool:
        """Whether the real network is served as well."""
        return self.near is not None

    def release(self) -> None:
        """Close what is beside ``fd``."""
        for beside in (self.real, self.near):
            if beside is not None:
                beside.close()
        self.real = self.near = None


_states: dict[int, State] = {}
_by_inode: dict[int, State] = {}


def get(fd: int) -> State | None:
    """The state of a descriptor, or None."""
    return _states.get(fd)


def held_descriptors() -> Container[int]:
    """Those of virtual sockets; not those that were detached, whose numbers may be in new use."""
    return {
        fd for fd, state in _states.items() if state.owner is not None and state.owner() is not None
    }


def put(state: State) -> None:
    """Enter ``state`` at its descriptor, in place of whatever was there."""
    previous = _states.get(state.fd)
    if previous is not None and previous is not state:
        _drop_inode(previous)
        if previous.near is not state.near or previous.near is None:
            previous.release()
    _states[state.fd] = state
    _by_inode[state.inode] = state


def remove(fd: int) -> State | None:
    """The descriptor is closed or ordinary again."""
    state = _states.pop(fd, None)
    if state is not None:
        _drop_inode(state)
    return state


def vacate(fd: int) -> None:
    """Another socket has this number now: what was there was closed behind its object's back."""
    state = remove(fd)
    if state is not None:
        state.release()


def _drop_inode(state: State) -> None:
    if _by_inode.get(state.inode) is state:
        del _by_inode[state.inode]


def own(state: State, owner: object) -> None:
    """``owner`` holds the descriptor: when it dies without close(), so does the entry."""

    def gone(reference: weakref.ref[Any], state: State = state) -> None:
        if state.owner is reference and _states.get(state.fd) is state:
            remove(state.fd)
            state.release()

    state.owner = weakref.ref(owner, gone)


def adopt(fd: int, family: int) -> State | None:
    """The state of a descriptor that a socket object is being made of; None if it is ordinary.

    ``family`` is what the caller says it is, -1 if nothing.
    """
    if not node.current.is_enabled:
        return None
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    if stat.S_ISSOCK(status.st_mode):
        watched: list[Watched] = []
        inodes = [status.st_ino]
    elif stat.S_IFMT(status.st_mode) == 0:
        watched = _watched_by(fd)
        inodes = [each.inode for each in watched]
    else:
        return None
    known = _states.get(fd)
    for inode in inodes:
        if known is not None and known.inode == inode:
            return known
        twin = _by_inode.get(inode)
        if twin is not None:
            vacate(fd)
            return _twin(twin, fd)
    vacate(fd)
    if len(watched) == 2:
        return _inherited(fd, watched)
    if family in (-1, _socket.AF_INET, _socket.AF_INET6) and stat.S_ISSOCK(status.st_mode):
        return _foreign(fd, family, status.st_ino)
    return None


def put_accepted(listener: State, fd: int, id_: int, local: Packed, remote: Packed) -> None:
    """Enter a connection that ``listener`` accepted."""
    inode = os.fstat(fd).st_ino
    options = dict(listener.options)
    put(
        State(
            Kind.STREAM,
            fd,
            listener.family,
            listener.type,
            listener.proto,
            id_,
            inode,
            local,
            remote,
            options,
        )
    )


class Watched(NamedTuple):
    """What an epoll set watches: its descriptor when it was registered, and its inode."""

    fd: int
    inode: int


def _watched_by(fd: int) -> list[Watched]:
    """Of an epoll set (proc(5), fdinfo), to know a copy of a hybrid by."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            targets = [line for line in file if line.startswith("tfd:")]
    except OSError:
        return []
    return [
        Watched(int(line.split()[1]), int(line.rpartition("ino:")[2].split()[0], 16))
        for line in targets
    ]


def _twin(state: State, fd: int) -> State:
    """The state of a copy of a descriptor."""
    twin = replace(
        state,
        fd=fd,
        options=dict(state.options),
        real=_copy(state.real),
        near=_copy(state.near),
        owner=None,
    )
    _states[fd] = twin
    return twin


def _copy(socket: _socket.socket | None) -> _socket.socket | None:
    if socket is None:
        return None
    copy = _socket.socket(socket.family, socket.type, socket.proto, _socket.dup(socket.fileno()))
    copy.setblocking(False)
    return copy


def _foreign(fd: int, family: int, inode: int) -> State | None:
    """A descriptor that came from another process: the node knows what it is."""
    if not _is_in_a_pair(fd):
        return None
    node.load()
    from ntmpatch.wire.local import Describe, Facts  # noqa: PLC0415  # is loaded by now

    try:
        facts = node.current.ask(Describe(inode), Facts)
    except OSError:
        return None
    if family == -1:
        family = _socket.AF_INET6 if facts.mapped or 6 in facts.families else _socket.AF_INET
    state = _from_facts(facts, fd, family, inode)
    put(state)
    return state


def _inherited(fd: int, watched: list[Watched]) -> State | None:
    """A hybrid of the program that executed this one, with what is beside it: it goes on here.

    Who lets a hybrid be inherited lets all three of its descriptors (``set_inheritable``).
    """
    besides = []
    for each in watched:
        try:
            if os.fstat(each.fd).st_ino != each.inode:
                return None
        except OSError:
            return None
        besides.append(_socket.socket(fileno=each.fd))
    real, near = sorted(besides, key=lambda beside: beside.family == _socket.AF_UNIX)
    state = None
    if near.family == _socket.AF_UNIX and real.family in (_socket.AF_INET, _socket.AF_INET6):
        state = _foreign(near.fileno(), real.family, os.fstat(near.fileno()).st_ino)
    if state is None:
        for beside in besides:
            beside.detach()
        return None
    remove(state.fd)
    state.fd, state.real, state.near = fd, real, near
    put(state)
    return state


def _is_in_a_pair(fd: int) -> bool:
    """Whether it is one of socketpair(): AF_UNIX, and neither end has a name."""
    probe = _socket.socket(fileno=fd)
    try:
        return probe.family == _socket.AF_UNIX and not probe.getsockname() + probe.getpeername()
    except (OSError, TypeError):
        return False  # not connected, or with a name of Linux's own, which is bytes
    finally:
        probe.detach()


def _from_facts(facts: Facts, fd: int, family: int, inode: int) -> State:
    kind = Kind(facts.kind)
    is_tcp = kind in (Kind.STREAM, Kind.LISTENER)
    return State(
        kind,
        fd,
        family,
        _socket.SOCK_STREAM if is_tcp else _socket.SOCK_DGRAM,
        0,
        facts.id,
        inode,
        (facts.local or wildcard_of(family), facts.local_port),
        None if facts.remote is None else (facts.remote, facts.remote_port),
    )
