"""Where the steps of the paper's figures go as they happen: one JSON line a step.

``NTMPATCH_TRACE`` names an AF_UNIX datagram socket that somebody reads (the demo, a test). A slow
or absent reader loses lines; the node never waits for it.
"""

from __future__ import annotations

import _socket
import json
import os
import time

TRACE_VARIABLE = "NTMPATCH_TRACE"


class TraceWriter:
    """Sends steps to the socket at ``path``; without a path every call returns at once."""

    def __init__(self, path: str | None = None) -> None:
        path = os.environ.get(TRACE_VARIABLE) if path is None else path
        self._socket: _socket.socket | None = None
        if path:
            self._socket = _socket.socket(
                _socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0
            )
            self._socket.setblocking(False)
            self._path = path

    @property
    def active(self) -> bool:
        """Whether anybody asked for the steps."""
        return self._socket is not None

    def write(self, *, step: str, sender: str, receiver: str, message: str) -> None:
        """Report a step such as ``3.12`` (Fig. 3 (12)), now."""
        if self._socket is None:
            return
        figure, _, number = step.partition(".")
        line = json.dumps(
            {
                "at": time.time(),
                "figure": figure,
                "step": number,
                "sender": sender,
                "receiver": receiver,
                "message": message,
            }
        )
        try:
            self._socket.sendto(line.encode(), self._path)
        except OSError:
            return  # the reader is slow or gone

    def close(self) -> None:
        """Report nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
