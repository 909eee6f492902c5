"""``ntmpatch demo``."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ntmpatch.base.errors import NtmpatchError
from ntmpatch.cli.console import Console, print_json
from ntmpatch.cli.exits import EX_CANTCREAT, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from ntmpatch.cli.demo.play import Result

_MAX_DIRECTORY_LENGTH: Final = 74
"""An AF_UNIX path has 107 bytes at most, and the longest below the directory is a node's
``/server.demo.example/control.sock``."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end.")
def demo(as_json: bool) -> None:
    """Show the whole system on this machine, without root, in some seconds.

    Four servers and two nodes on loopback addresses: an unmodified web server, an unmodified
    download by name, and a change of address in the middle of it. What is printed as "Fig. 3" and
    "Fig. 5" are the steps of the paper's figures as the processes' messages make them.
    """
    from ntmpatch.cli.demo.play import Demo  # noqa: PLC0415 (--help needs none of it)

    console = Console(silent=as_json)
    started_at = time.monotonic()
    try:
        with (
            _ended_by_signals(),
            tempfile.TemporaryDirectory(prefix="ntmpatch-demo-") as directory,
        ):
            if len(directory) > _MAX_DIRECTORY_LENGTH:
                raise CommandError(
                    f"{directory}: too long for sockets in it: let TMPDIR name another place",
                    EX_CANTCREAT,
                )
            result = Demo(Path(directory), console).play()
    except NtmpatchError as error:
        if as_json:
            print_json({"ok": False, "error": str(error)})
        raise
    if as_json:
        print_json({"ok": True, "total_seconds": time.monotonic() - started_at, **asdict(result)})
    else:
        _tell(console, result, time.monotonic() - started_at)


def _tell(console: Console, result: Result, total_time: float) -> None:
    megabytes = result.received_size / 1e6
    console.say(
        f"OK: {megabytes:.0f} MB in {result.seconds:.2f} s ({result.throughput / 1e6:.0f} MB/s), "
        f"SHA-256 equal ({result.sha256[:16]}…)",
        style="bold green",
    )
    console.say(
        f"Moved {result.moved_from} → {result.moved_to} after {result.moved_at_size / 1e6:.0f} MB; "
        f"longest gap while receiving: {result.longest_gap * 1000:.0f} ms"
    )
    console.say(f"All of it in {total_time:.1f} s")


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does: by an exception, so all is cleaned up."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (a handler's form)
        # Once: a second one must not break into the cleaning up.
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    handlers = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
