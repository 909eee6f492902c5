"""Thirty minutes of moves on both ends, while a gigabyte goes each way: nothing may break or grow.

    python benchmarks/mobility_soak.py                    30 minutes, 1 Gbyte each way
    python benchmarks/mobility_soak.py --minutes 2 --bytes 50000000 --seed 7
    python benchmarks/mobility_soak.py --moves hard nat   only these kinds of move
    python benchmarks/mobility_soak.py --write            and write docs/soak.md

Networks as of the handover benchmark, with a round trip of 51 ms; every server and both nodes are
processes of their own. Each end moves every 5 to 15 s, and the relay is killed now and then. It
fails (exit status 1) if a connection ends, a hash differs, or the memory of a node or of a server
that was not restarted is not flat (``soak_lab/watch.py`` says what that is).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from handover_lab.world import World
from lab import Lab, LabError, unavailable
from soak_lab.moves import KINDS, Mischief, Mobile
from soak_lab.servers import ROLES, Servers
from soak_lab.watch import MIB, Memory, Pauses, Reports, open_descriptors, tables_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab import Process

TRAFFIC = str(Path(__file__).parent / "soak_lab" / "traffic.py")
DOCUMENT = Path(__file__).parents[1] / "docs" / "soak.md"
STREAM_PORT, DATAGRAM_PORT = 7001, 7002
SAMPLE_INTERVAL = 5.0
ROW_INTERVAL = 60.0
CALM = 15.0
"""Seconds without moves at the end, in which what is late arrives."""
END_TIMEOUT = 120.0
"""Seconds that a transfer may be late."""
ENDS = ("mn", "cn")


class Soak:
    """One run; it is over when the transfers are."""

    def __init__(self, lab: Lab, options: argparse.Namespace) -> None:
        self.options = options
        self.problems: list[str] = []
        self.rows: list[list[str]] = []
        self.world = world = World(lab, mn=(1, 2, 5), cn=(3, 4, 6))
        self.servers = Servers(world.servers, world.directory)
        self.ends = {
            "mn": Mobile(world, world.mn, world.mn_places),
            "cn": Mobile(world, world.cn, world.cn_places),
        }
        self.nodes = {name: self.servers.node(end.host, name) for name, end in self.ends.items()}
        self.keepers: dict[str, Process] = {name: node.up() for name, node in self.nodes.items()}
        for keeper in self.keepers.values():
            keeper.wait_for("up: ", 60.0)
        self.memory = {name: Memory() for name in (*ENDS, *ROLES)}
        self.takers: dict[str, Reports] = {}
        self.givers: dict[str, Process] = {}
        self.datagrams: dict[str, Process] = {}
        self.findings: list[str] = []
        """What is told at the end, a line each."""
        self.mischief: Mischief

    def run(self) -> None:
        """Traffic both ways, and moves until shortly before its end."""
        seconds = 60.0 * self.options.minutes
        self._start_traffic(seconds)
        self.pauses = Pauses(self.takers)
        begun_at = now = time.monotonic()
        rng = random.Random(self.options.seed)
        mischief = self.mischief = Mischief(
            self.world, self.ends, self.servers, self.options.moves, rng, begun_at
        )
        sample_at, row_at = now, now + ROW_INTERVAL
        print("\n" + "  ".join(HEADING), flush=True)
        while now < begun_at + seconds:
            if now >= mischief.due_at and now < begun_at + seconds - CALM:
                self.pauses.caused_by(())
                what = mischief.happen(now)
                self.pauses.caused_by(mischief.causes)
                if self.options.verbose:
                    print(f"{now - begun_at:7.1f} s  {what}", flush=True)
            if now >= sample_at:
                sample_at += SAMPLE_INTERVAL
                self._sample()
                self.pauses.look()
                if self._is_broken():
                    break
            if now >= row_at:
                row_at += ROW_INTERVAL
                self._row(now - begun_at)
            time.sleep(0.1)
            now = time.monotonic()
        self.pauses.caused_by(())
        self._finish()
        self._row(time.monotonic() - begun_at)
        self._judge()

    def _start_traffic(self, seconds: float) -> None:
        for name, node in self.nodes.items():
            taker = node.popen(TRAFFIC, "take", str(STREAM_PORT), str(DATAGRAM_PORT))
            self.takers[name] = Reports(taker)
        for reports in self.takers.values():
            reports.process.wait_for("size", 60.0)
        for number, (name, node) in enumerate(self.nodes.items()):
            other = self.nodes[ENDS[1 - number]].fqdn
            length, seed = str(seconds - CALM), str(2 * self.options.seed + number)
            self.givers[name] = node.popen(
                *(TRAFFIC, "give", other, str(STREAM_PORT), str(self.options.bytes), length, seed)
            )
            self.datagrams[name] = node.popen(
                TRAFFIC, "datagrams", other, str(DATAGRAM_PORT), length
            )
        for giver in self.givers.values():
            giver.wait_for("giving", 60.0)

    def _processes(self) -> Iterator[tuple[str, Process]]:
        yield from self.keepers.items()
        yield from self.servers.processes.items()

    def _sample(self) -> None:
        for name, process in self._processes():
            self.memory[name].sample(process)

    def _is_broken(self) -> bool:
        """Whether something ended that must not."""
        running = {f"node {name}": each for name, each in self.keepers.items()}
        running |= {f"server {name}": each for name, each in self.servers.processes.items()}
        running |= {f"receiver at {name}": each.process for name, each in self.takers.items()}
        ended = {name: each for name, each in running.items() if each.returncode is not None}
        ended |= {
            f"transfer from {name}": each for name, each in self.givers.items() if each.returncode
        }
        self.problems += [
            f"{name} has ended with {each.returncode}: {each.stderr[-1000:]}"
            for name, each in ended.items()
        ]
        return bool(ended)

    def _row(self, elapsed: float) -> None:
        pauses = self.pauses.of_minute()
        tables = {name: tables_of(node) for name, node in self.nodes.items()}
        row = [f"{elapsed / 60:6.1f}", f"{self.mischief.moves:5d}"]
        row += [f"{self.takers[name].latest['size'] / 1e6:8.1f}" for name in ENDS]
        for kind in ("stream_pause", "datagram_pause"):
            row += [f"{pauses[name][kind]:6.2f}" for name in ENDS]
        row += [f"{self.memory[name].last / MIB:5.1f}" for name in (*ENDS, *ROLES)]
        row += [f"{open_descriptors(process):4d}" for _, process in self._processes()]
        row += [
            "/".join(str(tables[name].get(key, "-")) for name in ENDS)
            for key in ("sockets", "connections", "paths", "relayed")
        ]
        self.rows.append(row)
        widths = [max(len(title), len(cell)) for title, cell in zip(HEADING, row, strict=True)]
        print("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)), flush=True)

    def _finish(self) -> None:
        """Wait for the senders; what they say is compared with what the receivers say."""
        for number, name in enumerate(ENDS):
            other = ENDS[1 - number]
            if self.problems:
                return
            try:
                told = json.loads(self.givers[name].check(END_TIMEOUT).splitlines()[-1])
                sent = json.loads(self.datagrams[name].check(END_TIMEOUT).splitlines()[-1])
            except LabError:
                errors = self.givers[name].stderr[-1000:] + self.datagrams[name].stderr[-1000:]
                self.problems.append(
                    f"{name} -> {other}: not ended {END_TIMEOUT:g} s after the last move; {errors}"
                )
                continue
            time.sleep(2.0)  # the receiver's next report
            reports = self.takers[other]
            reports.news()
            lost = sent["datagrams"] - reports.latest["datagrams"]
            came = reports.latest
            self._find(
                f"{name} to {other}: {told['size']} bytes sent, {came['size']} received, sha256"
                f" {told['sha256'][:16]}… and {came['sha256'][:16]}…; {lost} of"
                f" {sent['datagrams']} datagrams lost, {sent['refused']} refused,"
                f" {came['repeated']} came twice"
            )
            if not told["sha256"] == told["answer"] == reports.latest["sha256"]:
                self.problems.append(f"{name} -> {other}: what came is not what was sent")
            if reports.latest["size"] != self.options.bytes:
                self.problems.append(f"{name} -> {other}: {reports.latest['size']} bytes came")

    def _find(self, line: str) -> None:
        self.findings.append(line)
        print(line, flush=True)

    def _judge(self) -> None:
        for cause, pauses in sorted(self.pauses.by_cause.items()):
            middle, worst = statistics.median(pauses), max(pauses)
            self._find(
                f"longest pause after {cause}: median {middle:.2f} s, worst {worst:.2f} s"
                f" ({len(pauses)} times)"
            )
        for name, memory in self.memory.items():
            if not memory.samples or (name == "rs" and self.mischief.relay_deaths):
                continue
            first, last = memory.thirds
            verdict = {True: "flat", False: "NOT FLAT", None: "too short to judge"}[memory.is_flat]
            self._find(f"memory of {name}: {first / MIB:.1f}, then {last / MIB:.1f} MiB: {verdict}")
            if memory.is_flat is False:
                self.problems.append(f"memory of {name} has grown")


HEADING = [
    *("minute", "moves", "MB at mn", "MB at cn"),
    *("TCP mn", "TCP cn", "UDP mn", "UDP cn"),
    *(f"{name:>5}" for name in (*ENDS, *ROLES)),
    *(f"fd{name:>2}" for name in (*ENDS, *ROLES)),
    *("sockets", "connections", "paths", "relayed"),
]
"""Pauses are the longest of the minute in seconds, at the receiver; memory is in MiB."""


def summary(soak: Soak) -> str:
    """What happened, in words."""
    kinds = sum((end.moves for end in soak.ends.values()), start=type(soak.ends["mn"].moves)())
    longest = {
        kind: max(reports.longest[kind] for reports in soak.takers.values())
        for kind in ("stream_pause", "datagram_pause")
    }
    moves = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return (
        f"{soak.mischief.moves} moves ({moves}), {soak.mischief.relay_deaths} deaths of the relay. "
        f"Longest pause: {longest['stream_pause']:.2f} s of the transfers, "
        f"{longest['datagram_pause']:.2f} s of the datagrams."
    )


def write_document(soak: Soak, text: str) -> None:
    """docs/soak.md, anew."""
    table = [f"| {' | '.join(title.strip() for title in HEADING)} |", "|---:" * len(HEADING) + "|"]
    table += [f"| {' | '.join(cell.strip() for cell in row)} |" for row in soak.rows]
    options = soak.options
    introduction = (
        "# Half an hour of moves\n"
        f"Written by `python benchmarks/mobility_soak.py --minutes {options.minutes:g} "
        f"--bytes {options.bytes} --seed {options.seed} --write`.\n\n"
        "Both ends move every 5 to 15 s, while one transfer goes each way and a datagram each 20 ms"
        "; the round trip is 51 ms. Pauses are the longest of each minute in seconds, at the"
        " receiver; memory (as, dc, …) is in MiB, fd are open descriptors, and the last columns are"
        " sizes of tables of the two nodes, and whether their way was a relay.\n\n"
    )
    kinds = "".join(f"- {kind}: {KINDS[kind]}\n" for kind in options.moves)
    problems = "".join(f"- PROBLEM: {problem}\n" for problem in soak.problems)
    findings = "".join(f"- {finding}\n" for finding in soak.findings) + problems
    parts = introduction + kinds, text, findings, "\n".join(table)
    DOCUMENT.write_text("\n\n".join(part.rstrip() for part in parts) + "\n")


def main() -> None:
    """Run, tell, and exit with 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="in each direction")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--moves", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--verbose", action="store_true", help="tell each move")
    parser.add_argument("--write", action="store_true", help="the table into docs/soak.md")
    options = parser.parse_args()
    if reason := unavailable():
        sys.exit(reason)
    with Lab() as lab:
        soak = Soak(lab, options)
        try:
            soak.run()
        except KeyboardInterrupt:
            soak.problems.append("interrupted")
        text = summary(soak)
        print(f"\n{text}")
        for problem in soak.problems:
            print(f"PROBLEM: {problem}", file=sys.stderr)
        if options.write:
            write_document(soak, text)
    sys.exit(1 if soak.problems else 0)


if __name__ == "__main__":
    main()
