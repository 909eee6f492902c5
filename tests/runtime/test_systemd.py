"""What systemd is told, and the units that are offered for it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import gevent
import pytest

from ntmpatch.runtime.systemd import ServiceManager

UNITS = Path(__file__).parents[2] / "docs" / "systemd"


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    address = f"@ntmpatch-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    environment = {
        "NOTIFY_SOCKET": address,
        "WATCHDOG_USEC": "1000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        manager.settimeout(10)
        service = ServiceManager(environment)
        assert environment == {}, "children are not the service"
        service.ready("serving home.example")
        assert manager.recv(1000) == b"READY=1\nSTATUS=serving home.example"
        gevent.sleep(0)
        assert manager.recv(1000) == b"WATCHDOG=1"
        service.close()
        service.stopping(30.0)
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(1000)


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    ServiceManager({}).ready("")
    gone = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "junk"})
    gone.ready("")
    gone.stopping(1.0)
    gone.close()


def test_units_are_what_systemd_accepts_and_hardened(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = tmp_path / "ntmpatch"
    command.symlink_to(sys.executable)
    text = (UNITS / "ntmpatch@.service").read_text()
    for role in ("as", "dc"):
        unit = tmp_path / f"ntmpatch@{role}.service"
        unit.write_text(text.replace("/usr/bin/ntmpatch", str(command)))
    drop_in = tmp_path / "ntmpatch@dc.service.d"
    drop_in.mkdir()
    shutil.copy(UNITS / "ntmpatch-dns.conf", drop_in / "dns.conf")
    for role, exposure in (("as", 1.5), ("dc", 2.0)):
        unit = tmp_path / f"ntmpatch@{role}.service"
        for words in (["verify"], ["security", "--offline=true"]):
            result = subprocess.run(
                ["systemd-analyze", *words, str(unit)],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert result.returncode == 0, result.stderr
            # Whatever other units of this machine are wrong about is not ours.
            assert f"ntmpatch@{role}" not in result.stderr
        found = re.search(r"exposure level for .*: (\d+\.\d)", result.stdout)
        assert found is not None
        assert float(found[1]) <= exposure
