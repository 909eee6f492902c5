"""The handover module at work, Fig. 5 (1), (2): the kernel's news go in, moves come out."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import Endpoint
from ntmpatch.handover.networks import Networks
from ntmpatch.runtime.alarm import Alarm
from ntmpatch.runtime.interfaces import WILDCARDS
from ntmpatch.runtime.netlink import NetlinkMonitor
from ntmpatch.runtime.wakeup import WakeUp

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.handover.kernel import News
    from ntmpatch.handover.networks import Change, InterfacePolicy, Picture

log = logging.getLogger("ntmpatch.node")

MAX_ENDPOINTS = 8
"""Local endpoints that a registration holds."""


class Handover:
    """Watches this machine's networks from ``start`` on; ``on_change(change)`` runs in the hub."""

    def __init__(
        self,
        policy: InterfacePolicy,
        on_change: Callable[[Change], None],
        drops: DropCounter | None = None,
        on_first: Callable[[Picture], None] = lambda _picture: None,
    ) -> None:
        """``on_first(picture)``: what there is to begin with."""
        self._networks = Networks(policy)
        self._on_change = on_change
        self._on_first = on_first
        self._drops = drops
        self._alarm: Alarm | None = None
        self._monitor: NetlinkMonitor | None = None
        self._wake_up: WakeUp | None = None

    @staticmethod
    def concerns(bound: tuple[Endpoint, ...]) -> bool:
        """Whether ports follow the machine's networks: explicit addresses are moved by hand."""
        return all(end.host in WILDCARDS for end in bound)

    @property
    def picture(self) -> Picture:
        """The networks that can be used; empty while unknown."""
        return self._networks.picture or ()

    def start(self) -> None:
        """Watch. A machine that lets nobody watch is left to ``rebind``, with a line in the log."""
        self._alarm = Alarm(self._due)
        try:
            self._monitor = NetlinkMonitor(on_all=self._all, on_news=self._news, drops=self._drops)
        except OSError as error:
            log.warning("changes of network will not be noticed: no netlink here (%s)", error)
            return
        try:
            self._wake_up = WakeUp(self._resumed)
        except OSError as error:
            log.debug("sleep of this machine will not be noticed: %s", error)

    def close(self) -> None:
        """Watch no more, and know nothing."""
        for part in (self._alarm, self._monitor, self._wake_up):
            if part is not None:
                part.close()
        self._alarm = self._monitor = self._wake_up = None
        self._networks.picture = None

    def endpoints(
        self, bound: tuple[Endpoint, ...], preferred: tuple[Endpoint, ...]
    ) -> tuple[Endpoint, ...]:
        """``preferred``, then every usable address with the port that is ``bound`` for it.

        Without a default route an address is good for neighbours only. So it does not make the node
        one of its family: a coordinator would send peers of that family there, and not by relay.
        """
        ports = {end.is_ipv6: end.port for end in bound}
        families = {end.is_ipv6 for end in preferred}
        known = (
            Endpoint(network.address, ports[network.is_ipv6])
            for network in self.picture
            if network.is_ipv6 in ports and (network.has_default or network.is_ipv6 in families)
        )
        return tuple(dict.fromkeys([*preferred, *known]))[:MAX_ENDPOINTS]

    def _all(self, dump: list[News]) -> None:
        is_first = self._networks.picture is None
        self._networks.replace(dump, time.monotonic())
        if is_first:
            self._on_first(self.picture)
        self._ask()

    def _news(self, news: News) -> None:
        self._networks.hear(news, time.monotonic())
        self._ask()

    def _resumed(self) -> None:
        self._networks.resumed(time.monotonic())
        self._ask()

    def _due(self) -> None:
        self._networks.handle_timeout(time.monotonic())
        change = self._networks.poll_change()
        if change is not None:
            self._on_change(change)
        self._ask()

    def _ask(self) -> None:
        if self._alarm is not None:
            self._alarm.ask(self._networks.poll_timeout())


def ends_connection(change: Change, local: Endpoint | None) -> bool:
    """Whether a TCP connection with this end (None: it is not up) is to be made anew.

    Its address is gone; or it would be of no use, as packets leave another way than its NAT.
    """
    if local is None or change.interrupted or local.host in change.lost:
        return True
    return change.has_other_default(is_ipv6=local.is_ipv6)
