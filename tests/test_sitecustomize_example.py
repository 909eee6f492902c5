"""The example does what its README says: patch where asked to, and nothing otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "sitecustomize_example"
PROGRAM = """
import socket, sys
print(any(base.__module__.startswith("ntmpatch.") for base in socket.socket.__mro__))
print("gevent" in sys.modules, "cryptography" in sys.modules)
"""


@pytest.mark.parametrize(
    ("variables", "patched"),
    [
        pytest.param({}, False, id="not-asked"),
        pytest.param({"NTMPATCH_STATE": "{directory}"}, True, id="state"),
        pytest.param({"NTMPATCH_TOKEN": "file:{directory}/token"}, True, id="token"),
    ],
)
def test_a_program_is_patched_if_its_surroundings_ask_for_it(
    tmp_path: Path, variables: dict[str, str], patched: bool
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NTMPATCH_")}
    environment |= {name: value.format(directory=tmp_path) for name, value in variables.items()}
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, "PYTHONPATH": str(EXAMPLE), "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert output.split("\n") == [str(patched), "False False", ""]
