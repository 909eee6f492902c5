"""The sitecustomize that ``run`` puts on PYTHONPATH, beside others and in other Pythons."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ntmpatch.cli.hook import HOOK_DIRECTORY, add_hook, interpreter_identity

if TYPE_CHECKING:
    from pathlib import Path

STATE = "import sys; print(sys.path, 'sitecustomize' in sys.modules, 'socket' in sys.modules)"


def python(
    code: str, pythonpath: list[Path], executable: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` where nothing of the user's own environment takes part."""
    return subprocess.run(
        [executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, pythonpath))}
        | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def shadowed(directory: Path, text: str) -> Path:
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(text)
    return directory


def test_where_it_does_not_patch_it_leaves_no_trace() -> None:
    for marker in ({}, {"NTMPATCH_RUN": "cpython-20:/elsewhere"}):
        assert python(STATE, [HOOK_DIRECTORY], **marker).stdout == python(STATE, []).stdout


@pytest.mark.parametrize("marked", [False, True])
def test_a_shadowed_sitecustomize_runs_exactly_once_and_takes_the_name(
    tmp_path: Path, marked: bool
) -> None:
    other = shadowed(tmp_path / "other", "import sys; print('chained'); here = sys.path[:]\n")
    code = "import sitecustomize; print(sitecustomize.__file__); print(sitecustomize.here)"
    marker = {"NTMPATCH_RUN": interpreter_identity()} if marked else {}

    with_hook = python(code, [HOOK_DIRECTORY, other], **marker)

    assert with_hook.stdout == python(code, [other]).stdout
    assert with_hook.stdout.count("chained") == 1
    assert with_hook.stderr == ""


@pytest.mark.parametrize(
    "text", ["raise ValueError('mine')", "import absent_module", "raise ImportError('mine')"]
)
def test_an_error_of_the_shadowed_sitecustomize_is_told_as_without_us(
    tmp_path: Path, text: str
) -> None:
    other = shadowed(tmp_path / "other", text)
    with_hook = python("print('runs')", [HOOK_DIRECTORY, other])
    without = python("print('runs')", [other])
    assert (with_hook.stdout, with_hook.returncode) == (without.stdout, without.returncode)
    assert with_hook.stderr == without.stderr


def test_another_wrapper_that_chains_in_the_same_way_works_on_either_side(tmp_path: Path) -> None:
    # As ddtrace and OpenTelemetry do: drop the own directory and the module, import it again.
    wrapper = shadowed(
        tmp_path / "wrapper",
        "import os, sys\n"
        "sys.path.remove(os.path.dirname(__file__))\n"
        "del sys.modules['sitecustomize']\n"
        "print('wrapper')\n"
        "try:\n    import sitecustomize\nexcept ImportError:\n    pass\n",
    )
    last = shadowed(tmp_path / "last", "print('last')")
    for order in ([HOOK_DIRECTORY, wrapper, last], [wrapper, HOOK_DIRECTORY, last]):
        result = python("import ntmpatch", order, NTMPATCH_RUN=interpreter_identity())
        assert (result.stdout, result.stderr) == ("wrapper\nlast\n", "")


def test_usercustomize_is_left_to_python(tmp_path: Path) -> None:
    # A virtual environment has no user site, the interpreter that it was made from has one. It
    # lacks our dependencies, which patching does not need before the first virtual socket.
    base: str = getattr(sys, "_base_executable", sys.executable)
    where = {"PYTHONUSERBASE": str(tmp_path), "NTMPATCH_STATE": str(tmp_path)}
    (tmp_path / "names.json").write_text('{"domains": ["home.example"], "prefixes": []}')
    site = subprocess.run(
        [base, "-c", "import site, sys; print(site.getusersitepackages(), sys.prefix, sep='\\n')"],
        env=where,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    shadowed(tmp_path / "other", "print('site')")
    user = tmp_path / os.path.relpath(site[0], tmp_path)
    user.mkdir(parents=True)
    (user / "usercustomize.py").write_text("import sys; print('user')")
    marker = f"{sys.implementation.cache_tag}:{os.path.realpath(site[1])}"
    result = python(
        "import sys; print('ntmpatch.patch.apply' in sys.modules)",
        [HOOK_DIRECTORY, tmp_path / "other"],
        base,
        NTMPATCH_RUN=marker,
        **where,
    )
    assert (result.stdout, result.stderr) == ("site\nuser\nTrue\n", "")


def test_an_interpreter_without_our_dependencies_is_left_alone(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    result = python(
        STATE,
        [HOOK_DIRECTORY],
        str(environment / "bin" / "python"),
        NTMPATCH_RUN=interpreter_identity(),
    )
    assert result.stderr == ""
    assert str(HOOK_DIRECTORY) not in result.stdout


def test_the_hook_is_read_by_every_python() -> None:
    # The grammar common to all of them cannot be had from this one; it is kept by having no
    # function, no annotation and no f-string. Other versions that are here are asked.
    others = [
        path
        for name in ("python2.7", "python3.6", "python3.8", "python3.13", "python3.12")
        if (path := shutil.which(name))
    ]
    text = (HOOK_DIRECTORY / "sitecustomize.py").read_text()
    assert not any(word in text for word in ("def ", " -> ", 'f"', ":="))
    for executable in others:
        result = python("print(1)", [HOOK_DIRECTORY], executable, PYTHONDONTWRITEBYTECODE="1")
        if "command not found" not in result.stderr:
            assert (result.stdout, result.stderr) == ("1\n", "")


def test_the_package_beside_the_hook_is_the_one_that_patches(tmp_path: Path) -> None:
    impostor = tmp_path / "ntmpatch"
    impostor.mkdir()
    (impostor / "__init__.py").write_text("raise SystemExit('impostor')")
    result = python(
        "import ntmpatch; print(ntmpatch.__file__)",
        [HOOK_DIRECTORY, tmp_path],
        NTMPATCH_RUN=interpreter_identity(),
    )
    assert result.stdout.strip() == str(HOOK_DIRECTORY.parents[1] / "__init__.py")


def test_a_failure_to_patch_is_one_line_and_the_program_runs(tmp_path: Path) -> None:
    root = tmp_path / "root"
    hook = root / "ntmpatch" / "patch" / "site"
    hook.mkdir(parents=True)
    shutil.copy(HOOK_DIRECTORY / "sitecustomize.py", hook)
    (root / "ntmpatch" / "__init__.py").write_text(
        "def patch_all(gevent):\n    raise OSError(f'broken {gevent}')\n"
    )
    result = python(
        "print('runs')", [hook], NTMPATCH_RUN=interpreter_identity(), NTMPATCH_GEVENT="1"
    )
    assert result.stdout == "runs\n"
    assert result.stderr == "ntmpatch: this process stays unpatched: OSError('broken True')\n"


def test_the_hook_stands_first_on_pythonpath_once() -> None:
    for before, after in (
        (None, ""),
        ("", ""),
        ("/a:/b", ":/a:/b"),
        (":/a", "::/a"),
        (f"/a:{HOOK_DIRECTORY}", ":/a"),
    ):
        environment = {} if before is None else {"PYTHONPATH": before}
        add_hook(environment, gevent=False)
        assert environment["PYTHONPATH"] == f"{HOOK_DIRECTORY}{after}"
        assert environment["NTMPATCH_RUN"] == interpreter_identity()
