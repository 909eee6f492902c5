"""TCP against its RFCs: conversations written down packet by packet, grouped by clause."""

from __future__ import annotations

from pathlib import Path

import pytest
from drill import Drill, Script, ScriptError, load

FILES = sorted((Path(__file__).parent / "conformance").glob("*.pkt"))
SCRIPTS = [script for file in FILES for script in load(file)]
LEAST = 120


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_conversation(script: Script, family: int) -> None:
    Drill(family).play(script)


def test_that_there_are_enough_and_no_two_alike() -> None:
    names = [str(script) for script in SCRIPTS]
    assert len(set(names)) == len(names) >= LEAST


@pytest.mark.parametrize(
    "line",
    [
        "> S. 0:0(0) ack 2",  # another number
        "> S 0:0(0)",  # other flags
        "> S. 0:0(0) ack 1 <>",  # other options
        "+0.5 > S. 0:0(0) ack 1",  # another time
        "state SYN_RECEIVED",  # before what was sent was read
        "> nonsense",
    ],
)
def test_that_a_wrong_script_fails(line: str) -> None:
    lines = ("listen", "< S 0:0(0) win 65535 <mss 1000>", line)
    script = Script("none", "wrong", tuple(enumerate(lines, 1)))
    with pytest.raises(ScriptError):
        Drill(4).play(script)
