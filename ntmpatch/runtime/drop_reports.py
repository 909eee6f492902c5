"""Drops and suppressed records in the log: one line a server and minute, however many come."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.runtime.logs import LogHandler, log_event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ntmpatch.base.drops import Drop, DropCounter

log = logging.getLogger("ntmpatch.serve")

REPORT_INTERVAL = 60.0


class DropReports:
    """Reports what ``drops`` counted, by server, every REPORT_INTERVAL seconds and at the end."""

    def __init__(self, drops: Mapping[str, DropCounter]) -> None:
        self._drops = drops
        self._reported: dict[str, Counter[Drop]] = {}
        self._task: Any = gevent.spawn(self._run)

    def close(self) -> None:
        """Report once more, and no longer."""
        self._task.kill(block=False)
        self.report()

    def report(self) -> None:
        """Log what came since the last report; nothing if nothing did."""
        for server, counter in self._drops.items():
            fresh = Counter(counter)
            fresh.subtract(self._reported.get(server, Counter()))
            self._reported[server] = Counter(counter)
            counts = {drop.name.lower(): count for drop, count in fresh.items() if count}
            if counts:
                log_event(log, "info", "drops", {"server": server, **counts})
        for handler in logging.getLogger().handlers:
            if isinstance(handler, LogHandler):
                for event, count in handler.take_suppressed().items():
                    log_event(log, "warning", "suppressed", {"of": event, "count": count})

    def _run(self) -> None:
        while True:
            gevent.sleep(REPORT_INTERVAL)
            self.report()
