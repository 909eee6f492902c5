"""The steps of a tunnel's set-up that are no control messages: Fig. 3 (1) and (17)-(21).

They happen between the program, negotiation and the tunnel, so only the node itself can tell of
them: to whoever reads its trace (runtime/trace.py), and to `ntmpatch trace`.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event

from ntmpatch.negotiation.tracing import lines
from ntmpatch.packet.stack.ports import Claim
from ntmpatch.runtime.door import NameLookupError
from ntmpatch.runtime.switching_steps import SwitchingSteps

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.negotiation.node import NodeNegotiation
    from ntmpatch.packet.tunnel.tunnel import Established
    from ntmpatch.runtime.packets import PacketSide
    from ntmpatch.runtime.station import Station
    from ntmpatch.signalling.effects import Contact
    from ntmpatch.signalling.recording import Recording, Step
    from ntmpatch.wire import local

DISCARD_PORT = 9
"""RFC 863: whoever listens there throws away what comes."""
STEP_TIMEOUT = 0.5
"""Seconds for steps that follow at once."""
COLLECTION_TIMEOUT = 4.0
"""Seconds for the coordinators to tell their parts; they give up before."""


class SetUpSteps:
    """Tells of these steps, once a set-up; and sends the keep-alive that is (20)."""

    def __init__(self, station: Station, negotiation: NodeNegotiation, packets: PacketSide) -> None:
        self._station = station
        self._negotiation = negotiation
        self._packets = packets
        self._switching = SwitchingSteps(station)
        self._names: dict[bytes, str] = {}
        self._done: set[bytes] = set()
        """Peers whose set-up has been told of to its end."""

    def asked(self, name: str, now: float) -> None:
        """(1): a program resolves a name."""
        self._station.trace("3.1", message=f"look-up of {name}")
        self._note(name, "3.1", self._me, self._me, now)

    def anew(self, name: str) -> None:
        """The next set-up of a tunnel to ``name`` is told of, though it may be up."""
        peer = self._negotiation.peers.named(name)
        if peer is not None:
            self._done.discard(peer.public_key)

    def directed(self, contact: Contact) -> None:
        """(17), if it is ours to send; Fig. 5 (24), (25) of a tunnel that was directed again."""
        key = contact.public_key
        self._names[key] = contact.name
        is_again = self._switching.directed(contact)
        if contact.initiate:
            if not is_again:
                self._station.trace("3.17", self._title(key), "tunnel request")
            self._note(contact.name, "3.17", self._me, self._title(key))

    def shaken_hands(self, event: Established, now: float) -> bool:
        """(18); and (17), if it was the peer's. Or Fig. 5 (27), (29), (30): then True."""
        key = event.peer.public_key
        is_again = self._switching.shaken_hands(event, now)
        if key not in self._names or key in self._done:
            return is_again
        name, other = self._names[key], self._title(key)
        if event.initiator:
            self._note(name, "3.18", other, self._me, now)
            return is_again
        # Confirmed only now, by the peer's first packet; the two were when the request came.
        at = event.peer.last_initiation_at
        if not is_again:
            self._station.trace("3.18", other, "tunnel response", at=at)
        self._note(name, "3.17", other, self._me, at)
        self._note(name, "3.18", self._me, other, at)
        return is_again

    def ready(self, name: str) -> None:
        """(19)-(21), once: to be called when the program has been answered."""
        found = self._negotiation.peers.named(name)
        if found is None or found.public_key in self._done:
            return
        key = found.public_key
        self._done.add(key)
        other = self._title(key)
        self._station.trace("3.19", message="ready")
        self._note(name, "3.19", self._me, self._me)
        peer = self._station.tunnel.peers.get(key)
        if peer is not None:
            # It opens our NAT's mapping at once, and shows the far end that we have the session.
            peer.keepalive(time.monotonic())
            self._station.trace("3.20", other, "keep-alive")
            self._note(name, "3.20", self._me, other)
        self._packets.on_first_use(key, lambda: self._used(name, other))
        self.wake()

    def wake(self) -> None:
        """Let the station send what it has."""
        self._station.carrier.wake()

    def forget(self, public_key: bytes) -> None:
        """The peer is gone; another set-up is told of anew."""
        self._names.pop(public_key, None)
        self._switching.forget(public_key)
        self._done.discard(public_key)

    def _used(self, name: str, other: str) -> None:
        self._station.trace("3.21", other, "application's data")
        self._note(name, "3.21", self._me, other)

    @property
    def _me(self) -> str:
        return self._station.party.title

    def _title(self, public_key: bytes) -> str:
        return f"node {self._names.get(public_key, '')}"

    def _note(
        self, name: str, step: str, sender: str, receiver: str, at: float | None = None
    ) -> None:
        tracer = self._negotiation.tracer
        tracer.note(name, step, sender, receiver, time.monotonic() if at is None else at)


def trace_set_up(
    name: str,
    look_up: Callable[[Recording], local.Resolved],
    negotiation: NodeNegotiation,
    packets: PacketSide,
    set_up: SetUpSteps,
) -> dict[str, Any]:
    """Look ``name`` up anew, communicate a little, and put together what all parties saw.

    In a greenlet, for at most a few seconds more than a look-up.
    """
    tracer = negotiation.tracer
    negotiation.now = time.monotonic()
    recording = tracer.begin(name)
    failure, is_unknown = "", False
    try:
        try:
            found = look_up(recording)
        except NameLookupError as error:
            failure, is_unknown = str(error), error.code == socket.EAI_NONAME
        else:
            set_up.ready(name)
            _communicate(found, packets)
            set_up.wake()
            _wait_for("3.21", recording)
        collected: gevent.event.AsyncResult[tuple[list[Step], tuple[str, ...]]]
        collected = gevent.event.AsyncResult()
        negotiation.now = time.monotonic()
        tracer.collect(recording, lambda steps, silent: collected.set((steps, silent)))
        set_up.wake()
        try:
            steps, silent = collected.get(timeout=COLLECTION_TIMEOUT) or ([], ())
        except gevent.Timeout:
            steps, silent = recording.steps, ()
    finally:
        tracer.end(name)
    return {
        "fqdn": name,
        "failure": failure,
        "is_unknown": is_unknown,
        "steps": lines(steps, recording.began_at, silent, failure),
    }


def _communicate(found: local.Resolved, packets: PacketSide) -> None:
    """(21): one empty datagram to the peer's discard port, as a program would send it."""
    address = found.ipv4 or found.ipv6
    if address is None:
        return
    family = 4 if len(address) == 4 else 6
    sender = packets.stack.udp.bind(Claim((family,), None, 0), _Deaf())
    try:
        sender.send_to(b"", (address, DISCARD_PORT), time.monotonic())
    finally:
        sender.close()


def _wait_for(step: str, recording: Recording) -> None:
    deadline = time.monotonic() + STEP_TIMEOUT
    while time.monotonic() < deadline and all(each.step != step for each in recording.steps):
        gevent.sleep(0.001)


class _Deaf:
    """Hears no answer: what comes back is that nobody listens there."""

    def datagram(self, *_: object) -> None:
        """Nothing comes to a socket that is closed by then."""

    def error(self, *_: object) -> None:
        """No error either."""
