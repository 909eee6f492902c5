"""A node's settings: from the command line, the environment, the configuration and the state."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import Endpoint, normalise_fqdn, parse_endpoint
from ntmpatch.base.config import NodeConfig, PeerSection, parse_node_config, policy_of
from ntmpatch.base.errors import ConfigError
from ntmpatch.crypto.token import Token, parse_token
from ntmpatch.handover.networks import EVERY_INTERFACE, InterfacePolicy
from ntmpatch.packet.tunnel.constants import Timers
from ntmpatch.runtime.state import (
    CONTROL_SOCKET,
    ENROLMENT,
    StateDirectory,
    default_state_directory,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ntmpatch.base.policy import Policy

MAX_CONFIG_SIZE = 1 << 20
MAX_CONTROL_PATH = 107
"""Bytes of an AF_UNIX path on Linux, without the final zero."""


@dataclass(frozen=True)
class StaticPeer:
    """A ``[[peer]]`` of the configuration."""

    name: str
    public_key: bytes
    addresses: tuple[bytes, ...]
    endpoint: Endpoint | None
    preshared_key: bytes
    persistent_keepalive_interval: float | None


@dataclass(frozen=True)
class StaticNetwork:
    """A node that has its peers from the configuration, and no servers."""

    fqdn: str
    addresses: tuple[bytes, ...]
    peers: tuple[StaticPeer, ...]


@dataclass(frozen=True)
class NodeSettings:
    """All that a node is started with."""

    state: StateDirectory
    config_path: str | None
    token: Token | None
    static: StaticNetwork | None
    static_key: bytes | None
    binds: tuple[Endpoint, ...]
    domains: tuple[str, ...]
    mtu: int
    offload: bool
    timers: Timers
    policy: Policy
    device_type: str = "tcp"
    push_token: str = ""
    heartbeat_interval: float = 45.0
    interfaces: InterfacePolicy = EVERY_INTERFACE
    keeps_warm: bool = False
    """Whether paths by other networks than the preferred one are proven beforehand."""
    maps_port: bool = True
    """Whether the router is asked for a port that everybody reaches."""
    reserve_relay: bool = True

    @property
    def has_identity(self) -> bool:
        """Whether the node can start without a token: it is enrolled, or needs no AS."""
        return self.static is not None or self.enrolment is not None

    @property
    def enrolment(self) -> bytes | None:
        """What an earlier enrolment left."""
        return self.state.read(ENROLMENT)

    @property
    def private_key(self) -> bytes:
        """The node's X25519 private key; made at the first call."""
        return self.static_key if self.static_key is not None else self.state.private_key()

    @property
    def control_path(self) -> str:
        """Where the node's control socket is; empty where no such path is possible."""
        path = str(self.state.path.absolute() / CONTROL_SOCKET)
        return path if len(os.fsencode(path)) <= MAX_CONTROL_PATH else ""


def load_settings(
    *,
    token: str | None = None,
    config: str | None = None,
    state: str | None = None,
    environment: Mapping[str, str] = os.environ,
    create: bool = True,
) -> NodeSettings:
    """Explicit values go before the environment's, those before the configuration's.

    The state directory is made if ``create``. ConfigError tells what is wrong, and where.
    """
    config_path = config or environment.get("NTMPATCH_CONFIG") or None
    parsed = NodeConfig()
    if config_path is not None:
        parsed = parse_node_config(read_text(config_path, "configuration"), config_path)
    node = parsed.node
    directory = (
        Path(state)
        if state
        else Path(node.state)
        if node.state and not environment.get("NTMPATCH_STATE")
        else default_state_directory(environment)
    )
    text = token or environment.get("NTMPATCH_TOKEN") or node.token
    static = _static(parsed, config_path) if parsed.peer or node.private_key_file else None
    hosts = node.bind or ("0.0.0.0", "::")
    return NodeSettings(
        state=StateDirectory(directory, create=create),
        config_path=config_path,
        token=read_token(text) if text else None,
        static=static,
        static_key=_key_file(node.private_key_file) if node.private_key_file else None,
        binds=tuple(Endpoint(_address(host, "bind"), node.port) for host in hosts),
        domains=tuple(normalise_fqdn(domain) for domain in node.domains),
        mtu=node.mtu,
        offload=node.offload,
        timers=Timers(
            rekey_after_time=parsed.timers.rekey_after,
            reject_after_time=parsed.timers.reject_after,
            rekey_timeout=parsed.timers.rekey_timeout,
            keepalive_timeout=parsed.timers.keepalive,
        ),
        policy=policy_of(parsed.policy),
        device_type=node.device,
        push_token=node.push_token,
        heartbeat_interval=node.heartbeat,
        interfaces=InterfacePolicy(node.interfaces, node.metered),
        keeps_warm=node.multipath == "standby",
        maps_port=node.port_mapping,
        reserve_relay=node.reserve_relay,
    )


def read_token(text: str) -> Token:
    """A token, or ``file:PATH`` of a file whose first line is one."""
    if text.startswith("file:"):
        lines = read_text(text.removeprefix("file:"), "token").splitlines()
        text = lines[0] if lines else ""
    return parse_token(text)


def read_text(path: str, what: str) -> str:
    """A small text file; ConfigError names it otherwise."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_CONFIG_SIZE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the {what}: {error.strerror}") from None
    if len(content) > MAX_CONFIG_SIZE:
        raise ConfigError(f"{path}: too large for a {what}")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected UTF-8 text") from None


def _static(config: NodeConfig, file: str | None) -> StaticNetwork:
    where = file or "configuration"
    if not config.node.private_key_file:
        raise ConfigError(f"{where}: [[peer]] needs private_key_file in [node]")
    if not config.node.addresses:
        raise ConfigError(f"{where}: [[peer]] needs addresses in [node]")
    return StaticNetwork(
        fqdn=normalise_fqdn(config.node.name) if config.node.name else "",
        addresses=_packed(config.node.addresses),
        peers=tuple(_static_peer(peer) for peer in config.peer),
    )


def _static_peer(peer: PeerSection) -> StaticPeer:
    return StaticPeer(
        name=normalise_fqdn(peer.name) if peer.name else "",
        public_key=_key(peer.public_key, "public_key"),
        addresses=_packed(peer.addresses),
        endpoint=parse_endpoint(peer.endpoint) if peer.endpoint else None,
        preshared_key=(
            _key_file(peer.preshared_key_file) if peer.preshared_key_file else bytes(32)
        ),
        persistent_keepalive_interval=peer.persistent_keepalive or None,
    )


def _packed(addresses: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(
        ipaddress.ip_address(_address(text.partition("/")[0], "addresses")).packed
        for text in addresses
    )


def _address(text: str, key: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError(f"{key}: {text!r} is not an address: expected one as 192.0.2.1") from None


def _key(text: str, what: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise ConfigError(f"{what}: expected 32 bytes of key in base64")
    return key


def _key_file(path: str) -> bytes:
    return _key(read_text(path, "key"), path)
