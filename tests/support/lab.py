"""A lab of network namespaces that needs no root and leaves nothing behind.

One holder process lives in its own user, mount, pid and network namespace; it is pid 1 there, so
the kernel kills everything in the lab when it ends. It ends when its standard input closes or its
parent dies, so a SIGKILL of pytest is enough. A host of the lab is a further network and mount
namespace, kept by a process of its own. `ip netns add` is not used: it needs to write to /run and
to mount there, which an unprivileged user namespace may not.

The same path is taken as root, so that nothing on the machine itself is ever changed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import lab_nat
from lab_capture import Capture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

NEEDED_TOOLS = ("unshare", "nsenter", "setpriv", "ip", "nft")
RECORDER = Path(__file__).with_name("lab_recorder.py")
START_TIMEOUT = 10.0
COMMAND_TIMEOUT = 20.0

_UNSHARE_ALL = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid"),
    *("--fork", "--kill-child", "--mount-proc"),
)
_HOLD = ("sh", "-c", "echo ready; exec cat")


class LabError(RuntimeError):
    """A command of the lab failed; the message holds the command and what it printed."""


def unavailable() -> str | None:
    """Why no lab can be made on this machine, or None if one can."""
    missing = [tool for tool in NEEDED_TOOLS if shutil.which(tool) is None]
    if missing:
        return f"the lab needs {', '.join(missing)}"
    try:
        with Lab() as lab:
            a, b = lab.host("a"), lab.host("b")
            lab.link(a, b)
            a.nft("table inet probe { }")
    except (LabError, OSError) as error:
        return f"no network namespaces with veth and nftables here: {error}"
    return None


class Process:
    """A program running in a lab's namespace; its output is collected in memory as it comes."""

    def __init__(self, popen: subprocess.Popen[bytes], argv: Sequence[str]) -> None:
        self.argv = list(argv)
        self._popen = popen
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._grown = threading.Condition()
        self._open_streams = 2
        self._readers = [
            threading.Thread(target=self._collect, args=(name, stream), daemon=True)
            for name, stream in (("stdout", popen.stdout), ("stderr", popen.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _collect(self, name: str, stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), 65536):
            with self._grown:
                self._output[name] += chunk
                self._grown.notify_all()
        with self._grown:
            self._open_streams -= 1
            self._grown.notify_all()

    @property
    def pid(self) -> int:
        """The program's pid as seen outside the lab (nsenter, its parent, only waits for it)."""
        return _only_child(self._popen.pid)

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    @property
    def stdout(self) -> str:
        return self._output["stdout"].decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self._output["stderr"].decode(errors="replace")

    def wait_for(self, text: str, timeout: float = START_TIMEOUT) -> None:
        """Wait until the program has printed text on either stream.

        Raises LabError if it ends first or does not do so within timeout seconds."""
        wanted = text.encode()

        def printed() -> bool:
            return any(wanted in output for output in self._output.values())

        with self._grown:
            self._grown.wait_for(lambda: printed() or self._open_streams == 0, timeout)
            if not printed():
                raise LabError(f"did not print {text!r} within {timeout} s: {self.describe()}")

    def wait(self, timeout: float = COMMAND_TIMEOUT) -> int:
        """The exit status; negative for a signal. Raises LabError after timeout seconds."""
        try:
            status = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LabError(f"still running after {timeout} s: {self.describe()}") from None
        for reader in self._readers:
            reader.join(1.0)  # a background child may hold the pipe open
        return status

    def check(self, timeout: float = COMMAND_TIMEOUT) -> str:
        """Wait, and return what it printed on stdout; LabError if the exit status is not zero."""
        if self.wait(timeout) != 0:
            raise LabError(self.describe())
        return self.stdout

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End the program and whatever it started in its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    @property
    def is_quiet_success(self) -> bool:
        """It ended well and printed nothing: of no interest when a test has failed."""
        return self.returncode == 0 and not any(self._output.values())

    def describe(self) -> str:
        lines = [f"{' '.join(self.argv)} (status {self.returncode})"]
        lines += [
            f"  {name}: {output.decode(errors='replace')[-4000:].rstrip()}"
            for name, output in self._output.items()
            if output
        ]
        return "\n".join(lines)


class Interface:
    """One end of a virtual Ethernet cable, with the addresses that the lab gave it."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name
        self.addresses: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface] = []

    def add_address(self, address: str) -> None:
        """address is written with its prefix length, as in 10.0.0.1/24."""
        parsed = ipaddress.ip_interface(address)
        # No duplicate address detection: a tentative IPv6 address is unusable for a second.
        nodad = ["nodad"] if parsed.version == 6 else []
        self.host.run(["ip", "address", "add", str(parsed), "dev", self.name, *nodad])
        self.addresses.append(parsed)

    def remove_address(self, address: str) -> None:
        parsed = ipaddress.ip_interface(address)
        self.host.run(["ip", "address", "del", str(parsed), "dev", self.name])
        self.addresses.remove(parsed)

    def address(self, version: int = 4) -> str:
        """The first address of the IP version, without prefix length."""
        return next(str(each.ip) for each in self.addresses if each.version == version)

    def set_mtu(self, mtu: int) -> None:
        self.host.run(["ip", "link", "set", self.name, "mtu", str(mtu)])

    def up(self) -> None:
        self.host.run(["ip", "link", "set", self.name, "up"])

    def down(self) -> None:
        """Take the interface down, as pulling the cable does; the kernel forgets IPv6 addresses."""
        self.host.run(["ip", "link", "set", self.name, "down"])


class Namespace:
    """A network and mount namespace of the lab, in which programs run as root of the lab."""

    def __init__(self, lab: Lab, name: str, holder_pid: int) -> None:
        self.lab = lab
        self.name = name
        self.holder_pid = holder_pid
        self.started: list[Process] = []
        self._interface_count = itertools.count()

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: bytes | None = None,
    ) -> Process:
        """Start a program here; it is killed at the lab's end. env is added to the environment."""
        arguments = [os.fspath(each) for each in argv]
        directory = os.fspath(cwd) if cwd is not None else os.getcwd()
        # Entering a mount namespace resets the working directory, hence env --chdir.
        enter = _nsenter(self.holder_pid, "env", f"--chdir={directory}", "--", *arguments)
        with tempfile.TemporaryFile() as standard_input:
            standard_input.write(stdin or b"")
            standard_input.seek(0)
            popen = subprocess.Popen(
                enter,
                env={**os.environ, **(env or {})},
                stdin=standard_input,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        process = Process(popen, arguments)
        self.started.append(process)
        return process

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        timeout: float = COMMAND_TIMEOUT,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: bytes | None = None,
    ) -> str:
        """Run a program to its end and return its stdout; LabError unless it exits with 0."""
        return self.popen(argv, env=env, cwd=cwd, stdin=stdin).check(timeout)

    def python(
        self, *argv: str | os.PathLike[str], timeout: float = COMMAND_TIMEOUT, **options: object
    ) -> str:
        """Run this interpreter, the one that runs the tests."""
        return self.run([sys.executable, *argv], timeout=timeout, **options)  # type: ignore[arg-type]  # passed on as they came

    def next_interface_name(self) -> str:
        return f"eth{next(self._interface_count)}"

    def nft(self, ruleset: str) -> None:
        """Load nftables rules into this namespace."""
        self.run(["nft", "-f", "-"], stdin=ruleset.encode())

    def sysctl(self, name: str, value: object) -> None:
        self.run(["sh", "-c", 'echo "$2" > "/proc/sys/$1"', "-", name, str(value)])

    def kill_processes(self) -> None:
        for process in self.started:
            process.kill()


class Host(Namespace):
    """A machine of the lab."""

    def __init__(self, lab: Lab, name: str, holder_pid: int) -> None:
        super().__init__(lab, name, holder_pid)
        self.interfaces: list[Interface] = []
        self.sysctl("net/ipv6/conf/default/accept_dad", 0)
        self.run(["ip", "link", "set", "lo", "up"])

    def address(self, version: int = 4) -> str:
        """The first address of the IP version on the first interface that has one."""
        return next(
            str(address.ip)
            for interface in self.interfaces
            for address in interface.addresses
            if address.version == version
        )

    def route(self, destination: str, via: str) -> None:
        """destination is a prefix or "default"; via a neighbour's address."""
        version = f"-{ipaddress.ip_address(via).version}"
        self.run(["ip", version, "route", "replace", destination, "via", via])

    def forward(self) -> None:
        """Become a router for both IP versions."""
        self.sysctl("net/ipv4/ip_forward", 1)
        self.sysctl("net/ipv6/conf/all/forwarding", 1)

    def resolver(self, address: str) -> None:
        """Give this host its own /etc/resolv.conf with one name server."""
        path = self.lab.directory / f"{self.name}.resolv.conf"
        path.write_text(f"nameserver {address}\noptions timeout:1 attempts:2\n")
        self.run(["mount", "--bind", path, "/etc/resolv.conf"])

    def loss(self, percent: float) -> None:
        """Lose that share of the packets that reach this host; 0 ends it.

        Set it on both ends for loss in both directions. Only what arrives is lost: a drop in nft's
        output hook is told to the sender as EPERM, which no cable does.
        """
        self.nft("table inet lab_loss\ndelete table inet lab_loss")
        if percent:
            self.nft(lab_nat.loss(percent))

    def nat(self, kind: lab_nat.NatKind, outside: Interface) -> None:
        """Become a router that translates the IPv4 addresses of what leaves through outside."""
        if outside.host is not self:
            raise ValueError("the outside interface belongs to another host")
        self.forward()
        self.nft(lab_nat.nat(kind, outside.name))

    @contextlib.contextmanager
    def capture(self, path: Path, interface: Interface | None = None) -> Iterator[Capture]:
        """Record every packet on the interface (the first, if none is given) into a pcap file.

        The file is complete, and may be read, when the block has ended."""
        with _recording(self, (interface or self.interfaces[0]).name, path) as capture:
            yield capture


@contextlib.contextmanager
def _recording(namespace: Namespace, interface: str, path: Path) -> Iterator[Capture]:
    process = namespace.popen([sys.executable, RECORDER, interface, path])
    process.wait_for("recording")
    capture = Capture(path)
    try:
        yield capture
    finally:
        process.send_signal(signal.SIGINT)
        process.check()
        capture.lost = int(process.stdout.rpartition("dropped ")[2])


class Switch:
    """An Ethernet switch: hosts that join get an address each from its subnets."""

    def __init__(self, lab: Lab, name: str, subnets: Sequence[str], mtu: int) -> None:
        self.lab = lab
        self.name = name
        self.mtu = mtu
        self._pools = [_Pool(subnet) for subnet in subnets]
        lab.root.run(["ip", "link", "add", name, "mtu", str(mtu), "type", "bridge"])
        lab.root.run(["ip", "link", "set", name, "up"])

    def join(self, host: Host, *addresses: str) -> Interface:
        """Plug in a new interface of the host; addresses, if given, replace the pool's."""
        port = self.lab.unique_name("port")
        interface = self.lab.cable(host, self.lab.root, far_name=port, mtu=self.mtu)
        self.lab.root.run(["ip", "link", "set", port, "master", self.name])
        for address in addresses or [pool.take() for pool in self._pools]:
            interface.add_address(address)
        return interface


class Lab:
    """Namespaces, cables and switches; a context manager whose end removes them all."""

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()
        self._counter = itertools.count()
        self._subnets = itertools.count(1)
        self._holders: list[subprocess.Popen[bytes]] = []
        self.hosts: dict[str, Host] = {}
        self.directory = Path(
            self._closing.enter_context(tempfile.TemporaryDirectory(prefix="ntmpatch-lab-"))
        )
        try:
            pid = self._hold([*_UNSHARE_ALL, "--", *_HOLD])
            self.root = Namespace(self, "root", pid)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill whatever runs in the lab; its namespaces end with their last process."""
        for host in self.hosts.values():
            host.kill_processes()
        self.root.kill_processes()
        for holder in reversed(self._holders):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(holder.pid, signal.SIGKILL)
            holder.communicate()
        self._holders.clear()
        self._closing.close()

    def host(self, name: str) -> Host:
        """A new machine with nothing but its loopback interface."""
        if name in self.hosts:
            raise ValueError(f"the lab has a host {name!r} already")
        enter = _nsenter(self.root.holder_pid, "unshare", "--net", "--mount", "--", *_HOLD)
        host = Host(self, name, self._hold(enter))
        self.hosts[name] = host
        return host

    def link(
        self, a: Host, b: Host, subnets: Sequence[str] | None = None, *, mtu: int = 1500
    ) -> tuple[Interface, Interface]:
        """Connect two hosts by a cable; a gets the first address of each subnet, b the second."""
        if subnets is None:
            number = next(self._subnets)
            subnets = [f"10.77.{number}.0/24", f"fd77:0:0:{number:x}::/64"]
        far_name = b.next_interface_name()
        near = self.cable(a, b, far_name=far_name, mtu=mtu)
        far = Interface(b, far_name)
        b.interfaces.append(far)
        for pool in map(_Pool, subnets):
            near.add_address(pool.take())
            far.add_address(pool.take())
        return near, far

    def switch(self, subnets: Sequence[str] | None = None, *, mtu: int = 1500) -> Switch:
        if subnets is None:
            number = next(self._subnets)
            subnets = [f"10.77.{number}.0/24", f"fd77:0:0:{number:x}::/64"]
        return Switch(self, self.unique_name("switch"), subnets, mtu)

    def cable(self, host: Host, far: Namespace, *, far_name: str, mtu: int) -> Interface:
        """A veth pair whose near end belongs to host; both ends are up, without addresses."""
        name = host.next_interface_name()
        # One segment a buffer: without this a super-segment of 64 KB would cross the cable as one
        # "packet", and the loss rules would lose all of it or nothing.
        options = ["mtu", str(mtu), "gso_max_segs", "1"]
        peer = ["peer", "name", far_name, *options, "netns", str(_pid_inside(far.holder_pid))]
        host.run(["ip", "link", "add", name, *options, "type", "veth", *peer])
        host.run(["ip", "link", "set", name, "up"])
        far.run(["ip", "link", "set", far_name, "up"])
        interface = Interface(host, name)
        host.interfaces.append(interface)
        return interface

    @contextlib.contextmanager
    def capture(self, path: Path) -> Iterator[Capture]:
        """Record what crosses the switches into a pcap file: one order, one clock, no doubles.

        The file is complete, and may be read, when the block has ended."""
        with _recording(self.root, "any", path) as capture:
            yield capture

    def unique_name(self, kind: str) -> str:
        return f"{kind}{next(self._counter)}"

    def _hold(self, argv: Sequence[str]) -> int:
        """Start a holder process and return its pid, as seen from outside the lab."""
        holder = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._holders.append(holder)
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            _, complaint = holder.communicate(timeout=START_TIMEOUT)
            raise LabError(f"{' '.join(argv)}: {complaint.decode(errors='replace').strip()}")
        return _only_child(holder.pid)


class _Pool:
    """Hands out the addresses of a subnet in order."""

    def __init__(self, subnet: str) -> None:
        network = ipaddress.ip_network(subnet)
        self._prefix_length = network.prefixlen
        self._free = network.hosts()

    def take(self) -> str:
        address = next(self._free)
        if int(address) & 0xFFFF == 0:  # ::, the subnet-router anycast address
            address = next(self._free)
        return f"{address}/{self._prefix_length}"


def _nsenter(pid: int, *argv: str) -> list[str]:
    return [
        "nsenter",
        f"--target={pid}",
        "--user",
        "--preserve-credentials",
        "--net",
        "--mount",
        "--pid",
        "--",
        *argv,
    ]


def _only_child(pid: int) -> int:
    """The one process that nsenter or unshare started and waits for."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if len(children) == 1:
            return int(children[0])
        time.sleep(0.005)  # it has not forked yet
    raise LabError(f"process {pid} has {len(children)} children, not one")


def _pid_inside(pid: int) -> int:
    """The pid of a lab's process in the lab's own pid namespace."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])
