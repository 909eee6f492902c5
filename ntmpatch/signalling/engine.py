"""Transactions over a lossy, unordered, authenticated channel.

Whoever asks retransmits until an answer comes or its time is over; whoever answers keeps the
answer for a while and repeats it when the question comes again, so that every request runs once.
An answer may come from another party than the one that was asked (Fig. 3 (9)-(11): DC asks NS,
the node answers), and it may go to another one than who asked; the transaction id stays.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ntmpatch.base.backoff import Backoff
from ntmpatch.base.drops import Drop
from ntmpatch.base.timers import TimerQueue
from ntmpatch.wire.control import TRANSACTION_ID_SIZE, Envelope, Kind, encode
from ntmpatch.wire.control_messages import Message, Refusal

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from ntmpatch.base.drops import DropCounter

FIRST_RETRANSMISSION_INTERVAL = 0.25
MAX_RETRANSMISSION_INTERVAL = 1.0
"""A whole second at most: callers wait in a name look-up, and messages are small."""
DEFAULT_TIMEOUT = 8.0
ANSWER_LIFETIME = 30.0
"""Seconds for which an answer is repeated to duplicates; longer than any asker retransmits."""
MAX_SERVED_PER_PEER = 64
MAX_SERVED = 65536
MAX_OUTSTANDING = 8192

PeerKey: TypeAlias = bytes


@dataclass(slots=True, frozen=True)
class Request:
    """A request that arrived for the first time; it wants `TransactionEngine.answer`."""

    peer: PeerKey
    transaction_id: bytes
    step: str
    message: Message


@dataclass(slots=True, frozen=True)
class Outcome:
    """How a transaction of ours ended; ``message`` None: nobody answered in time."""

    transaction_id: bytes
    peer: PeerKey
    step: str
    message: Message | None


@dataclass(slots=True)
class _Outstanding:
    peer: PeerKey
    answerers: tuple[PeerKey, ...]
    payload: bytes
    step: str
    gives_up_at: float
    backoff: Backoff


@dataclass(slots=True)
class _Served:
    """A request that came to us; ``to`` None: nothing was answered (yet, or on purpose)."""

    done: bool = False
    to: PeerKey | None = None
    payload: bytes = b""


@dataclass(slots=True)
class _Transmission:
    peer: PeerKey
    payload: bytes
    envelope: Envelope | None = field(default=None)
    """Set on first transmission only, for the trace."""


class TransactionEngine:
    """The transactions of one party with all its peers. Sans-I/O."""

    def __init__(
        self, *, rng: random.Random, entropy: Callable[[int], bytes], drops: DropCounter
    ) -> None:
        self._rng = rng
        self._entropy = entropy
        self.drops = drops
        self._outstanding: dict[bytes, _Outstanding] = {}
        self._timers: TimerQueue[bytes] = TimerQueue()
        self._served: dict[PeerKey, OrderedDict[bytes, _Served]] = {}
        self._served_count = 0
        # Oldest first, over all peers: what expires or must make room is at the front.
        self._served_order: deque[tuple[float, PeerKey, bytes]] = deque()
        self.transmissions: deque[_Transmission] = deque()

    # --- asking ------------------------------------------------------------------------

    def ask(
        self,
        peer: PeerKey,
        message: Message,
        step: str,
        now: float,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        answerers: Iterable[PeerKey] = (),
        record: bool = False,
    ) -> bytes | None:
        """Send a request and retransmit it until answered; the transaction's id.

        ``answerers``: parties besides ``peer`` whose answer counts. ``record``: the envelope asks
        for a recording. None: so many requests are under way that another one is not begun.
        """
        if len(self._outstanding) >= MAX_OUTSTANDING:
            return None
        transaction_id = self._entropy(TRANSACTION_ID_SIZE)
        envelope = Envelope(transaction_id, Kind.REQUEST, step, message, record)
        backoff = Backoff(
            initial=FIRST_RETRANSMISSION_INTERVAL,
            maximum=MAX_RETRANSMISSION_INTERVAL,
            rng=self._rng,
        )
        outstanding = _Outstanding(
            peer, (peer, *answerers), encode(envelope), step, now + timeout, backoff
        )
        self._outstanding[transaction_id] = outstanding
        self._arm(transaction_id, outstanding, now)
        self.transmissions.append(_Transmission(peer, outstanding.payload, envelope))
        return transaction_id

    def conclude(
        self, peer: PeerKey, transaction_id: bytes, message: Message, *, step: str = ""
    ) -> Outcome | None:
        """End a transaction of ours by what came from ``peer``; None if it awaits no such thing."""
        outstanding = self._outstanding.get(transaction_id)
        if outstanding is None or peer not in outstanding.answerers:
            return None
        del self._outstanding[transaction_id]
        self._timers.cancel(transaction_id)
        return Outcome(transaction_id, peer, step or outstanding.step, message)

    # --- answering ---------------------------------------------------------------------

    def answer(
        self,
        request: Request,
        message: Message | None,
        step: str,
        *,
        to: PeerKey | None = None,
        kind: Kind | None = None,
    ) -> None:
        """Answer a request, once and again whenever it comes again.

        ``message`` None: duplicates are suppressed and nothing is sent. ``to``: who gets the
        answer, if not who asked; with ``kind`` REQUEST the request goes on to that party.
        """
        of_peer = self._served.get(request.peer)
        served = of_peer.get(request.transaction_id) if of_peer is not None else None
        if served is not None:
            served.done = True
        if message is None:
            return
        if kind is None:
            kind = Kind.REFUSAL if isinstance(message, Refusal) else Kind.RESPONSE
        envelope = Envelope(request.transaction_id, kind, step, message)
        receiver = request.peer if to is None else to
        payload = encode(envelope)
        if served is not None:
            served.to = receiver
            served.payload = payload
        self.transmissions.append(_Transmission(receiver, payload, envelope))

    # --- receiving ---------------------------------------------------------------------

    def receive(self, peer: PeerKey, envelope: Envelope, now: float) -> Request | Outcome | None:
        """Take a message of an authenticated peer; None: a duplicate or a named drop."""
        if envelope.kind is not Kind.REQUEST:
            outcome = self.conclude(
                peer, envelope.transaction_id, envelope.message, step=envelope.step
            )
            if outcome is None:
                # Late answers to retransmitted requests end here too.
                self.drops.drop(Drop.CONTROL_UNEXPECTED)
            return outcome
        of_peer = self._served.setdefault(peer, OrderedDict())
        served = of_peer.get(envelope.transaction_id)
        if served is not None:
            if served.to is not None:
                self.transmissions.append(_Transmission(served.to, served.payload))
            return None
        if len(of_peer) >= MAX_SERVED_PER_PEER and not self._evict_done(peer, of_peer):
            self.drops.drop(Drop.CONTROL_TOO_MANY)
            return None
        of_peer[envelope.transaction_id] = _Served()
        self._served_count += 1
        self._served_order.append((now + ANSWER_LIFETIME, peer, envelope.transaction_id))
        self._expire_served(now)
        return Request(peer, envelope.transaction_id, envelope.step, envelope.message)

    def forget(self, peer: PeerKey) -> None:
        """Drop what is kept for ``peer``'s duplicates: it was removed from the channel."""
        self._served_count -= len(self._served.pop(peer, ()))

    # --- time --------------------------------------------------------------------------

    def poll_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called next."""
        return self._timers.earliest()

    def handle_timeout(self, now: float) -> list[Outcome]:
        """Retransmit what is due; the transactions whose time is over."""
        failed: list[Outcome] = []
        for transaction_id in self._timers.pop_due(now):
            outstanding = self._outstanding[transaction_id]
            if now >= outstanding.gives_up_at:
                del self._outstanding[transaction_id]
                failed.append(Outcome(transaction_id, outstanding.peer, outstanding.step, None))
            else:
                self.transmissions.append(_Transmission(outstanding.peer, outstanding.payload))
                self._arm(transaction_id, outstanding, now)
        return failed

    def _arm(self, transaction_id: bytes, outstanding: _Outstanding, now: float) -> None:
        retransmit_at = now + outstanding.backoff.next_interval()
        self._timers.arm(transaction_id, min(retransmit_at, outstanding.gives_up_at))

    def _expire_served(self, now: float) -> None:
        order = self._served_order
        while order and (
            order[0][0] <= now or self._served_count > MAX_SERVED or len(order) > 2 * MAX_SERVED
        ):
            _, peer, transaction_id = order.popleft()
            of_peer = self._served.get(peer)
            if of_peer is not None and of_peer.pop(transaction_id, None) is not None:
                self._drop_served(peer, of_peer)

    def _evict_done(self, peer: PeerKey, of_peer: OrderedDict[bytes, _Served]) -> bool:
        """Make room by ``peer``'s oldest answered request; False: all are still under way."""
        for transaction_id, served in of_peer.items():
            if served.done:
                del of_peer[transaction_id]
                self._drop_served(peer, of_peer)
                return True
        return False

    def _drop_served(self, peer: PeerKey, of_peer: OrderedDict[bytes, _Served]) -> None:
        self._served_count -= 1
        if not of_peer:
            del self._served[peer]
