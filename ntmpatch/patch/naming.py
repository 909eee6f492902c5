"""The name look-ups: nodes' names and virtual addresses by the node, all others by the system.

Services, socket types, protocols and flags are always the system's: it is asked again with the
virtual address in place of the name.
"""

from __future__ import annotations

import _socket
import sys
from typing import TYPE_CHECKING, Any

from ntmpatch.patch import node
from ntmpatch.patch.addressing import format_host, pack_host, text_host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ntmpatch.wire.local import Resolved

_HOST_NOT_FOUND = 1
"""h_errno of netdb.h, in ``socket.herror``."""


def make_lookups(
    system: Mapping[str, Callable[..., Any]], direct: Callable[..., Any]
) -> dict[str, Callable[..., Any]]:
    """Our functions in place of those in ``system``, by name.

    ``direct`` is the standard library's getaddrinfo: numeric hosts need no other, even where
    gevent's is in use.
    """
    system_getaddrinfo = system["getaddrinfo"]
    system_gethostbyname = system["gethostbyname"]
    system_gethostbyname_ex = system["gethostbyname_ex"]
    system_gethostbyaddr = system["gethostbyaddr"]
    system_getnameinfo = system["getnameinfo"]

    def getaddrinfo(
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002  # of the interface
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        name = _node_name(host)
        if name is None:
            return system_getaddrinfo(host, port, family, type, proto, flags)  # type: ignore[no-any-return]  # as it came
        sys.audit("socket.getaddrinfo", host, port, family, type, proto)
        if flags & _socket.AI_NUMERICHOST:
            raise _no_name()
        resolved = node.current.resolve(name)
        numeric_flags = (flags | _socket.AI_NUMERICHOST) & ~(
            _socket.AI_ADDRCONFIG | _socket.AI_CANONNAME
        )
        found: list[Any] = []
        for numeric_family, numeric in _addresses(resolved, family, flags):
            found += direct(numeric, port, numeric_family, type, proto, numeric_flags)
        if not found:
            raise _gaierror(_socket.EAI_ADDRFAMILY)
        if flags & _socket.AI_CANONNAME:
            first = found[0]
            found[0] = (*first[:3], resolved.canonical_name, first[4])
        return found

    def gethostbyname(hostname: Any) -> str:
        name = _node_name(hostname)
        if name is None:
            return system_gethostbyname(hostname)  # type: ignore[no-any-return]  # as it came
        sys.audit("socket.gethostbyname", hostname)
        return format_host(_socket.AF_INET, _ipv4_of(node.current.resolve(name)))

    def gethostbyname_ex(hostname: Any) -> tuple[str, list[str], list[str]]:
        name = _node_name(hostname)
        if name is None:
            return system_gethostbyname_ex(hostname)  # type: ignore[no-any-return]  # as it came
        sys.audit("socket.gethostbyname", hostname)
        resolved = node.current.resolve(name)
        address = format_host(_socket.AF_INET, _ipv4_of(resolved))
        return resolved.canonical_name, [], [address]

    def gethostbyaddr(ip_address: Any) -> tuple[str, list[str], list[str]]:
        packed = _virtual(ip_address)
        name = None if packed is not None else _node_name(ip_address)
        if packed is None and name is None:
            return system_gethostbyaddr(ip_address)  # type: ignore[no-any-return]  # as it came
        sys.audit("socket.gethostbyaddr", ip_address)
        if packed is None:
            assert name is not None
            resolved = node.current.resolve(name)
            packed = resolved.ipv4 or resolved.ipv6
            canonical: str | None = resolved.canonical_name
        else:
            canonical = _name_of(packed)
        if canonical is None or packed is None:
            raise _socket.herror(_HOST_NOT_FOUND, "Unknown host")
        family = _socket.AF_INET if len(packed) == 4 else _socket.AF_INET6
        return canonical, [], [format_host(family, packed)]

    def getnameinfo(sockaddr: Any, flags: int) -> tuple[str, str]:
        packed = _virtual(sockaddr[0]) if isinstance(sockaddr, tuple) and sockaddr else None
        if packed is None:
            try:
                return system_getnameinfo(sockaddr, flags)  # type: ignore[no-any-return]  # as it came
            finally:
                del sockaddr  # a traceback that is kept must not keep the argument, as C's does not
        host, service = _socket.getnameinfo(
            sockaddr, (flags | _socket.NI_NUMERICHOST) & ~_socket.NI_NAMEREQD
        )
        if not flags & _socket.NI_NUMERICHOST:
            name = _name_of(packed)
            if name is not None:
                host = name
            elif flags & _socket.NI_NAMEREQD:
                raise _no_name()
        return host, service

    ours: dict[str, Callable[..., Any]] = {
        "getaddrinfo": getaddrinfo,
        "gethostbyname": gethostbyname,
        "gethostbyname_ex": gethostbyname_ex,
        "gethostbyaddr": gethostbyaddr,
        "getnameinfo": getnameinfo,
    }
    for name, function in ours.items():
        function.__doc__ = system[name].__doc__
        function.__module__ = system[name].__module__
        function.__qualname__ = name
    return ours


def is_ours(host: Any) -> bool:
    """Whether the node answers for ``host``: a node's name, or a virtual address in digits."""
    return _node_name(host) is not None or _virtual(host) is not None


def _node_name(host: Any) -> str | None:
    """The normalised name if ``host`` is a node's, else None."""
    if not node.current.is_enabled or host is None:
        return None
    text = text_host(host)
    if text is None or not node.current.is_node_name(text):
        return None
    return text.rstrip(".").lower()


def _virtual(host: Any) -> bytes | None:
    """The packed address if ``host`` is a virtual one in digits, else None."""
    if not node.current.is_enabled:
        return None
    text = text_host(host)
    if text is None:
        return None
    packed = pack_host(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text)
    return packed if packed is not None and node.current.is_virtual(packed) else None


def _addresses(resolved: Resolved, family: int, flags: int) -> list[tuple[int, str]]:
    """Families and numeric hosts to answer with; IPv4 first, as RFC 6724 ranks ULAs lower."""
    ipv4, ipv6 = resolved.ipv4, resolved.ipv6
    found: list[tuple[int, str]] = []
    if ipv4 is not None and family in (_socket.AF_UNSPEC, _socket.AF_INET):
        found.append((_socket.AF_INET, format_host(_socket.AF_INET, ipv4)))
    if ipv6 is not None and family in (_socket.AF_UNSPEC, _socket.AF_INET6):
        found.append((_socket.AF_INET6, format_host(_socket.AF_INET6, ipv6)))
    # RFC 3493, section 6.1: mapped addresses in the absence of real ones, or with AI_ALL beside.
    if (
        family == _socket.AF_INET6
        and ipv4 is not None
        and flags & _socket.AI_V4MAPPED
        and (ipv6 is None or flags & _socket.AI_ALL)
    ):
        found.append((_socket.AF_INET6, format_host(_socket.AF_INET6, ipv4)))
    return found


def _ipv4_of(resolved: Resolved) -> bytes:
    if resolved.ipv4 is None:
        raise _gaierror(_socket.EAI_ADDRFAMILY)
    return resolved.ipv4


def _name_of(address: bytes) -> str | None:
    """The name of the node with a virtual address; None if nobody knows, or there is no node."""
    node.load()
    from ntmpatch.wire.local import Named, ReverseResolve  # noqa: PLC0415  # is loaded by now

    try:
        return node.current.call(ReverseResolve(address), Named).name
    except OSError as error:
        raise _socket.herror(2, "Host name lookup failure") from error


def _gaierror(code: int) -> OSError:
    node.load()
    from ntmpatch.patch.client import gaierror  # noqa: PLC0415  # is loaded by now

    return gaierror(code)


def _no_name() -> OSError:
    return _gaierror(_socket.EAI_NONAME)
