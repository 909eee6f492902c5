"""Socket options of a virtual socket: checked by the kernel, kept here, told to the node.

A scratch kernel socket of the same kind judges every option, so defaults, clamping and errnos are
Linux's own.
"""

from __future__ import annotations

import _socket
import atexit
import contextlib
import struct
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

OptionKey: TypeAlias = tuple[int, int]
OptionValue: TypeAlias = int | bytes

_SOL_SOCKET = _socket.SOL_SOCKET
_TCP = _socket.IPPROTO_TCP

LINGER: Final = (_SOL_SOCKET, _socket.SO_LINGER)
REUSE_ADDRESS: Final = (_SOL_SOCKET, _socket.SO_REUSEADDR)
REUSE_PORT: Final = (_SOL_SOCKET, _socket.SO_REUSEPORT)
INFO: Final = (_TCP, _socket.TCP_INFO)
OF_THE_PATH: Final[dict[OptionKey, int]] = {
    (_TCP, _socket.TCP_MAXSEG): 16,  # tcpi_snd_mss
    (_socket.IPPROTO_IP, 14): 60,  # IP_MTU: tcpi_pmtu
    (_socket.IPPROTO_IPV6, 24): 60,  # IPV6_MTU
}
"""What a connection's path decides: where it stands in TCP_INFO, as 32 bits."""
V6ONLY: Final = (_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY)

_SIZES: Final[dict[OptionKey, int]] = {
    LINGER: 8,
    (_SOL_SOCKET, _socket.SO_RCVTIMEO): 16,
    (_SOL_SOCKET, _socket.SO_SNDTIMEO): 16,
}
"""Options that are structs; all others kept here are ints."""

KEPT_BY_THE_PAIR: Final = frozenset(
    {(_SOL_SOCKET, _socket.SO_RCVTIMEO), (_SOL_SOCKET, _socket.SO_SNDTIMEO)}
)
"""Options that the kernel must apply to the near end itself."""

SEND_BUFFER: Final = (_SOL_SOCKET, _socket.SO_SNDBUF)
RECEIVE_BUFFER: Final = (_SOL_SOCKET, _socket.SO_RCVBUF)

_CARRIED: Final[tuple[OptionKey, ...]] = (
    REUSE_ADDRESS,
    REUSE_PORT,
    (_SOL_SOCKET, _socket.SO_KEEPALIVE),
    (_SOL_SOCKET, _socket.SO_BROADCAST),
    RECEIVE_BUFFER,
    SEND_BUFFER,
    LINGER,
    *KEPT_BY_THE_PAIR,
)
_CARRIED_TCP: Final[tuple[OptionKey, ...]] = (
    (_TCP, _socket.TCP_NODELAY),
    (_TCP, _socket.TCP_CORK),
    (_TCP, _socket.TCP_KEEPIDLE),
    (_TCP, _socket.TCP_KEEPINTVL),
    (_TCP, _socket.TCP_KEEPCNT),
    (_TCP, _socket.TCP_USER_TIMEOUT),
)

_FOR_THE_NODE: Final = frozenset(
    {(_SOL_SOCKET, _socket.SO_KEEPALIVE), LINGER, RECEIVE_BUFFER, SEND_BUFFER, *_CARRIED_TCP}
)
"""What changes how the stack behaves."""

_scratch: dict[tuple[int, int, int], _socket.socket] = {}


def scratch(family: int, type_: int, proto: int) -> _socket.socket:
    """A kernel socket that is never connected, for its options' defaults."""
    key = (family, type_, proto)
    socket = _scratch.get(key)
    if socket is None:
        socket = _scratch[key] = _socket.socket(family, type_, proto)
    return socket


@atexit.register
def _close_scratch() -> None:
    while _scratch:
        _scratch.popitem()[1].close()


def snapshot(
    real: _socket.socket, family: int, type_: int, proto: int
) -> dict[OptionKey, OptionValue]:
    """What the application set on ``real`` before it turned virtual: differences from defaults."""
    defaults = scratch(family, type_, proto)
    found: dict[OptionKey, OptionValue] = {}
    keys = _CARRIED + (_CARRIED_TCP if type_ == _socket.SOCK_STREAM else ())
    if family == _socket.AF_INET6:
        keys += (V6ONLY,)
    for key in keys:
        with contextlib.suppress(OSError):
            size = _SIZES.get(key)
            if size is None:
                value: OptionValue = real.getsockopt(*key)
                is_default = value == defaults.getsockopt(*key)
            else:
                value = real.getsockopt(*key, size)
                is_default = value == defaults.getsockopt(*key, size)
            if not is_default:
                found[key] = value
    return found


def restore(fresh: _socket.socket, kept: dict[OptionKey, OptionValue]) -> None:
    """Give a new kernel socket what ``snapshot`` found on another."""
    for key, value in kept.items():
        told = value
        if key in (SEND_BUFFER, RECEIVE_BUFFER) and isinstance(value, int):
            told = value // 2  # the kernel doubles what it is told
        with contextlib.suppress(OSError):
            fresh.setsockopt(*key, told)


def apply_to_pair(near: _socket.socket, kept: dict[OptionKey, OptionValue]) -> None:
    """Give the near end what the kernel must heed itself: time-outs, and the size to send."""
    for key in KEPT_BY_THE_PAIR:
        if key in kept:
            near.setsockopt(*key, kept[key])
    size = kept.get(SEND_BUFFER)
    if isinstance(size, int):
        near.setsockopt(*SEND_BUFFER, size // 2)  # the kernel doubles what it is told


def for_the_node(
    options: Iterable[tuple[OptionKey, OptionValue]],
) -> tuple[tuple[int, int, OptionValue], ...]:
    """Those that the stack heeds, as the local protocol carries them."""
    return tuple((*key, value) for key, value in options if key in _FOR_THE_NODE)


def is_for_the_node(key: OptionKey) -> bool:
    """Whether setting this option must be told to the node."""
    return key in _FOR_THE_NODE


def check(
    family: int, type_: int, proto: int, key: OptionKey, value: object, *length: int
) -> OptionValue:
    """Set an option on a fresh kernel socket and read it back; OSError and TypeError as Linux's."""
    with contextlib.closing(_socket.socket(family, type_, proto)) as judge:
        judge.setsockopt(*key, value, *length)  # type: ignore[call-overload]  # judged by the call
        try:
            if isinstance(value, int):
                return judge.getsockopt(*key)
            return judge.getsockopt(*key, len(value))  # type: ignore[arg-type]  # a buffer by now
        except (OSError, TypeError):  # cannot be read back
            return value if isinstance(value, int) else bytes(value)  # type: ignore[call-overload]  # a buffer by now


def as_asked(value: OptionValue, size: int | None) -> OptionValue:
    """A kept value as getsockopt() gives it: an int, or ``size`` bytes."""
    if size is None:
        if isinstance(value, int):
            return value
        return struct.unpack("i", value[:4].ljust(4, b"\0"))[0]  # type: ignore[no-any-return]
    data = struct.pack("i", value) if isinstance(value, int) else value
    return data[:size]
