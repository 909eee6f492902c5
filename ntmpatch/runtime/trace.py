"""Where the steps of the paper's figures go as they happen: one JSON record a step.

``NTMPATCH_TRACE`` names an AF_UNIX SOCK_SEQPACKET socket at which somebody listens (the demo, a
test). A slow or absent reader loses steps; the node never waits for it. (Datagrams would not do:
Linux queues ten of them, and a direction sends more than that before any reader gets to run.)
"""

from __future__ import annotations

import _socket
import json
import os
import time

TRACE_VARIABLE = "NTMPATCH_TRACE"


class TraceWriter:
    """Sends steps to the reader at ``path``; without a path every call returns at once."""

    def __init__(self, path: str | None = None) -> None:
        self._path = os.environ.get(TRACE_VARIABLE, "") if path is None else path
        self._socket: _socket.socket | None = None

    @property
    def active(self) -> bool:
        """Whether anybody asked for the steps."""
        return bool(self._path)

    def write(self, *, step: str, sender: str, receiver: str, message: str, at: float) -> None:
        """Report a step such as ``3.12`` (Fig. 3 (12)); ``at`` is an instant of CLOCK_MONOTONIC.

        The record has it twice: ``at`` in seconds since 1970, and ``monotonic`` as it is, which is
        one clock for all processes of a machine, whatever becomes of the date meanwhile.
        """
        if not self._path:
            return
        figure, _, number = step.partition(".")
        record = json.dumps(
            {
                "at": time.time() - (time.monotonic() - at),
                "monotonic": at,
                "figure": figure,
                "step": number,
                "sender": sender,
                "receiver": receiver,
                "message": message,
            }
        )
        try:
            if self._socket is None:
                self._socket = self._connected()
            self._socket.send(record.encode(), _socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return  # the reader is slow
        except OSError:
            self._hang_up()  # it is gone, or not there yet

    def close(self) -> None:
        """Report nothing more."""
        self._path = ""
        self._hang_up()

    def _connected(self) -> _socket.socket:
        connection = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0
        )
        connection.setblocking(False)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        return connection

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
