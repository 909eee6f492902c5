"""The notification server: it holds each node's connection and wakes the node when a DC wants it.

The node's acknowledgement goes to the coordinator, not here: Fig. 3 (9)-(11), Fig. 5 (4)-(8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ntmpatch.servers.announcing import AnnouncingServer
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.figures import steps_of
from ntmpatch.signalling.party import Reply
from ntmpatch.wire.control import Kind
from ntmpatch.wire.control_messages import (
    Ack,
    Message,
    Notification,
    NotificationRequest,
    RefusalCode,
    ServiceRegistration,
    ServiceRequest,
)

if TYPE_CHECKING:
    from ntmpatch.signalling.engine import Request

MAX_SERVICES = 100_000
DEVICE_TYPES = frozenset({"tcp"})
"""Ways of waking a node that this server knows."""


@dataclass(slots=True)
class _Service:
    """A node that a coordinator has announced; it is woken when it is ``connected``."""

    coordinator: bytes
    fqdn: str
    connected: bool = False


class NotificationServer(AnnouncingServer):
    """NS. The channel of each node runs over the connection on which it is to be woken."""

    role = "NS"
    answered_while_draining: ClassVar[frozenset[type[Message]]] = frozenset({NotificationRequest})

    def __init__(self, public_key: bytes, **settings: Any) -> None:
        super().__init__(public_key, **settings)
        self._services: dict[bytes, _Service] = {}
        self.on(ServiceRequest, self._serve_node)
        self.on(ServiceRegistration, self._register)
        self.on(NotificationRequest, self._notify)

    @property
    def load(self) -> float:
        """Share of the services that are taken."""
        return len(self._services) / MAX_SERVICES

    def permits(self, peer: bytes, message: Message) -> bool:
        """Coordinators ask for services and notifications; nodes register by certificate."""
        return isinstance(message, ServiceRegistration) or self.is_coordinator(peer)

    def disconnected(self, peer: bytes, now: float) -> None:
        """The connection of a node broke: it cannot be woken until it registers again."""
        self.now = now
        service = self._services.get(peer)
        if service is not None:
            service.connected = False

    def forget(self, peer: bytes) -> None:
        """The node's service is over."""
        super().forget(peer)
        self._services.pop(peer, None)

    def _serve_node(self, message: ServiceRequest, request: Request) -> Ack:
        """Fig. 5 (4) → (5)."""
        if message.device_type not in DEVICE_TYPES:
            raise Refused(
                RefusalCode.UNSUPPORTED, f"no way to wake a device of type {message.device_type}"
            )
        known = self._services.get(message.public_key)
        if known is None and len(self._services) >= MAX_SERVICES:
            raise Refused(RefusalCode.BUSY, "the notification server is full")
        self._services[message.public_key] = _Service(
            request.peer, message.fqdn, connected=known is not None and known.connected
        )
        self.introduce(message.public_key, "node", message.fqdn)
        self.admission.confirm(message.public_key, expires_at=self.now + message.lifetime)
        return Ack()

    def _register(self, message: ServiceRegistration, request: Request) -> Ack:
        """Fig. 5 (7) → (8)."""
        certificate = self.verify(message.certificate, role="node", public_key=request.peer)
        service = self._services.get(request.peer)
        if service is None or service.fqdn != certificate.fqdn:
            raise Refused(RefusalCode.NOT_REGISTERED, "no coordinator has asked to serve this node")
        service.connected = True
        return Ack()

    def _notify(self, message: NotificationRequest, request: Request) -> Reply:
        """Fig. 3 (9) → (10), Fig. 5 (17) → (18): the request goes on to the node."""
        service = self._services.get(message.public_key)
        if service is None or service.coordinator != request.peer:
            raise Refused(RefusalCode.NOT_REGISTERED, "this node is not served here")
        if not service.connected:
            raise Refused(RefusalCode.UNREACHABLE, "the node is not connected")
        return Reply(
            Notification(request.peer),
            to=message.public_key,
            step=steps_of(request.step).notification if request.step else "",
            kind=Kind.REQUEST,
        )
