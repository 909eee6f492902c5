"""Is there a NAT64 where there is no IPv4? The system's resolver is asked, as RFC 7050 says."""

from __future__ import annotations

import _socket
import logging
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.base.nat64 import WELL_KNOWN_NAME, Nat64Prefix, find_prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.handover.networks import Network, Picture

log = logging.getLogger("ntmpatch.node")

RETRIES = (1.0, 3.0, 10.0)
"""Seconds between questions, where the resolver itself cannot be reached yet."""


class Nat64:
    """Knows the prefix of the network in use. To be made and used inside the hub."""

    def __init__(self, on_change: Callable[[Nat64Prefix | None], None]) -> None:
        """``on_change(before)``, when ``prefix`` is another one."""
        self.prefix: Nat64Prefix | None = None
        self._on_change = on_change
        self._threadpool: Any = gevent.get_hub().threadpool
        self._network: Network | None = None
        self._asking: Any = None

    def see(self, picture: Picture, *, afresh: bool = False) -> None:
        """The usable networks are these; ``afresh``: what looks the same may be another one."""
        ways = [network for network in picture if network.has_default]
        network = next((each for each in ways if each.is_ipv6), None)
        if any(not each.is_ipv6 for each in ways):
            network = None
        if network == self._network and not afresh:
            return
        self.close()
        self._network = network
        self._set(None)
        if network is not None:
            self.look_up()

    def look_up(self) -> None:
        """Ask for the prefix, whatever the networks are."""
        self.close()
        self._asking = gevent.spawn(self._ask)

    def close(self) -> None:
        """Ask no more."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.kill(block=False)

    def _ask(self) -> None:
        for pause in (*RETRIES, None):
            try:
                hosts = self._threadpool.apply(_addresses)
            except OSError as error:
                log.debug("%s is not found: %s", WELL_KNOWN_NAME, error)
                if pause is None or error.errno != _socket.EAI_AGAIN:
                    return
                gevent.sleep(pause)
            else:
                self._set(find_prefix(hosts))
                return

    def _set(self, prefix: Nat64Prefix | None) -> None:
        before, self.prefix = self.prefix, prefix
        if before != prefix:
            log.info("IPv4 by a NAT64: %s", prefix or "not any more")
            self._on_change(before)


def _addresses() -> list[str]:
    found = _socket.getaddrinfo(WELL_KNOWN_NAME, None, _socket.AF_INET6, _socket.SOCK_DGRAM)
    return [str(address[4][0]) for address in found]
