"""A real wireguard-go, with the Linux TCP/IP stack behind it, against our tunnel and our stack."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_domain import NTMPATCH, clean_environment
from lab_wireguard import WireGuardGo, make_key

if TYPE_CHECKING:
    from lab import Host, Lab, Process

pytestmark = [
    pytest.mark.lab,
    pytest.mark.once,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("wireguard_is_possible"),
]

PROGRAMS = Path(__file__).parent / "programs"
OUR_IPV4, THEIR_IPV4 = "198.18.0.1", "198.18.0.2"
OUR_IPV6, THEIR_IPV6 = "fd12:3456:789a::1", "fd12:3456:789a::2"
OUR_PORT, THEIR_PORT = 4460, 51820
PROGRAM_PORT = 7000
UPLOAD_SIZE = 50_000_000
TRANSFER_TIMEOUT = 100.0


class Pair:
    """Our node on one host, wireguard-go on another, each the other's only peer."""

    def __init__(self, lab: Lab, directory: Path, *, we_know_them: bool, timers: str = "") -> None:
        self.ours, self.theirs = lab.host("ours"), lab.host("theirs")
        lab.link(self.ours, self.theirs)
        our_public_key = make_key(directory / "ours.key")
        preshared_key = directory / "preshared.key"
        make_key(preshared_key)
        self.wireguard = WireGuardGo(
            self.theirs, directory, [f"{THEIR_IPV4}/32", f"{THEIR_IPV6}/128"], THEIR_PORT
        )
        self.wireguard.add_peer(
            our_public_key,
            [f"{OUR_IPV4}/32", f"{OUR_IPV6}/128"],
            endpoint=None if we_know_them else f"{self.ours.address()}:{OUR_PORT}",
            preshared_key=preshared_key,
        )
        endpoint = f'endpoint = "{self.theirs.address()}:{THEIR_PORT}"' if we_know_them else ""
        self._directory = directory
        self._config = directory / "node.toml"
        self._config.write_text(
            f"""
            [node]
            name = "ours.static.example"
            port = {OUR_PORT}
            private_key_file = "{directory / "ours.key"}"
            addresses = ["{OUR_IPV4}", "{OUR_IPV6}"]

            [[peer]]
            name = "theirs.static.example"
            public_key = "{self.wireguard.public_key}"
            preshared_key_file = "{preshared_key}"
            addresses = ["{THEIR_IPV4}", "{THEIR_IPV6}"]
            {endpoint}

            [timers]
            {timers}
            """
        )

    def start_ours(self, program: str, *arguments: str) -> Process:
        """Start an unmodified program under our node."""
        options = ["--config", str(self._config), "--state", str(self._directory / "state")]
        return self.ours.popen(
            [*NTMPATCH, "run", *options, str(PROGRAMS / program), *arguments],
            env=clean_environment(),
        )

    def run_ours(self, program: str, *arguments: str) -> str:
        return self.start_ours(program, *arguments).check(TRANSFER_TIMEOUT)

    def start_theirs(self, program: str, *arguments: str) -> Process:
        return self.theirs.popen([sys.executable, PROGRAMS / program, *arguments])

    def run_theirs(self, program: str, *arguments: str) -> str:
        return self.start_theirs(program, *arguments).check(TRANSFER_TIMEOUT)

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.ours, self.theirs


@pytest.mark.parametrize(
    ("version", "address"), [("4", THEIR_IPV4), ("6", THEIR_IPV6), ("4", "theirs.static.example")]
)
def test_our_handshake_is_answered(lab: Lab, tmp_path: Path, version: str, address: str) -> None:
    pair = Pair(lab, tmp_path, we_know_them=True)
    pair.start_theirs("transfer_server.py", str(PROGRAM_PORT), version).wait_for("serving")
    for kind in "DU":
        assert (
            pair.run_ours("transfer_client.py", address, str(PROGRAM_PORT), kind, "1000000")
            == "equal\n"
        )
    assert pair.wireguard.latest_handshake() > 0


@pytest.mark.parametrize(("version", "address"), [("4", OUR_IPV4), ("6", OUR_IPV6)])
@pytest.mark.parametrize("loss", [pytest.param(0, id="clean"), pytest.param(1, id="1%-loss")])
def test_their_handshake_is_answered_and_50_mb_pass_both_ways(
    lab: Lab, tmp_path: Path, version: str, address: str, loss: float
) -> None:
    pair = Pair(lab, tmp_path, we_know_them=False)
    pair.start_ours("transfer_server.py", str(PROGRAM_PORT), version).wait_for("serving")
    for host in pair.hosts:
        host.loss(loss)
    for kind in "DU":
        arguments = (address, str(PROGRAM_PORT), kind, str(UPLOAD_SIZE))
        assert pair.run_theirs("transfer_client.py", *arguments) == "equal\n"
    assert pair.wireguard.latest_handshake() > 0


def test_datagrams_and_pings_from_a_kernel(lab: Lab, tmp_path: Path) -> None:
    pair = Pair(lab, tmp_path, we_know_them=False)
    pair.start_ours("echo_server.py", str(PROGRAM_PORT)).wait_for("echoing")
    sizes = map(str, (0, 1, 1_000, 1_348, 1_349, 9_000, 60_000))
    assert pair.run_theirs("datagrams.py", OUR_IPV4, str(PROGRAM_PORT), *sizes) == ""
    assert pair.run_theirs("ping.py", OUR_IPV4) == "answered\n"


def test_keys_are_renewed_under_a_running_conversation(lab: Lab, tmp_path: Path) -> None:
    """Ours asks for a new handshake every 2 s in place of 120 s; the stream notices nothing."""
    pair = Pair(lab, tmp_path, we_know_them=True, timers="rekey_after = 2.0\nreject_after = 6.0")
    pair.start_theirs("echo_server.py", str(PROGRAM_PORT)).wait_for("echoing")
    talk = pair.start_ours("talk.py", THEIR_IPV4, str(PROGRAM_PORT), "11")
    handshake_times = set()
    while talk.returncode is None:
        handshake_times.add(pair.wireguard.latest_handshake())
        time.sleep(0.5)
    assert float(talk.check()) < 1.0
    assert len(handshake_times - {0}) >= 4, handshake_times
