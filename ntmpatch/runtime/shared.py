"""``up``: a node in a process of its own, which programs share."""

from __future__ import annotations

import queue
import signal
from typing import TYPE_CHECKING

from ntmpatch.base.errors import ConfigError, UnavailableError
from ntmpatch.runtime.node import own_node

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.runtime.settings import NodeSettings

_ENDING = (signal.SIGTERM, signal.SIGINT)


class SharedNode:
    """A node that serves until a signal ends it. To be made and used in the main thread."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        # Of all queues the one that a signal's handler may use: it was made reentrant.
        self._news: queue.SimpleQueue[Exception | signal.Signals | None] = queue.SimpleQueue()

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Run the node until SIGTERM or SIGINT; ``on_ready`` once it is registered.

        ConfigError: there is no identity, or another process runs its node. RefusedError: the
        servers will not have this node. UnavailableError: it did not end in time. OSError: a port
        is taken.
        """
        if not self._settings.control_path:
            raise ConfigError(
                f"{self._settings.state.path}: too long a path for programs to reach the node at"
            )
        for number in _ENDING:
            signal.signal(number, self._end)
        node = own_node(self._settings, self._news.put)
        if node is None:
            owner = self._settings.state.owner()
            raise ConfigError(
                f"{self._settings.state.path}: process {owner} already runs the node of this"
                " identity"
            )
        try:
            while True:
                news = self._news.get()
                if isinstance(news, signal.Signals):
                    break
                if news is not None:
                    raise news
                on_ready()
        finally:
            has_ended = node.stop()
        if not has_ended:
            raise UnavailableError("the node did not end in time: what was queued may be lost")

    def _end(self, number: int, _frame: object) -> None:
        for each in _ENDING:
            signal.signal(each, signal.SIG_DFL)  # whoever asks again wants it at once
        self._news.put(signal.Signals(number))
