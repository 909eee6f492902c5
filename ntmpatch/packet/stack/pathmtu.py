"""How large a packet each path carries: datagram path MTU discovery (RFC 8899).

A path begins with the size that nearly every path carries, and a search looks for more while
there is bulk traffic to gain from it. Probes are echo requests of the size in question, so any
stack answers them, and a lost one costs no data. A path that nobody uses has no timer.
"""

from __future__ import annotations

from hashlib import blake2s
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.base.timers import TimerQueue
from ntmpatch.packet.stack.pathsearch import MIN_MTU, RAISE_INTERVAL, PathMtu, Phase
from ntmpatch.wire import icmp, ip
from ntmpatch.wire.segments import SuperSegment

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.drops import DropCounter

IDLE_TIMEOUT = 10.0
"""A search rests when the path was not used for so long."""

MAX_PATHS = 4096
"""Those used last are remembered."""

_COOKIE_SIZE = 16


class PathMtuService:
    """The paths of one stack, by remote virtual address.

    ``changed(remote, mtu, now)`` tells of every change of a size in use.
    """

    def __init__(
        self,
        *,
        base: int,
        limit: int,
        secret: bytes,
        drops: DropCounter,
        emit: Callable[[SuperSegment], None],
        source_for: Callable[[bytes], bytes],
        is_own: Callable[[bytes], bool],
        changed: Callable[[bytes, int, float], None],
    ) -> None:
        self.base = base
        self.limit = max(limit, base)
        self.timers: TimerQueue[bytes] = TimerQueue()
        self._secret = secret
        self._drops = drops
        self._emit = emit
        self._source_for = source_for
        self._is_own = is_own
        self._changed = changed
        self._paths: dict[bytes, PathMtu] = {}
        self._count = 0

    def mtu(self, remote: bytes) -> int:
        """Bytes of the largest packet to send to ``remote``."""
        if self._is_own(remote):
            return ip.MAX_PACKET_SIZE
        path = self._paths.get(remote)
        return self.base if path is None else path.mtu

    def largest(self, remote: bytes) -> int:
        """Bytes of the largest packet that may ever come from ``remote``."""
        return ip.MAX_PACKET_SIZE if self._is_own(remote) else self.limit

    def used(self, remote: bytes, now: float) -> None:
        """There is traffic that larger packets would serve: search, if that is due."""
        if self.limit == self.base:
            return  # nothing to find; a smaller size is looked for when TCP suspects it
        path = self._paths.get(remote)
        if path is None:
            if self._is_own(remote):
                return
            path = self._add(remote, now)
        path.used_at = now
        if path.probed is not None:
            return
        if path.phase is Phase.COMPLETE:
            if now < path.raise_at:
                return
            path.search_again()
        self._next(remote, path, now)

    def timed_out(self, remote: bytes, size: int, now: float) -> None:
        """TCP lost a packet of ``size`` bytes again and again."""
        if size <= MIN_MTU or self._is_own(remote):
            return
        path = self._paths.get(remote) or self._add(remote, now)
        if size > path.mtu or path.suspected:
            return
        path.used_at = now
        path.suspect()
        self._next(remote, path, now)

    def forget(self, remote: bytes, now: float) -> None:
        """The way to ``remote`` is another one."""
        path = self._paths.pop(remote, None)
        self.timers.cancel(remote)
        if path is not None and path.mtu != self.base:
            self._changed(remote, self.base, now)

    def reply(self, remote: bytes, rest: int, body: memoryview, now: float) -> None:
        """An echo reply: it must be one to a probe under way, and whole."""
        path = self._paths.get(remote)
        cookie = rest.to_bytes(4, "big") + bytes(body[:_COOKIE_SIZE])
        sent_at = None if path is None else path.cookies.get(cookie)
        if path is None or sent_at is None or path.probed is None:
            self._drops.drop(Drop.ICMP_UNASKED)
            return
        if ip.header_size(remote) + icmp.HEADER_SIZE + len(body) != path.probed:
            self._drops.drop(Drop.ICMP_UNASKED)
            return
        sample = now - sent_at
        path.round_trip = sample if path.round_trip is None else (path.round_trip + sample) / 2
        before = path.mtu
        path.confirmed(path.probed)
        self._next(remote, path, now, before)

    def refused_probe(self, quote: icmp.Quote, size: int, now: float) -> bool:
        """A router's Packet Too Big about a probe of ours; False if it is about none."""
        path = self._paths.get(quote.destination)
        identifier = quote.seq.to_bytes(4, "big")
        if path is None or not any(cookie[:4] == identifier for cookie in path.cookies):
            return False
        self.too_big(quote.destination, size, now)
        return True

    def too_big(self, remote: bytes, size: int, now: float) -> None:
        """A router carries ``size`` bytes at most; the caller knows that it saw our packet."""
        if self._is_own(remote):
            return
        path = self._paths.get(remote) or self._add(remote, now)
        before = path.mtu
        if path.too_big(size, now):
            self._next(remote, path, now, before)

    def refused(self, remote: bytes, size: int, now: float) -> None:
        """A packet of ``size`` bytes did not even leave this host: as if its probes were lost."""
        if size <= MIN_MTU or self._is_own(remote):
            return
        path = self._paths.get(remote) or self._add(remote, now)
        before = path.mtu
        if size == path.probed:
            path.lost(now)
        elif size <= path.mtu:
            self._rest(path)
            path.suspect()
            path.lost(now)
        else:
            return  # made before the size in use became smaller
        self._next(remote, path, now, before)

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        return self.timers.earliest()

    def handle_timeout(self, now: float) -> None:
        """Probes that were not answered in time."""
        for remote in self.timers.pop_due(now):
            path = self._paths[remote]
            before = path.mtu
            if path.is_exhausted:
                path.lost(now)
                self._next(remote, path, now, before)
            elif now - path.used_at > IDLE_TIMEOUT and not path.suspected:
                self._rest(path)
            else:
                self._probe(remote, path, now)

    # --- inside -----------------------------------------------------------------------------

    def _add(self, remote: bytes, now: float) -> PathMtu:
        if len(self._paths) >= MAX_PATHS:
            oldest = min(self._paths, key=lambda each: self._paths[each].used_at)
            self.forget(oldest, now)
        path = self._paths[remote] = PathMtu(self.base, self.limit, now)
        return path

    def _rest(self, path: PathMtu) -> None:
        path.probed = None
        path.attempts = 0
        path.cookies.clear()

    def _next(self, remote: bytes, path: PathMtu, now: float, before: int | None = None) -> None:
        """Go on with another size, and tell of a change from ``before``."""
        self.timers.cancel(remote)
        self._rest(path)
        size = path.candidate()
        if size is not None:
            path.probed = size
            self._probe(remote, path, now)
        elif path.phase is Phase.SEARCHING:
            path.complete(now + RAISE_INTERVAL)
        if before is not None and path.mtu != before:
            self._changed(remote, path.mtu, now)

    def _probe(self, remote: bytes, path: PathMtu, now: float) -> None:
        assert path.probed is not None
        try:
            source = self._source_for(remote)
        except OSError:  # our address is gone
            self._rest(path)
            return
        # Unpredictable, so that only who has seen the probe can answer for it.
        self._count += 1
        digest = blake2s(self._count.to_bytes(8, "big"), key=self._secret, person=b"path mtu")
        cookie = digest.digest()[: 4 + _COOKIE_SIZE]
        path.cookies[cookie] = now
        overhead = ip.header_size(remote)
        body_size = path.probed - overhead - icmp.HEADER_SIZE
        message = icmp.build_echo_request(
            source,
            remote,
            int.from_bytes(cookie[:4], "big"),
            cookie[4:] + bytes(body_size - _COOKIE_SIZE),
        )
        head = ip.build(source, remote, icmp.protocol_of(remote), len(message))
        self._emit(SuperSegment(remote, head, memoryview(message), len(message), overhead))
        self.timers.arm(remote, now + path.probe_timeout())
        path.attempts += 1
