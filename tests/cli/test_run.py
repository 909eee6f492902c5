"""``run`` is as if it were not there: each program is run with it and without, and compared."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.crypto.token import Token

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROBE = """
import gc, json, os, signal, sys, threading, warnings
main = sys.modules["__main__"]
umask = os.umask(0)
os.umask(umask)
ours = ("PYTHONPATH", "_")
print(json.dumps({
    "argv": sys.argv,
    "orig_argv": sys.orig_argv[1:],
    "path": sys.path,
    "name": __name__,
    "file": globals().get("__file__"),
    "package": __package__,
    "spec": __spec__ and [__spec__.name, __spec__.origin, __spec__.parent, __spec__.cached,
                          __spec__.has_location, type(__spec__.loader).__name__],
    "loader": type(__loader__).__name__,
    "globals": sorted(set(globals()) - {"ours"}),
    "main": main.__dict__ is globals(),
    "cwd": os.getcwd(),
    "flags": str(sys.flags),
    "executable": sys.executable,
    "prefix": sys.prefix,
    "sitecustomize": "sitecustomize" in sys.modules,
    "signals": [str(signal.getsignal(n)).partition(" at ")[0] for n in signal.valid_signals()],
    "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__,
              sys.unraisablehook is sys.__unraisablehook__, repr(sys.gettrace())],
    "warnings": [sys.warnoptions, [list(map(str, each)) for each in warnings.filters]],
    "settings": [sys.getrecursionlimit(), sys.getswitchinterval(), gc.get_threshold(), umask,
                 sys.dont_write_bytecode, sys.stdout.encoding, sys.stdin.encoding],
    "process": [os.getppid(), os.getpgrp(), os.getsid(0), os.getpriority(os.PRIO_PROCESS, 0)],
    "threads": [threading.active_count(), len(os.listdir("/proc/self/task"))],
    "mask": [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    "environment": {k: v for k, v in os.environ.items()
                    if k not in ours and not k.startswith("NTMPATCH_")},
    "stdin": None if sys.argv[0] == "-" else sys.stdin.read(),
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1],
}))
sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
"""

WORLD = "(sys.modules.get('ntmpatch.patch.apply') and 'patched' or 'plain')"
"""An expression that tells whether its process was patched."""

HEAVY = ("gevent", "cryptography", "msgspec", "pyroute2", "dns", "click", "rich", "sqlalchemy")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the probe in every form that a program comes in."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "app.py").write_text(PROBE)
    (here / "bare").write_text(PROBE)
    (here / "link.py").symlink_to(here / "package" / "part.py")
    for name in ("package", "directory"):
        (here / name).mkdir()
        (here / name / "__main__.py").write_text(PROBE)
    (here / "package" / "__init__.py").touch()
    (here / "package" / "part.py").write_text(PROBE)
    (here / "module.py").write_text(PROBE)
    with zipfile.ZipFile(here / "archive.pyz", "w") as archive:
        archive.writestr("__main__.py", PROBE)
    programs = tmp_path / "bin"
    programs.mkdir()
    script = programs / "ntmpatch-probe"
    script.write_text(f"#!{sys.executable}\n{PROBE}")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return here


@pytest.fixture
def both(
    static_identity: list[str], programs: Path
) -> Callable[..., tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]]:
    """Runs words as given, and under ``run``: both results."""

    def run(
        *words: str, stdin: str = "some input\n", plain: list[str] | None = None, **options: Any
    ) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
        results = [
            subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
                cwd=programs,
                **options,
            )
            for command in (
                plain or [sys.executable, *words],
                [sys.executable, "-m", "ntmpatch", "run", *static_identity, *words],
            )
        ]
        return results[0], results[1]

    return run


@pytest.mark.parametrize(
    "words",
    [
        ["app.py"],
        ["app.py", "3", "-m", "--token", "x", "--", "--help"],
        ["./app.py", "4"],
        ["bare"],
        ["directory", "5"],
        ["archive.pyz", "6"],
        ["package/part.py"],
        ["link.py"],
        ["-m", "package.part", "12"],
        ["-m", "module", "7", "--gevent"],
        ["-m", "package"],
        ["-mmodule", "8"],
        ["-c", PROBE, "9", "-c"],
        ["-", "10"],
    ],
    ids=lambda words: "_".join(words if "-c" not in words else ["code"]),
)
def test_a_python_program_sees_what_it_would_see_without(both: Any, words: list[str]) -> None:
    stdin = PROBE if words[0] == "-" else "some input\n"
    without, within = both(*words, stdin=stdin)
    assert within.stderr == without.stderr == ""
    assert json.loads(within.stdout) == json.loads(without.stdout)
    assert within.returncode == without.returncode


def test_a_console_script_sees_what_it_would_see_without(both: Any) -> None:
    without, within = both("ntmpatch-probe", "11", "-h", plain=["ntmpatch-probe", "11", "-h"])
    assert within.stderr == without.stderr == ""
    assert json.loads(within.stdout) == json.loads(without.stdout)
    assert within.returncode == 11


def test_the_command_does_not_take_the_programs_modules_for_its_own(
    both: Any, programs: Path
) -> None:
    names = ("click", "random", "json", "rich", "msgspec", "ipaddress", "ntmpatch_", "tempfile")
    for name in names:
        (programs / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    without, within = both("-c", "print('runs')")
    assert (within.stdout, within.stderr) == ("runs\n", "")
    assert without.stdout == within.stdout


def test_the_console_script_does_the_same(
    both: Any, static_identity: list[str], programs: Path
) -> None:
    without, _ = both("app.py", "2")
    command = [os.path.join(sysconfig.get_path("scripts"), "ntmpatch"), "run", *static_identity]
    within = subprocess.run(
        [*command, "app.py", "2"],
        input="some input\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=programs,
    )
    assert json.loads(within.stdout) == json.loads(without.stdout)
    assert (within.stderr, within.returncode) == ("", 2)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_stay_closed(
    static_identity: list[str], programs: Path, closed: str
) -> None:
    code = (
        "import os, sys\n"
        "found = [stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)]\n"
        "open('found', 'w').write(f'{found} {sorted(os.listdir(\"/proc/self/fd\"))[:3]}')"
    )
    (programs / "app.py").write_text(code)
    found = []
    for before in ([], ["-m", "ntmpatch", "run", *static_identity]):
        command = shlex.join([sys.executable, *before, "app.py"])
        subprocess.run(["sh", "-c", f"{command} {closed}"], check=True, cwd=programs, timeout=60)
        found.append((programs / "found").read_text())
        (programs / "found").unlink()
    assert found[0] == found[1]


def test_double_dash_ends_our_options(both: Any) -> None:
    without, within = both("--", "app.py", plain=[sys.executable, "app.py"])
    assert json.loads(within.stdout) == json.loads(without.stdout)


def test_the_same_uncaught_exception_and_exit_text(both: Any, programs: Path) -> None:
    for code in (
        "raise ValueError('x')",
        "import sys; sys.exit('farewell')",
        "import os; os._exit(9)",
    ):
        (programs / "app.py").write_text(code)
        without, within = both("app.py")
        assert (within.stdout, within.stderr, within.returncode) == (
            without.stdout,
            without.stderr,
            without.returncode,
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
def test_a_signal_reaches_the_program_itself_and_its_status_is_the_programs(
    static_identity: list[str], programs: Path, number: signal.Signals
) -> None:
    (programs / "app.py").write_text(
        "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    )
    results = []
    for before in ([], ["-m", "ntmpatch", "run", *static_identity]):
        with subprocess.Popen(
            [sys.executable, *before, "app.py"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == process.pid
            process.send_signal(number)
            _, errors = process.communicate(timeout=30)
            # The last line alone: where the signal found the program is chance.
            results.append((process.returncode, errors.splitlines()[-1:]))
    assert results[0] == results[1]


def test_a_program_can_handle_sigterm(both: Any, programs: Path) -> None:
    (programs / "app.py").write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    without, within = both("app.py")
    assert within.returncode == without.returncode == 42


def test_a_program_that_is_no_python_has_its_signals_back_and_its_children_patched(
    both: Any,
) -> None:
    shell = f'{sys.executable} -c "import sys; print({WORLD})"'
    without, within = both("sh", "-c", shell, plain=["sh", "-c", shell])
    assert (without.stdout, within.stdout) == ("plain\n", "patched\n")
    # SIGPIPE is not ignored: yes ends silently by it.
    without, within = both("sh", "-c", "yes | head -1", plain=["sh", "-c", "yes | head -1"])
    assert (within.stdout, within.stderr) == (without.stdout, without.stderr)


def test_children_are_patched_and_can_be_kept_from_it(both: Any) -> None:
    code = (
        "import subprocess, sys\n"
        "for flags in ([], ['-I'], ['-S', '-E']):\n"
        f"    child = [sys.executable, *flags, '-c', \"import sys; print({WORLD})\"]\n"
        "    print(subprocess.run(child, capture_output=True, text=True).stdout.strip())\n"
    )
    _, within = both("-c", code)
    assert within.stdout.split() == ["patched", "plain", "plain"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_in_every_way(both: Any, programs: Path, method: str) -> None:
    (programs / "app.py").write_text(
        "import multiprocessing as mp, sys\n"
        f"def where(_): return {WORLD}\n"
        "if __name__ == '__main__':\n"
        f"    with mp.get_context('{method}').Pool(2) as pool:\n"
        "        print(set(pool.map(where, range(4))))\n"
    )
    _, within = both("app.py")
    assert within.stderr == ""
    assert within.stdout == "{'patched'}\n"


def test_nothing_heavy_is_imported_before_the_first_virtual_socket(both: Any) -> None:
    code = (
        "import socket, sys, urllib.request\n"
        "a = socket.create_server(('127.0.0.1', 0))\n"
        "b = socket.create_connection(a.getsockname())\n"
        "socket.getaddrinfo('localhost', 80)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], {WORLD})\n"
    )
    _, within = both("-c", code)
    assert within.stderr == ""
    assert within.stdout == "[] patched\n"


def test_gevent_patches_when_asked(both: Any) -> None:
    code = (
        "import gevent.monkey, threading; print(gevent.monkey.is_module_patched('threading'),"
        " gevent.monkey.is_module_patched('socket'))"
    )
    _, plain = both("-c", code)
    _, patched = both("--gevent", "-c", code, plain=["true"])
    assert plain.stdout.split() == ["False", "False"]
    assert patched.stdout.split() == ["True", "True"]


def test_a_nested_run_is_one_run(both: Any, static_identity: list[str]) -> None:
    words = ["-m", "ntmpatch", "run", *static_identity, "app.py", "3"]
    without, within = both(*words, plain=[sys.executable, "app.py", "3"])
    assert json.loads(within.stdout) == json.loads(without.stdout)
    assert within.returncode == 3


def test_a_token_is_not_handed_down(both: Any) -> None:
    token = Token(bytes(32), (Endpoint("192.0.2.1", 3470),), bytes(32), bytes(8), bytes(16))
    code = "import os; print(sorted(n for n in os.environ if n.startswith('NTMPATCH_')))"
    _, within = both("-c", code, env={**os.environ, "NTMPATCH_TOKEN": token.encode()})
    assert within.stderr == ""
    assert "NTMPATCH_TOKEN" not in within.stdout
    assert "NTMPATCH_STATE" in within.stdout
