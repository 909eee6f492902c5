"""The notification server: it wakes nodes when a DC wants them, by the connection each keeps here.

The node's acknowledgement goes to the coordinator, not here: Fig. 3 (9)-(11), Fig. 5 (4)-(8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ntmpatch.servers.announcing import MAX_SILENCES, AnnouncingServer
from ntmpatch.servers.notification.devices import TCP, Device, DeviceType, plugged_in
from ntmpatch.signalling.effects import KeepAlive
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.figures import steps_of
from ntmpatch.signalling.party import Reply
from ntmpatch.signalling.process import Process, ask, sleep
from ntmpatch.wire.control import TRANSACTION_ID_SIZE, Envelope, Kind, encode
from ntmpatch.wire.control_messages import (
    Ack,
    Message,
    Notification,
    NotificationRequest,
    Recall,
    RefusalCode,
    ServiceRegistration,
    ServiceRequest,
)

if TYPE_CHECKING:
    from ntmpatch.crypto.certificate import Certificate
    from ntmpatch.signalling.engine import Request
    from ntmpatch.wire.control_registration import AnnouncementResponse

MAX_SERVICES = 100_000
"""Nodes of one server, unless it may open fewer connections."""
SELF_SERVICE_LIFETIME = 2 * 3600.0
"""Seconds for which a node is served that its coordinator has not named yet: until it registers
there again, and some."""
MIN_HEARTBEAT_INTERVAL, MAX_HEARTBEAT_INTERVAL = 5.0, 7200.0
RECALL_INTERVAL = 0.005
"""Seconds between two nodes that are told of their coordinator's restart: it has to take them."""
RECALL_TIMEOUT = 8.0


@dataclass(slots=True)
class _Service:
    """A node that is served; it is woken when it is ``connected``, or if it needs no connection."""

    coordinator: bytes
    fqdn: str
    device_type: str = TCP
    push_token: str = ""
    connected: bool = False

    @property
    def device(self) -> Device:
        return Device(self.fqdn, self.push_token)


class NotificationServer(AnnouncingServer):
    """NS. The channel of each node runs over the connection on which it is to be woken.

    ``device_types``: other ways of waking, by name. ``capacity``: nodes at most.
    """

    role = "NS"
    answered_while_draining: ClassVar[frozenset[type[Message]]] = frozenset({NotificationRequest})

    def __init__(
        self,
        public_key: bytes,
        *,
        device_types: dict[str, DeviceType] | None = None,
        capacity: int = MAX_SERVICES,
        **settings: Any,
    ) -> None:
        super().__init__(public_key, **settings)
        self._services: dict[bytes, _Service] = {}
        self._device_types = plugged_in(device_types or {})
        self._capacity = capacity
        self._connected = 0
        self._instances: dict[bytes, bytes] = {}
        """Of each coordinator, the word by which it has nodes recalled."""
        self._silences: dict[bytes, int] = {}
        """Of each coordinator, how many announcements in a row it has not heard."""
        self._recalls: dict[bytes, int] = {}
        self.on(ServiceRequest, self._serve_node)
        self.on(ServiceRegistration, self._register)
        self.on(NotificationRequest, self._notify)

    @property
    def load(self) -> float:
        """Share of the connections that are taken. A node that left for another NS counts no more,
        though its service here ends later.
        """
        return min(1.0, self._connected / self._capacity)

    def permits(self, peer: bytes, message: Message) -> bool:
        """Coordinators ask for services and notifications; nodes register by certificate."""
        return isinstance(message, ServiceRegistration) or self.is_coordinator(peer)

    def disconnected(self, peer: bytes, now: float) -> None:
        """The connection of a node broke: it cannot be woken until it registers again."""
        self.now = now
        service = self._services.get(peer)
        if service is not None:
            self._connect(service, connected=False)

    def forget(self, peer: bytes) -> None:
        """The node's service is over."""
        super().forget(peer)
        service = self._services.pop(peer, None)
        if service is not None:
            self._connect(service, connected=False)

    def _connect(self, service: _Service, *, connected: bool) -> None:
        self._connected += connected - service.connected
        service.connected = connected

    # --- services ------------------------------------------------------------------------

    def _serve_node(self, message: ServiceRequest, request: Request) -> Ack:
        """Fig. 5 (4) → (5)."""
        key = message.public_key
        service = _Service(request.peer, message.fqdn, message.device_type, message.push_token)
        if message.device_type != TCP:
            device_type = self._device_types.get(message.device_type)
            if device_type is None:
                raise Refused(
                    RefusalCode.UNSUPPORTED,
                    f"no way to wake a device of type {message.device_type}",
                )
            if not device_type.accepts(service.device):
                raise Refused(
                    RefusalCode.UNSUPPORTED, f"{message.device_type}: the push token is wrong"
                )
        self._keep(key, service, message.lifetime)
        return Ack()

    def _register(self, message: ServiceRegistration, request: Request) -> Ack:
        """Fig. 5 (7) → (8). A node that we served before a restart of ours need not go to its
        coordinator first: its certificate says that it may be served here.
        """
        key = request.peer
        certificate = self.verify(message.certificate, role="node", public_key=key)
        service = self._services.get(key)
        if service is None or service.fqdn != certificate.fqdn:
            if not self._leads(message.coordinator, certificate):
                raise Refused(RefusalCode.NOT_REGISTERED, "no coordinator of ours leads this node")
            service = _Service(message.coordinator, certificate.fqdn)
            self._keep(key, service, SELF_SERVICE_LIFETIME)
        self._connect(service, connected=True)
        interval = min(
            max(message.heartbeat_interval, MIN_HEARTBEAT_INTERVAL), MAX_HEARTBEAT_INTERVAL
        )
        self.emit(KeepAlive(key, interval))
        return Ack()

    def _keep(self, key: bytes, service: _Service, lifetime: float) -> None:
        known = self._services.get(key)
        if known is None and len(self._services) >= self._capacity:
            raise Refused(RefusalCode.BUSY, "the notification server is full")
        service.connected = known is not None and known.connected
        self._services[key] = service
        self.introduce(key, "node", service.fqdn)
        self.admission.confirm(key, expires_at=self.now + lifetime)

    def _leads(self, coordinator: bytes, node: Certificate) -> bool:
        return self.is_coordinator(coordinator) and any(
            certificate.public_key == coordinator and certificate.leads(node.fqdn)
            for certificate in (self.verify(known.certificate) for known in self.coordinators())
        )

    # --- notification --------------------------------------------------------------------

    def _notify(self, message: NotificationRequest, request: Request) -> Reply | Process[Reply]:
        """Fig. 3 (9) → (10), Fig. 5 (17) → (18): the request goes on to the node."""
        service = self._services.get(message.public_key)
        if service is None or service.coordinator != request.peer:
            raise Refused(RefusalCode.NOT_REGISTERED, "this node is not served here")
        step = steps_of(request.step).notification if request.step else ""
        notification = Notification(request.peer)
        if service.device_type != TCP:
            return self._push(
                service, Envelope(request.transaction_id, Kind.REQUEST, step, notification)
            )
        if not service.connected:
            raise Refused(RefusalCode.UNREACHABLE, "the node is not connected")
        return Reply(notification, to=message.public_key, step=step, kind=Kind.REQUEST)

    def _push(self, service: _Service, envelope: Envelope) -> Process[Reply]:
        """The same by another way; the node acknowledges the transaction as if it had come here."""
        self.trace(envelope.step, self.now, f"node {service.fqdn}", f"{service.device_type} push")
        yield from self._device_types[service.device_type].wake(service.device, encode(envelope))
        return Reply()

    # --- recalling nodes -------------------------------------------------------------------
    # They register rarely; through their NATs only we can tell them that they had better do so.

    def announced(self, coordinator: bytes, answer: AnnouncementResponse) -> None:
        """The coordinator is there, perhaps anew: then it knows none of its nodes."""
        self._silences[coordinator] = 0
        self._leave_the_silent()
        before = self._instances.get(coordinator)
        self._instances[coordinator] = answer.instance
        if before is not None and before != answer.instance:
            self._recall_all(coordinator)

    def unheard(self, coordinator: bytes) -> None:
        """If it stays away, and another one does not, its nodes have to go to that one."""
        self._silences[coordinator] = self._silences.get(coordinator, 0) + 1
        self._leave_the_silent()

    def _leave_the_silent(self) -> None:
        if 0 not in self._silences.values():
            return
        for coordinator, silences in list(self._silences.items()):
            if silences >= MAX_SILENCES:
                del self._silences[coordinator]
                self._recall_all(coordinator)

    def drain(self, now: float) -> None:
        """Besides, let the nodes find themselves another NS before this one ends."""
        super().drain(now)
        for coordinator in {service.coordinator for service in self._services.values()}:
            self._recall_all(coordinator)

    def _recall_all(self, coordinator: bytes) -> None:
        self._recalls[coordinator] = recall = self._recalls.get(coordinator, 0) + 1
        self.start(self._recall_in_turn(coordinator, recall), what="recalling nodes")

    def _recall_in_turn(self, coordinator: bytes, recall: int) -> Process[None]:
        for key, service in list(self._services.items()):
            if self._recalls[coordinator] != recall:
                return  # there is a newer reason, and all are told of that
            if service.coordinator != coordinator or self._services.get(key) is not service:
                continue  # it registered meanwhile, or left
            if service.device_type == TCP and not service.connected:
                continue
            self.start(self._recall(key, service), _ignore)
            yield from sleep(RECALL_INTERVAL)

    def _recall(self, key: bytes, service: _Service) -> Process[None]:
        message = Recall(service.coordinator)
        if service.device_type == TCP:
            yield from ask(key, message, Ack, timeout=RECALL_TIMEOUT)
            return
        envelope = Envelope(self.entropy(TRANSACTION_ID_SIZE), Kind.REQUEST, "", message)
        yield from self._device_types[service.device_type].wake(service.device, encode(envelope))


def _ignore(_: object, __: Exception | None) -> None:
    """Who does not hear a recall is found out to be unreachable when somebody wants it."""
