"""The four servers on real sockets: each a station, with what its role has beside signalling."""

from __future__ import annotations

import os
import random
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import gevent.event

from ntmpatch.base.drops import DropCounter
from ntmpatch.runtime.station import Station
from ntmpatch.signalling.effects import Failed, Persist, Ready
from ntmpatch.wire.relay import FRAME_DATA, RELAY_BYTE, RELAY_HEADER_SIZE
from ntmpatch.wire.stun import is_stun
from ntmpatch.wire.wireguard import INITIATION, RESPONSE, TYPE_WORD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.runtime.trace import TraceWriter
    from ntmpatch.servers.relay.table import Forwarded
    from ntmpatch.signalling.effects import Effect
    from ntmpatch.signalling.party import Party

P = TypeVar("P", bound="Party")

_RELAYED_STEPS = {INITIATION: ("5.26", "tunnel request"), RESPONSE: ("5.28", "tunnel response")}
"""What a relay can tell of what it passes on: the first word of it, which is not sealed."""


class ServerStation:
    """One server: ``make_party(public_key, **common)`` builds its party.

    ``on_ready()`` once it can serve, ``on_failed(error)`` when it never will, ``persist(state)``
    with bytes to keep for the next start.
    """

    def __init__(
        self,
        private_key: bytes,
        make_party: Callable[..., Party],
        *,
        binds: Sequence[Endpoint],
        trace: TraceWriter,
        persist: Callable[[bytes], None],
        on_ready: Callable[[], None],
        on_failed: Callable[[Exception], None],
        on_datagram: Callable[[memoryview, int, Endpoint], bool] | None = None,
        group: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._persist = persist
        self._on_ready = on_ready
        self._on_failed = on_failed
        self.drops = DropCounter()
        self.idle = gevent.event.Event()
        """Set once the party drains and nothing is under way any more."""
        self.told = gevent.event.Event()
        """Set once those who should know that the server is gone have heard it."""
        self._is_leaving = False

        def make(public_key: bytes) -> Party:
            return make_party(
                public_key,
                now=time.monotonic(),
                rng=random.Random(os.urandom(16)),
                wall_clock=time.time,
                entropy=os.urandom,
                drops=self.drops,
            )

        self.station = Station(
            private_key,
            make,
            admit=self._admit,
            trace=trace,
            on_effect=self._effect,
            on_datagram=on_datagram,
            group=group,
            before_wait=self._look_for_the_end,
            drops=self.drops,
        )
        self.party: Any = self.station.party
        self.station.carrier.bind(binds)

    def begin(self) -> None:
        """Enrol if need be, and serve."""
        self.party.begin(time.monotonic())
        self.station.carrier.wake()

    def drain(self) -> None:
        """Take nothing new; `idle` tells when what is under way has ended."""
        self.party.drain(time.monotonic())
        self.station.carrier.wake()

    def leave(self) -> None:
        """Tell those who should know that this server is gone; `told` when they have heard."""
        self._is_leaving = True
        self.party.leave(time.monotonic())
        self.station.carrier.wake()

    def close(self) -> None:
        """Close the ports."""
        self.station.close()

    def _admit(self, public_key: bytes) -> bool:
        return bool(self.party.admit(public_key, time.monotonic()))

    def _look_for_the_end(self, _now: float) -> None:
        # The last answer leaves in this same wake-up, before whoever waits for the event runs.
        if self.party.draining and self.party.is_idle:
            self.idle.set()
        if self._is_leaving and self.party.has_told:
            self.told.set()

    def _effect(self, effect: Effect, _now: float) -> None:
        match effect:
            case Persist():
                self._persist(effect.state)
            case Ready():
                self._on_ready()
            case Failed() if effect.fatal:
                self._on_failed(effect.error)
            case _:
                pass


class RelayForwarding:
    """The relay's data path: 64 KB in, 64 KB out, nothing opened; and its answers to STUN."""

    def __init__(self) -> None:
        self.station: Station | None = None

    def datagram(self, buffer: memoryview, segment_size: int, source: Endpoint) -> bool:
        """Claim relay frames and STUN; everything else is for the server's own tunnel."""
        station = self.station
        if station is None or len(buffer) < RELAY_HEADER_SIZE:
            return False
        if buffer[0] != RELAY_BYTE:
            return self._stun(station, buffer, segment_size, source)
        table = station.party.table  # type: ignore[attr-defined]  # the party is a RelayServer
        now = time.monotonic()
        if buffer[1] == FRAME_DATA:
            for onward in table.forward(source, buffer, segment_size, now):
                if station.party.traced:
                    self._trace(station, onward)
                station.carrier.forward(onward.buffer, onward.segment_size, onward.destination)
            return True
        for start in range(0, len(buffer), segment_size):
            answer = table.bind(source, buffer[start : start + segment_size], now)
            if answer is not None:
                station.carrier.send_datagram(answer, source)
        return True

    @staticmethod
    def _stun(station: Station, buffer: memoryview, segment_size: int, source: Endpoint) -> bool:
        if not is_stun(buffer):
            return False
        reflexive = station.party.reflexive  # type: ignore[attr-defined]  # the party is a RelayServer
        now = time.monotonic()
        for start in range(0, len(buffer), segment_size):
            answer = reflexive.answer(source, buffer[start : start + segment_size], now)
            if answer is not None:
                station.carrier.send_datagram(answer, source)
        return True

    @staticmethod
    def _trace(station: Station, onward: Forwarded[Endpoint]) -> None:
        """Fig. 5 (26), (28). Who the ends are a relay does not know: it tells where they are."""
        if len(onward.buffer) >= RELAY_HEADER_SIZE + TYPE_WORD.size:
            (kind,) = TYPE_WORD.unpack_from(onward.buffer, RELAY_HEADER_SIZE)
            if kind in _RELAYED_STEPS:
                step, message = _RELAYED_STEPS[kind]
                station.trace(step, str(onward.destination), message)
