"""Two domains that find each other by DNS: Fig. 3 as it is on the wire, and as `trace` tells it.

MN has a public address, CN in the other domain is behind a NAT. Every server is a process on a
host of its own; what crosses the switch is recorded, and opened by the key logs of all.
"""

from __future__ import annotations

import json
import shutil
import signal
from typing import TYPE_CHECKING, NamedTuple

import dns.message
import dns.rdatatype
import pytest
import wire_decryptor as wire
from control_tap import ControlTap
from lab_domain import (
    DIRECTION_PORT,
    DNS_PORT,
    NODE_PORT,
    NOTIFICATION_PORT,
    NTMPATCH,
)
from lab_federation import DOMAINS, PARENT, Federation, fqdn_of

from ntmpatch.wire import local

if TYPE_CHECKING:
    from pathlib import Path

    from lab import Lab
    from lab_capture import CapturedPacket
    from lab_domain import DomainNode

pytestmark = [
    pytest.mark.lab,
    pytest.mark.once,
    pytest.mark.timeout(200),
    pytest.mark.skipif(shutil.which("unbound") is None, reason="unbound is not installed"),
]

CONTENT = "what CN has to say"
CN = fqdn_of("cn")
FETCH = f"""
import urllib.request
print(urllib.request.urlopen("http://{CN}:8000/said").read().decode())
"""

SENDERS_AND_RECEIVERS = {
    "3.2": ("mn", "a-dc"),
    "3.4": ("a-dc", "b-dc"),
    "3.5": ("b-dc", "a-dc"),
    "3.6": ("a-dc", "b-dc"),
    "3.7": ("b-dc", "a-dc"),
    "3.8": ("a-dc", "b-dc"),
    "3.9": ("b-dc", "b-ns"),
    "3.10": ("b-ns", "cn"),
    "3.11": ("cn", "b-dc"),
    "3.12": ("b-dc", "cn"),
    "3.13": ("cn", "b-dc"),
    "3.14": ("b-dc", "a-dc"),
    "3.15": ("a-dc", "mn"),
    "3.16": ("mn", "a-dc"),
    "3.17": ("cn", "mn"),
    "3.18": ("mn", "cn"),
    "3.20": ("mn", "cn"),
    "3.21": ("mn", "cn"),
}
"""Who sends each step that is a message of ours, and to whom."""
SERVER_PORTS = {"dc": DIRECTION_PORT, "ns": NOTIFICATION_PORT}


class Seen(NamedTuple):
    """One thing that happened."""

    at: float
    step: str
    sender: str
    receiver: str


def test_a_program_reaches_another_domain_by_the_steps_of_fig_3(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "said").write_text(CONTENT)
    # From the start, so that every handshake is in it.
    with lab.capture(tmp_path / "switch.pcap") as capture:
        federation = Federation(lab, tmp_path)
        mn, cn = federation.node("mn"), federation.node("cn")
        web_server = cn.popen(
            *("-m", "http.server", "8000", "--directory", tmp_path),
            env=federation.environment("cn"),
        )
        node = mn.up(env=federation.environment("mn"))
        web_server.wait_for("Serving HTTP")
        node.wait_for("up: ")
        cn.wait_until_registered()
        with ControlTap(mn.state, tmp_path / "tap") as tap:
            output = mn.host.run(
                [*NTMPATCH, "run", "--state", tap.path, "-c", FETCH],
                env=federation.environment("mn"),
            )
    assert output == f"{CONTENT}\n"
    assert capture.lost == 0

    inside = inside_the_host(tap)
    packets = list(capture.packets())
    messages = list(federation.decryptor().read(packets, tcp_port=NOTIFICATION_PORT))
    packets = [each for each in packets if each.at >= inside[0].at]
    messages = [each for each in messages if each.at >= inside[0].at]
    hosts = federation.names_by_address()
    check_the_order(inside + by_dns(packets, hosts) + on_the_wire(messages))
    check_the_addresses(messages, hosts)
    check_that_nothing_else_was_said(packets, messages, hosts)
    check_what_trace_tells(cn, federation)
    node.send_signal(signal.SIGTERM)
    assert node.wait() == 0
    check_that_trace_needs_no_running_node(mn, federation)


def inside_the_host(tap: ControlTap) -> list[Seen]:
    """(1) and (19), as the program asks its node and is answered: recorded in between."""
    seen = []
    for at, record in tap.spoken:
        if record == local.Resolve(CN):
            seen.append(Seen(at, "3.1", "program", "mn"))
        elif isinstance(record, local.Resolved):
            assert record.canonical_name == CN
            seen.append(Seen(at, "3.19", "mn", "program"))
    return seen[:2]


def by_dns(packets: list[CapturedPacket], hosts: dict[str, str]) -> list[Seen]:
    """(3): the domain's NS record, from the resolver, which asked the parent zone and DC_CN."""
    asked: dict[tuple[str, str], float] = {}
    for packet in packets:
        if packet.protocol == "udp" and packet.destination[1] == DNS_PORT:
            (question,) = dns.message.from_wire(bytes(packet.payload), question_only=True).question
            ends = hosts[packet.source[0]], hosts[packet.destination[0]]
            name = question.name.to_text(omit_final_dot=True).lower()
            if name == DOMAINS["b"] and question.rdtype == dns.rdatatype.NS:
                asked.setdefault(ends, packet.at)
            assert name.endswith(PARENT), name
            if ends == ("resolver", "parent"):
                asked.setdefault(ends, packet.at)
    way = [("a-dc", "resolver"), ("resolver", "parent"), ("resolver", "b-dc")]
    assert set(asked) >= set(way), asked
    assert sorted(way, key=lambda ends: asked[ends]) == way
    return [Seen(asked[ends], "3.3", *ends) for ends in way]


def on_the_wire(messages: list[wire.Message]) -> list[Seen]:
    """All other steps, as they were opened; of what was sent more than once, the first."""
    seen: dict[str, Seen] = {}
    pair = {"mn", "cn"}
    for message in messages:
        step = message.step
        if {message.sender, message.receiver} == pair:
            match message.kind:
                case wire.TUNNEL_REQUEST:
                    step = "3.17"
                case wire.TUNNEL_RESPONSE:
                    step = "3.18"
                case wire.KEEP_ALIVE if message.sender == "mn":
                    step = "3.20"
                case wire.PACKET:
                    step = "3.21"
        if step:
            seen.setdefault(step, Seen(message.at, step, message.sender, message.receiver))
    return list(seen.values())


def check_the_order(seen: list[Seen]) -> None:
    """Steps 1 to 21, one after the other, each between the two that the figure names.

    But for one: CN sends its request (17) as soon as it has acknowledged its direction (13), while
    (14)-(16) are under way elsewhere. MN keeps it, and answers (18) when (15) has named CN.
    """
    at = {each.step: each.at for each in reversed(seen)}
    assert set(at) == {f"3.{number}" for number in range(1, 22)}
    assert at["3.13"] < at["3.17"] < at["3.18"]
    in_time = [each.step for each in sorted(seen) if each.step != "3.17"]
    in_the_figure = sorted(in_time, key=lambda step: int(step.removeprefix("3.")))
    assert in_time == in_the_figure
    told = {each.step: (each.sender, each.receiver) for each in seen if each.step != "3.3"}
    assert told == {**SENDERS_AND_RECEIVERS, "3.1": ("program", "mn"), "3.19": ("mn", "program")}


def check_the_addresses(messages: list[wire.Message], hosts: dict[str, str]) -> None:
    """What a station makes comes from its host's address, and goes to the receiver's port."""
    for message in messages:
        assert message.kind != wire.UNREADABLE, message
        assert hosts[message.source[0]] == message.sender, message
        assert hosts[message.destination[0]] == message.receiver, message
        # (10) goes the way that the node opened: its TCP connection to the NS.
        is_to_node_of_ns = {message.sender, message.receiver} in ({"b-ns", "cn"}, {"a-ns", "mn"})
        assert message.protocol == ("tcp" if is_to_node_of_ns else "udp"), message
        for end, name in (
            (message.source, message.sender),
            (message.destination, message.receiver),
        ):
            port = SERVER_PORTS.get(name.partition("-")[2])
            if port is not None:
                assert end[1] == port, message
            elif name == "mn" and message.protocol == "udp":
                assert end[1] == NODE_PORT, message
    (notification,) = [each for each in messages if each.step == "3.10"]
    assert (notification.protocol, notification.source[1]) == ("tcp", NOTIFICATION_PORT)


def check_that_nothing_else_was_said(
    packets: list[CapturedPacket], messages: list[wire.Message], hosts: dict[str, str]
) -> None:
    """Between the servers of the two domains: one channel of both DCs, and six messages in it."""
    between = {
        frozenset((packet.source, packet.destination))
        for packet in packets
        if packet.protocol != "arp"
        and {hosts.get(packet.source[0], "")[:2], hosts.get(packet.destination[0], "")[:2]}
        == {"a-", "b-"}
    }
    addresses = {name: address for address, name in hosts.items()}
    channel = {(addresses["a-dc"], DIRECTION_PORT), (addresses["b-dc"], DIRECTION_PORT)}
    assert between == {frozenset(channel)}
    said = [
        message
        for message in messages
        if {message.source, message.destination} == channel and message.kind != wire.KEEP_ALIVE
    ]
    assert [each.kind for each in said[:2]] == [wire.TUNNEL_REQUEST, wire.TUNNEL_RESPONSE]
    assert {each.kind for each in said[2:]} == {wire.CONTROL}
    transactions = {each.envelope.transaction_id for each in said[2:] if each.envelope}
    assert {each.step for each in said[2:]} == {"3.4", "3.5", "3.6", "3.7", "3.8", "3.14"}
    assert len(transactions) == 3


def check_what_trace_tells(cn: DomainNode, federation: Federation) -> None:
    """`trace` the other way, from CN's running node: no key is shared that way, so all steps are.

    CN is the one behind a NAT, so it is CN again that sends the tunnel request.
    """
    report = json.loads(cn.trace(fqdn_of("mn"), "--json", env=federation.environment("cn")))
    steps = report["steps"]
    assert report["failure"] == ""
    assert [each["step"] for each in steps] == [f"3.{number}" for number in range(1, 22)]
    times = [each["at_ms"] for each in steps]
    assert times == sorted(times)
    assert {each["note"] for each in steps} == {""}
    mirror = {"mn": "cn", "cn": "mn"}
    mirror |= {f"{a}-{role}": f"{b}-{role}" for a, b in ("ab", "ba") for role in ("dc", "ns")}
    titles = {name: f"node {fqdn_of(name)}" for name in ("mn", "cn")}
    titles |= {
        name: f"{name.partition('-')[2].upper()} {fqdn_of(name)}" for name in mirror if "-" in name
    }
    for each in steps:
        ends = SENDERS_AND_RECEIVERS.get(each["step"])
        if ends is not None:
            if each["step"] not in ("3.17", "3.18"):
                ends = mirror[ends[0]], mirror[ends[1]]
            assert (each["sender"], each["receiver"]) == (titles[ends[0]], titles[ends[1]]), each


def check_that_trace_needs_no_running_node(mn: DomainNode, federation: Federation) -> None:
    """`trace` runs the node itself, and prints the figure for people."""
    heading, *rows = mn.trace(CN, env=federation.environment("mn")).splitlines()
    assert CN in heading
    labels = [row.split()[0] for row in rows]
    assert labels == ["(1)", "(2)", "(3)", "(4)-(5)", *(f"({n})" for n in range(6, 22))]
    assert f"NS {fqdn_of('b-ns')} → node {CN}" in rows[8]
