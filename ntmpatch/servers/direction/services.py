"""Which NS serves which node, and how a node is woken: Fig. 3 (9)-(11), Fig. 5 (4), (5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.signalling.effects import Failed
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.process import Process, ask
from ntmpatch.wire.control_messages import Ack, NotificationRequest, RefusalCode, ServiceRequest

if TYPE_CHECKING:
    from ntmpatch.servers.direction.locations import Node, Server
    from ntmpatch.servers.direction.server import DirectionServer

SERVICE_LIFETIME = 3 * 3600.0
"""Seconds; longer than two registrations are apart, so that one may be missed."""
SERVICE_TIMEOUT = 2.0
NOTIFICATION_TIMEOUT = 2.0
MAX_TRIED = 2
"""NSs that are asked one after another while a node waits for its registration."""
IMBALANCE_FACTOR = 1.5
IMBALANCE_OFFSET = 0.02
"""A node moves to another NS when the load of its own is more than factor times the other's plus
offset; so much that it does not move back."""


class ServiceChooser:
    """The part of a DC that has its nodes served by NSs."""

    def __init__(self, party: DirectionServer) -> None:
        self._party = party

    def serve(
        self, node: Node, step: str, *, served_by: bytes = b"", failed: bytes = b""
    ) -> Process[None]:
        """Have an NS serve the node, Fig. 5 (4), (5); without one the node is called directly.

        ``served_by``: what the node says serves it now; it stays there if it can. ``failed``: what
        the node cannot connect to; another one is tried first.
        """
        party = self._party
        if node.record.device_type == "none":
            node.notification_server = None
            return
        known = node.notification_server
        current = party.locations.server(served_by or known, party.now)
        if (
            current is not None
            and not current.draining
            and current.public_key == known == served_by
            and step != "5.3"
            and party.now < node.served_until
        ):
            current = self._rebalanced(current)
            if current.public_key == known:
                return
        node.notification_server = None
        for server in self._candidates(current, failed)[:MAX_TRIED]:
            try:
                yield from self._request(node, server, "5.4" if step == "5.3" else "")
            except (Silent, Refused) as failure:
                party.emit(Failed(failure, "notification service"))
                party.locations.suspect(server.public_key, party.now)
            else:
                return

    def _request(self, node: Node, server: Server, step: str) -> Process[None]:
        """Fig. 5 (4), (5)."""
        yield from ask(
            server.public_key,
            ServiceRequest(
                node.public_key,
                node.record.fqdn,
                node.record.device_type,
                SERVICE_LIFETIME,
                node.record.push_token,
            ),
            Ack,
            step,
            timeout=SERVICE_TIMEOUT,
        )
        node.notification_server = server.public_key
        node.served_until = self._party.now + SERVICE_LIFETIME / 2

    def _candidates(self, preferred: Server | None, failed: bytes) -> list[Server]:
        """Living NSs: the preferred one, then as they are ranked, at last what failed the node."""
        wanted = None if preferred is None else preferred.public_key
        return sorted(
            self._party.locations.servers("ns", self._party.now),
            key=lambda server: (server.public_key == failed, server.public_key != wanted),
        )

    def _rebalanced(self, current: Server) -> Server:
        """``current``, or an NS that has so much less to do that the node had better move."""
        others = self._party.locations.servers("ns", self._party.now)
        least = min(others, key=lambda server: server.load, default=current)
        if current.load > IMBALANCE_FACTOR * least.load + IMBALANCE_OFFSET:
            return least
        return current

    def notify(self, called: Node, step: str) -> Process[None]:
        """Fig. 3 (9)-(11): have the node's NS wake it; the node itself acknowledges.

        After our restart nobody knows which NS serves the node until it has registered: all that
        live are asked. Failure is no end: the node may well be awake, and (12) will show.
        """
        party = self._party
        if called.notification_server is not None:
            server = party.locations.server(called.notification_server, party.now)
            servers = [] if server is None else [server]
        elif called.fresh or called.record.device_type == "none":
            return
        else:
            servers = party.locations.servers("ns", party.now)[:MAX_TRIED]
        for server in servers:
            try:
                yield from self._notify(called, server, step)
            except Silent as silence:
                party.emit(Failed(silence, "notification"))
            except Refused as refusal:
                party.emit(Failed(refusal, "notification"))
                is_known = called.fresh or bool(called.record.push_token)
                if refusal.code is RefusalCode.NOT_REGISTERED and is_known:
                    yield from self._notify_anew(called, server, step)
            else:
                return

    def _notify(self, called: Node, server: Server, step: str) -> Process[None]:
        yield from ask(
            server.public_key,
            NotificationRequest(called.public_key),
            Ack,
            step,
            timeout=NOTIFICATION_TIMEOUT,
            answerers=(called.public_key,),
        )

    def _notify_anew(self, called: Node, server: Server, step: str) -> Process[None]:
        """The NS restarted: with the service asked for again, it may wake the node after all."""
        try:
            yield from self._request(called, server, "")
            yield from self._notify(called, server, step)
        except (Silent, Refused) as failure:
            self._party.emit(Failed(failure, "notification"))
