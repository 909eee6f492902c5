"""The patched surface, as data: every name that is replaced, and where.

``tests/patch/test_surface.py`` checks these lists against the standard library and gevent: each
name exists there, and no module has a copy of a replaced object that is missing here.
"""

from __future__ import annotations

from typing import Final

SOCKET_CLASS: Final = "socket"
"""``socket.socket``, replaced by a subclass of itself."""

LOOKUPS: Final = (
    "getaddrinfo",
    "gethostbyname",
    "gethostbyname_ex",
    "gethostbyaddr",
    "getnameinfo",
)
"""Functions of ``socket`` that answer for names and virtual addresses; getfqdn() follows."""

ENTRY_POINTS: Final = (
    "__init__",
    "bind",
    "connect",
    "connect_ex",
    "listen",
    "sendmsg",
    "sendto",
)
"""All methods that an ordinary socket has from us: the ways to turn virtual."""

STDLIB_MODULES: Final = ("socket", "ssl")
"""Modules of the standard library with module-level names for what is replaced."""

GEVENT_MODULES: Final = (
    "gevent._socketcommon",
    "gevent._socket3",
    "gevent.socket",
    "gevent.ssl",
    "gevent.server",
)
"""Modules of gevent with such names. They matter once gevent's class is the one in ``socket``."""

REBASED_CLASSES: Final = (("ssl", "SSLSocket"), ("gevent.ssl", "SSLSocket"))
"""Subclasses of the replaced class that were made before it was replaced: they get ours as base.

``ssl.SSLSocket`` reaches ``connect`` and the rest by ``super()``, and must stay a subclass of
``socket.socket`` for ``isinstance``.
"""

UVLOOP_METHODS: Final = (
    "connect_accepted_socket",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "getaddrinfo",
    "getnameinfo",
)
"""Methods of ``uvloop.Loop`` that are ours while it is patched, by a base class put before its."""

FOLLOWERS: Final = (
    "create_connection",
    "create_server",
    "fromfd",
    "getfqdn",
    "socketpair",
)
"""Functions of ``socket`` that look the replaced names up when called, and so need nothing."""

C_ALIASES: Final = ("SocketType",)
"""Names for the C base class ``_socket.socket``, which stays: ``isinstance`` holds for ours."""
