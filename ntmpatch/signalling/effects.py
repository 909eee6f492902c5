"""What a party wants from the runtime: jobs to run, channels to keep, facts to tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.policy import Access


@dataclass(slots=True, frozen=True, eq=False)
class Work:
    """A blocking job (store, DNS, signatures): run it in a thread, then `Party.complete` it."""

    run: Callable[[], Any]
    name: str = ""
    stored: bool = False
    """It reads or writes the party's store only. Such jobs run one after the other, many in one
    transaction, and are completed when that is durable."""


@dataclass(slots=True, frozen=True)
class RelayRoute:
    """The way to a peer through a relay server; see wire/relay.py for the frames."""

    relay_key: bytes
    """The relay server's own key, by which its health may be asked."""
    endpoints: tuple[Endpoint, ...]
    session_id: int
    side: int
    capability: bytes


@dataclass(slots=True, frozen=True)
class Contact:
    """Keep a channel or tunnel to this peer; given again, what changed is changed.

    Without endpoints the peer is only let in: it will call. ``connection``: the channel runs over
    a TCP connection to the endpoint instead of UDP (a node's link to its NS).
    """

    public_key: bytes
    endpoints: tuple[Endpoint, ...] = ()
    preshared_key: bytes = bytes(32)
    initiate: bool = False
    persistent_keepalive_interval: float | None = None
    """Seconds; set where a NAT lies between and this end must keep its mapping."""
    relay: RelayRoute | None = None
    ipv4: bytes = b""
    ipv6: bytes = b""
    """Virtual addresses that this peer may use as sources, packed; empty for servers."""
    access: Access = None
    """Ports of ours that this peer may reach; None: all."""
    cipher: int = 0
    connection: bool = False
    role: str = "node"
    name: str = ""
    step: str = ""
    """The step of the figures that directed it; empty for servers."""


@dataclass(slots=True, frozen=True)
class Reconnect:
    """The connection to this peer carries nothing any more: make another one."""

    public_key: bytes


@dataclass(slots=True, frozen=True)
class CheckConnection:
    """Tell how many segments the kernel has received on the connection to this peer, probes too.

    ``answer(segments, now)``; None if it is not connected.
    """

    public_key: bytes
    answer: Callable[[int | None, float], None]


@dataclass(slots=True, frozen=True)
class KeepAlive:
    """Have the kernel probe this peer's connection whenever it is silent for so many seconds."""

    public_key: bytes
    interval: float


@dataclass(slots=True, frozen=True)
class Forget:
    """Remove this peer from the tunnel; no more is expected from it."""

    public_key: bytes


@dataclass(slots=True, frozen=True)
class Assigned:
    """The node's own virtual addresses, packed; given again when they change."""

    fqdn: str
    domain: str
    ipv4: bytes
    ipv6: bytes
    interval: float
    """Seconds until the next registration."""


@dataclass(slots=True, frozen=True)
class Resolved:
    """A look-up that the runtime began (`NodeNegotiation.resolve`) succeeded."""

    request_id: int
    fqdn: str
    public_key: bytes
    ipv4: bytes
    ipv6: bytes


@dataclass(slots=True, frozen=True)
class Unresolved:
    """A look-up failed: with NameUnknown or TryAgain (negotiation/node.py), or another error."""

    request_id: int
    fqdn: str
    error: Exception


@dataclass(slots=True, frozen=True)
class Persist:
    """State worth keeping (0600): this party's certificate and whom it learned of.

    ``state`` is what `EnrolmentState.encode` made; give it back at the next start.
    """

    state: bytes


@dataclass(slots=True, frozen=True)
class Ready:
    """The party is enrolled (and registered or announced): it can serve."""

    role: str
    name: str


@dataclass(slots=True, frozen=True)
class Left:
    """The DC has heard the node's goodbye, or did not answer it in time: the ports may close."""


@dataclass(slots=True, frozen=True)
class Failed:
    """Something ended that is not retried (``fatal``: without it the party is of no use)."""

    error: Exception
    what: str
    fatal: bool = False


@dataclass(slots=True, frozen=True)
class Noted:
    """Something that an operator may want to know happened: one record of the log.

    ``fields`` are for people and programs that read logs, so there is never a secret in them.
    """

    event: str
    fields: Mapping[str, object]
    level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""


@dataclass(slots=True, frozen=True)
class Traced:
    """One step of the paper's figures, or a message that is in none (``step`` empty)."""

    at: float
    step: str
    sender: str
    receiver: str
    message: str
    sent: bool
    """True where it was sent, False where it arrived; each is traced once, whatever is lost."""
    transaction_id: bytes = field(default=b"", repr=False)


Effect: TypeAlias = (
    Work
    | Contact
    | Reconnect
    | CheckConnection
    | KeepAlive
    | Forget
    | Assigned
    | Resolved
    | Unresolved
    | Persist
    | Ready
    | Left
    | Failed
    | Noted
    | Traced
)
