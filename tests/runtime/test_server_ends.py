"""Where a server is called: at once in the other family, and elsewhere when it stays silent."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import Endpoint
from ntmpatch.packet.tunnel.tunnel import Tunnel
from ntmpatch.runtime.server_ends import ANSWER_TIMEOUT, ServerEnds
from ntmpatch.signalling.effects import Contact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.runtime.carrier import Path

S4, S6 = Endpoint("198.51.100.1", 3471), Endpoint("2001:db8::1", 3471)
ELSEWHERE = Endpoint("198.51.100.9", 40000)


@dataclass
class Machine:
    """What families it has; a server that it called first at `S4`."""

    families: set[bool] = field(default_factory=lambda: {False, True})

    def __post_init__(self) -> None:
        rng = random.Random(5)
        tunnel: Tunnel[Path] = Tunnel(
            rng.randbytes(32), now=0.0, rng=rng, wall_clock=lambda: 1.8e9, entropy=rng.randbytes
        )
        self.contact = Contact(rng.randbytes(32), (S4, S6), initiate=True, role="dc")
        self.peer = tunnel.add_peer(self.contact.public_key, endpoint=S4)
        self.ends = ServerEnds(self._reachable, lambda end: end.is_ipv6 in self.families)
        self.call(at=0.0)

    def _reachable(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        return [end for end in endpoints if end.is_ipv6 in self.families] or list(endpoints)

    def call(self, *, at: float) -> Path | None:
        self.ends.called(self.peer, self.contact, at)
        return self.peer.endpoint

    def move(self, *families: bool) -> Path | None:
        self.families = set(families)
        self.ends.moved(self.peer, self.contact)
        return self.peer.endpoint


def test_a_server_is_called_in_the_family_that_is_left() -> None:
    machine = Machine()
    assert machine.move(True) == S6
    assert machine.move(False) == S4
    assert machine.move(False, True) == S4, "what works is kept"
    assert machine.move() == S4, "nothing is better"


def test_where_a_server_was_heard_last_is_kept_while_there_is_a_way() -> None:
    machine = Machine()
    machine.peer.endpoint = ELSEWHERE
    assert machine.move(False) == ELSEWHERE
    assert machine.move(True) == S6


def test_a_server_that_is_silent_is_called_elsewhere() -> None:
    machine = Machine()
    assert machine.call(at=0.5 * ANSWER_TIMEOUT) == S4, "it had no time to answer"
    assert machine.call(at=3.0) == S6
    assert machine.call(at=6.0) == S4
    machine.peer.rx_bytes += 100
    assert machine.call(at=9.0) == S4, "it has answered"
    machine.families = {False}
    assert machine.call(at=12.0) == S4, "there is no other"
