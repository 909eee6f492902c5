"""Having tunnels directed again, Fig. 5 (9)-(23): after a move, and when no way works any more.

The tunnel's data goes on over the old session meanwhile. What was directed and does not come up
is helped here, too: who waited calls as well, and at last a relay is asked for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ntmpatch.base.backoff import Backoff
from ntmpatch.negotiation.reserve import Reserves
from ntmpatch.signalling.effects import Failed
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import RefusalCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.negotiation.node import NodeNegotiation
    from ntmpatch.negotiation.peers import Peer
    from ntmpatch.signalling.effects import Contact
    from ntmpatch.wire.control_messages import RouteDirection

MAX_AT_ONCE = 4
"""Directions that a node has under way after a move; the next begins when one has ended."""
FIRST_INTERVAL = 2.0
MAX_INTERVAL = 30.0
"""Seconds between directions to one peer: doubled each time, until the tunnel comes up."""
NEWS_INTERVAL = 0.5
"""Seconds after a direction in which not even a new wish makes another one."""
MAX_TRIES = 8
"""Failures after which a tunnel is not directed any more: some two minutes."""
CALLING_TOO = 0.3
"""Seconds after which a node that was to be called calls as well: it may be behind a firewall."""
RELAYING_INSTEAD = 1.0
"""Seconds after which the node that asked for a direct tunnel asks for a relayed one, at least."""
INSTEAD_SHARE = 2.0
MAX_RELAYING_INSTEAD = 3.0
"""Or so many times what the direction took: that is a round trip to each end, as the handshake is
one between them. A relay would not make a long way shorter."""
RELAY_RENEWAL_SHARE = 0.75
"""Share of a relay session's lifetime after which another one is asked for."""
_FINAL = frozenset(
    {
        RefusalCode.UNKNOWN_NAME,
        RefusalCode.DENIED,
        RefusalCode.REVOKED,
        RefusalCode.WRONG_DOMAIN,
        RefusalCode.CERTIFICATE_INVALID,
    }
)
"""What another try would not change."""


@dataclass(slots=True, eq=False)
class Wish:
    """What the next direction to a peer is to bring."""

    fqdn: str
    backoff: Backoff
    avoid: bytes = b""
    """Key of a relay that does not answer."""
    relayed: bool = False
    """No direct way works; kept until this node moves."""
    reserve: bool = False
    """Only a relay beside the direct way; any other wish goes before it."""
    tries: int = 0
    began_at: float = float("-inf")
    pause: float = 0.0
    """Seconds from ``began_at`` until the same may be asked again."""
    is_pending: bool = False
    """It is queued, under way, or waits for its time."""
    is_under_way: bool = False
    is_for_reserve: bool = False
    """What is under way is for a relay in reserve."""
    is_wanted_again: bool = False
    """Something was wished after the direction under way had begun."""


class Redirector:
    """The part of a node's negotiation that has tunnels directed again."""

    def __init__(self, party: NodeNegotiation, traffic: Callable[[bytes], int]) -> None:
        self._party = party
        self._reserves = Reserves(party, self._want_reserve, traffic)
        self._asked_at: dict[str, float] = {}
        """When the newest direction to a name was asked for, while that goes on."""
        self.starts_relayed = False
        """Whether a direct way was looked for in vain from this network: the next peer is asked for
        through a relay at once, while both ends challenge each other's endpoints beside it."""
        self._wishes: dict[bytes, Wish] = {}
        self._queue: deque[bytes] = deque()
        self._under_way = 0

    # --- what is wanted --------------------------------------------------------------------

    def moved(self) -> None:
        """Fig. 5 (9): we are registered where we are now; tunnels in use follow."""
        party = self._party
        self.starts_relayed = False
        for public_key, wish in self._wishes.items():
            # That was about the network which we have left.
            party.call_off(f"instead {public_key.hex()}")
            wish.avoid, wish.relayed, wish.reserve = b"", False, False
            wish.backoff.reset()
        for peer in party.peers.all():
            if peer.is_up and party.is_in_use(peer.public_key):
                wish = self._wish(peer)
                wish.tries = 0
                self._begin_at(peer.public_key, wish, party.now)

    def want(self, public_key: bytes, *, avoid: bytes = b"", relayed: bool = False) -> None:
        """Have the tunnel directed again, at once if that has not happened a moment ago."""
        peer = self._party.peers.of_key(public_key)
        if peer is None:
            return
        wish = self._wish(peer)
        is_news = (avoid not in (b"", wish.avoid)) or (relayed and not wish.relayed)
        wish.avoid = avoid or wish.avoid
        wish.relayed = wish.relayed or relayed
        wish.reserve = False
        pause = min(wish.pause, NEWS_INTERVAL) if is_news else wish.pause
        if wish.is_under_way and (is_news or wish.is_for_reserve):
            wish.is_wanted_again = True
        elif is_news or not wish.is_pending:
            self._begin_at(public_key, wish, wish.began_at + pause)

    def _want_reserve(self, public_key: bytes, avoid: bytes) -> None:
        """Have a relay directed beside the way in use, if nothing else is about to be."""
        peer = self._party.peers.of_key(public_key)
        wish = None if peer is None else self._wish(peer)
        if wish is not None and not wish.is_pending:
            wish.reserve, wish.avoid = True, avoid
            self._begin_at(public_key, wish, self._party.now)

    def relay_failed(self, peer: Peer, *, in_use: bool) -> None:
        """The relay of this peer does not answer; it may not have been in use."""
        relay = peer.relay
        if in_use:
            self.want(peer.public_key, avoid=relay)
        else:
            self.relay_released(peer)
            self._reserves.failed(peer, relay)

    def relay_released(self, peer: Peer) -> None:
        """There is no session at a relay any more."""
        peer.relay, peer.in_reserve = b"", False
        self._party.call_off(f"relay {peer.public_key.hex()}")

    def is_pending(self, public_key: bytes) -> bool:
        """Whether the tunnel is about to be directed."""
        wish = self._wishes.get(public_key)
        return wish is not None and wish.is_pending

    def forget(self, public_key: bytes) -> None:
        """The peer is gone."""
        self._wishes.pop(public_key, None)
        self._reserves.forget(public_key)
        for name in ("direct", "relay", "call", "instead"):
            self._party.call_off(f"{name} {public_key.hex()}")

    # --- what happened ---------------------------------------------------------------------

    def asks(self, fqdn: str) -> None:
        """A direction to this name is being asked for."""
        self._asked_at[fqdn] = self._party.now

    def asked(self, fqdn: str) -> None:
        """That has ended."""
        self._asked_at.pop(fqdn, None)

    def directed(self, peer: Peer, direction: RouteDirection, contact: Contact) -> None:
        """A tunnel was directed: see that it comes up, and that its relay session does not end."""
        party = self._party
        wish = self._wishes.get(peer.public_key)
        is_for_reserve = wish is not None and wish.is_for_reserve
        peer.asked = peer.asked or (direction.answers != b"" and not is_for_reserve)
        if direction.relay is not None:
            peer.in_reserve = is_for_reserve
        self._watch_relay(peer, direction)
        key = peer.public_key.hex()
        party.call_off(f"call {key}")
        if not contact.initiate:
            too = replace(contact, initiate=True)
            party.call_at(f"call {key}", party.now + CALLING_TOO, lambda: party.emit(too))
        is_relayed = direction.relay is not None or (wish is not None and wish.relayed)
        if is_relayed:
            party.call_off(f"instead {key}")
        elif direction.answers:  # the peer's asking puts nothing off: ends that both ask would wait
            took = INSTEAD_SHARE * (party.now - self._asked_at.get(peer.fqdn, party.now))
            party.call_at(
                f"instead {key}",
                party.now + max(RELAYING_INSTEAD, min(took, MAX_RELAYING_INSTEAD)),
                lambda: self._relay_instead(peer.public_key),
            )

    def _relay_instead(self, public_key: bytes) -> None:
        self.starts_relayed = True
        self.want(public_key, relayed=True)

    def established(self, peer: Peer) -> None:
        """A handshake succeeded: there is a way."""
        self._call_off_help(peer.public_key)
        self._reserves.established(peer)
        wish = self._wishes.get(peer.public_key)
        if wish is not None:
            wish.backoff.reset()

    def _call_off_help(self, public_key: bytes) -> None:
        self._party.call_off(f"call {public_key.hex()}")
        self._party.call_off(f"instead {public_key.hex()}")

    # --- inside ----------------------------------------------------------------------------

    def _wish(self, peer: Peer) -> Wish:
        wish = self._wishes.get(peer.public_key)
        if wish is None:
            backoff = Backoff(initial=FIRST_INTERVAL, maximum=MAX_INTERVAL, rng=self._party.rng)
            wish = self._wishes[peer.public_key] = Wish(peer.fqdn, backoff)
        return wish

    def _begin_at(self, public_key: bytes, wish: Wish, due_at: float) -> None:
        party = self._party
        if wish.is_under_way:
            wish.is_wanted_again = True
            return
        wish.is_pending = True
        if due_at > party.now:
            name = f"direct {public_key.hex()}"
            party.call_at(name, due_at, lambda: self._enqueue(public_key))
        else:
            party.call_off(f"direct {public_key.hex()}")
            self._enqueue(public_key)

    def _enqueue(self, public_key: bytes) -> None:
        if public_key not in self._queue:
            self._queue.append(public_key)
        self._begin_next()

    def _begin_next(self) -> None:
        while self._queue and self._under_way < MAX_AT_ONCE:
            public_key = self._queue.popleft()
            wish = self._wishes.get(public_key)
            if wish is not None and not wish.is_under_way:
                self._begin(public_key, wish)

    def _begin(self, public_key: bytes, wish: Wish) -> None:
        party = self._party
        self._under_way += 1
        wish.is_under_way = True
        wish.is_wanted_again = False
        wish.began_at = party.now
        wish.is_for_reserve, wish.reserve = wish.reserve, False
        if wish.is_for_reserve:
            wish.pause = NEWS_INTERVAL
        else:
            wish.tries += 1
            wish.pause = wish.backoff.next_interval()
        # Where a relay carried it a relay is needed.
        relayed = not wish.is_for_reserve and (wish.relayed or wish.avoid != b"")
        party.start(
            party.redirect(
                wish.fqdn, avoid=wish.avoid, relayed=relayed, reserve=wish.is_for_reserve
            ),
            lambda _, error: self._ended(public_key, wish, error),
            recording=party.tracer.of(wish.fqdn),
        )

    def _ended(self, public_key: bytes, wish: Wish, error: Exception | None) -> None:
        party = self._party
        self._under_way -= 1
        wish.is_under_way = wish.is_pending = False
        was_for_reserve, wish.is_for_reserve = wish.is_for_reserve, False
        if error is not None and not was_for_reserve:
            party.emit(Failed(error, f"directing to {wish.fqdn} again"))
        peer = party.peers.of_key(public_key)
        if peer is not None and self._wishes.get(public_key) is wish:
            is_final = isinstance(error, Refused) and error.code in _FINAL
            if error is None:
                wish.tries = 0
                wish.avoid = wish.avoid if wish.is_wanted_again else b""
            if was_for_reserve and (error is not None or not peer.relay):
                self._reserves.refused(public_key, error)
                wish.avoid = wish.avoid if wish.is_wanted_again else b""
            if wish.is_wanted_again and not is_final:
                self._begin_at(public_key, wish, wish.began_at + NEWS_INTERVAL)
            elif was_for_reserve:
                pass  # the tunnel itself wants nothing
            elif error is not None and not is_final and wish.tries < MAX_TRIES:
                # Perhaps it moves as well, and will be where it registers next.
                self._begin_at(public_key, wish, wish.began_at + wish.pause)
            elif error is not None and not peer.is_up:
                party.drop(peer)
        self._begin_next()

    def _watch_relay(self, peer: Peer, direction: RouteDirection) -> None:
        """Ask for another relay session before this one ends, if the tunnel still lives."""
        party = self._party
        name = f"relay {peer.public_key.hex()}"
        if direction.relay is None and peer.relay:
            return  # it is in reserve now, until the time that was set for it
        if direction.relay is None or not direction.initiate:
            party.call_off(name)
            return

        def renew() -> None:
            current = party.peers.of_key(peer.public_key)
            if current is None or not current.is_up:
                return
            if not current.in_reserve:
                self.want(peer.public_key)
            elif party.is_in_use(peer.public_key):
                self._want_reserve(peer.public_key, b"")

        party.call_at(name, party.now + RELAY_RENEWAL_SHARE * direction.relay.lifetime, renew)
