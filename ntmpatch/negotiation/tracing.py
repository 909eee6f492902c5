"""`ntmpatch trace`: a tunnel's set-up recorded by this node, its coordinators and their servers.

The node has the tunnel directed anew, with the flag of a recording; when it is up it asks its
coordinator for what the parties beyond saw, and puts it between its own steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntmpatch.base.errors import NtmpatchError
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.figures import NETWORK_SWITCHING, TITLES, TUNNEL_CREATION
from ntmpatch.signalling.process import Event, ask
from ntmpatch.signalling.recording import Recording, Step, merge, read
from ntmpatch.signalling.recounting import TELLING_TIMEOUT
from ntmpatch.wire.control_messages import TraceRequest, TraceResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.negotiation.node import NodeNegotiation
    from ntmpatch.negotiation.peers import Peer
    from ntmpatch.signalling.process import Process

CREATION_STEPS = tuple(f"3.{number}" for number in range(1, 22))
_KEY_STEPS = frozenset({"3.4", "3.5"})
_NOTIFICATION_STEPS = frozenset({"3.9", "3.10", "3.11"})
_DIRECTION_REQUESTS = frozenset({TUNNEL_CREATION.request, NETWORK_SWITCHING.request})


class Tracer:
    """The set-ups that this node records now, by the name of the peer."""

    def __init__(self, party: NodeNegotiation) -> None:
        self._party = party
        self._recordings: dict[str, Recording] = {}

    def begin(self, fqdn: str) -> Recording:
        """Record the next set-up of a tunnel to ``fqdn``, whose first step is now."""
        party = self._party
        recording = party.recorder.begin(party.public_key, party.entropy(8), party.now)
        self._recordings[fqdn] = recording
        return recording

    def of(self, fqdn: str) -> Recording | None:
        """The recording of this name that is under way."""
        return self._recordings.get(fqdn)

    def end(self, fqdn: str) -> None:
        """Record it no longer."""
        recording = self._recordings.pop(fqdn, None)
        if recording is not None:
            self._party.recorder.end(recording)

    def note(self, fqdn: str, step: str, sender: str, receiver: str, at: float) -> None:
        """A step that is no control message, if this name is being recorded."""
        recording = self._recordings.get(fqdn)
        if recording is not None:
            recording.note(Step(at, step, sender, receiver))

    def anew(self, fqdn: str, look_up: Process[Peer]) -> Process[Peer]:
        """Look a name up whose tunnel may be up already: wait until the new one is.

        The sessions of the old one go on meanwhile. If nothing comes of it, the old one counts.
        """
        party = self._party
        known = party.peers.named(fqdn)
        was_up = known is not None and known.is_up
        if known is not None:
            known.established = Event()
        try:
            return (yield from look_up)
        except NtmpatchError:
            current = party.peers.named(fqdn)
            if was_up and current is not None:
                current.established.set()
            raise

    def collect(
        self, recording: Recording, done: Callable[[list[Step], tuple[str, ...]], None]
    ) -> None:
        """Ask the coordinator for its part: all steps by our clock, and who told nothing."""

        def collected(result: Any, error: Exception | None) -> None:
            steps, silent = result if error is None else (list(recording.steps), ())
            done(steps, silent)

        self._party.start(self._collect(recording), collected)

    def _collect(self, recording: Recording) -> Process[tuple[list[Step], tuple[str, ...]]]:
        party = self._party
        steps = list(recording.steps)
        silent: list[str] = []
        for peer, transaction_id, step in list(recording.asked):
            if step not in _DIRECTION_REQUESTS:
                continue
            try:
                part = yield from ask(
                    peer, TraceRequest(transaction_id), TraceResponse, timeout=TELLING_TIMEOUT
                )
            except (Refused, Silent):
                silent.append(party.peer_name(peer))
            else:
                steps = merge(steps, read(part), party.title)
                silent += part.silent
        return steps, tuple(dict.fromkeys(silent))


def lines(
    steps: list[Step], began_at: float, silent: tuple[str, ...], failure: str
) -> list[dict[str, object]]:
    """The set-up as the figure has it: each step with its milliseconds, and what is missing.

    Steps of Fig. 3 that nobody saw have no time and a note why, if that can be told.
    """
    found: list[dict[str, object]] = [
        {
            "step": each.step,
            "title": TITLES.get(each.step, ""),
            "sender": each.sender,
            "receiver": each.receiver,
            "at_ms": round((each.at - began_at) * 1e3, 3),
            "refused": each.refused,
            "note": "",
        }
        for each in steps
    ]
    seen = {each.step for each in steps}
    for step in CREATION_STEPS:
        if step in seen:
            continue
        line: dict[str, object] = {
            "step": step,
            "title": TITLES[step],
            "sender": "",
            "receiver": "",
            "at_ms": None,
            "refused": False,
            "note": _why_missing(step, seen, silent, failure),
        }
        # Before the first later step of the figure, wherever time has put that.
        position = next(
            (
                index
                for index, each in enumerate(found)
                if str(each["step"]) in CREATION_STEPS
                and CREATION_STEPS.index(str(each["step"])) > CREATION_STEPS.index(step)
            ),
            len(found),
        )
        found.insert(position, line)
    return found


def _why_missing(step: str, seen: set[str], silent: tuple[str, ...], failure: str) -> str:
    number = CREATION_STEPS.index(step)
    came_further = any(CREATION_STEPS.index(each) > number for each in seen & set(CREATION_STEPS))
    if step in _KEY_STEPS and "3.6" in seen:
        return "not needed: the coordinators share a key already"
    if silent and number < CREATION_STEPS.index("3.15"):
        return f"not told by {', '.join(silent)}"
    if step in _NOTIFICATION_STEPS and "3.12" in seen:
        return "not needed: no notification server has a connection of the node"
    if failure and not came_further:
        return "did not happen"
    return "not seen"
