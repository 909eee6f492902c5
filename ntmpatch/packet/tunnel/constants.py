"""WireGuard's numbers, as one value that a test or a peer may shorten.

Source: the WireGuard paper, section 6.1; those marked so are ours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """In seconds but for the last two."""

    rekey_after_time: float = 120.0
    """Age at which the initiator of a session that sends begins the next one."""
    reject_after_time: float = 180.0
    """Age at which a session neither sends nor receives any more."""
    rekey_attempt_time: float = 90.0
    """How long a handshake is tried before the peer counts as unreachable."""
    rekey_timeout: float = 5.0
    """Between two initiations to a peer that does not answer."""
    rekey_timeout_jitter: float = 0.333
    keepalive_timeout: float = 10.0
    """Silence after received data that a keep-alive ends."""
    cookie_lifetime: float = 120.0
    """Of the secret behind cookies, and of a cookie received."""
    flood_interval: float = 0.02
    """Between two initiations that one peer may have answered (ours: wireguard-go's value)."""
    rekey_after_messages: int = 1 << 60
    """Packets sealed with a session after which either end begins the next one."""
    reject_after_messages: int = (1 << 64) - (1 << 13) - 1
    """Packets after which a session seals no more; above the counters of one batch stay free."""


MAX_STAGED = 128
"""Packets that wait for a handshake, per peer (wireguard-go: 1024; ours are mostly SYNs)."""

MAX_CALLS = 6
"""Initiations of ours to one peer that may still be answered (ours: first retries and one more)."""

MAX_UNCONFIRMED = 6
"""Sessions we offered one peer as responder and have not heard used: as many as it may call."""

MAX_RETIRED = 6
"""Sessions before the current one that still receive (WireGuard has one). Where both ends call at
once with quick retries, the far end may send with any of those that we offered it."""

MAX_HELD = 4
"""Initiations of keys that a route direction has yet to name (ours; Fig. 3 (15) and (17))."""

REPEATED_WITHIN = 1.0
"""Seconds in which an initiation is answered again if the pre-shared key changes (ours)."""

LOAD_RATE = 64
"""Handshake messages a second above which cookies are asked for (ours: one costs about 0.5 ms)."""

SOURCE_RATE = 20
"""Handshake messages a second that one source may have while under load (wireguard-go)."""

SOURCE_BURST = 5

MAX_SOURCES = 4096
"""Sources remembered while under load; beyond, the table starts anew."""

DEFAULT_MTU = 1376
"""Bytes of an inner packet: with 16-byte padding, tag, header, relay frame and IPv6 it stays
below 1480 on the wire."""
