"""Our TCP against the kernel's, behind a TUN device, with what goes wrong on a network between.

``NTMPATCH_LINUX_FULL=1`` plays it at full length: 200 MB, 1,000 connections, 30 s of zero window.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.once, pytest.mark.timeout(900)]

PROGRAM = Path(__file__).parent / "programs" / "talk_with_linux.py"
FULL = os.environ.get("NTMPATCH_LINUX_FULL") == "1"
BULK_SIZE = 200_000_000 if FULL else 2_000_000
SHORT_COUNT = 1000 if FULL else 100
ZERO_WINDOW = 30.0 if FULL else 1.5
LIMIT = 800.0 if FULL else 100.0
DELAY = 0.002

OURS, LINUX = {4: "10.77.1.1", 6: "fd77::1:1"}, {4: "10.77.2.1", 6: "fd77::2:1"}

TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE = 1, 2, 4
WANTED_OPTIONS = TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE

FAULTS = (
    "IpInHdrErrors",
    "Ip6InHdrErrors",
    "TcpInErrs",
    "TcpInCsumErrors",
    "TcpExtTCPSACKReneging",
    "TcpExtTCPSACKDiscard",
    "TcpExtTCPMD5Unexpected",
)

WAYS = {
    "clean": {"delay": DELAY},
    "1%-loss": {"delay": DELAY, "loss": 0.01},
    "5%-loss": {"delay": DELAY, "loss": 0.05},
    "reordered": {"delay": DELAY, "reorder": 0.1, "late": 0.004},
    "bad": {"delay": DELAY, "loss": 0.05, "reorder": 0.1, "late": 0.004},
}


def congestion_controls() -> list[str]:
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text(encoding="ascii")
    return known.split()


def talk(lab: Lab, ours: dict[str, Any], linux: dict[str, Any], way: str) -> dict[str, Any]:
    """Play one plan each; the report, after what always has to hold."""
    experiment = {
        "ours": [ours],
        "linux": [linux],
        "ways": {"ours": WAYS[way], "linux0": WAYS[way]},
        "limit": LIMIT,
    }
    report: dict[str, Any] = json.loads(
        lab.host("kernel").python(PROGRAM, json.dumps(experiment), timeout=LIMIT + 30)
    )
    counters = report["counters"][0]
    # The kernel also counts as an error that a SYN-ACK came again, as its answer was lost.
    challenged = min(counters.get("TcpInErrs", 0), counters.get("TcpExtTCPSYNChallenge", 0))
    counters["TcpInErrs"] = counters.get("TcpInErrs", 0) - challenged
    assert {name: counters.get(name, 0) for name in FAULTS} == dict.fromkeys(FAULTS, 0)
    bad = {name for name in report["drops"] if "checksum" in name or "malformed" in name}
    assert not bad
    return report


def only(report: dict[str, Any], side: str) -> dict[str, Any]:
    (talks,) = report[side]
    (only,) = talks
    assert isinstance(only, dict)
    return only


def plans(who_opens: str, family: int, port: int = 5000) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of ours and of the kernel's, one to open the connection and one to wait for it."""
    if who_opens == "ours":
        return {"address": LINUX[family], "port": port}, {"listen": True, "port": port}
    return {"listen": True, "port": port}, {"address": OURS[family], "port": port}


@pytest.mark.parametrize("way", WAYS if FULL else ["clean", "bad"])
@pytest.mark.parametrize("direction", ["to-linux", "from-linux"])
@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
def test_bulk(lab: Lab, congestion: str, direction: str, way: str) -> None:
    if congestion not in congestion_controls():
        pytest.skip(f"this kernel has no {congestion}")
    ours, linux = plans("ours" if direction == "to-linux" else "linux", 4)
    linux["congestion"] = congestion
    (ours if direction == "to-linux" else linux)["send"] = BULK_SIZE
    report = talk(lab, ours, linux, way)
    mine, theirs = only(report, "ours"), only(report, "linux")
    assert mine["error"] is None
    assert theirs["error"] is None
    assert mine["sent_sha"] == theirs["received_sha"]
    assert mine["received_sha"] == theirs["sent_sha"]
    assert mine["received"] + theirs["received"] == BULK_SIZE
    assert theirs["options"] & WANTED_OPTIONS == WANTED_OPTIONS
    counters = report["counters"][0]
    if way != "clean" and direction == "to-linux":
        assert counters["TcpExtTCPOFOQueue"]  # so it told us by SACK what it had
        assert mine["retransmissions"] or "loss" not in WAYS[way]
    if "loss" in WAYS[way] and direction == "from-linux":
        assert counters["TcpExtTCPSackRecovery"]
    if way == "clean":
        assert not mine["timeouts"]


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("who_opens", ["ours", "linux"])
@pytest.mark.parametrize("way", ["clean", "1%-loss"] if FULL else ["1%-loss"])
def test_many_short_connections(lab: Lab, who_opens: str, family: int, way: str) -> None:
    ours, linux = plans(who_opens, family)
    for plan in (ours, linux):
        plan |= {"send": 3000, "count": SHORT_COUNT, "parallel": 20}
    report = talk(lab, ours, linux, way)
    (mine,), (theirs,) = report["ours"], report["linux"]
    assert len(mine) == len(theirs) == SHORT_COUNT
    for talks in (mine, theirs):
        assert {each["error"] for each in talks} == {None}
        assert {each["received"] for each in talks} == {3000}
        shas = {each["sent_sha"] for each in talks}
        assert len(shas) == 1
    assert {each["received_sha"] for each in mine} == {theirs[0]["sent_sha"]}
    assert {each["received_sha"] for each in theirs} == {mine[0]["sent_sha"]}


@pytest.mark.parametrize("who_answers", ["ours", "linux"])
@pytest.mark.parametrize("way", ["clean", "bad"])
def test_half_close(lab: Lab, who_answers: str, way: str) -> None:
    """One end has ended its stream; the other still sends all of its own."""
    ours, linux = plans("ours", 4)
    ours["send"] = linux["send"] = 500_000
    (ours if who_answers == "ours" else linux)["answers"] = True
    report = talk(lab, ours, linux, way)
    mine, theirs = only(report, "ours"), only(report, "linux")
    assert mine["received"] == theirs["received"] == 500_000
    assert mine["received_sha"] == theirs["sent_sha"]
    assert theirs["received_sha"] == mine["sent_sha"]


@pytest.mark.parametrize("who_resets", ["ours", "linux"])
def test_reset(lab: Lab, who_resets: str) -> None:
    ours, linux = plans("ours", 4)
    ours["send"] = linux["send"] = 1
    if who_resets == "ours":
        linux |= {"send": 100_000_000}  # blocked in send when the reset comes
        ours |= {"reset": True, "pause": 60.0}
    else:
        linux["reset"] = True
        ours["until"] = 5.0
    report = talk(lab, ours, linux, "clean")
    if who_resets == "ours":
        assert only(report, "linux")["error"] == 104  # ECONNRESET
    else:
        assert only(report, "ours")["error"] == 104


@pytest.mark.parametrize("who_reads_late", ["ours", "linux"])
def test_zero_window(lab: Lab, who_reads_late: str) -> None:
    """A reader that pauses: the window closes, is probed, opens, and nothing is lost."""
    ours, linux = plans("ours", 4)
    reader, writer = (ours, linux) if who_reads_late == "ours" else (linux, ours)
    reader["pause"] = ZERO_WINDOW
    if reader is linux:
        reader["receive_buffer"] = 200_000
    writer["send"] = 20_000_000
    report = talk(lab, ours, linux, "clean")
    mine, theirs = only(report, "ours"), only(report, "linux")
    assert mine["error"] is None
    assert theirs["error"] is None
    assert mine["received"] + theirs["received"] == 20_000_000
    assert mine["received_sha"] == theirs["sent_sha"]
    assert theirs["received_sha"] == mine["sent_sha"]
    assert max(mine["elapsed"], theirs["elapsed"]) >= ZERO_WINDOW
