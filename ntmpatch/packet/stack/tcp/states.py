"""The states of RFC 9293 section 3.3.2, and what each allows."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """A connection's state; LISTEN is the listener's."""

    SYN_SENT = auto()
    SYN_RECEIVED = auto()
    ESTABLISHED = auto()
    FIN_WAIT_1 = auto()
    FIN_WAIT_2 = auto()
    CLOSE_WAIT = auto()
    CLOSING = auto()
    LAST_ACK = auto()
    TIME_WAIT = auto()
    CLOSED = auto()


SENDING = frozenset({State.ESTABLISHED, State.CLOSE_WAIT})
"""The program may still write."""

RECEIVING = frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})
"""The far end has not ended its stream."""

SYNCHRONISED = frozenset(State) - {State.SYN_SENT, State.SYN_RECEIVED, State.CLOSED}

FIN_SENT = frozenset({State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK})
"""Our FIN is queued or under way and not acknowledged."""

RESETTING = SYNCHRONISED - {State.CLOSING, State.LAST_ACK, State.TIME_WAIT} | {State.SYN_RECEIVED}
"""In these an abort is told to the far end (RFC 9293 section 3.10.5)."""
