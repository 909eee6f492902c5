"""Load on the four servers, as real processes on loopback: what one core does of each.

    python benchmarks/servers.py                    everything: some five minutes
    python benchmarks/servers.py --only dns tunnels
    python benchmarks/servers.py --write            and put the tables into docs/capacity.md
    python benchmarks/servers.py --model FILE       only the model, from figures kept by --json

Light nodes speak the real protocol over real sockets, many in each of a few driver processes.
Wall-clock rates are this machine's, which drivers and servers share; the costs of a core, from the
kernel's account of each process, are what the cost model builds on.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from load.crowd import crowd
from load.document import write_document
from load.driver import Drivers
from load.field import Field
from load.figures import Figure, table
from load.model import model_text
from load.parts import NODES, PARTS
from load.servers import Servers

HELD = 10_000
CROWD = 100_000


def measure(options: argparse.Namespace) -> list[Figure]:
    """Play the chosen parts."""
    chosen = options.only or [*PARTS, "crowd"]
    figures: list[Figure] = []
    drivers = Drivers(options.drivers, options.seed)
    try:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ntm-load-")))
            servers = stack.enter_context(Servers(directory, database=options.database))
            field = Field(servers, drivers, seconds=options.seconds, runs=options.runs)
            for name, part in PARTS.items():
                if name not in chosen:
                    continue
                begun = time.monotonic()
                if name == "connections":
                    rows = part(field, options.nodes, held=options.held)  # type: ignore[call-arg]
                else:
                    rows = part(field, options.nodes)
                figures += rows
                _tell(name, rows, begun)
        if "crowd" in chosen:
            begun = time.monotonic()
            rows = crowd(
                drivers,
                count=options.crowd,
                seconds=options.seconds,
                runs=options.runs,
                database=options.database,
            )
            figures += rows
            _tell("crowd", rows, begun)
    finally:
        drivers.close()
    return figures


def _tell(name: str, figures: list[Figure], begun: float) -> None:
    print(f"{name} ({time.monotonic() - begun:.0f} s)\n{table(figures)}\n", flush=True)


def main() -> None:
    """Measure, and print or keep the figures."""
    # So that the servers end as well when this is told to.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "crowd"], metavar="PART")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=NODES, help="registered meanwhile")
    parser.add_argument("--held", type=int, default=HELD, help="connections of the NS")
    parser.add_argument("--crowd", type=int, default=CROWD, help="nodes of the large DC")
    parser.add_argument("--drivers", type=int, default=2, help="processes that make the load")
    parser.add_argument("--database", default="", help="SQLAlchemy URL; SQLite if none is given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    parser.add_argument("--write", action="store_true", help="tables into docs/capacity.md")
    parser.add_argument("--model", type=Path, metavar="FILE", help="no load: figures of that file")
    options = parser.parse_args()
    if options.model is not None:
        figures = [Figure(**each) for each in json.loads(options.model.read_text())]
        print(table(figures), end="\n\n")
    else:
        figures = measure(options)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    text = model_text(figures)
    if text:
        print(text)
    if options.write:
        if not text:
            sys.exit("only a complete run is written into the document")
        write_document({"figures": table(figures), "model": text})


if __name__ == "__main__":
    main()
