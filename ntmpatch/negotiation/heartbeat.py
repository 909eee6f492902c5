"""How long a NAT lets a connection be silent, learned by trying (RFC 5382 REQ-5, RFC 4787 REQ-5).

The longer the silence between two heart-beats, the fewer bytes; longer than the NAT remembers, and
nobody can wake the node until it notices. So the interval doubles while connections survive it,
goes back to the last good value when one does not, and closes in on the limit between the two.
"""

from __future__ import annotations

import math
from collections import OrderedDict

FIRST_INTERVAL = 45.0
"""Seconds: what nearly every NAT grants an established connection."""
MIN_INTERVAL = 15.0
MAX_INTERVAL = 28 * 60.0
"""Below half an hour, the limit of many a router; RFC 5382 asks for two hours, and few keep it."""
RESOLUTION = 1.25
"""The search ends when what failed is less than this factor above what is good."""
PATIENCE = 16
"""Heart-beats at a good interval before a longer one is tried again; doubled each time in vain."""
MAX_NETWORKS = 16


class Heartbeat:
    """The interval for one network, in seconds. Tell it what became of each silence that long."""

    __slots__ = ("_bad", "_good", "_maximum", "_misses", "_patience", "_survivals", "interval")

    def __init__(self, first: float = FIRST_INTERVAL, maximum: float = MAX_INTERVAL) -> None:
        self.interval = min(first, maximum)
        """What the next silence is to be."""
        self._maximum = maximum
        self._good = 0.0
        self._bad: float | None = None
        self._misses = 0
        """In a row, at an interval that was good before."""
        self._survivals = 0
        self._patience = PATIENCE

    def survived(self) -> None:
        """The connection carried something after a silence of ``interval``."""
        self._misses = 0
        self._good = max(self._good, self.interval)
        if self._bad is not None and self._good >= self._bad:
            self._bad = None  # what failed then was something else
        if self._bad is None:
            self.interval = min(2.0 * self._good, self._maximum)
        elif self._bad > RESOLUTION * self._good:
            self.interval = math.sqrt(self._good * self._bad)
        else:
            self._wait_to_try_again()

    def missed(self) -> None:
        """Nothing came through after a silence of ``interval``: it was too long, or the far end is
        gone. A good value is given up only if that happens twice in a row.
        """
        self._survivals = 0
        if self.interval > self._good:
            self._bad = self.interval
        else:
            self._misses += 1
            if self._misses < 2:
                return
            self._misses = 0
            self._bad = self._good
            self._good = 0.0
        self.interval = self._good or max(self.interval / 2.0, min(MIN_INTERVAL, self._maximum))

    def _wait_to_try_again(self) -> None:
        """The limit is known well enough; it may have been another reason, or another router."""
        self.interval = self._good
        self._survivals += 1
        if self._survivals >= self._patience:
            self._survivals = 0
            self._patience *= 2
            self.interval = min(RESOLUTION * self._good, self._maximum)


class Heartbeats:
    """What was learned of each network, by the local address there; the last few are kept."""

    def __init__(self, first: float = FIRST_INTERVAL, maximum: float = MAX_INTERVAL) -> None:
        self._first = first
        self._maximum = maximum
        self._networks: OrderedDict[str, Heartbeat] = OrderedDict()

    def on(self, network: str) -> Heartbeat:
        """The heart-beat of a network."""
        heartbeat = self._networks.pop(network, None) or Heartbeat(self._first, self._maximum)
        self._networks[network] = heartbeat
        if len(self._networks) > MAX_NETWORKS:
            self._networks.popitem(last=False)
        return heartbeat
