"""Sockets with the number that a test is about."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def socket_at(number: int, type_: int = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    """A new IPv4 socket whose descriptor has a number that is free.

    It need not be the lowest free one: the tests' nodes are in this process, and close theirs."""
    with contextlib.ExitStack() as stack:
        made = (stack.enter_context(socket.socket(socket.AF_INET, type_)) for _ in range(100))
        yield next(each for each in made if each.fileno() == number)
