"""The classes of virtual sockets: one for each class of ordinary sockets and each kind.

An application's own subclass of ``socket.socket``, or ``ssl.SSLSocket``, keeps its methods: ours
stand below it in the method resolution order and above the class it was made from, just where its
``super()`` looks. All have empty ``__slots__``, so that ``__class__`` may be assigned.
"""

from __future__ import annotations

import _socket
import sys
from typing import Any

from ntmpatch.patch.kinds import Kind

_mixins: dict[Kind, type] = {}
_inner_mixins: list[type] = []
_of_base: dict[tuple[type, Kind], type] = {}
_plain_of: dict[type, type] = {}
_patched: list[type] = []


def register_mixin(kind: Kind, mixin: type) -> type:
    """``mixin`` is what sockets of ``kind`` do differently."""
    _mixins[kind] = mixin
    return mixin


def register_inner_mixin(mixin: type) -> type:
    """``mixin`` is what a C socket inside gevent's needs besides."""
    _inner_mixins.insert(0, mixin)
    return mixin


def make_patched(base: type, entry_points: type) -> type:
    """The class that takes the place of ``base``: a subclass with our entry points."""
    patched = type(
        base.__name__,
        (entry_points, base),
        {"__slots__": (), "__module__": base.__module__, "__doc__": base.__doc__},
    )
    _patched.append(patched)
    _register_reducer(patched)
    return patched


def become(socket: Any, kind: Kind) -> None:
    """Make ``socket`` one of ``kind``, and what gevent's servers take out of it likewise."""
    _assign(socket, kind)
    inner = _inner(socket)
    if inner is not None:
        if kind in (Kind.LISTENER, Kind.DATAGRAM):
            _assign(inner, kind)
        else:
            inner.__class__ = _plain_of.get(type(inner), type(inner))


def become_plain(socket: Any) -> None:
    """Make ``socket`` an ordinary one."""
    for each in (socket, _inner(socket)):
        if each is not None:
            each.__class__ = _plain_of.get(type(each), type(each))


def _inner(socket: Any) -> Any:
    """The C socket that gevent's class wraps and its servers use by itself; else None."""
    return None if isinstance(socket, _socket.socket) else socket._sock


def _assign(socket: Any, kind: Kind) -> None:
    plain = _plain_of.get(type(socket), type(socket))
    key = (plain, kind)
    virtual = _of_base.get(key)
    if virtual is None:
        virtual = _of_base[key] = _make(plain, kind)
    socket.__class__ = virtual


def patched_class_of(cls: type) -> Any:
    """The patched class that ``cls`` descends from: what the system's functions would make."""
    return next((ancestor for ancestor in cls.__mro__ if ancestor in _patched), None)


def _make(plain: type, kind: Kind) -> type:
    base = patched_class_of(plain)
    if base is None:
        bases: tuple[type, ...] = (_inner_mixins[0], _mixins[kind], plain)
    elif plain is base:
        bases = (_mixins[kind], base)
    else:
        key = (base, kind)
        if key not in _of_base:
            _of_base[key] = _make(base, kind)
        bases = (plain, _of_base[key])
    virtual = type(
        plain.__name__,
        bases,
        {"__slots__": (), "__module__": plain.__module__, "__doc__": plain.__doc__},
    )
    _plain_of[virtual] = plain
    return virtual


def _register_reducer(cls: type) -> None:
    """Let multiprocessing send such sockets: it goes by the exact class.

    Where it is loaded later it registers ``socket.socket`` itself, which is ours by then. Virtual
    sockets have a ``__reduce_ex__``.
    """
    reduction = sys.modules.get("multiprocessing.reduction")
    if reduction is not None:
        reduction.register(cls, reduction._reduce_socket)
