"""Being woken: the node's connection to its NS, Fig. 5 (7), (8), and the heart-beat that keeps it.

The NS's kernel sends the heart-beats, TCP keep-alive probes, at the interval that the node asks
for; the node counts what arrives. That way they test what matters, that the node can be reached
from outside: a NAT that has forgotten the connection may take it up again from a packet of the
node's, and the node would not notice that nobody could wake it until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.signalling.effects import CheckConnection, Contact, Failed, Forget, Reconnect
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.process import ask
from ntmpatch.wire.control_messages import (
    Ack,
    RefusalCode,
    ServerLocation,
    ServiceRegistration,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.negotiation.heartbeat import Heartbeat, Heartbeats
    from ntmpatch.negotiation.node import NodeNegotiation

SERVICE_TIMEOUT = 4.0
SERVICE_RETRY_INTERVAL = 5.0
FAILURES_BEFORE_ANOTHER = 2
"""Connections to an NS that fail in a row before the DC is asked for another NS."""
SETTLING_TIME = 20.0
"""Seconds after which an exchange, and the empty packet that WireGuard may add, is over."""
HEARTBEAT_GRACE = 25.0
"""Seconds by which a heart-beat may be late: the NS repeats it twice, each after 10 s."""
_FOR_THE_COORDINATOR = frozenset({RefusalCode.NOT_REGISTERED, RefusalCode.BUSY})


class NotificationService:
    """The part of a node's negotiation that keeps it within reach of an NS.

    ``on_change()`` when it begins or ceases to be so; ``on_need()`` when the DC has to help;
    ``on_settled()`` when a registration with the NS has ended, (8) or not.
    """

    def __init__(
        self,
        party: NodeNegotiation,
        device_type: str,
        heartbeats: Heartbeats,
        *,
        network: Callable[[], str],
        coordinator: Callable[[], bytes | None],
        on_change: Callable[[], None],
        on_need: Callable[[], None],
        on_settled: Callable[[], None],
    ) -> None:
        self._party = party
        self._connects = device_type == "tcp"
        self._heartbeats = heartbeats
        self._network = network
        self._coordinator = coordinator
        self._on_change = on_change
        self._on_need = on_need
        self._on_settled = on_settled
        self.server: bytes | None = None
        """The NS that the DC named."""
        self.is_connected = False
        """Whether it could wake us, as far as we know."""
        self._is_named = False
        """Whether the DC named it in its last answer. A DC that has just started knows no NS yet:
        no reason to leave ours, but nobody will have it wake us."""
        self.failed_server: bytes | None = None
        """An NS that could not be connected to; the DC is to choose another, if it has one."""
        self._failures = 0
        self._attempt = 0
        self.is_asking = False
        """Whether Fig. 5 (7) is under way."""
        self._heartbeat: Heartbeat | None = None
        self._heard_at = float("-inf")
        self._silent_since = 0.0
        self._segments: int | None = None

    @property
    def is_served(self) -> bool:
        """Whether the DC can have us woken."""
        return self.is_connected and self._is_named

    # --- from the registrar --------------------------------------------------------------

    def serve_by(self, location: ServerLocation | None, step: str) -> None:
        """Connect to the NS that the DC named, if that is another one or the network is.

        The registrar is told of no change by this: it asks afterwards.
        """
        party = self._party
        self._is_named = location is not None
        if location is None:
            return
        before = self.server
        certificate = party.verify(location.certificate, role="ns")
        key = certificate.public_key
        if key != before:
            self._leave()
        self.server = key
        party.introduce(key, "NS", certificate.fqdn)
        if not self._connects:
            self.is_connected = True  # in another way, which the NS has agreed to
            return
        if key != before:
            self._failures = 0
            party.emit(
                Contact(
                    key,
                    tuple(address.endpoint() for address in location.endpoints),
                    initiate=True,
                    connection=True,
                    role="ns",
                    name=certificate.fqdn,
                )
            )
        if key != before or step == "5.3":
            self._register("5.7" if step == "5.3" else "")

    def established(self, *, initiator: bool) -> None:
        """A handshake with the NS succeeded. If we began it, the connection may be a new one."""
        self._heard_at = self._party.now
        if initiator and not self.is_asking:
            self._register("")

    def connection_failed(self) -> None:
        """The connection broke, or could not be made; the runtime tries again by itself."""
        self._attempt += 1
        self.is_asking = False
        self._party.call_off("service")
        self._unserved()
        self._failures += 1
        if self._failures == FAILURES_BEFORE_ANOTHER:
            # Later ones wait for the interval of registrations, which is short without service.
            self.failed_server = self.server
            self._on_need()

    def heard(self) -> None:
        """The NS sent something: the silence is over."""
        self._heard_at = self._party.now

    def _leave(self) -> None:
        if self.server is not None:
            self._party.call_off("service")
            self._attempt += 1
            self.is_asking = False
            if self._connects:
                self._party.emit(Forget(self.server))
            self.server = None
        self._unserved()

    def _unserved(self) -> None:
        self._party.call_off("heartbeat")
        if self.is_connected:
            self.is_connected = False
            self._on_change()

    # --- service -------------------------------------------------------------------------

    def _register(self, step: str) -> None:
        """Fig. 5 (7), (8)."""
        key = self.server
        if key is None:
            return
        party = self._party
        self._attempt += 1
        attempt = self._attempt
        self.is_asking = True
        party.call_off("service")
        party.call_off("heartbeat")
        self._heartbeat = self._heartbeats.on(self._network())
        message = ServiceRegistration(
            party.enrolment.certificate, self._coordinator() or b"", self._heartbeat.interval
        )

        def ended(_: object, error: Exception | None) -> None:
            if attempt != self._attempt:
                return
            self.is_asking = False
            if error is None:
                self._served()
            else:
                party.emit(Failed(error, "notification service"))
                self._refused(key, error)
            self._on_settled()

        party.start(ask(key, message, Ack, step, timeout=SERVICE_TIMEOUT), ended)

    def _served(self) -> None:
        self._failures = 0
        self.failed_server = None
        if not self.is_connected:
            self.is_connected = True
            self._on_change()
        self._watch()

    def _refused(self, key: bytes, error: Exception) -> None:
        """Try again: by another connection if this one is dead, by way of the DC if need be."""
        party = self._party
        if isinstance(error, Silent):
            self.connection_failed()
            party.emit(Reconnect(key))
            return
        self._unserved()
        party.call_at("service", party.now + SERVICE_RETRY_INTERVAL, lambda: self._register(""))
        if isinstance(error, Refused) and error.code in _FOR_THE_COORDINATOR:
            self.failed_server = key if error.code is RefusalCode.BUSY else None
            self._on_need()

    # --- heart-beat ----------------------------------------------------------------------

    def _watch(self) -> None:
        """Count, from when it is silent on."""
        self._segments = None
        self._check_at(self._party.now + SETTLING_TIME)

    def _check_at(self, due_at: float) -> None:
        party = self._party
        key = self.server
        if key is not None:
            party.call_at(
                "heartbeat", due_at, lambda: party.emit(CheckConnection(key, self._checked))
            )

    def _checked(self, segments: int | None, now: float) -> None:
        """The connection's kernel has received so many segments; None: there is no connection."""
        heartbeat = self._heartbeat
        if segments is None or heartbeat is None or not self.is_connected:
            return
        party = self._party
        party.now = now
        before, self._segments = self._segments, segments
        interval = heartbeat.interval
        if before is not None and self._heard_at > self._silent_since:
            self._watch()  # it was not silent: nothing is learned
            return
        self._silent_since = now
        if before is None:
            self._check_at(now + interval + HEARTBEAT_GRACE)
        elif segments > before:
            heartbeat.survived()
            if heartbeat.interval != interval:
                self._register("")  # that tells the NS
            else:
                self._check_at(now + interval + HEARTBEAT_GRACE)
        else:
            heartbeat.missed()
            missing = Silent(f"no heart-beat after {interval:.0f} s of silence")
            party.emit(Failed(missing, "notification service"))
            self._unserved()
            assert self.server is not None
            party.emit(Reconnect(self.server))
