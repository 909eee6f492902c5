"""The law of imports between the rooms (ARCHITECTURE.md): it holds, and breaking it is noticed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LARGEST_FILE = 600
"""Lines. One idea a file is the rule, and usually 100 to 400 lines; beyond this it is two ideas."""


def lint_imports(tree: Path) -> tuple[bool, str]:
    """Whether the package in a directory keeps the law that its pyproject.toml states."""
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as main; main()",
            *("--config", tree / "pyproject.toml", "--no-cache"),
        ],
        cwd=tree,  # import-linter looks for the package in the working directory first
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "ntmpatch", tmp_path / "ntmpatch", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def test_rooms_import_downwards_only() -> None:
    kept, output = lint_imports(ROOT)
    assert kept, output


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        pytest.param("base/late.py", "ntmpatch.cli", id="upwards"),
        pytest.param("packet/late.py", "ntmpatch.signalling", id="sideways"),
        pytest.param("packet/stack/late.py", "ntmpatch.packet.tunnel", id="stack-to-tunnel"),
        pytest.param("servers/relay/late.py", "ntmpatch.servers.account", id="server-to-server"),
        pytest.param("negotiation/late.py", "socket", id="sans-io-to-socket"),
        pytest.param("packet/tunnel/late.py", "time", id="sans-io-to-clock"),
    ],
)
def test_a_forbidden_import_is_noticed(copied_tree: Path, importer: str, imported: str) -> None:
    (copied_tree / "ntmpatch" / importer).write_text(
        f"def later() -> object:\n    import {imported}\n    return {imported}\n"
    )
    kept, output = lint_imports(copied_tree)
    assert not kept
    module = f"ntmpatch.{importer.removesuffix('.py').replace('/', '.')}"
    assert module in output
    assert imported in output


def test_every_room_is_named_in_the_law() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    named = {room.strip() for layer in layers for room in layer.split("|")}
    rooms = {f"ntmpatch.{path.parent.name}" for path in ROOT.glob("ntmpatch/*/__init__.py")}
    assert rooms == named


def test_every_room_has_tests() -> None:
    untested = [
        path.parent.name
        for path in ROOT.glob("ntmpatch/*/__init__.py")
        if len(list(path.parent.glob("**/*.py"))) > 1
        and not list((ROOT / "tests" / path.parent.name).glob("**/test_*.py"))
    ]
    assert untested == []


def test_no_file_grows_giant() -> None:
    giants = {
        str(path.relative_to(ROOT)): lines
        for folder in ("ntmpatch", "tests", "benchmarks")
        for path in (ROOT / folder).glob("**/*.py")
        if (lines := len(path.read_text().splitlines())) > LARGEST_FILE
    }
    assert giants == {}
