"""Who may reach whom: rules of name patterns and ports, for coordinators and for nodes.

Without rules every member of the same AS may reach everything; with rules, only what one of them
allows. What is allowed is told as ranges of ports, because that is what a node can enforce.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ntmpatch.base.addresses import in_domain, normalise_fqdn
from ntmpatch.base.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TCP, UDP = 6, 17
_PROTOCOLS = {"tcp": TCP, "udp": UDP}
_PORTS = re.compile(r"(tcp|udp)(?:/(\d{1,5})(?:-(\d{1,5}))?)?", re.ASCII)
MAX_PORT = 65535


class PortRange(NamedTuple):
    """Ports ``first`` to ``last``, both included, of an IP protocol (6 is TCP, 17 UDP)."""

    protocol: int
    first: int
    last: int


Access: TypeAlias = tuple[PortRange, ...] | None
"""The ports that somebody may reach; None: all of them."""

NO_ACCESS: tuple[PortRange, ...] = ()


class Rule(NamedTuple):
    """``sources`` may reach ``ports`` of ``targets``; both are patterns of names."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    ports: Access


class Policy:
    """A list of rules, of which each only allows."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)

    def access(self, source: str, target: str) -> Access:
        """The ports of the node ``target`` that ``source`` may reach (normalised names)."""
        if not self._rules:
            return None
        allowed: list[PortRange] = []
        for rule in self._rules:
            if _matches(source, rule.sources) and _matches(target, rule.targets):
                if rule.ports is None:
                    return None
                allowed += rule.ports
        return merged(allowed)


def intersection(one: Access, other: Access) -> Access:
    """The ports that both allow."""
    if one is None or other is None:
        return other if one is None else one
    common = [
        PortRange(a.protocol, max(a.first, b.first), min(a.last, b.last))
        for a in one
        for b in other
        if a.protocol == b.protocol and max(a.first, b.first) <= min(a.last, b.last)
    ]
    return merged(common)


def merged(ranges: Sequence[PortRange]) -> tuple[PortRange, ...]:
    """The same ports in as few ranges as possible, in order."""
    result: list[PortRange] = []
    for each in sorted(ranges):
        last = result[-1] if result else None
        if last is not None and last.protocol == each.protocol and each.first <= last.last + 1:
            result[-1] = PortRange(last.protocol, last.first, max(last.last, each.last))
        else:
            result.append(each)
    return tuple(result)


def parse_rule(sources: Sequence[str], targets: Sequence[str], ports: Sequence[str]) -> Rule:
    """A rule from its text.

    Patterns are ``*``, ``*.home.example`` or a name; ports are ``tcp/22``, ``udp/5000-5010``,
    ``tcp`` (all of TCP); no ports at all means all. ConfigError says what was expected.
    """
    return Rule(
        tuple(map(_parse_pattern, sources)) or ("*",),
        tuple(map(_parse_pattern, targets)) or ("*",),
        merged([_parse_ports(text) for text in ports]) if ports else None,
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(
        pattern in ("*", name) or (pattern.startswith("*.") and in_domain(name, pattern[2:]))
        for pattern in patterns
    )


def _parse_pattern(text: str) -> str:
    if text == "*":
        return text
    prefix, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    try:
        return prefix + normalise_fqdn(name)
    except ConfigError:
        raise ConfigError(
            f"{text!r} is no pattern of names: expected *, *.home.example or cam.home.example"
        ) from None


def _parse_ports(text: str) -> PortRange:
    match = _PORTS.fullmatch(text)
    first = last = -1
    if match is not None:
        first = int(match[2]) if match[2] else 0
        last = int(match[3] or match[2] or MAX_PORT)
    if match is None or not 0 <= first <= last <= MAX_PORT:
        raise ConfigError(
            f"{text!r} are no ports: expected tcp/22, udp/5000-5010, or tcp for all of them"
        )
    return PortRange(_PROTOCOLS[match[1]], first, last)
