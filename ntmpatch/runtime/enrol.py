"""What a node asks the AS ahead of a program: to be enrolled, or to let another key follow."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import gevent
import gevent.event

from ntmpatch.base.errors import UnavailableError
from ntmpatch.negotiation.node import NodeNegotiation
from ntmpatch.runtime.interfaces import concrete, is_routable, usable
from ntmpatch.runtime.nat64 import Nat64
from ntmpatch.runtime.state import ENROLMENT
from ntmpatch.runtime.station import Station
from ntmpatch.runtime.trace import TraceWriter
from ntmpatch.signalling.effects import Failed, Persist
from ntmpatch.signalling.enrolled import EnrolmentState
from ntmpatch.signalling.errors import Silent

if TYPE_CHECKING:
    from ntmpatch.base.nat64 import Nat64Prefix
    from ntmpatch.crypto.token import Token
    from ntmpatch.runtime.settings import NodeSettings
    from ntmpatch.signalling.effects import Effect


class _Asking:
    """A node's station, which lives until the AS has answered; ``done`` has the state it leaves."""

    def __init__(
        self,
        settings: NodeSettings,
        private_key: bytes,
        *,
        token: Token | None = None,
        state: bytes | None = None,
    ) -> None:
        self.done: gevent.event.AsyncResult[bytes] = gevent.event.AsyncResult()
        self._settings = settings

        def make(public_key: bytes) -> NodeNegotiation:
            self.negotiation = NodeNegotiation(
                public_key,
                token=token,
                state=state,
                now=time.monotonic(),
                rng=random.Random(os.urandom(16)),
                wall_clock=time.time,
                entropy=os.urandom,
            )
            return self.negotiation

        self.station = Station(
            private_key,
            make,
            admit=None,
            trace=TraceWriter(),
            on_effect=self._effect,
            gso=settings.offload,
        )
        self._nat64 = Nat64(self._nat64_found)

    def enrol(self, timeout: float) -> bytes:
        """Be certified by the token."""
        carrier = self.station.carrier
        carrier.bind(usable(self._settings.binds))
        endpoints = concrete(carrier.local_endpoints, self.negotiation.server_endpoints())
        self.negotiation.begin(endpoints, time.monotonic())
        return self._wait(timeout)

    def offer_key(self, token_id: bytes, secret: bytes, timeout: float) -> None:
        """Let the key that shows ``secret`` follow ours."""
        self.station.carrier.bind(usable(self._settings.binds))

        def offered(_: object, error: Exception | None) -> None:
            if error is None:
                self.done.set(b"")
            elif not isinstance(error, Silent):
                self.done.set_exception(error)

        self.negotiation.start(self.negotiation.offer_key(token_id, secret), offered)
        self._wait(timeout)

    def _wait(self, timeout: float) -> bytes:
        if not any(map(is_routable, self.negotiation.server_endpoints())):
            self._nat64.look_up()
        self.station.carrier.wake()
        try:
            return self.done.get(timeout=timeout) or b""
        except gevent.Timeout:
            endpoints = self.negotiation.server_endpoints()
            where = ", ".join(str(endpoint) for endpoint in endpoints[-2:])
            raise UnavailableError(
                f"the account server does not answer at {where} (tried for {timeout:.0f} s)"
            ) from None
        finally:
            self._nat64.close()
            self.station.close()

    def _nat64_found(self, _before: Nat64Prefix | None) -> None:
        self.station.use_nat64(self._nat64.prefix)
        self.station.carrier.wake()

    def _effect(self, effect: Effect, _now: float) -> None:
        match effect:
            case Persist():
                state = EnrolmentState.decode(effect.state)
                if self.negotiation.is_enrolled and state.coordinators:
                    # Before the negotiation goes on to the DC: that is the program's to do.
                    self.station.close()
                    self.done.set(effect.state)
            case Failed() if effect.fatal:
                self.done.set_exception(effect.error)
            case _:
                pass


def enrol(settings: NodeSettings, timeout: float) -> None:
    """Become the node that the settings' token is for, within ``timeout`` seconds.

    RefusedError: the AS says no. UnavailableError: no server answered. OSError: a port is taken.
    """
    asking = _Asking(settings, settings.private_key, token=settings.token)
    keep_enrolment(settings, asking.negotiation, asking.enrol(timeout))


def keep_enrolment(settings: NodeSettings, negotiation: NodeNegotiation, state: bytes) -> None:
    """Store what an enrolment left, and what programs read of it."""
    settings.state.write(ENROLMENT, state)
    domains = (*negotiation.domains(), *settings.domains)
    settings.state.write_names(domains, negotiation.virtual_prefixes())


def enrolled_by(
    settings: NodeSettings, private_key: bytes, token: Token, timeout: float
) -> tuple[NodeNegotiation, bytes]:
    """Be certified with another key than the settings': its party, and the state to store."""
    asking = _Asking(settings, private_key, token=token)
    return asking.negotiation, asking.enrol(timeout)


def offer_key(settings: NodeSettings, token_id: bytes, secret: bytes, timeout: float) -> None:
    """Have the AS let the key that shows ``secret`` follow the one that we have."""
    asking = _Asking(settings, settings.private_key, state=settings.enrolment)
    asking.offer_key(token_id, secret, timeout)
