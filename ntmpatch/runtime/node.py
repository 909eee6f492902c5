"""The node: negotiation, tunnels, stack and door together, in a private thread.

``start_local_node`` is what a program's first virtual socket calls. With an identity from an AS the
node registers, and is told of its peers; with static peers in the configuration it needs no server
and no negotiation, and its peers may be any WireGuard implementation.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import ipaddress
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import DropCounter
from ntmpatch.base.errors import ConfigError, NtmpatchError, UnavailableError
from ntmpatch.packet.stack.tcp.info import describe
from ntmpatch.runtime.door import Door
from ntmpatch.runtime.event_feed import EventFeed
from ntmpatch.runtime.forking import keep_far_ends
from ntmpatch.runtime.hub import HubThread
from ntmpatch.runtime.interfaces import usable
from ntmpatch.runtime.keylog import key_log
from ntmpatch.runtime.packets import PacketSide
from ntmpatch.runtime.peers_managed import ManagedPeers
from ntmpatch.runtime.peers_static import StaticPeers
from ntmpatch.runtime.settings import NodeSettings, load_settings
from ntmpatch.runtime.state import STARTING_LOCK
from ntmpatch.runtime.trace import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.packet.stack import Stack
    from ntmpatch.runtime.locking import FileLock
    from ntmpatch.wire import local

log = logging.getLogger("ntmpatch.node")

MAX_LISTED = 64
"""Connections in a report, which has to fit one record."""

STOP_TIMEOUT = 3.0
"""Seconds a program's end may wait for queued bytes and the farewell to the DC."""

TAKEOVER_TIMEOUT = 3 * STOP_TIMEOUT
"""Seconds that a node which is ending has to let go of the identity."""

START_TIMEOUT = TAKEOVER_TIMEOUT + 6.0
"""Seconds that another process has to start the node, or to fail."""


class Node:
    """Everything of one node that lives in its hub; the door's ``NodeService``.

    Made and used in the node's thread only, save for ``post``.
    """

    def __init__(
        self,
        settings: NodeSettings,
        post: Callable[..., None],
        *,
        control_path: str = "",
        on_standing: Callable[[Exception | None], None] | None = None,
    ) -> None:
        self.drops = DropCounter()
        self._settings = settings
        self._post = post
        self._on_standing = on_standing or _log_standing
        self._packets = PacketSide(mtu=settings.mtu, drops=self.drops)
        self.stack: Stack = self._packets.stack
        self._trace = TraceWriter()
        self._events = EventFeed()
        self._started_at = time.monotonic()
        self.peers: ManagedPeers | StaticPeers
        if settings.static is not None:
            self.peers = StaticPeers(settings.static, settings, self._packets, self._events)
        else:
            self.peers = ManagedPeers(
                settings, self._packets, self._trace, self._on_standing, self._events
            )
        self._packets.attach(self.peers.carrier)
        self.door = Door(self, control_path=control_path)

    def open(self) -> None:
        """Open the ports and the door; OSError if a port is taken."""
        self.peers.carrier.bind(usable(self._settings.binds))
        self.peers.start()
        self.door.open()
        self.flush()
        if self._settings.static is not None:
            self._on_standing(None)

    def close(self) -> None:
        """Let queued bytes out for a bounded time, say goodbye, close everything."""
        self.door.finish()
        deadline = time.monotonic() + STOP_TIMEOUT
        while self._has_to_send() and time.monotonic() < deadline:
            self.flush()
            gevent.sleep(0.005)
        self.door.close()
        self.flush()
        self.peers.close()
        self._trace.close()

    def _has_to_send(self) -> bool:
        return self.door.sockets.is_finishing or self.stack.has_unacknowledged_data()

    # --- NodeService --------------------------------------------------------------------

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Call in the node's thread, from any thread."""
        self._post(function, *arguments)

    def now(self) -> float:
        """The stack's clock."""
        return time.monotonic()

    def flush(self) -> None:
        """Send what is queued."""
        self.peers.carrier.wake()

    def welcome(self) -> local.Welcome:
        """Who this node is now."""
        return self.peers.welcome()

    def resolve(self, name: str) -> local.Resolved:
        """Fig. 3 (1): a program looks a name up."""
        return self.peers.resolve(name)

    def resolved(self, name: str) -> None:
        """Fig. 3 (19): the program knows, and may communicate."""
        self.peers.resolved(name)

    def reverse_resolve(self, address: bytes) -> str | None:
        """The name behind a virtual address."""
        return self.peers.reverse_resolve(address)

    def trace(self, name: str) -> dict[str, Any]:
        """Direct a tunnel anew, and tell how it came up."""
        if isinstance(self.peers, StaticPeers):
            raise OSError(
                errno.EOPNOTSUPP, "this node has its peers from its configuration: none is directed"
            )
        return self.peers.trace(name)

    def netcheck(self) -> dict[str, object]:
        """How the networks look, measured now."""
        if isinstance(self.peers, StaticPeers):
            raise OSError(
                errno.EOPNOTSUPP, "this node has its peers from its configuration, and no servers"
            )
        return self.peers.netcheck()

    def follow(self, after: int, patience: float) -> local.Events:
        """What happened behind an event, for programs that want to know."""
        return self._events.after(after, patience)

    def rebind(self, addresses: tuple[str, ...]) -> None:
        """Move to other local addresses (Fig. 5 begins here when nothing of the kernel did)."""
        binds = tuple(Endpoint(str(ipaddress.ip_address(text)), 0) for text in addresses)
        if not binds:
            raise OSError(22, os.strerror(22))
        self.peers.rebind(binds)
        self.flush()

    def wake(self, payload: bytes) -> None:
        """The coordinator wants this node, as was told by another way than a connection."""
        self.peers.wake(payload)

    def status(self) -> dict[str, object]:
        """Facts for people and monitors."""
        now = time.monotonic()
        welcome = self.peers.welcome()
        return {
            "fqdn": welcome.fqdn,
            "ipv4": _text(welcome.ipv4),
            "ipv6": _text(welcome.ipv6),
            "pid": os.getpid(),
            "uptime_seconds": round(now - self._started_at, 3),
            "endpoints": [str(end) for end in self.peers.carrier.local_endpoints],
            "sockets": len(self.door.sockets),
            "connections": [describe(conn) for conn in self.stack.tcp.connections[:MAX_LISTED]],
            "nat": self.peers.nat.describe() if isinstance(self.peers, ManagedPeers) else {},
            "port_mapping": (
                self.peers.port_mapping.describe() if isinstance(self.peers, ManagedPeers) else {}
            ),
            "peers": self.peers.describe(now),
            "drops": self.drops.by_name() | self.peers.carrier.tunnel.drops.by_name(),
        }


class LocalNode:
    """A node in this process: what ``patch`` and ``up`` hold of it. Any thread may call these.

    ``on_standing`` is called in the node's thread: with None once the node is registered, with an
    exception when it can serve no longer.
    """

    def __init__(
        self,
        settings: NodeSettings,
        on_standing: Callable[[Exception | None], None] | None = None,
    ) -> None:
        self.control_path = settings.control_path
        self._settings = settings
        self._on_standing = on_standing
        self._node: Node | None = None
        self._pid = os.getpid()
        self._lock: FileLock | None = None
        self._thread = HubThread(setup=self._open, teardown=self._close)

    def start(self) -> None:
        """Start the thread.

        OSError: a port is taken. ConfigError: another process has the identity, there is none, or
        the key log that is asked for cannot be written.
        """
        key_log()  # what is wrong with it is told here, before anything runs
        state = self._settings.state
        # Without a control path nobody can know whether the owner is about to end.
        self._lock = state.lock(timeout=TAKEOVER_TIMEOUT if self.control_path else 0.0)
        if self._lock is None:
            raise ConfigError(
                f"{state.path}: process {state.owner()} runs the node of this identity, and cannot"
                f" be reached at {self.control_path or 'a path as long as this one'}"
            )
        self._lock.sign()
        try:
            self._thread.start()
        except BaseException:
            self._lock.close()
            raise

    def attach(self) -> int:
        """A connected control descriptor."""
        assert self._node is not None
        return self._node.door.attach()

    def stop(self, *, quietly: bool = False) -> bool:
        """Flush and end; False if that took too long. A forked child only forgets.

        ``quietly``: the process ends next, and who is blocked in a socket call is to stay so.
        """
        if quietly:
            keep_far_ends()
        if os.getpid() != self._pid:
            return True
        if not self._thread.stop(2 * STOP_TIMEOUT):
            return False
        if self._lock is not None:
            self._lock.close()
        return True

    def _open(self) -> None:
        self._node = Node(
            self._settings,
            self._thread.post,
            control_path=self.control_path,
            on_standing=self._on_standing,
        )
        self._node.open()

    def _close(self) -> None:
        if self._node is not None:
            self._node.close()


def own_node(
    settings: NodeSettings, on_standing: Callable[[Exception | None], None] | None = None
) -> LocalNode | None:
    """Start the node in this process; None if another runs it, and can be reached.

    Of several processes that want it at the same moment one starts it, and the others meet it.
    OSError: a port is taken. ConfigError: there is no identity, or an owner that cannot be reached.
    """
    deciding = settings.state.lock(STARTING_LOCK, timeout=START_TIMEOUT)
    if deciding is None:
        raise UnavailableError(f"{settings.state.path}: another process does not start its node")
    with contextlib.closing(deciding):
        if is_served(settings.control_path):
            return None
        node = LocalNode(settings, on_standing)
        node.start()
        return node


def start_local_node(settings: NodeSettings | None = None) -> LocalNode | None:
    """``own_node`` for a program's sockets; without settings, with those of the environment.

    OSError ENETDOWN, after one line in the log, if they are not fit for it.
    """
    try:
        return own_node(settings or load_settings())
    except NtmpatchError as error:
        log.error("no node in this process: %s", error)
        raise OSError(errno.ENETDOWN, str(error)) from error


def is_served(control_path: str) -> bool:
    """Whether some process listens there."""
    if not control_path:
        return False
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        probe.setblocking(False)
        probe.connect(control_path)
    except BlockingIOError:
        return True  # so many want it at this moment that its backlog is full
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _log_standing(error: Exception | None) -> None:
    if error is not None:
        log.error("the node cannot serve: %s", error)


def _text(address: bytes | None) -> str | None:
    return str(ipaddress.ip_address(address)) if address else None
