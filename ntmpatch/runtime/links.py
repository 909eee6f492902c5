"""Both ends of the notification service's connection: the node's link, and the NS's port."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.base.backoff import Backoff
from ntmpatch.runtime.streams import StreamListener, TunnelStream, connect_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.packet.tunnel.peer import Peer
    from ntmpatch.runtime.carrier import Path
    from ntmpatch.runtime.station import Station

FIRST_RETRY_INTERVAL = 0.5
MAX_RETRY_INTERVAL = 30.0
CONNECT_TIMEOUT = 10.0
"""Seconds for the connection and the first handshake on it; then the next try."""


class NodeLink:
    """The TCP connection to a notification server, made again whenever it breaks.

    ``on_failed()`` each time it breaks or cannot be made, but not when it is remade on purpose.
    """

    def __init__(
        self,
        station: Station,
        peer: Peer[Path],
        endpoints: tuple[Endpoint, ...],
        on_failed: Callable[[], None],
    ) -> None:
        self.endpoints = endpoints
        self._station = station
        self._peer = peer
        self._on_failed = on_failed
        self._backoff = Backoff(
            initial=FIRST_RETRY_INTERVAL, maximum=MAX_RETRY_INTERVAL, rng=station.rng
        )
        self._stream: TunnelStream | None = None
        self._waiting: Any = None
        """What happens next: another try, or the end of this one's patience."""
        self._tries = 0
        self._closed = False
        self._connect()

    def established(self) -> None:
        """A handshake succeeded."""
        if self._stream is not None and self._peer.endpoint is self._stream:
            self._backoff.reset()
            self._stop_waiting()

    def segments_received(self) -> int | None:
        """What the kernel counted on this connection; None if there is none."""
        return self._stream.segments_received() if self._stream is not None else None

    def local(self) -> Endpoint | None:
        """This end's address; None while there is no connection."""
        return self._stream.local() if self._stream is not None else None

    def reconnect(self) -> None:
        """Make another connection, at once: the network is another one, or this one is dead."""
        self._drop()
        self._connect()

    def close(self) -> None:
        """No connection any more."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        self._stop_waiting()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _connect(self) -> None:
        self._waiting = None
        if self._closed:
            return
        station = self._station
        remote = self._next_endpoint()
        if remote is None:
            return  # no address of its family here; the next network may have one
        source = next(
            (
                end
                for end in station.carrier.local_endpoints
                if end.is_ipv6 == remote.is_ipv6 and end.host not in ("0.0.0.0", "::")
            ),
            None,
        )
        self._stream = connect_stream(
            remote,
            on_message=self._message,
            on_closed=self._broken,
            source=source,
            interface=station.carrier.interfaces.get(remote.is_ipv6, ""),
        )
        if self._stream is None:
            self._retry()
            return
        self._waiting = gevent.spawn_later(CONNECT_TIMEOUT, self._stream.close)
        # A session of the connection before would be known to the far end by the old stream only:
        # the handshake moves it here, and tells it that we are back.
        self._peer.endpoint = self._stream
        self._peer.restart_handshake(time.monotonic())
        station.carrier.wake()

    def _next_endpoint(self) -> Endpoint | None:
        usable = self._station.reachable(self.endpoints)
        if not usable:
            return None
        self._tries += 1
        return usable[(self._tries - 1) % len(usable)]

    def _message(self, stream: TunnelStream, message: memoryview) -> None:
        self._station.carrier.receive(message, len(message), stream)
        self._station.carrier.wake()

    def _broken(self, stream: TunnelStream) -> None:
        if stream is self._stream:
            self._stream = None
            self._retry()

    def _retry(self) -> None:
        self._stop_waiting()
        self._waiting = gevent.spawn_later(self._backoff.next_interval(), self._connect)
        self._on_failed()

    def _stop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        # It may be what runs now, when its time is over.
        if waiting is not None and waiting is not gevent.getcurrent():
            waiting.kill(block=False)


class NotificationLinks:
    """The TCP port of a notification server: connections that carry its tunnel's messages."""

    def __init__(
        self, bind: Endpoint, station: Station, *, limit: int, limit_per_host: int
    ) -> None:
        self._station = station
        self._listener = StreamListener(
            bind,
            on_message=self._message,
            on_closed=self._closed,
            limit=limit,
            limit_per_host=limit_per_host,
        )
        self.local = self._listener.local

    def close(self) -> None:
        """Close the port and the connections."""
        self._listener.close()

    def _message(self, stream: TunnelStream, message: memoryview) -> None:
        self._station.carrier.receive(message, len(message), stream)
        self._station.carrier.wake()

    def _closed(self, stream: TunnelStream) -> None:
        key = stream.peer_key
        peer = None if key is None else self._station.tunnel.peers.get(key)
        if peer is not None and peer.endpoint is stream:
            party: Any = self._station.party
            party.disconnected(peer.public_key, time.monotonic())
