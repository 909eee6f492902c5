"""What the kernel of a real host announces, and a sandbox that has no netlink."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ntmpatch.handover.networks import EVERY_INTERFACE
from ntmpatch.runtime import netlink
from ntmpatch.runtime.handover import Handover
from ntmpatch.runtime.wakeup import SHORTEST_SLEEP, WakeUp

if TYPE_CHECKING:
    from lab import Host, Lab

WATCHER = Path(__file__).parents[1] / "support" / "network_watcher.py"
PATIENCE = 10.0


class Watched:
    """A host whose networks are watched by a process of its own."""

    def __init__(self, host: Host, *arguments: Path) -> None:
        self._process = host.popen([sys.executable, WATCHER, *arguments])
        self._seen = 0
        self.next()

    def next(self) -> list[list[Any]]:
        """The next picture that is told."""
        deadline = time.monotonic() + PATIENCE
        while True:
            lines = self._process.stdout.split("\n")[:-1]
            if len(lines) > self._seen:
                break
            assert time.monotonic() < deadline, self._process.describe()
            time.sleep(0.002)
        self._seen += 1
        picture: list[list[Any]] = json.loads(lines[self._seen - 1])
        return picture

    def until(self, addresses: set[str]) -> None:
        """Skip pictures until one has just these addresses."""
        while {network[1] for network in self.next()} != addresses:
            pass


@pytest.mark.lab
@pytest.mark.once
def test_the_kernel_announces_and_the_picture_follows(lab: Lab) -> None:
    host, far = lab.host("host"), lab.host("far")
    link, far_link = lab.link(host, far, ["192.0.2.0/24"])
    watched = Watched(host)
    home, router = "192.0.2.1", "192.0.2.2"

    host.route("default", router)
    assert watched.next() == [[link.name, home, True, 0, router]]
    host.route("default", "192.0.2.3")
    assert watched.next() == [[link.name, home, True, 0, "192.0.2.3"]], "replaced, not added"
    link.add_address("2001:db8::1/64")
    assert [network[1] for network in watched.next()] == [home, "2001:db8::1"]
    # A command a change: a machine that is not busy tells one picture, others those between.
    batch = f"address del {home}/24 dev {link.name}\naddress add {home}/24 dev {link.name}\n"
    batch += f"route add default via {router}\n"
    host.run(["ip", "-batch", "-"], stdin=batch.encode())
    while [network[4] for network in watched.next()] != [router, ""]:
        pass
    link.remove_address("2001:db8::1/64")
    assert watched.next() == [[link.name, home, True, 0, router]]
    second, _ = lab.link(host, far, ["198.51.100.0/24"])
    watched.until({home, "198.51.100.1"})
    far_link.down()
    assert watched.next() == [[second.name, "198.51.100.1", False, 0, ""]], "no carrier"
    far_link.up()
    assert watched.next()[0] == [link.name, home, True, 0, router]
    host.run(["ip", "link", "del", second.name])
    assert watched.next() == [[link.name, home, True, 0, router]]


@pytest.mark.lab
@pytest.mark.once
def test_messages_that_the_kernel_had_to_leave_out_are_made_up_for(
    lab: Lab, tmp_path: Path
) -> None:
    host, far = lab.host("host"), lab.host("far")
    link, _ = lab.link(host, far, ["192.0.2.0/24"])
    stall = tmp_path / "stall"
    os.mkfifo(stall)
    watched = Watched(host, stall)
    added = [f"10.{i >> 8}.{i & 255}.1" for i in range(2000)]
    batch = [f"address add {address}/32 dev {link.name}\n" for address in added]
    batch += [f"address del {address}/32 dev {link.name}\n" for address in added[:-3]]
    host.run(["ip", "-batch", "-"], stdin="".join(batch).encode())
    stall.write_text("go on")
    watched.until({"192.0.2.1", *added[-3:]})
    link.add_address("2001:db8::1/64")
    watched.until({"192.0.2.1", *added[-3:], "2001:db8::1"})


def test_a_sandbox_without_netlink_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(netlink._socket, "socket", refuse)
    handover = Handover(EVERY_INTERFACE, lambda _: None)
    with caplog.at_level(logging.INFO):
        handover.start()
    assert [record.getMessage() for record in caplog.records] == [
        "changes of network will not be noticed: no netlink here "
        "([Errno 97] Address family not supported by protocol)"
    ]
    assert handover.picture == ()
    handover.close()


def test_a_sleep_is_told_from_a_clock_that_was_set() -> None:
    resumed: list[float] = []
    slept = [100.0, 100.0 + SHORTEST_SLEEP / 2, 100.0 + SHORTEST_SLEEP / 2, 3700.0]
    clock = iter(slept)
    wake_up = WakeUp(lambda: resumed.append(1), lambda: next(clock))
    wake_up._set()  # as when the kernel cancels the timer, which needs a clock that may be set
    wake_up._set()
    assert resumed == []
    wake_up._set()
    assert len(resumed) == 1
    wake_up.close()
