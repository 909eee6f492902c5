"""What the patched surface must know before there is a node: cheap to read, nothing started.

The node writes ``names.json`` into its state directory whenever its domains or prefixes change::

    {"domains": ["home.example"], "prefixes": ["198.18.0.0/15", "fd12:3456:789a::/48"]}
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ntmpatch.base.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMES_FILE = "names.json"
CONTROL_SOCKET = "control.sock"


class EmbeddedNode(Protocol):
    """A node in a private thread of this process."""

    @property
    def control_path(self) -> str:
        """Where forked children reach it; empty if nowhere."""
        ...

    def attach(self) -> int:
        """A connected descriptor of the local control protocol; callable from any thread."""
        ...

    def stop(self, *, quietly: bool) -> bool:
        """Let out what was written, for a bounded time, and end; nothing in a forked child.

        ``quietly``: without waking threads that are blocked in a call.
        """
        ...


class Settings(NamedTuple):
    """Where this process's node is, and which names and addresses are its."""

    control_path: str = ""
    """Control socket of a node that is shared, if one listens there."""
    domains: tuple[str, ...] | None = None
    """Domains whose names are nodes; None: not known before a node runs."""
    prefixes: tuple[str, ...] = ()
    """Virtual networks in CIDR notation."""
    names: tuple[str, ...] = ()
    """Names of nodes that lie in none of ``domains``."""
    embed: Callable[[], EmbeddedNode | None] | None = None
    """Starts a node in this process, or answers None where another process has just started it;
    None: there is nothing to start one from."""

    @property
    def is_enabled(self) -> bool:
        """Whether there can be a node at all; without one every socket stays ordinary."""
        return self.embed is not None or bool(self.control_path)


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings of this process; disabled if nothing says that there is a node. ConfigError."""
    section, peers = _read_config(environment.get("NTMPATCH_CONFIG"))
    state = (
        environment.get("NTMPATCH_STATE")
        or section.get("state")
        or os.path.join(
            environment.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "ntmpatch"
        )
    )
    control_path = os.path.join(state, CONTROL_SOCKET)
    written = read_names(state)
    configured = written is not None or any(
        environment.get(name) for name in ("NTMPATCH_TOKEN", "NTMPATCH_CONFIG")
    )
    if not configured and not os.path.exists(control_path):
        return Settings()
    domains, prefixes = written if written is not None else (None, ())
    addresses = [*section.get("addresses", ())]
    names = [section.get("name", "")]
    for peer in peers:
        addresses += peer.get("addresses", ())
        names.append(peer.get("name", ""))
    if peers:
        domains = domains or ()
    if domains is not None:
        domains += tuple(section.get("domains", ()))
    return Settings(
        control_path,
        domains,
        prefixes + tuple(addresses),
        tuple(filter(None, names)),
        embed=_start_embedded if configured else None,
    )


def _read_config(path: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Sections ``[node]`` and ``[[peer]]``, unchecked: the node checks them when it starts."""
    if not path:
        return {}, []
    import tomllib  # noqa: PLC0415  # only where there is a file

    try:
        with open(path, "rb") as file:
            config = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    section, peers = config.get("node", {}), config.get("peer", [])
    return (section if isinstance(section, dict) else {}), (
        peers if isinstance(peers, list) else []
    )


def read_names(state: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Domains and prefixes from ``names.json``; None if the node has not written it yet."""
    path = os.path.join(state, NAMES_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        return tuple(map(str, content["domains"])), tuple(map(str, content["prefixes"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: expected an object with lists `domains` and `prefixes`"
        ) from error


def _start_embedded() -> EmbeddedNode | None:
    from ntmpatch.runtime.node import start_local_node  # noqa: PLC0415  # heavy; first use only

    node: EmbeddedNode | None = start_local_node()
    return node
