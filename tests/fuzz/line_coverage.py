"""Which lines of some directories run: ``sys.settrace``, so that nothing has to be installed."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import CodeType, FrameType


def lines_run(call: Callable[[], None], files: Iterable[Path]) -> dict[Path, set[int]]:
    """The lines of ``files`` that run in ``call``; what it imports first is counted, too."""
    run: defaultdict[str, set[int]] = defaultdict(set)
    wanted = {str(path) for path in files}

    def begin(frame: FrameType, event: str, _: object) -> Any:
        name = frame.f_code.co_filename
        if event != "call" or name not in wanted:
            return None
        lines = run[name]

        def local(frame: FrameType, event: str, _: object) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return local

        return local

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        call()
    finally:
        sys.settrace(before)
    return {path: run[str(path)] for path in files}


def lines_of(path: Path) -> set[int]:
    """The lines of a file that can run."""
    found: set[int] = set()
    pending: list[CodeType] = [compile(path.read_text(), str(path), "exec")]
    while pending:
        code = pending.pop()
        pending += [each for each in code.co_consts if hasattr(each, "co_lines")]
        # The first instruction of any code is the interpreter's bookkeeping, on no line of its own.
        found |= {line for start, _, line in code.co_lines() if line and start}
    return found
