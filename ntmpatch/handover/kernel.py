"""What the kernel tells of its network configuration, in our words (rtnetlink(7))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

IFA_F_DADFAILED = 0x08
IFA_F_OPTIMISTIC = 0x04
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
"""Bits of `KernelAddress.flags`, linux/if_addr.h."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface; ``is_up``: its administrator wants it."""

    index: int
    name: str
    is_up: bool = True
    has_carrier: bool = True
    is_loopback: bool = False


@dataclass(frozen=True, slots=True)
class KernelAddress:
    """An address of an interface; ``text`` without prefix length, as ``ipaddress`` prints it."""

    index: int
    text: str
    prefix_length: int
    flags: int = 0

    @property
    def is_ipv6(self) -> bool:
        """Its family."""
        return ":" in self.text

    @property
    def is_usable(self) -> bool:
        """Whether new communication may begin from it (RFC 4862 5.4, 5.5.4; RFC 4429)."""
        if self.flags & (IFA_F_DADFAILED | IFA_F_DEPRECATED):
            return False
        return not self.flags & IFA_F_TENTATIVE or bool(self.flags & IFA_F_OPTIMISTIC)


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A way out through an interface, in any of the kernel's tables; a lower metric is better."""

    index: int
    is_ipv6: bool
    metric: int
    gateway: str = ""
    source: str = ""
    """The address that it prefers to send from, if it names one."""
    table: int = 254


Item: TypeAlias = Link | KernelAddress | DefaultRoute


class News(NamedTuple):
    """``item`` is there, or is gone; a route may replace the one of its table and metric."""

    item: Item
    is_gone: bool = False
    replaces: bool = False
