"""Enrolment ahead of the program: a token becomes an identity in the state, or an error."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import gevent
import gevent.event

from ntmpatch.base.errors import UnavailableError
from ntmpatch.negotiation.node import NodeNegotiation
from ntmpatch.runtime.interfaces import concrete, usable
from ntmpatch.runtime.state import ENROLMENT
from ntmpatch.runtime.station import Station
from ntmpatch.runtime.trace import TraceWriter
from ntmpatch.signalling.effects import Failed, Persist
from ntmpatch.signalling.enrolled import EnrolmentState

if TYPE_CHECKING:
    from ntmpatch.runtime.settings import NodeSettings
    from ntmpatch.signalling.effects import Effect


class _Enrolment:
    """A station that lives until its party is certified."""

    def __init__(self, settings: NodeSettings) -> None:
        self.done: gevent.event.AsyncResult[None] = gevent.event.AsyncResult()
        self.last_failure: Exception | None = None
        self._settings = settings
        self.station = Station(
            settings.private_key,
            self._make,
            admit=None,
            trace=TraceWriter(),
            on_effect=self._effect,
            gso=settings.offload,
        )

    def _make(self, public_key: bytes) -> NodeNegotiation:
        self.negotiation = NodeNegotiation(
            public_key,
            token=self._settings.token,
            state=None,
            now=time.monotonic(),
            rng=random.Random(os.urandom(16)),
            wall_clock=time.time,
            entropy=os.urandom,
        )
        return self.negotiation

    def begin(self) -> None:
        """Bind and ask."""
        carrier = self.station.carrier
        carrier.bind(usable(self._settings.binds))
        endpoints = concrete(carrier.local_endpoints, self.negotiation.server_endpoints())
        self.negotiation.begin(endpoints, time.monotonic())
        carrier.wake()

    def _effect(self, effect: Effect, _now: float) -> None:
        match effect:
            case Persist():
                state = self._settings.state
                state.write(ENROLMENT, effect.state)
                if EnrolmentState.decode(effect.state).coordinators:
                    domains = (*self.negotiation.domains(), *self._settings.domains)
                    state.write_names(domains, self.negotiation.virtual_prefixes())
                    # Before the negotiation goes on to the DC: that is the program's to do.
                    self.station.close()
                    self.done.set(None)
            case Failed():
                self.last_failure = effect.error
                if effect.fatal:
                    self.done.set_exception(effect.error)
            case _:
                pass


def enrol(settings: NodeSettings, timeout: float) -> None:
    """Become the node that the settings' token is for, within ``timeout`` seconds.

    RefusedError: the AS says no. UnavailableError: no server answered. OSError: a port is taken.
    """
    enrolment = _Enrolment(settings)
    try:
        enrolment.begin()
        enrolment.done.get(timeout=timeout)
    except gevent.Timeout:
        endpoints = enrolment.negotiation.server_endpoints()
        where = ", ".join(str(endpoint) for endpoint in endpoints[-2:])
        raise UnavailableError(
            f"the account server does not answer at {where} (tried for {timeout:.0f} s)"
        ) from None
    finally:
        enrolment.station.close()
