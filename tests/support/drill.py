"""Conversations with TCP, written down packet by packet, as packetdrill has them.

A file holds scripts, each under a line ``=== clause: title``. A line of a script is an instant
relative to the line before it (``+0.2``; none: the same instant), and one of

- ``< S 0:0(0) win 65535 <mss 1000,sackOK>``: the far end sends. Flags are ``S F R P . E W``
  (``.`` is ACK); numbers count from the sender's initial sequence number, ``win`` is unscaled.
- ``> S. 0:0(0) ack 1 win 65535 <mss 1460>``: we send this, now and nothing before it. Window and
  options are compared where they are given, ``<>`` is none. Time stamps of ours count from the
  first one, in milliseconds.
- Packets that arrive together are joined by ``&``.
- ``[ect0]``, ``[ce]`` or ``[noecn]`` before the flags, ``@5001`` before them for another port of
  the far end, ``< icmp port_unreachable [1:101]`` about what we sent.
- what the program does: ``listen``, ``connect``, ``write 1000``, ``shutdown``, ``close`` and so
  on (the methods ``_do_*`` of ``Drill``), or how the network behaves (``path_changed``).
- a beginning that many have, ``!established``, ``!sack``, ``!stamps`` and so on (``MACROS``);
- what has to be so: ``state ESTABLISHED``, ``told up data 100``, ``dropped tcp_paws`` and so on.

Every byte of data has a value of its own, that of its number: both directions are checked.
"""

from __future__ import annotations

import errno
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drill_packets import FLAGS, Arrival, Expected, build_error, pattern, render_options

from ntmpatch.packet.stack import Claim, Stack
from ntmpatch.wire import ip, tcp
from ntmpatch.wire.segments import cut

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ntmpatch.packet.stack import TcpConnection

PORT, FAR_PORT = 80, 5000
FAR_ISN = 70_000
TOLERANCE = 0.002
HEADER = re.compile(r"^=== (?P<clause>.+?): (?P<title>.+)$")
ADDRESSES = {
    4: (bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))),
    6: (bytes((0xFD, *bytes(14), 1)), bytes((0xFD, *bytes(14), 2))),
}
MTU = {4: 1500, 6: 1520}
"""So that the MSS is 1460 with both."""


_OPEN = """\
listen
< S 0:0(0) win 65535 <{offered}>
> S. 0:0(0) ack 1
+0.1 < . 1:1(0) ack 1 win {window}{stamps}
told up
"""
MACROS = {
    "!established": _OPEN.format(offered="mss 1000", window=65535, stamps=""),
    "!sack": _OPEN.format(offered="mss 1000,sackOK", window=65535, stamps=""),
    "!scaled": _OPEN.format(offered="mss 1000,sackOK,wscale 10", window=1000, stamps=""),
    "!stamps": _OPEN.format(
        offered="mss 1012,sackOK,TS val 1000 ecr 0,wscale 10",
        window=1000,
        stamps=" <TS val 1100 ecr 0>",
    ),
}
"""Beginnings of many scripts: a connection whose segments carry 1,000 bytes, 0.1 s away."""


class ScriptError(AssertionError):
    """What happened is not what the script says, or the script says nothing sensible."""


@dataclass(frozen=True)
class Script:
    """One conversation."""

    clause: str
    title: str
    lines: tuple[tuple[int, str], ...]
    """With their numbers in the file."""

    def __str__(self) -> str:
        return f"{self.clause}: {self.title}"


def load(path: Path) -> list[Script]:
    """The scripts of a file."""
    scripts: list[Script] = []
    lines: list[tuple[int, str]] = []
    head: re.Match[str] | None = None
    for number, raw in enumerate([*path.read_text(encoding="ascii").splitlines(), "=== end: "], 1):
        line = raw.split("#", 1)[0].strip()
        if raw.startswith("=== "):
            if head is not None:
                scripts.append(Script(head["clause"], head["title"], tuple(lines)))
            lines = []
            head = HEADER.match(raw)
        elif line:
            lines.append((number, line))
    return scripts


@dataclass
class Sent:
    """A packet of ours."""

    at: float
    packet: memoryview
    ecn: int
    seg: tcp.Segment


class Program:
    """The handler of one connection."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.room = 1 << 40
        self.taken = 0

    def established(self) -> None:
        self.told.append("up")

    def deliver(self, views: Sequence[memoryview]) -> int:
        data = b"".join(views)[: self.room]
        if data != pattern(self.taken, len(data)):
            raise ScriptError("delivered something else than what was sent")
        self.taken += len(data)
        self.room -= len(data)
        if data:
            before = 0
            if self.told and self.told[-1].startswith("data "):
                before = int(self.told.pop()[5:])
            self.told.append(f"data {before + len(data)}")
        return len(data)

    def end_of_stream(self) -> None:
        self.told.append("end")

    def writable(self) -> None:
        pass

    def closed(self, error: int) -> None:
        self.told.append(errno.errorcode[error] if error else "closed")


class Drill:
    """A stack and a far end that follows a script."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.here, self.there = ADDRESSES[family]
        self.now = self._nominal = 100.0
        self.stack = Stack(
            rng=random.Random(1), now=self.now - 1e-5, mtu=MTU[family], secret=bytes(16)
        )
        self.stack.add_address(self.here)
        self._programs: dict[int, Program] = {}
        self._conns: dict[int, TcpConnection] = {}
        self._written: dict[int, int] = {}
        self._queue: list[Sent] = []
        self._history: list[Sent] = []
        self._iss: dict[int, int] = {}
        self._far_isn = FAR_ISN
        self._stamps: int | None = None
        self._drops: dict[str, int] = {}
        self._local_port = PORT
        self._scratch = memoryview(bytearray(1 << 18))

    def play(self, script: Script) -> None:
        """ScriptError, with the line, where it goes otherwise."""
        for number, line in script.lines:
            try:
                for each in MACROS.get(line, line).splitlines():
                    self._line(each)
            except Exception as error:
                what = f"{script}\nline {number}: {line}\n{type(error).__name__}: {error}"
                raise ScriptError(what) from error
        self._expect_silence()

    # --- time ----------------------------------------------------------------------------------

    def _line(self, line: str) -> None:
        if line.startswith("+"):
            step, line = line[1:].split(None, 1)
            self._nominal += float(step)
        if line.startswith("> "):
            self._expect(line[2:])
            return
        self._advance(self._nominal)
        self._expect_silence()
        if line.startswith("< "):
            self._arrive(line[2:])
        else:
            name, *words = line.split()
            port = FAR_PORT
            if words and words[0].startswith("@"):
                port = int(words.pop(0)[1:])
            getattr(self, f"_do_{name}")(port, *words)
        self._collect()

    def _advance(self, until: float) -> None:
        while (due_at := self.stack.poll_timeout()) is not None and due_at <= until:
            self.now = max(self.now, due_at)
            self.stack.handle_timeout(self.now)
            self._collect()
        self.now = max(self.now, until)

    def _collect(self) -> None:
        for conn in self.stack.tcp.connections:
            self._conns[conn.remote[1]] = conn
        while (segment := self.stack.poll_transmit(self.now)) is not None:
            for each in cut(segment, self._scratch, checksums=True):
                packet = memoryview(bytes(each))
                parsed = ip.parse_untrusted(packet)
                if parsed.protocol != ip.TCP:
                    continue  # a probe of the path
                ecn = (packet[1] if self.family == 4 else packet[1] >> 4) & 3
                seg = tcp.parse_untrusted(parsed.payload)
                if seg.flags & tcp.SYN:
                    self._iss[seg.destination_port] = seg.seq
                if self._stamps is None:
                    self._stamps = seg.options.timestamp
                self._queue.append(Sent(self.now, packet, ecn, seg))

    def _expect_silence(self) -> None:
        if self._queue:
            sent = self._queue[0]
            raise ScriptError(f"sent at +{sent.at - self._nominal:.4f}: {self._render(sent)}")

    # --- packets -------------------------------------------------------------------------------

    def _render(self, sent: Sent) -> str:
        seg = sent.seg
        iss = self._iss.get(seg.destination_port, 0)
        seq = (seg.seq - iss) & 0xFFFFFFFF
        flags = "".join(letter for letter, bit in FLAGS.items() if seg.flags & bit)
        ack = f" ack {(seg.ack - self._far_isn) & 0xFFFFFFFF}" if seg.flags & tcp.ACK else ""
        options = render_options(seg.options, self._stamps or 0, self._far_isn)
        return f"{flags} {seq}:{seq + seg.size}({seg.size}){ack} win {seg.window} <{options}>"

    def _expect(self, text: str) -> None:
        expected = Expected.read(text)
        self._advance(self._nominal)
        while not self._queue:
            due_at = self.stack.poll_timeout()
            if due_at is None or due_at > self._nominal + TOLERANCE:
                raise ScriptError("nothing was sent")
            self._advance(due_at)
        sent = self._queue.pop(0)
        self._history.append(sent)
        rendered = self._render(sent)
        if abs(sent.at - self._nominal) > TOLERANCE:
            raise ScriptError(f"sent at +{sent.at - self._nominal:.4f}: {rendered}")
        self._nominal = sent.at
        seg = sent.seg
        if seg.destination_port != (expected.port or FAR_PORT):
            raise ScriptError(f"sent to port {seg.destination_port}: {rendered}")
        if not expected.matches(rendered, sent.ecn):
            raise ScriptError(f"sent: {rendered} (ECN {sent.ecn})")
        offset = (seg.seq - self._iss.get(seg.destination_port, 0)) & 0xFFFFFFFF
        if seg.size and b"".join(seg.payload) != pattern(offset - 1, seg.size):
            raise ScriptError(f"other data than what was written: {rendered}")

    def _arrive(self, text: str) -> None:
        if text.startswith("icmp "):
            self._arrive_error(text[5:])
            return
        packets = [self._packet(Arrival.read(each)) for each in text.split(" & ")]
        self.stack.receive(packets, (self.there,), self.now)

    def _packet(self, arrival: Arrival) -> memoryview:
        port = arrival.port or FAR_PORT
        iss = self._iss.get(port, 0)
        segment = arrival.build(
            (port, self._local_port), isn=self._far_isn, iss=iss, stamps=self._stamps or 0
        )
        head = ip.build(self.there, self.here, ip.TCP, len(segment), ecn=arrival.ecn)
        return memoryview(head + segment)

    def _arrive_error(self, text: str) -> None:
        """``kind [first:end]``, or ``frag_needed 1200 [first:end]``: of what we sent there."""
        head, _, quoted = text.partition(" [")
        first = int(quoted.partition(":")[0])
        iss = self._iss[FAR_PORT]
        for sent in self._history:
            if (sent.seg.seq - iss) & 0xFFFFFFFF == first:
                break
        else:
            raise ScriptError("quotes what was never sent")
        packet = build_error(self.there, self.here, head.split(), sent.packet)
        self.stack.receive([memoryview(packet)], (self.there,), self.now, verify=True)

    # --- what the program does -----------------------------------------------------------------

    def _conn(self, port: int) -> TcpConnection:
        return self._conns[port]

    def _do_isn(self, _: int, value: str) -> None:
        """The far end begins here."""
        self._far_isn = int(value)

    def _do_offer_ecn(self, _: int) -> None:
        self.stack.tcp.offers_ecn = True

    def _do_listen(self, _: int, backlog: str = "8") -> None:
        def accept(conn: TcpConnection) -> Program:
            program = Program()
            self._programs[conn.remote[1]] = program
            self._conns[conn.remote[1]] = conn
            return program

        self._listener = self.stack.listen_tcp(
            Claim((self.family,), None, PORT), backlog=int(backlog), accept=accept
        )

    def _do_unlisten(self, _: int) -> None:
        self._listener.close()

    def _do_connect(self, port: int) -> None:
        program = self._programs[port] = Program()
        conn = self.stack.connect_tcp(self.there, port, program, self.now)
        self._conns[port] = conn
        self._local_port = conn.local[1]

    def _do_write(self, port: int, size: str) -> None:
        left = int(size)
        while left:
            space = self._conn(port).send_space()
            if not space:
                raise ScriptError(f"no room for {left} bytes")
            part = min(left, len(space))
            offset = self._written.get(port, 0)
            space[:part] = pattern(offset, part)
            self._written[port] = offset + part
            self._conn(port).commit(part, self.now)
            left -= part

    def _do_shutdown(self, port: int) -> None:
        self._conn(port).shutdown_write(self.now)

    def _do_close(self, port: int) -> None:
        self._conn(port).close(self.now)

    def _do_abort(self, port: int) -> None:
        self._conn(port).abort(self.now)

    def _do_nodelay(self, port: int, on: str) -> None:
        self._conn(port).set_nodelay(on=on == "on")

    def _do_cork(self, port: int, on: str) -> None:
        self._conn(port).set_cork(on=on == "on")

    def _do_keepalive(self, port: int, idle: str, interval: str, count: str) -> None:
        self._conn(port).set_keepalive((float(idle), float(interval), int(count)), self.now)

    def _do_user_timeout(self, port: int, seconds: str) -> None:
        self._conn(port).set_user_timeout(float(seconds), self.now)

    def _do_linger(self, port: int, seconds: str) -> None:
        self._conn(port).set_linger(float(seconds))

    def _do_refuse(self, port: int) -> None:
        """It takes no more data."""
        self._programs[port].room = 0

    def _do_take(self, port: int, size: str = "1099511627776") -> None:
        self._programs[port].room += int(size)
        self._conn(port).resume(self.now)

    def _do_path_changed(self, _: int) -> None:
        self.stack.path_changed(self.there, self.now)

    def _do_unreachable(self, _: int) -> None:
        self.stack.host_unreachable(self.there, self.now)

    # --- what has to be so ---------------------------------------------------------------------

    def _do_nothing(self, _: int) -> None:
        """Nothing was sent until here."""

    def _do_state(self, port: int, name: str) -> None:
        _equal(self._conn(port).state.name, name)

    def _do_gone(self, port: int) -> None:
        _equal([conn for conn in self.stack.tcp.connections if conn.remote[1] == port], [])

    def _do_told(self, port: int, *words: str) -> None:
        program = self._programs.get(port)
        told = [] if program is None else " ".join(program.told).split()
        _equal(told, [] if words == ("nothing",) else list(words))
        if program is not None:
            program.told.clear()

    def _do_dropped(self, _: int, *names: str) -> None:
        """By these names, each as often as it is given, since the last time."""
        counts = {drop.name.lower(): count for drop, count in self.stack.drops.items()}
        news = [
            name
            for name, count in sorted(counts.items())
            for _ in range(count - self._drops.get(name, 0))
        ]
        self._drops = counts
        _equal(news, [] if names == ("nothing",) else sorted(names))

    def _do_cwnd(self, port: int, segments: str) -> None:
        conn = self._conn(port)
        _equal(conn.congestion.cwnd // conn.mss, int(segments))

    def _do_ssthresh(self, port: int, segments: str) -> None:
        conn = self._conn(port)
        _equal(conn.congestion.ssthresh // conn.mss, int(segments))

    def _do_mss(self, port: int, size: str) -> None:
        _equal(self._conn(port).mss, int(size))

    def _do_srtt(self, port: int, seconds: str) -> None:
        _equal(round(self._conn(port).rtt.srtt or 0.0, 3), float(seconds))

    def _do_rto(self, port: int, seconds: str) -> None:
        _equal(round(self._conn(port).rtt.rto, 3), float(seconds))


def _equal(found: object, wanted: object) -> None:
    if found != wanted:
        raise ScriptError(f"found {found!r}, wanted {wanted!r}")
