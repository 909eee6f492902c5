"""This process's node: found or started when it is first needed, and what is known without it."""

from __future__ import annotations

import _socket
import atexit
import contextlib
import errno
import functools
import ipaddress
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from ntmpatch.patch.addressing import Packed, pack_host, text_host
from ntmpatch.patch.settings import Settings, from_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ntmpatch.patch.client import NodeClient
    from ntmpatch.patch.settings import EmbeddedNode
    from ntmpatch.wire.local import Record, Resolved, Welcome

R = TypeVar("R", bound="Record")

_MAX_KNOWN_ADDRESSES = 65536

_MAX_STARTS = 3
"""Times that a node which another process has started may be gone before we have met it."""

_ASK_INTERVAL = 30.0
"""Seconds without asking again for the domains of a node that is not to be had."""


class ProcessNode:
    """The one node that this process's sockets use, and which names and addresses are its."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_enabled = settings.is_enabled
        self._client: NodeClient | None = None
        self._embedded: EmbeddedNode | None = None
        self._inherited_path = ""
        self._suffixes: tuple[str, ...] | None = None
        self._names: set[str] = set()
        self._ask_again_at = 0.0
        self._networks: list[tuple[int, int, int]] = []
        self._known: set[bytes] = set()
        self._classify = functools.lru_cache(maxsize=1024)(self._classify_host)
        self.new_lock()
        self._names.update(name.lower().rstrip(".") for name in settings.names)
        if settings.domains is not None:
            self._suffixes = ()
        self._learn(settings.domains or (), settings.prefixes)

    def new_lock(self) -> None:
        """Take a lock of the application's present kind of threads."""
        self.lock: Any = threading.RLock()

    # ------------------------------------------------------------------------- finding the node

    def client(self) -> NodeClient:
        """The connected client; finds or starts the node. OSError if there is none to be had."""
        client = self._client
        if client is not None:
            return client
        with self.lock:
            if self._client is None:
                self._client = self._reach() or self._start()
                self._meet(self._client.welcome)
            return self._client

    @property
    def is_met(self) -> bool:
        """Whether this process has spoken to its node, or knows it by its control socket."""
        return self._client is not None or os.path.exists(self.settings.control_path)

    def _reach(self) -> NodeClient | None:
        """A client of a node that runs: in this process, in the parent, or where one is shared."""
        load()
        from ntmpatch.patch.client import NodeClient, connect_to  # noqa: PLC0415  # is loaded by now

        if self._embedded is not None:
            with contextlib.suppress(OSError):
                return NodeClient(self._embedded.attach)
            self._embedded = None
        for path in (self._inherited_path, self.settings.control_path):
            if path:
                with contextlib.suppress(OSError):
                    return NodeClient(functools.partial(connect_to, path))
        return None

    def _start(self) -> NodeClient:
        """A client of a node in this process, or of the one that another was quicker to start."""
        from ntmpatch.patch.client import NodeClient, NodeGoneError  # noqa: PLC0415  # is loaded by now

        for _ in range(_MAX_STARTS if self.settings.embed is not None else 0):
            assert self.settings.embed is not None
            with _importing("starting the node"):
                self._embedded = self.settings.embed()
            if self._embedded is not None:
                _end_with_this_process(self._embedded)
                return NodeClient(self._embedded.attach)
            client = self._reach()
            if client is not None:
                return client
        raise NodeGoneError

    def call(self, request: Record, kind: type[R], fds: Sequence[int] = ()) -> R:
        """Ask the node. If it has gone, another is looked for, once: it left nothing behind."""
        client = self.client()
        try:
            return client.call(request, kind, fds)
        except OSError as error:
            if not self._has_gone(client, error):
                raise
        return self.client().call(request, kind, fds)

    def ask(self, request: Record, kind: type[R]) -> R:
        """Ask about a socket that is there already: for that no node is started. OSError."""
        client = self._client
        if client is None:
            with self.lock:
                client = self._client = self._client or self._reach()
        if client is None:
            from ntmpatch.patch.client import NodeGoneError  # noqa: PLC0415  # is loaded by now

            raise NodeGoneError
        try:
            return client.call(request, kind)
        except OSError as error:
            self._has_gone(client, error)
            raise

    def _has_gone(self, client: NodeClient, error: OSError) -> bool:
        from ntmpatch.patch.client import NodeGoneError  # noqa: PLC0415  # is loaded by now

        if not isinstance(error, NodeGoneError):
            return False
        if self._client is client:
            self._client = None
        client.close()
        return True

    def end(self) -> None:
        """The process ends: nobody is asked any more, and nothing is left open."""
        self.settings = self.settings._replace(control_path="", embed=None)
        self._inherited_path, self._embedded = "", None
        self.let_go()

    def let_go(self) -> None:
        """Leave no connection to the node open; the next call makes one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def forked(self) -> None:
        """In a forked child: the node stays the parent's, which is reached by its control path."""
        welcome = self._client.welcome if self._client is not None else None
        if welcome is not None:
            self._inherited_path = welcome.control_path
        elif self._embedded is not None:
            self._inherited_path = self._embedded.control_path
        self.let_go()
        self._embedded = None
        self.new_lock()

    # -------------------------------------------------------------------- names and addresses

    def _meet(self, welcome: Welcome) -> None:
        self._names.update(name.lower().rstrip(".") for name in welcome.names)
        self._learn(welcome.domains, welcome.prefixes)
        self.know(welcome.ipv4, welcome.ipv6)

    def _learn(self, domains: Sequence[str], prefixes: Sequence[str]) -> None:
        suffixes = {"." + domain.lower().strip(".") for domain in domains if domain}
        if suffixes:
            self._suffixes = tuple(sorted(suffixes.union(self._suffixes or ())))
        self._forget_classes()
        self._learn_networks(prefixes)

    def _learn_networks(self, prefixes: Sequence[str]) -> None:
        for prefix in prefixes:
            network = ipaddress.ip_network(prefix)
            entry = (network.version, int(network.network_address), int(network.netmask))
            if entry not in self._networks:
                self._networks.append(entry)
                self._forget_classes()

    def know(self, *addresses: bytes | None) -> None:
        """These addresses are virtual, whatever the prefixes say."""
        for address in addresses:
            if address is not None and address not in self._known:
                if len(self._known) >= _MAX_KNOWN_ADDRESSES:
                    self._known.clear()
                self._known.add(address)
                if not self._in_networks(address):
                    self._forget_classes()

    def _forget_classes(self) -> None:
        self._classify.cache_clear()

    def _in_networks(self, address: bytes) -> bool:
        version = 4 if len(address) == 4 else 6
        number = int.from_bytes(address, "big")
        return any(
            version == of_version and number & mask == network
            for of_version, network, mask in self._networks
        )

    def is_virtual(self, address: bytes) -> bool:
        """Whether a packed address is a node's."""
        return self._in_networks(address) or address in self._known

    def is_node_name(self, name: str) -> bool:
        """Whether a name lies in one of the node's domains; asks nobody if these are known."""
        if not self.is_enabled:
            return False
        if self._suffixes is None and "." in name and ":" not in name and name[-1].isalpha():
            self._ask_for_domains()
        name = name.rstrip(".").lower()
        return name.endswith(self._suffixes or ()) or name in self._names

    def _ask_for_domains(self) -> None:
        """Before the first enrolment nobody has written the domains down: start the node."""
        if time.monotonic() < self._ask_again_at:
            return
        client = self._client
        try:
            if client is not None:
                self._meet(client.refresh())
            else:
                self.client()
        except OSError as error:
            if client is not None:
                self._has_gone(client, error)
            self._ask_again_at = time.monotonic() + _ASK_INTERVAL
            _warn("there is no node to be had: %s", error)

    def _classify_host(self, family: int, host: str) -> bytes | str | None:
        """Packed if virtual, the name if a node's, None if ordinary."""
        packed = pack_host(family, host)
        if packed is not None:
            return packed if self.is_virtual(packed) else None
        return host.rstrip(".").lower() if self.is_node_name(host) else None

    def target(self, family: int, address: object) -> Packed | None:
        """The virtual address that ``address`` means to a socket of ``family``; None: not ours.

        A node's name is resolved, so this may block, and raise ``socket.gaierror``.
        """
        if not (isinstance(address, tuple) and 2 <= len(address) <= 4):
            return None
        host, port = address[0], address[1]
        if not (isinstance(port, int) and 0 <= port <= 65535):
            return None
        if len(address) > 2 and not (isinstance(address[2], int) and 0 <= address[2] <= 0xFFFFF):
            return None  # the C method says what is wrong with such flow information
        text = text_host(host)
        if not text:
            return None
        found = self._classify(family, text)
        if found is None:
            return None
        load()
        if isinstance(found, bytes):
            return found, port
        resolved = self.resolve(found)
        packed = resolved.ipv6 if family == _socket.AF_INET6 else resolved.ipv4
        if packed is None and family == _socket.AF_INET6:
            packed = resolved.ipv4
        if packed is None:
            from ntmpatch.patch.client import gaierror  # noqa: PLC0415  # is loaded by now

            raise gaierror(_socket.EAI_ADDRFAMILY)
        return packed, port

    def resolve(self, name: str) -> Resolved:
        """Look a node up; ``socket.gaierror``, with EAI_AGAIN where no node is to be had."""
        try:
            load()
        except OSError as error:
            _warn("cannot look up %s: %s", name, error)
            text = "Temporary failure in name resolution"
            raise _socket.gaierror(_socket.EAI_AGAIN, text) from error
        from ntmpatch.patch.client import gaierror  # noqa: PLC0415  # is loaded by now
        from ntmpatch.wire.local import Resolve, Resolved  # noqa: PLC0415  # as above

        try:
            resolved = self.call(Resolve(name), Resolved)
        except _socket.gaierror:
            raise
        except OSError as error:
            _warn("cannot look up %s: %s", name, error)
            raise gaierror(_socket.EAI_AGAIN) from error
        self.know(resolved.ipv4, resolved.ipv6)
        return resolved


_disabled = Settings()
current = ProcessNode(_disabled)
"""Replaced by ``configure``; disabled until then."""


_is_loaded = False
_under_way: set[str] = set()
"""What some thread is importing for us at this moment."""
_interrupted: frozenset[str] = frozenset()
"""What some thread of the parent was importing for us when this process was forked from it. Python
has no way to go on with that: a second import waits for the end of the first, for ever."""


@contextlib.contextmanager
def _importing(what: str) -> Iterator[None]:
    """Around imports; OSError(ENETDOWN) where they would never return."""
    if what in _interrupted:
        raise OSError(errno.ENETDOWN, f"forked while another thread was {what}")
    _under_way.add(what)
    try:
        yield
    finally:
        _under_way.discard(what)


def load() -> None:
    """Import what virtual sockets are made of: each module registers its kinds. OSError."""
    global _is_loaded  # noqa: PLW0603  # once a process
    if not _is_loaded:
        with current.lock, _importing("loading virtual sockets"):
            from ntmpatch.patch import (  # noqa: F401, PLC0415  # heavy; first use only
                accepting,
                client,
                datagram,
                passing,
                stream,
            )
        _is_loaded = True


def _warn(message: str, *arguments: object) -> None:
    import logging  # noqa: PLC0415  # a third of what patching would cost a program

    logging.getLogger("ntmpatch.patch").warning(message, *arguments)


def configure(settings: Settings | None = None) -> ProcessNode:
    """Use the node that ``settings`` or the environment describe, from now on."""
    global current  # noqa: PLW0603  # there is one node a process
    current.let_go()
    current = ProcessNode(from_environment() if settings is None else settings)
    return current


def disable() -> None:
    """Know of no node any more: every new socket stays ordinary."""
    configure(_disabled)


_to_end: list[EmbeddedNode] = []


def _end_with_this_process(embedded: EmbeddedNode) -> None:
    _to_end.append(embedded)
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        # Such a process ends by os._exit(), after finalizers; ours is the last of them.
        from multiprocessing import util  # noqa: PLC0415  # is loaded by now

        util.Finalize(None, _end_embedded, exitpriority=-1000)


def _end_embedded() -> None:
    """End what this process embeds. Where other threads are left, they are daemons by now."""
    threads = sys.modules["threading"].enumerate()
    current.end()
    while _to_end:
        _to_end.pop().stop(quietly=len(threads) > 1)


def _forked() -> None:
    global _interrupted  # noqa: PLW0603  # of this process
    _interrupted = frozenset(_under_way)
    _under_way.clear()
    _to_end.clear()
    current.forked()


# Handlers run last in, first out: those that the program registers may still use its sockets.
atexit.register(_end_embedded)
os.register_at_fork(after_in_child=_forked)
