"""A party of a living domain that is fed payloads by one who is authenticated, and hostile."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from domain import Domain
from message_samples import random_message

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import NtmpatchError
from ntmpatch.signalling.effects import Failed, Work
from ntmpatch.wire.control import decode_untrusted
from ntmpatch.wire.control_messages import Message, Refusal

if TYPE_CHECKING:
    from virtual_network import Seat

PARTIES = ("as", "dc", "ns", "rs", "node")
STEP = 0.02
"""Seconds between two payloads: what the party began on their account ends at some time."""
MAX_KEPT = 20_000


class PartyPlay:
    """``role`` in a domain with two nodes; payloads come from those whom it listens to most."""

    def __init__(self, role: str, seed: int) -> None:
        domain = Domain(seed)
        domain.start_servers()
        nodes = [
            domain.start_node(label, Endpoint(f"198.51.100.{number}", 4500))
            for number, label in enumerate("ab", 1)
        ]
        domain.register(*nodes)
        domain.resolve(nodes[0], "b")
        servers: dict[str, Seat] = {
            "as": domain.account_server,
            "dc": domain.coordinator,
            "ns": domain.notification_server,
            "rs": domain.relay_server,
            "node": nodes[0],
        }
        self.party: Any = servers[role].party
        others = [seat for seat in servers.values() if seat.party is not self.party]
        self._peers = [seat.party.public_key for seat in [*others, nodes[1]]]
        self._certificates = [
            seat.party.enrolment.certificate
            for seat in [*others, *nodes]
            if hasattr(seat.party, "enrolment")
        ]
        self._captured = [each.envelope.message for each in domain.network.captured]
        self._rng = random.Random(seed)
        self.now = domain.network.now

    def message(self, rng: random.Random) -> Message:
        """One of any type, with certificates of the domain; or one that the domain has sent."""
        if rng.random() < 0.5:
            return rng.choice(self._captured)
        message: Any = random_message(rng)
        changes = {
            field: rng.choice(self._certificates)
            for field in message.__struct_fields__
            if "certificate" in field or field == "coordinator"
        }
        for field, certificate in changes.items():
            if len(getattr(message, field)) != 32:
                message = _replaced(message, field, certificate)
        return message  # type: ignore[no-any-return]  # replace() keeps the type

    def receive(self, payload: bytes) -> str:
        """Take a payload; what came of it. A handler that breaks raises what broke it."""
        party = self.party
        self.now += STEP
        due_at = party.poll_timeout()
        if due_at is not None and due_at <= self.now:
            party.handle_timeout(self.now)
        before = dict(party.drops)
        peer = self._rng.choice(self._peers)
        party.receive(peer, payload, self.now, Endpoint("203.0.113.9", 9))
        outcome = self._settle()
        if outcome is None:
            dropped = [d for d in Drop if party.drops[d] != before.get(d, 0)]
            outcome = str(dropped[0]) if dropped else "taken"
        return outcome

    def _settle(self) -> str | None:
        """Do what the party wants: jobs at once, and messages are lost."""
        party = self.party
        outcome = None
        while True:
            while (transmit := party.poll_transmit()) is not None:
                message = decode_untrusted(transmit[1]).message
                if isinstance(message, Refusal):
                    outcome = f"refused {message.reason.name}"
                elif outcome is None:
                    outcome = f"sent {type(message).__name__}"
            effect = party.poll_effect()
            if effect is None:
                return outcome
            if isinstance(effect, Failed) and not isinstance(effect.error, NtmpatchError):
                raise effect.error
            if isinstance(effect, Work):
                try:
                    done: Any = effect.run()
                except Exception as error:
                    done = error
                party.complete(effect, done, self.now)


def _replaced(message: Any, field: str, value: object) -> Any:
    values = {name: getattr(message, name) for name in message.__struct_fields__}
    return type(message)(**{**values, field: value})
