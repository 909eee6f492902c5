"""One connection brought into any state, and one input given to it: what comes of that.

The far end is written by hand, so that every number can be chosen.
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ntmpatch.packet.stack import Claim, Stack
from ntmpatch.packet.stack.tcp.states import State
from ntmpatch.wire import ip, tcp
from ntmpatch.wire.segments import cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.packet.stack import TcpConnection

HERE, THERE = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
PORT, FAR_PORT = 80, 5000
FAR_ISN = 70_000
WINDOW = 65_535


@dataclass(frozen=True)
class Outcome:
    """What came of an input."""

    state: str
    reply: str
    """What was sent at once: flags of the first segment, ``-`` for none."""
    told: str
    """What the program was told: an errno's name, ``end``, ``data``, ``up``, or ``-``."""


class Machine:
    """A stack with one connection, and its far end."""

    def __init__(self) -> None:
        self.now = 100.0
        self.stack = Stack(rng=random.Random(1), now=self.now, secret=bytes(16))
        self.stack.add_address(HERE)
        self.conn: TcpConnection | None = None
        self.told: list[str] = []
        self.far_nxt = FAR_ISN
        self._sent: list[tcp.Segment] = []
        self.local_port = PORT
        self._scratch = memoryview(bytearray(1 << 18))

    # --- the program -------------------------------------------------------------------------

    def established(self) -> None:
        self.told.append("up")

    def deliver(self, views: Sequence[memoryview]) -> int:
        self.told.append("data")
        return sum(map(len, views))

    def end_of_stream(self) -> None:
        self.told.append("end")

    def writable(self) -> None:
        pass

    def closed(self, error: int) -> None:
        self.told.append(errno.errorcode[error] if error else "closed")

    # --- the far end -------------------------------------------------------------------------

    def receive(
        self, flags: int, seq: int, ack: int = 0, data: bytes = b"", *, options: bytes = b""
    ) -> None:
        """A segment arrives; numbers are absolute."""
        header = tcp.build(
            FAR_PORT,
            self.local_port,
            seq=seq & 0xFFFFFFFF,
            ack=ack & 0xFFFFFFFF,
            flags=flags,
            window=WINDOW,
            options=options,
        )
        packet = ip.build(THERE, HERE, ip.TCP, len(header) + len(data)) + header + data
        self.stack.receive([memoryview(packet)], (THERE,), self.now)

    def sent(self) -> list[tcp.Segment]:
        """What the stack sends now."""
        found: list[tcp.Segment] = []
        while (segment := self.stack.poll_transmit(self.now)) is not None:
            for packet in cut(segment, self._scratch, checksums=False):
                parsed = ip.parse_untrusted(memoryview(bytes(packet)))
                if parsed.protocol == ip.TCP:  # and not a probe of the path
                    found.append(tcp.parse_untrusted(parsed.payload))
        return found

    @property
    def snd_nxt(self) -> int:
        """Of the connection; where there is none, something plausible."""
        return self.conn.snd_nxt if self.conn is not None else 1_000_000

    @property
    def snd_una(self) -> int:
        return self.conn.snd_una if self.conn is not None else 1_000_000

    # --- into a state ------------------------------------------------------------------------

    def listen(self) -> None:
        def accept(conn: TcpConnection) -> Machine:
            self.conn = conn
            return self

        self.stack.listen_tcp(Claim((4,), None, PORT), backlog=8, accept=accept)

    def enter(self, state: str) -> None:
        """Bring about ``state`` as a conversation would."""
        if state == "CLOSED":
            return
        if state == "SYN_SENT":
            self.conn = self.stack.connect_tcp(THERE, FAR_PORT, self, self.now)
            self.local_port = self.conn.local[1]
            self.sent()
            return
        self.listen()
        if state == "LISTEN":
            return
        self.receive(tcp.SYN, FAR_ISN)
        self.far_nxt = FAR_ISN + 1
        (self.conn,) = self.stack.tcp.connections
        self.sent()
        if state == "SYN_RECEIVED":
            return
        self.receive(tcp.ACK, self.far_nxt, self.snd_nxt)
        conn = self.conn
        if state in {"CLOSE_WAIT", "LAST_ACK"}:
            self._far_fin()
        if state in {"FIN_WAIT_1", "FIN_WAIT_2", "CLOSING", "LAST_ACK", "TIME_WAIT"}:
            conn.shutdown_write(self.now)
            self.sent()
        if state in {"FIN_WAIT_2", "TIME_WAIT"}:
            self.receive(tcp.ACK, self.far_nxt, self.snd_nxt)
        if state == "TIME_WAIT":
            self._far_fin()
        if state == "CLOSING":
            self._far_fin(ack=self.snd_nxt - 1)
        self.sent()
        assert conn.state is State[state], conn.state
        self.told.clear()

    def _far_fin(self, ack: int | None = None) -> None:
        self.receive(tcp.FIN | tcp.ACK, self.far_nxt, self.snd_nxt if ack is None else ack)
        self.far_nxt += 1

    # --- an input ----------------------------------------------------------------------------

    def give(self, name: str) -> None:
        """One input, by its name in ``INPUTS``."""
        nxt, ack = self.far_nxt, self.snd_nxt
        everything = tcp.ACK
        match name:
            case "SYN":
                self.receive(tcp.SYN, nxt + 10)
            case "SYN+ACK":
                self.receive(tcp.SYN | tcp.ACK, nxt, ack)
            case "ACK":
                self.receive(everything, nxt, ack)
            case "ACK of unsent":
                self.receive(everything, nxt, ack + 1000)
            case "old ACK":
                self.receive(everything, nxt, self.snd_una - 1)
            case "RST exact":
                self.receive(tcp.RST | tcp.ACK, nxt, ack)
            case "RST in window":
                self.receive(tcp.RST, nxt + 10)
            case "RST outside":
                self.receive(tcp.RST, nxt - 100_000)
            case "data":
                self.receive(everything | tcp.PSH, nxt, ack, bytes(100))
            case "data outside":
                self.receive(everything | tcp.PSH, nxt - 1000, ack, bytes(100))
            case "data without ACK":
                self.receive(tcp.PSH, nxt, 0, bytes(100))
            case "FIN":
                self.receive(tcp.FIN | tcp.ACK, nxt, ack)
            case "shutdown" if self.conn is not None:
                self.conn.shutdown_write(self.now)
            case "close" if self.conn is not None:
                self.conn.close(self.now)
            case "abort" if self.conn is not None:
                self.conn.abort(self.now)
            case "close, linger 0" if self.conn is not None:
                self.conn.set_linger(0)
                self.conn.close(self.now)
            case "time" if self.conn is not None:
                self._let_time_pass()
            case "keep-alive" if self.conn is not None:
                self.conn.set_keepalive((1.0, 1.0, 1), self.now)
                self._wait(5.0)
            case "user timeout" if self.conn is not None:
                self.conn.set_user_timeout(3.0, self.now)
                if self.conn.send_space():
                    self.conn.commit(100, self.now)
                self._wait(5.0)
            case "unreachable":
                self.stack.host_unreachable(THERE, self.now)
            case "path changed":
                self.stack.path_changed(THERE, self.now)

    def _let_time_pass(self) -> None:
        """Until the next timer has run; at most the two minutes of everything that is ours."""
        due_at = self.stack.poll_timeout()
        if due_at is not None:
            self.now = due_at
            self.stack.handle_timeout(self.now)

    def _wait(self, seconds: float) -> None:
        """Nobody answers."""
        end = self.now + seconds
        self._sent += self.sent()
        while (due_at := self.stack.poll_timeout()) is not None and due_at <= end:
            self.now = due_at
            self.stack.handle_timeout(self.now)
            self._sent += self.sent()
        self.now = end

    def outcome(self) -> Outcome:
        """After an input."""
        sent = [*self._sent, *self.sent()]
        conn = self.conn
        if conn is None:
            connections = self.stack.tcp.connections
            conn = connections[0] if connections else None
        without = "LISTEN" if conn is None and self._listens() else "CLOSED"
        state = without if conn is None else conn.state.name
        reply = _flags(sent[0]) if sent else "-"
        return Outcome(state, reply, "+".join(self.told) or "-")

    def _listens(self) -> bool:
        before = len(self.stack.tcp.connections)
        self.receive(tcp.SYN, 1, 0)
        self.sent()
        return len(self.stack.tcp.connections) > before


def _flags(seg: tcp.Segment) -> str:
    names = {tcp.SYN: "SYN", tcp.FIN: "FIN", tcp.RST: "RST", tcp.ACK: "ACK"}
    return "+".join(name for bit, name in names.items() if seg.flags & bit) + (
        "+data" if seg.size else ""
    )


STATES = (
    "CLOSED",
    "LISTEN",
    "SYN_SENT",
    "SYN_RECEIVED",
    "ESTABLISHED",
    "FIN_WAIT_1",
    "FIN_WAIT_2",
    "CLOSE_WAIT",
    "CLOSING",
    "LAST_ACK",
    "TIME_WAIT",
)

INPUTS = (
    "SYN",
    "SYN+ACK",
    "ACK",
    "ACK of unsent",
    "old ACK",
    "RST exact",
    "RST in window",
    "RST outside",
    "data",
    "data outside",
    "data without ACK",
    "FIN",
    "shutdown",
    "close",
    "close, linger 0",
    "abort",
    "time",
    "keep-alive",
    "user timeout",
    "unreachable",
    "path changed",
)


def play(state: str, given: str) -> Outcome:
    """What comes of ``given`` in ``state``."""
    machine = Machine()
    machine.enter(state)
    machine.give(given)
    return machine.outcome()


def document() -> str:
    """The whole table, as Markdown, from what the code does."""
    lines = [
        "# What TCP does",
        "",
        "Every input in every state, played on the stack and written down by",
        "`python tests/support/state_machine.py`; `tests/packet/stack/test_tcp_table.py` holds it",
        "against RFC 9293 (section 3.10) and RFC 5961. A cell is the next state (empty: the same),",
        "what is sent at once, and what the program is told in parentheses.",
        "",
        "| input | " + " | ".join(state.replace("_", "-") for state in STATES) + " |",
        "|---" * (len(STATES) + 1) + "|",
    ]
    for given in INPUTS:
        cells = [_cell(state, play(state, given)) for state in STATES]
        lines.append(f"| {given} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(state: str, outcome: Outcome) -> str:
    parts = []
    if outcome.state != state:
        parts.append(f"**{outcome.state.replace('_', '-')}**")
    if outcome.reply != "-":
        parts.append(f"`{outcome.reply}`")
    if outcome.told != "-":
        parts.append(f"({outcome.told})")
    return " ".join(parts)


if __name__ == "__main__":
    print(document(), end="")
