"""Our end of a conversation with the kernel, over a stack: as ``linux_peer.py`` has the other."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING, Any

from tun_emulator import packed

from ntmpatch.packet.stack import Claim
from ntmpatch.packet.stack.tcp.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tun_emulator import Emulator

    from ntmpatch.packet.stack import Stack, TcpConnection

_BLOCK = os.urandom((1 << 20) + 17)


class Talker:
    """One connection, played by a plan; see ``linux_peer.converse``."""

    def __init__(self, emulator: Emulator, plan: dict[str, Any]) -> None:
        self.emulator = emulator
        self.plan = plan
        self.conn: TcpConnection | None = None
        self.left = plan.get("send", 0)
        self.received = 0
        self.reads = not plan.get("pause")
        self.may_send = not plan.get("answers")
        self.ended = False
        self.done = False
        self.error: int | None = None
        self.began_at = time.monotonic()
        self.elapsed = 0.0
        self.trace: list[list[float]] = []
        self._first_at = self._last_at = 0.0
        self._position = 0
        self._sent_sha = hashlib.sha256()
        self._received_sha = hashlib.sha256()

    def established(self) -> None:
        self.began_at = time.monotonic()
        if not self.reads:
            self.emulator.later(self.plan["pause"], self._read_on)
        if self.plan.get("until") is not None:
            self.left = 1 << 60
            self.emulator.later(self.plan["until"], self._stop)
        self.emulator.later(0.0, self._push)

    def _read_on(self) -> None:
        self.reads = True
        if self.conn is not None:
            self.conn.resume(time.monotonic())

    def _stop(self) -> None:
        if self.conn is not None and not self.done:
            self.conn.abort(time.monotonic())

    def deliver(self, views: Sequence[memoryview]) -> int:
        if not self.reads:
            return 0
        self._last_at = time.monotonic()
        self._first_at = self._first_at or self._last_at
        size = 0
        for view in views:
            self._received_sha.update(view)
            size += len(view)
        self.received += size
        return size

    @property
    def is_over(self) -> bool:
        """Both streams have ended, or the connection has; TIME-WAIT is not waited for."""
        conn = self.conn
        return self.done or (conn is not None and conn.state is State.TIME_WAIT)

    def end_of_stream(self) -> None:
        self.may_send = True
        self.elapsed = time.monotonic() - self.began_at
        self.emulator.later(0.0, self._push)

    def writable(self) -> None:
        self.emulator.later(0.0, self._push)

    def _push(self) -> None:
        conn = self.conn
        if conn is None or self.done or not self.may_send or self.ended:
            return
        now = time.monotonic()
        while self.left and (space := conn.send_space()):
            size = min(len(space), self.left, len(_BLOCK) - self._position)
            piece = memoryview(_BLOCK)[self._position : self._position + size]
            space[:size] = piece
            self._sent_sha.update(piece)
            self._position = (self._position + size) % len(_BLOCK)
            self.left -= size
            conn.commit(size, now)
        if not self.left:
            self.ended = True
            if self.plan.get("reset"):
                conn.set_linger(0)
                self.emulator.later(1.0, lambda: conn.close(time.monotonic()))
            else:
                conn.shutdown_write(now)

    def closed(self, error: int) -> None:
        self.done = True
        self.error = error or None
        self.elapsed = self.elapsed or time.monotonic() - self.began_at

    def sample(self) -> None:
        """Keep how it stands, for diagnosis."""
        conn = self.conn
        if conn is not None and not self.done:
            self.trace.append(
                [
                    round(time.monotonic() - self.began_at, 2),
                    conn.congestion.cwnd,
                    conn.flight,
                    round((conn.rtt.srtt or 0) * 1000, 1),
                    conn.retransmissions,
                    conn.timeouts,
                ]
            )
            self.emulator.later(0.5, self.sample)

    def report(self) -> dict[str, Any]:
        """What can be compared with the kernel's report."""
        conn = self.conn
        report: dict[str, Any] = {
            "error": self.error,
            "received": self.received,
            "received_sha": self._received_sha.hexdigest(),
            "sent_sha": self._sent_sha.hexdigest(),
            "elapsed": self.elapsed,
            "span": self._last_at - self._first_at,
        }
        if conn is not None:
            report["acked"] = conn.bytes_acked
            report["retransmissions"] = conn.retransmissions
            report["timeouts"] = conn.timeouts
        if self.plan.get("trace"):
            report["trace"] = self.trace
        return report


def talk(emulator: Emulator, stack: Stack, plan: dict[str, Any]) -> list[Talker]:
    """Begin what a plan says, ``count`` connections, ``parallel`` at once."""
    talkers: list[Talker] = []

    if plan.get("listen"):

        def accept(conn: TcpConnection) -> Talker:
            talker = Talker(emulator, plan)
            talker.conn = conn
            talkers.append(talker)
            if plan.get("trace"):
                talker.sample()
            return talker

        for family in (4, 6):
            stack.listen_tcp(Claim((family,), None, plan["port"]), backlog=128, accept=accept)
        return talkers

    def start() -> None:
        active = sum(not talker.is_over for talker in talkers)
        while active < plan.get("parallel", 1) and len(talkers) < plan.get("count", 1):
            talker = Talker(emulator, plan)
            talkers.append(talker)
            active += 1
            talker.conn = stack.connect_tcp(
                packed(plan["address"]), plan["port"], talker, time.monotonic()
            )
            if plan.get("trace"):
                talker.sample()
        if len(talkers) < plan.get("count", 1):
            emulator.later(0.002, start)

    emulator.later(plan.get("after", 0.0), start)
    return talkers
