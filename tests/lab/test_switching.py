"""Fig. 5 as every party tells it, and as it is on the wire: one handover, steps 1 to 30.

MN of a.example has a global address, CN of b.example is behind a NAT, and CN has called MN. MN
moves behind a NAT with address-dependent mapping, so that the two need a relay; and DC_MN has no
key of its own to share with DC_CN yet, so that (11) is needed as well. Every server is a process on
a host of its own, with a trace of its own; what crosses the switch is recorded, and opened by the
key logs of all. The steps are in the figure's order, all of them: what is done beside them, the
data's resumption by the paths that are known, is no step of it.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

import dns.message
import dns.rdatatype
import pytest
import wire_decryptor as wire
from lab_domain import DNS_PORT, NOTIFICATION_PORT, RELAY_PORT
from lab_federation import DOMAINS, Federation, fqdn_of
from lab_nat import NatKind
from trace_files import TraceFiles

from ntmpatch.signalling.figures import TITLES
from ntmpatch.wire.relay import FRAME_BIND, RELAY_BYTE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab import Lab, Process
    from lab_capture import CapturedPacket
    from trace_files import TracedStep

pytestmark = [
    pytest.mark.lab,
    pytest.mark.once,
    pytest.mark.timeout(200),
    pytest.mark.skipif(shutil.which("unbound") is None, reason="unbound is not installed"),
]

ECHO_PORT = 7000
ECHO = """
import socket, sys
import ntmpatch
told = ntmpatch.on_event(
    lambda event: print("event", event.kind, event.new, event.relayed, event.reason, flush=True)
)
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    while data := connection.recv(4096):
        connection.sendall(data)
"""
TALK = """
import itertools, socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as connection:
    for number in itertools.count(1):
        connection.sendall(b"word")
        assert connection.recv(4096) == b"word"
        print(f"echo {number}", flush=True)
        time.sleep(0.02)
"""
NEW_NETWORK = ["10.99.0.0/24"]

FIGURE = {
    "5.1": ("mn", "mn", "change of local addresses"),
    "5.2": ("mn", "mn", "change told to negotiation"),
    "5.3": ("mn", "a-dc", "RegistrationRequest"),
    "5.4": ("a-dc", "a-ns", "ServiceRequest"),
    "5.5": ("a-ns", "a-dc", "Ack"),
    "5.6": ("a-dc", "mn", "RegistrationResponse"),
    "5.7": ("mn", "a-ns", "ServiceRegistration"),
    "5.8": ("a-ns", "mn", "Ack"),
    "5.9": ("mn", "a-dc", "DirectionRequest"),
    "5.10": ("a-dc", "a-dc", "NS b.example"),
    "5.11": ("a-dc", "b-dc", "SharedKeyOffer"),
    "5.12": ("a-dc", "b-dc", "InformationRequest"),
    "5.13": ("b-dc", "a-dc", "InformationResponse"),
    "5.14": ("a-dc", "a-rs", "RelayRequest"),
    "5.15": ("a-rs", "a-dc", "RelayGrant"),
    "5.16": ("a-dc", "b-dc", "RouteDirection"),
    "5.17": ("b-dc", "b-ns", "NotificationRequest"),
    "5.18": ("b-ns", "cn", "Notification"),
    "5.19": ("cn", "b-dc", "Ack"),
    "5.20": ("b-dc", "cn", "RouteDirection"),
    "5.21": ("cn", "b-dc", "Ack"),
    "5.22": ("b-dc", "a-dc", "Ack"),
    "5.23": ("a-dc", "mn", "RouteDirection"),
    "5.24": ("mn", "a-rs", "relay binding"),
    "5.25": ("mn", "a-rs", "tunnel request"),
    "5.26": ("a-rs", "cn", "tunnel request"),
    "5.27": ("cn", "a-rs", "tunnel response"),
    "5.28": ("a-rs", "mn", "tunnel response"),
    "5.29": ("mn", "mn", "ready"),
    "5.30": ("mn", "a-rs", "keep-alive"),
}
"""Who sends each step, to whom, and what it is."""
RELAYED = {"5.24", "5.25", "5.26", "5.27", "5.28", "5.30"}
"""Steps between a node and the relay."""
INSIDE_MN = {"5.1", "5.2", "5.29"}
"""Steps that no network sees."""


class Seen(NamedTuple):
    """A step as it crossed the switch."""

    at: float
    step: str
    sender: str
    receiver: str
    message: str


def go_on(client: Process) -> None:
    """Wait for echoes that were not there yet."""
    client.wait_for(f"echo {client.stdout.count(chr(10)) + 10}\n")


def test_a_handover_takes_the_thirty_steps_of_fig_5(lab: Lab, tmp_path: Path) -> None:
    with TraceFiles(lab.directory) as traces, lab.capture(tmp_path / "switch.pcap") as capture:
        federation = Federation(lab, tmp_path, traces)
        hosts = federation.names_by_address()
        mn, cn = federation.node("mn"), federation.node("cn")
        router = lab.host("elsewhere")
        router.nat(NatKind.SYMMETRIC, federation.switch.join(router))
        hosts[router.address()] = "mn"
        near, far = lab.link(router, mn.host, NEW_NETWORK)
        old, far_address = mn.host.interfaces[0], far.address()
        far.remove_address(f"{far_address}/24")
        server = mn.popen("-c", ECHO, str(ECHO_PORT), env=federation.environment("mn"))
        server.wait_for("listening")
        mn.wait_until_registered()
        talk = "-c", TALK, fqdn_of("mn"), str(ECHO_PORT)
        client = cn.popen(*talk, env=federation.environment("cn"))
        go_on(client)

        move = f"""
            address flush dev {old.name} scope global
            address add {far_address}/24 dev {far.name}
            route add default via {near.address()} dev {far.name}
        """
        mn.host.run(["ip", "-batch", "-"], stdin=move.encode())
        traces.wait_for("mn", "5.30")
        go_on(client)
        relay = f"{federation.address('a-rs')}:{RELAY_PORT}"
        check_what_the_program_is_told(server, far_address, relay)
        told = [each for each in traces.merged() if each.step.startswith("5.")]
    assert capture.lost == 0
    check_what_is_told(told, hosts)
    check_the_wire(list(capture.packets()), federation, hosts)


def check_what_the_program_is_told(server: Process, far_address: str, relay: str) -> None:
    """One that wants to know: of the change, and of (29)."""
    ready = f"event tunnel_ready {relay} (relay) True directed again"
    server.wait_for(ready)
    lines = server.stdout.splitlines()
    moved = [line for line in lines if line.startswith("event network_changed")][-1]
    assert moved.split()[2] == far_address
    assert lines.index(moved) < lines.index(ready)


def check_what_is_told(told: list[TracedStep], hosts: dict[str, str]) -> None:
    """All thirty, each by its sender, one after the other as the figure numbers them."""
    assert set(FIGURE) == {step for step in TITLES if step.startswith("5.")}
    # On a busy machine the new address may be a change of its own, without a way out.
    told = told[max(index for index, each in enumerate(told) if each.step == "5.1") :]
    assert [each.step for each in told] == list(FIGURE)
    parties = {name: f"{_role(name)} {fqdn_of(name)}" for name in set(hosts.values()) - _NO_PARTY}
    for each in told:
        sender, receiver, message = FIGURE[each.step]
        assert each.teller == sender, each
        assert each.message == message, each
        assert each.sender == parties[sender], each
        if each.step not in RELAYED:
            assert each.receiver == parties[receiver], each
        else:  # a node knows where its relay is, and a relay where its ends are
            place = each.receiver.split()[-1]
            assert hosts[place.rpartition(":")[0]] == receiver, each


_NO_PARTY = {"account", "parent", "resolver", "router"}


def _role(name: str) -> str:
    return "node" if name in ("mn", "cn") else name.partition("-")[2].upper()


def check_the_wire(
    packets: list[CapturedPacket], federation: Federation, hosts: dict[str, str]
) -> None:
    """The same of what crossed the switch; of what was sent more than once, the first."""
    messages = federation.decryptor().read(packets, tcp_port=NOTIFICATION_PORT)
    seen: dict[str, Seen] = {}
    for each in filter(None, (on_the_wire(message, hosts) for message in messages)):
        if each.step in RELAYED and "5.23" not in seen:
            continue  # of a handshake before
        if each.step == "5.30" and "5.28" not in seen:
            continue  # of the session before
        seen.setdefault(each.step, each)
    for each in outside_the_tunnels(packets, hosts):
        if each.at > seen["5.9" if each.step == "5.10" else "5.23"].at:
            seen.setdefault(each.step, each)
    in_time = sorted(seen.values())
    on_a_network = {step: what for step, what in FIGURE.items() if step not in INSIDE_MN}
    assert [each.step for each in in_time] == list(on_a_network)
    assert {each.step: (each.sender, each.receiver, each.message) for each in in_time} == (
        on_a_network | {"5.10": ("a-dc", "resolver", f"NS {DOMAINS['b']}")}
    )


def outside_the_tunnels(packets: list[CapturedPacket], hosts: dict[str, str]) -> Iterator[Seen]:
    """What is no tunnel message: (10) asks the DNS, and (24) is a relay's own frame."""
    for packet in packets:
        if packet.protocol != "udp":
            continue
        sender, receiver = hosts[packet.source[0]], hosts[packet.destination[0]]
        if packet.destination[1] == DNS_PORT and sender == "a-dc":
            (question,) = dns.message.from_wire(bytes(packet.payload), question_only=True).question
            if question.rdtype == dns.rdatatype.NS:
                name = question.name.to_text(omit_final_dot=True).lower()
                yield Seen(packet.at, "5.10", sender, receiver, f"NS {name}")
        if packet.payload[:2] == bytes((RELAY_BYTE, FRAME_BIND)) and sender == "mn":
            yield Seen(packet.at, "5.24", sender, receiver, "relay binding")


def on_the_wire(message: wire.Message, hosts: dict[str, str]) -> Seen | None:
    """The step that a tunnel message is, and its way from host to host."""
    if {message.sender, message.receiver} != {"mn", "cn"}:  # whose data are their own
        assert message.kind != wire.UNREADABLE, message
    sender, receiver = hosts[message.source[0]], hosts[message.destination[0]]
    if message.envelope is not None:
        assert (sender, receiver) == (message.sender, message.receiver), message
        if not message.step.startswith("5."):
            return None
        name = type(message.envelope.message).__name__
        return Seen(message.at, message.step, sender, receiver, name)
    step = {
        ("mn", "a-rs", wire.TUNNEL_REQUEST): "5.25",
        ("a-rs", "cn", wire.TUNNEL_REQUEST): "5.26",
        ("cn", "a-rs", wire.TUNNEL_RESPONSE): "5.27",
        ("a-rs", "mn", wire.TUNNEL_RESPONSE): "5.28",
        ("mn", "a-rs", wire.KEEP_ALIVE): "5.30",
    }.get((sender, receiver, message.kind))
    # What goes through the relay is between the two; what is for the relay itself is its own.
    if step is None or {message.sender, message.receiver} != {"mn", "cn"}:
        return None
    return Seen(message.at, step, sender, receiver, message.kind)
