"""Telling what was recorded of a direction: one party's steps with those of whom it asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.process import ask
from ntmpatch.signalling.recording import merge, read, told
from ntmpatch.wire.control_messages import RefusalCode, TraceRequest, TraceResponse

if TYPE_CHECKING:
    from ntmpatch.signalling.engine import Request
    from ntmpatch.signalling.party import Party
    from ntmpatch.signalling.process import Process

TO_NODES: Final = frozenset({"3.12", "3.15", "5.20", "5.23"})
"""Requests to nodes, which tell nobody."""
TIMEOUTS: Final = {"3.8": 2.0, "5.16": 2.0}
"""Seconds that the receiver of a request of that step has to tell its part: a coordinator asks its
notification server meanwhile."""
DEFAULT_TIMEOUT = 1.0
TELLING_TIMEOUT = 3.0
"""Seconds that a node's own coordinator has for the whole."""


class Recounter:
    """Lets a server record for those who ask for it, and tell them."""

    def __init__(self, party: Party) -> None:
        self._party = party
        party.records_for_others = True
        party.on(TraceRequest, self._tell)

    def _tell(self, message: TraceRequest, request: Request) -> Process[TraceResponse]:
        party = self._party
        recording = party.recorder.made_for(request.peer, message.transaction_id, party.now)
        if recording is None:
            raise Refused(RefusalCode.OTHER, "nothing is recorded of this transaction")
        steps = list(recording.steps)
        silent: list[str] = []
        deaf: set[bytes] = set()
        for peer, transaction_id, step in list(recording.asked):
            if peer == party.public_key or peer in deaf or step in TO_NODES:
                continue
            try:
                part = yield from ask(
                    peer,
                    TraceRequest(transaction_id),
                    TraceResponse,
                    timeout=TIMEOUTS.get(step, DEFAULT_TIMEOUT),
                )
            except (Refused, Silent) as failure:
                if isinstance(failure, Refused) and failure.code is not RefusalCode.UNSUPPORTED:
                    continue  # it did not know us yet when that request came
                deaf.add(peer)
                silent.append(party.peer_name(peer))
            else:
                steps = merge(steps, read(part), party.title)
                silent += part.silent
        return told(steps, recording.began_at, tuple(dict.fromkeys(silent)))
