"""The key log: what it writes opens a recording, it is private, and it is nobody's unless asked."""

from __future__ import annotations

import base64
import logging
import os
import stat
from typing import TYPE_CHECKING

import pytest
import wire_decryptor as wire
from lab_capture import CapturedPacket
from tunnel_net import TunnelNet

from ntmpatch.base.errors import ConfigError
from ntmpatch.runtime import keylog
from ntmpatch.runtime.keylog import KEYLOG_VARIABLE, key_log
from ntmpatch.runtime.node import LocalNode
from ntmpatch.runtime.settings import load_settings
from ntmpatch.wire.control import Envelope, Kind, encode
from ntmpatch.wire.control_messages import Ack
from ntmpatch.wire.relay import data_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


TCP_PORT = 3472
HELLO = Envelope(b"12345678", Kind.RESPONSE, "3.13", Ack())


@pytest.fixture(autouse=True)
def forget_open_logs() -> Iterator[None]:
    keylog._opened.cache_clear()
    yield
    keylog._opened.cache_clear()


@pytest.mark.parametrize("transport", ["udp", "relayed", "tcp"])
@pytest.mark.parametrize("who_logs", ["a", "b"])
def test_the_log_of_either_end_opens_what_was_recorded(
    who_logs: str, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    monkeypatch.setenv(KEYLOG_VARIABLE, str(path))
    net = TunnelNet()
    for name in ("a", "b"):
        net.add(name, on_handshake=key_log() if name == who_logs else None)
    a, b = net.tunnels["a"], net.tunnels["b"]
    b.add_peer(a.public_key, preshared_key=b"p" * 32)
    peer = a.add_peer(b.public_key, preshared_key=b"p" * 32, endpoint="b")
    peer.send(encode(HELLO), net.now)
    net.run(1.0)

    identities = {
        name: tunnel.static.private.private_bytes_raw() for name, tunnel in net.tunnels.items()
    }
    packets = carried(net.sent, transport)
    messages = list(wire.Decryptor(identities, [path]).read(packets, tcp_port=TCP_PORT))
    assert [(m.kind, m.sender, m.receiver) for m in messages] == [
        (wire.TUNNEL_REQUEST, "a", "b"),
        (wire.TUNNEL_RESPONSE, "b", "a"),
        (wire.CONTROL, "a", "b"),
    ]
    assert messages[2].envelope == HELLO
    assert identities["a"] not in path.read_bytes()
    assert b"STATIC_PRIVATE" not in path.read_bytes()


def carried(sent: list[tuple[str, str, bytes]], transport: str) -> list[CapturedPacket]:
    """Tunnel messages as they are recorded; over TCP in segments that cut them anywhere."""
    if transport != "tcp":
        header = data_header(7) if transport == "relayed" else b""
        return [
            CapturedPacket("udp", (source, 1), (destination, 1), memoryview(header + message), 0)
            for source, destination, message in sent
        ]
    packets = []
    sequences = {("a", "b"): 2**32 - 40, ("b", "a"): 5}  # one passes the end of the numbers
    ports = {"a": 1, "b": TCP_PORT}

    def segment(source: str, destination: str, payload: bytes, *, syn: bool = False) -> None:
        sequence = sequences[source, destination]
        ends = (source, ports[source]), (destination, ports[destination])
        packets.append(CapturedPacket("tcp", *ends, memoryview(payload), 0, 0.0, sequence, syn))
        sequences[source, destination] = (sequence + len(payload) + syn) % 2**32

    for ends in list(sequences):
        segment(*ends, b"", syn=True)
    for source, destination, message in sent:
        framed = len(message).to_bytes(2) + message
        for start in range(0, len(framed), 50):
            segment(source, destination, framed[start : start + 50])
    # Two segments of the first message overtake each other.
    packets[2], packets[3] = packets[3], packets[2]
    return packets


def test_it_is_private_appended_to_and_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    monkeypatch.setenv(KEYLOG_VARIABLE, str(path))
    with caplog.at_level(logging.WARNING):
        first, second = key_log(), key_log()
    assert first is second is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    keylog._opened.cache_clear()
    path.write_text("before\n")
    net = TunnelNet()
    net.add("a", on_handshake=key_log()).add_peer(bytes(31) + b"\x09", endpoint="b").initiate(0.0)
    assert [line.partition(" ")[0] for line in path.read_text().splitlines()] == [
        "before",
        "REMOTE_STATIC_PUBLIC_KEY",
        "LOCAL_EPHEMERAL_PRIVATE_KEY",
        "PRESHARED_KEY",
    ]


def test_without_the_variable_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYLOG_VARIABLE, raising=False)
    assert key_log() is None


@pytest.mark.parametrize("kind", ["directory", "pipe", "readable by others", "nowhere"])
def test_a_place_that_is_not_fit_is_refused_by_name(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "readable by others":
            path.touch(0o644)
            path.chmod(0o644)
        case "nowhere":
            path = path / "keys"
    monkeypatch.setenv(KEYLOG_VARIABLE, str(path))
    with pytest.raises(ConfigError, match=f"{KEYLOG_VARIABLE}: .*{path}"):
        key_log()


def test_a_node_does_not_start_without_the_log_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(base64.b64encode(bytes(range(32))).decode())
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\nprivate_key_file = "{tmp_path / "key"}"\naddresses = ["198.18.0.1"]\n'
    )
    monkeypatch.setenv(KEYLOG_VARIABLE, str(tmp_path / "nowhere" / "keys"))
    settings = load_settings(config=str(config), state=str(tmp_path / "state"))
    with pytest.raises(ConfigError, match=KEYLOG_VARIABLE):
        LocalNode(settings).start()
    lock = settings.state.lock()
    assert lock is not None, "the identity is free"
    lock.close()
