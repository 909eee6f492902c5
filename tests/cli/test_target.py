"""Which program the words after ``run`` mean."""

from __future__ import annotations

import shutil
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from ntmpatch.cli.exits import (
    EX_NOT_EXECUTABLE,
    EX_NOT_FOUND,
    EX_USAGE,
    CommandError,
)
from ntmpatch.cli.target import resolve_target

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and beside it an empty directory as the whole PATH."""
    work, programs = tmp_path / "work", tmp_path / "bin"
    work.mkdir()
    programs.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", str(programs))
    return work


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["app.py", "-m", "x"],
        ["-m", "http.server", "--bind", "::"],
        ["-mhttp.server"],
        ["-c", "pass", "-x"],
        ["-"],
        ["package"],
        ["archive.pyz", "--flag"],
        ["noext"],
    ],
)
def test_python_programs_are_given_to_this_interpreter_word_for_word(
    here: Path, words: list[str]
) -> None:
    (here / "app.py").touch()
    (here / "noext").touch()
    (here / "package").mkdir()
    (here / "package" / "__main__.py").touch()
    with zipfile.ZipFile(here / "archive.pyz", "w") as archive:
        archive.writestr("__main__.py", "")

    target = resolve_target(words)

    assert target.executable == sys.executable
    assert target.arguments == (sys.executable, *words)
    assert not target.remark


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([], EX_USAGE),
        (["-m"], EX_USAGE),
        (["-c"], EX_USAGE),
        (["--unknown"], EX_USAGE),
        (["absent"], EX_NOT_FOUND),
        (["./absent"], EX_NOT_FOUND),
        (["absent.py"], EX_NOT_FOUND),
        (["empty"], EX_NOT_EXECUTABLE),
    ],
)
def test_what_cannot_be_run_is_one_error_with_its_status(
    here: Path, words: list[str], status: int
) -> None:
    (here / "empty").mkdir()
    with pytest.raises(CommandError) as caught:
        resolve_target(words)
    assert caught.value.status == status


def test_a_bare_name_is_looked_for_on_path_before_the_working_directory(here: Path) -> None:
    (here / "tool").mkdir()
    (here / "tool" / "__main__.py").touch()
    on_path = program(here.parent / "bin" / "tool", "#!/bin/sh\n")

    assert resolve_target(["tool", "x"]).executable == str(on_path)
    assert resolve_target(["tool", "x"]).arguments == ("tool", "x")
    assert resolve_target(["./tool", "x"]).executable == sys.executable


def test_a_script_of_this_interpreter_is_executed_as_it_is(here: Path) -> None:
    script = program(here.parent / "bin" / "tool", f"#!{sys.executable} -u\nprint()\n")
    target = resolve_target(["tool"])
    assert target.executable == str(script)
    assert not target.remark


def test_pips_way_around_long_interpreter_paths_is_understood(here: Path) -> None:
    for interpreter, remarked in ((sys.executable, False), ("/nowhere/my env/python", True)):
        program(
            here.parent / "bin" / "tool",
            f"#!/bin/sh\n'''exec' \"{interpreter}\" \"$0\" \"$@\"\n' '''\n",
        )
        assert bool(resolve_target(["tool"]).remark) is remarked


def test_a_script_that_ignores_pythonpath_is_remarked_on(here: Path) -> None:
    for flags in ("-I", "-E", "-sE"):
        program(here.parent / "bin" / "tool", f"#!{sys.executable} {flags}\n")
        assert "ignores PYTHONPATH" in resolve_target(["tool"]).remark
    program(here.parent / "bin" / "tool", f"#!{sys.executable} -WError\n")
    assert not resolve_target(["tool"]).remark


def test_a_script_of_another_environment_is_remarked_on(here: Path) -> None:
    # The same version, but it answers with another prefix: as an interpreter of another venv.
    other = program(
        here.parent / "bin" / "python3",
        f"#!/bin/sh\necho {sys.implementation.cache_tag}\necho /elsewhere\n",
    )
    program(here.parent / "bin" / "tool", "#!/usr/bin/env python3\n")
    assert f"runs with {other}" in resolve_target(["tool"]).remark

    program(other, f"#!/bin/sh\necho {sys.implementation.cache_tag}\necho {sys.prefix}\n")
    assert not resolve_target(["tool"]).remark


def test_a_program_that_is_no_python_is_executed_as_it_is(here: Path) -> None:
    program(here / "script", "echo hello\n")
    assert resolve_target(["./script", "a"]).arguments == ("/bin/sh", "./script", "a")
    shutil.copy("/bin/true", here / "binary")
    assert resolve_target(["./binary"]).executable == "./binary"
    assert not resolve_target(["./binary"]).remark


def test_an_interpreter_that_is_run_by_name_is_judged_like_a_scripts(here: Path) -> None:
    other = program(
        here.parent / "bin" / "python3", "#!/bin/sh\necho cpython-20\necho /elsewhere\n"
    )
    target = resolve_target(["python3", "app.py", "-I"])
    assert target.arguments == ("python3", "app.py", "-I")
    assert f"runs with {other}" in target.remark

    ours = resolve_target([sys.executable, "-u", "app.py", "-I"])
    assert (ours.remark, ours.interpreter) == ("", sys.executable)
    assert "ignores PYTHONPATH" in resolve_target([sys.executable, "-uE", "app.py"]).remark
