"""What a policy lets peers reach: asked when one opens something, not for each packet.

What programs here opened themselves, and the answers to it, are nobody's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntmpatch.base.policy import Access, PortRange


class AccessTable:
    """The peers' addresses (packed) that may reach some ports only."""

    def __init__(self) -> None:
        self._ranges: dict[bytes, tuple[PortRange, ...]] = {}

    def allow(self, address: bytes, access: Access) -> None:
        """Let ``address`` reach these ports and no others; None: all of them."""
        if access is None:
            self._ranges.pop(address, None)
        else:
            self._ranges[address] = access

    def is_restricted(self, address: bytes) -> bool:
        """Whether there are ports that ``address`` may not reach."""
        return address in self._ranges

    def admits(self, protocol: int, address: bytes, port: int) -> bool:
        """Whether ``address`` may reach our ``port``."""
        ranges = self._ranges.get(address)
        return ranges is None or any(
            each.protocol == protocol and each.first <= port <= each.last for each in ranges
        )
