"""The lab itself: what it builds behaves as it says, and nothing of it stays behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import Host, Lab, LabError

pytestmark = [pytest.mark.lab, pytest.mark.once]

SUPPORT = Path(__file__).parents[1] / "support"

# Counts datagrams until a second passes without one.
COUNTER = """
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("", 4000)); s.settimeout(5)
print("ready", flush=True)
count = 0
while True:
    try:
        s.recv(100)
    except TimeoutError:
        break
    count += 1
    s.settimeout(1)
print(count)
"""

SENDER = """
import socket, sys, time
host, count = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
for _ in range(count):
    s.sendto(b"x", (host, 4000))
    time.sleep(0.0005)
"""


def arrivals(sender: Host, receiver: Host, count: int, version: int = 4) -> int:
    """How many of count datagrams reach the receiver."""
    counter = receiver.popen([sys.executable, "-c", COUNTER])
    counter.wait_for("ready")
    sender.python("-c", SENDER, receiver.address(version), str(count))
    return int(counter.check().split()[-1])


def test_a_link_carries_both_ip_versions(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    lab.link(a, b)
    assert arrivals(a, b, 3, version=4) == 3
    assert arrivals(b, a, 3, version=6) == 3


def test_a_switch_joins_many_hosts_and_a_router_joins_switches(lab: Lab) -> None:
    left, right, router = lab.switch(), lab.switch(), lab.host("router")
    a, b, c = lab.host("a"), lab.host("b"), lab.host("c")
    left.join(a), left.join(b)
    right.join(c)
    near, far = left.join(router), right.join(router)
    router.forward()
    for host, gateway in ((a, near), (c, far)):
        for version in (4, 6):
            host.route("default", via=gateway.address(version))
    assert arrivals(a, b, 3) == 3
    assert arrivals(a, c, 3, version=4) == 3
    assert arrivals(c, a, 3, version=6) == 3


def test_loss_is_what_was_asked_for(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    lab.link(a, b)
    b.loss(20)
    arrived = arrivals(a, b, 500)
    assert 340 < arrived < 460, "400 expected; this far off about once in 10**10 runs"
    b.loss(0)
    assert arrivals(a, b, 50) == 50


def test_a_super_segment_crosses_a_link_as_single_packets(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.host("a"), lab.host("b")
    lab.link(a, b)
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.SOL_UDP, 103, 1000)\n"
        "s.sendto(bytes(20_000), (sys.argv[1], 9))\n"
    )
    with a.capture(tmp_path / "a.pcap") as capture:
        a.python("-c", script, b.address())
    udp = [packet for packet in capture.packets() if packet.protocol == "udp"]
    assert [len(packet.payload) for packet in udp] == [1000] * 20


def test_a_capture_shows_endpoints_and_finds_bytes_sent_in_the_clear(
    lab: Lab, tmp_path: Path
) -> None:
    a, b = lab.host("a"), lab.host("b")
    lab.link(a, b)
    secret = random.Random(1).randbytes(1_000_000)
    (tmp_path / "secret.bin").write_bytes(secret)
    server = a.popen([sys.executable, "-u", "-m", "http.server", "8000"], cwd=tmp_path)
    server.wait_for("Serving HTTP")
    fetch = "import sys, urllib.request; print(len(urllib.request.urlopen(sys.argv[1]).read()))"
    with b.capture(tmp_path / "b.pcap") as capture:
        assert b.python("-c", fetch, f"http://{a.address()}:8000/secret.bin") == "1000000\n"
    assert capture.lost == 0
    assert capture.traces_of(secret) > 3500
    assert capture.traces_of(random.Random(2).randbytes(1_000_000)) == 0
    tcp = [packet for packet in capture.packets() if packet.protocol == "tcp"]
    assert {packet.destination for packet in tcp if packet.source[0] == b.address()} == {
        (a.address(), 8000)
    }
    assert sum(len(p.payload) for p in tcp if p.source[0] == a.address()) > len(secret)


def test_a_host_has_its_own_resolver(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    a.resolver("192.0.2.53")
    assert a.run(["cat", "/etc/resolv.conf"]).startswith("nameserver 192.0.2.53\n")
    assert "192.0.2.53" not in b.run(["cat", "/etc/resolv.conf"])


def test_a_failing_command_says_which_and_why(lab: Lab) -> None:
    a = lab.host("a")
    with pytest.raises(LabError, match=r"(?s)ip link show nowhere.*does not exist"):
        a.run(["ip", "link", "show", "nowhere"])
    with pytest.raises(LabError, match=r"still running after 0.2 s: sleep 60"):
        a.run(["sleep", "60"], timeout=0.2)


def test_signals_reach_the_program_and_its_status_comes_back(lab: Lab) -> None:
    script = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    program = lab.host("a").popen(
        [sys.executable, "-c", script + "print('up', flush=True)\nsignal.pause()"]
    )
    program.wait_for("up")
    program.send_signal(signal.SIGTERM)
    assert program.wait() == 7


@pytest.mark.usefixtures("lab_is_possible")
@pytest.mark.parametrize("how", ["close", "killed"])
def test_nothing_of_a_lab_survives_it(how: str) -> None:
    """Daemons that left their session die with the lab, even if its maker is killed at once."""
    mark = f"ntmpatch-lab-test-{os.getpid()}-{how}"
    maker = subprocess.Popen(
        [sys.executable, "-c", _MAKER, mark],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert maker.stdout is not None
    assert maker.stdout.readline() == b"made\n"
    assert len(_pids_with(mark)) > 2
    if how == "close":
        maker.communicate(b"close\n")
        assert maker.returncode == 0
    else:
        maker.kill()
        maker.communicate()
    deadline = time.monotonic() + 5
    while _pids_with(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _pids_with(mark) == []


_MAKER = """
import sys
from lab import Lab
with Lab() as lab:
    hosts = [lab.host("a"), lab.host("b")]
    lab.link(*hosts)
    for host in hosts:
        host.run(["sh", "-c", 'setsid sh -c "sleep 1000; exit" $1 >/dev/null 2>&1 &', "-",
                  sys.argv[1]])
        host.popen(["sh", "-c", "sleep 1000; exit", sys.argv[1]])
    print("made", flush=True)
    sys.stdin.readline()
"""


def _pids_with(mark: str) -> list[int]:
    """Processes with the mark in their command line, and the lab's holders, but not the maker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if mark.encode() in arguments and _MAKER.encode() not in arguments:
            found.append(int(path.parent.name))
    return found
