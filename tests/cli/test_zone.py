"""``zone list`` and ``zone export``, and what named-checkzone says about it."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import dns.zone
import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.cli.main import run_command
from ntmpatch.crypto.certificate import Certificate, issue, signing_public_key
from ntmpatch.runtime.database import open_database
from ntmpatch.runtime.state import StateDirectory
from ntmpatch.runtime.store_direction import SqlDirectionStore
from ntmpatch.servers.direction.published import read_coordinator_text_untrusted
from ntmpatch.servers.direction.store import NodeRecord
from ntmpatch.signalling.enrolled import EnrolmentState

if TYPE_CHECKING:
    from pathlib import Path

SIGNING_KEY = bytes(range(32))
PREFIXES = ("198.18.16.0/22", "fd00:1:2::/48")
NODES = ("cam.home.example", "desk.home.example", "a.b.second.example")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The state that a coordinator of two domains with three nodes left, and its configuration."""
    state = StateDirectory(tmp_path / "servers")
    now = time.time()
    certificate = issue(
        Certificate(
            "dc",
            "dc.home.example",
            bytes(32),
            PREFIXES,
            now - 10,
            now + 1000,
            ("second.example",),
        ),
        SIGNING_KEY,
    )
    enrolment = EnrolmentState(
        bytes(32), (Endpoint("192.0.2.9", 3470),), signing_public_key(SIGNING_KEY), certificate
    )
    state.write("dc.enrolment", enrolment.encode())
    store = SqlDirectionStore(open_database(f"sqlite:///{state.path / 'direction.db'}"))
    for number, fqdn in enumerate(NODES, 2):
        ipv4, ipv6 = (ipaddress.ip_network(prefix)[number].packed for prefix in PREFIXES)
        key = bytes([number]) * 32
        store.save_node(NodeRecord(fqdn, key, b"", ipv4, ipv6, None, (), "tcp", now))
    path = tmp_path / "servers.toml"
    path.write_text(f'[serve]\nstate = "{state.path}"\nlisten = "192.0.2.10"\n\n[dns]\nttl = 60\n')
    return path


def zone(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints."""
    status = run_command(["zone", *map(str, arguments)])
    output = capsys.readouterr()
    assert (status, output.err) == (0, "")
    return output.out


def test_the_zones_are_listed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(zone(capsys, "list", "--json", "--config", config))
    assert [row["zone"] for row in rows] == [
        "home.example",
        "second.example",
        *(f"{n}.18.198.in-addr.arpa" for n in (16, 17, 18, 19)),
        "2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa",
    ]
    lines = [line.split() for line in zone(capsys, "list", "--config", config).splitlines()]
    assert ["16.18.198.in-addr.arpa", "198.18.16.0/22"] in lines


def test_a_zone_is_a_master_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = zone(capsys, "export", "--config", config)
    contents = dns.zone.from_text(text, relativize=False)
    assert contents.origin.to_text() == "home.example."
    records = {
        (name.to_text(), item.to_text())
        for name, _, item in contents.iterate_rdatas()
        if item.rdtype not in (dns.rdatatype.SOA, dns.rdatatype.TXT)
    }
    assert records == {
        ("home.example.", "dc.home.example."),
        ("dc.home.example.", "192.0.2.10"),
        ("cam.home.example.", "198.18.16.2"),
        ("cam.home.example.", "fd00:1:2::2"),
        ("desk.home.example.", "198.18.16.3"),
        ("desk.home.example.", "fd00:1:2::3"),
    }
    (text_record,) = contents.find_rdataset("_ntm.dc.home.example.", "TXT")
    port, certificate = read_coordinator_text_untrusted(text_record.strings) or (0, b"")
    assert port == 3471
    assert len(certificate) > 100
    text = zone(capsys, "export", "198.18.16.2", "--config", config)
    assert "4.16.18.198.in-addr.arpa. IN PTR a.b.second.example.\n" in text
    assert "1.16.18.198.in-addr.arpa. IN PTR dc.home.example.\n" in text


@pytest.mark.skipif(shutil.which("named-checkzone") is None, reason="named-checkzone is missing")
def test_named_checkzone_accepts_every_zone(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = [row["zone"] for row in json.loads(zone(capsys, "list", "--json", "--config", config))]
    for name in names:
        file = tmp_path / "zone"
        file.write_text(zone(capsys, "export", name, "--config", config))
        command = ["named-checkzone", "-i", "local", "-k", "fail", "-n", "fail", name, file]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "loaded serial" in checked.stdout
        assert checked.stdout.endswith("OK\n")
        assert "warning" not in (checked.stdout + checked.stderr).lower()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other.example", "is no zone of this coordinator: expected one of home.example, second"),
        ("198.18.20.0/24", "is no zone"),
        ("198.18.16.0/22", "lies in several zones: expected one of 16.18.198.in-addr.arpa, 17."),
    ],
)
def test_what_is_no_zone(
    config: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert run_command(["zone", "export", name, "--config", str(config)]) == os.EX_CONFIG
    assert words in capsys.readouterr().err


def test_without_a_coordinator_there_is_no_zone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "servers.toml"
    path.write_text(f'[serve]\nstate = "{tmp_path / "empty"}"\n')
    assert run_command(["zone", "export", "--config", str(path)]) == os.EX_CONFIG
    assert "no coordinator has been certified" in capsys.readouterr().err
