"""Questions to a running node through its control socket, with a bounded wait."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from ntmpatch.base.errors import NtmpatchError, RefusedError, UnavailableError
from ntmpatch.cli.identity import ensure_identity
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ntmpatch.runtime.settings import NodeSettings

R = TypeVar("R", bound=local.Record)

ANSWER_TIMEOUT: Final = 5.0
"""Seconds a node has for an answer: it computes none of these."""


class NodeControl:
    """One control connection to the node that listens at ``path``.

    UnavailableError if nobody listens there or the node does not answer in time; PermissionError
    if it belongs to another user.
    """

    def __init__(self, path: str, *, timeout: float = ANSWER_TIMEOUT) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
            self.welcome = self.ask(local.Hello(local.VERSION, os.getpid()), local.Welcome)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self.close()
            raise UnavailableError(f"no node is running at {path}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> NodeControl:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: local.Record, kind: type[R]) -> R:
        """The node's answer to ``request``, which must be a ``kind``."""
        try:
            self._socket.sendall(local.encode(request))
            record = self._socket.recv(local.MAX_RECORD_SIZE)
            answer = local.decode_reply(record)
        except (TimeoutError, ConnectionResetError, BrokenPipeError) as error:
            raise UnavailableError(f"the node at {self._path} does not answer") from error
        except msgspec.MsgspecError as error:
            raise UnavailableError(f"the node at {self._path} ended, or is no node") from error
        if isinstance(answer, kind):
            return answer
        if isinstance(answer, local.Failed):
            reason = answer.message or os.strerror(answer.error)
            raise NtmpatchError(f"the node at {self._path} refuses: {reason}")
        if isinstance(answer, local.NameFailed):
            raise RefusedError(answer.message)
        raise UnavailableError(f"the node at {self._path} speaks another version")

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


@contextlib.contextmanager
def running_node(settings: NodeSettings, timeout: float) -> Iterator[NodeControl]:
    """The running node of this identity, or one of our own meanwhile.

    ``timeout``: seconds for each answer.
    """
    path = settings.control_path
    try:
        running = NodeControl(path, timeout=timeout)
    except UnavailableError:
        running = None
    if running is not None:
        with running:
            yield running
        return
    ensure_identity(settings)
    from ntmpatch.runtime.node import own_node  # noqa: PLC0415 (heavy; a running node needs none)

    own = own_node(settings)
    try:
        with NodeControl(path, timeout=timeout) as node:
            yield node
    finally:
        if own is not None:
            own.stop()
