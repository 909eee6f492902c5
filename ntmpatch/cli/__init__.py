"""The command line: ``ntmpatch`` and ``python -m ntmpatch``."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the command line on ``sys.argv`` and exit with its status."""
    import sys  # noqa: PLC0415 (this package is imported for its name alone; see run's budget)

    from ntmpatch.cli.main import run_command  # noqa: PLC0415 (click is only for commands)

    sys.exit(run_command(sys.argv[1:]))
